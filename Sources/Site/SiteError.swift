package import VolumeModel

/// Why a site did not do what it was asked, in words for whoever asked.
package enum SiteError: Error, Hashable, Sendable, CustomStringConvertible {
    case unknownVolume(String)
    /// A node where nothing of this site runs.
    case unknownNode(String)
    case nameTaken(String)
    /// It is held for this node in another way.
    case attachedOtherwise(String)
    /// A name, path or number that cannot be.
    case invalid(String)
    /// Not now, because of the state it is in; the text says what to do.
    case precondition(String)
    /// Another operation on the volume is under way: ask again.
    case busy(String)
    /// Whoever asks has so much here already that there is no more for it.
    case exhausted(String)
    /// A peer or the disk did not answer: ask again.
    case unavailable(String)
    /// The environment is not as it must be.
    case unusable(String)
    case system(call: String, path: String, Errno)

    package var description: String {
        switch self {
        case .unknownVolume(let name): "there is no volume '\(name)' at this site"
        case .unknownNode(let node): "there is no node '\(node)' at this site"
        case .nameTaken(let name): "a volume named '\(name)' exists already"
        case .attachedOtherwise(let what), .invalid(let what), .precondition(let what), .busy(let what),
            .exhausted(let what), .unavailable(let what), .unusable(let what):
            what
        case .system(let call, let path, let errno): "\(call) \(path): \(errno)"
        }
    }

    static func attachedToRead(_ volume: String, at node: String) -> Self {
        .attachedOtherwise(
            "volume '\(volume)' is attached to node '\(node)' to be read by several nodes: detach it first")
    }
}
