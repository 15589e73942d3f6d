internal import SQLite
package import VolumeModel

extension CatalogState {
    /// Changes that may wait for the next commit. They are kept in memory twice: in SQLite's pages and for `redo`.
    private static let pendingChangeLimit = 20_000
    private static let pendingByteLimit = 16 << 20
    /// The same while a commit is under way that waits for bytes, maybe for many seconds: what is changed meanwhile is not
    /// held up until then.
    private static let overdueFactor = 5

    /// Changes that are made again after an operation that failed, rather than committed.
    private static let redoLimit = 1000

    /// Runs an operation: all of what it changes is there afterwards, or nothing.
    ///
    /// - Parameter directory: the head's, as errors name it.
    mutating func operate<Result>(
        on directory: String, _ body: (inout CatalogState) throws -> Result
    ) throws -> Result {
        try beginOperation(on: directory)
        do {
            return try body(&self)
        } catch {
            throw failedOperation(error)
        }
    }

    /// - Parameter directory: the head's, as errors name it.
    mutating func beginOperation(on directory: String) throws {
        guard !isClosed else { throw CatalogError.unusable(path: directory, reason: "it is closed") }
        do {
            try prepareOperation()
        } catch let error as SQLiteError {
            throw CatalogError.database(error)
        }
        undo.forget()
    }

    /// Takes an operation back that failed half-way.
    ///
    /// - Returns: what its caller is told.
    mutating func failedOperation(_ error: any Error) -> any Error {
        let isMadeAgain = undo.sums != nil || connection.refusesChanges
        takeBack()
        // The next ones may fail as well, on the same damage: not each is to make so much again.
        if isMadeAgain, recorder.count >= Self.redoLimit, awaited.isEmpty { _ = try? commit() }
        if let error = error as? SQLiteError { return CatalogError.database(error) }
        return error
    }

    /// What is to be done between operations, for each may rely on what it has read. Also when nothing is
    /// committed for long, as while somebody searches a million files.
    mutating func prepareOperation() throws {
        try redoIfTakenBack()
        if inodes.count >= nextEviction { evictInodes() }
        // A failure is for who changes something next, or waits for a commit.
        guard isCommitDue, awaited.isEmpty else { return }
        if (try? commit()) == nil { try redoIfTakenBack() }
    }

    /// Whether more waits for a commit than should.
    var isCommitDue: Bool { hasPending(1) && commitFailure == nil }

    /// Whether so much waits that nothing may be added before it.
    var isCommitOverdue: Bool { hasPending(Self.overdueFactor) }

    private func hasPending(_ factor: Int) -> Bool {
        recorder.count >= factor * Self.pendingChangeLimit
            || recorder.byteCount >= factor * Self.pendingByteLimit
    }

    /// Gives everything to SQLite's log. After a failure all changes are still there, in memory, and the next
    /// call tries again; until then nothing new is accepted.
    mutating func commit() throws -> UInt64 {
        if let failure { throw CatalogError.failedBefore(failure) }
        // An owner's changes are one change: what has been applied so far is not to be seen alone.
        guard hasChanges, !isApplying else { return openGeneration - 1 }
        assert(awaited.isEmpty, "a commit that does not wait for bytes")
        try redoIfSpoilt()
        let canRedo = recorder.isOn
        recorder.isOn = false
        defer { recorder.isOn = true }
        var lives: [(inode: InodeNumber, born: SequenceNumber?)] = []
        do {
            try begin()
            try writeDirtyInodes(&lives)
            try writeChanges()
            try writeCounters()
            try statements.commit.run()
        } catch let error as SQLiteError {
            for life in lives { inodes[life.inode]?.born = life.born }
            if canRedo {
                isTakenBack = true
                commitFailure = error
            } else {
                isApplying = true
                try abandonApplication()
            }
            throw CatalogError.database(error)
        }
        dirtyInodes.removeAll(keepingCapacity: true)
        changed.noteCommitted()
        recorder.forget()
        commitFailure = nil
        hasChanges = false
        undo.forget()
        sequence = sequence.next
        openGeneration += 1
        return openGeneration - 1
    }

    /// Damage that was only read has made the open transaction useless: it is taken back, and made again.
    mutating func redoIfSpoilt() throws {
        // An owner's changes are taken back when the next one fails, for these can be had again.
        if connection.refusesChanges, !isApplying { isTakenBack = true }
        try redoIfTakenBack()
    }

    /// A failed commit makes SQLite take back the whole transaction: what had been accepted is put in again.
    mutating func redoIfTakenBack() throws {
        guard isTakenBack else { return }
        recorder.isOn = false
        defer { recorder.isOn = true }
        if connection.isInTransaction { try connection.execute("ROLLBACK") }
        try beginTransaction()
        try recorder.replay()
        isTakenBack = false
    }

