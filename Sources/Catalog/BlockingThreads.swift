internal import Dispatch
internal import Glibc
internal import Locks

/// Threads for calls that wait for a disk.
///
/// A commit may have to wait until gigabytes are on the disk that somebody else has written (`Catalog+Order`). Swift's own
/// threads are as few as the machine's processors: two tasks that wait there would hold up all others. On Linux Dispatch
/// runs both its queues and Swift's tasks on the same threads, and adds one for those that block each second only: so these
/// are threads of their own. They end when there is nothing to do.
package enum BlockingThreads {
    /// As many at most; what comes then waits for one of them.
    private static let limit = 64

    private struct State {
        var jobs: [@Sendable () -> Void] = []
        var threadCount = 0
    }

    private static let state = Lock(State())

    /// Runs something that waits for a disk where it does not hold up a task.
    package static func run<Result: Sendable>(
        _ body: @escaping @Sendable () throws -> Result
    ) async throws -> Result {
        try await withCheckedThrowingContinuation { continuation in
            add { continuation.resume(with: Swift.Result { try body() }) }
        }
    }

    /// The same for what cannot fail.
    package static func value<Result: Sendable>(of body: @escaping @Sendable () -> Result) async -> Result {
        await withCheckedContinuation { continuation in
            add { continuation.resume(returning: body()) }
        }
    }

    private static func add(_ job: @escaping @Sendable () -> Void) {
        let needsThread = state.withLock { state in
            state.jobs.append(job)
            guard state.threadCount < limit else { return false }
            state.threadCount += 1
            return true
        }
        guard needsThread else { return }
        var thread = pthread_t()
        let result = pthread_create(
            &thread, nil,
            { _ in
                BlockingThreads.work()
                return nil
            }, nil)
        if result == 0 {
            pthread_detach(thread)
        } else {
            // No thread of our own is to be had: one of those that there are.
            DispatchQueue.global().async { work() }
        }
    }

    /// One job after another, until there is none.
    private static func work() {
        while true {
            let job = state.withLock { state -> (@Sendable () -> Void)? in
                if state.jobs.isEmpty {
                    state.threadCount -= 1
                    return nil
                }
                return state.jobs.removeFirst()
            }
            guard let job else { return }
            job()
        }
    }
}
