package import SQLite
package import VolumeModel

/// What was found damaged, until it is put right. Each change is in the copy before it counts.
extension HashDatabase {
    /// - Parameters:
    ///   - data: of one file; nil: of all.
    ///   - range: only what touches this.
    package func damage(
        of data: DataFileNumber? = nil, in range: ByteRange? = nil
    ) throws(SQLiteError) -> KnownDamage {
        var conditions: [String] = []
        if data != nil { conditions.append("data = ?1") }
        if range != nil { conditions.append("start < ?3 AND end > ?2") }
        let filter = conditions.isEmpty ? "" : " WHERE " + conditions.joined(separator: " AND ")
        func select(_ columns: String) throws(SQLiteError) -> Statement {
            let statement = try connection.prepare("SELECT \(columns)\(filter) ORDER BY data, start")
            if let data { statement.bind(1, data.number) }
            if let range {
                statement.bind(2, range.start)
                statement.bind(3, range.end)
            }
            return statement
        }
        var known = KnownDamage()
        try select("data, start, end, ino, expected FROM damage").forEach { row in
            if let range = Self.range(row, 1) {
                known.blocks.append(
                    DamagedBlock(
                        data: DataFileNumber(row.unsigned(0)), range: range,
                        inode: InodeNumber(row.unsigned(3)), expected: row.bytes(4)))
            }
            return true
        }
        try select("data, start, end FROM overwritten").forEach { row in
            if let range = Self.range(row, 1) {
                known.overwritten[DataFileNumber(row.unsigned(0)), default: RangeSet()].insert(range)
            }
            return true
        }
        return known
    }

    static func range(_ row: Statement, _ column: Int32) -> ByteRange? {
        let (start, end) = (row.unsigned(column), row.unsigned(column + 1))
        return ByteRange(checkedOffset: start, byteCount: end &- start)
    }

    /// Notes a damaged block. What was written of an older damage in its place is damaged with it.
    ///
    /// - Returns: false when it was known before; then what was expected at first stays.
    @discardableResult
    package func add(_ block: DamagedBlock) throws(SQLiteError) -> Bool {
        var isNew = false
        try changeDamage { () throws(SQLiteError) in isNew = try put(block) }
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
            if let range = try look(),
                try !(damage(of: data, in: range).ranges[data] ?? RangeSet()).contains(range)
            {
                isNew = try put(
                    DamagedBlock(data: data, range: range, inode: inode, expected: DamagedBlock.lost))
                try keepCopy()
            }
            try connection.execute("COMMIT")
        } catch {
            if connection.isInTransaction { try? connection.execute("ROLLBACK") }
            throw error
        }
        return isNew
    }

    private func put(_ block: DamagedBlock) throws(SQLiteError) -> Bool {
        let known = try damage(of: block.data, in: block.range)
        let before = known.blocks.first { $0.range.start == block.range.start }
        let isSame = before.map {
            $0.range == block.range && (block.expected.isEmpty || block.confirmed.expected == $0.expected)
        }
        if isSame == true, known.overwritten.isEmpty { return false }
        try connection.insert(block)
        try removeOverwritten(of: block.data, in: block.range, known)
        return true
    }

    /// Nobody has written there since the file was last looked at: what was noted in doubt is for sure.
    package func confirm(_ block: DamagedBlock) throws(SQLiteError) {
        try changeDamage { () throws(SQLiteError) in
            let update = try connection.prepare(
                "UPDATE damage SET expected = ?3 WHERE data = ?1 AND start = ?2 AND expected = ?4")
            update.bind(1, block.data.number)
            update.bind(2, block.range.start)
            update.bind(3, block.confirmed.expected)
            update.bind(4, block.unconfirmed.expected)
            try update.run()
        }
    }

    /// The block is what it was.
    package func remove(_ block: DamagedBlock) throws(SQLiteError) {
        try changeDamage { () throws(SQLiteError) in
            let known = try damage(of: block.data, in: block.range)
            try delete(block)
            try removeOverwritten(of: block.data, in: block.range, known)
        }
    }

    private func delete(_ block: DamagedBlock) throws(SQLiteError) {
        let delete = try connection.prepare("DELETE FROM damage WHERE data = ?1 AND start = ?2")
        delete.bind(1, block.data.number)
        delete.bind(2, block.range.start)
        try delete.run()
    }

    /// - Parameter known: what touches the range.
    private func removeOverwritten(
        of data: DataFileNumber, in range: ByteRange, _ known: KnownDamage
    ) throws(SQLiteError) {
        guard var left = known.overwritten[data] else { return }
        left.remove(range)
        let delete = try connection.prepare(
            "DELETE FROM overwritten WHERE data = ?1 AND start < ?3 AND end > ?2")
        delete.bind(1, data.number)
        delete.bind(2, range.start)
        delete.bind(3, range.end)
        try delete.run()
        try connection.insertOverwritten(left, of: data)
    }

    /// Takes up what somebody else knows, where this was lost and made anew. What is known here stays.
    package func take(_ known: KnownDamage) throws(SQLiteError) {
        try changeDamage { () throws(SQLiteError) in
            for block in known.blocks {
                let present = try damage(of: block.data, in: block.range).blocks
                guard !present.contains(where: { $0.range.start == block.range.start }) else { continue }
                try connection.insert(block)
                for range in known.overwritten[block.data]?.intersection(block.range) ?? [] {
                    try connection.insertOverwritten(RangeSet([range]), of: block.data)
                }
            }
        }
    }

    /// Notes that bytes were written since they were found damaged, and are on the disk. May be repeated.
    package func noteOverwritten(_ written: [DataFileNumber: RangeSet]) throws(SQLiteError) {
        try changeDamage { () throws(SQLiteError) in
            for (data, ranges) in written {
                let known = try damage(of: data)
                let good = RangeSet((known.overwritten[data]?.ranges ?? []) + ranges.ranges)
                var kept = RangeSet()
                for block in known.blocks {
                    if good.contains(block.range) {
                        try delete(block)
                    } else {
                        for range in good.intersection(block.range) { kept.insert(range) }
                    }
                }
                try setOverwritten(kept, of: data)
            }
        }
    }

    /// Changes only the rows that are others.
    private func setOverwritten(_ ranges: RangeSet, of data: DataFileNumber) throws(SQLiteError) {
        var before: Set<ByteRange> = []
        let list = try connection.prepare("SELECT start, end FROM overwritten WHERE data = ?1")
        list.bind(1, data.number)
        try list.forEach { row in
            if let range = Self.range(row, 0) { before.insert(range) }
            return true
        }
        let delete = try connection.prepare("DELETE FROM overwritten WHERE data = ?1 AND start = ?2")
        for range in before.subtracting(ranges.ranges) {
            delete.bind(1, data.number)
            delete.bind(2, range.start)
            try delete.run()
        }
        try connection.insertOverwritten(
            RangeSet(ranges.ranges.filter { !before.contains($0) }), of: data)
    }

    /// A person has decided that what is there is to be taken as it is.
    package func acceptAll() throws(SQLiteError) {
        try changeDamage { () throws(SQLiteError) in
            try connection.execute(
                "DELETE FROM part WHERE data IN (SELECT data FROM damage); DELETE FROM damage; "
                    + "DELETE FROM overwritten")
        }
    }
}
