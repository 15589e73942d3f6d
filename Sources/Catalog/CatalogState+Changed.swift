internal import SQLite
package import VolumeModel

/// Which bytes have changed since this site began to own the head, for a site that had it before. What changed in the
/// reigns before is beside it: `EarlierReign`.
///
/// What it relies on:
/// - Whoever changes a file's bytes calls `noteChange` before, so that in this process nothing is forgotten.
/// - Rows are written with the other changes, and a head that ended in order has all of them. After any other end the
///   record is *uncertain* for good: a write may have reached the disk without it, for an fdatasync of bytes that
///   are here waits for no commit. No time stamp would tell: fdatasync leaves the file's own behind as well.
/// - An inode's number is never given twice, so that what was made since is told by its number alone.
struct ChangeRecord {
    /// The reign from whose beginning it counts; nil: nobody had the head before.
    private(set) var since: Epoch?
    private(set) var firstNewInode = InodeNumber(0)
    /// The name of the state that it began with, once its origin has told it.
    fileprivate(set) var sinceName: StateName?
    fileprivate(set) var isUncertain = false
    /// The reigns before, as far as they are known, the last one first: each ends where the one before it in the list
    /// begins.
    var earlier: [EarlierReign] = []
    /// Who granted the states that are known, by their epochs: the one that this head began with, and those before.
    var keepers: [Epoch: SiteID] = [:]
    /// Whether there surely are tables for them.
    var hasTablesForEarlier = false
    /// Those that were looked at lately, and all that are in no commit yet.
    fileprivate var byInode: [InodeNumber: ChangedBytes] = [:]
    fileprivate var dirty: Set<InodeNumber> = []

    /// Kept in memory after a commit at most: 8 KiB each for the largest files, some bytes for most.
    private static let memoryLimit = 2048

    init(_ statements: CatalogStatements, _ connection: Connection) throws(SQLiteError) {
        since = try statements.meta(.changedSince).map { Epoch(UInt64(bitPattern: $0)) }
        sinceName = try statements.metaName(.changedSinceName)
        firstNewInode = InodeNumber(UInt64(bitPattern: try statements.meta(.firstChangedInode) ?? 0))
        isUncertain = try statements.meta(.changesAreUncertain) == 1
        if let since {
            earlier = try EarlierReign.stored(in: connection, before: since)
            keepers = try EarlierReign.keepers(in: connection)
        }
    }

    init(since: Epoch, firstNewInode: InodeNumber) {
        self.since = since
        self.firstNewInode = firstNewInode
    }

    mutating func noteCommitted() {
        dirty.removeAll(keepingCapacity: true)
        if byInode.count > Self.memoryLimit { byInode.removeAll() }
    }
}

extension CatalogState {
    /// Notes that bytes of a file are about to change. Waits for nothing, and needs no commit.
    ///
    /// - Parameter range: a part past the file's end counts anyway.
    package mutating func noteChange(of range: ByteRange, of number: InodeNumber) throws {
        guard changed.since != nil, !changed.isUncertain, number < changed.firstNewInode, !range.isEmpty
        else { return }
        if changed.byInode[number] == nil {
            // Before the first change the file is as large as it was then.
            guard let record = try inode(number) else { return }
            let stored = try storedChanges(of: number)
            changed.byInode[number] = stored ?? ChangedBytes(unchangedOf: record.attributes.size)
            // Also when nothing of it changes but its end: how large it was must be known later.
            if stored == nil { noteDirty(number) }
        }
        if changed.byInode[number]?.insert(range) == true { noteDirty(number) }
    }

    private mutating func noteDirty(_ number: InodeNumber) {
        changed.dirty.insert(number)
        // No change of the operation's: what fails before its first one has left nothing half done.
        hasChanges = true
    }

    private func storedChanges(of number: InodeNumber) throws -> ChangedBytes? {
        statements.getChanged.bind(1, number.number)
        guard let row = try statements.getChanged.first(Self.changedBytes(of:)) else { return nil }
        // Damaged: all of it.
        return row ?? ChangedBytes(unchangedOf: 0)
    }

    static func changedBytes(of row: Statement) -> ChangedBytes? {
        ChangedBytes(allFrom: row.unsigned(1), shift: row.unsigned32(2), bits: row.bytes(3))
    }

