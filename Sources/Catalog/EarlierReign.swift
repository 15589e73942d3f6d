internal import SQLite
package import VolumeModel

/// A reign before this head's own, of which it is known what changed in it: so that a site that kept a state of longer
/// ago than the last hand-off can be told what has changed since, whichever sites have had the volume meanwhile.
///
/// An owner takes these from the site that it has the volume of, in the background and before that site is released. It
/// costs the hand-off nothing, and whoever has the volume next takes them from it in turn.
///
/// What it relies on:
/// - An epoch numbers one state of the volume: the one that was granted to the reign of that epoch. A reign is known from
///   the state it began with to the one that it was sealed with, and a head that is sealed for a reign does not change.
///   Whoever began by force was granted nothing: no reign ends there, and nothing from before is known.
/// - Where a site went back in time a number may have come twice. So each state has a random name as well, made when it
///   is sealed, and whoever kept a state takes for unchanged only what is told since the state of that name. An heir learns
///   the name with the first answer of its origin, in the background. What is told by a release without names, or leads
///   over a state without one, has none itself: who asks compares by hash.
/// - A name that the origin did not know when it told, because it had the volume so briefly, is asked for again.
/// - Reigns are a chain without a gap: the last ends where this head begins, each other one where the next begins.
/// - What is not known for sure is not told, and ends the chain. So all that is kept is exact, for ever.
/// - A reign is noted in a commit after all its rows, so that none counts after a crash of which some are missing.
/// - Too much may be told of, but not too little: granules grow, and inodes beyond what there is room for count as new.
struct EarlierReign: Hashable, Sendable {
    /// The state that it began with.
    let since: Epoch
    /// The state that it ended with.
    let until: Epoch
    /// The name of the state that it began with, if names lead there without a gap.
    var sinceName: StateName?
    var firstNewInode: InodeNumber
    /// What its rows take, about.
    var byteCount = 0

    /// More are not kept, nor more bytes of all of them: what is older is compared by hash.
    static let countLimit = 64
    static let byteLimit = 32 << 20
    /// What a row takes beside its granules.
    static let rowByteCount = 64
    /// Rows that are written under one holding of the lock: some milliseconds.
    static let chunk = 500

    /// Made when something is first kept in them: a release that does not know them misses nothing.
    static let makeTables = """
        CREATE TABLE IF NOT EXISTS earlier_change(
            ino INTEGER NOT NULL, since INTEGER NOT NULL, all_from INTEGER NOT NULL, shift INTEGER NOT NULL,
            granules BLOB NOT NULL, PRIMARY KEY(ino, since)) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS earlier_reign(
            since INTEGER PRIMARY KEY, until INTEGER NOT NULL, first_new_inode INTEGER NOT NULL,
            byte_count INTEGER NOT NULL);
        CREATE TABLE IF NOT EXISTS earlier_name(since INTEGER PRIMARY KEY, name BLOB NOT NULL);
        CREATE TABLE IF NOT EXISTS earlier_keeper(since INTEGER PRIMARY KEY, site TEXT NOT NULL);
        """
    static let dropTables = """
        DROP TABLE IF EXISTS earlier_change; DROP TABLE IF EXISTS earlier_reign; DROP TABLE IF EXISTS earlier_name;
        DROP TABLE IF EXISTS earlier_keeper
        """

    static let dropUnnoted = "DELETE FROM earlier_change WHERE since NOT IN (SELECT since FROM earlier_reign)"

    static let ownChanges = "SELECT ino, all_from, shift, granules FROM changed WHERE ino > ?1 ORDER BY ino"
    static let changesOfOneReign =
        "SELECT ino, all_from, shift, granules FROM earlier_change WHERE ino > ?1 AND since = ?2 ORDER BY ino"
    /// Epochs grow along the chain. Rows of a reign that was not noted are too much.
    static let changesSinceEpoch = """
        SELECT ino, all_from, shift, granules FROM changed WHERE ino > ?1
        UNION ALL
        SELECT ino, all_from, shift, granules FROM earlier_change WHERE ino > ?1 AND since >= ?2
        ORDER BY ino
        """
    static let changesOfOneInode =
        "SELECT ino, all_from, shift, granules FROM earlier_change WHERE ino = ?1 AND since >= ?2"

