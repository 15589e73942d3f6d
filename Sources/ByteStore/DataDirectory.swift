internal import CLinux
internal import Glibc
internal import Synchronization
internal import VolumeModel

/// The directory that holds a store's data files, and the system calls on names in it.
///
/// Everything is relative to its descriptor and follows no symbolic link. Lives as long as any file of it.
final class DataDirectory: Sendable {
    let path: String
    private let descriptor: Int32
    /// Subdirectories that were made by this process and whose own names may not be durable yet.
    private let newParents = Mutex<Set<String>>([])

    /// Opens the directory, making it if it is missing.
    init(path: String) throws(ByteStoreError) {
        self.path = path
        let isNew = mkdir(path, 0o700) == 0
        if !isNew, errno != EEXIST { throw Self.failure("mkdir", path) }
        let opened = Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
        guard opened >= 0 else { throw Self.failure("open", path) }
        descriptor = opened
        if isNew { try Self.synchronizeDirectory("..", at: opened, path: path + "/..") }
    }

    deinit { close(descriptor) }

    /// - Parameter name: `xx/number`; with O_CREAT its directory is made as well.
    func open(_ name: String, flags: Int32) throws(ByteStoreError) -> Int32 {
        let all = flags | O_CLOEXEC | O_NOFOLLOW
        let parent = String(name.prefix(2))
        guard let directory = try openParent(parent, makes: flags & O_CREAT != 0) else {
            throw ByteStoreError(call: "openat", path: path + "/" + name, errno: .noSuchEntry)
        }
        defer { close(directory) }
        let opened = openat(directory, String(name.dropFirst(3)), all, 0o600)
        guard opened >= 0 else { throw Self.failure("openat", path + "/" + name) }
        return opened
    }

    /// - Returns: nil if there is none.
    private func openParent(_ parent: String, makes: Bool) throws(ByteStoreError) -> Int32? {
        let flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW
        let opened = openat(descriptor, parent, flags)
        if opened >= 0 { return opened }
        guard errno == ENOENT else { throw Self.failure("openat", path + "/" + parent) }
        guard makes else { return nil }
        if mkdirat(descriptor, parent, 0o700) == 0 {
            newParents.withLock { _ = $0.insert(parent) }
        } else if errno != EEXIST {
            throw Self.failure("mkdirat", path + "/" + parent)
        }
        let made = openat(descriptor, parent, flags)
        guard made >= 0 else { throw Self.failure("openat", path + "/" + parent) }
        return made
    }

    /// May be repeated.
    func delete(_ name: String) throws(ByteStoreError) {
        guard let directory = try openParent(String(name.prefix(2)), makes: false) else { return }
        defer { close(directory) }
        if unlinkat(directory, String(name.dropFirst(3)), 0) != 0, errno != ENOENT {
            throw Self.failure("unlinkat", path + "/" + name)
        }
    }

    /// Deletes a file that is there and has no bytes.
    func deleteEmpty(_ name: String) throws(ByteStoreError) {
        var status = stat()
        guard fstatat(descriptor, name, &status, AT_SYMLINK_NOFOLLOW) == 0,
            status.st_mode & S_IFMT == S_IFREG,
            status.st_size == 0, status.st_blocks == 0
        else { return }
        try delete(name)
    }

    /// Calls with the name of everything in it, of the form that `open` takes.
    func forEach(_ visit: (_ name: String, DataFileExtent) -> Void) throws(ByteStoreError) {
        for parent in try Self.names(in: ".", at: descriptor, path: path) where parent.utf8.count == 2 {
            for name in try Self.names(in: parent, at: descriptor, path: path + "/" + parent) {
                var status = stat()
                guard fstatat(descriptor, parent + "/" + name, &status, AT_SYMLINK_NOFOLLOW) == 0 else {
                    continue
                }
                visit(parent + "/" + name, DataFileExtent(status))
            }
        }
    }

    private static func names(
        in name: String, at root: Int32, path: String
    ) throws(ByteStoreError) -> [String] {
        let opened = openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
        guard opened >= 0, let stream = fdopendir(opened) else { throw failure("openat", path) }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    /// Moves a data file to `lost` beside this directory, where nobody uses it.
    func setAside(_ name: String) throws(ByteStoreError) {
        if mkdirat(descriptor, "../lost", 0o700) != 0, errno != EEXIST {
            throw Self.failure("mkdirat", path + "/../lost")
        }
        guard renameat(descriptor, name, descriptor, "../lost/" + String(name.dropFirst(3))) == 0 else {
            throw Self.failure("renameat", path + "/" + name)
        }
    }

    /// Makes the name of a new data file durable: its directory's entry, and that directory's own.
    func synchronizeName(_ name: String) throws(ByteStoreError) {
        let parent = String(name.prefix(2))
        try Self.synchronizeDirectory(parent, at: descriptor, path: path + "/" + parent)
        guard newParents.withLock({ $0.contains(parent) }) else { return }
        try Self.synchronizeDirectory(".", at: descriptor, path: path)
        newParents.withLock { _ = $0.remove(parent) }
    }

    /// One call for the bytes and names of many files.
    func synchronizeFileSystem() throws(ByteStoreError) {
        guard gw_syncfs(descriptor) == 0 else { throw Self.failure("syncfs", path) }
    }

    func space() throws(ByteStoreError) -> (free: UInt64, total: UInt64) {
        var status = statvfs()
        guard fstatvfs(descriptor, &status) == 0 else { throw Self.failure("fstatvfs", path) }
        let unit = UInt64(status.f_frsize)
        return (UInt64(status.f_bavail) &* unit, UInt64(status.f_blocks) &* unit)
    }

    private static func synchronizeDirectory(
        _ name: String, at root: Int32, path: String
    ) throws(ByteStoreError) {
        let opened = openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
        guard opened >= 0 else { throw failure("openat", path) }
        defer { close(opened) }
        guard fsync(opened) == 0 else { throw failure("fsync", path) }
    }

    /// Called at once after the call: nothing else may touch errno in between.
    private static func failure(
        _ call: StaticString, _ path: @autoclosure () -> String
    ) -> ByteStoreError {
        let number = errno
        return ByteStoreError(call: "\(call)", path: path(), errno: Errno(number))
    }
}
