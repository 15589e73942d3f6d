internal import CGRPC
internal import Synchronization

/// Connects a task's cancellation with its unary call, which may begin after the cancellation, and end
/// before `begin` says that it has begun.
final class UnaryCall: Sendable {
    /// Unchecked, because the C object has a lock of its own and is valid until this object's `deinit`.
    private struct Reference: @unchecked Sendable {
        let pointer: OpaquePointer
    }

    private struct State {
        var call: Reference?
        var isCancelled = false
    }

    private let state = Mutex(State())

    /// - Parameter native: The caller's reference, which is handed over.
    func begin(_ native: OpaquePointer) {
        let call = Reference(pointer: native)
        let isCancelled = state.withLock { state in
            state.call = call
            return state.isCancelled
        }
        if isCancelled { cgrpc_unary_cancel(native) }
    }

    func cancel() {
        let call = state.withLock { state in
            state.isCancelled = true
            return state.call
        }
        if let call { cgrpc_unary_cancel(call.pointer) }
    }

    deinit {
        if let call = state.withLock({ $0.call }) { cgrpc_unary_release(call.pointer) }
    }
}
