internal import CLinux
internal import Synchronization
package import VolumeModel

/// Which blocks of the disk a data file has, whether they were ever written to or not.
///
/// How many there are (st_blocks) does not say where: there may be some beyond the end, and some in which the file system
/// notes where the others are. To ask costs a call; so it is remembered up to where there is no hole, `solidEnd`. Those who
/// change a file's bytes hold its inode's lock: the mark goes down before blocks go, and up after they have come.
extension DataFile {
    /// What is counted as one, whatever the blocks of the file system are.
    private static let blockByteCount: UInt64 = 4096

    /// Whether no byte before `end` is in a hole. Asks the disk only where that is not known.
    ///
    /// - Parameter size: how far it pays to look, where the disk is asked.
    package func isSolid(upTo end: UInt64, of size: UInt64) throws(ByteStoreError) -> Bool {
        var known = solidEnd.load(ordering: .acquiring)
        guard end > known else { return true }
        while let next = try blocks(from: known, upTo: size), next.start <= known { known = next.end }
        noteBlocks(from: 0, byteCount: known)
        return end <= Self.roundedUp(known)
    }

    /// The first run of blocks that ends after `offset`, up to the next hole or `end`; nil: there is none before `end`.
    package func blocks(from offset: UInt64, upTo end: UInt64) throws(ByteStoreError) -> ByteRange? {
        let end = min(end, try lastingEnd())
        var found: ByteRange?
        var position = offset
        while position < end {
            guard let extents = extents(from: position, upTo: end) else {
                // Not every file system tells: tmpfs only where it has bytes.
                return try bytes(from: offset, upTo: end)
            }
            for extent in extents where extent.start < end && extent.end > position {
                let extent = ByteRange(extent.start, min(extent.end, end))
                guard let first = found else {
                    found = extent
                    continue
                }
                guard extent.start <= first.end else { return first }
                found = ByteRange(first.start, max(first.end, extent.end))
            }
            guard extents.count == Self.extentLimit, let reached = found?.end, reached > position else {
                break
            }
            position = reached
        }
        return found
    }

    /// What counts of the blocks of 512 bytes that it takes.
    package func takenBlockCount() throws(ByteStoreError) -> UInt64 {
        let extent = try extent()
        let needed = Self.roundedUp(extent.size) / 512
        guard extent.blockCount > needed, hasBlocksAhead else { return extent.blockCount }
        return needed
    }

    /// Whether somebody has allocated room beyond the block in which a file of this size ends.
    package func hasRoomBeyondEnd(of size: UInt64) throws(ByteStoreError) -> Bool {
        try blocks(from: Self.roundedUp(size), upTo: ByteRange.maximumOffset) != nil
    }

    /// From here on all blocks may be gone when they are wanted.
    private func lastingEnd() throws(ByteStoreError) -> UInt64 {
        hasBlocksAhead ? Self.roundedUp(try extent().size) : ByteRange.maximumOffset
    }

    /// Whether what is beyond the end was made ahead by the file system, as nobody has asked for it.
    private var hasBlocksAhead: Bool {
        directory.makesBlocksAhead && gw_has_allocated_room(descriptor) == 0
    }

    private static let extentLimit = Int(GW_EXTENT_LIMIT)

    /// Up to `extentLimit` pieces; fewer: there are no more. nil: the file system does not tell.
    private func extents(from offset: UInt64, upTo end: UInt64) -> [ByteRange]? {
        var extents = [gw_extent](repeating: gw_extent(), count: Self.extentLimit)
        let count = gw_fiemap(descriptor, offset, end - offset, &extents)
        guard count >= 0 else { return nil }
        return extents.prefix(Int(count)).map { extent in
            let start = min(extent.offset, ByteRange.maximumOffset)
            return ByteRange(start, start + min(extent.byte_count, ByteRange.maximumOffset - start))
        }
    }

    /// The same of bytes alone: room that was never written to is a hole.
    private func bytes(from offset: UInt64, upTo end: UInt64) throws(ByteStoreError) -> ByteRange? {
        guard let start = try nextData(from: offset), start < end else { return nil }
        return ByteRange(start, max(start + 1, try nextHole(from: start)))
    }

    /// Blocks have come.
    func noteBlocks(from start: UInt64, byteCount: UInt64) {
        let known = solidEnd.load(ordering: .acquiring)
        let end = Self.roundedUp(start + byteCount)
        if byteCount > 0, start <= known, end > known { solidEnd.store(end, ordering: .releasing) }
    }

    /// Blocks of what begins there may go.
    func noteHoles(from start: UInt64) {
        let known = solidEnd.load(ordering: .acquiring)
        let end = Self.roundedUp(start)
        if end < known { solidEnd.store(end, ordering: .releasing) }
    }

    private static func roundedUp(_ offset: UInt64) -> UInt64 {
        let whole = offset / blockByteCount * blockByteCount
        return whole == offset ? whole : whole + blockByteCount
    }
}
