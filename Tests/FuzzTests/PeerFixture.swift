import Catalog
import EngineTestSupport
import Foundation
import Hydration
import Logging
import PeerProtocol
import PeerService
import RPC
import SiteIdentity
import Testing
import VolumeFileSystem
import VolumeModel

@testable import Site

/// A site that answers its peers over mutual TLS, in this process, and peers that it trusts.
final class PeerFixture: Sendable {
    /// What answers: the site's own backend, or another in its place.
    typealias MakeBackend = @Sendable (Site) -> any PeerBackend

    /// Answers each call with one message, or as a peer does that fails.
    static func handler(
        _ answer: @escaping @Sendable (RPCServerCall) async throws -> [UInt8]
    ) -> RPCServer.Handler {
        { (call) async throws(RPCStatus) in
            do {
                try call.sendLast(try await answer(call))
            } catch let error as RPCStatus {
                throw error
            } catch {
                throw RPCStatus(.internalError, "\(error)")
            }
        }
    }

    let site: Site
    let service: PeerServer
    private let server: RPCServer
    private let directory: TemporaryDirectory
    private let endpoint: RPCEndpoint
    private let identities: [SiteID: SiteIdentity]
    private let logger: Logger

    /// tokyo's own port, if it has one.
    private let tokyo: RPCServer?

    /// - Parameters:
    ///   - tokyo: what answers when the site asks tokyo; nil: nobody listens there.
    ///   - logger: nil: what the site says is dropped.
    init(
        limits: PeerLimits = PeerLimits(), offers: OfferLimits = OfferLimits(),
        backend: MakeBackend = { SitePeerBackend(site: $0) }, tokyo handler: RPCServer.Handler? = nil,
        logger: Logger? = nil
    ) async throws {
        let directory = try TemporaryDirectory()
        self.directory = directory
        var identities: [SiteID: SiteIdentity] = [:]
        for name in ["london", "tokyo", "sydney", "oslo"] {
            let id = try #require(SiteID(name))
            identities[id] = try SiteIdentity.create(
                site: id, in: try directory.make(name) + "/pki", now: Date())
        }
        self.identities = identities
        let london = try #require(SiteID("london").flatMap { identities[$0] })
        let tokyo = handler.map { RPCServer(options: limits.serverOptions, handler: $0) }
        self.tokyo = tokyo
        for (id, identity) in identities where id != london.site {
            try identity.trust(try london.trustDocument(address: nil))
            // Where nobody listens what the site asks of its peers fails at once.
            var port = 1
            if let tokyo, id.description == "tokyo" {
                let security = RPCSecurity.mutualTLS(
                    certificateChainPEM: identity.certificateChainPEM, privateKeyPEM: identity.privateKeyPEM,
                    trustedRootsPEM: try identity.rootPEM(of: london.site), expectedServerName: nil)
                port = Int(
                    try #require(
                        try tokyo.listen(on: .tcp(host: "127.0.0.1", port: 0), security: security)))
                try tokyo.start()
            }
            try london.trust(try identity.trustDocument(address: "127.0.0.1:\(port)"))
        }
        var silent = Logger(label: "fuzz")
        silent.logLevel = .critical
        let logger = logger ?? silent
        self.logger = logger
        let state = try StateDirectory(try directory.make("state"))
        try FileManager.default.setAttributes([.posixPermissions: 0o700], ofItemAtPath: state.path)
        let site = Site(
            context: SiteContext(
                node: "node", state: state, registry: try SQLiteRegistry(path: state.registry),
                identity: london, hydration: Hydrator.Configuration(), offers: offers, logger: logger))
        self.site = site
        let service = PeerServer(site: site, limits: limits, backend: backend(site))
        self.service = service
        server = RPCServer(options: limits.serverOptions) { (call) async throws(RPCStatus) in
            try await service.handle(call)
        }
        let port = try server.listen(
            on: .tcp(host: "127.0.0.1", port: 0),
            security: .mutualTLS(
                certificateChainPEM: london.certificateChainPEM, privateKeyPEM: london.privateKeyPEM,
                trustedRootsPEM: try london.trustedRootsPEM(), expectedServerName: nil))
        endpoint = .tcp(host: "127.0.0.1", port: try #require(port))
        try server.start()
    }

