package import ByteStore
package import Catalog
internal import Synchronization
package import VolumeModel

/// One head's catalog and bytes, kept in step.
///
/// Order of durability, which all of this file is about:
/// - a valid range is recorded only after its bytes are synced;
/// - a data file is deleted or cut only after the catalog that no longer needs it is synced.
/// So a crash may forget an arrival, but never invents one.
package final class HeadStorage: Sendable {
    /// Free disk space below which nothing new is written, so that the catalog can always commit.
    package static let reservedByteCount: UInt64 = 64 << 20

    package let catalog: Catalog
    package let bytes: ByteStore
    private let dataLocks: [DataLock]
    private let recovery: Mutex<Recovery>
    private let space = Mutex((checked: ContinuousClock.now - .seconds(60), free: UInt64(0)))

    /// After a crash a data file may be longer than the catalog says; each is cut when first opened.
    private struct Recovery {
        let isNeeded: Bool
        var checked: Set<DataFileNumber> = []
    }

    /// Opens a head: `directory/catalog.db` and `directory/data`.
    package init(
        opening directory: String, openFileLimit: Int = ByteStore.defaultOpenFileLimit
    ) throws {
        catalog = try Catalog(opening: directory)
        bytes = try ByteStore(directory: directory + "/data", openFileLimit: openFileLimit)
        dataLocks = (0..<64).map { _ in DataLock() }
        recovery = Mutex(Recovery(isNeeded: !catalog.wasClosedCleanly))
        // Files that were unlinked but open when the last process ended have nobody left who knows them.
        try catalog.perform { state in
            for orphan in try state.orphans() { try state.removeInode(orphan) }
        }
    }

    /// Serializes changes to the bytes of one inode that still has an origin: an arriving block must not
    /// overwrite what an application writes at the same moment.
    package func withDataLock<Result>(
        of inode: InodeNumber, _ body: () throws -> Result
    ) rethrows -> Result {
        try dataLocks[Int(truncatingIfNeeded: inode.number % 64)].hold(body)
    }

    /// The open data file of an inode that has one.
    package func dataFile(of record: InodeRecord) throws -> DataFile {
        if let kept = bytes.kept(record.data) { return kept }
        let file = try bytes.open(record.data)
        try cutAfterCrash(file, size: record.attributes.size)
        return file
    }

    private func cutAfterCrash(_ file: DataFile, size: UInt64) throws {
        let mustCheck = recovery.withLock { recovery in
            recovery.isNeeded && recovery.checked.insert(file.number).inserted
        }
        if mustCheck, try file.extent().size > size { try file.truncate(to: size) }
    }

    /// Makes a data file for an inode that has none. Called inside the catalog's lock, so that two writers
    /// cannot both make one.
    package func makeDataFile(for record: inout InodeRecord, in state: inout CatalogState) throws -> DataFile
    {
        let number = try state.newDataFile()
        let file = try bytes.create(number)
        record.data = number
        recovery.withLock { recovery in
            if recovery.isNeeded { recovery.checked.insert(number) }
        }
        return file
    }

    /// Stores bytes that came from the origin, but for those that were written or arrived meanwhile.
    package func store(_ piece: Piece) throws {
        guard hasRoom() else {
            throw ByteStoreError(call: "write", path: bytes.directory, errno: .noSpace)
        }
        try withDataLock(of: piece.inode) {
            let (record, missing) = try catalog.perform { state -> (InodeRecord?, [ByteRange]) in
                guard var record = try state.inode(piece.inode) else { return (nil, []) }
                let missing = try state.missingRanges(of: piece.inode, in: piece.range)
                if !missing.isEmpty, record.data == .none, case .bytes = piece.content {
                    _ = try makeDataFile(for: &record, in: &state)
                    try state.update(record, kind: .structural)
                }
                return (record, missing)
            }
            guard let record, !missing.isEmpty else { return }
            if record.data != .none {
                let file = try dataFile(of: record)
                for range in missing { try write(piece, range, to: file) }
            }
            try catalog.perform { state in
                for range in missing { try state.markValid(range, of: piece.inode) }
            }
        }
    }

    private func write(_ piece: Piece, _ range: ByteRange, to file: DataFile) throws {
        switch piece.content {
        case .zeros:
            // A write that a crash made us forget may have left other bytes there.
            try file.punchHole(range)
        case .bytes(let content):
            try content.withUnsafeBytes { buffer in
                let start = Int(range.start - piece.range.start)
                try file.write(
                    UnsafeRawBufferPointer(rebasing: buffer[start..<start + Int(range.byteCount)]),
                    at: range.start)
            }
        }
    }

    // MARK: durability

    /// Makes one inode's bytes, ranges and attributes durable: fsync(2).
    package func synchronize(_ inode: InodeNumber, dataOnly: Bool) throws {
        let (record, unrecorded) = try catalog.perform { state in
            (try state.inode(inode), state.unrecordedResidency(of: inode))
        }
        guard let record else { return }
        if record.data != .none {
            let file = try dataFile(of: record)
            try file.synchronize()
            let extent = try file.extent()
            try catalog.perform { state in
                guard var record = try state.inode(inode), record.data == file.number else { return }
                if record.backedByteCount == 0, record.attributes.blockCount != extent.blockCount {
                    record.attributes.blockCount = extent.blockCount
                    try state.update(record, kind: .metadata)
                }
            }
        }
        if let unrecorded {
            try catalog.perform { try $0.record(unrecorded.valid, of: inode, data: unrecorded.data) }
        }
        let generation = try catalog.perform { $0.generationToSync(inode, dataOnly: dataOnly) }
        if let generation { try catalog.synchronize(upTo: generation) }
    }

    /// The periodic chore: makes arrivals and changes durable, records what has arrived, deletes what nobody
    /// needs, and keeps the log short. Called every few seconds by one task, and at the end.
    package func settle() throws {
        let unrecorded = try catalog.perform { $0.unrecordedResidency() }
        if unrecorded.count > 4 {
            try bytes.synchronizeAll()
        } else {
            for item in unrecorded where item.data != .none {
                let record = try catalog.perform { try $0.inode(item.inode) }
                if let record, record.data == item.data { try dataFile(of: record).synchronize() }
            }
        }
        try catalog.perform { state in
            for item in unrecorded { try state.record(item.valid, of: item.inode, data: item.data) }
        }
        try catalog.synchronize()
        try catalog.collectGarbage { try bytes.delete($0) }
        try catalog.checkpoint()
    }

    /// Ends the use of this head in order.
    package func close() throws {
        try settle()
        try catalog.close()
        bytes.closeAll()
    }

    /// Whether there is disk space for more data. Looks at the disk five times a second at most.
    package func hasRoom() -> Bool {
        let now = ContinuousClock.now
        return space.withLock { space in
            if now - space.checked > .milliseconds(200) {
                space.checked = now
                space.free = (try? bytes.diskSpace().free) ?? 0
            }
            return space.free > Self.reservedByteCount
        }
    }
}

/// A lock that is held during data I/O on one inode that still has an origin.
private final class DataLock: Sendable {
    private let mutex = Mutex(())

    func hold<Result>(_ body: () throws -> Result) rethrows -> Result {
        mutex._unsafeLock()
        defer { mutex._unsafeUnlock() }
        return try body()
    }
}