    /// - Parameter lives: takes which inode's row was born when, before this.
    private mutating func writeDirtyInodes(
        _ lives: inout [(inode: InodeNumber, born: SequenceNumber?)]
    ) throws {
        // In the order of the table: neighbours are on the same page.
        for number in dirtyInodes.sorted() {
            guard var cached = inodes[number] else { continue }
            lives.append((number, cached.born))
            if let born = cached.born, isPinned(born) { try endInode(number, born: born) }
            // What may have become longer is born anew, for `DataFileSizes`. Who follows is sent it in any case.
            let mayBeLonger =
                cached.record.data != .none && cached.structuralGeneration == openGeneration
            let stays = !mayBeLonger && cached.born.map { !isPinned($0) } ?? false
            let born = stays ? (cached.born ?? sequence) : sequence
            if born == sequence, cached.record.data != .none { sizes.lastBirth = sequence }
            try statements.put(cached.record, born: born)
            cached.born = born
            inodes[number] = cached
        }
    }

    private func writeCounters() throws(SQLiteError) {
        if isArriving { try pending.write(statements) }
        try statements.setMeta(.sequence, sequence.number)
        try sizes.write(statements, at: sequence)
        try statements.setMeta(.nextInode, Int64(bitPattern: counters.nextInode.number))
        try statements.setMeta(.nextCookie, counters.nextCookie)
        try statements.setMeta(.nextData, Int64(bitPattern: nextData))
        try statements.setMeta(.inodeCount, Int64(bitPattern: counters.inodeCount))
        try statements.setMeta(.byteCount, Int64(bitPattern: counters.byteCount))
        try statements.setMeta(.allocatedByteCount, Int64(bitPattern: counters.allocatedByteCount))
        // What has arrived but is not recorded is missing again after a crash.
        try statements.setMeta(.missingByteCount, Int64(bitPattern: missingByteCount &+ unrecordedByteCount))
    }

    /// Forgets what the database knows as well. Not in the midst of an operation.
    mutating func evictInodes() {
        inodes = inodes.filter { number, cached in
            // What is not durable yet must stay, for an fsync to find out.
            dirtyInodes.contains(number) || unrecordedInodes.contains(number)
                || max(cached.metadataGeneration, cached.structuralGeneration) > durableGeneration
        }
        // Not again at once when there was little to forget; a sync changes that.
        nextEviction = max(cleanInodeLimit, inodes.count + max(cleanInodeLimit, inodes.count) / 4)
    }

    /// Looks at what opening it relies on, before anything is changed.
    ///
    /// - Returns: inodes whose data files may be gone or too short, after an end that was not in order.
    /// - Throws: `.unusable` when it cannot be counted on.
    func inspect(wasClean: Bool) throws -> [InodeNumber] {
        func refuse(_ what: String) -> CatalogError {
            .unusable(path: connection.path, reason: "\(what): it is damaged, restore it from another copy")
        }
        // From the first opening on all of them are written with every commit.
        if try statements.meta(.isClean) != nil {
            for key in [CatalogKey.sequence, .nextInode, .nextCookie, .nextData]
            where try statements.meta(key) == nil {
                throw refuse("it does not tell '\(key.rawValue)'")
            }
        }
        let limit = Int64.max / 2
        let next = [
            counters.nextInode.number, UInt64(bitPattern: counters.nextCookie), nextData, durableData,
        ]
        guard next.allSatisfy({ (1...UInt64(limit)).contains($0) }), (1...limit).contains(sequence.number),
            limits.isCountable
        else { throw refuse("it has counters that cannot be counted on from") }
        guard !isFollower else { return [] }
        guard try peekInode(.root)?.attributes.kind == .directory else {
            throw refuse("it has no root directory")
        }
        for orphan in try orphans() { _ = try peekInode(orphan) }
        var inodes = Set(try unsettledInodes())
        if !wasClean {
            inodes.formUnion(
                try self.inodes(withDataFrom: DataFileNumber(durableData)).map(\.attributes.inode))
        }
        return inodes.sorted()
    }

    mutating func markInUse(wasClean: Bool) throws {
        try beginIfNeeded()
        // What these files had taken and was not synced is gone: their counts say too much.
        if !wasClean {
            try statements.setMeta(.uncertainData, Int64(bitPattern: nextData))
            try noteCrash()
        }
        try statements.setMeta(.isClean, 0)
    }

    mutating func markClean() throws {
        try beginIfNeeded()
        try statements.setMeta(.isClean, 1)
    }

