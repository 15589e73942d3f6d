package import SQLite
package import VolumeModel

/// What was found damaged, until it is put right.
extension HashDatabase {
    package func damage() throws(SQLiteError) -> KnownDamage {
        var known = KnownDamage()
        try connection.prepare("SELECT data, start, end, ino, expected FROM damage ORDER BY data, start")
            .forEach { row in
                if let range = Self.range(row, 1) {
                    known.blocks.append(
                        DamagedBlock(
                            data: DataFileNumber(row.unsigned(0)), range: range,
                            inode: InodeNumber(row.unsigned(3)), expected: row.bytes(4)))
                }
                return true
            }
        try connection.prepare("SELECT data, start, end FROM overwritten").forEach { row in
            if let range = Self.range(row, 1) {
                known.overwritten[DataFileNumber(row.unsigned(0)), default: RangeSet()].insert(range)
            }
            return true
        }
        return known
    }

    private static func range(_ row: Statement, _ column: Int32) -> ByteRange? {
        let (start, end) = (row.unsigned(column), row.unsigned(column + 1))
        return ByteRange(checkedOffset: start, byteCount: end &- start)
    }

    /// Notes a damaged block. What was written of an older damage in its place is damaged with it.
    ///
    /// - Returns: false when it was known before; then what was expected at first stays.
    @discardableResult
    package func add(_ block: DamagedBlock) throws(SQLiteError) -> Bool {
        var isNew = false
        try together { () throws(SQLiteError) in isNew = try put(block) }
        return isNew
    }

    /// Notes that the end of a data file is gone, if that is still so when nobody can note anything else.
    ///
    /// - Returns: whether it was not known.
    package func addLoss(of data: DataFileNumber, _ inode: InodeNumber, look: () throws -> ByteRange?) throws
        -> Bool
    {
        var isNew = false
        try connection.execute("BEGIN IMMEDIATE")
        do {
            if let range = try look(), try !(damage().ranges[data] ?? RangeSet()).contains(range) {
                isNew = try put(
                    DamagedBlock(data: data, range: range, inode: inode, expected: DamagedBlock.lost))
            }
            try connection.execute("COMMIT")
        } catch {
            if connection.isInTransaction { try? connection.execute("ROLLBACK") }
            throw error
        }
        return isNew
    }

    private func put(_ block: DamagedBlock) throws(SQLiteError) -> Bool {
        let known = try damage()
        let before = known.blocks.first { $0.data == block.data && $0.range.start == block.range.start }
        var written = known.overwritten[block.data] ?? RangeSet()
        let isSame = before.map {
            $0.range == block.range && (block.expected.isEmpty || block.expected == $0.expected)
        }
        if isSame == true, written.byteCount(in: block.range) == 0 { return false }
        let insert = try connection.prepare("INSERT OR REPLACE INTO damage VALUES (?1, ?2, ?3, ?4, ?5)")
        insert.bind(1, block.data.number)
        insert.bind(2, block.range.start)
        insert.bind(3, block.range.end)
        insert.bind(4, block.inode.number)
        insert.bind(5, block.expected)
        try insert.run()
        written.remove(block.range)
        try replaceOverwritten(of: block.data, by: written)
        return true
    }

    /// The block is what it was.
    package func remove(_ block: DamagedBlock) throws(SQLiteError) {
        try together { () throws(SQLiteError) in
            var written = try damage().overwritten[block.data] ?? RangeSet()
            try delete(block)
            written.remove(block.range)
            try replaceOverwritten(of: block.data, by: written)
        }
    }

    private func delete(_ block: DamagedBlock) throws(SQLiteError) {
        let delete = try connection.prepare("DELETE FROM damage WHERE data = ?1 AND start = ?2")
        delete.bind(1, block.data.number)
        delete.bind(2, block.range.start)
        try delete.run()
    }

    func noteOverwritten(_ written: [DataFileNumber: RangeSet]) throws(SQLiteError) {
        try together { () throws(SQLiteError) in
            let known = try damage()
            for (data, ranges) in written {
                let all = (known.overwritten[data]?.ranges ?? []) + ranges.ranges
                let good = RangeSet(all)
                var kept = RangeSet()
                for block in known.blocks where block.data == data {
                    if good.contains(block.range) {
                        try delete(block)
                    } else {
                        for range in good.intersection(block.range) { kept.insert(range) }
                    }
                }
                try replaceOverwritten(of: data, by: kept)
            }
        }
    }

    private func replaceOverwritten(of data: DataFileNumber, by ranges: RangeSet) throws(SQLiteError) {
        let delete = try connection.prepare("DELETE FROM overwritten WHERE data = ?1")
        delete.bind(1, data.number)
        try delete.run()
        let insert = try connection.prepare("INSERT INTO overwritten VALUES (?1, ?2, ?3)")
        for range in ranges.ranges {
            insert.bind(1, data.number)
            insert.bind(2, range.start)
            insert.bind(3, range.end)
            try insert.run()
        }
    }

    /// A person has decided that what is there is to be taken as it is.
    package func acceptAll() throws(SQLiteError) {
        try together { () throws(SQLiteError) in
            try connection.execute(
                "DELETE FROM part WHERE data IN (SELECT data FROM damage); DELETE FROM damage; "
                    + "DELETE FROM overwritten")
        }
    }
}
