internal import SQLite
internal import VolumeModel

/// The prepared statements of one connection to a catalog.
final class CatalogStatements {
    let begin, commit: Statement
    let getInode, putInode, endInode, deleteInode: Statement
    let probeBirth, probeBacking: Statement
    let findEntry, putEntry, endEntry, deleteEntry, listEntries, listFiles, anyEntry: Statement
    let getXattr, listXattrs, putXattr, endXattr, deleteXattr: Statement
    let listFileXattrs, endAllXattrs, deleteAllXattrs, sumXattrs: Statement
    let listResident, putResident, deleteResidentWithin, deleteResident: Statement
    let putMeta, getMeta, removeMeta: Statement
    let putChanged, getChanged, deleteChanged: Statement
    let putMissing, getMissing, listMissing, deleteMissing: Statement
    let putGone, getGone: Statement
    let putGarbage, listGarbage, deleteGarbage: Statement

    static let inodeColumns =
        "ino, born, mode, links, uid, gid, device, size, blocks, atime, mtime, ctime, parent, target, data, backed"

    private static func inodeColumns(of table: String) -> String {
        inodeColumns.split(separator: ",").map { "\(table)." + $0.drop { $0 == " " } }.joined(separator: ", ")
    }

    init(_ connection: Connection) throws(SQLiteError) {
        putChanged = try connection.prepare(
            "INSERT OR REPLACE INTO changed(ino, all_from, shift, granules) VALUES (?1, ?2, ?3, ?4)")
        getChanged = try connection.prepare(
            "SELECT ino, all_from, shift, granules FROM changed WHERE ino = ?1")
        deleteChanged = try connection.prepare("DELETE FROM changed WHERE ino = ?1")
        begin = try connection.prepare("BEGIN IMMEDIATE")
        commit = try connection.prepare("COMMIT")
        getInode = try connection.prepare(
            "SELECT \(Self.inodeColumns) FROM inode WHERE ino = ?1 AND died = 0")
        putInode = try connection.prepare(
            """
            INSERT OR REPLACE INTO inode(\(Self.inodeColumns), died)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, 0)
            """)
        // What a change of a row changes besides: for `CatalogState.checkIsWritable`.
        probeBirth = try connection.prepare(
            "SELECT 1 FROM inode INDEXED BY inode_born WHERE born = ?1 AND ino = ?2 AND died = 0")
        probeBacking = try connection.prepare(
            "SELECT 1 FROM inode INDEXED BY inode_backed WHERE ino = ?1 AND died = 0 AND backed > 0")
        endInode = try connection.prepare("UPDATE inode SET died = ?2 WHERE ino = ?1 AND died = 0")
        deleteInode = try connection.prepare("DELETE FROM inode WHERE ino = ?1 AND died = 0")
        findEntry = try connection.prepare(
            "SELECT cookie, ino, kind, born FROM entry WHERE parent = ?1 AND name = ?2 AND died = 0")
        putEntry = try connection.prepare(
            "INSERT OR REPLACE INTO entry(parent, cookie, name, ino, kind, born, died) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)"
        )
        endEntry = try connection.prepare("UPDATE entry SET died = ?3 WHERE parent = ?1 AND cookie = ?2")
        deleteEntry = try connection.prepare("DELETE FROM entry WHERE parent = ?1 AND cookie = ?2")
        listEntries = try connection.prepare(
            """
            SELECT cookie, name, ino, kind FROM entry
            WHERE parent = ?1 AND cookie > ?2 AND died = 0 ORDER BY cookie LIMIT ?3
            """)
        // Names with what they name: the inode's columns, then the entry's. As they were at a sequence number.
        listFiles = try connection.prepare(
            """
            SELECT \(Self.inodeColumns(of: "i")), e.parent, e.cookie, e.name, e.ino, e.kind FROM entry AS e
            JOIN inode AS i ON i.ino = e.ino AND i.born <= ?4 AND (i.died = 0 OR i.died > ?4)
            WHERE e.parent = ?1 AND e.cookie > ?2 AND e.born <= ?4 AND (e.died = 0 OR e.died > ?4)
            ORDER BY e.cookie LIMIT ?3
            """)
        listFileXattrs = try connection.prepare(
            """
            SELECT ino, name, value FROM xattr WHERE born <= ?4 AND (died = 0 OR died > ?4) AND ino IN
            (SELECT ino FROM entry WHERE parent = ?1 AND cookie > ?2 AND cookie <= ?3
             AND born <= ?4 AND (died = 0 OR died > ?4))
            """)
        anyEntry = try connection.prepare("SELECT 1 FROM entry WHERE parent = ?1 AND died = 0 LIMIT 1")
        getXattr = try connection.prepare(
            "SELECT value, born FROM xattr WHERE ino = ?1 AND name = ?2 AND died = 0")
        listXattrs = try connection.prepare(
            "SELECT name FROM xattr WHERE ino = ?1 AND died = 0 ORDER BY name")
        putXattr = try connection.prepare(
            "INSERT OR REPLACE INTO xattr(ino, name, value, born, died) VALUES (?1, ?2, ?3, ?4, 0)")
        endXattr = try connection.prepare(
            "UPDATE xattr SET died = ?3 WHERE ino = ?1 AND name = ?2 AND died = 0")
        deleteXattr = try connection.prepare("DELETE FROM xattr WHERE ino = ?1 AND name = ?2 AND died = 0")
        endAllXattrs = try connection.prepare(
            "UPDATE xattr SET died = ?2 WHERE ino = ?1 AND died = 0 AND born <= ?3")
        deleteAllXattrs = try connection.prepare("DELETE FROM xattr WHERE ino = ?1 AND died = 0")
        sumXattrs = try connection.prepare(
            "SELECT coalesce(sum(length(value)), 0) FROM xattr WHERE ino = ?1 AND died = 0")
        listResident = try connection.prepare("SELECT start, end FROM resident WHERE ino = ?1 ORDER BY start")
        putResident = try connection.prepare(
            "INSERT OR REPLACE INTO resident(ino, start, end) VALUES (?1, ?2, ?3)")
        deleteResidentWithin = try connection.prepare(
            "DELETE FROM resident WHERE ino = ?1 AND start >= ?2 AND start < ?3")
        deleteResident = try connection.prepare("DELETE FROM resident WHERE ino = ?1")
        putMeta = try connection.prepare("INSERT OR REPLACE INTO meta(key, value) VALUES (?1, ?2)")
        getMeta = try connection.prepare("SELECT value FROM meta WHERE key = ?1")
        removeMeta = try connection.prepare("DELETE FROM meta WHERE key = ?1")
        putMissing = try connection.prepare("INSERT OR REPLACE INTO missing(ino, after) VALUES (?1, ?2)")
        getMissing = try connection.prepare("SELECT after FROM missing WHERE ino = ?1")
        listMissing = try connection.prepare("SELECT ino, after FROM missing ORDER BY ino")
        deleteMissing = try connection.prepare("DELETE FROM missing WHERE ino = ?1")
        putGone = try connection.prepare("INSERT OR IGNORE INTO gone(ino) VALUES (?1)")
        getGone = try connection.prepare("SELECT 1 FROM gone WHERE ino = ?1")
        putGarbage = try connection.prepare("INSERT OR IGNORE INTO garbage(data) VALUES (?1)")
        listGarbage = try connection.prepare("SELECT data FROM garbage ORDER BY data LIMIT 1000")
        deleteGarbage = try connection.prepare("DELETE FROM garbage WHERE data = ?1")
    }

