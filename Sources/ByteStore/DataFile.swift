internal import CLinux
internal import Glibc
internal import Synchronization
package import VolumeModel

/// An open data file: a plain sparse file that holds an inode's bytes at the inode's own offsets.
///
/// Closed when the store has let go of it and nobody uses it any more.
package final class DataFile: Sendable {
    package let number: DataFileNumber
    private let descriptor: Int32
    private let path: String
    /// Counts changes, so that a sync knows what it covered. Starts at 1: what was written through an
    /// earlier descriptor of the file may not be durable.
    private let changeCount = Atomic<UInt64>(1)
    private let synced = Mutex(Synced())

    private struct Synced {
        var changeCount: UInt64 = 0
        /// Stays: after a failed fsync the kernel drops the pages, and a later success would be a lie.
        var failure: ByteStoreError?
    }

    init(number: DataFileNumber, descriptor: Int32, path: String) {
        self.number = number
        self.descriptor = descriptor
        self.path = path
    }

    deinit { close(descriptor) }

    /// Reads at most the buffer's size. What the file does not reach to is zero: the caller knows the size.
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(ByteStoreError) {
        var done = 0
        while done < buffer.count {
            let count = pread(
                descriptor, buffer.baseAddress?.advanced(by: done), buffer.count - done,
                Int(clamping: offset) + done)
            if count > 0 {
                done += count
            } else if count == 0 {
                UnsafeMutableRawBufferPointer(rebasing: buffer[done...]).initializeMemory(
                    as: UInt8.self, repeating: 0)
                return
            } else if errno != EINTR {
                throw failure("pread")
            }
        }
    }

    package func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ByteStoreError) {
        var done = 0
        // After the bytes, also when only some were written: a sync that began earlier does not cover them.
        defer { noteChange() }
        while done < bytes.count {
            let count = pwrite(
                descriptor, bytes.baseAddress?.advanced(by: done), bytes.count - done,
                Int(clamping: offset) + done)
            if count >= 0 {
                done += count
            } else if errno != EINTR {
                throw failure("pwrite")
            }
        }
    }

    /// Makes everything written so far durable. Costs nothing when nothing was written since the last time.
    ///
    /// - Throws: for good once it has failed; the file must be opened anew.
    package func synchronize() throws(ByteStoreError) {
        let wanted = changeCount.load(ordering: .acquiring)
        // Held while the disk works: who comes second must not return before the first one's sync has.
        try synced.withLock { synced throws(ByteStoreError) in
            if let failure = synced.failure { throw failure }
            if synced.changeCount >= wanted { return }
            let covered = changeCount.load(ordering: .acquiring)
            guard fdatasync(descriptor) == 0 else {
                let error = failure("fdatasync")
                synced.failure = error
                throw error
            }
            synced.changeCount = covered
        }
    }

    private func noteChange() { changeCount.wrappingAdd(1, ordering: .acquiringAndReleasing) }

    package func truncate(to size: UInt64) throws(ByteStoreError) {
        defer { noteChange() }
        guard ftruncate(descriptor, Int(clamping: size)) == 0 else { throw failure("ftruncate") }
    }

    package func allocate(_ range: ByteRange) throws(ByteStoreError) {
        try fallocate(Int32(GW_FALLOC_FL_KEEP_SIZE), range)
    }

    /// Makes bytes zero and gives their blocks back.
    package func punchHole(_ range: ByteRange) throws(ByteStoreError) {
        try fallocate(Int32(GW_FALLOC_FL_KEEP_SIZE | GW_FALLOC_FL_PUNCH_HOLE), range)
    }

    package func zero(_ range: ByteRange) throws(ByteStoreError) {
        try fallocate(Int32(GW_FALLOC_FL_KEEP_SIZE | GW_FALLOC_FL_ZERO_RANGE), range)
    }

    private func fallocate(_ mode: Int32, _ range: ByteRange) throws(ByteStoreError) {
        defer { noteChange() }
        while gw_fallocate(descriptor, mode, Int64(clamping: range.start), Int64(clamping: range.byteCount))
            != 0
        {
            if errno != EINTR { throw failure("fallocate") }
        }
    }

    /// The first byte at or after `offset` that the disk holds; nil: only holes follow.
    package func nextData(from offset: UInt64) throws(ByteStoreError) -> UInt64? {
        let found = lseek(descriptor, Int(clamping: offset), Int32(GW_SEEK_DATA))
        if found >= 0 { return UInt64(found) }
        if errno == ENXIO { return nil }
        throw failure("lseek")
    }

    /// The first byte at or after `offset` that is in a hole; the end of the data file counts as one.
    package func nextHole(from offset: UInt64) throws(ByteStoreError) -> UInt64 {
        let found = lseek(descriptor, Int(clamping: offset), Int32(GW_SEEK_HOLE))
        if found >= 0 { return UInt64(found) }
        if errno == ENXIO { return offset }
        throw failure("lseek")
    }

    /// Size in bytes, and allocated blocks of 512 bytes, of the data file itself.
    package func extent() throws(ByteStoreError) -> (size: UInt64, blockCount: UInt64) {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("fstat") }
        return (UInt64(clamping: status.st_size), UInt64(clamping: status.st_blocks))
    }

    private func failure(_ call: String) -> ByteStoreError {
        ByteStoreError(call: call, path: path, errno: Errno(errno))
    }
}
