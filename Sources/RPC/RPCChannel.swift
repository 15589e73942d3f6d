internal import CGRPC

/// Makes calls to one endpoint, over a connection that is made when first needed and made again when lost.
///
/// While there is no connection a call fails at once with `.unavailable`, unless it is willing to wait
/// (`waitForReady`); then it waits until its timeout.
package final class RPCChannel: Sendable {
    /// Safe to share: the C object has a lock of its own. Released once, in `deinit`.
    private nonisolated(unsafe) let native: OpaquePointer
    private let maximumMessageByteCount: Int

    /// Does not connect.
    ///
    /// - Throws: `.invalidArgument` if the endpoint or the certificates cannot be used.
    package init(
        to endpoint: RPCEndpoint, security: RPCSecurity, options: RPCChannelOptions = RPCChannelOptions()
    ) throws(RPCStatus) {
        let target = try endpoint.nativeTarget()
        try security.check()
        var nativeOptions = cgrpc_channel_options(
            maximum_message_count: Int32(clamping: options.maximumMessageByteCount),
            maximum_metadata_count: Int32(clamping: options.maximumMetadataByteCount),
            initial_backoff: options.initialBackoff.millisecondsForGRPC,
            maximum_backoff: options.maximumBackoff.millisecondsForGRPC,
            connect_timeout: options.connectTimeout.millisecondsForGRPC,
            keepalive_interval: options.keepaliveInterval?.millisecondsForGRPC ?? Int32.max,
            keepalive_timeout: options.gathersPackets
                ? Int32(cgrpc_gathering_timeout) : options.keepaliveTimeout.millisecondsForGRPC,
            keepalive_without_calls: options.keepaliveWithoutCalls,
            memory_quota_count: Int64(options.memoryQuotaByteCount))
        native = Native.withText(target) { target in
            Native.withTLS(security) { tls in cgrpc_channel_create(target, tls, &nativeOptions) }
        }
        maximumMessageByteCount = options.maximumMessageByteCount
    }

    deinit { cgrpc_channel_release(native) }

    /// Sends one message and waits for the one that answers it. Cancelling the task cancels the call.
    ///
    /// - Parameters:
    ///   - method: "/package.Service/Method".
    ///   - timeout: nil waits for ever.
    ///   - waitForReady: Waits for a connection instead of failing with `.unavailable`.
    /// - Throws: How the call ended, if not with success.
    package func unary(
        _ method: String, _ request: [UInt8], metadata: RPCMetadata = RPCMetadata(), timeout: Duration?,
        waitForReady: Bool = false
    ) async throws(RPCStatus) -> [UInt8] {
        try checkMethod(method)
        try metadata.check()
        try checkSize(request, maximumMessageByteCount)
        guard !Task.isCancelled else { throw RPCStatus(.cancelled, "the task was cancelled before the call") }
        let call = UnaryCall()
        let answer = await withTaskCancellationHandler {
            await Native.waitForAnswer { context, answered in
                let native = Native.withCallOptions(method, metadata, timeout, waitForReady) { options in
                    Native.withBytes(request) {
                        cgrpc_channel_unary(self.native, options, $0, context, answered)
                    }
                }
                guard let native else { return false }
                call.begin(native)
                return true
            }
        } onCancel: {
            call.cancel()
        }
        guard let answer else { throw Self.closed }
        guard let message = answer.message.take() else { throw answer.status }
        return message
    }

    /// Begins a streaming call.
    ///
    /// - Throws: `.cancelled` if the channel is closed; `.invalidArgument` for a method name or metadata
    ///   that cannot be sent. That there is no connection shows when the call is used.
    package func open(
        _ method: String, metadata: RPCMetadata = RPCMetadata(), timeout: Duration?,
        waitForReady: Bool = false
    ) throws(RPCStatus) -> RPCClientCall {
        try checkMethod(method)
        try metadata.check()
        let call = Native.withCallOptions(method, metadata, timeout, waitForReady) { options in
            cgrpc_channel_open(native, options)
        }
        guard let call else { throw Self.closed }
        return RPCClientCall(native: call, maximumMessageByteCount: maximumMessageByteCount)
    }

    /// Cancels all calls and refuses new ones. May be repeated.
    package func close() { cgrpc_channel_close(native) }

    private static let closed = RPCStatus(.cancelled, "the channel is closed")
}
