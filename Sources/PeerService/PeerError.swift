package import RPC
package import VolumeModel

/// Why a peer could not be served, or could not serve.
package enum PeerError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The call failed: the link, the peer, or its answer.
    case call(site: SiteID, method: String, RPCStatus)
    /// A peer said something that means nothing, or sent bytes that do not fit their hash.
    case malformed(site: SiteID?, String)
    /// The head does not hold what was asked for.
    case gone(InodeNumber)
    /// The disk has changed these bytes since they were written: they are not to be taken for what was.
    case damaged(InodeNumber, ByteRange)
    /// A takeover by force has lost this file: it was written to after the new owner had last looked.
    case changed(InodeNumber)
    /// No such volume here, or none that the caller may know of.
    case unknownVolume(VolumeID)
    /// This site does not know the other.
    case notTrusted(SiteID)
    /// The follower has a newer state of the very head that is owned here, which is an older one of itself.
    case behind(VolumeID, follower: SiteID)
    case refused(String)

    package var description: String {
        switch self {
        case .call(let site, let method, let status): "site \(site), \(method): \(status)"
        case .malformed(let site, let what): "\(site.map { "site \($0)" } ?? "a peer") sent \(what)"
        case .changed(let inode):
            "inode \(inode) was written to after the takeover's state: its older bytes are nowhere any more"
        case .damaged(let inode, let range):
            "bytes \(range) of inode \(inode) are damaged on this site's disk: 'godwit volume check' there tells more"
        case .gone(let inode): "inode \(inode) is not in this head"
        case .unknownVolume(let volume): "volume \(volume) is not known here"
        case .notTrusted(let site):
            "site \(site) is not trusted here: run 'godwit pki trust', or in a cluster 'kubectl godwit trust', with its "
                + "document"
        case .behind(let volume, let follower):
            "what site \(follower) has followed of volume \(volume) is newer than what is here: this site went back in "
                + "time, as by a snapshot that was restored"
        case .refused(let reason): reason
        }
    }

    /// The one table from what went wrong to what the caller is told.
    package var status: RPCStatus {
        switch self {
        // What a peer says of the volume's state is as true here; anything else is the peer's own trouble.
        case .call(_, _, let status):
            switch status.code {
            case .failedPrecondition, .aborted, .notFound, .alreadyExists, .permissionDenied: status
            default: RPCStatus(.unavailable, description)
            }
        case .malformed: RPCStatus(.invalidArgument, description)
        case .damaged, .behind: RPCStatus(.dataLoss, description)
        case .changed: RPCStatus(.failedPrecondition, description)
        case .gone, .unknownVolume: RPCStatus(.notFound, description)
        case .notTrusted: RPCStatus(.permissionDenied, description)
        case .refused: RPCStatus(.failedPrecondition, description)
        }
    }
}
