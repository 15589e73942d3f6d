internal import CLinux
internal import Glibc

/// Bind mounts: a volume's mount shown at a second place, as a pod's own directory.
package enum BindMount {
    /// What a mount may be restricted to.
    package struct Flags: OptionSet, Sendable {
        package let rawValue: UInt

        package init(rawValue: UInt) { self.rawValue = rawValue }

        package static let readOnly = Flags(rawValue: UInt(GW_MS_RDONLY))
        package static let noSetID = Flags(rawValue: UInt(GW_MS_NOSUID))
        package static let noDevices = Flags(rawValue: UInt(GW_MS_NODEV))
        package static let noExecution = Flags(rawValue: UInt(GW_MS_NOEXEC))
        package static let noAccessTimes = Flags(rawValue: UInt(GW_MS_NOATIME))
    }

    /// Shows `source` at `target`, whose directory is made if it is missing.
    ///
    /// The directory is opened first, refusing a symbolic link, and mounted on through its descriptor: a
    /// target that is swapped meanwhile leads nowhere else.
    package static func make(
        from source: String, at target: String, flags: Flags
    ) throws(HostMountError) {
        let directory = try openOrMakeDirectory(target)
        defer { close(directory) }
        guard gw_bind_mount(source, "/proc/self/fd/\(directory)") == 0 else {
            throw HostMountError(call: "mount", path: target, number: errno)
        }
        guard !flags.isEmpty else { return }
        // The path now leads to what is mounted; our descriptor still to the directory below.
        guard gw_remount_bind(target, flags.rawValue) == 0 else {
            let error = HostMountError(call: "mount", path: target, number: errno)
            umount2(target, Int32(UMOUNT_NOFOLLOW))
            throw error
        }
    }

    /// Restricts what is mounted at a path, there alone.
    package static func restrict(_ target: String, _ flags: Flags) throws(HostMountError) {
        guard gw_remount_bind(target, flags.rawValue) == 0 else {
            throw HostMountError(call: "mount", path: target, number: errno)
        }
    }

    /// Takes a mount away and the empty directory it stood on. Nothing there is a success.
    package static func remove(_ target: String) throws(HostMountError) {
        while try MountTable.entry(at: target) != nil {
            guard umount2(target, Int32(UMOUNT_NOFOLLOW)) == 0 || errno == EINVAL else {
                throw HostMountError(call: "umount2", path: target, number: errno)
            }
        }
        // Only ever an empty directory: whatever else is there is not ours to delete.
        if rmdir(target) != 0, errno != ENOENT {
            throw HostMountError(call: "rmdir", path: target, number: errno)
        }
    }

    /// Makes a directory if it is missing; a symbolic link in its place is refused.
    package static func makeDirectory(_ path: String) throws(HostMountError) {
        close(try openOrMakeDirectory(path))
    }

    private static func openOrMakeDirectory(_ path: String) throws(HostMountError) -> Int32 {
        let cut = path.lastIndex(of: "/") ?? path.startIndex
        let parentPath = cut == path.startIndex ? "/" : String(path[..<cut])
        let name = String(path[path.index(after: cut)...])
        let parent = open(parentPath, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard parent >= 0 else { throw HostMountError(call: "open", path: parentPath, number: errno) }
        defer { close(parent) }
        if mkdirat(parent, name, 0o750) != 0, errno != EEXIST {
            throw HostMountError(call: "mkdir", path: path, number: errno)
        }
        let directory = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        guard directory >= 0 else { throw HostMountError(call: "open", path: path, number: errno) }
        return directory
    }
}
