internal import Dispatch

/// Threads for calls that wait for a disk.
///
/// A commit may have to wait until gigabytes are on the disk that somebody else has written (`Catalog+Order`). Swift's own
/// threads are as few as the machine's processors: two tasks that wait there would hold up all others.
package enum BlockingThreads {
    private static let queue = DispatchQueue(label: "godwit.blocking", attributes: .concurrent)

    /// Runs something that waits for a disk where it does not hold up a task.
    package static func run<Result: Sendable>(
        _ body: @escaping @Sendable () throws -> Result
    ) async throws -> Result {
        try await withCheckedThrowingContinuation { continuation in
            queue.async { continuation.resume(with: Swift.Result { try body() }) }
        }
    }
}
