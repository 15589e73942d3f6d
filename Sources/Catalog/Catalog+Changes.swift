internal import SQLite
package import VolumeModel

extension Catalog {
    /// Bytes of encoded rows in a batch, before compression.
    package static let batchByteCount = 512 * 1024

    /// Gives a follower what changed since it last looked, as of now.
    ///
    /// The follower is pinned: what it has not acknowledged stays to be asked for again. What it may have
    /// taken of an answer that was cut off is corrected by the next one, so asking twice does no harm.
    ///
    /// - Parameters:
    ///   - since: what the follower has applied (acknowledges everything before); nil: nothing, send all.
    ///   - send: takes each batch of encoded rows in order; may be called while the catalog changes.
    /// - Returns: the sequence number, the counters and the limits that the follower reaches with the batches.
    /// - Throws: `.unknownPosition` when `since` is none of the states that this catalog gave to the follower: then
    ///   the follower is one of another head and must begin anew, with an empty catalog.
    package func sendChanges(
        to follower: String, since: SequenceNumber?, _ send: ([UInt8]) async throws -> Void
    ) async throws -> CatalogPosition {
        let reader = try openReader()
        let (position, removedSince) = try await BlockingThreads.run {
            let begun = try self.beginSending(to: follower, since: since, by: reader)
            // A power loss must not take back, and give to other changes, numbers that a follower has seen.
            try self.synchronize()
            return begun
        }
        do {
            let changes = try ChangeReader(reader, since: since, removedSince: removedSince)
            while let batch = try changes.nextBatch(byteCount: Self.batchByteCount) { try await send(batch) }
        } catch let error as SQLiteError {
            throw CatalogError.database(error)
        }
        return position
    }

    /// Pin and snapshot under one lock: no change may come between them.
    ///
    /// - Returns: also the sequence number from which on the follower may hold rows that have died since; nil: it holds none.
    private func beginSending(
        to follower: String, since: SequenceNumber?, by reader: Connection
    ) throws -> (position: CatalogPosition, removedSince: SequenceNumber?) {
        try performCommitting { state in
            guard !state.isApplying else {
                throw CatalogError.unusable(path: directory, reason: "it is being brought up to date itself")
            }
            try state.checkWhole()
            let headName = try state.headName()
            _ = try state.commit()
            let sequence = state.committedSequence
            let removedSince = try state.pin(follower, since: since, newest: sequence)
            _ = try state.commit()
            do {
                try reader.execute("BEGIN")
                _ = try reader.prepare("SELECT count(*) FROM pin").first { $0.integer(0) }
            } catch let error as SQLiteError {
                // The reader's trouble is not the catalog's.
                throw CatalogError.database(error)
            }
            let position = CatalogPosition(
                sequence: sequence, counters: state.counters, limits: state.limits, headName: headName)
            return (position, removedSince)
        }
    }

    private func openReader() throws(CatalogError) -> Connection {
        do {
            return try connectAgain()
        } catch {
            throw .database(error)
        }
    }

    /// Keeps what changes from now on, under a name that is never used for another state.
    ///
    /// - Parameters:
    ///   - heir: the reign that the present is granted to. Until the head goes on it is that state.
    ///   - time: when that is, in seconds since 1970; nil: not known.
    /// - Returns: the sequence number of the present. Repeated it is the same, though the pin was a change itself.
    package func pin(
        _ follower: String, sealedFor heir: Epoch? = nil, at time: Int64? = nil
    ) throws -> SequenceNumber {
        let sequence = try performCommitting { state in
            let find = try state.connection.prepare("SELECT newest FROM pin WHERE name = ?1")
            find.bind(1, follower)
            if let known = try find.first({ SequenceNumber($0.integer(0)) }) { return known }
            _ = try state.commit()
            let sequence = state.committedSequence
            _ = try state.pin(follower, since: nil, newest: sequence)
            if let heir { try state.noteSeal(for: heir, at: time) }
            return sequence
        }
        try synchronize()
        return sequence
    }

    /// Forgets a follower: rows kept for it alone can go.
    package func unpin(_ follower: String) throws {
        try perform { try $0.unpin(follower) }
        try synchronize()
    }

    /// Forgets a follower, and remembers that this was so: should it come again it begins anew. Of one that was never heard
    /// of and has something of this very head, this is an older state.
    package func dismiss(_ follower: String) throws {
        try perform { state in
            try state.unpin(follower)
            try state.setDismissed(follower, true)
        }
        try synchronize()
    }

    /// The pin of what a head began with that was taken over by force. No follower has this name: sites' have no spaces.
    package static let beginningPin = "the beginning"

    /// Whatever this head lacked at its beginning has come, or never will.
    package func forgetBeginning() throws {
        guard try perform({ try $0.pinNames().contains(Self.beginningPin) }) else { return }
        try unpin(Self.beginningPin)
    }

