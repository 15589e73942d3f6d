internal import Glibc
internal import NIOCore
internal import NIOHTTP1
internal import NIOPosix
internal import Synchronization

/// What is answered to a GET.
package struct MonitoringReply: Hashable, Sendable {
    package var status: Int
    package var contentType: String
    package var body: String

    package init(_ status: Int, _ body: String, contentType: String = "text/plain; charset=utf-8") {
        self.status = status
        self.body = body
        self.contentType = contentType
    }
}

/// Answers probes and scrapes over HTTP/1.1, without encryption: nothing secret is told, and nothing can be changed.
///
/// One answer a connection. Of more connections than `connectionLimit` the further ones are closed, and so is
/// whoever takes longer than `patience` to ask or to read.
package final class MonitoringServer: Sendable {
    /// - Parameter path: without the query.
    package typealias Handler = @Sendable (_ path: String) async -> MonitoringReply

    package static let connectionLimit = 32
    static let patience = TimeAmount.seconds(30)

    private let channel: any Channel
    /// Chosen by the system if 0 was asked for.
    package let port: UInt16

    /// Starts to answer.
    ///
    /// - Throws: when the address cannot be listened on.
    package init(host: String, port: UInt16, handler: @escaping Handler) async throws {
        let count = ConnectionCount()
        let bootstrap = ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .serverChannelOption(.backlog, value: 64)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                guard count.begin() else { return channel.close() }
                channel.closeFuture.whenComplete { _ in count.end() }
                return channel.eventLoop.makeCompletedFuture {
                    let operations = channel.pipeline.syncOperations
                    try Self.addParser(to: operations)
                    try operations.addHandler(RequestHandler(handler))
                }
            }
        channel = try await Self.bind(bootstrap, host, Int(port))
        self.port = UInt16(clamping: channel.localAddress?.port ?? 0)
    }

    /// What takes a connection's bytes apart, and answers those that are no request.
    static func addParser(to pipeline: ChannelPipeline.SynchronousOperations) throws {
        try pipeline.configureHTTPServerPipeline(withErrorHandling: true)
    }

    /// What is asked for, without the query.
    static func path(of request: HTTPRequestHead) -> String { String(request.uri.prefix { $0 != "?" }) }

    /// As for the other endpoints "" and "::" are every address, of IPv4 as well, also where the kernel has no IPv6.
    private static func bind(
        _ bootstrap: ServerBootstrap, _ host: String, _ port: Int
    ) async throws -> any Channel {
        guard host.isEmpty || host == "::" else {
            return try await bootstrap.bind(host: host, port: port).get()
        }
        do {
            return try await bootstrap.bind(host: "::", port: port).get()
        } catch let error as IOError where error.errnoCode == EAFNOSUPPORT {
            return try await bootstrap.bind(host: "0.0.0.0", port: port).get()
        }
    }

    package func stop() async { try? await channel.close() }

    private final class ConnectionCount: Sendable {
        private let count = Atomic<Int>(0)

        func begin() -> Bool {
            guard count.add(1, ordering: .relaxed).newValue <= MonitoringServer.connectionLimit else {
                end()
                return false
            }
            return true
        }

        func end() { count.subtract(1, ordering: .relaxed) }
    }
}

/// One connection; used on its event loop alone.
private final class RequestHandler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let handler: MonitoringServer.Handler
    private var head: HTTPRequestHead?
    private var hasAsked = false
    private var timeout: Scheduled<Void>?

    init(_ handler: @escaping MonitoringServer.Handler) { self.handler = handler }

    func channelActive(context: ChannelHandlerContext) {
        let channel = context.channel
        timeout = context.eventLoop.scheduleTask(in: MonitoringServer.patience) {
            channel.close(promise: nil)
        }
        context.fireChannelActive()
    }

    func channelInactive(context: ChannelHandlerContext) {
        timeout?.cancel()
        context.fireChannelInactive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head): self.head = head
        case .body: break
        case .end:
            guard let head, !hasAsked else { return }
            hasAsked = true
            answer(head, context)
        }
    }

    private func answer(_ head: HTTPRequestHead, _ context: ChannelHandlerContext) {
        guard head.method == .GET || head.method == .HEAD else {
            write(MonitoringReply(405, "only GET is answered here\n"), to: head, context)
            return
        }
        let path = MonitoringServer.path(of: head)
        let promise = context.eventLoop.makePromise(of: MonitoringReply.self)
        promise.completeWithTask { [handler] in await handler(path) }
        promise.futureResult.assumeIsolated().whenSuccess { reply in
            guard context.channel.isActive else { return }
            self.write(reply, to: head, context)
        }
    }

    private func write(
        _ reply: MonitoringReply, to request: HTTPRequestHead, _ context: ChannelHandlerContext
    ) {
        var headers = HTTPHeaders()
        headers.add(name: "Content-Type", value: reply.contentType)
        headers.add(name: "Content-Length", value: String(reply.body.utf8.count))
        headers.add(name: "Connection", value: "close")
        let status = HTTPResponseStatus(statusCode: reply.status)
        let head = HTTPResponseHead(version: request.version, status: status, headers: headers)
        context.write(wrapOutboundOut(.head(head)), promise: nil)
        if request.method != .HEAD {
            let body = context.channel.allocator.buffer(string: reply.body)
            context.write(wrapOutboundOut(.body(.byteBuffer(body))), promise: nil)
        }
        let channel = context.channel
        context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in channel.close(promise: nil) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
}
