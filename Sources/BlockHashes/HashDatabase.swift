package import ByteStore
internal import Glibc
package import SQLite
package import VolumeModel

/// What the blocks of a head's data files were when they were last looked at: `hashes.db` beside the catalog.
///
/// Nothing is lost with it but the knowledge of what should be there. Invariants:
/// - A hash is that of a file in a certain state (`FileState`), and tells of damage only while the file is in it.
/// - After an end of the machine, or of the mount, that came while the head was in use, bytes may be newer than the
///   file's times. So all hashes are forgotten before such a head is used again, or looked through.
/// - At an end in order the times are made durable before the head is marked as closed.
/// - What was overwritten of damage is noted after it is on the disk.
///
/// Used by one thread at a time; others have connections of their own.
package final class HashDatabase {
    package static let fileName = "hashes.db"
    private static let version: Int64 = 1
    private static let schema = """
        CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS part(
            data INTEGER NOT NULL, part INTEGER NOT NULL, record BLOB NOT NULL, looked INTEGER NOT NULL,
            PRIMARY KEY(data, part)) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS damage(
            data INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL, ino INTEGER NOT NULL,
            expected BLOB NOT NULL, PRIMARY KEY(data, start)) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS overwritten(
            data INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL,
            PRIMARY KEY(data, start)) WITHOUT ROWID;
        """

    let connection: Connection
    private let getPart, putPart, lookPart, getMeta, putMeta: Statement

    package static func exists(in directory: String) -> Bool {
        access(directory + "/" + fileName, F_OK) == 0
    }

    /// Opens it, making it when it is missing, anew when it is no database of this release.
    package convenience init(in directory: String) throws(SQLiteError) {
        let path = directory + "/" + Self.fileName
        do {
            try self.init(path: path)
            try verify()
        } catch {
            guard error.isCorruption else { throw error }
            try Self.discard(in: directory)
            try self.init(path: path)
        }
    }

    /// Deletes it: everything is hashed anew.
    package static func discard(in directory: String) throws(SQLiteError) {
        let path = directory + "/" + fileName
        for suffix in ["-wal", "-shm", ""] where unlink(path + suffix) != 0 && errno != ENOENT {
            throw SQLiteError(code: 10, message: "cannot delete \(path)\(suffix): errno \(errno)")
        }
    }

    /// Looks through all of it: what is damaged is found before anything relies on it. A row's hash finds what is left.
    private func verify() throws(SQLiteError) {
        let answer = try connection.prepare("PRAGMA quick_check(1)").first { $0.text(0) }
        guard answer == "ok" else {
            throw SQLiteError(code: 11, message: "\(connection.path): \(answer ?? "no answer")")
        }
    }

    private init(path: String) throws(SQLiteError) {
        connection = try Connection(path: path, mode: .create)
        connection.setBusyTimeout(milliseconds: 10_000)
        // Neither a power loss nor a crash leaves a row that is half an old one: the log is synced before it is moved.
        try connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
        try connection.execute(Self.schema)
        let version = try connection.prepare("SELECT value FROM meta WHERE key = 'version'").first {
            $0.integer(0)
        }
        if let version, version != Self.version {
            throw SQLiteError(code: 26, message: "\(path) is of version \(version)")
        }
        if version == nil {
            let name = UInt64.random(in: .min ... .max)
            try connection.execute(
                "INSERT OR IGNORE INTO meta VALUES ('version', \(Self.version)), ('name', '\(name)')")
        }
        getPart = try connection.prepare("SELECT record, looked FROM part WHERE data = ?1 AND part = ?2")
        putPart = try connection.prepare("INSERT OR REPLACE INTO part VALUES (?1, ?2, ?3, ?4)")
        lookPart = try connection.prepare("UPDATE part SET looked = ?3 WHERE data = ?1 AND part = ?2")
        getMeta = try connection.prepare("SELECT value FROM meta WHERE key = ?1")
        putMeta = try connection.prepare("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")
    }

    // MARK: what can be relied on

    /// The head is about to be written to, which nothing in here may prevent: what cannot be used is deleted.
    ///
    /// - Returns: the damage that is known.
    /// - Throws: when it cannot even be deleted.
    package static func beginUse(
        of directory: String, life: String?, isClean: Bool, firstUncertain: DataFileNumber
    ) throws(SQLiteError) -> KnownDamage {
        guard exists(in: directory) else { return KnownDamage() }
        do {
            let hashes = try HashDatabase(path: directory + "/" + fileName)
            try hashes.begin(life: life, isClean: isClean, isUse: true, firstUncertain: firstUncertain)
            return try hashes.damage()
        } catch {
            try discard(in: directory)
            return KnownDamage()
        }
    }

    /// What is known of a head, without making anything. What is no database of this release knows nothing.
    package static func damage(in directory: String) throws(SQLiteError) -> KnownDamage {
        do {
            return try HashDatabase(existingIn: directory)?.damage() ?? KnownDamage()
        } catch {
            guard error.isCorruption else { throw error }
            return KnownDamage()
        }
    }

    /// Opens it as it is; nil: there is none.
    package convenience init?(existingIn directory: String) throws(SQLiteError) {
        guard Self.exists(in: directory) else { return nil }
        try self.init(path: directory + "/" + Self.fileName)
    }

    /// Whether something failed because the database is damaged, or none.
    package static func isCorruption(_ error: any Error) -> Bool {
        (error as? SQLiteError)?.isCorruption ?? false
    }

    /// The same until it is lost and made anew; nil: it is of a release that gave none.
    package func name() throws(SQLiteError) -> String? {
        getMeta.bind(1, "name")
        return try getMeta.first { $0.text(0) }
    }

    /// Forgets hashes that nothing can be said by any more. To be called before a head is used or looked through.
    ///
    /// - Parameters:
    ///   - life: of the mount that the head is on, now; nil: not known, then it is taken for another one each time.
    ///   - isClean: whether the last use of the head ended in order.
    ///   - isUse: whether the head is about to be written to.
    ///   - firstUncertain: data files from this number on may be others after a power loss.
    package func begin(
        life: String?, isClean: Bool, isUse: Bool, firstUncertain: DataFileNumber
    ) throws(SQLiteError) {
        getMeta.bind(1, "life")
        let stored = try getMeta.first { $0.text(0) }
        if let life, stored == life { return }
        if !isClean {
            try connection.execute("BEGIN IMMEDIATE; DELETE FROM part;")
            for table in ["damage", "overwritten"] {
                let forget = try connection.prepare("DELETE FROM \(table) WHERE data >= ?1")
                forget.bind(1, firstUncertain.number)
                try forget.run()
            }
        } else if !isUse, stored != nil {
            return
        }
        putMeta.bind(1, "life")
        putMeta.bind(2, life ?? "")
        do {
            try putMeta.run()
            if connection.isInTransaction { try connection.execute("COMMIT") }
        } catch {
            if connection.isInTransaction { try? connection.execute("ROLLBACK") }
            throw error
        }
    }

    // MARK: hashes

    /// - Returns: nil when nothing is known of it; a row that is damaged itself says nothing.
    package func record(of part: PartID) throws(SQLiteError) -> (record: PartRecord, looked: Int64)? {
        getPart.bind(1, part.data.number)
        getPart.bind(2, part.index)
        guard let (bytes, looked) = try getPart.first({ ($0.bytes(0), $0.integer(1)) }),
            let record = PartRecord(bytes, of: part)
        else { return nil }
        return (record, looked)
    }

    /// Notes parts that were looked at, and what was new of them: all at once, for a sync of each would take longer than
    /// reading small files.
    package func write(_ rows: [(part: PartID, record: PartRecord?, looked: Int64)]) throws(SQLiteError) {
        try together { () throws(SQLiteError) in
            for row in rows {
                if let record = row.record {
                    try put(record, of: row.part, looked: row.looked)
                } else {
                    try note(row.part, looked: row.looked)
                }
            }
        }
    }

    func put(_ record: PartRecord, of part: PartID, looked: Int64) throws(SQLiteError) {
        putPart.bind(1, part.data.number)
        putPart.bind(2, part.index)
        putPart.bind(3, record.bytes(of: part))
        putPart.bind(4, looked)
        try putPart.run()
    }

    private func note(_ part: PartID, looked: Int64) throws(SQLiteError) {
        lookPart.bind(1, part.data.number)
        lookPart.bind(2, part.index)
        lookPart.bind(3, looked)
        try lookPart.run()
    }

    /// Makes what is known of a file in one state known of it in another: only one block was put right in between. The
    /// part that has it is forgotten, unless it is known what all of the block is now.
    ///
    /// - Parameters:
    ///   - block: of the file, with what was expected of it.
    ///   - isWhole: whether that is what is there now.
    package func keepHashes(
        from old: FileState, to new: FileState, beside block: DamagedBlock, isWhole: Bool
    ) throws(SQLiteError) {
        // Only the change time may have moved: then any later write, however soon, makes a state of its own.
        guard old.size == new.size, old.modification == new.modification else { return }
        let index = Int(block.range.start % PartID.byteCount / BlockHash.blockByteCount)
        try together { () throws(SQLiteError) in
            for number in 0..<PartID.count(old.size) {
                let part = PartID(block.data, number)
                guard let known = try record(of: part),
                    known.record.isOf(old, blockCount: part.blockCount(ofSize: old.size))
                else { continue }
                var record = PartRecord(hashes: known.record.hashes, of: new)
                if number == block.range.start / PartID.byteCount {
                    guard isWhole, part.range(ofBlock: index, size: old.size) == block.range else { continue }
                    record.setHash(block.expected, ofBlock: index)
                }
                try put(record, of: part, looked: known.looked)
            }
        }
    }

    func together(_ body: () throws(SQLiteError) -> Void) throws(SQLiteError) {
        try connection.execute("BEGIN IMMEDIATE")
        do {
            try body()
            try connection.execute("COMMIT")
        } catch {
            if connection.isInTransaction { try? connection.execute("ROLLBACK") }
            throw error
        }
    }

    /// Forgets files that are gone.
    package func keep(only isThere: (DataFileNumber) -> Bool) throws(SQLiteError) {
        var gone: [UInt64] = []
        let list = try connection.prepare(
            "SELECT DISTINCT data FROM part UNION SELECT DISTINCT data FROM damage")
        try list.forEach { row in
            if !isThere(DataFileNumber(row.unsigned(0))) { gone.append(row.unsigned(0)) }
            return true
        }
        guard !gone.isEmpty else { return }
        let parts = try connection.prepare("DELETE FROM part WHERE data = ?1")
        let damage = try connection.prepare("DELETE FROM damage WHERE data = ?1")
        let overwritten = try connection.prepare("DELETE FROM overwritten WHERE data = ?1")
        try together { () throws(SQLiteError) in
            for number in gone {
                for statement in [parts, damage, overwritten] {
                    statement.bind(1, number)
                    try statement.run()
                }
            }
        }
    }

    /// Forgets what a file held beyond its present size.
    package func cut(_ data: DataFileNumber, to size: UInt64) throws(SQLiteError) {
        for (sql, limit) in [
            ("DELETE FROM part WHERE data = ?1 AND part >= ?2", PartID.count(size)),
            ("DELETE FROM damage WHERE data = ?1 AND start >= ?2 AND expected != x'00'", size),
        ] {
            let statement = try connection.prepare(sql)
            statement.bind(1, data.number)
            statement.bind(2, limit)
            try statement.run()
        }
    }
}