    /// Applies rows of an owner to a follower's catalog. They are kept from `finishChanges` on; until then a
    /// crash, or the end of being a follower, takes them back.
    ///
    /// - Throws: `.unusable` when this head is no follower, or not any more.
    package func apply(_ rows: [CatalogRow]) throws {
        try performCommitting { state in
            try state.beginApplication()
            do {
                for row in rows { try state.apply(row) }
            } catch let error as SQLiteError {
                // Nothing but the owner's changes is lost, and these can be had again.
                try state.abandonApplication()
                throw CatalogError.database(error)
            }
        }
    }

    /// Ends a set of changes: from now on the follower is at this position of its owner.
    package func finishChanges(at position: CatalogPosition) throws {
        try check(position)
        try performCommitting { state in
            try state.beginApplication()
            try state.finishApplication(at: position)
        }
        try synchronize()
    }

    func check(_ position: CatalogPosition) throws(CatalogError) {
        let counters = position.counters
        // Numbers from outside that will be counted on from.
        let limit = Int64.max / 2
        guard counters.nextInode.number > 1, counters.nextInode.number <= UInt64(limit),
            (1...limit).contains(counters.nextCookie), counters.byteCount <= UInt64(limit),
            counters.inodeCount <= UInt64(limit), counters.allocatedByteCount <= UInt64(limit),
            position.limits.isCountable
        else { throw CatalogError.unusable(path: directory, reason: "the owner's counters are malformed") }
    }

    /// The name of this head, which it has since it began; nil of a follower. Of a head from before there were names it is
    /// made now.
    package func headName() throws -> StateName? { try perform { try $0.headName() } }

    /// Whether a follower of this very head has more of it than was ever given, or something though nothing is known of it:
    /// then this is an older state of the head, and the follower's is the newer one. A position from before the release that
    /// remembers whom it dropped tells nothing.
    ///
    /// - Parameter head: the name of the head that the follower has followed.
    package func isBehind(
        _ follower: String, at position: SequenceNumber, of head: StateName?
    ) throws -> Bool {
        guard let head, try headName() == head else { return false }
        return try perform { state in
            let find = try state.connection.prepare("SELECT newest FROM pin WHERE name = ?1")
            find.bind(1, follower)
            if let newest = try find.first({ SequenceNumber($0.integer(0)) }) { return position > newest }
            if position > state.committedSequence { return true }
            let isRemembered = try position.number > state.statements.meta(.dismissalsSince) ?? 0
            return try isRemembered && !state.isDismissed(follower)
        }
    }

    /// The name of the owner's head of which this follower has taken changes; nil: none, or it is not known.
    package func originHeadName() throws -> StateName? {
        try perform { try $0.statements.metaName(.originHeadName) }
    }

    /// The owner's sequence number that this follower has reached; nil: none yet.
    package func originSequence() throws -> SequenceNumber? {
        try perform { state in
            try state.statements.meta(.originSequence).map { SequenceNumber($0) }
        }
    }
}

/// Where a follower is: its owner's sequence number, with what else it must know at that moment.
package struct CatalogPosition: Hashable, Sendable {
    package var sequence: SequenceNumber
    package var counters: CatalogCounters
    package var limits: VolumeLimits
    /// The name of the owner's head; nil: it is not known.
    package var headName: StateName?

    package init(
        sequence: SequenceNumber, counters: CatalogCounters, limits: VolumeLimits, headName: StateName? = nil
    ) {
        self.sequence = sequence
        self.counters = counters
        self.limits = limits
        self.headName = headName
    }
}

extension CatalogState {
    /// The sequence number of the last commit.
    package var committedSequence: SequenceNumber { SequenceNumber(sequence.number - 1) }

    /// Keeps for a follower what changes from now on, and what it has not acknowledged.
    ///
    /// - Returns: the sequence number from which on it may hold rows that have died since; nil: it holds none.
    mutating func pin(
        _ name: String, since: SequenceNumber?, newest: SequenceNumber
    ) throws -> SequenceNumber? {
        let find = try connection.prepare("SELECT acknowledged, newest FROM pin WHERE name = ?1")
        find.bind(1, name)
        let known = try find.first { (SequenceNumber($0.integer(0)), SequenceNumber($0.integer(1))) }
        if let since {
            guard let known, known.0 <= since, since <= known.1 else {
                throw CatalogError.unknownPosition(follower: name, since)
            }
        }
        try beginIfNeeded()
        let statement = try connection.prepare(
            "INSERT OR REPLACE INTO pin(name, acknowledged, newest) VALUES (?1, ?2, ?3)")
        statement.bind(1, name)
        statement.bind(2, (since ?? known?.0 ?? newest).number)
        statement.bind(3, newest.number)
        try statement.run()
        newestPin = max(newestPin ?? newest, newest)
        try dropUnpinnedRows()
        try setDismissed(name, false)
        return since ?? known?.0
    }

