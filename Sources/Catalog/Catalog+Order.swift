internal import Glibc
internal import Synchronization
package import VolumeModel

/// Data files whose bytes must be on the disk before the next commit: it makes them take the place of what was there
/// before, and after a power loss there would be neither.
///
/// Invariant: a commit happens only while there is none.
struct AwaitedFiles {
    struct Note: Hashable {
        /// Whose bytes they are.
        let inode: InodeNumber
        /// When it was noted last.
        let time: UInt64
    }

    private(set) var notes: [DataFileNumber: Note] = [:]
    private var clock: UInt64 = 0

    var isEmpty: Bool { notes.isEmpty }

    mutating func note(_ data: DataFileNumber, of inode: InodeNumber) {
        clock &+= 1
        notes[data] = Note(inode: inode, time: clock)
    }

    mutating func forget(_ data: DataFileNumber) { notes[data] = nil }

    /// Forgets what was synced, but for what was noted anew meanwhile.
    ///
    /// - Parameter synced: `notes`, of before the sync.
    mutating func forget(_ synced: [DataFileNumber: Note]) {
        for (data, note) in synced where notes[data] == note { notes[data] = nil }
    }
}

/// How commits wait for bytes.
struct CommitOrder: ~Copyable, Sendable {
    /// So often new files are waited for while others come; then these wait as well.
    static let freeRounds = 2

    /// Syncs data files. One that is gone needs no sync.
    ///
    /// In a structure, for a bare closure behind a lock is wrapped once more by each access.
    struct Synchronizer: Sendable { let synchronize: Catalog.FileSynchronizer }

    let synchronizer = Mutex<Synchronizer?>(nil)
    /// Held by who waits for bytes, until it has committed.
    let waiting = Mutex(())
    let holdsUpOthers = Atomic(false)
}

extension CatalogState {
    /// Has the next commit wait until the bytes of an inode's data file, as they are now, are on the disk, and record those
    /// that took the place of its origin's: else a power loss would show the origin's again.
    package mutating func awaitBytes(of record: InodeRecord) {
        if record.data != .none { awaited.note(record.data, of: record.attributes.inode) }
    }
}

extension Catalog {
    /// Syncs data files. One that is gone needs no sync.
    ///
    /// - Returns: those that are not on the disk. Of each of them every later sync fails.
    package typealias FileSynchronizer = @Sendable ([DataFileNumber]) -> Set<DataFileNumber>

    /// Says how data files are made durable that a commit has to wait for. Called with no lock held but `waiting`; it
    /// must not use the catalog, nor any lock that is held by who does.
    package func awaitBytes(by synchronize: @escaping FileSynchronizer) {
        order.synchronizer.withLock { $0 = CommitOrder.Synchronizer(synchronize: synchronize) }
    }

    /// To be called, without the catalog's lock, before an operation that has commits wait for bytes. As a rule it
    /// returns at once; else so many such operations come that a commit would never come to its turn.
    package func letCommitsPass() {
        if holdsUpOthers { order.waiting.withLock { _ in } }
    }

    /// Whether `letCommitsPass` would wait.
    package var holdsUpOthers: Bool { order.holdsUpOthers.load(ordering: .acquiring) }

    /// Runs what may commit, at a moment when no commit has to wait for bytes. Operations go on while that is brought
    /// about; what they add belongs to the same commit, and is waited for as well.
    ///
    /// A file that the disk refuses holds up nothing: its own sync says so.
    func whenNothingIsAwaited<Result: Sendable>(
        _ body: (inout CatalogState) throws -> Result
    ) throws -> Result {
        if let result = try unlessAwaiting(body) { return result }
        return try order.waiting.withLock { _ in try waitAndRun(body) }
    }

    /// Commits because much waits for it.
    ///
    /// - Parameter waits: for somebody else's commit that is under way, and waits for bytes.
    func commitAsDue(waits: Bool) throws {
        // Whenever a lock was free again, somebody else's commit may have been this one's as well.
        let commit = { (state: inout CatalogState) throws -> Void in
            guard state.isCommitDue else { return }
            try self.checkIsOpen(state)
            _ = try state.commit()
        }
        guard try unlessAwaiting(commit) == nil else { return }
        let waitAndCommit = {
            if self.state.withLock({ $0.isCommitDue }) { try self.waitAndRun(commit) }
        }
        if waits {
            try order.waiting.withLock { _ in try waitAndCommit() }
        } else {
            _ = try order.waiting.withLockIfAvailable { _ in try waitAndCommit() }
        }
    }

    /// - Returns: nil when it has to wait for bytes.
    private func unlessAwaiting<Result: Sendable>(
        _ body: (inout CatalogState) throws -> Result
    ) throws -> Result? {
        try state.withLock { (state) throws -> Result? in state.awaited.isEmpty ? try body(&state) : nil }
    }

    /// To be called with the lock of those who wait.
    private func waitAndRun<Result: Sendable>(
        _ body: (inout CatalogState) throws -> Result
    ) throws -> Result {
        defer { order.holdsUpOthers.store(false, ordering: .releasing) }
        var rounds = 0
        while true {
            if let result = try unlessAwaiting(body) { return result }
            if rounds == CommitOrder.freeRounds {
                order.holdsUpOthers.store(true, ordering: .releasing)
            }
            rounds += 1
            synchronizeAwaited()
        }
    }

    private func synchronizeAwaited() {
        let (notes, unrecorded) = state.withLock { state in
            let notes = state.awaited.notes
            return (notes, notes.values.compactMap { state.unrecordedResidency(of: $0.inode) })
        }
        let synchronizer = order.synchronizer.withLock { $0 }
        // Where nobody can say, nothing is.
        let refused = synchronizer?.synchronize(notes.keys.sorted()) ?? Set(notes.keys)
        state.withLock { state in
            // Only then may a commit follow.
            defer { state.awaited.forget(notes) }
            // Why not is known to the file. What the commit cannot take now is noted, and recorded, by the next `settle`.
            if !refused.isEmpty { try? state.operate(on: directory) { try $0.noteSyncFailure() } }
            for item in unrecorded where notes[item.data] != nil && !refused.contains(item.data) {
                try? state.operate(on: directory) { try $0.record(item, blockCount: nil) }
            }
        }
    }
}
