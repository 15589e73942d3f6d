internal import CLinux
internal import Glibc
internal import Synchronization
package import VolumeModel

/// The bytes of one head: a directory of data files, with a bounded number of them open at a time.
package final class ByteStore: Sendable {
    /// Open data files that are kept for the next use. The hard limit of a process may be 20,000
    /// descriptors and a site serves many volumes, so that each takes only a share.
    package static let defaultOpenFileLimit = 512

    package let directory: String
    private let root: Int32
    private let openFiles: Mutex<OpenFiles>

    private struct OpenFiles {
        var files: [DataFileNumber: (file: DataFile, lastUse: UInt64)] = [:]
        var clock: UInt64 = 0
        let limit: Int
    }

    /// Opens the store, making its directory if it is missing.
    package init(
        directory: String, openFileLimit: Int = ByteStore.defaultOpenFileLimit
    ) throws(ByteStoreError) {
        self.directory = directory
        if mkdir(directory, 0o700) != 0, errno != EEXIST {
            throw ByteStoreError(call: "mkdir", path: directory, errno: Errno(errno))
        }
        root = Glibc.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
        guard root >= 0 else { throw ByteStoreError(call: "open", path: directory, errno: Errno(errno)) }
        openFiles = Mutex(OpenFiles(limit: max(16, openFileLimit)))
    }

    deinit { close(root) }

    /// Makes a new, empty data file. What an earlier life may have left under its number is gone.
    package func create(_ number: DataFileNumber) throws(ByteStoreError) -> DataFile {
        let name = Self.name(of: number)
        let flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW
        var descriptor = openat(root, name, flags, 0o600)
        if descriptor < 0, errno == ENOENT {
            let parent = String(name.prefix(2))
            if mkdirat(root, parent, 0o700) != 0, errno != EEXIST { throw failure("mkdirat", parent) }
            // The directory's own name must last before any file in it is said to.
            guard fsync(root) == 0 else { throw failure("fsync", parent) }
            descriptor = openat(root, name, flags, 0o600)
        }
        guard descriptor >= 0 else { throw failure("openat", name) }
        let file = DataFile(number: number, descriptor: descriptor, path: directory + "/" + name)
        keep(file)
        return file
    }

    /// A data file that exists.
    ///
    /// - Throws: ENOENT when it is gone: its bytes are lost here, which the caller must not take for zeros.
    package func open(_ number: DataFileNumber) throws(ByteStoreError) -> DataFile {
        if let file = kept(number) { return file }
        let name = Self.name(of: number)
        let descriptor = openat(root, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else { throw failure("openat", name) }
        let opened = DataFile(number: number, descriptor: descriptor, path: directory + "/" + name)
        return keep(opened)
    }

    /// A data file if it is open already.
    package func kept(_ number: DataFileNumber) -> DataFile? {
        openFiles.withLock { open in
            guard let index = open.files.index(forKey: number) else { return nil }
            open.clock += 1
            open.files.values[index].lastUse = open.clock
            return open.files.values[index].file
        }
    }

    /// Deletes a data file. May be repeated.
    package func delete(_ number: DataFileNumber) throws(ByteStoreError) {
        openFiles.withLock { _ = $0.files.removeValue(forKey: number) }
        let name = Self.name(of: number)
        if unlinkat(root, name, 0) != 0, errno != ENOENT { throw failure("unlinkat", name) }
    }

    /// Makes everything written to any data file durable, with one call for many files.
    package func synchronizeAll() throws(ByteStoreError) {
        guard gw_syncfs(root) == 0 else { throw failure("syncfs", "") }
    }

    /// Makes the name of a data file durable: its directory's entry.
    package func synchronizeName(of number: DataFileNumber) throws(ByteStoreError) {
        let parent = String(Self.name(of: number).prefix(2))
        let descriptor = openat(root, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else { throw failure("openat", parent) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw failure("fsync", parent) }
    }

    /// Bytes free on the disk for us, and its size.
    package func diskSpace() throws(ByteStoreError) -> (free: UInt64, total: UInt64) {
        var status = statvfs()
        guard fstatvfs(root, &status) == 0 else { throw failure("fstatvfs", "") }
        let unit = UInt64(status.f_frsize)
        return (UInt64(status.f_bavail) &* unit, UInt64(status.f_blocks) &* unit)
    }

    /// Lets go of every open file: for the end, and for tests.
    package func closeAll() { openFiles.withLock { $0.files.removeAll() } }

    /// `xx/xxxxxxxxxxxxxxxx`: 256 directories, so that none grows beyond what ext4 handles quickly.
    private static func name(of number: DataFileNumber) -> String {
        let digits = String(number.number, radix: 16)
        let padded = String(repeating: "0", count: 16 - digits.count) + digits
        return padded.suffix(2) + "/" + padded
    }

    @discardableResult
    private func keep(_ file: DataFile) -> DataFile {
        openFiles.withLock { open in
            // Another thread may have opened it meanwhile: one object a file, or syncs would be missed.
            if let other = open.files[file.number] { return other.file }
            open.clock += 1
            open.files[file.number] = (file, open.clock)
            if open.files.count > open.limit { Self.evict(&open) }
            return file
        }
    }

    /// Drops the least recently used eighth; a file in use stays open until its user is done.
    private static func evict(_ open: inout OpenFiles) {
        let uses = open.files.values.map(\.lastUse).sorted()
        let limit = uses[uses.count / 8]
        open.files = open.files.filter { $0.value.lastUse > limit }
    }

    private func failure(_ call: String, _ name: String) -> ByteStoreError {
        ByteStoreError(call: call, path: directory + "/" + name, errno: Errno(errno))
    }
}
