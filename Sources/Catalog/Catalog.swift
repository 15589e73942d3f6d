internal import Glibc
internal import SQLite
internal import Synchronization
package import VolumeModel

/// The namespace of one head: inodes, names, extended attributes, and which bytes of each file are here.
///
/// Changes are made in memory and in one open SQLite transaction, and are seen by everybody at once. They
/// reach the disk in group commits: `commit` writes them to SQLite's log, `synchronize` waits until the
/// log is on disk. After a crash the catalog is as of some commit, and everything synchronized is there.
/// A process holds the head's lock file while it has the catalog open, so that no second one can.
package final class Catalog: Sendable {
    package static let fileName = "catalog.db"
    /// A log longer than this is emptied at the next checkpoint, which holds up changes for a moment. Without
    /// it a steady stream of fsyncs would let the log grow for ever: each adds to it before it is all moved.
    private static let logByteCount: Int64 = 64 << 20

    /// The directory of the head, as given.
    package let directory: String
    /// Whether the last user of the head ended in order. If not, data files may be longer than they should be.
    package let wasClosedCleanly: Bool
    private let state: Mutex<CatalogState>
    /// A second connection, so that moving the log into the database stops nobody.
    private let checkpointer: Mutex<Connection>
    private let logDescriptor: Int32
    private let lock: HeadLock

    /// Makes the catalog of an empty volume: a root directory and nothing else.
    ///
    /// - Parameters:
    ///   - directory: exists and holds no catalog. One that nobody has opened yet is made anew.
    ///   - withRoot: false for a follower, which gets its root, like all else, from its owner.
    package static func create(
        in directory: String, limits: VolumeLimits, epoch: Epoch, now: FileTime, withRoot: Bool
    ) throws(CatalogError) {
        let lock = try HeadLock(directory: directory)
        defer { lock.release() }
        let path = directory + "/" + fileName
        guard try !isInUse(path) else {
            throw .unusable(path: path, reason: "there is a catalog already")
        }
        for suffix in ["", "-wal", "-shm"] where unlink(path + suffix) != 0 && errno != ENOENT {
            throw .system(call: "unlink", path: path, Errno(errno))
        }
        do {
            let connection = try Connection(path: path, mode: .create)
            try connection.execute(CatalogSchema.pragmas)
            try connection.execute("PRAGMA synchronous = FULL")
            try connection.execute("BEGIN")
            try connection.execute(CatalogSchema.statements)
            let statements = try CatalogStatements(connection)
            if withRoot {
                let root = FileAttributes(
                    inode: .root, kind: .directory, permissions: 0o755, linkCount: 2, uid: 0, gid: 0,
                    accessTime: now, modificationTime: now, changeTime: now)
                try statements.put(InodeRecord(attributes: root), born: SequenceNumber(1))
                try statements.setMeta(.inodeCount, 1)
            } else {
                try statements.setMeta(.isFollower, 1)
            }
            try statements.setMeta(.sequence, 1)
            try statements.setMeta(.epoch, Int64(bitPattern: epoch.number))
            try statements.setMeta(.capacity, Int64(bitPattern: limits.byteCount))
            try statements.setMeta(.inodeCapacity, Int64(bitPattern: limits.inodeCount))
            try statements.setMeta(.schemaVersion, CatalogSchema.version)
            try connection.execute("COMMIT")
        } catch {
            throw .database(error)
        }
        try synchronizeDirectory(directory)
    }

    /// Whether a catalog was ever opened: what was cut off while it was made, was not.
    private static func isInUse(_ path: String) throws(CatalogError) -> Bool {
        do {
            let connection = try Connection(path: path, mode: .readWrite)
            return try connection.prepare("SELECT 1 FROM meta WHERE key = 'is_clean'").first { _ in true }
                ?? false
        } catch {
            // No file, or one without the table. A damaged one is somebody's too.
            guard error.isCorruption else { return false }
            throw .unusable(path: path, reason: error.message)
        }
    }

    /// Opens a head's catalog.
    ///
    /// - Throws: `.unusable` when the file is missing, damaged, or of a newer release, or when another
    ///   process has it open: nothing is changed then.
    package init(opening directory: String) throws(CatalogError) {
        let path = directory + "/" + Self.fileName
        lock = try HeadLock(directory: directory)
        self.directory = directory
        do {
            let connection = try Connection(path: path, mode: .readWrite)
            try connection.execute(CatalogSchema.pragmas)
            connection.keepWriteAheadLog()
            // Nobody else writes; but someone may look at it with SQLite's own shell.
            connection.setBusyTimeout(milliseconds: 5000)
            try Self.checkVersion(of: connection, path: path)
            var state = try CatalogState(connection: connection)
            wasClosedCleanly = try state.statements.meta(.isClean) ?? 1 == 1
            try state.markInUse(wasClean: wasClosedCleanly)
            self.state = Mutex(state)
            let second = try Connection(path: path, mode: .readWrite)
            try second.execute("PRAGMA synchronous = FULL")
            second.keepWriteAheadLog()
            checkpointer = Mutex(second)
        } catch let error as SQLiteError {
            lock.release()
            throw error.isCorruption || error.isMissingFile
                ? .unusable(path: path, reason: error.message) : .database(error)
        } catch {
            lock.release()
            throw (error as? CatalogError) ?? .unusable(path: path, reason: "\(error)")
        }
        logDescriptor = Glibc.open(path + "-wal", O_RDONLY | O_CLOEXEC)
        guard logDescriptor >= 0 else { throw .system(call: "open", path: path + "-wal", Errno(errno)) }
        // The names of the database and its log must be as durable as what they hold.
        for name in [directory, directory + "/.."] { try Self.synchronizeDirectory(name) }
        // That it is in use must be durable before the first byte of a data file changes.
        try synchronize()
    }

    deinit {
        if logDescriptor >= 0 { Glibc.close(logDescriptor) }
        lock.release()
    }

    static func checkVersion(of connection: Connection, path: String) throws {
        let statement = try? connection.prepare("SELECT value FROM meta WHERE key = 'schema_version'")
        guard let version = try statement?.first({ $0.integer(0) }) else {
            throw CatalogError.unusable(path: path, reason: "it holds no catalog")
        }
        guard version == CatalogSchema.version else {
            throw CatalogError.unusable(
                path: path,
                reason: "it has schema version \(version), this release knows \(CatalogSchema.version): "
                    + "use the release that wrote it")
        }
    }

    static func synchronizeDirectory(_ path: String) throws(CatalogError) {
        let descriptor = Glibc.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .system(call: "open", path: path, Errno(errno)) }
        defer { Glibc.close(descriptor) }
        guard fsync(descriptor) == 0 else { throw .system(call: "fsync", path: path, Errno(errno)) }
    }

    // MARK: use

    /// Runs one operation: what it changes becomes durable together or not at all.
    ///
    /// `body` checks everything that may be refused before its first change.
    package func perform<Result: Sendable>(
        _ body: (inout CatalogState) throws -> Result
    ) throws -> Result {
        try state.withLock { (state) throws -> Result in
            guard !state.isClosed else {
                throw CatalogError.unusable(path: directory, reason: "it is closed")
            }
            let changeCount = state.changeCount
            // Between operations, for each may rely on what it has read. Also when nothing is committed for long,
            // as while somebody searches a million files.
            if state.inodes.count >= state.nextEviction { state.evictInodes() }
            do {
                return try body(&state)
            } catch let error as SQLiteError {
                // The operation may be half done in the open transaction: no commit may follow.
                state.failure = state.failure ?? error
                throw CatalogError.database(error)
            } catch CatalogError.unusable(let path, let reason) {
                // Damage that was found in the midst of an operation: the same.
                if state.changeCount != changeCount {
                    state.failure = state.failure ?? SQLiteError(code: 11, message: reason)
                }
                throw CatalogError.unusable(path: path, reason: reason)
            }
        }
    }

    /// Writes all changes so far to the log. They survive the end of the process, not a power loss.
    ///
    /// - Returns: the generation that holds them.
    @discardableResult
    package func commit() throws(CatalogError) -> UInt64 {
        do {
            return try state.withLock { (state) throws -> UInt64 in try state.commit() }
        } catch let error as CatalogError {
            throw error
        } catch let error as SQLiteError {
            throw .database(error)
        } catch {
            throw .unusable(path: directory, reason: "\(error)")
        }
    }

    /// Waits until everything up to a generation is on disk; nil: everything there is now.
    ///
    /// A failed sync is remembered: pages may be gone although a later sync succeeds, so every
    /// later call fails too.
    package func synchronize(upTo generation: UInt64? = nil) throws(CatalogError) {
        if let generation, try isDurable(generation) { return }
        let committed = try commit()
        if try isDurable(committed) { return }
        if fdatasync(logDescriptor) != 0 {
            let error = CatalogError.system(
                call: "fdatasync", path: directory + "/catalog.db-wal", Errno(errno))
            state.withLock { $0.syncFailure = $0.syncFailure ?? error }
            throw error
        }
        state.withLock { state in
            state.durableGeneration = max(state.durableGeneration, committed)
            state.nextEviction = CatalogState.cleanInodeLimit
        }
    }

    /// Whether a power loss now would take back a commit.
    package var hasUnsynchronizedCommits: Bool {
        state.withLock { $0.durableGeneration < $0.openGeneration - 1 }
    }

    private func isDurable(_ generation: UInt64) throws(CatalogError) -> Bool {
        let (durable, failure) = state.withLock { ($0.durableGeneration, $0.syncFailure) }
        if let failure { throw failure }
        return durable >= generation
    }

    /// Moves the log into the database, so that the log stays small. Stops no operation but when the log has
    /// become long; then what little came meanwhile is moved as well, and the log begins anew.
    package func checkpoint() throws(CatalogError) {
        do {
            try checkpointer.withLock { connection throws(SQLiteError) in try connection.checkpoint() }
            var status = stat()
            guard fstat(logDescriptor, &status) == 0, status.st_size > Self.logByteCount else { return }
            try state.withLock { state in
                _ = try state.commit()
                guard !state.connection.isInTransaction else { return }
                try checkpointer.withLock { try $0.checkpoint(empties: true) }
            }
        } catch let error as SQLiteError {
            throw .database(error)
        } catch {
            throw (error as? CatalogError) ?? .unusable(path: directory, reason: "\(error)")
        }
    }

    /// Deletes data files whose last use is durably gone.
    ///
    /// - Parameter delete: deletes one; a file that is missing already is no failure.
    package func collectGarbage(_ delete: (DataFileNumber) throws -> Void) throws {
        while true {
            let batch = try perform { state in
                let batch = state.hasGarbage ? try state.garbage() : []
                if batch.isEmpty { state.hasGarbage = false }
                return batch
            }
            guard !batch.isEmpty else { return }
            // Only what a durable commit has discarded may go: until then a crash could bring it back.
            try synchronize()
            for data in batch { try delete(data) }
            // Exactly these: others with lower numbers may have been discarded meanwhile.
            try perform { try $0.forgetGarbage(batch) }
        }
    }

    /// A path of an inode, for people: one of its names as of the last commit, or nil if that cannot be told.
    ///
    /// Looks through all names, on a connection of its own: a second for some millions of them.
    package func path(of inode: InodeNumber) -> String? {
        guard let connection = try? Connection(path: directory + "/" + Self.fileName, mode: .readWrite),
            let anywhere = try? connection.prepare(
                "SELECT name, parent FROM entry WHERE ino = ?1 AND died = 0"),
            let inParent = try? connection.prepare(
                """
                SELECT entry.name, entry.parent FROM inode JOIN entry ON entry.parent = inode.parent
                WHERE inode.ino = ?1 AND inode.died = 0 AND entry.ino = ?1 AND entry.died = 0
                """)
        else { return nil }
        var names: [String] = []
        var current = inode
        while current != .root, names.count < 4096 {
            let statement = names.isEmpty ? anywhere : inParent
            statement.bind(1, current.number)
            let found = try? statement.first { ($0.text(0), InodeNumber($0.unsigned(1))) }
            guard let (name, parent) = found ?? nil else { return nil }
            names.append(name)
            current = parent
        }
        return "/" + names.reversed().joined(separator: "/")
    }

    /// Lets go of the catalog as a crash would: what is not durable may be lost.
    package func abandon() {
        state.withLock { state in
            state.isClosed = true
            // An open transaction would keep the next opener waiting for as long as this object lives.
            if state.connection.isInTransaction { try? state.connection.execute("ROLLBACK") }
        }
        lock.release()
    }

    /// Writes everything and says that the end was in order. The catalog refuses everything afterwards, and
    /// another process may open it.
    package func close() throws(CatalogError) {
        defer { abandon() }
        do {
            let isClosed = try state.withLock { state in
                if state.isClosed { return true }
                try state.abandonApplication()
                try state.markClean()
                _ = try state.commit()
                state.isClosed = true
                return false
            }
            if isClosed { return }
        } catch let error as SQLiteError {
            throw .database(error)
        } catch {
            throw (error as? CatalogError) ?? .unusable(path: directory, reason: "\(error)")
        }
        try synchronize()
        try checkpoint()
    }
}

