internal import Foundation
internal import SQLite
internal import Synchronization
package import VolumeModel

/// The registry of a standalone site: one SQLite file, synced at every change.
package final class SQLiteRegistry: SiteRegistry {
    /// 2 has the table of 1, and page sums, which a release that knows only 1 would not write. One of 1 stays as it is.
    private static let schemaVersion: Int64 = 2
    private static let versionWithoutSums: Int64 = 1

    /// How long after a change it is moved out of the log: behind those that follow it in a hand-over, which wait for no more syncs
    /// than their own.
    private static let movePause: Duration = .milliseconds(200)

    private let connection: Mutex<Connection>
    private let log = Mutex(Log())

    private struct Log {
        var isToBeMoved = false
        /// Why nothing can be moved out of it any more: what is written behind would be lost at the next start.
        var damage: String?
    }

    /// Opens the file, making it if it is missing.
    ///
    /// - Throws: with what to do, when it is of a newer release, rubbish, or lost without its log: nothing is changed then.
    package init(path: String) throws(RegistryError) {
        do throws(SQLiteError) {
            try Connection.checkFiles(of: path)
            try Self.checkHasNoOrphanedLog(path)
            let connection = try Connection(path: path, mode: .create)
            // Before anything is asked of it, for that alone may change what is of a newer release. Nor is the log of one that is
            // refused moved: with sums, if a damaged header promises them, over what its pages hold.
            connection.leaveLogOnClose()
            try Self.checkHeader(of: connection)
            connection.setBusyTimeout(milliseconds: 2000)
            let version = try Self.version(of: connection)
            connection.leaveLogOnClose(false)
            try connection.execute(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0")
            try connection.execute(
                """
                CREATE TABLE IF NOT EXISTS volume(
                    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, revision INTEGER NOT NULL,
                    record BLOB NOT NULL) WITHOUT ROWID;
                PRAGMA user_version = \(version);
                """)
            self.connection = Mutex(connection)
        } catch {
            throw .store(
                error.isCorruption
                    ? "\(path) is damaged, or no registry (\(error.message)): \(Self.remedy)" : error.message)
        }
    }

    private static let remedy =
        "put a backup of it in its place, with its log (-wal) if there is one; volumes that it does not know are not "
        + "touched"

    /// SQLite would take what is missing or empty for new, and delete the log with all that is in it.
    private static func checkHasNoOrphanedLog(_ path: String) throws(SQLiteError) {
        var (file, log) = (stat(), stat())
        let isEmpty = stat(path, &file) != 0 || file.st_size == 0
        if isEmpty, stat(path + "-wal", &log) == 0, log.st_size > 0 {
            throw SQLiteError(refusing: "\(path) is missing or empty, and \(path)-wal is its log: \(remedy)")
        }
    }

    private static func checkHeader(of connection: Connection) throws(SQLiteError) {
        let (path, header) = (connection.path, try connection.header())
        if header.starts(with: "SQLite format 3\0".utf8) {
            // https://www.sqlite.org/fileformat.html#the_database_header: what the log has of it is not seen yet.
            let version = Int64(Int32(bitPattern: header[60..<64].reduce(0) { $0 << 8 | UInt32($1) }))
            return try check(version: version, of: path)
        }
        var file = stat()
        let isEmpty = stat(path, &file) == 0 && file.st_size == 0
        // Beside a journal it is one whose making was cut off.
        guard isEmpty || access(path + "-journal", F_OK) == 0 else {
            throw SQLiteError(refusing: "\(path) is damaged, or no registry: \(remedy)")
        }
    }

    /// The version that it has, or is to have. One that is empty is begun.
    private static func version(of connection: Connection) throws(SQLiteError) -> Int64 {
        if try connection.prepare("PRAGMA page_count").first({ $0.integer(0) }) == 0 {
            try connection.reservePageSums()
            // Both at once: nobody ever finds the one without the other.
            try connection.execute("PRAGMA user_version = \(schemaVersion)")
        }
        let version = try connection.prepare("PRAGMA user_version").first { $0.integer(0) } ?? 0
        try check(version: version, of: connection.path)
        let kept = connection.keepsPageSums ? schemaVersion : versionWithoutSums
        // 0: an earlier release was cut off making it.
        guard version == 0 || version == kept else {
            throw SQLiteError(
                refusing: "\(connection.path) is damaged (its header contradicts its version): \(remedy)")
        }
        return kept
    }

    private static func check(version: Int64, of path: String) throws(SQLiteError) {
        guard [0, versionWithoutSums, schemaVersion].contains(version) else {
            throw SQLiteError(
                refusing:
                    "\(path) is of a newer release (schema \(version), this one knows \(schemaVersion)): "
                    + "use the release that wrote it")
        }
    }

    package func volumes() async throws(RegistryError) -> [Versioned<VolumeRecord>] {
        try read("SELECT id, revision, record FROM volume ORDER BY id") { _ in }
    }

    package func volume(_ id: VolumeID) async throws(RegistryError) -> Versioned<VolumeRecord>? {
        try read("SELECT id, revision, record FROM volume WHERE id = ?1") { $0.bind(1, id.description) }.first
    }

    package func volume(named name: String) async throws(RegistryError) -> Versioned<VolumeRecord>? {
        try read("SELECT id, revision, record FROM volume WHERE name = ?1") { $0.bind(1, name) }.first
    }

    package func insert(_ record: VolumeRecord) async throws(RegistryError) -> Versioned<VolumeRecord> {
        let bytes = try Self.encode(record)
        do {
            try change { connection throws(SQLiteError) in
                let statement = try connection.prepare(
                    "INSERT INTO volume(id, name, revision, record) VALUES (?1, ?2, 1, ?3)")
                statement.bind(1, record.id.description)
                statement.bind(2, record.name)
                statement.bind(3, bytes)
                try statement.run()
            }
        } catch {
            throw error.isConstraint ? .nameTaken(record.name) : .store(error.message)
        }
        return Versioned(record, revision: 1)
    }

    package func update(
        _ record: Versioned<VolumeRecord>
    ) async throws(RegistryError) -> Versioned<VolumeRecord> {
        let bytes = try Self.encode(record.value)
        let next = record.revision + 1
        let changed: Int
        do {
            changed = try change { connection throws(SQLiteError) in
                let statement = try connection.prepare(
                    "UPDATE volume SET name = ?2, revision = ?3, record = ?4 WHERE id = ?1 AND revision = ?5")
                statement.bind(1, record.value.id.description)
                statement.bind(2, record.value.name)
                statement.bind(3, next)
                statement.bind(4, bytes)
                statement.bind(5, record.revision)
                try statement.run()
                return connection.changeCount
            }
        } catch {
            throw error.isConstraint ? .nameTaken(record.value.name) : .store(error.message)
        }
        guard changed == 1 else { throw .conflict(record.value.id) }
        return Versioned(record.value, revision: next)
    }

    package func remove(_ record: Versioned<VolumeRecord>) async throws(RegistryError) {
        let changed: Int
        do {
            changed = try change { connection throws(SQLiteError) in
                let statement = try connection.prepare("DELETE FROM volume WHERE id = ?1 AND revision = ?2")
                statement.bind(1, record.value.id.description)
                statement.bind(2, record.revision)
                try statement.run()
                return connection.changeCount
            }
        } catch {
            throw .store(error.message)
        }
        guard changed == 1 else { throw .conflict(record.value.id) }
    }

    private func change<Result>(
        _ body: (Connection) throws(SQLiteError) -> Result
    ) throws(SQLiteError) -> Result {
        if let damage = log.withLock({ $0.damage }) { throw SQLiteError(refusing: damage) }
        let result = try connection.withLock { connection throws(SQLiteError) in try body(connection) }
        moveLogSoon()
        return result
    }

    /// Of a log that the disk damages SQLite forgets all that is behind the damage, so nothing stays there for long.
    private func moveLogSoon() {
        let isPlanned = log.withLock { log in
            defer { log.isToBeMoved = true }
            return log.isToBeMoved
        }
        guard !isPlanned else { return }
        Task.detached(priority: .utility) { [weak self] in
            try? await Task.sleep(for: Self.movePause)
            self?.moveLog()
        }
    }

    private func moveLog() {
        log.withLock { $0.isToBeMoved = false }
        do throws(SQLiteError) {
            try connection.withLock { connection throws(SQLiteError) in
                try connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            }
        } catch  where error.isCorruption {
            log.withLock { $0.damage = "the registry's log is damaged (\(error.message)): \(Self.remedy)" }
        } catch {
            // A disk without room, say: with the next change.
        }
    }

    // MARK: rows

    private func read(
        _ sql: String, bind: (Statement) -> Void
    ) throws(RegistryError) -> [Versioned<VolumeRecord>] {
        let rows: [(id: String, revision: UInt64, bytes: [UInt8])]
        do {
            rows = try connection.withLock { connection throws(SQLiteError) in
                let statement = try connection.prepare(sql)
                bind(statement)
                var rows: [(id: String, revision: UInt64, bytes: [UInt8])] = []
                try statement.forEach {
                    rows.append(($0.text(0), $0.unsigned(1), $0.bytes(2)))
                    return true
                }
                return rows
            }
        } catch {
            throw .store(error.message)
        }
        return try rows.map { row throws(RegistryError) in
            Versioned(try Self.decode(row.bytes, id: row.id), revision: row.revision)
        }
    }

    private static func encode(_ record: VolumeRecord) throws(RegistryError) -> [UInt8] {
        do {
            let encoder = JSONEncoder()
            encoder.outputFormatting = .sortedKeys
            return Array(try encoder.encode(StoredVolume(record)))
        } catch {
            throw .store("cannot write the record of \(record.id): \(error)")
        }
    }

    private static func decode(_ bytes: [UInt8], id: String) throws(RegistryError) -> VolumeRecord {
        guard let volume = VolumeID(id) else { throw .store("a volume with the identifier '\(id)'") }
        do {
            return try JSONDecoder().decode(StoredVolume.self, from: Data(bytes)).record(id: volume)
        } catch {
            throw .malformed(volume, "\(error)")
        }
    }
}