    func end() async {
        await server.shutdown(grace: .zero)
        await tokyo?.shutdown(grace: .zero)
        await site.stop()
    }

    /// No call, whatever became of its caller, and nothing that a limit counts.
    var isIdle: Bool { server.runningCallCount == 0 && service.openCallCount == 0 }

    // MARK: peers

    private func security(of name: String) throws -> RPCSecurity {
        let identity = try #require(SiteID(name).flatMap { identities[$0] })
        let london = try #require(SiteID("london"))
        return .mutualTLS(
            certificateChainPEM: identity.certificateChainPEM, privateKeyPEM: identity.privateKeyPEM,
            trustedRootsPEM: try identity.rootPEM(of: london),
            expectedServerName: identity.serverName(of: london))
    }

    /// A peer that may send anything.
    func channel(of name: String = "tokyo") throws -> RPCChannel {
        var options = RPCChannelOptions()
        options.maximumMessageByteCount = 64 << 20
        return try RPCChannel(to: endpoint, security: try security(of: name), options: options)
    }

    /// An honest one.
    ///
    /// - Parameter port: another one of the site's.
    func client(of name: String, at port: UInt16? = nil) throws -> PeerClient {
        try PeerClient(
            site: try #require(SiteID("london")),
            endpoint: port.map { .tcp(host: "127.0.0.1", port: $0) } ?? endpoint,
            security: try security(of: name))
    }

    // MARK: volumes

    /// A volume with a few files that tokyo and sydney may know of.
    func makeVolume(_ name: String) async throws -> VolumeID {
        let agent = try await site.create(
            name: name, limits: VolumeLimits(byteCount: 1 << 30), parameters: ["class": "fast"])
        let peers = Set(["tokyo", "sydney"].compactMap { SiteID($0) })
        try await agent.change { $0.sharedWith = peers }
        let id = await agent.id
        let storage = try await storage(of: id)
        let files = VolumeFileSystem(storage: storage, hydrator: nil, log: { _ in })
        var generator = Generator(seed: 9)
        for number in 0..<20 {
            let (attributes, handle) = try files.create(
                Array("file \(number)".utf8), in: .root, permissions: 0o644, openFlags: 2, caller: .root)
            let bytes = generator.bytes(50_000)
            _ = try bytes.withUnsafeBytes { buffer throws(FileSystemError) in
                try files.write(attributes.inode, handle: handle, offset: 0, bytes: buffer)
            }
            files.release(attributes.inode, handle: handle)
        }
        try storage.settle()
        return id
    }

    func storage(of volume: VolumeID) async throws -> HeadStorage {
        let agent = try await site.agent(volume)
        return try await agent.openPresentHead()
    }
}

extension VolumeAgent {
    fileprivate func openPresentHead() throws -> HeadStorage { try openHead(record.headNumber).storage }
}

/// Waits for something, long enough for a machine that does other things as well.
func eventually(_ condition: () async throws -> Bool) async rethrows -> Bool {
    let end = ContinuousClock.now + .seconds(60)
    while try await !condition() {
        guard ContinuousClock.now < end else { return false }
        try? await Task.sleep(for: .milliseconds(5))
    }
    return true
}

/// The status that a call ends with, `.ok` if it does not throw.
func status(_ body: () async throws -> Void) async -> RPCStatus {
    do {
        try await body()
        return RPCStatus(.ok, "")
    } catch let status as RPCStatus {
        return status
    } catch PeerError.call(_, _, let status) {
        return status
    } catch {
        return RPCStatus(.unknown, "not a status: \(error)")
    }
}

extension RPCChannel {
    static let peerService = "/godwit.peer.v1.Peer/"

    /// Sends these messages, says that there are no more, and takes whatever comes until the call has ended.
    ///
    /// - Returns: how it ended, and how many messages came.
    func exchange(
        _ method: String, _ messages: [[UInt8]], timeout: Duration = .seconds(60)
    ) async throws -> (status: RPCStatus, messageCount: Int) {
        let call = try open(Self.peerService + method, timeout: timeout, waitForReady: true)
        var count = 0
        // A call that has ended refuses what is still to be sent; its status tells why.
        for message in messages { try? await call.send(message) }
        try? await call.finishSending()
        let status = await status { while try await call.receive() != nil { count += 1 } }
        return (status, count)
    }
}
