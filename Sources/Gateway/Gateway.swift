internal import Glibc
package import Logging
internal import NIOCore
internal import NIOPosix
internal import NIOTLS
internal import SiteIdentity
internal import Synchronization
internal import VolumeModel

/// One address for all members of a site: reads the name that a TLS client asks for, and passes its bytes, untouched, to
/// the member of that name, or to any that can be reached where it asks for the site as a whole.
///
/// It has no keys and decides nothing: whether the right one answers is seen by the client from the certificate, and who
/// the client is by the member.
package final class Gateway: Sendable {
    package struct Limits: Sendable {
        /// Further ones are closed at once.
        package var connections = 1000
        /// For a client to say whom it wants.
        package var helloPatience: Duration = .seconds(10)
        /// For one attempt to reach a member. Below the time that our clients have for all of them.
        package var connectPatience: Duration = .seconds(2)
        /// For all attempts.
        package var routePatience: Duration = .seconds(10)
        /// Without a byte in either direction. A call that is under way shows signs of life every 20 seconds.
        package var idlePatience: Duration = .seconds(600)

        package init() {}
    }

    package struct Counts: Hashable, Sendable {
        package var open = 0
        package var accepted: UInt64 = 0
        /// Above the bound.
        package var tooMany: UInt64 = 0
        /// Of those that said no name, or not in time.
        package var unnamed: UInt64 = 0
        /// Nobody of the name was known, or reached.
        package var unanswered: UInt64 = 0
    }

    private struct State {
        var counts = Counts()
        var clients: [ObjectIdentifier: any Channel] = [:]
        var isStopped = false
    }

    private let directory: MemberDirectory
    private let limits: Limits
    private let logger: Logger
    private let state = Mutex(State())
    private let server: Mutex<(any Channel)?> = Mutex(nil)

    package init(directory: MemberDirectory, limits: Limits = Limits(), logger: Logger) {
        (self.directory, self.limits, self.logger) = (directory, limits, logger)
    }

    package var counts: Counts { state.withLock { $0.counts } }

    /// Starts to answer.
    ///
    /// - Returns: the port, chosen by the system if 0 was asked for.
    /// - Throws: when the address cannot be listened on.
    package func listen(host: String, port: UInt16) async throws -> UInt16 {
        let bootstrap = ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.backlog, value: 256)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.socketOption(.so_keepalive), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.maxMessagesPerRead, value: 1)
            .childChannelInitializer { channel in
                guard self.admit(channel) else { return channel.close() }
                return channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(
                        HelloHandler(patience: TimeAmount(self.limits.helloPatience)) {
                            self.update { $0.unnamed += 1 }
                        })
                    try channel.pipeline.syncOperations.addHandler(
                        ByteToMessageHandler(SNIHandler { self.route($0, channel) }))
                }
            }
        let channel: any Channel
        do {
            channel = try await bootstrap.bind(host: host.isEmpty ? "::" : host, port: Int(port)).get()
        } catch let error as IOError where error.errnoCode == EAFNOSUPPORT && (host.isEmpty || host == "::") {
            // Every address, where the kernel has no IPv6.
            channel = try await bootstrap.bind(host: "0.0.0.0", port: Int(port)).get()
        }
        server.withLock { $0 = channel }
        return UInt16(clamping: channel.localAddress?.port ?? 0)
    }

    /// Closes all connections. The clients come again, to whoever answers then.
    package func stop() async {
        try? await server.withLock { $0 }?.close()
        let clients = state.withLock { state in
            state.isStopped = true
            return Array(state.clients.values)
        }
        for client in clients { try? await client.close() }
    }

    private func update(_ change: (inout Counts) -> Void) { state.withLock { change(&$0.counts) } }

    private func admit(_ channel: any Channel) -> Bool {
        let isAdmitted = state.withLock { state in
            state.counts.accepted &+= 1
            guard state.counts.open < limits.connections, !state.isStopped else {
                state.counts.tooMany &+= 1
                return false
            }
            state.counts.open += 1
            state.clients[ObjectIdentifier(channel)] = channel
            return true
        }
        guard isAdmitted else { return false }
        let key = ObjectIdentifier(channel)
        channel.closeFuture.whenComplete { _ in
            self.state.withLock { state in
                state.counts.open -= 1
                state.clients[key] = nil
            }
        }
        return true
    }

    // MARK: one connection

    /// On the client's event loop. Fulfilled when its bytes have somewhere to go.
    private func route(_ result: SNIResult, _ client: any Channel) -> EventLoopFuture<Void> {
        guard case .hostname(let name) = result, let wanted = SiteIdentity.site(serverName: name) else {
            update { $0.unnamed &+= 1 }
            logger.debug("a client that asks for nobody", metadata: ["from": "\(Self.place(client))"])
            client.close(promise: nil)
            return client.eventLoop.makeFailedFuture(GatewayError.noName)
        }
        let found = client.eventLoop.makePromise(of: (any Channel).self)
        client.pipeline.fireUserInboundEventTriggered(HelloHandler.Named())
        return client.setOption(.autoRead, value: false).flatMap {
            found.completeWithTask { try await self.reach(wanted, for: client) }
            return found.futureResult
        }.flatMap { member in
            self.join(client, member)
        }.flatMapErrorThrowing { error in
            self.update { $0.unanswered &+= 1 }
            self.logger.debug(
                "nobody answers for \(wanted): \(error)", metadata: ["from": "\(Self.place(client))"])
            client.close(promise: nil)
            throw error
        }
    }

    private static func place(_ channel: any Channel) -> String { channel.remoteAddress?.description ?? "?" }

    /// A connection to one that may answer for a name. What is known is tried first, then what can be learnt.
    private func reach(_ name: SiteID, for client: any Channel) async throws -> any Channel {
        let start = ContinuousClock.now
        var tried: Set<GatewayAddress> = []
        for afresh in [false, true] {
            for address in await directory.addresses(of: name, afresh: afresh)
            where tried.insert(address).inserted {
                guard client.isActive, start.duration(to: .now) < limits.routePatience else {
                    throw GatewayError.unreachable(name)
                }
                do {
                    let channel = try await connect(address, on: client.eventLoop)
                    await directory.note(address, isReachable: true)
                    return channel
                } catch {
                    await directory.note(address, isReachable: false, reason: "\(error)")
                }
            }
        }
        throw tried.isEmpty ? GatewayError.unknown(name) : GatewayError.unreachable(name)
    }

    private func connect(_ address: GatewayAddress, on loop: any EventLoop) async throws -> any Channel {
        try await ClientBootstrap(group: loop)
            .connectTimeout(TimeAmount(limits.connectPatience))
            .channelOption(.socketOption(.so_keepalive), value: 1)
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .channelOption(.maxMessagesPerRead, value: 1)
            .channelOption(.autoRead, value: false)
            .connect(host: address.host, port: Int(address.port)).get()
    }

    /// On the event loop of both.
    private func join(_ client: any Channel, _ member: any Channel) -> EventLoopFuture<Void> {
        let joined = client.eventLoop.submit {
            guard client.isActive else { throw GatewayError.gone }
            let (near, far) = Relay.pair()
            let idle = TimeAmount(self.limits.idlePatience)
            // From here on an end is something to pass on; a client that has gone before is gone.
            try client.syncOptions?.setOption(.allowRemoteHalfClosure, value: true)
            for (channel, relay) in [(client, near), (member, far)] {
                let pipeline = channel.pipeline.syncOperations
                try pipeline.addHandler(IdleStateHandler(allTimeout: idle))
                try pipeline.addHandler(relay)
            }
        }
        joined.whenFailure { _ in member.close(promise: nil) }
        return joined.flatMap {
            for channel in [client, member] { channel.setOption(.autoRead, value: true).cascade(to: nil) }
            return client.eventLoop.makeSucceededVoidFuture()
        }
    }
}

