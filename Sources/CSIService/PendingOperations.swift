internal import RPC
internal import Synchronization
internal import VolumeModel

/// One operation on a volume at a time: the specification lets a second one be told ABORTED.
final class PendingOperations: Sendable {
    private let keys = Mutex<Set<String>>([])

    /// - Throws: ABORTED when another operation with this key is under way.
    func alone<Result: Sendable>(
        _ key: String, _ body: () async throws -> Result
    ) async throws -> Result {
        guard keys.withLock({ $0.insert(key).inserted }) else {
            throw RPCStatus(.aborted, "another operation on \(key) is under way: ask again")
        }
        defer { keys.withLock { _ = $0.remove(key) } }
        return try await body()
    }
}
