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
                var room = try roomForWriting(inode, range)
                defer { giveBack(room) }
                let file = try storage.dataFile(of: room.record)
                if range.end > room.record.attributes.size {
                    try storage.prepareGrowth(of: room.record, in: file)
                }
                let allowed = try fits(range, &room, file)
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

    /// A file that has as many blocks as its size needs may have holes all the same, when it has room beyond its end: what a
    /// write may take there is set aside as well. Costs nothing where the data file is known to have none.
    private func lookForHoles(_ range: ByteRange, _ room: inout Room, in file: DataFile) throws {
        let record = room.record
        let size = Self.roundedUp(record.attributes.size)
        guard record.backedByteCount == 0, range.start < size, Self.hasBlocksForAll(record),
            try !file.isSolid(upTo: min(range.end, size), of: record.attributes.size)
        else { return }
        let wanted = Self.roundedUp(range.end) - Self.roundedDown(range.start)
        let more = wanted - min(wanted, room.wanted)
        let granted = try storage.catalog.perform { $0.reserve(more) }
        room = Room(record: record, wanted: wanted, granted: room.granted + granted)
    }

    /// Bytes that a write may newly take, at the most.
    private static func newByteCount(_ range: ByteRange, in record: InodeRecord) -> UInt64 {
        // Without holes, or with those that only the origin knows, nothing new is taken before the end.
        let mayFillHoles = record.backedByteCount == 0 && !hasBlocksForAll(record)
        let first = roundedDown(range.start)
        let start = mayFillHoles ? first : max(first, roundedUp(record.attributes.size))
        return roundedUp(range.end).subtracting(start)
    }

    private static func hasBlocksForAll(_ record: InodeRecord) -> Bool {
        record.attributes.blockCount &* 512 >= roundedUp(record.attributes.size)
    }

    private static func roundedUp(_ offset: UInt64) -> UInt64 { roundedDown(offset + blockByteCount - 1) }

    private static func roundedDown(_ offset: UInt64) -> UInt64 { offset / blockByteCount * blockByteCount }

    /// The part of a write, from its start, that the capacity allows.
    ///
    /// - Throws: ENOSPC when that is nothing.
    func fits(_ range: ByteRange, _ room: inout Room, _ file: DataFile) throws -> ByteRange {
        try lookForHoles(range, &room, in: file)
        if room.granted == room.wanted { return range }
        // What fills holes that only the origin knows was not asked for.
        let size = room.record.backedByteCount > 0 ? Self.roundedUp(room.record.attributes.size) : 0
        // Near the limit it pays to look which blocks are there already.
        let (end, _) = try Self.advance(
            from: max(size, Self.roundedDown(range.start)), to: range.end, taking: room.granted, in: file)
        guard end > range.start else { throw Errno.noSpace }
        return ByteRange(range.start, min(range.end, end))
    }

    /// What a data file lacks of a range, in bytes of whole blocks.
    static func missingByteCount(_ range: ByteRange, in file: DataFile) throws -> UInt64 {
        try advance(from: roundedDown(range.start), to: range.end, taking: .max, in: file).taken
    }

    /// How far one comes from a block on with so many bytes of new blocks, and how many it takes.
    private static func advance(
        from start: UInt64, to end: UInt64, taking limit: UInt64, in file: DataFile
    ) throws -> (end: UInt64, taken: UInt64) {
        let end = roundedUp(end)
        var position = start
        var taken: UInt64 = 0
        while position < end {
            let next = try file.blocks(from: position, upTo: end)
            let missing = min(end, roundedDown(next?.start ?? end)).subtracting(position)
            guard missing <= limit - taken else { return (position + roundedDown(limit - taken), limit) }
            taken += missing
            position = next.map { roundedUp($0.end) } ?? end
        }
        return (position, taken)
    }

    private func noteWritten(
        _ range: ByteRange, inode: InodeNumber, _ file: DataFile, mayTakeBlocks: Bool
    ) throws {
        let blockCount = mayTakeBlocks ? try file.takenBlockCount() : nil
        let isRewritten = isRewritten(inode, range)
        if isRewritten { storage.catalog.letCommitsPass() }
        try storage.catalog.perform { state in
            guard var record = try state.inode(inode) else { return }
            try state.markValid(range, of: inode)
            let grows = range.end > record.attributes.size
            if let blockCount { Self.noteTaken(blockCount, end: range.end, of: &record) }
            if grows { record.attributes.size = range.end }
            record.attributes.modificationTime = Self.now()
            record.attributes.changeTime = record.attributes.modificationTime
            try state.update(record, kind: grows ? .structural : .metadata)
            if grows, isRewritten { storage.awaitBytes(of: record, in: &state) }
        }
    }

    /// What a file takes now: blocks of 512 bytes. To be called before its size changes.
    ///
    /// - Parameter end: how far the file reaches at least from now on.
    static func noteTaken(_ blockCount: UInt64, end: UInt64, of record: inout InodeRecord) {
        let grown = roundedUp(end).subtracting(roundedUp(record.attributes.size))
        record.attributes.blockCount =
            record.backedByteCount == 0 ? blockCount : record.attributes.blockCount &+ grown / 512
    }
}

extension UInt64 {
    /// The difference, or 0 when there is none.
    fileprivate func subtracting(_ other: UInt64) -> UInt64 { self > other ? self - other : 0 }
}
