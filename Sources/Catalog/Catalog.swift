internal import Glibc
internal import Locks
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
    /// The number of the last commit before this opening. Each opening commits.
    package let foundSequence: SequenceNumber
    /// Inodes whose data files, or their ends, may never have reached the disk before the last, disorderly end.
    package let inodesToRecover: [InodeNumber]
    let state: Lock<CatalogState>
    let order = CommitOrder()
    private let checkpointer: Mutex<Checkpointer>
    private let log: WriteAheadLog
    /// Held while the log is synced: whoever waits is covered by the next one, and nobody takes for a success
    /// what comes after a failure that another was told of.
    private let syncing = Mutex(())
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
                try statements.setMeta(.headName, StateName.random())
            } else {
                try statements.setMeta(.isFollower, 1)
            }
            try statements.setMeta(.sequence, 1)
            try statements.setMeta(.dismissalsSince, 0)
            try DataFileSizes.writeFirst(statements, at: 1, settled: 0)
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
            guard error.isCorruption || error.isRefusal else { return false }
            throw .unusable(path: path, reason: error.message)
        }
    }

    /// Opens a head's catalog.
    ///
    /// - Parameter removesOrphans: removes files that were unlinked but open when the last process ended: nobody is left
    ///   who knows them. A follower's are its owner's affair.
    /// - Throws: `.unusable` when the file is missing, damaged, or of a newer release, or when another
    ///   process has it open: nothing is changed then.
    package init(
        opening directory: String, removesOrphans: Bool = false, memory: CatalogMemory = .standard
    ) throws(CatalogError) {
        let path = directory + "/" + Self.fileName
        lock = try HeadLock(directory: directory)
        self.directory = directory
        do {
            // Until all of this has been found good nothing is changed, not by closing it either. Nobody else writes; but
            // someone may look at it with SQLite's own shell.
            let connection = try Self.connect(to: path)
            try connection.execute(CatalogSchema.pragmas)
            try connection.execute("PRAGMA cache_size = -\(memory.pageKibibytes)")
            connection.keepWriteAheadLog()
            connection.watchLog()
            try Self.checkVersion(of: connection, path: path)
            var state = try CatalogState(connection: connection, memory: memory)
            foundSequence = state.lastSequence
            wasClosedCleanly = try state.statements.meta(.isClean) ?? 1 == 1
            inodesToRecover = try state.inspect(wasClean: wasClosedCleanly)
            // One commit, or none where damage comes to light.
            try state.markInUse(wasClean: wasClosedCleanly)
            if try state.statements.meta(.dismissalsSince) == nil {
                // By a release that forgot whom it dropped.
                try state.statements.setMeta(.dismissalsSince, foundSequence.number)
            }
            if removesOrphans, !state.isFollower {
                for orphan in try state.orphans() { try state.removeInode(orphan) }
            }
            _ = try state.commit()
            self.state = Lock(state)
            checkpointer = Mutex(Checkpointer(path: path))
            log = try WriteAheadLog(path: path + "-wal")
        } catch let error as SQLiteError {
            lock.release()
            throw Self.failure(error, path)
        } catch CatalogError.database(let error) where error.isCorruption {
            lock.release()
            throw Self.failure(error, path)
        } catch {
            lock.release()
            throw (error as? CatalogError) ?? .unusable(path: path, reason: "\(error)")
        }
        log.reserveSpace()
        // The names of the database and its log must be as durable as what they hold.
        for name in [directory, directory + "/.."] { try Self.synchronizeDirectory(name) }
        // That it is in use must be durable before the first byte of a data file changes.
        try synchronize()
    }

    deinit { lock.release() }

    /// What SQLite says of a catalog that is being opened.
    static func failure(_ error: SQLiteError, _ path: String) -> CatalogError {
        if error.isRefusal { return .unusable(path: path, reason: error.message) }
        return error.isCorruption || error.isMissingFile ? .damaged(path, error.message) : .database(error)
    }

    /// Opens a catalog's database, and looks at its first bytes before SQLite does, which takes an empty file for a new one
    /// and deletes its log. Closed, it leaves everything as it is.
    static func connect(to path: String) throws -> Connection {
        let connection: Connection
        do {
            connection = try Connection(path: path, mode: .readWrite)
        } catch {
            if error.isRefusal { throw CatalogError.unusable(path: path, reason: error.message) }
            guard error.isMissingFile else { throw error }
            // Others are no reason to restore it: there may be too many open files.
            let isMissing = access(path, F_OK) != 0 && errno == ENOENT
            throw isMissing
                ? CatalogError.damaged(path, "there is no such file") : CatalogError.database(error)
        }
        connection.leaveLogOnClose()
        let header = try connection.header()
        // "SQLite format 3", and the two bytes that say that it has a write-ahead log.
        guard header.starts(with: Array("SQLite format 3\0".utf8)), header[18] == 2, header[19] == 2 else {
            throw CatalogError.damaged(
                path, "it is damaged, or no catalog: its header is not that of a database")
        }
        return connection
    }

    static func checkVersion(of connection: Connection, path: String) throws {
        let statement = try? connection.prepare("SELECT value FROM meta WHERE key = 'schema_version'")
        guard let version = try statement?.first({ $0.integer(0) }) else {
            throw CatalogError.damaged(path, "it holds no catalog")
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
        let (result, isDue, isOverdue) = try state.withLock { (state) throws -> (Result, Bool, Bool) in
            let rowCount = state.recorder.count
            try state.beginOperation(on: directory)
            do {
                let result = try body(&state)
                // Who adds nothing to the commit, as who reads or brings bytes, waits for nobody's.
                return (
                    result, state.isCommitDue && state.recorder.count > rowCount, state.isCommitOverdue
                )
            } catch {
                throw state.failedOperation(error)
            }
        }
        // It has to wait for bytes, else it had happened. A failure is for who changes something next.
        if isDue { try? commitAsDue(waits: isOverdue) }
        return result
    }

    /// The same for an operation that commits what has been changed before, or itself.
    package func performCommitting<Result: Sendable>(
        _ body: (inout CatalogState) throws -> Result
    ) throws -> Result {
        try whenNothingIsAwaited { (state) throws -> Result in try state.operate(on: directory, body) }
    }

    /// Writes all changes so far to the log. They survive the end of the process, not a power loss.
    ///
    /// - Returns: the generation that holds them.
    @discardableResult
    package func commit() throws(CatalogError) -> UInt64 {
        do {
            return try whenNothingIsAwaited { (state) throws -> UInt64 in
                try checkIsOpen(state)
                return try state.commit()
            }
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
    /// - Throws: when the disk refuses. Nothing is lost by that: changes are refused until a later call, which may
    ///   come at any time, has brought to the disk what this one could not.
    package func synchronize(upTo generation: UInt64? = nil) throws(CatalogError) {
        if let generation, isDurable(generation) { return }
        let wanted = try commit()
        if isDurable(wanted) { return }
        try syncing.withLock { _ throws(CatalogError) in
            let (durable, committed) = state.withLock { ($0.durableGeneration, $0.openGeneration - 1) }
            if durable >= wanted { return }
            do throws(CatalogError) {
                try log.synchronize()
            } catch {
                noteFailedSync(error)
                throw error
            }
            state.withLock { state in
                state.durableGeneration = max(state.durableGeneration, committed)
                state.nextEviction = state.cleanInodeLimit
                state.syncFailure = nil
            }
        }
    }

    private func noteFailedSync(_ error: CatalogError) {
        state.withLock { state in
            state.syncFailure = error
            do throws(CatalogError) {
                try log.rewrite(frameCount: state.connection.logFrameCount)
            } catch {
                // SQLITE_IOERR_FSYNC: nothing that came since the last sync can be trusted any more.
                state.failure = state.failure ?? SQLiteError(code: 1034, message: "\(error)")
            }
        }
    }

    /// Why changes are refused at the moment; nil: they are not.
    package var trouble: CatalogError? {
        state.withLock { state in
            state.failure.map { .failedBefore($0) } ?? state.syncFailure
                ?? state.commitFailure.map { .database($0) }
        }
    }

    /// Whether directories are still at the origin.
    package var isArriving: Bool { state.withLock { $0.isArriving } }

    /// The number of the last commit; after the end, of the one that says so.
    package var lastSequence: SequenceNumber { state.withLock { $0.lastSequence } }

    /// Whether a power loss now would take back a commit.
    package var hasUnsynchronizedCommits: Bool {
        state.withLock { $0.durableGeneration < $0.openGeneration - 1 }
    }

    private func isDurable(_ generation: UInt64) -> Bool {
        state.withLock { $0.durableGeneration >= generation }
    }

    /// Moves the log into the database, so that the log stays small. Stops no operation but when the log has
    /// become long; then what little came meanwhile is moved as well, and the log begins anew.
    package func checkpoint() throws(CatalogError) {
        do {
            let committed = state.withLock { $0.openGeneration - 1 }
            guard try checkpointer.withLock({ try $0.move(upTo: committed) }) else { return }
            defer { log.reserveSpace() }
            guard try log.byteCount() > Self.logByteCount else { return }
            try whenNothingIsAwaited { state in
                try checkIsOpen(state)
                _ = try state.commit()
                guard !state.connection.isInTransaction else { return }
                try checkpointer.withLock { try $0.emptyLog() }
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
        var last: [DataFileNumber] = []
        while true {
            let batch = try perform { state in
                let batch = state.hasGarbage ? try state.garbage() : []
                if batch.isEmpty { state.hasGarbage = false }
                return batch
            }
            guard !batch.isEmpty else { return }
            // Rows that are found and cannot be deleted: without this it would go on for ever.
            guard batch != last else {
                throw CatalogError.unusable(
                    path: directory + "/" + Self.fileName,
                    reason: "its list of deleted files is damaged: 'godwit volume check' tells more")
            }
            last = batch
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

    /// What was changed and is not committed when the catalog is let go of must not be committed later: another may have it
    /// open by then.
    func checkIsOpen(_ state: borrowing CatalogState) throws(CatalogError) {
        guard !state.isClosed || !state.hasChanges else {
            throw .unusable(path: directory, reason: "it is closed")
        }
    }

    /// Lets go of the catalog as a crash would: what is not durable may be lost.
    package func abandon() {
        checkpointer.withLock { $0.close() }
        state.withLock { state in
            state.isClosed = true
            state.recorder.forget()
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
            let isClosed = try whenNothingIsAwaited { state in
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
