internal import CGRPC

/// A streaming call of a client.
///
/// Cancelling a task that waits in `send`, `finishSending`, `receive` or `initialMetadata` cancels the
/// call; so does dropping it before it has ended. Several tasks may use it at once: messages are sent in
/// the order of the `send`s, and each received message goes to one `receive`.
package final class RPCClientCall: Sendable {
    /// Safe to share: the C object has a lock of its own. Released once, in `deinit`.
    private nonisolated(unsafe) let native: OpaquePointer
    private let maximumMessageByteCount: Int

    /// - Parameter native: The caller's reference, which is handed over.
    init(native: OpaquePointer, maximumMessageByteCount: Int) {
        self.native = native
        self.maximumMessageByteCount = maximumMessageByteCount
    }

    deinit { cgrpc_client_call_release(native) }

    /// Returns when gRPC took the message, which it does as fast as the server receives.
    ///
    /// - Throws: How the call ended, if it has. `.failedPrecondition` after `finishSending`, if the server
    ///   ended the call with success, or if it ended it somehow but sent messages before that have
    ///   to be received first. `.resourceExhausted` for a message that is too large; the call goes on.
    package func send(_ message: [UInt8]) async throws(RPCStatus) {
        try checkSize(message, maximumMessageByteCount)
        let isSent = await cancelling {
            await Native.wait { context, done in
                Native.withBytes(message) { cgrpc_client_call_send(native, $0, context, done) }
            }
        }
        guard isSent else { throw failure("send") }
    }

    /// Tells the server that no message will follow.
    ///
    /// - Throws: As `send`, but does not mind that the server has already ended the call with success.
    package func finishSending() async throws(RPCStatus) {
        let isSent = await cancelling {
            await Native.wait { context, done in cgrpc_client_call_finish_sending(native, context, done) }
        }
        guard !isSent, let status, status.code != .ok else { return }
        throw status
    }

    /// - Returns: The next message; nil if the server has ended the call with success.
    /// - Throws: How the call ended otherwise.
    package func receive() async throws(RPCStatus) -> [UInt8]? {
        let received = await cancelling {
            await Native.waitForMessage { context, done in cgrpc_client_call_receive(native, context, done) }
        }
        if let message = received.take() { return message }
        guard let status, status.code == .ok else { throw failure("receive") }
        return nil
    }

    /// The same, from a server that must not take longer: then the call is cancelled.
    ///
    /// - Throws: besides, `.deadlineExceeded` when it did take longer.
    package func receive(within limit: Duration) async throws(RPCStatus) -> [UInt8]? {
        let begun = ContinuousClock.now
        let timer = CallTimers.shared.add(after: limit) { self.cancel() }
        defer { CallTimers.shared.remove(timer) }
        do {
            return try await receive()
        } catch  where error.code == .cancelled && ContinuousClock.now - begun >= limit {
            throw RPCStatus(.deadlineExceeded, "nothing came for \(limit)")
        }
    }

    /// Waits until the server has sent its initial metadata, at the latest with its first message.
    ///
    /// - Returns: Empty if the server ended the call with success and without any.
    package func initialMetadata() async throws(RPCStatus) -> RPCMetadata {
        let isKnown = await cancelling {
            await Native.wait { context, done in cgrpc_client_call_await_metadata(native, context, done) }
        }
        guard isKnown else {
            if let status, status.code == .ok { return RPCMetadata() }
            throw failure("wait for metadata")
        }
        return Native.collect { cgrpc_client_call_initial_metadata(native, $0, $1) }
    }

    /// What came with the status; nil as long as the call has not ended (`receive` finds the end).
    package var trailingMetadata: RPCMetadata? {
        guard status != nil else { return nil }
        return Native.collect { cgrpc_client_call_trailing_metadata(native, $0, $1) }
    }

    /// How the call ended; nil as long as it has not (`receive` finds the end).
    package var status: RPCStatus? {
        var status = cgrpc_status()
        guard cgrpc_client_call_status(native, &status) else { return nil }
        return Native.status(status)
    }

    /// Ends the call for both sides; what waits throws `.cancelled`. May be repeated.
    package func cancel() { cgrpc_client_call_cancel(native) }

    private func cancelling<Value: Sendable>(
        _ operation: () async -> Value
    ) async -> Value {
        await withTaskCancellationHandler(operation: operation, onCancel: cancel)
    }

    private func failure(_ attempt: String) -> RPCStatus {
        switch status {
        case let status? where status.code != .ok: status
        case _?: RPCStatus(.failedPrecondition, "cannot \(attempt): the call has ended")
        case nil:
            RPCStatus(
                .failedPrecondition,
                "cannot \(attempt): sending is over; receive what the server sent to learn its status")
        }
    }
}
