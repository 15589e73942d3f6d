internal import ByteStore
internal import Catalog
package import Hydration
internal import Synchronization
package import VolumeModel

/// An earlier state of a volume that is still here, from which bytes that have not changed since are taken when the
/// volume returns.
///
/// It may go at any moment, for room: then what it had is asked of the peer, like all else.
package final class OwnCopy: Sendable {
    /// The reign that this state was granted to.
    package let heir: Epoch
    /// Its name; nil: a release has granted it that gave none.
    let name: StateName?
    /// Whether its bytes are surely those that were granted; else they are compared, piece by piece.
    package let isCertain: Bool
    private let storage: HeadStorage
    private let state = Mutex(State())

    private struct State {
        var isGivenUp = false
        /// Files of which something was not there: asked no more.
        var unusable: Set<InodeNumber> = []
    }

    /// - Returns: nil when this head is not, or no longer, what was granted to that reign.
    package init?(_ storage: HeadStorage, grantedTo heir: Epoch) throws {
        guard let seal = try storage.catalog.perform({ try $0.sealedFor() }), seal.heir == heir else {
            return nil
        }
        self.heir = heir
        name = seal.name
        isCertain = seal.isCertain
        self.storage = storage
    }

    package var isGivenUp: Bool { state.withLock { $0.isGivenUp } }

    /// From now on nothing is taken of it.
    package func giveUp() {
        state.withLock { $0.isGivenUp = true }
        storage.giveUp()
    }

    /// Bytes from the start of a range, without gaps; a hole at the end may reach beyond it. They are named, not read.
    ///
    /// - Returns: nothing when they are not here.
    func pieces(of inode: InodeNumber, in range: ByteRange) async -> [Piece] {
        let reader = HeadReader(naming: storage) { [weak self] inode in self?.noteFailure(of: inode) }
        return await pieces(of: inode, in: range, by: reader)
    }

    private func pieces(of inode: InodeNumber, in range: ByteRange, by reader: HeadReader) async -> [Piece] {
        guard !state.withLock({ $0.isGivenUp || $0.unusable.contains(inode) }) else { return [] }
        do {
            guard try isWhole(inode, range) else { return [] }
            return try await reader.read(
                [Extent(inode: inode, range: range)], maximumByteCount: Int(clamping: range.byteCount))
        } catch {
            noteFailure(of: inode)
            return []
        }
    }

    private func noteFailure(of inode: InodeNumber) {
        state.withLock { state in
            // Not without end: what is asked in vain costs little.
            if state.unusable.count < 100_000 { state.unusable.insert(inode) }
        }
    }

    /// Bytes of a range, if all of them are here and some are not in a hole.
    func bytes(of inode: InodeNumber, in range: ByteRange) async -> [UInt8]? {
        var bytes: [UInt8] = []
        var hasData = false
        var position = range.start
        let reader = HeadReader(storage: storage, hydrator: nil)
        while position < range.end {
            let pieces = await pieces(of: inode, in: ByteRange(position, range.end), by: reader)
            guard !pieces.isEmpty else { return nil }
            for piece in pieces where position < range.end {
                let end = min(piece.range.end, range.end)
                switch piece.content {
                case .bytes(let part):
                    bytes += part
                    hasData = true
                case .stored: return nil
                case .zeros: bytes += repeatElement(0, count: Int(end - position))
                }
                position = end
            }
        }
        return hasData ? bytes : nil
    }

    /// Whether the catalog has these bytes for here, and the data file is no smaller than when it was synced.
    private func isWhole(_ inode: InodeNumber, _ range: ByteRange) throws -> Bool {
        let record = try storage.catalog.perform { state -> InodeRecord? in
            guard let record = try state.inode(inode), record.attributes.kind == .regular,
                range.start < record.attributes.size, range.end <= record.attributes.size,
                try state.missingRanges(of: inode, in: range).isEmpty
            else { return nil }
            return record
        }
        guard let record else { return false }
        guard record.data != .none, record.backedByteCount == 0 else { return true }
        // XFS counts blocks ahead of the end, and gives them back when the file is closed.
        let blockCount = min(record.attributes.blockCount, (record.attributes.size + 4095) / 4096 * 8)
        return try storage.dataFile(of: record).extent().blockCount >= blockCount
    }
}
