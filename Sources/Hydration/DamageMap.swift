internal import BlockHashes
internal import ByteStore
internal import Synchronization
package import VolumeModel

/// Where something has changed in what is known of damage.
package struct DamagePlace: Hashable, Sendable {
    package let data: DataFileNumber
    /// Which block of it; nil: all of them.
    package let block: ByteRange?

    package init(data: DataFileNumber, block: ByteRange? = nil) {
        self.data = data
        self.block = block
    }
}

/// What is damaged of an open head's data files, as of now.
///
/// Invariants:
/// - What is written over damage is good at once here, and in the database after it is on the disk, before anybody is
///   told that it is: a crash may bring damage back only over what nobody was promised.
/// - What is found is in the database before anybody relies on it.
/// - A database that was lost, or made anew by somebody else, gets what is known here before anything is taken from it.
final class DamageMap: Sendable {
    fileprivate struct State {
        var left: [DataFileNumber: RangeSet] = [:]
        /// Written over damage, and not noted in the database.
        var overwritten: [DataFileNumber: RangeSet] = [:]
        /// How often each file's have changed.
        var changes: [DataFileNumber: UInt64] = [:]
        /// What the database has told, or was told, by the blocks' first bytes.
        var blocks: [DataFileNumber: [UInt64: DamagedBlock]] = [:]
        /// The database's.
        var name: String?
    }

    private let directory: String
    private let state = Mutex(State())
    /// So that reads of sound heads take no lock.
    private let isKnown = Atomic(false)
    /// Held while the database is read into `state`, or the other way round.
    private let database = Mutex(())

    /// - Parameter directory: the head's.
    init(_ directory: String) { self.directory = directory }

    func begin(with known: KnownDamage) {
        let name = try? HashDatabase(existingIn: directory)?.name()
        state.withLock { $0.name = name }
        take(known)
    }

    /// Takes up what others have found, or decided.
    ///
    /// - Parameter place: there alone; nil: everywhere.
    /// - Returns: all blocks there of which something is, or was, damaged.
    func learn(of place: DamagePlace? = nil) throws -> [Extent] {
        try database.withLock { _ in
            let known =
                try withDatabase { try $0?.damage(of: place?.data, in: place?.block) } ?? KnownDamage()
            take(known, of: place)
            return known.blocks.map { Extent(inode: $0.inode, range: $0.range) }
        }
    }

    private func take(_ known: KnownDamage, of place: DamagePlace? = nil) {
        state.withLock { state in
            if let place, let block = place.block {
                state.take(known, of: place.data, in: block)
            } else {
                state.take(known, of: place?.data)
            }
            isKnown.store(!state.left.isEmpty || !state.overwritten.isEmpty, ordering: .releasing)
        }
    }

    // MARK: the database

    /// Called with `database` held.
    ///
    /// - Parameter body: gets nil where there is none.
    private func withDatabase<Result>(_ body: (HashDatabase?) throws -> Result) throws -> Result {
        do {
            return try body(try openDatabase())
        } catch  where HashDatabase.isCorruption(error) {
            // Looks through it, and makes it anew.
            _ = try HashDatabase(in: directory)
            return try body(try openDatabase())
        }
    }

    /// - Returns: nil when there is none, and nothing to note.
    private func openDatabase() throws -> HashDatabase? {
        let name = state.withLock { $0.name }
        let found = try HashDatabase(existingIn: directory)
        if let found, try found.name() == name { return found }
        // Looks at all that is known: only for another database than the last one.
        let known = state.withLock { Self.known($0) }
        if found == nil, known.blocks.isEmpty { return nil }
        let hashes = try found ?? HashDatabase(in: directory)
        let present = try hashes.name()
        if !known.blocks.isEmpty {
            try hashes.begin(
                life: MountLife.current(of: directory), isClean: true, isUse: true, firstUncertain: .none)
            try hashes.take(known)
        }
        state.withLock { $0.name = present }
        return hashes
    }

    /// What the database has to know. What is not noted there as written may not be on the disk.
    private static func known(_ state: borrowing State) -> KnownDamage {
        var known = KnownDamage()
        for (data, blocks) in state.blocks {
            var doubtful = state.left[data] ?? RangeSet()
            for range in state.overwritten[data]?.ranges ?? [] { doubtful.insert(range) }
            for block in blocks.values where doubtful.byteCount(in: block.range) > 0 {
                known.blocks.append(block)
                for range in doubtful.gaps(in: block.range) {
                    known.overwritten[data, default: RangeSet()].insert(range)
                }
            }
        }
        return known
    }

    // MARK: what is asked

    /// The first damaged bytes at or after `offset`, as far as they reach.
    func first(of data: DataFileNumber, from offset: UInt64) -> ByteRange? {
        guard isKnown.load(ordering: .acquiring) else { return nil }
        return state.withLock {
            $0.left[data]?.intersection(ByteRange(offset, ByteRange.maximumOffset)).first
        }
    }

    /// What of a block is still damaged; nothing when another one, or none, is noted in its place.
    func left(of block: DamagedBlock) throws -> [ByteRange] {
        guard isKnown.load(ordering: .acquiring) else { return [] }
        return try database.withLock { _ in
            let known = try withDatabase { try $0?.damage(of: block.data, in: block.range) }
            guard known?.blocks.contains(block) ?? false else { return [] }
            return state.withLock { $0.left[block.data]?.intersection(block.range) ?? [] }
        }
    }

    /// Whether anything of a file is, or was, damaged.
    func knows(_ data: DataFileNumber) -> Bool {
        guard isKnown.load(ordering: .acquiring) else { return false }
        return state.withLock { $0.left[data] != nil }
    }

