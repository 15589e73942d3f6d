internal import CTestBed
internal import Glibc
internal import Synchronization

/// A thread of its own for work that blocks, so that Swift's few shared threads stay free: a file system that
/// serves in this very process may be waiting for one of them.
package enum DedicatedThread {
    private final class Box {
        let name: String
        let nice: Int32
        let body: @Sendable () -> Void
        init(name: String, nice: Int32, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.nice = nice
            self.body = body
        }
    }

    /// Starts a thread that nobody joins; `body` must say itself when it is done.
    ///
    /// - Parameter name: Shown by ps and top; the first 15 bytes count.
    static func start(_ name: String, nice: Int32 = 0, _ body: @escaping @Sendable () -> Void)
        throws(LabError)
    {
        let context = Unmanaged.passRetained(Box(name: name, nice: nice, body: body))
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        defer { pthread_attr_destroy(&attributes) }
        var thread = pthread_t()
        let failure = pthread_create(
            &thread, &attributes,
            { argument in
                guard let argument else { return nil }
                let box = Unmanaged<Box>.fromOpaque(argument).takeRetainedValue()
                tb_prepare_thread(String(decoding: box.name.utf8.prefix(15), as: UTF8.self), box.nice)
                box.body()
                return nil
            }, context.toOpaque())
        guard failure != 0 else { return }
        context.release()
        throw .systemCall("pthread_create", detail: name, errno: failure)
    }

    /// Runs blocking work on a new thread and gives its result.
    package static func run<Result: Sendable>(
        _ name: String, nice: Int32 = 0, _ body: @escaping @Sendable () throws -> Result
    ) async throws -> Result {
        try await withCheckedThrowingContinuation { continuation in
            do {
                try start(name, nice: nice) { continuation.resume(with: Swift.Result { try body() }) }
            } catch {
                continuation.resume(throwing: error)
            }
        }
    }
}
