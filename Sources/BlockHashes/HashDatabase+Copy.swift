internal import SQLite
internal import VolumeModel

/// The database's side of `DamageCopy`: each change of what is known to be damaged is in the copy before it is committed.
extension HashDatabase {
    /// Notes which rows an open transaction changes. The connection's own, and in memory.
    static let touched = """
        PRAGMA temp_store = MEMORY;
        CREATE TEMP TABLE touched(
            kind INTEGER NOT NULL, data INTEGER NOT NULL, start INTEGER NOT NULL,
            PRIMARY KEY(kind, data, start)) WITHOUT ROWID;
        """
        + [("damage", 0), ("overwritten", 1)].map { table, kind in
            [("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")].map { change, row in
                """
                CREATE TEMP TRIGGER \(table)_\(change) AFTER \(change) ON main.\(table) BEGIN
                    INSERT OR IGNORE INTO touched VALUES (\(kind), \(row).data, \(row).start); END;
                """
            }.joined()
        }.joined()

    /// Changes what is known of damage, here and in the copy.
    func changeDamage(_ body: () throws(SQLiteError) -> Void) throws(SQLiteError) {
        try together { () throws(SQLiteError) in
            try body()
            try keepCopy()
        }
    }

    /// Makes the copy say what this does. Before a commit: what was put right must not be in a copy that is used later.
    func keepCopy() throws(SQLiteError) {
        let life = try life() ?? ""
        let lines = try takeTouched()
        guard try isAnyDamageKnown() else {
            try connection.execute("DELETE FROM meta WHERE key = 'copy'")
            return try DamageCopy.delete(in: directory)
        }
        if let last = try lastPlace(),
            let place = try DamageCopy.append(lines, life: life, after: last, in: directory)
        {
            if place != last { try note(place) }
            return
        }
        try note(DamageCopy.write(allLines(), life: life, in: directory))
    }

    /// The same where nobody can say what has become of the copy: all of it is held against this.
    func verifyCopy() throws(SQLiteError) {
        try together { () throws(SQLiteError) in
            let (known, life) = (try damage(), try life() ?? "")
            guard known != KnownDamage() else { return try keepCopy() }
            if let copy = try? DamageCopy.read(in: directory), copy.known == known, copy.life == life {
                return
            }
            try note(try DamageCopy.write(allLines(), life: life, in: directory))
        }
    }

    private func isAnyDamageKnown() throws(SQLiteError) -> Bool {
        let any = try connection.prepare(
            "SELECT EXISTS (SELECT 1 FROM damage) OR EXISTS (SELECT 1 FROM overwritten)")
        return try any.first { $0.integer(0) != 0 } ?? false
    }

    private func lastPlace() throws(SQLiteError) -> DamageCopy.Place? {
        let get = try connection.prepare("SELECT value FROM meta WHERE key = 'copy'")
        return try get.first { DamageCopy.Place(text: $0.text(0)) } ?? nil
    }

    private func note(_ place: DamageCopy.Place) throws(SQLiteError) {
        let put = try connection.prepare("INSERT OR REPLACE INTO meta VALUES ('copy', ?1)")
        put.bind(1, place.text)
        try put.run()
    }

    /// What the open transaction has changed, as the copy says it.
    private func takeTouched() throws(SQLiteError) -> String {
        var lines = ""
        let blocks = try connection.prepare(
            "SELECT t.data, t.start, d.end, d.ino, d.expected FROM touched AS t LEFT JOIN damage AS d "
                + "ON d.data = t.data AND d.start = t.start WHERE t.kind = 0")
        try blocks.forEach { row in
            lines +=
                row.isNull(2)
                ? DamageEntries.line(noBlockAt: row.unsigned(1), of: DataFileNumber(row.unsigned(0)))
                : Self.block(row)
            return true
        }
        let overwritten = try connection.prepare(
            "SELECT t.data, t.start, o.end FROM touched AS t LEFT JOIN overwritten AS o "
                + "ON o.data = t.data AND o.start = t.start WHERE t.kind = 1")
        try overwritten.forEach { row in
            lines +=
                row.isNull(2)
                ? DamageEntries.line(notOverwrittenAt: row.unsigned(1), of: DataFileNumber(row.unsigned(0)))
                : Self.overwritten(row)
            return true
        }
        try connection.execute("DELETE FROM touched")
        return lines
    }

    /// Row by row, as changes are told.
    private func allLines() throws(SQLiteError) -> String {
        var lines = ""
        try connection.prepare("SELECT data, start, end, ino, expected FROM damage ORDER BY data, start")
            .forEach { row in
                lines += Self.block(row)
                return true
            }
        try connection.prepare("SELECT data, start, end FROM overwritten ORDER BY data, start").forEach {
            row in
            lines += Self.overwritten(row)
            return true
        }
        return lines
    }

    /// A row that is damaged itself says nothing.
    private static func block(_ row: Statement) -> String {
        guard let range = range(row, 1) else { return "" }
        return DamageEntries.line(
            DamagedBlock(
                data: DataFileNumber(row.unsigned(0)), range: range, inode: InodeNumber(row.unsigned(3)),
                expected: row.bytes(4)))
    }

    private static func overwritten(_ row: Statement) -> String {
        range(row, 1).map { DamageEntries.line(overwritten: $0, of: DataFileNumber(row.unsigned(0))) } ?? ""
    }
}
