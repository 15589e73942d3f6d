internal import CLinux
internal import Glibc

/// Bind mounts: a volume's mount shown at a second place, as a pod's own directory.
///
/// What a pod may ever see at its directory is the volume, or an error, and never the node's own disk:
/// - directories that are made to mount on have mode 0000, so that where nothing is mounted nobody writes who is not
///   root. (Not immutable besides: kubelet removes what is left of a pod while no driver is there to undo that, and would
///   try for ever.)
/// - a copy of the mount is attached complete, restricted and only if it is of the device that was expected.
/// - no path is resolved twice: everything goes through descriptors, and no symbolic link is followed. Callers give
///   paths without any (`HostPaths`).
/// - a mount whose server is gone stays where it is, and answers ENOTCONN, until whoever mounted it takes it away or
///   mounts there anew (`DeadMount`).
package enum BindMount {
    /// What a mount may be restricted to.
    package struct Flags: OptionSet, Sendable {
        package let rawValue: UInt64

        package init(rawValue: UInt64) { self.rawValue = rawValue }

        package static let readOnly = Flags(rawValue: UInt64(GW_MOUNT_ATTR_RDONLY))
        package static let noSetID = Flags(rawValue: UInt64(GW_MOUNT_ATTR_NOSUID))
        package static let noDevices = Flags(rawValue: UInt64(GW_MOUNT_ATTR_NODEV))
        package static let noExecution = Flags(rawValue: UInt64(GW_MOUNT_ATTR_NOEXEC))
        package static let noAccessTimes = Flags(rawValue: UInt64(GW_MOUNT_ATTR_NOATIME))
    }

    /// Shows `source` at `target`, whose directory is made if it is missing. On a dead mount that is there it is put on
    /// top: there is no moment without one.
    ///
    /// - Parameter device: what is to be mounted at `source`, as mountinfo has it.
    /// - Throws: ESTALE when `source` is of another device, or when `target` was swapped for another directory meanwhile;
    ///   ELOOP for a symbolic link. Nothing is mounted then.
    package static func make(
        from source: String, at target: String, flags: Flags, device: String
    ) throws(HostMountError) {
        let copy = try copy(of: source, device: device, flags: flags)
        let place = try Place(target)
        let directory = try place.makeDirectory()
        guard gw_attach_mount(copy.number, directory.number) == 0 else {
            throw HostMountError(call: "move_mount", path: target, number: errno)
        }
        // Who looks for the target by its name must find the mount.
        guard (try? place.device()) == device else {
            umount2(copy.path, Int32(MNT_DETACH))
            throw HostMountError(call: "after mounting at", path: target, number: ESTALE)
        }
    }

    private static func copy(
        of source: String, device: String, flags: Flags
    ) throws(HostMountError) -> Descriptor {
        let root = try Place(source).open()
        let number = gw_clone_mount(root.number)
        guard number >= 0 else { throw HostMountError(call: "open_tree", path: source, number: errno) }
        let copy = Descriptor(number, source)
        guard try copy.device == device else {
            throw HostMountError(call: "before mounting from", path: source, number: ESTALE)
        }
        try copy.restrict(flags)
        return copy
    }

    /// Restricts what is mounted at a path, there alone.
    package static func restrict(_ target: String, _ flags: Flags) throws(HostMountError) {
        try Place(target).open().restrict(flags)
    }

    /// Takes a mount away and the empty directory it stood on. Nothing there is a success.
    ///
    /// - Parameter isDead: whether a mount has lost its server: nothing of it has to end first.
    package static func remove(
        _ target: String, isDead: (MountEntry) -> Bool = { _ in false }
    ) throws(HostMountError) {
        let place: Place
        do throws(HostMountError) {
            place = try Place(target)
        } catch {
            if error.number == ENOENT { return }
            throw error
        }
        while let mount = try MountTable.entry(at: target) { try place.unmount(lazily: isDead(mount)) }
        // Only ever an empty directory: whatever else is there is not ours to delete.
        try place.removeDirectory()
    }

    /// Makes a directory to mount on if it is missing, of mode 0000; one that is there and empty becomes so.
    package static func makeDirectory(_ path: String) throws(HostMountError) {
        _ = try Place(path).makeDirectory()
    }
}

/// An open descriptor, closed with it.
struct Descriptor: ~Copyable {
    let number: Int32
    private let name: String

