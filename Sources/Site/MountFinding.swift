internal import FuseMount
internal import Glibc
internal import HostMounts
internal import VolumeModel

/// A mount that is not as it should be, or one that is missing.
struct MountFinding: Hashable {
    let kind: MemberReport.TroubleKind
    /// The volume, as far as it is known, and the path.
    let text: String

    /// What the mount table, the volumes and what is written down of pods do not agree upon.
    ///
    /// - Parameters:
    ///   - own: how the source of each mount of this member begins.
    ///   - published: where volumes are shown to pods.
    ///   - isThere: whether there is anything at a path, on which nothing is mounted.
    static func all(
        in table: [MountEntry], of own: String, _ volumes: [VolumeMounts], published: Set<String>,
        isThere: (String) -> Bool = { access($0, F_OK) == 0 }
    ) -> Set<MountFinding> {
        let names = Dictionary(volumes.map { ($0.source, $0.name) }) { first, _ in first }
        let served = Set(volumes.flatMap(\.devices))
        let places = Set(volumes.flatMap(\.paths))
        var found: Set<MountFinding> = []
        for mount in table where mount.type == "fuse.godwit" && mount.source.hasPrefix(own) {
            let text =
                (names[mount.source] ?? String(mount.source.dropFirst(own.count))) + " at " + mount.path
            if !served.contains(mount.device) {
                found.insert(MountFinding(kind: .deadMount, text: text))
            } else if isPodsPlace(mount.path), !places.contains(mount.path), !published.contains(mount.path) {
                found.insert(MountFinding(kind: .unknownMount, text: text))
            }
        }
        for volume in volumes {
            for path in volume.overruled {
                found.insert(MountFinding(kind: .overruledMount, text: volume.name + " at " + path))
            }
        }
        // Of a pod that is gone without kubelet's saying so, as by a power cut, the directory is gone as well.
        let mounted = Set(table.map(\.path))
        for path in published where !mounted.contains(path) && isThere(path) {
            found.insert(MountFinding(kind: .lostMount, text: path))
        }
        return found
    }

    /// What is told of them.
    ///
    /// - Parameters:
    ///   - found: nil: nobody knows.
    ///   - unregistered: where data are that the registry does not name.
    /// - Returns: nil when that is not all there may be.
    static func troubles(_ found: Set<MountFinding>?, unregistered: [String]) -> [MemberReport.Trouble]? {
        guard let found else { return nil }
        return MemberReport.TroubleKind.allCases.compactMap { kind in
            let all = kind == .unregisteredData ? unregistered : found.filter { $0.kind == kind }.map(\.text)
            return all.isEmpty ? nil : MemberReport.Trouble(kind, all)
        }
    }

    /// Where kubelet has volumes of CSI drivers published. Elsewhere people, and kubelet for parts of a volume
    /// (`subPath`), mount what they like.
    private static func isPodsPlace(_ path: String) -> Bool {
        path.contains("/volumes/kubernetes.io~csi/") && path.hasSuffix("/mount")
    }
}

/// A volume's mounts, as this process knows them.
struct VolumeMounts {
    let name: String
    /// What the mount table has as the source of each.
    let source: String
    /// The devices of those that this process answers for, in whichever reign, divergences too.
    var devices: Set<String> = []
    /// Where mounts were made: of those for pods, as the mount table has it.
    var paths: Set<String> = []
    /// Where those are that answer nothing but errors, for their reign is over.
    var overruled: [String] = []
}

extension VolumeAgent {
    func mountsInUse() -> VolumeMounts {
        var known = VolumeMounts(name: record.name, source: mountSource)
        for mount in mounts.values {
            known.devices.insert(mount.device)
            known.paths.insert(mount.fuse.path)
            if !isServed(mount) { known.overruled.append(mount.fuse.path) }
        }
        known.devices.formUnion(divergenceMounts.values.map(\.device))
        return known
    }
}
