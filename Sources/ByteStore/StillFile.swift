internal import CLinux
internal import Glibc
package import VolumeModel

/// A data file as its file system tells of it. As long as nothing of this moves, nobody has written to the file.
///
/// Every write, cut, punched hole and cloned range moves the change time, which nothing but the clock can set back. The
/// kernel counts changes as well, but tells that only to itself (STATX_CHANGE_COOKIE).
package struct FileState: Hashable, Sendable {
    package static let byteCount = 48

    package let fileSystemInode: UInt64
    package let size: UInt64
    package let modification: FileTime
    package let change: FileTime

    init(_ status: stat) {
        fileSystemInode = UInt64(status.st_ino)
        size = UInt64(clamping: status.st_size)
        modification = FileTime(
            seconds: Int64(status.st_mtim.tv_sec), nanoseconds: UInt32(clamping: status.st_mtim.tv_nsec))
        change = FileTime(
            seconds: Int64(status.st_ctim.tv_sec), nanoseconds: UInt32(clamping: status.st_ctim.tv_nsec))
    }

    /// The same for the same state, and for no other.
    package var bytes: [UInt8] {
        let words = [
            fileSystemInode, size, UInt64(bitPattern: modification.seconds), UInt64(modification.nanoseconds),
            UInt64(bitPattern: change.seconds), UInt64(change.nanoseconds),
        ]
        return words.flatMap { word in withUnsafeBytes(of: word.littleEndian) { Array($0) } }
    }

    /// How long ago the file was last changed, by the clock that the kernel marks files with. Nothing when that clock
    /// was set back.
    package var age: Duration {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        let (seconds, overflow) = Int64(now.tv_sec).subtractingReportingOverflow(change.seconds)
        guard !overflow else { return .zero }
        return max(.zero, .seconds(seconds) + .nanoseconds(Int64(now.tv_nsec) - Int64(change.nanoseconds)))
    }
}

/// A data file opened beside whoever uses it, to see what the disk holds of it.
///
/// Reads go past the page cache where the file system can, so that neither does memory hide what the disk has changed,
/// nor is anything pushed out of memory. Used by one thread at a time.
package final class StillFile {
    private let path: String
    private var descriptor: Int32
    private var isDirect = true

    /// - Parameter directory: the store's.
    /// - Throws: ENOENT when it is gone.
    package init(_ number: DataFileNumber, in directory: String) throws(ByteStoreError) {
        path = directory + "/" + ByteStore.name(of: number)
        var opened = gw_open_direct(path)
        // Not every file system can (tmpfs, older ones), nor may everybody leave the access time alone.
        if opened < 0, errno == EINVAL || errno == EPERM {
            isDirect = false
            opened = Self.openPlainly(path)
        }
        // Its end closes it, also when this throws.
        descriptor = opened
        guard descriptor >= 0 else { throw failure("open") }
        guard try status().st_mode & S_IFMT == S_IFREG else { throw .isNoDataFile(path) }
    }

    deinit { close(descriptor) }

    private static func openPlainly(_ path: String) -> Int32 {
        Glibc.open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW)
    }

    package func state() throws(ByteStoreError) -> FileState { FileState(try status()) }

    private func status() throws(ByteStoreError) -> stat {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("fstat") }
        return status
    }

    /// The first byte at or after `offset` that the disk holds; nil: only holes follow.
    ///
    /// Waits for a write that is under way: file systems hold the file's lock for both. A write marks the file before
    /// it brings its bytes, and may be held up for long in between: without this wait, a file could be found unchanged
    /// and old, and still get other bytes without another mark.
    package func nextData(from offset: UInt64) throws(ByteStoreError) -> UInt64? {
        let found = lseek(descriptor, Int(clamping: offset), Int32(GW_SEEK_DATA))
        if found >= 0 { return UInt64(found) }
        if errno == ENXIO { return nil }
        throw failure("lseek")
    }

    /// Reads as much as the file has.
    ///
    /// - Parameters:
    ///   - buffer: aligned to, and of a multiple of, 4096 bytes.
    ///   - offset: a multiple of 4096.
    /// - Returns: how many bytes it has there.
    package func read(
        into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64
    ) throws(ByteStoreError) -> Int {
        var done = 0
        while done < buffer.count {
            let count = pread(
                descriptor, buffer.baseAddress?.advanced(by: done), buffer.count - done,
                Int(clamping: offset) + done)
            if count > 0 {
                done += count
                // The end: what comes after it could not be asked for past the cache.
                if done % 4096 != 0 { return done }
            } else if count == 0 {
                return done
            } else {
                let reason = errno
                if reason == EINTR { continue }
                if reason == EINVAL, try readsPlainly() { continue }
                throw ByteStoreError(call: "pread", path: path, errno: Errno(reason))
            }
        }
        return done
    }

    /// Some file systems only say at the first read that they cannot go past the cache.
    ///
    /// - Returns: false when that was not the reason.
    private func readsPlainly() throws(ByteStoreError) -> Bool {
        guard isDirect else { return false }
        isDirect = false
        let plain = Self.openPlainly(path)
        guard plain >= 0 else { throw failure("open") }
        var (old, new) = (stat(), stat())
        guard fstat(descriptor, &old) == 0, fstat(plain, &new) == 0, old.st_ino == new.st_ino else {
            close(plain)
            throw ByteStoreError(call: "open", path: path, errno: .noSuchEntry)
        }
        close(descriptor)
        descriptor = plain
        return true
    }

    private func failure(_ call: String) -> ByteStoreError {
        let number = errno
        return ByteStoreError(call: call, path: path, errno: Errno(number))
    }
}

/// The time in which what was written to a file system surely is what is read from it: from its mount to its unmount or
/// the end of the machine.
package enum MountLife {
    /// - Returns: nil where the kernel does not tell (before Linux 6.8).
    package static func current(of path: String) -> String? {
        var id: UInt64 = 0
        guard gw_unique_mount_id(path, &id) == 0 else { return nil }
        let descriptor = Glibc.open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var boot = [UInt8](repeating: 0, count: 64)
        let count = boot.withUnsafeMutableBytes { Glibc.read(descriptor, $0.baseAddress, $0.count) }
        guard count > 30 else { return nil }
        let name = String(decoding: boot[..<count].prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
        return "\(name)/\(id)"
    }
}
