internal import BlockHashes
internal import Synchronization
internal import VolumeModel

/// What is damaged of an open head's data files, as of now.
///
/// Invariants:
/// - What is written over damage is good at once here, and in the database after it is on the disk, before anybody is
///   told that it is: a crash may bring damage back only over what nobody was promised.
/// - What is found is in the database before anybody relies on it.
final class DamageMap: Sendable {
    private struct State {
        var left: [DataFileNumber: RangeSet] = [:]
        /// Written over damage, and not noted in the database.
        var overwritten: [DataFileNumber: RangeSet] = [:]
        /// How often each file's have changed.
        var changes: [DataFileNumber: UInt64] = [:]
    }

    private let directory: String
    private let state = Mutex(State())
    /// So that reads of sound heads take no lock.
    private let isKnown = Atomic(false)
    /// Held while the database is read into `state`, or the other way round.
    private let database = Mutex(())

    /// - Parameter directory: the head's.
    init(_ directory: String) { self.directory = directory }

    func begin(with known: KnownDamage) { take(known) }

    /// Takes up what others have found, or decided.
    ///
    /// - Returns: all blocks of which something is, or was, damaged.
    func learn() throws -> [Extent] {
        try database.withLock { _ in
            let known = try HashDatabase.damage(in: directory)
            take(known)
            return known.blocks.map { Extent(inode: $0.inode, range: $0.range) }
        }
    }

    private func take(_ known: KnownDamage) {
        let ranges = known.ranges
        state.withLock { state in
            state.left = ranges
            for (data, written) in state.overwritten {
                for range in written.ranges { state.left[data]?.remove(range) }
            }
            isKnown.store(!ranges.isEmpty || !state.overwritten.isEmpty, ordering: .releasing)
        }
    }

    /// The first damaged bytes at or after `offset`, as far as they reach.
    func first(of data: DataFileNumber, from offset: UInt64) -> ByteRange? {
        guard isKnown.load(ordering: .acquiring) else { return nil }
        return state.withLock {
            $0.left[data]?.intersection(ByteRange(offset, ByteRange.maximumOffset)).first
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
            try HashDatabase(in: directory).add(block)
            state.withLock { state in
                state.left[block.data, default: RangeSet()].insert(block.range)
                state.overwritten[block.data]?.remove(block.range)
                state.changes[block.data, default: 0] += 1
                isKnown.store(true, ordering: .releasing)
            }
            return true
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
        if isAny { _ = try? learn() }
    }

    /// What was asked for before is on the disk.
    ///
    /// - Throws: when that could not be noted: then nobody may be told.
    func noteDurable(_ written: [DataFileNumber: RangeSet]) throws {
        guard !written.isEmpty else { return }
        try database.withLock { _ in
            try HashDatabase.noteOverwritten(written, in: directory)
            state.withLock { state in
                for (data, ranges) in written {
                    for range in ranges.ranges { state.overwritten[data]?.remove(range) }
                    if state.overwritten[data]?.isEmpty == true { state.overwritten[data] = nil }
                }
            }
        }
    }
}