    /// - Returns: those that lead to an epoch without a gap, the last one first.
    static func stored(in connection: Connection, before epoch: Epoch) throws(SQLiteError) -> [EarlierReign] {
        guard try hasTable("earlier_reign", connection) else { return [] }
        let names = try names(in: connection)
        var reigns: [EarlierReign] = []
        var end = epoch
        let statement = try connection.prepare(
            "SELECT since, until, first_new_inode, byte_count FROM earlier_reign ORDER BY since DESC")
        try statement.forEach { row in
            let reign = EarlierReign(
                since: Epoch(row.unsigned(0)), until: Epoch(row.unsigned(1)),
                sinceName: names[Epoch(row.unsigned(0))],
                firstNewInode: InodeNumber(row.unsigned(2)), byteCount: Int(max(0, row.integer(3))))
            guard reign.until == end, reign.since < end else { return false }
            reigns.append(reign)
            end = reign.since
            return true
        }
        return reigns
    }

    static func keepers(in connection: Connection) throws(SQLiteError) -> [Epoch: SiteID] {
        guard try hasTable("earlier_keeper", connection) else { return [:] }
        var keepers: [Epoch: SiteID] = [:]
        try connection.prepare("SELECT since, site FROM earlier_keeper").forEach { row in
            keepers[Epoch(row.unsigned(0))] = SiteID(row.text(1))
            return true
        }
        return keepers
    }

    private static func hasTable(_ name: String, _ connection: Connection) throws(SQLiteError) -> Bool {
        let find = try connection.prepare("SELECT 1 FROM sqlite_master WHERE name = ?1")
        find.bind(1, name)
        return try find.first { _ in true } ?? false
    }

    private static func names(in connection: Connection) throws(SQLiteError) -> [Epoch: StateName] {
        guard try hasTable("earlier_name", connection) else { return [:] }
        var names: [Epoch: StateName] = [:]
        try connection.prepare("SELECT since, name FROM earlier_name").forEach { row in
            names[Epoch(row.unsigned(0))] = StateName(row.bytes(1))
            return true
        }
        return names
    }
}

extension ChangeRecord {
    /// The reigns that lie between a state and the beginning of this head's own; nil: it is not known what they are.
    func earlier(since epoch: Epoch) -> ArraySlice<EarlierReign>? {
        if since == epoch { return [] }
        return earlier.firstIndex { $0.since == epoch }.map { earlier[...$0] }
    }
}

extension CatalogState {
    /// Writes what changed in an earlier reign. It counts from `noteEarlier` on.
    mutating func putEarlier(
        _ inodes: ArraySlice<(inode: InodeNumber, bytes: ChangedBytes)>, since epoch: Epoch
    ) throws {
        try makeTablesForEarlier()
        try beginIfNeeded()
        let statement = try connection.prepare(
            "INSERT OR REPLACE INTO earlier_change(ino, since, all_from, shift, granules) VALUES (?1, ?2, ?3, ?4, ?5)"
        )
        for item in inodes {
            statement.bind(1, item.inode.number)
            statement.bind(2, epoch.number)
            statement.bind(3, item.bytes.allFrom)
            statement.bind(4, UInt32(item.bytes.shift))
            statement.bind(5, item.bytes.bits)
            try statement.run()
        }
    }

    /// Forgets rows of reigns that were never noted: what an attempt that came to nothing has left.
    mutating func dropUnnotedEarlier() throws {
        let table = try connection.prepare("SELECT 1 FROM sqlite_master WHERE name = 'earlier_change'")
        guard try table.first({ _ in true }) ?? false else { return }
        try beginIfNeeded()
        try connection.prepare(EarlierReign.dropUnnoted).run()
    }

