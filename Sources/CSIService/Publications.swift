internal import CSIProtocol
internal import Foundation
internal import Glibc
internal import HostMounts
internal import Synchronization
internal import VolumeModel

/// Where volumes are shown to pods of this node, and how: what the mount table does not tell.
///
/// Kept in a file, for a mount may outlive this process. It need not outlive a power cut: no mount does.
final class Publications: Sendable {
    struct Publication: Equatable, Codable {
        var volume: String
        var mode: Int
        var isReadOnly: Bool
        var flags: [String]
        var group: String
        /// `namespace/name`; nil: nobody said, as releases before this one.
        var pod: String?

        /// Whose pod it is makes no difference to how it is mounted.
        static func == (one: Publication, other: Publication) -> Bool {
            one.volume == other.volume && one.mode == other.mode && one.isReadOnly == other.isReadOnly
                && one.flags == other.flags && one.group == other.group
        }

        init(_ id: VolumeID, _ capability: Csi_V1_VolumeCapability, isReadOnly: Bool) {
            volume = id.description
            mode = capability.accessMode.mode.rawValue
            self.isReadOnly = isReadOnly
            flags = capability.mount.mountFlags.sorted()
            group = capability.mount.volumeMountGroup
        }
    }

    private let path: String?
    private let byTarget: Mutex<[String: Publication]>

    /// - Parameter path: nil: they are forgotten at the end of the process.
    init(path: String?) {
        self.path = path
        var known: [String: Publication] = [:]
        if let path, let data = FileManager.default.contents(atPath: path) {
            // Unreadable, it is as if there were none: mounts are still judged by the mount table.
            known = (try? JSONDecoder().decode([String: Publication].self, from: data)) ?? [:]
        }
        byTarget = Mutex(known)
    }

    subscript(target: String) -> Publication? { byTarget.withLock { $0[target] } }

    var targets: Set<String> { byTarget.withLock { Set($0.keys) } }

    /// Where else a volume is shown, as far as it is still mounted there.
    func others(of id: VolumeID, besides target: String, in mounts: [MountEntry]) -> [String] {
        let targets = byTarget.withLock { known in
            known.filter { $0.value.volume == id.description && $0.key != target }.keys.sorted()
        }
        return targets.filter { path in mounts.contains { $0.path == path } }
    }

    /// The pods to which a volume is shown, as far as kubelet has named them, `namespace/name`.
    func pods(of id: VolumeID, in mounts: [MountEntry]) -> [String] {
        let known = byTarget.withLock { known in known.filter { $0.value.volume == id.description } }
        let present = known.filter { entry in mounts.contains { $0.path == entry.key } }
        return Set(present.values.compactMap(\.pod)).sorted()
    }

    /// - Throws: what the disk says; then nothing is changed.
    func set(_ publication: Publication?, at target: String, mounts: [MountEntry]) throws {
        try byTarget.withLock { known in
            var changed = known.filter { entry in mounts.contains { $0.path == entry.key } }
            changed[target] = publication
            guard changed != known else { return }
            if let path { try Self.write(changed, to: path) }
            known = changed
        }
    }

    private static func write(_ all: [String: Publication], to path: String) throws {
        let data = try JSONEncoder().encode(all)
        try data.write(to: URL(fileURLWithPath: path), options: .atomic)
    }
}
