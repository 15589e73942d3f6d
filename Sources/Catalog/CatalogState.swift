internal import SQLite
package import VolumeModel

/// What the catalog's lock guards: the open transaction and the inodes kept in memory.
///
/// Invariants:
/// - A live inode is the one in `inodes` if it is there, else the row in the database.
/// - What is dirty is written to the database before a commit, and never forgotten before.
/// - Names go to the database at once, in the open transaction, together with their inodes' changes:
///   a commit happens only between operations, so it never holds half of one.
/// - Every change carries `sequence`, which is greater than every pin.
package struct CatalogState {
    struct CachedInode {
        var record: InodeRecord
        /// Where its row's life began; nil: the database has no row yet.
        var born: SequenceNumber?
        /// The commit that will hold (or holds) its last change that fsync or fdatasync must wait for.
        var structuralGeneration: UInt64 = 0
        var metadataGeneration: UInt64 = 0
        var residency: Residency?
        /// Whether it has extended attributes, where that is known: programs ask for some of each file that they list, and
        /// the kernel for one of each file that is written. Never false where there is one.
        var hasAttributes: Bool?
        /// Whether the places were looked at that its row has in the database.
        var wasProbed = false
    }

    let connection: Connection
    let statements: CatalogStatements
    var inodes: [InodeNumber: CachedInode] = [:]
    var dirtyInodes: Set<InodeNumber> = []
    /// How many inodes in memory are so many that some should go.
    var nextEviction: Int
    /// How many of those that the database knows as well are kept.
    let cleanInodeLimit: Int
    /// Inodes with valid ranges that are not recorded yet, and how many bytes these are.
    var unrecordedInodes: Set<InodeNumber> = []
    var unrecordedByteCount: UInt64 = 0
    var lastResidencyLife: UInt64 = 0
    var sequence: SequenceNumber
    var newestPin: SequenceNumber?
    package internal(set) var counters: CatalogCounters
    package internal(set) var limits: VolumeLimits
    /// Bytes that writes on their way may come to take.
    private var reservedByteCount: UInt64 = 0
    package internal(set) var missingByteCount: UInt64
    var nextData: UInt64
    /// Data files with lower numbers have durable names: one that is missing is lost. Others may never have
    /// reached the disk before a power loss, and then no byte of them was ever said to be safe.
    package internal(set) var durableData: UInt64
    /// What is promised of data files' sizes: `CatalogState+Sizes`.
    var sizes: DataFileSizes
    /// What the next commit waits for: `Catalog+Order`.
    var awaited = AwaitedFiles()
    /// The number of the commit that will hold the next change.
    var openGeneration: UInt64 = 1
    /// The last commit that is known to be on disk.
    var durableGeneration: UInt64 = 0
    /// Why the log is not on disk, although it should be. Nothing new is accepted until it is.
    var syncFailure: CatalogError?
    /// Why what has been accepted is in no commit. Nothing new is accepted until it is.
    var commitFailure: SQLiteError?
    /// Whether SQLite has taken back the open transaction, because its commit failed.
    var isTakenBack = false
    /// The changes in the open transaction, but for what `commit` itself writes. Off for an owner's: these can be
    /// had again.
    let recorder = ChangeRecorder()
    /// Whether anything has changed since the last commit.
    var hasChanges = false
    /// What takes the operation under way back.
    var undo = UndoLog()
    /// Whether this head takes its owner's changes and nobody else's: until it is promoted.
    package internal(set) var isFollower: Bool
    /// Whether the open transaction holds an owner's changes that are not finished, and nothing else.
    var isApplying = false
    var isClosed = false
    var hasGarbage = true
    /// Whether directories are missing: `CatalogState+Arrival`.
    package internal(set) var isArriving: Bool
    /// What the origin's sums promise and has not come.
    var pending = PendingSums()
    /// Names that the origin said do not exist, in directories that are missing.
    var absentNames: Set<ListingRequest.Name> = []
    /// What has changed since this site began to own the head: `CatalogState+Changed`.
    var changed: ChangeRecord
    /// Stays until the head is opened anew: part of the log is lost, or would not be found by the next opening.
    var failure: SQLiteError?

    init(connection: Connection, memory: CatalogMemory) throws(SQLiteError) {
        self.connection = connection
        connection.recorder = recorder
        let statements = try CatalogStatements(connection)
        self.statements = statements
        cleanInodeLimit = memory.inodeCount
        nextEviction = memory.inodeCount
        sequence = SequenceNumber(try statements.meta(.sequence) ?? 0).next
        counters = try Self.storedCounters(statements)
        limits = try Self.storedLimits(statements)
        isFollower = try statements.meta(.isFollower) == 1
        missingByteCount = UInt64(bitPattern: try statements.meta(.missingByteCount) ?? 0)
        nextData = UInt64(bitPattern: try statements.meta(.nextData) ?? 1)
        durableData = UInt64(bitPattern: try statements.meta(.durableData) ?? 1)
        sizes = try DataFileSizes(statements)
        isArriving = try Self.storedArrival(statements)
        pending = isArriving ? try PendingSums(statements) : PendingSums()
        changed = try ChangeRecord(statements, connection)
        newestPin =
            try connection.prepare("SELECT max(newest) FROM pin").first { row in
                row.isNull(0) ? nil : SequenceNumber(row.integer(0))
            } ?? nil
    }

    private static func storedCounters(
        _ statements: CatalogStatements
    ) throws(SQLiteError) -> CatalogCounters {
        CatalogCounters(
            nextInode: InodeNumber(UInt64(bitPattern: try statements.meta(.nextInode) ?? 2)),
            nextCookie: try statements.meta(.nextCookie) ?? 1,
            inodeCount: UInt64(bitPattern: try statements.meta(.inodeCount) ?? 0),
            byteCount: UInt64(bitPattern: try statements.meta(.byteCount) ?? 0),
            allocatedByteCount: UInt64(bitPattern: try statements.meta(.allocatedByteCount) ?? 0))
    }

    private static func storedArrival(_ statements: CatalogStatements) throws(SQLiteError) -> Bool {
        try statements.listMissing.first { _ in true } ?? false
    }

    private static func storedLimits(_ statements: CatalogStatements) throws(SQLiteError) -> VolumeLimits {
        VolumeLimits(
            byteCount: UInt64(bitPattern: try statements.meta(.capacity) ?? 0),
            inodeCount: UInt64(bitPattern: try statements.meta(.inodeCapacity) ?? 0))
    }

    // MARK: capacity

    /// Changes what the volume may hold; what it holds already stays.
    package mutating func setLimits(_ limits: VolumeLimits) throws {
        try beginIfNeeded()
        try statements.setMeta(.capacity, Int64(bitPattern: limits.byteCount))
        try statements.setMeta(.inodeCapacity, Int64(bitPattern: limits.inodeCount))
        self.limits = limits
    }

    /// Bytes that may still be taken; nil: no limit.
    private var freeByteCount: UInt64? {
        guard limits.byteCount > 0 else { return nil }
        let taken = counters.allocatedByteCount &+ reservedByteCount
        return limits.byteCount - min(limits.byteCount, taken)
    }

    /// Sets capacity aside for a write, so that writes at the same time cannot exceed it together.
    ///
    /// - Returns: how much there was, `byteCount` at most; to be given back with `unreserve`, whatever became of
    ///   the write.
    package mutating func reserve(_ byteCount: UInt64) -> UInt64 {
        let granted = min(byteCount, freeByteCount ?? byteCount)
        reservedByteCount &+= granted
        return granted
    }

    package mutating func unreserve(_ byteCount: UInt64) {
        reservedByteCount -= min(byteCount, reservedByteCount)
    }

    // MARK: inodes

    /// - Returns: nil when there is no such inode.
    package mutating func inode(_ number: InodeNumber) throws -> InodeRecord? {
        if let cached = inodes[number] { return cached.record }
        guard let (record, born) = try storedInode(number) else { return nil }
        inodes[number] = CachedInode(record: record, born: born)
        return record
    }

    /// The same without keeping it in memory: for listings, which may pass a million inodes.
    package func peekInode(_ number: InodeNumber) throws -> InodeRecord? {
        if let cached = inodes[number] { return cached.record }
        return try storedInode(number)?.record
    }

    func storedInode(
        _ number: InodeNumber
    ) throws -> (record: InodeRecord, born: SequenceNumber)? {
        statements.getInode.bind(1, number.number)
        guard let row = try statements.getInode.first(CatalogStatements.record(of:)) else { return nil }
        // A damaged page may have the row of another one where an index says that this one is.
        guard let row, row.0.attributes.inode == number else {
            throw CatalogError.unusable(path: connection.path, reason: "inode \(number) is malformed")
        }
        return row
    }

    /// Which part of an inode a change concerns: what fdatasync must wait for, only fsync, or nobody.
    package enum ChangeKind: Sendable {
        /// Size, existence, names, valid ranges.
        case structural
        /// Times, owner, permissions.
        case metadata
        /// When it was last read.
        case access
    }

    /// Changes an inode in memory; the next commit writes it.
    ///
    /// - Throws: also when the commit would come upon damage in doing so.
    package mutating func update(_ record: InodeRecord, kind: ChangeKind) throws {
        let number = record.attributes.inode
        guard var cached = inodes[number] else {
            preconditionFailure("an inode is read before it is changed")
        }
        try checkIsWritable(number, &cached)
        try beginIfNeeded()
        undo.note(number, cached, wasDirty: !dirtyInodes.insert(number).inserted)
        count(removing: cached.record, adding: record)
        cached.record = record
        mark(&cached, kind)
        inodes[number] = cached
    }

    /// A commit that comes upon damage fails for everybody; one change that does, for who makes it. The row itself has been
    /// read, but not where the indices name it. Once for each inode in memory: some 3 µs, measured with 500,000 of them.
    private func checkIsWritable(_ number: InodeNumber, _ cached: inout CachedInode) throws(SQLiteError) {
        guard let born = cached.born, !cached.wasProbed else { return }
        statements.probeBirth.bind(1, born.number)
        statements.probeBirth.bind(2, number.number)
        _ = try statements.probeBirth.first { _ in true }
        if cached.record.backedByteCount > 0 {
            statements.probeBacking.bind(1, number.number)
            _ = try statements.probeBacking.first { _ in true }
        }
        cached.wasProbed = true
    }

    /// Makes a new inode with the next number.
    ///
    /// - Throws: ENOSPC when the volume may have no more.
    package mutating func addInode(_ make: (InodeNumber) -> InodeRecord) throws -> InodeRecord {
        guard limits.inodeCount == 0 || counters.inodeCount < limits.inodeCount else { throw Errno.noSpace }
        try beginIfNeeded()
        let number = counters.nextInode
        undo.note(number, nil, wasDirty: false)
        counters.nextInode = InodeNumber(number.number + 1)
        // A damaged sum is wrong, but no reason to end.
        counters.inodeCount &+= 1
        let record = make(number)
        var cached = CachedInode(record: record, born: nil, hasAttributes: false)
        mark(&cached, .structural)
        counters.byteCount &+= record.countedByteCount
        inodes[number] = cached
        dirtyInodes.insert(number)
        return record
    }

    /// Removes an inode that has no name. Its data file is deleted once that is durable.
    package mutating func removeInode(_ number: InodeNumber) throws {
        guard let record = try inode(number), let cached = inodes[number] else { return }
        try beginIfNeeded()
        count(removing: record, adding: nil)
        counters.inodeCount -= min(1, counters.inodeCount)
        if record.backedByteCount > 0 { try dropResidency(of: number) }
        try discardData(record.data)
        if let born = cached.born { try endInode(number, born: born) }
        if let newestPin {
            statements.endAllXattrs.bind(1, number.number)
            statements.endAllXattrs.bind(2, sequence.number)
            statements.endAllXattrs.bind(3, newestPin.number)
            try statements.endAllXattrs.run()
        }
        statements.deleteAllXattrs.bind(1, number.number)
        try statements.deleteAllXattrs.run()
        undo.note(number, inodes[number], wasDirty: dirtyInodes.remove(number) != nil)
        inodes[number] = nil
        try forgetChanges(of: number)
        try noteGone(number)
    }

    /// Marks an inode so that an fsync of it waits for the next commit: its names changed.
    package mutating func touch(_ number: InodeNumber) {
        guard var cached = inodes[number] else { return }
        undo.note(number, cached, wasDirty: nil)
        mark(&cached, .structural)
        inodes[number] = cached
    }

    private func mark(_ cached: inout CachedInode, _ kind: ChangeKind) {
        switch kind {
        case .structural:
            cached.structuralGeneration = openGeneration
            cached.metadataGeneration = openGeneration
        case .metadata: cached.metadataGeneration = openGeneration
        case .access: break
        }
    }

    mutating func count(removing old: InodeRecord?, adding new: InodeRecord?) {
        let oldCount = old?.countedByteCount ?? 0
        let newCount = new?.countedByteCount ?? 0
        counters.byteCount = counters.byteCount &- oldCount &+ newCount
        counters.allocatedByteCount =
            counters.allocatedByteCount &- (old?.allocatedByteCount ?? 0) &+ (new?.allocatedByteCount ?? 0)
    }

    func endInode(_ number: InodeNumber, born: SequenceNumber) throws(SQLiteError) {
        if isPinned(born) {
            statements.endInode.bind(1, number.number)
            statements.endInode.bind(2, sequence.number)
            try statements.endInode.run()
        } else {
            statements.deleteInode.bind(1, number.number)
            try statements.deleteInode.run()
        }
    }

    /// Whether somebody may still want to see a row that was born then.
    func isPinned(_ born: SequenceNumber) -> Bool {
        guard let newestPin else { return false }
        return born <= newestPin
    }

    // MARK: data files

    /// The number that the next data file gets.
    package var nextDataFile: DataFileNumber { DataFileNumber(nextData) }

    /// Takes that number, once the file is there.
    package mutating func takeDataFile() throws -> DataFileNumber {
        try beginIfNeeded()
        defer { nextData += 1 }
        return DataFileNumber(nextData)
    }

    /// Notes that every data file with a lower number was synced, name and all.
    package mutating func noteDurable(below next: DataFileNumber) throws {
        guard next.number > durableData else { return }
        try beginIfNeeded()
        durableData = next.number
        try statements.setMeta(.durableData, Int64(bitPattern: durableData))
    }

    /// Leaves a data file to be deleted once this change is durable.
    package mutating func discardData(_ data: DataFileNumber) throws {
        guard data != .none else { return }
        try beginIfNeeded()
        if let note = awaited.notes[data] { undo.awaited[data] = note }
        awaited.forget(data)
        statements.putGarbage.bind(1, data.number)
        try statements.putGarbage.run()
        hasGarbage = true
    }

    // MARK: transaction

    mutating func beginIfNeeded() throws {
        if let failure { throw CatalogError.failedBefore(failure) }
        // What can no longer be made durable is not accepted.
        if let syncFailure { throw syncFailure }
        if let commitFailure { throw CatalogError.database(commitFailure) }
        try begin()
    }

    mutating func begin() throws {
        if connection.isInTransaction { try redoIfSpoilt() } else { try beginTransaction() }
        hasChanges = true
        if undo.sums == nil { undo.sums = undoSums }
    }

    func beginTransaction() throws(SQLiteError) {
        let isOn = recorder.isOn
        recorder.isOn = false
        defer { recorder.isOn = isOn }
        try statements.begin.run()
        connection.noteBeginning()
    }

    /// Whether nothing may be changed at the moment, because of what the disk did not take.
    package var refusesChanges: Bool { failure != nil || syncFailure != nil || commitFailure != nil }

    /// Begins, or goes on with, applying an owner's changes.
    mutating func beginApplication() throws {
        guard isFollower else {
            throw CatalogError.unusable(
                path: connection.path, reason: "it is no follower's: it takes nobody else's changes")
        }
        if isApplying { return }
        _ = try commit()
        try beginIfNeeded()
        isApplying = true
        recorder.isOn = false
    }

    /// Takes back an owner's changes that were not finished.
    mutating func abandonApplication() throws {
        guard isApplying else { return }
        undo.forget()
        isApplying = false
        recorder.isOn = true
        if connection.isInTransaction { try connection.execute("ROLLBACK") }
        hasChanges = false
        inodes.removeAll()
        dirtyInodes.removeAll()
        unrecordedInodes.removeAll()
        unrecordedByteCount = 0
        counters = try Self.storedCounters(statements)
        limits = try Self.storedLimits(statements)
        missingByteCount = UInt64(bitPattern: try statements.meta(.missingByteCount) ?? 0)
        isArriving = try Self.storedArrival(statements)
        pending = isArriving ? try PendingSums(statements) : PendingSums()
    }
}