    /// Reads the columns of `inodeColumns`. nil: the mode is none that a file can have.
    static func record(of row: Statement) -> (record: InodeRecord, born: SequenceNumber)? {
        let mode = row.unsigned32(2)
        guard let kind = FileKind(mode: mode) else { return nil }
        let size = row.unsigned(7)
        let backed = row.unsigned(15)
        guard size <= ByteRange.maximumOffset, backed <= size else { return nil }
        let attributes = FileAttributes(
            inode: InodeNumber(row.unsigned(0)), kind: kind, permissions: mode,
            linkCount: row.unsigned32(3), uid: row.unsigned32(4), gid: row.unsigned32(5),
            device: row.unsigned32(6), size: size, blockCount: row.unsigned(8),
            accessTime: FileTime(packed: row.integer(9)), modificationTime: FileTime(packed: row.integer(10)),
            changeTime: FileTime(packed: row.integer(11)))
        let record = InodeRecord(
            attributes: attributes, parent: InodeNumber(row.unsigned(12)), target: row.bytes(13),
            data: DataFileNumber(row.unsigned(14)), backedByteCount: backed)
        return (record, SequenceNumber(row.integer(1)))
    }

    func put(_ record: InodeRecord, born: SequenceNumber) throws(SQLiteError) {
        let attributes = record.attributes
        putInode.bind(1, attributes.inode.number)
        putInode.bind(2, born.number)
        putInode.bind(3, attributes.mode)
        putInode.bind(4, attributes.linkCount)
        putInode.bind(5, attributes.uid)
        putInode.bind(6, attributes.gid)
        putInode.bind(7, attributes.device)
        putInode.bind(8, attributes.size)
        putInode.bind(9, attributes.blockCount)
        putInode.bind(10, attributes.accessTime.packed)
        putInode.bind(11, attributes.modificationTime.packed)
        putInode.bind(12, attributes.changeTime.packed)
        putInode.bind(13, record.parent.number)
        putInode.bind(14, record.target)
        putInode.bind(15, record.data.number)
        putInode.bind(16, record.backedByteCount)
        try putInode.run()
    }