    func writeChanges() throws(SQLiteError) {
        for number in changed.dirty.sorted() {
            guard let bytes = changed.byInode[number] else { continue }
            statements.putChanged.bind(1, number.number)
            statements.putChanged.bind(2, bytes.allFrom)
            statements.putChanged.bind(3, UInt32(bytes.shift))
            statements.putChanged.bind(4, bytes.bits)
            try statements.putChanged.run()
        }
    }

    /// An inode that is gone is asked for by nobody.
    mutating func forgetChanges(of number: InodeNumber) throws {
        guard changed.since != nil, number < changed.firstNewInode else { return }
        let bytes = changed.byInode.removeValue(forKey: number)
        undo.changes.append((number, bytes, changed.dirty.remove(number) != nil))
        statements.deleteChanged.bind(1, number.number)
        try statements.deleteChanged.run()
    }

    mutating func bringBackChanges(of number: InodeNumber, _ bytes: ChangedBytes?, areDirty: Bool) {
        changed.byInode[number] = bytes
        if areDirty { changed.dirty.insert(number) }
    }

    /// A head that was granted to this site begins: from here on what changes is noted.
    mutating func beginChangeRecord(since epoch: Epoch) throws {
        try connection.prepare("DELETE FROM changed").run()
        undo.changeRecord = changed
        changed = ChangeRecord(since: epoch, firstNewInode: counters.nextInode)
        try statements.setMeta(.changedSince, Int64(bitPattern: epoch.number))
        try statements.setMeta(.firstChangedInode, Int64(bitPattern: counters.nextInode.number))
        try statements.setMeta(.changesAreUncertain, 0)
        try statements.deleteMeta(.changedSinceName)
    }

    /// The origin has told the name of the state that this head began with.
    mutating func noteName(ofBeginning name: StateName) throws {
        try beginIfNeeded()
        try statements.setMeta(.changedSinceName, name)
        changed.sinceName = name
    }

    /// The last end was not in order.
    mutating func noteCrash() throws {
        if changed.since != nil {
            changed.isUncertain = true
            try statements.setMeta(.changesAreUncertain, 1)
        }
        if try statements.meta(.sealIsDurable) != 1 { try statements.setMeta(.sealIsUncertain, 1) }
        try statements.setMeta(.lastCrash, committedSequence.number)
    }

    /// Whether data files may have bytes that were written after this position, and of which a crash has made the catalog
    /// forget: it may have come at any time since, orderly ends after it or not.
    ///
    /// - Parameter position: nil: the first.
    package func mayHideWrites(since position: SequenceNumber?) throws -> Bool {
        guard let crash = try statements.meta(.lastCrash) else { return false }
        return position.map { $0.number <= crash } ?? true
    }

    // MARK: the state that was granted

    mutating func noteSeal(for heir: Epoch, at time: Int64?) throws {
        // A head that has gone on already, after another's word, is not what was granted.
        guard try epoch() < heir else { return }
        try beginIfNeeded()
        try statements.setMeta(.sealedFor, Int64(bitPattern: heir.number))
        try statements.setMeta(.sealedAt, time ?? 0)
        // Another one each time: should this site go back in time, what is granted then has the number at most.
        try statements.setMeta(.sealName, StateName.random())
        try statements.setMeta(.sealIsDurable, 0)
        try statements.setMeta(.sealIsUncertain, 0)
    }

    /// Everything of the sealed head is on disk: a crash takes nothing back any more.
    package mutating func noteSealIsDurable() throws {
        guard try statements.meta(.sealedFor) ?? 0 != 0, try statements.meta(.sealIsUncertain) != 1 else {
            return
        }
        try beginIfNeeded()
        try statements.setMeta(.sealIsDurable, 1)
    }

    /// The head goes on: it is no longer what was granted.
    mutating func breakSeal() throws {
        guard try statements.meta(.sealedFor) ?? 0 != 0 else { return }
        try beginIfNeeded()
        try statements.setMeta(.sealedFor, 0)
    }

    /// The disk has refused bytes of this head: of no state of it can it be said what is on the disk. For good.
    package mutating func noteSyncFailure() throws {
        guard try statements.meta(.syncHasFailed) != 1 else { return }
        try beginIfNeeded()
        try statements.setMeta(.syncHasFailed, 1)
    }

    /// The reign that this head, as it is, was granted to; nil: it has gone on since, or never was.
    ///
    /// It has a name, unless a release granted it that gave none.
    package func sealedFor() throws -> (heir: Epoch, name: StateName?, isCertain: Bool)? {
        guard let number = try statements.meta(.sealedFor), number != 0 else { return nil }
        let isCertain =
            try statements.meta(.sealIsUncertain) != 1 && statements.meta(.syncHasFailed) != 1
        return (Epoch(UInt64(bitPattern: number)), try statements.metaName(.sealName), isCertain)
    }