    init(_ number: Int32, _ name: String) { (self.number, self.name) = (number, name) }

    deinit { close(number) }

    /// Leads to the same file, for calls that want a path.
    var path: String { "/proc/self/fd/\(number)" }

    /// As mountinfo has it. Asks no file system.
    var device: String {
        get throws(HostMountError) {
            var (major, minor): (UInt32, UInt32) = (0, 0)
            guard gw_device(number, &major, &minor) == 0 else {
                throw HostMountError(call: "statx", path: name, number: errno)
            }
            return "\(major):\(minor)"
        }
    }

    /// As the root of a mount.
    func restrict(_ flags: BindMount.Flags) throws(HostMountError) {
        guard !flags.isEmpty else { return }
        let clear = flags.contains(.noAccessTimes) ? UInt64(GW_MOUNT_ATTR_ATIME_MASK) : 0
        guard gw_restrict_mount(number, flags.rawValue, clear) == 0 else {
            throw HostMountError(call: "mount_setattr", path: name, number: errno)
        }
    }
}

/// A name in a directory that was reached without following a symbolic link.
struct Place: ~Copyable {
    let path: String
    private let parent: Descriptor
    private let name: String

    /// - Throws: ENOENT when there is no such directory; ELOOP when a symbolic link is on the way to it.
    init(_ path: String) throws(HostMountError) {
        // A slash is one to the kernel, whatever mark is behind it.
        let cut = path.utf8.lastIndex(of: UInt8(ascii: "/")) ?? path.startIndex
        let parentPath = cut == path.startIndex ? "/" : String(path[..<cut])
        let number = gw_open_without_links(AT_FDCWD, parentPath, Int32(GW_O_PATH) | O_DIRECTORY | O_CLOEXEC)
        guard number >= 0 else { throw HostMountError(call: "openat2", path: parentPath, number: errno) }
        parent = Descriptor(number, parentPath)
        name = path.isEmpty ? "" : String(path[path.utf8.index(after: cut)...])
        self.path = path
    }

    /// What has the name now: a directory, or the root of what is mounted on it. Waits for no file system.
    func open() throws(HostMountError) -> Descriptor {
        let number = openat(parent.number, name, Int32(GW_O_PATH) | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        guard number >= 0 else { throw HostMountError(call: "open", path: path, number: errno) }
        return Descriptor(number, path)
    }

    /// Of what has the name now, as the mount table has it.
    func device() throws(HostMountError) -> String { try open().device }

    /// What has the name, or a directory that is made. One that holds nothing and that nothing is mounted on gets the mode
    /// of one that is made, 0000.
    func makeDirectory() throws(HostMountError) -> Descriptor {
        if mkdirat(parent.number, name, 0) == 0 { return try open() }
        guard errno == EEXIST else { throw HostMountError(call: "mkdir", path: path, number: errno) }
        let directory = try open()
        // What is mounted may not answer.
        if try MountTable.entry(at: path) == nil, isEmpty(directory) {
            guard chmod(directory.path, 0) == 0 else {
                throw HostMountError(call: "chmod", path: path, number: errno)
            }
        }
        return directory
    }

    private func isEmpty(_ directory: borrowing Descriptor) -> Bool {
        guard let stream = opendir(directory.path) else { return false }
        defer { closedir(stream) }
        while let entry = readdir(stream) {
            let isOther = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) {
                    strcmp($0, ".") != 0 && strcmp($0, "..") != 0
                }
            }
            if isOther { return false }
        }
        return true
    }

    /// Takes away the topmost mount. Taken away by somebody else meanwhile, it is a success.
    func unmount(lazily isLazy: Bool) throws(HostMountError) {
        let flags = Int32(UMOUNT_NOFOLLOW) | (isLazy ? Int32(MNT_DETACH) : 0)
        guard umount2("\(parent.path)/\(name)", flags) != 0 else { return }
        let error = HostMountError(call: "umount2", path: path, number: errno)
        guard error.number == EINVAL || error.number == ENOENT, try MountTable.entry(at: path) == nil else {
            throw error
        }
    }

    /// None there is a success.
    func removeDirectory() throws(HostMountError) {
        guard unlinkat(parent.number, name, AT_REMOVEDIR) == 0 || errno == ENOENT else {
            throw HostMountError(call: "rmdir", path: path, number: errno)
        }
    }
}