    func meta(_ key: CatalogKey) throws(SQLiteError) -> Int64? {
        getMeta.bind(1, key.rawValue)
        return try getMeta.first { $0.integer(0) }
    }

    func deleteMeta(_ key: CatalogKey) throws(SQLiteError) {
        removeMeta.bind(1, key.rawValue)
        try removeMeta.run()
    }

    func setMeta(_ key: CatalogKey, _ value: Int64) throws(SQLiteError) {
        putMeta.bind(1, key.rawValue)
        putMeta.bind(2, value)
        try putMeta.run()
    }

    /// - Returns: nil: there is none, or it is none.
    func metaName(_ key: CatalogKey) throws(SQLiteError) -> StateName? {
        getMeta.bind(1, key.rawValue)
        return try getMeta.first { StateName($0.bytes(0)) } ?? nil
    }

    func setMeta(_ key: CatalogKey, _ name: StateName) throws(SQLiteError) {
        putMeta.bind(1, key.rawValue)
        putMeta.bind(2, name.bytes)
        try putMeta.run()
    }
}

extension StateName {
    static func random() -> StateName {
        var generator = SystemRandomNumberGenerator()
        return StateName(randomHigh: generator.next(), randomLow: generator.next())
    }
}

/// The names of the numbers in the table `meta`.
enum CatalogKey: String {
    case schemaVersion = "schema_version"
    case sequence
    case nextInode = "next_inode"
    case nextCookie = "next_cookie"
    case nextData = "next_data"
    case durableData = "durable_data"
    case uncertainData = "uncertain_data"
    case settled
    case sizedFrom = "sized_from"
    case sizedThrough = "sized_through"
    case inodeCount = "inode_count"
    case byteCount = "byte_count"
    case missingByteCount = "missing_byte_count"
    case epoch
    case originSequence = "origin_sequence"
    case arrivalGrant = "arrival_grant"
    case pendingInodes = "pending_inodes"
    case pendingBytes = "pending_bytes"
    case pendingAllocated = "pending_allocated"
    case pendingMissing = "pending_missing"
    case isClean = "is_clean"
    case isFollower = "is_follower"
    case capacity
    case inodeCapacity = "inode_capacity"
    case allocatedByteCount = "allocated_byte_count"
    case changedSince = "changed_since"
    case firstChangedInode = "first_changed_inode"
    case changesAreUncertain = "changes_are_uncertain"
    case sealedFor = "sealed_for"
    /// Seconds since 1970.
    case sealedAt = "sealed_at"
    case sealIsDurable = "seal_is_durable"
    case sealIsUncertain = "seal_is_uncertain"
    case syncHasFailed = "sync_has_failed"
    case lastCrash = "last_crash"
    /// A follower that was dropped later than this left a word of it.
    case dismissalsSince = "dismissals_since"
    /// Names, not numbers.
    case headName = "head_name"
    case originHeadName = "origin_head_name"
    case sealName = "seal_name"
    case changedSinceName = "changed_since_name"

    /// What is said of one head, and not of a copy of it: where it came from, and to whom it was given.
    static let ofThisHead: [CatalogKey] = [
        .originSequence, .arrivalGrant, .pendingInodes, .pendingBytes, .pendingAllocated, .pendingMissing,
        .changedSince, .firstChangedInode, .changesAreUncertain, .sealedFor, .sealedAt, .sealIsDurable,
        .sealIsUncertain, .syncHasFailed, .lastCrash, .headName, .originHeadName, .sealName,
        .changedSinceName,
    ]
}

extension FileTime {
    /// Seconds in the upper 34 bits and nanoseconds in the lower 30: years 1697 to 2242 keep their place in
    /// the order, and times outside are held at the ends.
    var packed: Int64 { held.seconds << 30 | Int64(held.nanoseconds) }

    init(packed: Int64) {
        self.init(seconds: packed >> 30, nanoseconds: UInt32(packed & ((1 << 30) - 1)))
    }
}
