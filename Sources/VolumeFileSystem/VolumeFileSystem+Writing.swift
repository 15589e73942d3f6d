internal import ByteStore
internal import Catalog
internal import Hydration
package import VolumeModel

/// Writing, and what it may take of the volume's capacity.
///
/// What counts is what a file takes on the disk, in blocks of 4 KiB, as st_blocks tells. Exact for files whose
/// bytes are all here; of a file that is still arriving, what its origin said and what it has grown by.
extension VolumeFileSystem {
    private static let blockByteCount: UInt64 = 4096

    /// What a write has set aside. Given back when it is done.
    struct Room {
        let record: InodeRecord
        let wanted: UInt64
        let granted: UInt64
    }

    package func write(
        _ inode: InodeNumber, handle: FileHandle, offset: UInt64, bytes: UnsafeRawBufferPointer
    ) throws(FileSystemError) -> Int {
        guard offset < Self.maximumFileSize || bytes.isEmpty else { throw .errno(.fileTooBig) }
        // write(2): as much as fits below the largest size is written.
        let start = min(offset, Self.maximumFileSize)
        let range = ByteRange(start, start + min(UInt64(bytes.count), Self.maximumFileSize - start))
        return try changing {
            guard !range.isEmpty else { return 0 }
            return try storage.withDataLock(of: inode) {
                let room = try roomForWriting(inode, range)
                defer { giveBack(room) }
                let file = try storage.dataFile(of: room.record)
                if range.end > room.record.attributes.size {
                    try storage.prepareGrowth(of: room.record, in: file)
                }
                let allowed = try fits(range, room, file)
                let part = UnsafeRawBufferPointer(rebasing: bytes[0..<Int(allowed.byteCount)])
                var (count, failure) = file.writeSome(part, at: range.start)
                if failure?.errno == .noSpace, storage.makesRoom() {
                    let rest = UnsafeRawBufferPointer(rebasing: part[count...])
                    let more = file.writeSome(rest, at: range.start + UInt64(count))
                    (count, failure) = (count + more.byteCount, more.failure)
                }
                // What was written before the disk was full is there, and POSIX wants it counted.
                if let failure, count == 0 { throw failure }
                let written = ByteRange(range.start, range.start + UInt64(count))
                try storage.noteWritten(written, to: file)
                try noteWritten(written, inode: inode, file, mayTakeBlocks: room.wanted > 0)
                return count
            }
        }
    }

    /// The inode, with a data file, and as much of the capacity as a write there may come to take. Called under
    /// its data lock.
    func roomForWriting(_ inode: InodeNumber, _ range: ByteRange) throws -> Room {
        let mayMakeAnyFile = !storage.catalog.holdsUpOthers
        if let room = try roomForWriting(inode, range, mayMakeAnyFile: mayMakeAnyFile) { return room }
        storage.catalog.letCommitsPass()
        return try roomForWriting(inode, range, mayMakeAnyFile: true) ?? { throw Errno.inputOutput }()
    }

    /// - Returns: nil when it would make a data file whose bytes a commit had to wait for, and may not.
    private func roomForWriting(
        _ inode: InodeNumber, _ range: ByteRange, mayMakeAnyFile: Bool
    ) throws -> Room? {
        try storage.catalog.perform { state in
            var record = try state.regularFile(inode)
            if record.data == .none {
                guard mayMakeAnyFile || record.attributes.size == 0 else { return nil }
                _ = try self.storage.makeDataFile(for: &record, in: &state)
                try state.update(record, kind: .structural)
            }
            try state.noteChange(of: range, of: inode)
            let wanted = Self.newByteCount(range, in: record)
            return Room(record: record, wanted: wanted, granted: wanted == 0 ? 0 : state.reserve(wanted))
        }
    }

    func giveBack(_ room: Room) {
        guard room.granted > 0 else { return }
        // A catalog that has failed counts nothing any more.
        try? storage.catalog.perform { $0.unreserve(room.granted) }
    }

    /// Bytes that a write may newly take, at the most.
    private static func newByteCount(_ range: ByteRange, in record: InodeRecord) -> UInt64 {
        let first = range.start / blockByteCount * blockByteCount
        let end = roundedUp(range.end)
        let size = roundedUp(record.attributes.size)
        // Without holes, or with those that only the origin knows, nothing new is taken before the end.
        let isDense = record.attributes.blockCount &* 512 >= size || record.backedByteCount > 0
        let start = isDense ? max(first, size) : first
        return end > start ? end - start : 0
    }

    private static func roundedUp(_ offset: UInt64) -> UInt64 {
        (offset + blockByteCount - 1) / blockByteCount * blockByteCount
    }

    /// The part of a write, from its start, that the capacity allows.
    ///
    /// - Throws: ENOSPC when that is nothing.
    func fits(_ range: ByteRange, _ room: Room, _ file: DataFile) throws -> ByteRange {
        if room.granted == room.wanted { return range }
        // Near the limit it pays to look which blocks are there already.
        var left = room.granted
        var position = range.start / Self.blockByteCount * Self.blockByteCount
        let end = Self.roundedUp(range.end)
        while position < end {
            let hole = min(Self.roundedUp(try file.nextHole(from: position)), end)
            if hole > position { position = hole }
            guard position < end else { break }
            let data = min(try file.nextData(from: position) ?? end, end)
            let missing = data / Self.blockByteCount * Self.blockByteCount - position
            if missing > left {
                position += left / Self.blockByteCount * Self.blockByteCount
                break
            }
            left -= missing
            position = max(data, position + Self.blockByteCount)
        }
        guard position > range.start else { throw Errno.noSpace }
        return ByteRange(range.start, min(range.end, position))
    }

    private func noteWritten(
        _ range: ByteRange, inode: InodeNumber, _ file: DataFile, mayTakeBlocks: Bool
    ) throws {
        let blockCount = mayTakeBlocks ? try file.extent().blockCount : nil
        let isRewritten = isRewritten(inode, range)
        if isRewritten { storage.catalog.letCommitsPass() }
        try storage.catalog.perform { state in
            guard var record = try state.inode(inode) else { return }
            try state.markValid(range, of: inode)
            let grows = range.end > record.attributes.size
            if let blockCount {
                let grown = Self.roundedUp(range.end).subtracting(Self.roundedUp(record.attributes.size))
                record.attributes.blockCount =
                    record.backedByteCount == 0 ? blockCount : record.attributes.blockCount + grown / 512
            }
            if grows { record.attributes.size = range.end }
            record.attributes.modificationTime = Self.now()
            record.attributes.changeTime = record.attributes.modificationTime
            try state.update(record, kind: grows ? .structural : .metadata)
            if grows, isRewritten { storage.awaitBytes(of: record, in: &state) }
        }
    }
}

extension UInt64 {
    /// The difference, or 0 when there is none.
    fileprivate func subtracting(_ other: UInt64) -> UInt64 { self > other ? self - other : 0 }
}
