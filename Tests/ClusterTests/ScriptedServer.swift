import Foundation
import KubernetesAPI
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL
import Synchronization

@testable import TestBed

/// An API server that answers as a test says, over TLS: for what real ones answer too seldom.
final class ScriptedServer: Sendable {
    struct Request: Sendable {
        var method: String
        /// Without the query.
        var path: String
        var query: [String: String]
        var body: Data
        var time: ContinuousClock.Instant

        var isWatch: Bool { query["watch"] == "true" }
    }

    /// What is answered.
    struct Reply: Sendable {
        enum Ending: Sendable {
            case complete
            /// The connection stays and nothing comes.
            case silent
            /// The connection breaks in the middle of the answer.
            case broken
        }

        var status = 200
        var headers: [(String, String)] = []
        var body: String
        var ending: Ending = .complete

        /// A Status object, as the API refuses.
        static func refusal(_ code: Int, _ reason: String = "", retryAfter: Int? = nil) -> Reply {
            Reply(
                status: code, headers: retryAfter.map { [("Retry-After", String($0))] } ?? [],
                body: #"{"kind": "Status", "code": \#(code), "reason": "\#(reason)", "message": "scripted"}"#)
        }
    }

    typealias Script = @Sendable (_ request: Request, _ number: Int) -> Reply

    private let channel: any Channel
    private let seen: Shared<[Request]>
    let connection: ClusterConnection

    /// What was asked so far.
    var requests: [Request] { seen.withLock { $0 } }

    /// Runs a test with a client of a server that answers by a script. The number counts requests, from 0.
    static func run(
        _ script: @escaping Script,
        _ body: @escaping @Sendable (ScriptedServer, KubernetesClient) async throws -> Void
    ) async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let server = try await ScriptedServer(in: try cleanup.makeTemporaryDirectory(), script)
            try cleanup.add("scripted server") { try? await server.channel.close() }
            let client = try KubernetesClient(server.connection)
            try cleanup.add("its client") { await client.close() }
            try await body(server, client)
        }
    }

    private init(in directory: String, _ script: @escaping Script) async throws {
        var program = Program(
            "openssl",
            [
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "certificate",
                "-days",
                "2", "-subj", "/CN=scripted", "-addext", "subjectAltName=IP:127.0.0.1",
            ])
        program.directory = directory
        try await ChildProcess.check(program)
        let certificates = try NIOSSLCertificate.fromPEMFile(directory + "/certificate")
        let context = try NIOSSLContext(
            configuration: .makeServerConfiguration(
                certificateChain: certificates.map { .certificate($0) },
                privateKey: .privateKey(try NIOSSLPrivateKey(file: directory + "/key", format: .pem))))
        let seen = Shared<[Request]>([])
        channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let operations = channel.pipeline.syncOperations
                    try operations.addHandler(NIOSSLServerHandler(context: context))
                    try operations.configureHTTPServerPipeline(withErrorHandling: true)
                    try operations.addHandler(
                        Handler { request in
                            let number = seen.withLock { all in
                                all.append(request)
                                return all.count - 1
                            }
                            return script(request, number)
                        })
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
        self.seen = seen
        connection = try ClusterConnection(
            server: "https://127.0.0.1:\(channel.localAddress?.port ?? 0)",
            authorityPEM: Array(try Data(contentsOf: URL(fileURLWithPath: directory + "/certificate"))),
            credential: .token("token"))
    }

    /// One connection.
    private final class Handler: ChannelInboundHandler {
        typealias InboundIn = HTTPServerRequestPart
        typealias OutboundOut = HTTPServerResponsePart

        private let answer: (Request) -> Reply
        private var head: HTTPRequestHead?
        private var body = Data()

        init(_ answer: @escaping (Request) -> Reply) { self.answer = answer }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            switch unwrapInboundIn(data) {
            case .head(let head):
                self.head = head
                body = Data()
            case .body(let part): body.append(contentsOf: part.readableBytesView)
            case .end:
                guard let head else { return }
                write(answer(Self.request(head, body)), context)
            }
        }

        private static func request(_ head: HTTPRequestHead, _ body: Data) -> Request {
            let parts = URLComponents(string: head.uri)
            let pairs = (parts?.queryItems ?? []).map { ($0.name, $0.value ?? "") }
            return Request(
                method: head.method.rawValue, path: parts?.path ?? head.uri,
                query: Dictionary(pairs) { $1 }, body: body, time: .now)
        }

        private func write(_ reply: Reply, _ context: ChannelHandlerContext) {
            var headers = HTTPHeaders(reply.headers + [("Content-Type", "application/json")])
            headers.add(name: "Transfer-Encoding", value: "chunked")
            let status = HTTPResponseStatus(statusCode: reply.status)
            context.write(
                wrapOutboundOut(.head(.init(version: .http1_1, status: status, headers: headers))),
                promise: nil)
            let body = context.channel.allocator.buffer(string: reply.body)
            let channel = context.channel
            let written = context.writeAndFlush(wrapOutboundOut(.body(.byteBuffer(body))))
            switch reply.ending {
            case .complete: context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
            case .silent: break
            case .broken: written.whenComplete { _ in channel.close(promise: nil) }
            }
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
    }
}
