internal import Synchronization

/// Work in a task of another priority than that of who waits for it, which each has threads of its own.
///
/// Waiting for such a task by its value would give it the priority of who waits.
enum Aside {
    static func run<Value: Sendable>(
        _ priority: TaskPriority, _ body: @escaping @Sendable () async throws -> Value
    ) async throws -> Value {
        let work = Work()
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                work.begin(
                    Task.detached(priority: priority) {
                        do {
                            continuation.resume(returning: try await body())
                        } catch {
                            continuation.resume(throwing: error)
                        }
                    })
            }
        } onCancel: {
            work.cancel()
        }
    }

    /// Ends with who waits for it, which may be over before it begins.
    private final class Work: Sendable {
        private let state = Mutex<(task: Task<Void, Never>?, isCancelled: Bool)>((nil, false))

        func begin(_ task: Task<Void, Never>) {
            let isCancelled = state.withLock { state in
                state.task = task
                return state.isCancelled
            }
            if isCancelled { task.cancel() }
        }

        func cancel() {
            let task = state.withLock { state in
                state.isCancelled = true
                return state.task
            }
            task?.cancel()
        }
    }
}