extension CatalogState {
    /// Inodes kept in memory though the database has them, about. 500 bytes each.
    static let cleanInodeLimit = 50_000

    mutating func commit() throws -> UInt64 {
        if let failure { throw CatalogError.failedBefore(failure) }
        // An owner's changes are one change: what has been applied so far is not to be seen alone.
        guard hasChanges, !isApplying else { return openGeneration - 1 }
        do {
            try beginIfNeeded()
            try writeDirtyInodes()
            try writeCounters()
            try statements.commit.run()
        } catch let error as SQLiteError {
            failure = error
            throw CatalogError.database(error)
        }
        hasChanges = false
        sequence = sequence.next
        openGeneration += 1
        return openGeneration - 1
    }

    private mutating func writeDirtyInodes() throws {
        // In the order of the table: neighbours are on the same page.
        for number in dirtyInodes.sorted() {
            guard var cached = inodes[number] else { continue }
            if let born = cached.born, isPinned(born) { try endInode(number, born: born) }
            let stays = cached.born.map { !isPinned($0) } ?? false
            let born = stays ? (cached.born ?? sequence) : sequence
            try statements.put(cached.record, born: born)
            cached.born = born
            inodes[number] = cached
        }
        dirtyInodes.removeAll(keepingCapacity: true)
    }

