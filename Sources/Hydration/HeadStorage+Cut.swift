package import ByteStore
internal import Catalog
internal import Synchronization
package import VolumeModel

/// What a data file has beyond its inode's end: of an older life, and never shown.
///
/// - A data file is cut when the size that needs no more of it is on the disk: until then a crash may bring the old size
///   back, and what was synced in it. Where the disk refuses one of both, the file stays longer for a while, also over an
///   end in order. So it does after a write that failed, or a crash.
/// - So an inode becomes longer only when its data file ends where it does; and only when the last cut is itself on the
///   disk, for a power loss might keep the growth and forget the cut.
extension HeadStorage {
    /// Besides these, what is too long is cut when it is to grow.
    private static let uncutLimit = 10_000

    /// To be called, under the inode's data lock, after the inode was made shorter, or was cut where it ends and its data
    /// file has room beyond that. What the disk refuses now is tried again by each `settle`.
    package func cutDataFile(of inode: InodeNumber) {
        do {
            try cutNow(inode, givesRoomBack: true)
        } catch {
            uncut.withLock { if $0.count < Self.uncutLimit { $0.insert(inode) } }
        }
    }

    /// To be called, under the inode's data lock, before an inode becomes longer.
    ///
    /// - Throws: when what is beyond its end cannot be cut away: it must not grow over that.
    package func prepareGrowth(of record: InodeRecord, in file: DataFile) throws {
        if try file.extent().size > record.attributes.size { try cut(file, of: record) }
        if file.hasUnsyncedCut || mayHaveEarlierCut(file) { try synchronize(file) }
    }

    /// Whether a process that did not end in order may have cut it.
    private func mayHaveEarlierCut(_ file: DataFile) -> Bool {
        guard let recovered, mayLackEarlierBytes.load(ordering: .acquiring) else { return false }
        return file.number < recovered.firstNew && !file.wasSynced
    }

    func cutWhatIsLeft() throws {
        var failure: (any Error)?
        for inode in uncut.withLock({ $0 }) {
            do {
                try withDataLock(of: inode) {
                    // Room beyond the end may have been allocated since.
                    try cutNow(inode, givesRoomBack: false)
                    uncut.withLock { _ = $0.remove(inode) }
                }
            } catch {
                failure = failure ?? error
            }
        }
        if let failure { throw failure }
    }

    private func cutNow(_ inode: InodeNumber, givesRoomBack: Bool) throws {
        guard let record = try catalog.perform({ try $0.peekInode(inode) }), record.data != .none else {
            return
        }
        do {
            try cut(try dataFile(of: record), of: record, givesRoomBack: givesRoomBack)
        } catch let error as ByteStoreError where error.errno == .noSuchEntry {
            // Lost, as whoever uses it is told.
        }
    }

    private func cut(_ file: DataFile, of record: InodeRecord, givesRoomBack: Bool = false) throws {
        let size = record.attributes.size
        try catalog.synchronize()
        // One that is shorter has lost its end: that is not to look like zeros.
        let end = try file.extent().size
        let hasRoomToGive = try givesRoomBack && end == size && file.hasRoomBeyondEnd(of: size)
        if end > size || hasRoomToGive { try file.truncate(to: size) }
        try noteCut(of: file, to: size)
        try noteBlocks(of: file, record.attributes.inode)
    }

    /// Counts anew what a file takes. To be called under its data lock.
    func noteBlocks(of file: DataFile, _ inode: InodeNumber) throws {
        let blockCount = try file.takenBlockCount()
        try catalog.perform { state in
            guard var record = try state.inode(inode), record.data == file.number,
                record.backedByteCount == 0, record.attributes.blockCount != blockCount
            else { return }
            record.attributes.blockCount = blockCount
            try state.update(record, kind: .metadata)
        }
    }
}
