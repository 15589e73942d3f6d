package import ByteStore
internal import Glibc
package import SQLite
package import VolumeModel

/// What the blocks of a head's data files were when they were last looked at: `hashes.db` beside the catalog.
///
/// Nothing is lost with it but the knowledge of what should be there: what is known to be damaged stands in `damage` beside
/// it as well (`DamageCopy`), from which whoever makes it anew takes that up. It is made anew only where it is missing or
/// rubbish; a disk that fails, or is full, and a newer release's are told to who asks, and nothing is deleted. Invariants:
/// - A hash is that of a file in a certain state (`FileState`), and tells of damage only while the file is in it.
/// - After an end of the machine, or of the mount, that came while the head was in use, bytes may be newer than the
///   file's times. So all hashes are forgotten before such a head is used again, or looked through.
/// - At an end in order the times are made durable before the head is marked as closed.
/// - What was overwritten of damage is noted after it is on the disk.
///
/// Used by one thread at a time; others have connections of their own.
package final class HashDatabase {
    package static let fileName = "hashes.db"
    private static let schemaVersion: Int64 = 1
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
    let directory: String
    private let getPart, putPart, lookPart, getMeta, putMeta: Statement

    /// Whether anything is known of a head.
    package static func exists(in directory: String) -> Bool {
        DamageCopy.isThere(path(in: directory)) || DamageCopy.exists(in: directory)
    }

    private static func path(in directory: String) -> String { directory + "/" + fileName }

    /// Opens it, making it when it is missing, anew when it is rubbish.
    ///
    /// - Throws: a refusal when it is of a newer release, or when nobody can tell any more what is damaged.
    package convenience init(in directory: String) throws(SQLiteError) {
        do {
            try self.init(directory: directory)
            try verify()
        } catch {
            guard error.isCorruption else { throw error }
            try Self.discard(in: directory)
            try self.init(directory: directory)
        }
    }

    /// Deletes it: everything is hashed anew.
    private static func discard(in directory: String) throws(SQLiteError) {
        let path = path(in: directory)
        // It first: without its log it would be an older one, and a log without it is nothing.
        for suffix in ["", "-wal", "-shm"] where unlink(path + suffix) != 0 && errno != ENOENT {
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

    private init(directory: String) throws(SQLiteError) {
        let path = Self.path(in: directory)
        self.directory = directory
        connection = try Connection(path: path, mode: .create)
        connection.setBusyTimeout(milliseconds: 10_000)
        // Of a newer release's not even the log is moved, as who closes it last does.
        connection.leaveLogOnClose(access(path + "-wal", F_OK) == 0)
        let version = try Self.version(of: connection)
        connection.leaveLogOnClose(false)
        // Neither a power loss nor a crash leaves a row that is half an old one: the log is synced before it is moved.
        try connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
        if version == nil {
            try Self.make(in: directory, connection)
        } else {
            try connection.execute(Self.schema)
        }
        try connection.execute(Self.touched)
        getPart = try connection.prepare("SELECT record, looked FROM part WHERE data = ?1 AND part = ?2")
        putPart = try connection.prepare("INSERT OR REPLACE INTO part VALUES (?1, ?2, ?3, ?4)")
        lookPart = try connection.prepare("UPDATE part SET looked = ?3 WHERE data = ?1 AND part = ?2")
        getMeta = try connection.prepare("SELECT value FROM meta WHERE key = ?1")
        putMeta = try connection.prepare("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")
    }

    /// - Returns: nil when nothing was ever made of it.
    private static func version(of connection: Connection) throws(SQLiteError) -> Int64? {
        let table = try connection.prepare("SELECT 1 FROM sqlite_master WHERE name = 'meta'")
        guard try table.first({ _ in true }) ?? false else { return nil }
        let found = try connection.prepare("SELECT value FROM meta WHERE key = 'version'").first {
            $0.integer(0)
        }
        guard let found, found != schemaVersion else { return found }
        guard found > schemaVersion else {
            throw SQLiteError(code: 26, message: "\(connection.path) is of version \(found)")
        }
        throw SQLiteError(
            refusing:
                "\(connection.path) is of a newer release (version \(found), this one knows \(schemaVersion)): "
                + "use the release that wrote it")
    }

    /// All at once, with what is known to be damaged: a crash leaves either nothing or all of it.
    private static func make(in directory: String, _ connection: Connection) throws(SQLiteError) {
        try connection.together { () throws(SQLiteError) in
            try connection.execute(schema)
            // Somebody else may have been quicker.
            guard try version(of: connection) == nil else { return }
            let name = UInt64.random(in: .min ... .max)
            try connection.execute(
                "INSERT INTO meta VALUES ('version', \(schemaVersion)), ('name', '\(name)')")
            guard let (known, life) = try copy(in: directory) else { return }
            let putLife = try connection.prepare("INSERT OR REPLACE INTO meta VALUES ('life', ?1)")
            putLife.bind(1, life)
            if !life.isEmpty { try putLife.run() }
            for block in known.blocks { try connection.insert(block) }
            for (data, ranges) in known.overwritten { try connection.insertOverwritten(ranges, of: data) }
        }
    }

    /// What is known without the database.
    private static func copy(
        in directory: String
    ) throws(SQLiteError) -> (known: KnownDamage, life: String)? {
        do {
            return try DamageCopy.read(in: directory)
        } catch {
            guard error.isCorruption else { throw error }
            throw SQLiteError(
                refusing:
                    "what is damaged of \(directory) is not known any more: \(path(in: directory)) is lost, and "
                    + "\(DamageCopy.path(in: directory)), which says so too, is damaged: put one of them back, or "
                    + "take all bytes as they are: 'godwit volume check --accept-damage'")
        }
    }

    /// Forgets records of damage that nobody can read.
    package static func dropUnreadableDamage(in directory: String) throws(SQLiteError) {
        do {
            _ = try DamageCopy.read(in: directory)
        } catch {
            guard error.isCorruption else { throw error }
            try DamageCopy.delete(in: directory)
        }
        do {
            try HashDatabase(directory: directory).verify()
        } catch {
            guard error.isReadFailure else { return }
            try discard(in: directory)
        }
    }

    // MARK: what can be relied on

    /// The head is about to be written to. Rubbish does not prevent that, nor what cannot be read where the copy says what
    /// it knew: it is deleted.
    ///
    /// - Returns: the damage that is known.
    /// - Throws: when that is not known: the disk fails, or is full, or the file is of a newer release. Nothing is lost by
    ///   it; the head is not to be used before this succeeds.
    package static func beginUse(
        of directory: String, life: String?, isClean: Bool, firstUncertain: DataFileNumber
    ) throws(SQLiteError) -> KnownDamage {
        guard exists(in: directory) else { return KnownDamage() }
        func begin() throws(SQLiteError) -> KnownDamage {
            let hashes = try HashDatabase(directory: directory)
            try hashes.begin(life: life, isClean: isClean, isUse: true, firstUncertain: firstUncertain)
            let known = try hashes.damage()
            // An older release has kept no copy.
            if known != KnownDamage() || DamageCopy.exists(in: directory) {
                try hashes.verifyCopy()
            }
            return known
        }
        do {
            return try begin()
        } catch {
            if error.isReadFailure, try copy(in: directory) == nil {
                throw SQLiteError(
                    refusing:
                        "\(path(in: directory)) cannot be read (\(error)), and what it knows of damage stands nowhere "
                        + "else: if the disk does not recover, 'godwit volume check --accept-damage' takes all bytes as "
                        + "they are")
            }
            guard error.isCorruption || error.isReadFailure else { throw error }
            try discard(in: directory)
            return try begin()
        }
    }

    /// What is known of a head, without making anything.
    package static func damage(in directory: String) throws(SQLiteError) -> KnownDamage {
        guard DamageCopy.isThere(path(in: directory)) else {
            return try copy(in: directory)?.known ?? KnownDamage()
        }
        do {
            return try HashDatabase(directory: directory).damage()
        } catch {
            guard error.isCorruption else { throw error }
            return try copy(in: directory)?.known ?? KnownDamage()
        }
    }

    /// Opens it as it is; nil: nothing is known of the head.
    package convenience init?(existingIn directory: String) throws(SQLiteError) {
        guard Self.exists(in: directory) else { return nil }
        try self.init(directory: directory)
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
        let stored = try self.life()
        if let life, stored == life { return }
        if isClean, !isUse, stored != nil { return }
        try changeDamage { () throws(SQLiteError) in
            if !isClean {
                try connection.execute("DELETE FROM part")
                for table in ["damage", "overwritten"] {
                    let forget = try connection.prepare("DELETE FROM \(table) WHERE data >= ?1")
                    forget.bind(1, firstUncertain.number)
                    try forget.run()
                }
            }
            putMeta.bind(1, "life")
            putMeta.bind(2, life ?? "")
            try putMeta.run()
        }
    }

    func life() throws(SQLiteError) -> String? {
        getMeta.bind(1, "life")
        return try getMeta.first { $0.text(0) }
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
        try connection.together(body)
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
        try changeDamage { () throws(SQLiteError) in
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
        let parts = try connection.prepare("DELETE FROM part WHERE data = ?1 AND part >= ?2")
        parts.bind(1, data.number)
        parts.bind(2, PartID.count(size))
        try parts.run()
        let isBeyond = try damage(of: data).blocks.contains { $0.range.start >= size && !$0.isLost }
        guard isBeyond else { return }
        try changeDamage { () throws(SQLiteError) in
            let blocks = try connection.prepare(
                "DELETE FROM damage WHERE data = ?1 AND start >= ?2 AND expected != x'00'")
            blocks.bind(1, data.number)
            blocks.bind(2, size)
            try blocks.run()
        }
    }
}

extension Connection {
    func together(_ body: () throws(SQLiteError) -> Void) throws(SQLiteError) {
        try execute("BEGIN IMMEDIATE")
        do {
            try body()
            try execute("COMMIT")
        } catch {
            if isInTransaction { try? execute("ROLLBACK") }
            throw error
        }
    }

    func insert(_ block: DamagedBlock) throws(SQLiteError) {
        let insert = try prepare("INSERT OR REPLACE INTO damage VALUES (?1, ?2, ?3, ?4, ?5)")
        insert.bind(1, block.data.number)
        insert.bind(2, block.range.start)
        insert.bind(3, block.range.end)
        insert.bind(4, block.inode.number)
        insert.bind(5, block.expected)
        try insert.run()
    }

    func insertOverwritten(_ ranges: RangeSet, of data: DataFileNumber) throws(SQLiteError) {
        let insert = try prepare("INSERT OR REPLACE INTO overwritten VALUES (?1, ?2, ?3)")
        for range in ranges.ranges {
            insert.bind(1, data.number)
            insert.bind(2, range.start)
            insert.bind(3, range.end)
            try insert.run()
        }
    }
}