enum GatewayError: Error, Hashable, Sendable, CustomStringConvertible {
    case noName
    case unknown(SiteID)
    case unreachable(SiteID)
    case gone

    var description: String {
        switch self {
        case .noName: "it names nobody"
        case .unknown(let name): "no member of the name \(name) is known"
        case .unreachable(let name): "no member for \(name) can be reached"
        case .gone: "the client has gone"
        }
    }
}

/// Closes a client that does not say in time whom it wants.
private final class HelloHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    /// It has said so.
    struct Named: Sendable {}

    private let patience: TimeAmount
    private let whenLate: () -> Void
    private var timeout: Scheduled<Void>?

    init(patience: TimeAmount, whenLate: @escaping () -> Void) {
        (self.patience, self.whenLate) = (patience, whenLate)
    }

    func channelActive(context: ChannelHandlerContext) {
        let channel = context.channel
        timeout = context.eventLoop.assumeIsolated().scheduleTask(in: patience) {
            self.whenLate()
            channel.close(promise: nil)
        }
        context.fireChannelActive()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        guard event is Named else { return context.fireUserInboundEventTriggered(event) }
        timeout?.cancel()
    }

    func channelInactive(context: ChannelHandlerContext) {
        timeout?.cancel()
        context.fireChannelInactive()
    }
}
