internal import CGRPC
internal import Synchronization

/// Answers calls on one or several endpoints.
///
/// The handler is called for every method and in a task of its own for every call; it answers those that
/// it does not know with `.unimplemented`. Returning ends the call with success, throwing with that status.
package final class RPCServer: Sendable {
    package typealias Handler = @Sendable (RPCServerCall) async throws(RPCStatus) -> Void

    /// Safe to share: used by `start` and `shutdown`, which `state` allows once each. Released in `deinit`.
    private nonisolated(unsafe) let native: OpaquePointer
    private let calls: ServerCalls

    private enum State {
        case configuring([Listener])
        case starting
        case serving([Listener])
        case stopping([CheckedContinuation<Void, Never>])
        case stopped
    }
    private let state = Mutex(State.configuring([]))

    package init(options: RPCServerOptions = RPCServerOptions(), handler: @escaping Handler) {
        calls = ServerCalls(options: options, handler: handler)
        var nativeOptions = cgrpc_server_options(
            maximum_message_count: Int32(clamping: options.maximumMessageByteCount),
            maximum_metadata_count: Int32(clamping: options.maximumMetadataByteCount),
            maximum_streams: Int32(clamping: options.maximumConcurrentStreams),
            keepalive_interval: options.keepaliveInterval.millisecondsForGRPC,
            keepalive_timeout: options.keepaliveTimeout.millisecondsForGRPC,
            minimum_ping_interval: options.minimumPingInterval.millisecondsForGRPC,
            handshake_timeout: options.handshakeTimeout.millisecondsForGRPC,
            maximum_idle: options.maximumIdleTime?.millisecondsForGRPC ?? 0,
            maximum_connections: Int32(clamping: options.maximumConnectionCount ?? 0),
            memory_quota_count: Int64(options.memoryQuotaByteCount))
        native = cgrpc_server_create(
            &nativeOptions, Unmanaged.passRetained(calls).toOpaque(),
            { context, call, arrival in
                guard let context else { return }
                let calls = Unmanaged<ServerCalls>.fromOpaque(context).takeUnretainedValue()
                calls.accept(call, arrival.pointee)
            },
            { context in
                guard let context else { return }
                Unmanaged<ServerCalls>.fromOpaque(context).takeUnretainedValue().noteRefusedConnection()
            },
            { context in
                if let context { Unmanaged<ServerCalls>.fromOpaque(context).release() }
            })
    }

    deinit {
        cgrpc_server_release(native)
        state.withLock { state in
            if case .serving(let listeners) = state { listeners.forEach { $0.remove() } }
        }
    }

    /// Adds an endpoint. To be called before `start`, which is when connections are first accepted.
    ///
    /// A Unix socket gets mode 0600, or 0660 for a group, and replaces a socket at that path that no one listens on.
    ///
    /// - Returns: The port, chosen by the system if the endpoint's is 0; nil for a Unix socket.
    /// - Throws: `.alreadyExists` if someone listens there; `.invalidArgument` for an endpoint or
    ///   certificates that cannot be used; `.failedPrecondition` after `start`.
    @discardableResult
    package func listen(
        on endpoint: RPCEndpoint, security: RPCSecurity, group: UInt32? = nil
    ) throws(RPCStatus) -> UInt16? {
        guard case .configuring = state.withLock({ $0 }) else { throw Self.alreadyStarted }
        try security.check()
        let listener = try Listener(endpoint: endpoint, security: security, group: group)
        let isAdded = state.withLock { state in
            guard case .configuring(let listeners) = state else { return false }
            state = .configuring(listeners + [listener])
            return true
        }
        guard isAdded else { throw Self.alreadyStarted }
        return listener.port
    }

    /// Begins to accept calls on all endpoints. At most once, also if it fails.
    ///
    /// - Throws: `.unavailable` naming the endpoint that could not be bound; `.failedPrecondition` without
    ///   endpoints, the second time, or after `shutdown`.
    package func start() throws(RPCStatus) {
        let listeners = try takeListeners()
        do {
            for listener in listeners { try add(listener) }
        } catch {
            state.withLock { $0 = .stopped }
            throw error
        }
        let failed = Int(cgrpc_server_start(native))
        guard failed < 0 else {
            state.withLock { $0 = .stopped }
            let name = listeners.indices.contains(failed) ? "\(listeners[failed].endpoint)" : "an endpoint"
            throw RPCStatus(.unavailable, "cannot listen on \(name)")
        }
        do {
            for listener in listeners { try listener.publish() }
        } catch {
            listeners.forEach { $0.remove() }
            cgrpc_server_shutdown(native, 0, nil) { _, _ in }
            state.withLock { $0 = .stopped }
            throw error
        }
        state.withLock { $0 = .serving(listeners) }
    }

    private func add(_ listener: Listener) throws(RPCStatus) {
        switch listener.place {
        case .path(let file):
            Native.withText(RPCEndpoint.nativeUnixAddress(file.temporaryPath)) { address in
                Native.withTLS(listener.security) { cgrpc_server_add(native, address, $0) }
            }
        case .port(let descriptor):
            guard let own = descriptor.duplicate() else {
                throw RPCStatus(.unavailable, "cannot listen on \(listener.endpoint): no descriptor is left")
            }
            Native.withTLS(listener.security) { cgrpc_server_add_port(native, own, $0) }
        }
    }

    private func takeListeners() throws(RPCStatus) -> [Listener] {
        let listeners = state.withLock { state -> [Listener]? in
            guard case .configuring(let listeners) = state else { return nil }
            if !listeners.isEmpty { state = .starting }
            return listeners
        }
        guard let listeners else { throw Self.alreadyStarted }
        guard !listeners.isEmpty else {
            throw RPCStatus(.failedPrecondition, "the server has no endpoint to listen on")
        }
        return listeners
    }

    /// Handlers that have not returned.
    package var runningCallCount: Int { calls.runningCount }

    /// Accepts no more calls, lets the running ones end within `grace`, then cancels the rest.
    ///
    /// Returns when all calls are over and their handlers have returned; but does not wait for a handler
    /// that goes on for more than a quarter of a second after its call was cancelled. May be repeated, and
    /// waits for the first time then.
    ///
    /// - Returns: The number of handlers that are still running.
    @discardableResult
    package func shutdown(grace: Duration) async -> Int {
        while case .starting = state.withLock({ $0 }) { await Self.pause() }
        var listeners: [Listener]?
        await withCheckedContinuation { continuation in
            let isStopped = state.withLock { state in
                switch state {
                case .configuring, .starting, .stopped:
                    state = .stopped
                    return true
                case .serving(let serving):
                    listeners = serving
                    state = .stopping([])
                    return true
                case .stopping(let waiting):
                    state = .stopping(waiting + [continuation])
                    return false
                }
            }
            if isStopped { continuation.resume() }
        }
        if let listeners { await stop(listeners, grace) }
        return calls.runningCount
    }

    private func stop(_ listeners: [Listener], _ grace: Duration) async {
        listeners.forEach { $0.remove() }
        _ = await Native.wait { context, done in
            cgrpc_server_shutdown(native, grace.nanosecondsForGRPC, context, done)
        }
        let end = ContinuousClock.now + .milliseconds(250)
        while calls.runningCount > 0, ContinuousClock.now < end { await Self.pause() }
        let waiting = state.withLock { state -> [CheckedContinuation<Void, Never>] in
            guard case .stopping(let waiting) = state else { return [] }
            state = .stopped
            return waiting
        }
        for continuation in waiting { continuation.resume() }
    }

    /// A short pause that a cancelled task makes too.
    private static func pause() async {
        await Task { try? await Task.sleep(for: .milliseconds(2)) }.value
    }

    private static let alreadyStarted = RPCStatus(.failedPrecondition, "the server has already been started")
}

