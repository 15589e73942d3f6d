import Foundation
import Glibc
import RPC
import Synchronization
import Testing
import VolumeModel

@testable import Gateway
@testable import SiteIdentity

/// Two members of a site and a peer, with real certificates, and the gateway between them.
private struct Scene {
    let files: TemporaryDirectory
    let peer: SiteIdentity
    let members: [SiteIdentity]
    let servers: [RPCServer]
    let gateway: TestGateway

    init() async throws {
        files = try TemporaryDirectory()
        let keys = files.path + "/keys"
        try FileManager.default.createDirectory(atPath: keys, withIntermediateDirectories: false)
        let authority = try SiteAuthority(of: SiteID("london")!)
        try authority.pem.write(toFile: keys + "/authority.pem", atomically: false, encoding: .utf8)
        chmod(keys + "/authority.pem", 0o400)
        peer = try SiteIdentity.create(site: SiteID("sydney")!, in: files.path + "/sydney")
        try peer.trust(authority.trustDocument(address: nil))
        var members: [SiteIdentity] = []
        var servers: [RPCServer] = []
        var addresses: [(String, UInt16)] = []
        for node in ["a", "b"] {
            let source = IdentitySource(node: node, siteKeys: keys, directory: files.path + "/" + node)
            let identity = try source.load().identity
            try identity.trust(peer.trustDocument(address: nil))
            let server = RPCServer { (call) async throws(RPCStatus) in try await Self.answer(call, identity) }
            let port = try server.listen(
                on: .tcp(host: "127.0.0.1", port: 0),
                security: Self.security(identity, roots: identity.trustedRootsPEM(), expecting: nil))
            try server.start()
            members.append(identity)
            servers.append(server)
            addresses.append((identity.site.description, try #require(port)))
        }
        (self.members, self.servers) = (members, servers)
        gateway = try await TestGateway(addresses)
    }

    /// Who answers, and who was seen to ask; or the messages of a stream again.
    private static func answer(_ call: RPCServerCall, _ identity: SiteIdentity) async throws(RPCStatus) {
        let caller: SiteID
        do { caller = try identity.authenticate(leafPEM: call.peerCertificatePEM ?? "") } catch {
            throw RPCStatus(.permissionDenied, "\(error)")
        }
        guard call.method == "/test/Echo" else {
            _ = try await call.receive()
            return try call.sendLast(Array("\(identity.site) to \(caller)".utf8))
        }
        while let message = try await call.receive() { try await call.send(message) }
    }

    private static func security(
        _ identity: SiteIdentity, roots: String, expecting name: String?
    ) throws -> RPCSecurity {
        .mutualTLS(
            certificateChainPEM: identity.certificateChainPEM, privateKeyPEM: identity.privateKeyPEM,
            trustedRootsPEM: roots, expectedServerName: name)
    }

    func channel(to name: String, as identity: SiteIdentity? = nil, port: UInt16? = nil) throws -> RPCChannel
    {
        let (identity, site) = (identity ?? peer, SiteID(name)!)
        return try RPCChannel(
            to: .tcp(host: "127.0.0.1", port: port ?? gateway.port),
            security: Self.security(
                identity, roots: identity.rootPEM(of: site), expecting: identity.serverName(of: site)))
    }

    func ask(_ name: String, as identity: SiteIdentity? = nil) async throws -> String {
        let channel = try channel(to: name, as: identity)
        defer { channel.close() }
        let answer = try await channel.unary("/test/Who", [], timeout: .seconds(60), waitForReady: true)
        return String(decoding: answer, as: UTF8.self)
    }

    func end() async {
        for server in servers { await server.shutdown(grace: .zero) }
        await gateway.gateway.stop()
    }
}

@Suite(.timeLimit(.minutes(5)))
struct GatewayTests {
    @Test func aCallToAMemberArrivesAtThatMember() async throws {
        let scene = try await Scene()
        for _ in 0..<3 {
            #expect(try await scene.ask("a.london") == "a.london to sydney")
            #expect(try await scene.ask("b.london") == "b.london to sydney")
        }
        // Also when it comes from another member.
        #expect(try await scene.ask("b.london", as: scene.members[0]) == "b.london to a.london")
        await scene.end()
    }

    @Test func aCallToTheSiteIsAnsweredByAMemberThatCanBe() async throws {
        let scene = try await Scene()
        #expect(["a.london to sydney", "b.london to sydney"].contains(try await scene.ask("london")))
        await scene.servers[0].shutdown(grace: .zero)
        for _ in 0..<4 { #expect(try await scene.ask("london") == "b.london to sydney") }
        let gone = try scene.channel(to: "a.london")
        await #expect(throws: RPCStatus.self) { try await gone.unary("/test/Who", [], timeout: .seconds(20)) }
        gone.close()
        await scene.end()
    }

    /// What the gateway is told decides where bytes go, and nothing else.
    @Test func aMemberCannotAnswerForAnother() async throws {
        let scene = try await Scene()
        let members = try scene.gateway.registry.members()
        scene.gateway.registry.set([
            ("a.london", members[1].address.port), ("b.london", members[0].address.port),
        ])
        let channel = try scene.channel(to: "a.london")
        await #expect(throws: RPCStatus.self) {
            try await channel.unary("/test/Who", [], timeout: .seconds(20))
        }
        channel.close()
        // A site that is not trusted any more.
        let caller = try scene.channel(to: "london", port: scene.gateway.port)
        for member in scene.members { try member.distrust(scene.peer.site) }
        await #expect(throws: RPCStatus.self) {
            try await caller.unary("/test/Who", [], timeout: .seconds(20))
        }
        caller.close()
        await scene.end()
    }

    @Test func largeStreamsBothWaysStayWhole() async throws {
        let scene = try await Scene()
        let channel = try scene.channel(to: "b.london")
        let message = randomBytes(1 << 20)
        let call = try channel.open("/test/Echo", timeout: .seconds(240))
        let sending = Task {
            for index in 0..<48 { try await call.send([UInt8(index)] + message) }
            try await call.finishSending()
        }
        var count = 0
        while let echo = try await call.receive() {
            #expect(echo.first == UInt8(count) && areSame(Array(echo.dropFirst()), message))
            count += 1
        }
        try await sending.value
        #expect(count == 48)
        channel.close()
        await scene.end()
    }

    @Test func manyCallsAtOnceFindTheirMembers() async throws {
        let scene = try await Scene()
        try await withThrowingTaskGroup(of: (String, String).self) { group in
            for index in 0..<40 {
                group.addTask {
                    let name = index % 2 == 0 ? "a.london" : "b.london"
                    return (name, try await scene.ask(name))
                }
            }
            for try await (name, answer) in group { #expect(answer == "\(name) to sydney") }
        }
        #expect(await eventually { scene.gateway.gateway.counts.open == 0 })
        #expect(scene.gateway.gateway.counts.accepted >= 40)
        await scene.end()
    }
}
