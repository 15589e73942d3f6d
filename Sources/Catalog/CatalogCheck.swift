internal import SQLite
package import VolumeModel

/// Something that a check of a head found, in words for a person.
package struct HeadFinding: Hashable, Sendable {
    package enum Kind: String, Sendable {
        /// What was stored cannot be read, or is gone: restore it from another copy.
        case damage
        /// Two places tell different things.
        case contradiction
        /// Takes room, and nobody misses it.
        case leftover
        /// Nothing is wrong, but what goes wrong later may go unnoticed.
        case weakness
    }

    package let kind: Kind
    package let text: String
    /// Whether `repair` can put it right without losing anything.
    package let isRepairable: Bool

    package init(_ kind: Kind, _ text: String, isRepairable: Bool = false) {
        self.kind = kind
        self.text = text
        self.isRepairable = isRepairable
    }
}

/// What a catalog says of one data file.
package struct CheckedData: Hashable, Sendable {
    package let inode: InodeNumber
    package let blockCount: UInt64
    /// Whether all its bytes are here and were once synced: then it takes as many blocks as is said.
    package let isComplete: Bool
}

/// Looks through a catalog as of its last commit, while it is in use or not, and changes nothing.
///
/// All rows are held against each other: entries, inodes, link counts, rows' lives, arrived ranges, and the sums
/// that are kept beside them. Takes memory for the numbers of the data files, and a few seconds a million rows.
package struct CatalogCheck {
    /// Of each kind of contradiction this many are told one by one.
    private static let exampleLimit = 20

    package private(set) var findings: [HeadFinding] = []
    package private(set) var data: [DataFileNumber: CheckedData] = [:]
    /// Data files with lower numbers have durable names.
    package private(set) var durableData: UInt64 = 1
    /// Data files from this number on take what is counted: there was no crash since they were made.
    package private(set) var certainData: UInt64 = .max
    /// Directories whose names are still at the origin: what depends on all names is not checked then.
    package private(set) var missingDirectoryCount = 0
    private let path: String
    private let connection: Connection

    /// - Parameter directory: the head's.
    /// - Throws: `.unusable` when there is no catalog that this release can read.
    package init(of directory: String) throws(CatalogError) {
        path = directory + "/" + Catalog.fileName
        do {
            connection = try Catalog.connectionToLook(at: path)
            try connection.execute("BEGIN")
            try checkPages()
            // Rows of damaged pages would only be told of twice, if they can be read at all.
            guard findings.isEmpty else { return }
            missingDirectoryCount =
                try connection.prepare("SELECT count(*) FROM missing").first { Int($0.integer(0)) } ?? 0
            try checkArrival()
            try checkEntries()
            try checkInodes()
            try checkLives()
            try checkRanges()
            try checkSums()
            try readData()
            checkKeepsPageSums()
        } catch let error as SQLiteError {
            guard !error.isCorruption else { throw .damaged(path, error.message) }
            throw .unusable(path: path, reason: error.message)
        } catch {
            throw (error as? CatalogError) ?? .unusable(path: path, reason: "\(error)")
        }
    }

    /// Reads every page that anything stands on, each of which is held against its sum.
    private mutating func checkPages() throws(SQLiteError) {
        var lines: [String] = []
        do {
            try connection.prepare("PRAGMA integrity_check(\(Self.exampleLimit))").forEach {
                lines.append($0.text(0))
                return true
            }
        } catch {
            guard error.isCorruption else { throw error }
            lines.append(error.message)
        }
        guard lines != ["ok"] else { return }
        for line in lines { findings.append(HeadFinding(.damage, "\(path): \(line)")) }
        guard let page = connection.takeDamagedPage() else { return }
        findings.append(
            HeadFinding(
                .damage,
                "\(path): \(page) is not what godwit wrote: the disk, or another program, has changed it: "
                    + CatalogError.remedy))
    }

    /// Comes last: a catalog that something else is wrong with, and stays so, is not written anew.
    private mutating func checkKeepsPageSums() {
        guard !connection.keepsPageSums else { return }
        let isRepairable = findings.allSatisfy(\.isRepairable)
        findings.append(
            HeadFinding(
                .weakness,
                "\(path) is of an earlier release, and its pages have no sums: what the disk changes may go unnoticed"
                    + (isRepairable ? "" : " (it gets them when nothing else is wrong with it)"),
                isRepairable: isRepairable))
    }

    /// Adds one finding for each row of a query, which gives the text in its only column.
    private mutating func find(
        _ kind: HeadFinding.Kind, isRepairable: Bool = false, _ sql: String
    ) throws(SQLiteError) {
        var texts: [String] = []
        var count = 0
        try connection.prepare(sql).forEach { row in
            count += 1
            if texts.count < Self.exampleLimit { texts.append(row.text(0)) }
            return true
        }
        for text in texts { findings.append(HeadFinding(kind, text, isRepairable: isRepairable)) }
        if let text = texts.last, count > texts.count {
            findings.append(
                HeadFinding(
                    kind, "… and \(count - texts.count) more like the last: \(text)",
                    isRepairable: isRepairable))
        }
    }

    private mutating func checkEntries() throws(SQLiteError) {
        try find(
            .damage,
            """
            SELECT 'entry ' || cookie || ' of directory ' || parent || ' names inode ' || ino || ', which is not there'
            FROM entry AS e WHERE died = 0
            AND NOT EXISTS (SELECT 1 FROM inode AS i WHERE i.ino = e.ino AND i.died = 0)
            """)
        try find(
            .damage,
            """
            SELECT 'entry ' || cookie || ' is in ' || parent || ', which is no directory' FROM entry AS e
            WHERE died = 0 AND NOT EXISTS
            (SELECT 1 FROM inode AS i WHERE i.ino = e.parent AND i.died = 0 AND i.mode & 61440 = 16384)
            """)
        try find(
            .contradiction,
            """
            SELECT 'entry ' || cookie || ' says that inode ' || e.ino || ' is of another kind than it is'
            FROM entry AS e JOIN inode AS i ON i.ino = e.ino AND i.died = 0
            WHERE e.died = 0 AND i.mode & 61440 != e.kind
            """)
        try find(
            .damage,
            """
            SELECT 'entry ' || cookie || ' of directory ' || parent || ' has a name that no file can have'
            FROM entry WHERE died = 0 AND (length(name) = 0 OR length(name) > 255 OR instr(name, x'2f') > 0
            OR instr(name, x'00') > 0 OR name IN (x'2e', x'2e2e'))
            """)
    }

    private mutating func checkArrival() throws(SQLiteError) {
        try find(
            .damage,
            """
            SELECT 'the names of ' || ino || ', which is no directory, are said to be at the origin' FROM missing AS m
            WHERE NOT EXISTS
            (SELECT 1 FROM inode AS i WHERE i.ino = m.ino AND i.died = 0 AND i.mode & 61440 = 16384)
            """)
        try find(
            .contradiction,
            """
            SELECT 'inode ' || ino || ' is there and is said to have been removed' FROM gone
            WHERE ino IN (SELECT ino FROM inode WHERE died = 0)
            """)
    }

    private mutating func checkInodes() throws(SQLiteError) {
        try find(
            .damage,
            "SELECT 'there is no root directory' WHERE NOT EXISTS "
                + "(SELECT 1 FROM inode WHERE ino = 1 AND died = 0 AND mode & 61440 = 16384)")
        if missingDirectoryCount == 0 { try checkLinks() }
        try find(
            .contradiction,
            """
            SELECT 'directory ' || i.ino || ' is in ' || e.parent || ' and says that it is in ' || i.parent
            FROM inode AS i JOIN entry AS e ON e.ino = i.ino AND e.died = 0
            WHERE i.died = 0 AND i.mode & 61440 = 16384 AND e.parent != i.parent
            """)
        try find(
            .damage,
            """
            WITH RECURSIVE reached(ino) AS (VALUES (1) UNION SELECT e.ino FROM entry AS e JOIN reached AS r
            ON e.parent = r.ino AND e.died = 0 AND e.kind = 16384)
            SELECT 'directory ' || ino || ' cannot be reached from the root' FROM inode
            WHERE died = 0 AND links > 0 AND mode & 61440 = 16384 AND ino NOT IN reached
            """)
    }

    private mutating func checkLinks() throws(SQLiteError) {
        try find(
            .contradiction, isRepairable: true,
            """
            SELECT 'inode ' || ino || ' has ' || links || ' links, and ' || found || ' names and subdirectories'
            FROM (\(Self.linkCounts)) WHERE links != found AND found > 0 AND NOT (links = 0 AND found = 2)
            """)
        try find(
            .damage,
            """
            SELECT 'no name leads to inode ' || ino || ', which has ' || links || ' links' FROM
            (\(Self.linkCounts)) WHERE links > 0 AND found = 0
            """)
    }

    /// Each live inode with the links that it claims and those that there are.
    static let linkCounts = """
        SELECT i.ino AS ino, i.links AS links, CASE WHEN i.mode & 61440 = 16384
        THEN 2 + (SELECT count(*) FROM entry AS e WHERE e.parent = i.ino AND e.died = 0 AND e.kind = 16384)
        ELSE coalesce(n.count, 0) END AS found
        FROM inode AS i LEFT JOIN (SELECT ino, count(*) AS count FROM entry WHERE died = 0 GROUP BY ino) AS n
        ON n.ino = i.ino WHERE i.died = 0
        """

    private mutating func checkLives() throws(SQLiteError) {
        for (table, key) in [("inode", "ino"), ("entry", "parent || '/' || cookie"), ("xattr", "ino")] {
            try find(
                .contradiction,
                "SELECT '\(table) ' || \(key) || ' died at ' || died || ', born at ' || born FROM \(table) "
                    + "WHERE died > 0 AND died < born")
            try find(
                .leftover, isRepairable: true,
                """
                SELECT count(*) || ' rows of \(table) that nobody will ask for any more' FROM \(table)
                WHERE died > 0 AND died <= coalesce((SELECT min(acknowledged) FROM pin), died)
                HAVING count(*) > 0
                """)
        }
        try find(
            .leftover, isRepairable: true,
            """
            SELECT 'attributes of inode ' || ino || ', which is not there' FROM xattr AS x WHERE died = 0
            AND NOT EXISTS (SELECT 1 FROM inode AS i WHERE i.ino = x.ino AND i.died = 0) GROUP BY ino
            """)
    }

    private mutating func checkRanges() throws(SQLiteError) {
        try find(
            .contradiction,
            """
            SELECT 'range ' || start || ' to ' || end || ' of inode ' || r.ino || ' is said to have arrived, beyond '
            || coalesce(i.backed, 0) || ' bytes that the origin has' FROM resident AS r
            LEFT JOIN inode AS i ON i.ino = r.ino AND i.died = 0
            WHERE start >= end OR start < 0 OR end > coalesce(i.backed, 0)
            """)
        try find(
            .contradiction,
            """
            SELECT 'ranges of inode ' || a.ino || ' at ' || a.start || ' and ' || b.start || ' overlap'
            FROM resident AS a JOIN resident AS b ON b.ino = a.ino AND b.start > a.start AND b.start < a.end
            """)
        try find(
            .contradiction,
            "SELECT 'data file ' || data || ' belongs to ' || count(*) || ' files' FROM inode "
                + "WHERE died = 0 AND data > 0 GROUP BY data HAVING count(*) > 1")
    }

    /// A sum, how it is counted, and whether it may be more than that.
    static let sums: [(key: CatalogKey, what: String, sql: String)] = [
        (.inodeCount, "inodes", "SELECT count(*) FROM inode WHERE died = 0"),
        (
            .byteCount, "bytes",
            "SELECT coalesce(sum(size), 0) FROM inode WHERE died = 0 AND mode & 61440 = 32768 AND (data > 0 OR backed > 0)"
        ),
        (
            .allocatedByteCount, "bytes taken",
            "SELECT coalesce(sum(blocks), 0) * 512 FROM inode WHERE died = 0 AND mode & 61440 = 32768"
        ),
        (
            .missingByteCount, "bytes missing",
            "SELECT coalesce((SELECT sum(backed) FROM inode WHERE died = 0), 0) - coalesce((SELECT sum(end - start) FROM resident), 0)"
        ),
    ]

    private mutating func checkSums() throws(SQLiteError) {
        let statements = try CatalogStatements(connection)
        // A follower's sums are its owner's; nothing of it is served.
        let isFollower = try statements.meta(.isFollower) == 1
        // Those of a catalog that is arriving are of all that is to come.
        for (key, what, sql) in Self.sums where !isFollower && missingDirectoryCount == 0 {
            let counted = try connection.prepare(sql).first { $0.integer(0) } ?? 0
            let stored = try statements.meta(key) ?? 0
            guard counted != stored else { continue }
            findings.append(
                HeadFinding(
                    .contradiction, "there are \(counted) \(what), and \(stored) are counted",
                    isRepairable: true))
        }
        for (key, what, sql) in [
            (CatalogKey.nextInode, "inode", "SELECT max(ino) FROM inode"),
            (.nextCookie, "entry", "SELECT max(cookie) FROM entry"),
            (.nextData, "data file", "SELECT max(data) FROM inode"),
        ] {
            let highest = try connection.prepare(sql).first { $0.integer(0) } ?? 0
            let next = try statements.meta(key) ?? (key == .nextInode ? 2 : 1)
            guard highest >= next else { continue }
            findings.append(
                HeadFinding(
                    .contradiction, "\(what) \(highest) is there, and \(next) is to be the next",
                    isRepairable: true))
        }
        durableData = UInt64(bitPattern: try statements.meta(.durableData) ?? 1)
        if try statements.meta(.isClean) == 1 {
            certainData = UInt64(bitPattern: try statements.meta(.uncertainData) ?? 1)
        }
    }

    private mutating func readData() throws(SQLiteError) {
        var data: [DataFileNumber: CheckedData] = [:]
        // What is to be deleted is no surprise if it is still there.
        try connection.prepare("SELECT data FROM garbage").forEach { row in
            data[DataFileNumber(row.unsigned(0))] = CheckedData(
                inode: InodeNumber(0), blockCount: 0, isComplete: false)
            return true
        }
        try connection.prepare("SELECT data, ino, blocks, backed FROM inode WHERE died = 0 AND data > 0")
            .forEach { row in
                data[DataFileNumber(row.unsigned(0))] = CheckedData(
                    inode: InodeNumber(row.unsigned(1)), blockCount: row.unsigned(2),
                    isComplete: row.unsigned(3) == 0)
                return true
            }
        self.data = data
    }
}

