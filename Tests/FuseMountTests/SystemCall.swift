import Glibc
import VolumeFileSystem
import VolumeModel

/// What leads to a file, as programs name it: a descriptor, or if that is negative a path.
struct Way: Sendable {
    let descriptor: Int32
    let path: String

    /// Calls with a descriptor, this one or one that is opened for it.
    func opened<Result>(
        _ flags: Int32, _ body: (Int32) throws(FileSystemError) -> Result
    ) throws(FileSystemError) -> Result {
        if descriptor >= 0 { return try body(descriptor) }
        let opened = try checked(open(path, flags | O_CLOEXEC | O_NOFOLLOW))
        defer { close(opened) }
        return try body(opened)
    }

    func status() throws(FileSystemError) -> stat {
        var status = stat()
        try checked(descriptor >= 0 ? fstat(descriptor, &status) : lstat(path, &status))
        return status
    }
}

/// - Throws: what errno says, when the call has failed.
@discardableResult
func checked<Number: SignedInteger>(_ result: Number) throws(FileSystemError) -> Number {
    guard result >= 0 else { throw .errno(Errno(errno)) }
    return result
}

/// The same of a call that gives a negative error number.
func raised(_ result: Int64) throws(FileSystemError) {
    guard result >= 0 else { throw .errno(Errno(Int32(-result))) }
}

extension FileAttributes {
    init(_ status: stat) {
        func time(_ time: timespec) -> FileTime {
            FileTime(seconds: Int64(time.tv_sec), nanoseconds: UInt32(time.tv_nsec))
        }
        self.init(
            inode: InodeNumber(UInt64(status.st_ino)), kind: FileKind(mode: status.st_mode) ?? .socket,
            permissions: status.st_mode & 0o7777, linkCount: UInt32(status.st_nlink), uid: status.st_uid,
            gid: status.st_gid, size: UInt64(status.st_size), accessTime: time(status.st_atim),
            modificationTime: time(status.st_mtim), changeTime: time(status.st_ctim))
    }
}
