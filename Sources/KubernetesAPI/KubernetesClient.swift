internal import AsyncHTTPClient
package import Foundation
internal import NIOCore
internal import NIOSSL
internal import Synchronization

/// The cluster's API, as far as we use it.
///
/// A request that only reads is repeated when the server is away or overloaded; one that changes something only
/// when the server says that it did nothing (429). Whoever changes something must know what to do when it is
/// not known whether it happened (`KubernetesError.isAmbiguous`).
package final class KubernetesClient: Sendable {
    package struct Options: Sendable {
        /// How often a request is sent at most.
        package var attempts = 4
        package var headTimeout: Duration = .seconds(30)
        /// Silence in the middle of an answer. Longer than a session of a watch, which may be silent.
        package var readTimeout: Duration = .seconds(100)
        package var userAgent = "godwit"
        /// This host's clock.
        package var now: @Sendable () -> Date = { Date() }
        /// Told of each request before it is sent, and of one that changes something when it was answered; what it throws is
        /// the outcome. For tests, which count requests and end a program between any two of them.
        package var witness: (@Sendable (Sighting) throws(KubernetesError) -> Void)?

        /// A request as a witness sees it.
        package struct Sighting: Hashable, Sendable {
            package var method: String
            /// Path and query.
            package var target: String
            package var isAnswered: Bool

            package var isChange: Bool { method != "GET" }
        }

        package init() {}
    }

    /// An object larger than etcd's limit of 1.5 MiB does not exist; a page of 500 may be large.
    static let answerLimit = 256 << 20

    package let connection: ClusterConnection
    let options: Options
    private let http: HTTPClient
    private let place: Place
    private let clock = Mutex<ClockDifference?>(nil)
    /// How far this host's clock is ahead of the API server's, by its latest answer; nil: none has told.
    package var clockDifference: ClockDifference? { clock.withLock { $0 } }
    /// By this host's clock.
    package var now: Date { options.now() }

    package init(_ connection: ClusterConnection, options: Options = Options()) throws(KubernetesError) {
        self.connection = connection
        self.options = options
        var configuration = HTTPClient.Configuration(tlsConfiguration: try Self.tls(connection))
        // One connection for each watch: a dead one that carried everything would stop everything.
        configuration.httpVersion = .http1Only
        configuration.timeout.connect = .seconds(10)
        configuration.timeout.read = TimeAmount(options.readTimeout)
        configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 16
        configuration.redirectConfiguration = .disallow
        place = try Place(of: connection)
        configuration.dnsOverride = place.overrides
        http = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    }

    /// Call it once, when nothing uses the client any more.
    package func close() async { try? await http.shutdown() }

    deinit {
        // Whoever has not closed it leaves that to us: the client must not go before.
        let http = self.http
        http.shutdown { _ in withExtendedLifetime(http) {} }
    }

    private static func tls(_ connection: ClusterConnection) throws(KubernetesError) -> TLSConfiguration {
        var tls = TLSConfiguration.makeClientConfiguration()
        tls.minimumTLSVersion = .tlsv12
        do {
            if let authority = connection.authorityPEM {
                tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMBytes(authority))
            }
            if case .certificate(let chain, let key) = connection.credential {
                tls.certificateChain = try NIOSSLCertificate.fromPEMBytes(chain).map { .certificate($0) }
                tls.privateKey = .privateKey(try NIOSSLPrivateKey(bytes: key, format: .pem))
            }
        } catch {
            throw .configuration("a certificate or key for \(connection.server) cannot be used: \(error)")
        }
        return tls
    }

    /// Where requests go. The library takes the name that the server's certificate must have from the URL.
    private struct Place {
        /// What requests' targets are appended to.
        var base: String
        /// Where the URL's host really is, if elsewhere.
        var overrides: [String: String] = [:]
        /// The Host header, if not the URL's.
        var host: String?

        init(of connection: ClusterConnection) throws(KubernetesError) {
            base = connection.server
            guard let name = connection.serverName else { return }
            guard var url = URLComponents(string: base), let host = url.host, !host.isEmpty else {
                throw .configuration("the API server's address has no host: '\(base)'")
            }
            let characters = name.utf8.allSatisfy {
                switch $0 {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."):
                    true
                default: false
                }
            }
            // Of an address the library would verify the one that it connects to.
            guard characters, name.split(separator: ".").last?.allSatisfy(\.isNumber) == false else {
                throw .configuration("'\(name)' ('tls-server-name') is no name of a host")
            }
            self.host = host + (url.port.map { ":\($0)" } ?? "")
            url.host = name
            base = url.string ?? base
            overrides = [name: host.trimmingCharacters(in: CharacterSet(charactersIn: "[]"))]
        }
    }

    // MARK: one request

    enum Method: String { case get = "GET", post = "POST", put = "PUT", patch = "PATCH", delete = "DELETE" }

    struct Request {
        var method: Method
        var path: String
        var query: [(String, String)] = []
        var body: Data?
        var contentType = "application/json"

        var isRead: Bool { method == .get }

        var target: String {
            guard !query.isEmpty else { return path }
            let pairs = query.map { ResourceKind.escaped($0.0) + "=" + ResourceKind.escaped($0.1) }
            return path + "?" + pairs.joined(separator: "&")
        }
    }

    /// Sends a request and gives the answer's body.
    func send(_ request: Request) async throws(KubernetesError) -> Data {
        var backoff = Backoff()
        var attempt = 1
        while true {
            do throws(KubernetesError) {
                let response = try await open(request)
                let answer = try await Self.collect(response)
                if !request.isRead { try witness(request, isAnswered: true) }
                return answer
            } catch {
                let mayRepeat: Bool
                var wanted: Duration?
                if case .tooManyRequests(_, let retryAfter) = error {
                    mayRepeat = true
                    wanted = retryAfter
                } else {
                    mayRepeat = request.isRead && error.isTransient
                }
                guard mayRepeat, attempt < options.attempts else { throw error }
                attempt += 1
                do {
                    try await Task.sleep(for: backoff.next(atLeast: wanted))
                } catch {
                    throw .cancelled
                }
            }
        }
    }

    private func witness(_ request: Request, isAnswered: Bool) throws(KubernetesError) {
        try options.witness?(
            .init(method: request.method.rawValue, target: request.target, isAnswered: isAnswered))
    }

    /// Sends a request and gives the answer as soon as its head is here, if it is a success.
    func open(_ request: Request) async throws(KubernetesError) -> HTTPClientResponse {
        try witness(request, isAnswered: false)
        var message = HTTPClientRequest(url: place.base + request.target)
        message.method = .RAW(value: request.method.rawValue)
        if let host = place.host { message.headers.add(name: "Host", value: host) }
        message.headers.add(name: "Accept", value: "application/json")
        message.headers.add(name: "User-Agent", value: options.userAgent)
        if let authorization = try connection.authorization() {
            message.headers.add(name: "Authorization", value: authorization)
        }
        for (name, value) in connection.impersonation { message.headers.add(name: name, value: value) }
        if let body = request.body {
            message.headers.add(name: "Content-Type", value: request.contentType)
            message.body = .bytes(body)
        }
        let response: HTTPClientResponse
        let asked = options.now()
        do {
            response = try await http.execute(message, timeout: TimeAmount(options.headTimeout))
        } catch {
            throw Self.failure(error)
        }
        if let date = response.headers.first(name: "Date"),
            let difference = ClockDifference(date: date, asked: asked, answered: options.now())
        {
            clock.withLock { $0 = difference }
        }
        guard (200..<300).contains(response.status.code) else {
            throw await Self.refusal(response, of: request)
        }
        return response
    }

    static func failure(_ error: any Error) -> KubernetesError {
        error is CancellationError || (error as? HTTPClientError) == .cancelled
            ? .cancelled : .unreachable("\(error)")
    }

    private static func refusal(
        _ response: HTTPClientResponse, of request: Request
    ) async -> KubernetesError {
        let body = (try? await response.body.collect(upTo: 1 << 20)).map { Data($0.readableBytesView) }
        let status = body.flatMap { try? JSONDecoder().decode(StatusObject.self, from: $0) }
        let plain = body.map { String(decoding: $0.prefix(300), as: UTF8.self) } ?? ""
        let message = status?.message ?? "\(request.method.rawValue) \(request.path): \(plain)"
        let seconds = response.headers.first(name: "Retry-After").flatMap { Int64($0) }
        return KubernetesError(
            code: Int(response.status.code), reason: status?.reason, message: message,
            retryAfter: seconds.map { .seconds(min(max($0, 0), 3600)) })
    }

    private static func collect(_ response: HTTPClientResponse) async throws(KubernetesError) -> Data {
        do {
            return Data(try await response.body.collect(upTo: answerLimit).readableBytesView)
        } catch {
            throw failure(error)
        }
    }

    // MARK: forms

    static func decode<Value: Decodable>(
        _ type: Value.Type, _ bytes: Data
    ) throws(KubernetesError) -> Value {
        do {
            return try JSONDecoder().decode(type, from: bytes)
        } catch {
            throw .malformed("the API server's answer is no \(type): \(error)")
        }
    }

    static func encode(_ value: some Encodable) throws(KubernetesError) -> Data {
        do {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
            return try encoder.encode(value)
        } catch {
            throw .invalid("an object that cannot be written as JSON: \(error)")
        }
    }

    /// An object with its apiVersion and kind, which types here do not carry.
    static func encode<Item: KubernetesResource>(object: Item) throws(KubernetesError) -> Data {
        guard case .object(var members) = try decode(JSONValue.self, try encode(object)) else {
            throw .invalid("an object of kind \(Item.resource.kind) that is no JSON object")
        }
        members["apiVersion"] = .string(Item.resource.apiVersion)
        members["kind"] = .string(Item.resource.kind)
        return try encode(JSONValue.object(members))
    }
}

extension TimeAmount {
    fileprivate init(_ duration: Duration) {
        let (seconds, attoseconds) = duration.components
        self = .nanoseconds(seconds * 1_000_000_000 + attoseconds / 1_000_000_000)
    }
}