extension CatalogCheck {
    /// Puts right what can be put right without losing anything. The catalog must not be in use.
    ///
    /// - Throws: `.unusable` when another process has it open; nothing is changed then.
    package static func repair(_ directory: String) throws(CatalogError) {
        let lock = try HeadLock(directory: directory)
        defer { lock.release() }
        do {
            let path = directory + "/" + Catalog.fileName
            // Of a newer release's not even the log is moved.
            let connection = try Catalog.connect(to: path)
            try Catalog.checkVersion(of: connection, path: path)
            try Catalog.checkLog(of: connection, path: path)
            connection.leaveLogOnClose(false)
            try connection.execute(
                "PRAGMA synchronous = FULL; \(CatalogSchema.memoryOfTransactions); BEGIN IMMEDIATE")
            for table in ["inode", "entry", "xattr"] {
                try connection.execute(
                    "DELETE FROM \(table) WHERE died > 0 AND died <= "
                        + "coalesce((SELECT min(acknowledged) FROM pin), died)")
            }
            try connection.execute(
                "DELETE FROM xattr WHERE died = 0 AND ino NOT IN (SELECT ino FROM inode WHERE died = 0)")
            let statements = try CatalogStatements(connection)
            let isWhole = try statements.listMissing.first { _ in true } == nil
            if isWhole {
                try connection.execute(
                    """
                    CREATE TEMP TABLE wrong AS SELECT ino, found FROM (\(linkCounts))
                    WHERE links != found AND found > 0 AND NOT (links = 0 AND found = 2);
                    UPDATE inode SET links = (SELECT found FROM wrong WHERE wrong.ino = inode.ino)
                    WHERE died = 0 AND ino IN (SELECT ino FROM wrong)
                    """)
            }
            for (key, _, sql) in sums where isWhole {
                try statements.setMeta(key, try connection.prepare(sql).first { $0.integer(0) } ?? 0)
            }
            for (key, sql) in [
                (CatalogKey.nextInode, "SELECT max(ino) FROM inode"),
                (.nextCookie, "SELECT max(cookie) FROM entry"), (.nextData, "SELECT max(data) FROM inode"),
            ] {
                let highest = try connection.prepare(sql).first { $0.integer(0) } ?? 0
                let next = try statements.meta(key) ?? 1
                // A number that cannot be counted on from is damage, and nothing to begin with.
                guard highest >= next, highest < Int64.max / 2 else { continue }
                try statements.setMeta(key, highest + 1)
            }
            try connection.execute("COMMIT")
        } catch let error as SQLiteError {
            throw .database(error)
        } catch {
            throw (error as? CatalogError) ?? .unusable(path: directory, reason: "\(error)")
        }
    }
}