    /// All that changed in a reign is written. It comes before those that are known.
    mutating func noteEarlier(_ reign: EarlierReign) throws {
        guard let end = changed.earlier.last?.since ?? changed.since, reign.until == end, reign.since < end
        else { return }
        try makeTablesForEarlier()
        // After a crash there must not be this without the rows.
        _ = try commit()
        try beginIfNeeded()
        let statement = try connection.prepare(
            "INSERT OR REPLACE INTO earlier_reign(since, until, first_new_inode, byte_count) VALUES (?1, ?2, ?3, ?4)"
        )
        statement.bind(1, reign.since.number)
        statement.bind(2, reign.until.number)
        statement.bind(3, reign.firstNewInode.number)
        statement.bind(4, Int64(reign.byteCount))
        try statement.run()
        try putName(reign.sinceName, ofEarlier: reign.since)
        changed.earlier.append(reign)
    }

    private func putName(_ name: StateName?, ofEarlier epoch: Epoch) throws(SQLiteError) {
        let forget = try connection.prepare("DELETE FROM earlier_name WHERE since = ?1")
        forget.bind(1, epoch.number)
        try forget.run()
        guard let name else { return }
        let put = try connection.prepare("INSERT INTO earlier_name(since, name) VALUES (?1, ?2)")
        put.bind(1, epoch.number)
        put.bind(2, name.bytes)
        try put.run()
    }

    /// The name of the state with which a reign began that is known already.
    mutating func noteName(_ name: StateName, ofEarlier index: Int) throws {
        try makeTablesForEarlier()
        try beginIfNeeded()
        try putName(name, ofEarlier: changed.earlier[index].since)
        changed.earlier[index].sinceName = name
    }

    /// Who granted a state, and may keep its bytes. Once known it stays.
    mutating func noteKeeper(_ keeper: SiteID, of epoch: Epoch) throws {
        guard changed.keepers[epoch] == nil else { return }
        try makeTablesForEarlier()
        try beginIfNeeded()
        let put = try connection.prepare(
            "INSERT OR REPLACE INTO earlier_keeper(since, site) VALUES (?1, ?2)")
        put.bind(1, epoch.number)
        put.bind(2, keeper.description)
        try put.run()
        changed.keepers[epoch] = keeper
    }

    /// In a transaction of its own, for it is not noted for a commit that has to be made again.
    private mutating func makeTablesForEarlier() throws {
        guard !changed.hasTablesForEarlier else { return }
        _ = try commit()
        do {
            try connection.execute(EarlierReign.makeTables)
            changed.hasTablesForEarlier = true
        } catch {
            // Nothing was begun: it is no trouble of the catalog's.
            throw CatalogError.database(error)
        }
    }
}

extension Catalog {
    /// Takes from the head's origin what changed in the reigns before this one, the last first, as far as the origin
    /// knows and there is room. What is here already is not asked for again. May be repeated; not at the same time.
    ///
    /// - Parameters:
    ///   - reign: the one that the origin was sealed for. Nothing is taken unless this head began with that state.
    ///   - keeper: the origin.
    ///   - ask: gives a part of what changed in the reign that ended with the state that was granted to an epoch, of
    ///     inodes above one.
    /// - Throws: what `ask` does, and what the catalog says of the disk. What was taken before stays.
    package func takeEarlierReigns(
        before reign: Epoch, of keeper: SiteID? = nil,
        _ ask: (Epoch, InodeNumber) async throws -> ChangesSince
    ) async throws {
        guard try perform({ $0.changed.since == reign }) else { return }
        if let keeper { try performCommitting { try $0.noteKeeper(keeper, of: reign) } }
        try perform { try $0.dropUnnotedEarlier() }
        try await completeNames(ask)
        while true {
            let known = try perform { $0.changed.earlier }
            let room = EarlierReign.byteLimit - known.reduce(0) { $0 + $1.byteCount }
            guard known.count < EarlierReign.countLimit, room > 0,
                let next = try await takeReign(until: known.last?.since ?? reign, room: room, ask)
            else { return }
            try await BlockingThreads.run {
                try self.performCommitting { state in
                    try state.noteEarlier(next.reign)
                    if let keeper = next.keeper { try state.noteKeeper(keeper, of: next.reign.since) }
                }
            }
        }
    }