    /// The generation that a fsync (or fdatasync, with `dataOnly`) of an inode must see durable; nil: none.
    package func generationToSync(_ number: InodeNumber, dataOnly: Bool) -> UInt64? {
        // What was said to be durable may not be: nothing more is.
        if failure != nil { return openGeneration }
        guard let cached = inodes[number] else { return nil }
        let generation = dataOnly ? cached.structuralGeneration : cached.metadataGeneration
        return generation == 0 ? nil : generation
    }

    func garbage() throws(SQLiteError) -> [DataFileNumber] {
        var batch: [DataFileNumber] = []
        try statements.listGarbage.forEach {
            batch.append(DataFileNumber($0.unsigned(0)))
            return true
        }
        return batch
    }

    mutating func forgetGarbage(_ batch: [DataFileNumber]) throws {
        try beginIfNeeded()
        for data in batch {
            statements.deleteGarbage.bind(1, data.number)
            try statements.deleteGarbage.run()
        }
    }

    package mutating func epoch() throws -> Epoch {
        Epoch(UInt64(bitPattern: try statements.meta(.epoch) ?? 0))
    }

    /// Raises the epoch's high-water mark, which is kept with the data as well as in the registry.
    ///
    /// A follower's head ceases to be one with it: what of its owner's changes was not finished is gone,
    /// and no more are taken.
    ///
    /// - Parameter keepsBeginning: whether files as the follower had them are to be known until `forgetBeginning`.
    package mutating func setEpoch(_ epoch: Epoch, keepsBeginning: Bool = false) throws {
        try abandonApplication()
        try beginIfNeeded()
        if isFollower {
            if keepsBeginning {
                _ = try pin(Catalog.beginningPin, since: nil, newest: committedSequence)
            }
            // Whoever had them open had so elsewhere.
            for orphan in try orphans() { try removeInode(orphan) }
            try statements.setMeta(.isFollower, 0)
            isFollower = false
            try beginChangeRecord(since: epoch)
            try statements.setMeta(.headName, StateName.random())
        }
        try breakSeal()
        try statements.setMeta(.epoch, Int64(bitPattern: epoch.number))
    }

    /// The number of the last commit.
    var lastSequence: SequenceNumber { SequenceNumber(sequence.number - 1) }

    /// Live inodes without a name, left while somebody had them open.
    package func orphans() throws -> [InodeNumber] {
        var orphans: [InodeNumber] = []
        let statement = try connection.prepare("SELECT ino FROM inode WHERE died = 0 AND links = 0")
        try statement.forEach {
            orphans.append(InodeNumber($0.unsigned(0)))
            return true
        }
        return orphans
    }

    /// Live inodes whose data files have this number or a higher one. Looks at all inodes.
    package func inodes(withDataFrom first: DataFileNumber) throws -> [InodeRecord] {
        var numbers: [InodeNumber] = []
        let statement = try connection.prepare("SELECT ino FROM inode WHERE died = 0 AND data >= ?1")
        statement.bind(1, first.number)
        try statement.forEach {
            numbers.append(InodeNumber($0.unsigned(0)))
            return true
        }
        return try numbers.compactMap { try peekInode($0) }.filter { $0.data >= first }
    }

    /// What a follower's catalog says of a file with bytes.
    package struct FileWithBytes: Hashable, Sendable {
        package let inode: InodeNumber
        package let size: UInt64
        package let changeTime: FileTime
    }

    /// Up to `limit` files above `inode` whose bytes are all at the origin, and whose inodes have changed since, ascending.
    package func filesWithBytes(
        after inode: InodeNumber, changedSince position: SequenceNumber, limit: Int
    ) throws -> [FileWithBytes] {
        let statement = try connection.prepare(
            """
            SELECT ino FROM inode
            WHERE died = 0 AND backed > 0 AND links > 0 AND ino > ?1 AND born > ?2 ORDER BY ino LIMIT ?3
            """)
        statement.bind(1, inode.number)
        statement.bind(2, position.number)
        statement.bind(3, Int64(limit))
        var found: [InodeNumber] = []
        try statement.forEach {
            found.append(InodeNumber($0.unsigned(0)))
            return true
        }
        return try found.compactMap { try peekInode($0)?.attributes }.filter { $0.kind == .regular }.map {
            FileWithBytes(inode: $0.inode, size: $0.size, changeTime: $0.changeTime)
        }
    }

    /// Up to `limit` inodes above `inode` whose bytes may still be at the origin, ascending.
    package func backedInodes(after inode: InodeNumber, limit: Int) throws -> [InodeNumber] {
        let statement = try connection.prepare(
            "SELECT ino FROM inode WHERE died = 0 AND backed > 0 AND ino > ?1 ORDER BY ino LIMIT ?2")
        statement.bind(1, inode.number)
        statement.bind(2, Int64(limit))
        var found: [InodeNumber] = []
        try statement.forEach {
            found.append(InodeNumber($0.unsigned(0)))
            return true
        }
        return found
    }
}
