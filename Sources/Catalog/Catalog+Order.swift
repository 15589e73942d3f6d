internal import Glibc
internal import Synchronization
package import VolumeModel

/// Data files whose bytes must be on the disk before the next commit: it makes them take the place of what was there
/// before, and after a power loss there would be neither.
///
/// Invariant: a commit happens only while there is none.
struct AwaitedFiles {
    /// When each was noted last.
    private(set) var times: [DataFileNumber: UInt64] = [:]
    private var clock: UInt64 = 0

    var isEmpty: Bool { times.isEmpty }

    mutating func note(_ data: DataFileNumber) {
        clock &+= 1
        times[data] = clock
    }

    mutating func forget(_ data: DataFileNumber) { times[data] = nil }

    /// Forgets what was synced, but for what was noted anew meanwhile.
    ///
    /// - Parameter synced: `times`, of before the sync.
    mutating func forget(_ synced: [DataFileNumber: UInt64]) {
        for (data, time) in synced where times[data] == time { times[data] = nil }
    }
}

/// How commits wait for bytes.
struct CommitOrder: ~Copyable, Sendable {
    /// So often new files are waited for while others come; then these wait as well.
    static let freeRounds = 2

    /// Syncs data files. One that is gone needs no sync.
    ///
    /// - Returns: whether all are on the disk. Of one that is not, every later sync fails.
    ///
    /// In a structure, for a bare closure behind a lock is wrapped once more by each access.
    struct Synchronizer: Sendable {
        let synchronize: @Sendable ([DataFileNumber]) -> Bool
    }

    let synchronizer = Mutex<Synchronizer?>(nil)
    /// Held by who waits for bytes, until it has committed.
    let waiting = Mutex(())
    let holdsUpOthers = Atomic(false)
}

extension CatalogState {
    /// Has the next commit wait until a data file's bytes, as they are now, are on the disk.
    package mutating func awaitBytes(of data: DataFileNumber) { awaited.note(data) }
}

extension Catalog {
    /// Says how data files are made durable that a commit has to wait for. Called with no lock held but `waiting`; it
    /// must not use the catalog, nor any lock that is held by who does.
    package func awaitBytes(by synchronize: @escaping @Sendable ([DataFileNumber]) -> Bool) {
        order.synchronizer.withLock { $0 = CommitOrder.Synchronizer(synchronize: synchronize) }
    }

    /// To be called, without the catalog's lock, before an operation that has commits wait for bytes. As a rule it
    /// returns at once; else so many such operations come that a commit would never come to its turn.
    package func letCommitsPass() {
        if order.holdsUpOthers.load(ordering: .acquiring) { order.waiting.withLock { _ in } }
    }

    /// Runs what may commit, at a moment when no commit has to wait for bytes. Operations go on while that is brought
    /// about; what they add belongs to the same commit, and is waited for as well.
    ///
    /// A file that the disk refuses holds up nothing: its own sync says so.
    func whenNothingIsAwaited<Result: Sendable>(
        _ body: (inout CatalogState) throws -> Result
    ) throws -> Result {
        func attempt() throws -> Result? {
            try state.withLock { (state) throws -> Result? in
                state.awaited.isEmpty ? try body(&state) : nil
            }
        }
        if let result = try attempt() { return result }
        return try order.waiting.withLock { (_) throws -> Result in
            defer { order.holdsUpOthers.store(false, ordering: .releasing) }
            var rounds = 0
            while true {
                if let result = try attempt() { return result }
                if rounds == CommitOrder.freeRounds {
                    order.holdsUpOthers.store(true, ordering: .releasing)
                }
                rounds += 1
                synchronizeAwaited()
            }
        }
    }

    private func synchronizeAwaited() {
        let times = state.withLock { $0.awaited.times }
        let synchronizer = order.synchronizer.withLock { $0 }
        let isDone = synchronizer?.synchronize(times.keys.sorted()) ?? true
        state.withLock { state in
            state.awaited.forget(times)
            // Why not is known to the file. What the commit cannot take now is noted by the next `settle`.
            if !isDone, !state.isClosed { try? state.noteSyncFailure() }
        }
    }
}