    /// Beside the keys of `CatalogKey`, one for each follower that was dismissed.
    static let dismissedPrefix = "dismissed "

    fileprivate mutating func setDismissed(_ follower: String, _ isDismissed: Bool) throws {
        try beginIfNeeded()
        let statement = try connection.prepare(
            isDismissed
                ? "INSERT OR REPLACE INTO meta(key, value) VALUES (?1, 1)" : "DELETE FROM meta WHERE key = ?1"
        )
        statement.bind(1, Self.dismissedPrefix + follower)
        try statement.run()
    }

    fileprivate func isDismissed(_ follower: String) throws -> Bool {
        let find = try connection.prepare("SELECT 1 FROM meta WHERE key = ?1")
        find.bind(1, Self.dismissedPrefix + follower)
        return try find.first { _ in true } ?? false
    }

    mutating func headName() throws -> StateName? {
        guard !isFollower else { return nil }
        if let name = try statements.metaName(.headName) { return name }
        let name = StateName.random()
        try beginIfNeeded()
        try statements.setMeta(.headName, name)
        return name
    }

    package func pinNames() throws -> [String] {
        var names: [String] = []
        try connection.prepare("SELECT name FROM pin").forEach { row in
            names.append(row.text(0))
            return true
        }
        return names
    }

    /// Whether everything that has changed since a follower was at this position can still be told.
    package func isPinned(for follower: String, at position: SequenceNumber) throws -> Bool {
        let find = try connection.prepare(
            "SELECT 1 FROM pin WHERE name = ?1 AND acknowledged <= ?2 AND newest >= ?2")
        find.bind(1, follower)
        find.bind(2, position.number)
        return try find.first { _ in true } ?? false
    }

    /// Whether an inode's bytes are as they were at a position that is pinned. Whatever writes or cuts them sets the
    /// time of the last change; that somebody has read them does not.
    package func isUnchanged(_ inode: InodeNumber, since position: SequenceNumber) throws -> Bool {
        let seen = try storedRecord(inode, asOf: position)?.attributes
        guard let seen, let present = try peekInode(inode)?.attributes else { return false }
        return seen.changeTime == present.changeTime && seen.size == present.size
            && seen.modificationTime == present.modificationTime && present.linkCount > 0
    }

    /// A file as it was when this head began, where that is kept; else as it is.
    package func beginningRecord(of inode: InodeNumber) throws -> InodeRecord? {
        let find = try connection.prepare("SELECT newest FROM pin WHERE name = ?1")
        find.bind(1, Catalog.beginningPin)
        guard let position = try find.first({ SequenceNumber($0.integer(0)) }) else {
            return try peekInode(inode)
        }
        return try storedRecord(inode, asOf: position)
    }

    mutating func finishApplication(at position: CatalogPosition) throws {
        counters = position.counters
        try setLimits(position.limits)
        missingByteCount = position.counters.byteCount
        if isArriving { pending = PendingSums(position.counters) }
        try statements.setMeta(.originSequence, position.sequence.number)
        if let name = position.headName {
            try statements.setMeta(.originHeadName, name)
        } else {
            try statements.deleteMeta(.originHeadName)
        }
        isApplying = false
        _ = try commit()
    }

    mutating func unpin(_ name: String) throws {
        try beginIfNeeded()
        let statement = try connection.prepare("DELETE FROM pin WHERE name = ?1")
        statement.bind(1, name)
        try statement.run()
        newestPin =
            try connection.prepare("SELECT max(newest) FROM pin").first { row in
                row.isNull(0) ? nil : SequenceNumber(row.integer(0))
            } ?? nil
        try dropUnpinnedRows()
    }

    /// Drops rows that died before the oldest pin, or all dead rows when there is none.
    private func dropUnpinnedRows() throws {
        let oldest =
            try connection.prepare("SELECT min(acknowledged) FROM pin").first { row in
                row.isNull(0) ? Int64.max : row.integer(0)
            } ?? .max
        for table in ["inode", "entry", "xattr"] {
            let statement = try connection.prepare("DELETE FROM \(table) WHERE died > 0 AND died <= ?1")
            statement.bind(1, oldest)
            try statement.run()
        }
    }