    /// When this head, as it is, was granted to a reign, in seconds since 1970 by the clock of then.
    ///
    /// - Returns: nil: that is not known, as of what a release granted that noted no time; or it is not that state any more.
    package func sealTime(for heir: Epoch) throws -> Int64? {
        guard try sealedFor()?.heir == heir, let time = try statements.meta(.sealedAt), time > 0 else {
            return nil
        }
        return time
    }

    // MARK: what is told

    /// A part of what has changed since a reign began: this site's, or an earlier one that is known without a gap.
    ///
    /// - Parameters:
    ///   - after: only inodes with higher numbers.
    ///   - byteCount: about how much is told at a time.
    package mutating func changes(
        since epoch: Epoch, after: InodeNumber, byteCount: Int
    ) throws -> ChangesSince {
        guard let reigns = changed.earlier(since: epoch) else { return ChangesSince(kind: .unknown) }
        let firstNewInode = reigns.reduce(changed.firstNewInode) { min($0, $1.firstNewInode) }
        let name = reigns.last.map(\.sinceName) ?? changed.sinceName
        guard !changed.isUncertain else {
            return ChangesSince(kind: .uncertain, sinceName: name, firstNewInode: firstNewInode)
        }
        _ = try commit()
        let statement = try connection.prepare(
            reigns.isEmpty ? EarlierReign.ownChanges : EarlierReign.changesSinceEpoch)
        statement.bind(1, Int64(clamping: after.number))
        if !reigns.isEmpty { statement.bind(2, epoch.number) }
        var answer = try Self.changes(told: statement, firstNewInode: firstNewInode, byteCount: byteCount)
        answer.sinceName = name
        return answer
    }

    /// A part of what changed in the one reign that ended with the state that was granted to `heir`, this site's or an
    /// earlier one. Nothing of it is known unless it is known for sure.
    package mutating func changes(
        inReignBefore heir: Epoch, after: InodeNumber, byteCount: Int
    ) throws -> ChangesSince {
        if let seal = try sealedFor(), seal.heir == heir {
            guard let since = changed.since, !changed.isUncertain else {
                // The heir is to know the name all the same.
                return ChangesSince(kind: .unknown, untilName: seal.name)
            }
            var answer = try changes(since: since, after: after, byteCount: byteCount)
            answer.since = since
            answer.untilName = seal.name
            answer.sinceKeeper = changed.keepers[since]
            return answer
        }
        guard let index = changed.earlier.firstIndex(where: { $0.until == heir }) else {
            return ChangesSince(kind: .unknown)
        }
        let reign = changed.earlier[index]
        _ = try commit()
        let statement = try connection.prepare(EarlierReign.changesOfOneReign)
        statement.bind(1, Int64(clamping: after.number))
        statement.bind(2, reign.since.number)
        var answer = try Self.changes(
            told: statement, firstNewInode: reign.firstNewInode, byteCount: byteCount)
        answer.since = reign.since
        answer.sinceName = reign.sinceName
        answer.sinceKeeper = changed.keepers[reign.since]
        answer.untilName = index == 0 ? changed.sinceName : changed.earlier[index - 1].sinceName
        return answer
    }

    /// - Parameter statement: gives rows by ascending inodes, of one inode perhaps several.
    private static func changes(
        told statement: Statement, firstNewInode: InodeNumber, byteCount: Int
    ) throws(SQLiteError) -> ChangesSince {
        var answer = ChangesSince(kind: .exact, firstNewInode: firstNewInode)
        var room = byteCount
        try statement.forEach { row in
            let number = InodeNumber(row.unsigned(0))
            guard number < firstNewInode else { return false }
            let bytes = changedBytes(of: row) ?? ChangedBytes(unchangedOf: 0)
            if let last = answer.inodes.indices.last, answer.inodes[last].inode == number {
                let before = answer.inodes[last].bytes.bits.count
                answer.inodes[last].bytes.formUnion(bytes)
                room -= answer.inodes[last].bytes.bits.count - before
                return true
            }
            guard room > 0 else {
                answer.isComplete = false
                return false
            }
            answer.inodes.append((number, bytes))
            room -= bytes.bits.count + 24
            return true
        }
        return answer
    }
}