    func covers(_ range: ByteRange, of data: DataFileNumber) -> Bool {
        guard isKnown.load(ordering: .acquiring) else { return false }
        return state.withLock { $0.left[data]?.contains(range) ?? false }
    }

    /// Whose files something of is damaged, and up to where.
    var ends: [(data: DataFileNumber, inode: InodeNumber, end: UInt64)] {
        state.withLock { state in
            state.left.compactMap { data, left in
                guard let inode = state.blocks[data]?.values.first?.inode, let end = left.ranges.last?.end
                else {
                    return nil
                }
                return (data, inode, end)
            }
        }
    }

    /// To be asked before a file is looked at.
    func changeCount(of data: DataFileNumber) -> UInt64 { state.withLock { $0.changes[data] ?? 0 } }

    /// Bytes were found to be gone.
    ///
    /// - Parameter count: as it was before the file was looked at.
    /// - Returns: false when what is known of the file has changed since: it is to be looked at again.
    /// - Throws: when that could not be noted: then nothing of the file may be changed.
    func add(_ block: DamagedBlock, ifChangedAsOftenAs count: UInt64) throws -> Bool {
        try database.withLock { _ in
            guard changeCount(of: block.data) == count else { return false }
            _ = try HashDatabase(in: directory)
            try withDatabase { _ = try $0?.add(block) }
            state.withLock { state in
                state.left[block.data, default: RangeSet()].insert(block.range)
                state.overwritten[block.data]?.remove(block.range)
                state.changes[block.data, default: 0] += 1
                state.blocks[block.data, default: [:]][block.range.start] = block
                isKnown.store(true, ordering: .releasing)
            }
            return true
        }
    }

    /// A block was put right. Where that cannot be noted, the file is hashed anew, as after any write.
    ///
    /// - Parameter isWhole: whether it is all of what it was, with nothing newer in it.
    func keepHashes(from old: FileState, to new: FileState, beside block: DamagedBlock, isWhole: Bool) {
        database.withLock { _ in
            try? withDatabase { try $0?.keepHashes(from: old, to: new, beside: block, isWhole: isWhole) }
        }
    }

    // MARK: what is written

    func noteOverwritten(_ range: ByteRange, of data: DataFileNumber) {
        guard isKnown.load(ordering: .acquiring) else { return }
        state.withLock { state in
            guard state.left[data] != nil else { return }
            state.left[data]?.remove(range)
            state.overwritten[data, default: RangeSet()].insert(range)
            state.changes[data, default: 0] += 1
        }
    }

    /// What was written over damage so far: to be asked before a sync.
    ///
    /// - Parameter data: of one file; nil: of all.
    func overwritten(of data: DataFileNumber? = nil) -> [DataFileNumber: RangeSet] {
        guard isKnown.load(ordering: .acquiring) else { return [:] }
        return state.withLock { state in
            guard let data else { return state.overwritten }
            return state.overwritten[data].map { [data: $0] } ?? [:]
        }
    }

    /// What was written over damage did not reach the disk: it may be what it was.
    func forgetOverwritten(of data: DataFileNumber) {
        let isAny = state.withLock { state in
            guard let written = state.overwritten.removeValue(forKey: data) else { return false }
            // More than was damaged, where the database cannot be asked.
            for range in written.ranges { state.left[data]?.insert(range) }
            state.changes[data, default: 0] += 1
            return true
        }
        if isAny { _ = try? learn(of: DamagePlace(data: data)) }
    }

    /// What was asked for before is on the disk.
    ///
    /// - Throws: when that could not be noted: then nobody may be told.
    func noteDurable(_ written: [DataFileNumber: RangeSet]) throws {
        guard !written.isEmpty else { return }
        try database.withLock { _ in
            try withDatabase { try $0?.noteOverwritten(written) }
            state.withLock { state in
                for (data, ranges) in written {
                    for range in ranges.ranges { state.overwritten[data]?.remove(range) }
                    if state.overwritten[data]?.isEmpty == true { state.overwritten[data] = nil }
                }
            }
        }
    }
}

extension DamageMap.State {
    /// What the database says of one file, or of all.
    fileprivate mutating func take(_ known: KnownDamage, of data: DataFileNumber?) {
        let ranges = known.ranges
        let byFile = Dictionary(grouping: known.blocks, by: \.data).mapValues { blocks in
            Dictionary(blocks.map { ($0.range.start, $0) }) { $1 }
        }
        if let data {
            left[data] = ranges[data]
            blocks[data] = byFile[data]
        } else {
            left = ranges
            blocks = byFile
        }
        for (written, ranges) in overwritten where data == nil || data == written {
            for range in ranges.ranges { left[written]?.remove(range) }
        }
    }

    /// The same of one block, at a cost that does not grow with what else is damaged of the file.
    ///
    /// - Parameter known: what touches the block.
    fileprivate mutating func take(_ known: KnownDamage, of data: DataFileNumber, in block: ByteRange) {
        var present = RangeSet(known.blocks.compactMap { $0.range.intersection(block) })
        for range in known.overwritten[data]?.ranges ?? [] { present.remove(range) }
        for range in overwritten[data]?.intersection(block) ?? [] { present.remove(range) }
        blocks[data]?[block.start] = nil
        for found in known.blocks { blocks[data, default: [:]][found.range.start] = found }
        if blocks[data]?.isEmpty == true { blocks[data] = nil }
        left[data, default: RangeSet()].remove(block)
        for range in present.ranges { left[data, default: RangeSet()].insert(range) }
        if left[data]?.isEmpty == true, blocks[data] == nil { left[data] = nil }
    }
}