/// What C's threads use of a server: alive until no call can come any more, even if the server is not.
private final class ServerCalls: Sendable {
    private let maximumCount: Int
    private let maximumMessageByteCount: Int
    private let handler: RPCServer.Handler
    let noteRefusedConnection: @Sendable () -> Void
    private let count = Mutex(0)

    init(options: RPCServerOptions, handler: @escaping RPCServer.Handler) {
        maximumCount = options.maximumConcurrentCalls
        maximumMessageByteCount = options.maximumMessageByteCount
        noteRefusedConnection = options.noteRefusedConnection
        self.handler = handler
    }

    var runningCount: Int { count.withLock { $0 } }

    func accept(_ native: OpaquePointer, _ arrival: cgrpc_arrival) {
        let call = RPCServerCall(
            native: native, arrival: arrival, maximumMessageByteCount: maximumMessageByteCount)
        let isAllowed = count.withLock { count in
            guard count < maximumCount else { return false }
            count += 1
            return true
        }
        guard isAllowed else {
            call.finish(RPCStatus(.resourceExhausted, "the server runs \(maximumCount) calls already"))
            return
        }
        call.run { call in await self.answer(call) }
    }

    private func answer(_ call: RPCServerCall) async {
        do {
            try await handler(call)
            call.finish(RPCStatus(.ok, ""))
        } catch {
            call.finish(error)
        }
        count.withLock { $0 -= 1 }
    }
}