    private func writeCounters() throws(SQLiteError) {
        try statements.setMeta(.sequence, sequence.number)
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
        nextEviction = max(Self.cleanInodeLimit, inodes.count + Self.cleanInodeLimit / 4)
    }

    mutating func markInUse(wasClean: Bool) throws {
        try beginIfNeeded()
        // What these files had taken and was not synced is gone: their counts say too much.
        if !wasClean { try statements.setMeta(.uncertainData, Int64(bitPattern: nextData)) }
        try statements.setMeta(.isClean, 0)
        _ = try commit()
    }

    mutating func markClean() throws {
        try beginIfNeeded()
        try statements.setMeta(.isClean, 1)
    }

    /// The generation that a fsync (or fdatasync, with `dataOnly`) of an inode must see durable; nil: none.
    package func generationToSync(_ number: InodeNumber, dataOnly: Bool) -> UInt64? {
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
    package mutating func setEpoch(_ epoch: Epoch) throws {
        try abandonApplication()
        try beginIfNeeded()
        if isFollower {
            // Whoever had them open had so elsewhere.
            for orphan in try orphans() { try removeInode(orphan) }
            try statements.setMeta(.isFollower, 0)
            isFollower = false
        }
        try statements.setMeta(.epoch, Int64(bitPattern: epoch.number))
    }

    /// Live inodes without a name, left by a crash while somebody had them open.
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
    package mutating func inodes(withDataFrom first: DataFileNumber) throws -> [InodeRecord] {
        var numbers: [InodeNumber] = []
        let statement = try connection.prepare("SELECT ino FROM inode WHERE died = 0 AND data >= ?1")
        statement.bind(1, first.number)
        try statement.forEach {
            numbers.append(InodeNumber($0.unsigned(0)))
            return true
        }
        return try numbers.compactMap { try peekInode($0) }.filter { $0.data >= first }
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
