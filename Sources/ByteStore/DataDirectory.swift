internal import CLinux
internal import Glibc
internal import Synchronization
internal import VolumeModel

/// The directory that holds a store's data files, and the system calls on names in it.
///
/// Everything is relative to its descriptor and follows no symbolic link. Lives as long as any file of it.
final class DataDirectory: Sendable {
    let path: String
    /// Whether files here have blocks ahead of their ends for a while, as on XFS.
    let makesBlocksAhead: Bool
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
        makesBlocksAhead = gw_is_xfs(opened) != 0
        if isNew { try Self.synchronizeDirectory("..", at: opened, path: path + "/..") }
    }

    deinit { close(descriptor) }

    /// Opens a file that is there.
    ///
    /// - Parameter name: `xx/number`.
    /// - Throws: ENOENT; EIO when something else is there, or the file has another name: whoever has that would get what is
    ///   written, or we what he writes.
    func open(_ name: String) throws(ByteStoreError) -> Int32 {
        guard let directory = try openParent(String(name.prefix(2)), makes: false) else {
            throw ByteStoreError(call: "openat", path: path + "/" + name, errno: .noSuchEntry)
        }
        defer { close(directory) }
        // Without waiting for anybody, nor taking a terminal.
        let flags = O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | O_NOFOLLOW
        let opened = openat(directory, String(name.dropFirst(3)), flags)
        guard opened >= 0 else { throw Self.failure("openat", path + "/" + name) }
        var status = stat()
        guard fstat(opened, &status) == 0, Self.isOurs(status) else {
            close(opened)
            throw .isNoDataFile(path + "/" + name)
        }
        return opened
    }

    /// Makes a new, empty file, and its directory if need be.
    ///
    /// - Parameter replaces: whether what is there already is emptied or, if it is not ours to write to, deleted.
    /// - Throws: EEXIST when something is there, and is to stay.
    func make(_ name: String, replaces: Bool) throws(ByteStoreError) -> Int32 {
        guard let directory = try openParent(String(name.prefix(2)), makes: true) else {
            throw ByteStoreError(call: "openat", path: path + "/" + name, errno: .noSuchEntry)
        }
        defer { close(directory) }
        let file = String(name.dropFirst(3))
        let flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW
        // What this makes needs no look.
        let made = openat(directory, file, flags | O_CREAT | O_EXCL, 0o600)
        if made >= 0 { return made }
        guard replaces, errno == EEXIST else { throw Self.failure("openat", path + "/" + name) }
        var status = stat()
        if fstatat(directory, file, &status, AT_SYMLINK_NOFOLLOW) == 0, !Self.isOurs(status),
            unlinkat(directory, file, 0) != 0
        {
            throw Self.failure("unlinkat", path + "/" + name)
        }
        let opened = openat(directory, file, flags | O_CREAT | O_TRUNC, 0o600)
        guard opened >= 0 else { throw Self.failure("openat", path + "/" + name) }
        // Another file's bytes, which a crash has left: before this one grows they must not be on the disk any more.
        guard fdatasync(opened) == 0 else {
            let reason = errno
            close(opened)
            throw ByteStoreError(call: "fdatasync", path: path + "/" + name, errno: Errno(reason))
        }
        return opened
    }

    private static func isOurs(_ status: stat) -> Bool {
        status.st_mode & S_IFMT == S_IFREG && status.st_nlink <= 1
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

    /// Calls with the name of everything in it, of the form that `open` takes; no extent: it is no regular file.
    func forEach(_ visit: (_ name: String, DataFileExtent?) -> Void) throws(ByteStoreError) {
        for parent in try Self.names(in: ".", at: descriptor, path: path) where parent.utf8.count == 2 {
            for name in try Self.names(in: parent, at: descriptor, path: path + "/" + parent) {
                var status = stat()
                guard fstatat(descriptor, parent + "/" + name, &status, AT_SYMLINK_NOFOLLOW) == 0 else {
                    continue
                }
                let isFile = status.st_mode & S_IFMT == S_IFREG
                visit(parent + "/" + name, isFile ? DataFileExtent(status) : nil)
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
        let status = try diskStatus()
        let unit = UInt64(status.f_frsize)
        return (UInt64(status.f_bavail) &* unit, UInt64(status.f_blocks) &* unit)
    }

    /// Whether the disk can hold another file. Where it is as many as there is room for, it can.
    func hasInodes() throws(ByteStoreError) -> Bool {
        let status = try diskStatus()
        return status.f_files == 0 || status.f_favail > 0
    }

    private func diskStatus() throws(ByteStoreError) -> statvfs {
        var status = statvfs()
        guard fstatvfs(descriptor, &status) == 0 else { throw Self.failure("fstatvfs", path) }
        return status
    }

    private static func synchronizeDirectory(
        _ name: String, at root: Int32, path: String
    ) throws(ByteStoreError) {
        let opened = openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
        guard opened >= 0 else { throw failure("openat", path) }
        defer { close(opened) }
        guard gw_fsync(opened) == 0 else { throw failure("fsync", path) }
    }

    /// Called at once after the call: nothing else may touch errno in between.
    private static func failure(
        _ call: StaticString, _ path: @autoclosure () -> String
    ) -> ByteStoreError {
        let number = errno
        return ByteStoreError(call: "\(call)", path: path(), errno: Errno(number))
    }
}
