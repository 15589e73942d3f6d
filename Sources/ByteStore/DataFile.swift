internal import CLinux
internal import Glibc
internal import Synchronization
package import VolumeModel

/// An open data file: a plain sparse file that holds an inode's bytes at the inode's own offsets.
///
/// Closed when the store has let go of it and nobody uses it any more.
package final class DataFile: Sendable {
    package let number: DataFileNumber
    let descriptor: Int32
    private let name: String
    let directory: DataDirectory
    /// Counts changes, so that a sync knows what it covered. Starts at 1: what was written through an
    /// earlier descriptor of the file may not be durable.
    private let changeCount = Atomic<UInt64>(1)
    /// The last change that is durable, together with the file's name. Written by who holds `syncing`.
    private let syncedCount = Atomic<UInt64>(0)
    /// The last change that cut bytes away.
    private let cutCount = Atomic<UInt64>(0)
    /// Up to here it has all blocks, as far as we know: `DataFile+Blocks`.
    let solidEnd = Atomic<UInt64>(0)
    private let isNew: Atomic<Bool>
    private let hasFailedSync = Atomic<Bool>(false)
    /// Held while the disk works. What failed stays: after a failed fsync the kernel drops the pages, and a
    /// later success would be a lie.
    private let syncing = Mutex<ByteStoreError?>(nil)

    init(number: DataFileNumber, descriptor: Int32, name: String, in directory: DataDirectory, isNew: Bool) {
        self.number = number
        self.descriptor = descriptor
        self.name = name
        self.directory = directory
        self.isNew = Atomic(isNew)
    }

    deinit { close(descriptor) }

    /// Fills the buffer.
    ///
    /// - Throws: ENODATA when the file ends before: what is said to be there is not, or no longer.
    package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(ByteStoreError) {
        var done = 0
        while done < buffer.count {
            let count = pread(
                descriptor, buffer.baseAddress?.advanced(by: done), buffer.count - done,
                Int(clamping: offset) + done)
            if count > 0 {
                done += count
            } else if count == 0 {
                throw ByteStoreError(call: "pread", path: path, errno: .noData)
            } else if errno != EINTR {
                throw failure("pread")
            }
        }
    }

    package func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ByteStoreError) {
        let (_, failure) = writeSome(bytes, at: offset)
        if let failure { throw failure }
    }

    /// Writes from the start of `bytes` as much as it can: when the disk fills up half-way, the half is there.
    ///
    /// - Returns: how many bytes were written, and why not all.
    package func writeSome(
        _ bytes: UnsafeRawBufferPointer, at offset: UInt64
    ) -> (byteCount: Int, failure: ByteStoreError?) {
        var done = 0
        // After the bytes, also when only some were written: a sync that began earlier does not cover them.
        defer {
            noteChange()
            noteBlocks(from: offset, byteCount: UInt64(done))
        }
        while done < bytes.count {
            let count = pwrite(
                descriptor, bytes.baseAddress?.advanced(by: done), bytes.count - done,
                Int(clamping: offset) + done)
            if count >= 0 {
                done += count
            } else if errno != EINTR {
                return (done, failure("pwrite"))
            }
        }
        return (done, nil)
    }

    /// Makes everything written so far durable, and the name of a new file. Costs nothing when nothing was
    /// written since the last time.
    ///
    /// - Throws: for good once it has failed, until `forgetFailure`.
    package func synchronize() throws(ByteStoreError) {
        let wanted = currentChange
        // Who comes second must not return before the first one's sync has.
        try syncing.withLock { failed throws(ByteStoreError) in
            if let failed { throw failed }
            let isNew = isNew.load(ordering: .acquiring)
            if syncedCount.load(ordering: .acquiring) >= wanted, !isNew { return }
            let covered = currentChange
            do throws(ByteStoreError) {
                guard gw_fdatasync(descriptor) == 0 else { throw failure("fdatasync") }
                if isNew { try directory.synchronizeName(name) }
            } catch {
                failed = error
                hasFailedSync.store(true, ordering: .releasing)
                throw error
            }
            noteDurable(covered)
        }
    }

    /// From now on every sync fails, until `forgetFailure`: what was written through an earlier descriptor of the
    /// file may be gone.
    func fail(_ failure: ByteStoreError) {
        syncing.withLock { failed in
            failed = failed ?? failure
            hasFailedSync.store(true, ordering: .releasing)
        }
    }

    /// Allows syncs again. What was written before the failure may be gone: for bytes that nobody was told
    /// are safe, and that an application which has opened the file anew will write again.
    package func forgetFailure() {
        noteChange()
        noteHoles(from: 0)
        syncing.withLock { failed in
            failed = nil
            hasFailedSync.store(false, ordering: .releasing)
        }
    }

    // These wait for no disk: they are asked under the store's lock.

    package var hasFailed: Bool { hasFailedSync.load(ordering: .acquiring) }

    /// Whether anything was changed through this object that is not durable yet.
    var isChanged: Bool {
        let now = currentChange
        return isNew.load(ordering: .acquiring) || hasUnsyncedCut
            || now > 1 && syncedCount.load(ordering: .acquiring) < now
    }

    private func noteDurable(_ change: UInt64) {
        if change > syncedCount.load(ordering: .acquiring) { syncedCount.store(change, ordering: .releasing) }
        isNew.store(false, ordering: .releasing)
    }

    /// The number of the last change.
    var currentChange: UInt64 { changeCount.load(ordering: .acquiring) }

    /// A sync of the whole file system has covered changes up to this one.
    func noteSynchronized(upTo change: UInt64) throws(ByteStoreError) {
        try syncing.withLock { failed throws(ByteStoreError) in
            if let failed { throw failed }
            noteDurable(change)
        }
    }

    @discardableResult
    private func noteChange() -> UInt64 {
        changeCount.wrappingAdd(1, ordering: .acquiringAndReleasing).newValue
    }

    /// Cuts the file. Until that is on the disk, `hasUnsyncedCut`.
    package func truncate(to size: UInt64) throws(ByteStoreError) {
        defer { cutCount.store(noteChange(), ordering: .releasing) }
        noteHoles(from: size)
        try resize(to: size)
    }

    /// The same was done through an earlier descriptor of the file.
    func noteEarlierCut() { cutCount.store(1, ordering: .releasing) }

    /// Whether a power loss may bring back what was cut away.
    package var hasUnsyncedCut: Bool {
        cutCount.load(ordering: .acquiring) > syncedCount.load(ordering: .acquiring)
    }

    /// Whether it was made durable since it was opened.
    package var wasSynced: Bool { syncedCount.load(ordering: .acquiring) > 0 }

    /// Makes the file at least so long. Nobody else may change it meanwhile.
    package func grow(to size: UInt64) throws(ByteStoreError) {
        guard try extent().size < size else { return }
        defer { noteChange() }
        try resize(to: size)
    }

    private func resize(to size: UInt64) throws(ByteStoreError) {
        guard ftruncate(descriptor, Int(clamping: size)) == 0 else { throw failure("ftruncate") }
    }

    /// The same beside others who change it: nothing that they write is cut off.
    package func extend(to size: UInt64) throws(ByteStoreError) {
        if try extent().size < size { try fallocate(0, ByteRange(size - 1, size)) }
    }

    package func allocate(_ range: ByteRange) throws(ByteStoreError) {
        try fallocate(Int32(GW_FALLOC_FL_KEEP_SIZE), range)
        noteBlocks(from: range.start, byteCount: range.byteCount)
    }

    /// Makes bytes zero and gives their blocks back.
    package func punchHole(_ range: ByteRange) throws(ByteStoreError) {
        noteHoles(from: range.start)
        try fallocate(Int32(GW_FALLOC_FL_KEEP_SIZE | GW_FALLOC_FL_PUNCH_HOLE), range)
    }

    package func zero(_ range: ByteRange) throws(ByteStoreError) {
        do {
            try fallocate(Int32(GW_FALLOC_FL_KEEP_SIZE | GW_FALLOC_FL_ZERO_RANGE), range)
            noteBlocks(from: range.start, byteCount: range.byteCount)
        } catch {
            // tmpfs knows holes but not this.
            guard error.errno == .notSupported else { throw error }
            try punchHole(range)
        }
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

    /// When the data file itself was last written to, as its file system says.
    package func modificationTime() throws(ByteStoreError) -> FileTime {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("fstat") }
        return FileTime(
            seconds: Int64(status.st_mtim.tv_sec), nanoseconds: UInt32(clamping: status.st_mtim.tv_nsec))
    }

    /// As what looks at the file from beside whoever uses it sees it.
    package func state() throws(ByteStoreError) -> FileState {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("fstat") }
        return FileState(status)
    }

    /// Sets when the data file was last written to: what was put back in it is not written.
    package func setModificationTime(_ time: FileTime) throws(ByteStoreError) {
        let times = [
            timespec(tv_sec: 0, tv_nsec: Int(GW_UTIME_OMIT)),
            timespec(tv_sec: Int(time.seconds), tv_nsec: Int(time.nanoseconds)),
        ]
        guard futimens(descriptor, times) == 0 else { throw failure("futimens") }
    }

    /// Copies the bytes below `size` into an empty file, without the holes.
    package func copy(to other: DataFile, size: UInt64) throws(ByteStoreError) {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
        defer { buffer.deallocate() }
        var position: UInt64 = 0
        while position < size, let start = try nextData(from: position), start < size {
            let end = min(size, max(try nextHole(from: start), start + 1), start + UInt64(buffer.count))
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(end - start)])
            try read(into: part, at: start)
            try other.write(UnsafeRawBufferPointer(part), at: start)
            position = end
        }
        try other.grow(to: size)
    }

    /// Why bytes could not be taken of another file: who is to blame.
    package enum TakeFailure: Error {
        case reading(ByteStoreError)
        case writing(ByteStoreError)

        package var cause: ByteStoreError {
            switch self {
            case .reading(let error), .writing(let error): error
            }
        }
    }

    /// What file systems share at least: clones of other sizes are refused, but for a file's end.
    private static let sharedBlock: UInt64 = 4096

    /// Takes bytes of another data file, which nobody changes, at the same offsets. Where the file system can, whole
    /// blocks are shared and take no room until one of both is written to; else they are copied.
    package func take(_ range: ByteRange, from other: DataFile) throws(TakeFailure) {
        let mask = Self.sharedBlock - 1
        let shared = (start: (range.start + mask) & ~mask, end: range.end & ~mask)
        guard shared.start < shared.end, share(ByteRange(shared.start, shared.end), with: other) else {
            return try copyBytes(range, from: other)
        }
        if range.start < shared.start { try copyBytes(ByteRange(range.start, shared.start), from: other) }
        if shared.end < range.end { try copyBytes(ByteRange(shared.end, range.end), from: other) }
    }

    /// - Returns: false where that cannot be: on ext4, or across file systems.
    private func share(_ range: ByteRange, with other: DataFile) -> Bool {
        defer { noteChange() }
        // The other one's holes come with its bytes.
        noteHoles(from: range.start)
        while gw_clone_range(descriptor, other.descriptor, range.start, range.byteCount) != 0 {
            guard errno == EINTR else { return false }
        }
        return true
    }

    private func copyBytes(_ range: ByteRange, from other: DataFile) throws(TakeFailure) {
        var position = range.start
        while position < range.end {
            let part = ByteRange(position, min(range.end, position + 1 << 20))
            let buffer = UnsafeMutableRawBufferPointer.allocate(
                byteCount: Int(part.byteCount), alignment: 4096)
            defer { buffer.deallocate() }
            do {
                try other.read(into: buffer, at: part.start)
            } catch {
                throw .reading(error)
            }
            do {
                try write(UnsafeRawBufferPointer(buffer), at: part.start)
            } catch {
                throw .writing(error)
            }
            position = part.end
        }
    }

    package func extent() throws(ByteStoreError) -> DataFileExtent {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("fstat") }
        return DataFileExtent(status)
    }

    private var path: String { directory.path + "/" + name }

    private func failure(_ call: String) -> ByteStoreError {
        let number = errno
        return ByteStoreError(call: call, path: path, errno: Errno(number))
    }
}

/// How long a data file is, and what it takes.
package struct DataFileExtent: Hashable, Sendable {
    package let size: UInt64
    /// Blocks of 512 bytes.
    package let blockCount: UInt64
    /// Whether it has another name somewhere, and is not opened therefore.
    package let isShared: Bool

    init(_ status: stat) {
        isShared = status.st_nlink > 1
        size = UInt64(clamping: status.st_size)
        blockCount = UInt64(clamping: status.st_blocks)
    }
}