    /// Whether the origin may yet be told what it did not know: a name of a state.
    package func lacksNames() throws -> Bool {
        try perform { state in
            state.changed.since != nil
                && (state.changed.sinceName == nil || state.changed.earlier.contains { $0.sinceName == nil })
        }
    }

    /// Asks for the names of states that the origin did not know when it told of a reign: it had the volume so briefly. As
    /// each name is told beside the one that follows it, they come in this order.
    private func completeNames(_ ask: (Epoch, InodeNumber) async throws -> ChangesSince) async throws {
        for (index, reign) in try perform({ $0.changed.earlier }).enumerated()
        where reign.sinceName == nil {
            // Of no inode: only what is said of all of them.
            let told = try await ask(reign.until, InodeNumber(.max))
            guard told.kind == .exact, told.since == reign.since, let name = told.sinceName,
                try performCommitting({ state in
                    let next =
                        index == 0 ? state.changed.sinceName : state.changed.earlier[index - 1].sinceName
                    guard let next, told.untilName == next, index < state.changed.earlier.count,
                        state.changed.earlier[index].since == reign.since
                    else { return false }
                    try state.noteName(name, ofEarlier: index)
                    if let keeper = told.sinceKeeper { try state.noteKeeper(keeper, of: reign.since) }
                    return true
                })
            else { return }
        }
    }

    /// The name of the state that this head began with. Where it is not known yet, it is what whoever granted it tells.
    private func nameOfBeginning(orElse told: StateName?) throws -> StateName? {
        try perform { state in
            if state.changed.sinceName == nil, let told { try state.noteName(ofBeginning: told) }
            return state.changed.sinceName
        }
    }

    /// - Returns: nil when nothing is known of it, or what is told cannot be.
    private func takeReign(
        until end: Epoch, room: Int, _ ask: (Epoch, InodeNumber) async throws -> ChangesSince
    ) async throws -> (reign: EarlierReign, keeper: SiteID?)? {
        // What is new since is in no state before.
        let (firstNewInode, earlier) = try perform { ($0.changed.firstNewInode, $0.changed.earlier) }
        var told: (since: Epoch, name: StateName?, firstNewInode: InodeNumber)?
        var last = InodeNumber(0)
        var byteCount = 0
        while true {
            try Task.checkCancellation()
            let part = try await ask(end, last)
            let expected =
                earlier.isEmpty ? try nameOfBeginning(orElse: part.untilName) : earlier.last?.sinceName
            // Another state of that number.
            if let expected, let until = part.untilName, expected != until { return nil }
            let name = expected != nil && expected == part.untilName ? part.sinceName : nil
            guard part.kind == .exact, let since = part.since, since >= .first, since < end else {
                return nil
            }
            if let told, told != (since, name, part.firstNewInode) { return nil }
            told = (since, name, part.firstNewInode)
            var rest = part.inodes[...].prefix { $0.inode < firstNewInode }
            while !rest.isEmpty {
                let chunk = rest.prefix(EarlierReign.chunk)
                rest = rest.dropFirst(EarlierReign.chunk)
                try await BlockingThreads.run {
                    try self.performCommitting { try $0.putEarlier(chunk, since: since) }
                }
            }
            byteCount += part.inodes.reduce(0) { $0 + $1.bytes.bits.count + EarlierReign.rowByteCount }
            var reign = EarlierReign(
                since: since, until: end, sinceName: name, firstNewInode: part.firstNewInode,
                byteCount: byteCount)
            if part.isComplete { return (reign, part.sinceKeeper) }
            guard let next = part.inodes.last?.inode, next > last else { return nil }
            last = next
            guard byteCount < room else {
                reign.firstNewInode = min(part.firstNewInode, last)
                return (reign, part.sinceKeeper)
            }
        }
    }
}
