internal import BlockHashes
package import ByteStore
package import Catalog
internal import Locks
internal import Synchronization
package import VolumeModel

/// One head's catalog and bytes, kept in step.
///
/// Order of durability:
/// - a valid range is recorded only after its bytes are synced;
/// - a data file is deleted or cut only after the catalog that no longer needs it is synced (`HeadStorage+Cut`).
/// So a crash may forget an arrival, but never invents one.
package final class HeadStorage: Sendable {
    /// Free disk space below which nothing new is written, so that the catalog can always commit. What frees space
    /// is accepted in any case.
    private static let reservedByteCount: UInt64 = 64 << 20

    package let catalog: Catalog
    package let bytes: ByteStore
    private let dataLocks: DataLocks
    /// nil: the last end was in order, no data file needs a look.
    let recovered: RecoveredFiles?
    /// Data files from this number on may be missing after a power loss.
    let firstUncertain: DataFileNumber
    private let measureFreeSpace: @Sendable () -> UInt64
    let hasFailedSync = Atomic(false)
    /// Whether its files go just now, which is no loss.
    let isGivenUp = Atomic(false)
    /// After a disorderly end nobody knows which files the process before has written to.
    let mayLackEarlierBytes: Atomic<Bool>
    private let roomMaker = Mutex<RoomMaker?>(nil)
    /// Why the last `settle` did not do everything.
    let failedSettle = Mutex<String?>(nil)
    /// Inodes whose data files could not be cut yet.
    let uncut = Mutex<Set<InodeNumber>>([])
    let damage: DamageMap
    let damageListener = Mutex<(@Sendable () -> Void)?>(nil)
    private let space = Mutex((checked: ContinuousClock.now - .seconds(60), free: UInt64(0)))

    /// Opens a head: `directory/catalog.db` and `directory/data`.
    ///
    /// - Parameters:
    ///   - keepsOrphans: whether files that were unlinked while open stay: those who have them open are still there.
    ///   - memory: for names and inodes.
    ///   - freeSpace: bytes free on the disk; nil: asks the disk.
    package init(
        opening directory: String, openFileLimit: Int = ByteStore.defaultOpenFileLimit,
        keepsOrphans: Bool = false, memory: CatalogMemory = .standard,
        freeSpace: (@Sendable () -> UInt64)? = nil
    ) throws {
        catalog = try Catalog(opening: directory, removesOrphans: !keepsOrphans, memory: memory)
        damage = DamageMap(directory)
        let bytes = try ByteStore(directory: directory + "/data", openFileLimit: openFileLimit)
        self.bytes = bytes
        dataLocks = DataLocks()
        recovered =
            catalog.wasClosedCleanly
            ? nil : RecoveredFiles(firstNew: try catalog.perform { $0.nextDataFile })
        mayLackEarlierBytes = Atomic(!catalog.wasClosedCleanly)
        measureFreeSpace = freeSpace ?? { (try? bytes.diskSpace().free) ?? 0 }
        firstUncertain = try catalog.perform { DataFileNumber($0.durableData) }
        if !catalog.wasClosedCleanly { bytes.deleteSpares(from: try catalog.perform { $0.nextDataFile }) }
        try beginUseOfHashes()
        try completeUnsettledFiles()
        try forgetDamageBeyondEnds()
        catalog.awaitBytes { [weak self] in self?.synchronizeAwaited($0) ?? Set($0) }
    }

    /// From now on it may go, file by file.
    package func giveUp() { isGivenUp.store(true, ordering: .releasing) }

    /// How full the volume is, by sums that are kept: nothing is counted.
    package func usage() throws -> VolumeUsage {
        let (counters, limits) = try catalog.perform { ($0.counters, $0.limits) }
        return VolumeUsage(counters, limits: limits) { (try? bytes.diskSpace().total) ?? 0 }
    }

    /// After a power loss: files that were never synced may be gone or too short, and end where their bytes do from now
    /// on. Before anything says that all files are durable, for then that would be a loss.
    ///
    /// What was synced is there: a sync of a file covers its data file's length, and where a size was durable before there
    /// was a data file, `makeDataFile` has seen to it.
    private func completeUnsettledFiles() throws {
        for inode in catalog.inodesToRecover {
            // It may have been an orphan.
            guard let record = try catalog.perform({ try $0.peekInode(inode) }), record.data != .none else {
                continue
            }
            do {
                let file = try open(record)
                let size = try file.extent().size
                guard size < record.attributes.size else { continue }
                // What was refused before stays so.
                let isLost = damage.first(of: record.data, from: size) != nil
                try file.grow(
                    to: isLost
                        ? record.attributes.size
                        : try catalog.perform { try $0.endUnsettled(inode, at: size) })
            } catch let error as ByteStoreError where [.noSuchEntry, .inputOutput].contains(error.errno) {
                // It was synced once, or its disk fails: lost, as whoever uses it will find.
            } catch let error as CatalogError where error.isDamage {
                // It cannot be said where it ends. The same.
            }
        }
    }

    /// Serializes changes to the bytes of one inode: an arriving block must not overwrite what an application
    /// writes at the same moment, nor a write go to a data file that is being cut or left behind.
    package func withDataLock<Result>(
        of inode: InodeNumber, _ body: () throws -> Result
    ) rethrows -> Result {
        try dataLocks.hold(inode, body)
    }

    /// The open data file of an inode that has one. Whoever is about to change the inode's size, or its bytes, calls
    /// this before: what a crash left beyond the old size must not come to light, nor what was lost as zeros.
    ///
    /// - Throws: ENOENT when it is gone.
    package func dataFile(of record: InodeRecord) throws -> DataFile {
        let file: DataFile
        do {
            file = try open(record)
        } catch let error as ByteStoreError where error.errno == .noSuchEntry {
            try noteLoss(of: record, in: nil)
            throw error
        }
        if try file.extent().size < record.attributes.size { try noteLoss(of: record, in: file) }
        return file
    }

    /// The same for who only passes by, with a record that may be of a moment ago: nothing is concluded from what is not there,
    /// and nothing is put right.
    package func passingDataFile(of record: InodeRecord) throws -> DataFile { try bytes.open(record.data) }

    /// Of how many data files is remembered that they were looked at.
    var recoveredFileCount: Int { recovered?.count ?? 0 }

    func open(_ record: InodeRecord) throws -> DataFile {
        guard let recovered else { return try bytes.open(record.data) }
        // Until it was looked at nobody may have the file.
        return try recovered.look(at: record.data, first: { try openAfterCrash(record) }) {
            try bytes.open(record.data)
        }
    }

    private func openAfterCrash(_ record: InodeRecord) throws -> DataFile {
        let file: DataFile
        do {
            file = try bytes.open(record.data)
        } catch {
            guard error.errno == .noSuchEntry, record.data >= firstUncertain else { throw error }
            // No sync has ever covered it, so that nothing in it was promised or recorded.
            file = try bytes.create(record.data)
        }
        if try file.extent().size > record.attributes.size { try file.truncate(to: record.attributes.size) }
        return file
    }

    /// Whether an inode's bytes are still where this record says: not when it was cut to nothing or removed.
    package func isCurrent(_ record: InodeRecord) throws -> Bool {
        try catalog.perform { try $0.inode(record.attributes.inode)?.data == record.data }
    }

    /// Makes a data file for an inode that has none. Called inside the catalog's lock, so that two writers
    /// cannot both make one. It is as long as its inode from the start.
    package func makeDataFile(for record: inout InodeRecord, in state: inout CatalogState) throws -> DataFile
    {
        let file = try bytes.create(state.nextDataFile, isNext: true)
        try file.grow(to: record.attributes.size)
        damage.noteOverwritten(ByteRange(0, ByteRange.maximumOffset), of: file.number)
        record.data = try state.takeDataFile()
        if record.attributes.size > 0, state.mayRelyOnSize(of: record) { state.awaitBytes(of: record) }
        return file
    }

    /// Stores bytes that came from the origin, but for those that were written or arrived meanwhile.
    package func store(_ piece: Piece) throws {
        if case .bytes(let content) = piece.content, UInt64(content.count) != piece.range.byteCount {
            throw HydrationError.storage("a piece of \(piece.range) with \(content.count) bytes")
        }
        guard hasRoom() else {
            throw ByteStoreError(call: "write", path: bytes.directory, errno: .noSpace)
        }
        try withDataLock(of: piece.inode) {
            let (record, missing) = try catalog.perform { state -> (InodeRecord?, [ByteRange]) in
                guard var record = try state.inode(piece.inode) else { return (nil, []) }
                let missing = try state.missingRanges(of: piece.inode, in: piece.range)
                if !missing.isEmpty, record.data == .none, piece.content != .zeros {
                    _ = try makeDataFile(for: &record, in: &state)
                    try state.update(record, kind: .structural)
                }
                return (record, missing)
            }
            guard let record, !missing.isEmpty else { return }
            if record.data != .none {
                do {
                    let file = try dataFile(of: record)
                    for range in missing {
                        try write(piece, range, to: file)
                        try noteWritten(range, to: file)
                    }
                } catch let error as ByteStoreError where error.errno == .noSuchEntry {
                    // Removed just now: nobody wants the bytes any more.
                    guard try isCurrent(record) else { return }
                    throw error
                }
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
        case .stored(let stored): try stored.copy(range, to: file)
        case .bytes(let content):
            try content.withUnsafeBytes { buffer in
                let start = Int(range.start - piece.range.start)
                try file.write(
                    UnsafeRawBufferPointer(rebasing: buffer[start..<start + Int(range.byteCount)]),
                    at: range.start)
            }
        }
    }

    /// Removes files without a name that were kept at the opening, but for those that somebody still has open.
    package func removeOrphans(except open: Set<InodeNumber> = []) throws {
        try catalog.perform { state in
            for orphan in try state.orphans() where !open.contains(orphan) { try state.removeInode(orphan) }
        }
    }

    /// What is wrong with the disk below, for people; nil: nothing is.
    package var trouble: String? {
        if let failure = catalog.trouble {
            // Until the head is opened anew.
            if case .failedBefore = failure { return "\(failure)" }
            return "changes are refused until the disk takes them: \(failure)"
        }
        if let failure = failedSettle.withLock({ $0 }) {
            return "not everything could be made durable: \(failure)"
        }
        guard hasRoomNow else {
            return "the disk is full but for a reserve: writes are refused until there is room"
        }
        guard (try? bytes.diskHasInodes()) == false else { return nil }
        return
            "the disk has no inodes left: files cannot be written to for the first time until others are gone"
    }

    /// Ends the use of this head in order. Whatever still uses it gets errors.
    package func close() throws {
        bytes.endSpares()
        defer { bytes.closeAll() }
        do {
            try settle()
        } catch {
            // The lock is let go in any case; the next start looks at everything that is not in order.
            catalog.abandon()
            throw error
        }
        // No change of bytes is half done when the end is said to be in order.
        try dataLocks.holdAll {
            do {
                // What was synced so far is bytes. After a power loss, new bytes of an old time would look like damage.
                if HashDatabase.exists(in: catalog.directory) { try bytes.synchronizeFileSystem() }
            } catch {
                catalog.abandon()
                throw error
            }
            try catalog.close()
        }
    }

    /// Whether there is disk space for more data. Looks at the disk five times a second at most, and gives up what is
    /// needed by nobody before it says no.
    ///
    /// May block for as long as it takes to delete that.
    package func hasRoom() -> Bool { hasRoomNow || makesRoom() }

    /// The same, without giving anything up.
    package var hasRoomNow: Bool { freeByteCount() > Self.reservedByteCount }

    /// Whether there is disk space for so many bytes at once, by a look at the disk now.
    package func hasRoom(for byteCount: UInt64) -> Bool {
        guard byteCount > 0 else { return true }
        let free = measureFreeSpace()
        return free > Self.reservedByteCount && free - Self.reservedByteCount >= byteCount
            || makesRoom(for: byteCount)
    }

    /// Gives up things that are needed by nobody until `missingByteCount` says 0.
    ///
    /// - Returns: whether that came about. When all there is would not be enough, nothing is given up.
    package typealias RoomMaker = @Sendable (_ missingByteCount: () -> UInt64) -> Bool

    package func makeRoom(with maker: @escaping RoomMaker) { roomMaker.withLock { $0 = maker } }

    /// The disk is full: makes room for so much above the reserve, if that can be.
    package func makesRoom(for byteCount: UInt64 = 0) -> Bool {
        guard let maker = roomMaker.withLock({ $0 }) else { return false }
        let wanted = Self.reservedByteCount + 1 + byteCount
        return maker {
            let free = measureFreeSpace()
            space.withLock { $0 = (ContinuousClock.now, free) }
            return wanted - min(wanted, free)
        }
    }

    private func freeByteCount() -> UInt64 {
        let now = ContinuousClock.now
        return space.withLock { space in
            if now - space.checked > .milliseconds(200) {
                space.checked = now
                space.free = measureFreeSpace()
            }
            return space.free
        }
    }
}

/// Locks that are held while an inode's bytes change.
private final class DataLocks: Sendable {
    private let locks = (0..<64).map { _ in Lock(()) }

    func hold<Result>(_ inode: InodeNumber, _ body: () throws -> Result) rethrows -> Result {
        let lock = locks[Int(inode.number % 64)]
        lock.lock()
        defer { lock.unlock() }
        return try body()
    }

    func holdAll<Result>(_ body: () throws -> Result) rethrows -> Result {
        for lock in locks { lock.lock() }
        defer { for lock in locks { lock.unlock() } }
        return try body()
    }
}

/// After a crash a data file may be longer than the catalog says: each is cut before its first use, but for those that
/// are made from now on.
final class RecoveredFiles: Sendable {
    let firstNew: DataFileNumber
    private let known = Mutex<Set<DataFileNumber>>([])

    init(firstNew: DataFileNumber) { self.firstNew = firstNew }

    var count: Int { known.withLock { $0.count } }

    /// - Parameters:
    ///   - first: opens the file the first time, while nobody else can.
    ///   - later: opens it any other time.
    func look(
        at number: DataFileNumber, first: () throws -> DataFile, later: () throws -> DataFile
    ) throws -> DataFile {
        if number >= firstNew { return try later() }
        let opened = try known.withLock { known -> DataFile? in
            if known.contains(number) { return nil }
            let file = try first()
            known.insert(number)
            return file
        }
        return try opened ?? later()
    }
}
