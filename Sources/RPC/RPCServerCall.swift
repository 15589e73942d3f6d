internal import CGRPC
internal import Synchronization

/// A call as its handler sees it.
///
/// When the client cancels, its deadline passes, the connection breaks or the server shuts down, the task of
/// the handler is cancelled, and `receive` and `send` throw `.cancelled`. Conversely, cancelling a task
/// that waits in one of them cancels the call. Several tasks may use the call at once, as on the client.
package final class RPCServerCall: Sendable {
    /// "/package.Service/Method", as sent by the client: any text.
    package let method: String
    package let metadata: RPCMetadata
    package let deadline: ContinuousClock.Instant?
    /// As gRPC writes it: "ipv4:127.0.0.1:41234", "unix:".
    package let peerAddress: String

    /// Safe to share: the C object has a lock of its own. Released once, in `deinit`.
    private nonisolated(unsafe) let native: OpaquePointer
    private let maximumMessageByteCount: Int

    private struct State {
        var isCancelled = false
        var task: Task<Void, Never>?
        var trailing = RPCMetadata()
        var last: [UInt8]?
        var isOver = false
        var overActions: [@Sendable () -> Void] = []
    }
    private let state = Mutex(State())

    /// - Parameter native: The caller's reference, which is handed over.
    init(native: OpaquePointer, arrival: cgrpc_arrival, maximumMessageByteCount: Int) {
        self.native = native
        self.maximumMessageByteCount = maximumMessageByteCount
        method = Native.string(arrival.method)
        peerAddress = Native.string(arrival.peer)
        metadata = Native.metadata(arrival.metadata, arrival.metadata_count)
        deadline = arrival.time_left < 0 ? nil : .now + .nanoseconds(arrival.time_left)
        // gRPC holds the object until the call is over for it.
        cgrpc_server_call_attach(
            native, Unmanaged.passRetained(self).toOpaque(),
            { context in
                guard let context else { return }
                Unmanaged<RPCServerCall>.fromOpaque(context).takeUnretainedValue().wasCancelled()
            },
            { context in
                if let context { Unmanaged<RPCServerCall>.fromOpaque(context).takeRetainedValue().isOver() }
            })
    }

    deinit { cgrpc_server_call_release(native) }

    /// - Returns: The next message; nil if the client has said that none will follow.
    /// - Throws: `.cancelled` if the call is over before that, also for a message that is too large.
    package func receive() async throws(RPCStatus) -> [UInt8]? {
        let received = await withTaskCancellationHandler {
            await Native.waitForMessage { context, done in cgrpc_server_call_receive(native, context, done) }
        } onCancel: {
            cgrpc_server_call_cancel(native)
        }
        if let message = received.take() { return message }
        guard received.isComplete else { throw Self.over }
        return nil
    }

    /// The same, for a client that must not take longer: then the call is cancelled, so that nobody can hold one by
    /// saying nothing.
    package func receive(within limit: Duration) async throws(RPCStatus) -> [UInt8]? {
        let timer = CallTimers.shared.add(after: limit) { cgrpc_server_call_cancel(self.native) }
        defer { CallTimers.shared.remove(timer) }
        return try await receive()
    }

    /// Returns when gRPC took the message, which it does as fast as the client receives.
    ///
    /// - Throws: `.cancelled` if the call is over; `.resourceExhausted` if the message is too large.
    package func send(_ message: [UInt8]) async throws(RPCStatus) {
        try checkSize(message, maximumMessageByteCount)
        let isSent = await withTaskCancellationHandler {
            await Native.wait { context, done in
                Native.withBytes(message) { cgrpc_server_call_send(native, $0, context, done) }
            }
        } onCancel: {
            cgrpc_server_call_cancel(native)
        }
        guard isSent else { throw Self.over }
    }

    /// The same, to a client that must have taken so much of it by then: else the call is cancelled, so that nobody can
    /// hold what is behind it by not reading.
    package func send(_ message: [UInt8], within limit: Duration) async throws(RPCStatus) {
        let timer = CallTimers.shared.add(after: limit) { cgrpc_server_call_cancel(self.native) }
        defer { CallTimers.shared.remove(timer) }
        try await send(message)
    }

    /// Leaves a message to be sent together with the status when the handler returns: the answer of a unary
    /// call, one round through gRPC cheaper than `send`. Dropped if the handler throws. The last one counts.
    package func sendLast(_ message: [UInt8]) throws(RPCStatus) {
        try checkSize(message, maximumMessageByteCount)
        state.withLock { $0.last = message }
    }

    /// Does something when gRPC is done with the call: its last message has been sent, or never will be.
    package func whenOver(_ action: @escaping @Sendable () -> Void) {
        let isOver = state.withLock { state in
            if !state.isOver { state.overActions.append(action) }
            return state.isOver
        }
        if isOver { action() }
    }

    private func isOver() {
        let actions = state.withLock { state in
            state.isOver = true
            defer { state.overActions = [] }
            return state.overActions
        }
        for action in actions { action() }
    }

    /// Sends metadata ahead of the first message.
    ///
    /// - Throws: `.failedPrecondition` after the first message; `.cancelled` if the call is over.
    package func sendInitialMetadata(_ metadata: RPCMetadata) async throws(RPCStatus) {
        try metadata.check()
        let isSent = await withTaskCancellationHandler {
            await Native.waitUnlessRefused { context, done in
                Native.withMetadata(metadata) { pairs, count in
                    cgrpc_server_call_send_metadata(native, pairs, count, context, done)
                }
            }
        } onCancel: {
            cgrpc_server_call_cancel(native)
        }
        guard let isSent else {
            throw RPCStatus(.failedPrecondition, "initial metadata has already been sent")
        }
        guard isSent else { throw Self.over }
    }

    /// Metadata to be sent with the status when the handler returns or throws. The last one counts.
    package func setTrailingMetadata(_ metadata: RPCMetadata) throws(RPCStatus) {
        try metadata.check()
        state.withLock { $0.trailing = metadata }
    }

    /// Whether the call was ended because a message of the client is larger than the server takes.
    package var hasRefusedMessage: Bool { cgrpc_server_call_has_refused(native) }

    package var isCancelled: Bool { state.withLock { $0.isCancelled } }

    /// The certificate that the client proved to own; nil without TLS.
    package var peerCertificatePEM: String? {
        let shown = Native.collect { cgrpc_server_call_peer_certificate(native, $0, $1) }
        guard case .text(let pem)? = shown.entries.first?.value else { return nil }
        return pem
    }

    // MARK: The server's side

    /// Runs the handler in a task that ends with the call.
    func run(_ handler: @escaping @Sendable (RPCServerCall) async -> Void) {
        let task = Task { await handler(self) }
        let isCancelled = state.withLock { state in
            state.task = task
            return state.isCancelled
        }
        if isCancelled { task.cancel() }
    }

    /// Ends the call. The first time counts.
    func finish(_ status: RPCStatus) {
        let (trailing, last) = state.withLock { state in
            defer { state.last = nil }
            // The task refers to this object.
            state.task = nil
            return (state.trailing, state.last)
        }
        Native.withText(status.messageToSend) { text in
            let native = self.native
            let status = cgrpc_status(code: Int32(status.code.rawValue), message: text)
            Native.withMetadata(trailing) { pairs, count in
                guard let last else {
                    cgrpc_server_call_finish(native, status, pairs, count, nil)
                    return
                }
                Native.withBytes(last) { bytes in
                    var bytes = bytes
                    cgrpc_server_call_finish(native, status, pairs, count, &bytes)
                }
            }
        }
    }

    private func wasCancelled() {
        let task = state.withLock { state in
            state.isCancelled = true
            return state.task
        }
        task?.cancel()
    }

    private static let over = RPCStatus(
        .cancelled, "the call is over: its client cancelled it, its deadline passed or its connection broke")
}