    /// Applies one row of the owner. Followers have no pins: rows are replaced in place.
    mutating func apply(_ row: CatalogRow) throws {
        try beginIfNeeded()
        switch row {
        case .inode(let record):
            // Written past the cache: a follower's inodes are not looked at before it is promoted.
            inodes[record.attributes.inode] = nil
            try statements.put(record, born: sequence)
        case .removedInode(let number):
            inodes[number] = nil
            statements.deleteInode.bind(1, number.number)
            try statements.deleteInode.run()
        case .entry(let entry):
            try put(entry)
        case .removedEntry(let parent, let cookie):
            statements.deleteEntry.bind(1, parent.number)
            statements.deleteEntry.bind(2, cookie)
            try statements.deleteEntry.run()
        case .attribute(let number, let name, let value):
            try setExtendedAttribute(name, of: number, value: value)
        case .removedAttribute(let number, let name):
            try removeExtendedAttribute(name, of: number)
        }
    }
}

/// Reads what changed since a sequence number, in the order in which a follower must apply it: what went,
/// then what came. Reads one unchanging state, however long that takes.
private final class ChangeReader {
    private var steps: [Step]
    private var current: Step?

    private struct Step {
        let statement: Statement
        let row: (Statement) throws -> CatalogRow
    }

    init(_ connection: Connection, since: SequenceNumber?, removedSince: SequenceNumber?) throws {
        var steps: [Step] = []
        func add(_ sql: String, _ row: @escaping (Statement) throws -> CatalogRow) throws {
            steps.append(Step(statement: try connection.prepare(sql), row: row))
        }
        let path = connection.path
        if let removedSince {
            try add(ChangeQueries.removedEntries(since: removedSince)) {
                .removedEntry(parent: InodeNumber($0.unsigned(0)), cookie: $0.integer(1))
            }
            try add(ChangeQueries.removedAttributes(since: removedSince)) {
                .removedAttribute(InodeNumber($0.unsigned(0)), name: $0.bytes(1))
            }
            try add(ChangeQueries.removedInodes(since: removedSince)) {
                .removedInode(InodeNumber($0.unsigned(0)))
            }
        }
        try add(ChangeQueries.inodes(since: since)) {
            guard let (record, _) = CatalogStatements.record(of: $0) else {
                throw CatalogError.unusable(path: path, reason: "an inode is malformed")
            }
            return .inode(record)
        }
        try add(ChangeQueries.entries(since: since)) {
            .entry(
                DirectoryEntryRecord(
                    parent: InodeNumber($0.unsigned(0)), cookie: $0.integer(1), name: $0.bytes(2),
                    inode: InodeNumber($0.unsigned(3)),
                    kind: FileKind(rawValue: $0.unsigned32(4)) ?? .regular))
        }
        try add(ChangeQueries.attributes(since: since)) {
            .attribute(InodeNumber($0.unsigned(0)), name: $0.bytes(1), value: $0.bytes(2))
        }
        self.steps = steps.reversed()
        current = self.steps.popLast()
    }

    /// - Returns: nil when everything was given.
    func nextBatch(byteCount: Int) throws -> [UInt8]? {
        var batch: [UInt8] = []
        batch.reserveCapacity(byteCount + 1024)
        while let step = current {
            while try step.statement.step() {
                CatalogRowCoder.append(try step.row(step.statement), to: &batch)
                if batch.count >= byteCount { return batch }
            }
            step.statement.reset()
            current = steps.popLast()
        }
        return batch.isEmpty ? nil : batch
    }
}

/// What changed since a sequence number. Each must take time by what changed, not by what there is: an index
/// serves it (and a partial index only serves a query that repeats its condition word by word).
enum ChangeQueries {
    static func inodes(since: SequenceNumber?) -> String {
        "SELECT \(CatalogStatements.inodeColumns) FROM inode WHERE died = 0" + born(since)
    }

    static func entries(since: SequenceNumber?) -> String {
        "SELECT parent, cookie, name, ino, kind FROM entry WHERE died = 0" + born(since)
    }

    static func attributes(since: SequenceNumber?) -> String {
        "SELECT ino, name, value FROM xattr WHERE died = 0" + born(since)
    }

    // What went also counts if it was born later: an answer that was cut off may have brought it.

    static func removedEntries(since: SequenceNumber) -> String {
        "SELECT parent, cookie FROM entry WHERE" + died(since)
    }

    static func removedAttributes(since: SequenceNumber) -> String {
        "SELECT ino, name FROM xattr AS x WHERE" + died(since) + " AND NOT EXISTS "
            + "(SELECT 1 FROM xattr AS l WHERE l.ino = x.ino AND l.name = x.name AND l.died = 0)"
    }

    static func removedInodes(since: SequenceNumber) -> String {
        "SELECT ino FROM inode AS x WHERE" + died(since)
            + " AND NOT EXISTS (SELECT 1 FROM inode AS l WHERE l.ino = x.ino AND l.died = 0)"
    }

    private static func born(_ since: SequenceNumber?) -> String {
        since.map { " AND born > \($0.number)" } ?? ""
    }

    private static func died(_ since: SequenceNumber) -> String { " died > 0 AND died > \(since.number)" }
}
