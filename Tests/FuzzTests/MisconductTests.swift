import CSIService
import Foundation
import Glibc
import Logging
import Monitoring
import PeerProtocol
import RPC
import Synchronization
import Testing
import VolumeModel

@testable import PeerService
@testable import Site

/// What no sound peer sends is told and counted, and too many connections stop nobody for long.
@Suite(.serialized, .timeLimit(.minutes(2))) struct MisconductTests {
    private final class Lines: Sendable {
        private let lines = Mutex<[String]>([])
        var all: [String] { lines.withLock { $0 } }
        func add(_ line: String) { lines.withLock { $0.append(line) } }

        var logger: Logger {
            Logger(label: "misconduct") { _ in
                var handler = JSONLogHandler { self.add($0) }
                handler.logLevel = .warning
                return handler
            }
        }
    }

    private let tokyo: SiteID
    private let sydney: SiteID

    init() throws {
        tokyo = try #require(SiteID("tokyo"))
        sydney = try #require(SiteID("sydney"))
    }

    @Test func whatNoSoundPeerSendsIsCountedAndTold() async throws {
        let lines = Lines()
        let fixture = try await PeerFixture(logger: lines.logger)
        let volume = try await fixture.makeVolume("data")
        let misconduct = fixture.site.context.misconduct
        let channel = try fixture.channel()
        var status = Godwit_Peer_V1_StatusRequest()
        status.volume = volume.description
        let sound: [UInt8] = try status.serializedBytes()
        // Refusals that honest peers meet.
        status.volume = VolumeID(randomHigh: 1, randomLow: 2).description
        let unknown: [UInt8] = try status.serializedBytes()
        #expect(try await channel.exchange("Status", [sound]).status.code == .ok)
        #expect(try await channel.exchange("Status", [unknown]).status.code == .notFound)
        var follow = Godwit_Peer_V1_FollowRequest()
        (follow.volume, follow.epoch) = (volume.description, 1000)
        let late = try await channel.exchange("Follow", [try follow.serializedBytes()]).status
        #expect(late.code == .failedPrecondition, "\(late)")
        #expect(misconduct.messageCounts.isEmpty && lines.all.isEmpty, "\(lines.all)")

        var impossible = Godwit_Peer_V1_HandoffMessage()
        impossible.volume = volume.description
        (impossible.sealRequest.after, impossible.sealRequest.wanted) = (9, 9)
        let limits = PeerLimits()
        let large = [UInt8](repeating: 0x0a, count: limits.requestByteCount + 1)
        let tooLarge = [UInt8](repeating: 0x0a, count: limits.serverOptions.maximumMessageByteCount + 1)
        let messages: [(method: String, [[UInt8]])] = [
            ("Read", [[0xff, 0xff, 0xff]]), ("Status", []), ("Status", [large]),
            ("Status", [tooLarge]), ("Status", [Array(sound.dropLast())]),
            ("Exchange", [try impossible.serializedBytes()]), ("Exchange", [sound]),
        ]
        var count: UInt64 = 0
        for (method, requests) in messages {
            let end = try await channel.exchange(method, requests).status
            #expect(end.code != .ok, "\(method)")
            count += 1
            #expect(
                await eventually { misconduct.messageCounts[tokyo] == count },
                "\(method), \(requests.count): \(end)")
        }
        // Of each site one line for all that comes at a time.
        let first = try #require(lines.all.first)
        #expect(lines.all.count == 1, "\(lines.all)")
        #expect(
            first.contains("refused what site tokyo sent, Read: the request is no message of"), "\(first)")
        let other = try fixture.channel(of: "sydney")
        #expect(try await other.exchange("Nothing", [sound]).status.code == .unimplemented)
        #expect(await eventually { lines.all.count == 2 })
        #expect(lines.all.last?.contains("site sydney sent, Nothing: no such method") == true, "\(lines.all)")
        #expect(misconduct.messageCounts == [tokyo: count, sydney: 1])
        let figures = await SiteMetrics(
            site: fixture.site, operations: OperationTimes(), volumeLimit: 1, isRegistered: nil
        ).text()
        #expect(figures.contains("godwit_peer_refused_messages_total{peer=\"tokyo\"} \(count)\n"))
        channel.close()
        other.close()
        await fixture.end()
    }

    /// Of two calls without a request the one is told beside which others of the same connection had theirs: the link was
    /// sound. Of the other nobody knows whether it was.
    @Test func aRequestThatIsKeptBackIsToldAndOneThatCannotComeIsNot() async throws {
        let lines = Lines()
        var limits = PeerLimits()
        limits.requestTimeout = .milliseconds(500)
        let fixture = try await PeerFixture(limits: limits, logger: lines.logger)
        let misconduct = fixture.site.context.misconduct
        let silent = try fixture.channel(of: "sydney")
        let lone = try silent.open(RPCChannel.peerService + "Hello", timeout: nil, waitForReady: true)
        #expect(await status { _ = try await lone.receive() }.code == .cancelled)
        let channel = try fixture.channel()
        let call = try channel.open(RPCChannel.peerService + "Hello", timeout: nil, waitForReady: true)
        let end = Task { await status { _ = try await call.receive() } }
        let isTold = try await eventually {
            let hello = try await channel.exchange("Hello", [[]])
            try #require(hello.status.code == .ok, "\(hello.status)")
            return lines.all.contains { $0.contains("tokyo sent, Hello: no request came") }
        }
        #expect(isTold)
        #expect(await end.value.code == .cancelled)
        #expect(misconduct.messageCounts == [tokyo: 1], "\(lines.all)")
        silent.close()
        channel.close()
        await fixture.end()
    }

    @Test func anAnswerThatCannotBeIsTold() async throws {
        let lines = Lines()
        let fixture = try await PeerFixture(
            tokyo: { (call) async throws(RPCStatus) in
                _ = try await call.receive()
                try call.sendLast([0xff, 0xff])
            }, logger: lines.logger)
        let client = try fixture.site.context.client(of: tokyo)
        await #expect(throws: PeerError.self) { _ = try await client.hello() }
        await #expect(throws: PeerError.self) {
            _ = try await client.locate(VolumeID(randomHigh: 1, randomLow: 2))
        }
        #expect(fixture.site.context.misconduct.messageCounts == [tokyo: 2])
        #expect(
            lines.all.count == 1 && lines.all[0].contains("site tokyo sent, Hello: an answer that is no"),
            "\(lines.all)")
        await fixture.end()
    }

    @Test func aLineIsOneLineAndComesAgainLater() async throws {
        let lines = Lines()
        let misconduct = PeerMisconduct(interval: .milliseconds(200)) { lines.add($0) }
        for _ in 0..<5 {
            misconduct.note(tokyo, "Read\n{}", "a\u{1b}[31m\u{2028}b" + String(repeating: "x", count: 5000))
        }
        #expect(lines.all.count == 1)
        let first = try #require(lines.all.first)
        #expect(
            first.hasPrefix("refused what site tokyo sent, Read?{}: a?[31m?bxxx") && first.utf8.count < 700)
        try await Task.sleep(for: .milliseconds(250))
        misconduct.note(tokyo, "Read", "again")
        #expect(
            lines.all.last == "refused what site tokyo sent, Read: again (and 4 more since it was last told)")
        #expect(misconduct.messageCounts == [tokyo: 6])
    }

    // MARK: connections

    /// A connection that says nothing.
    private func connect(to port: UInt16) -> Int32 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else {
            close(descriptor)
            return -1
        }
        return descriptor
    }

    /// The ends at this port of connections that are open.
    private func openCount(at port: UInt16) throws -> Int {
        try ["/proc/self/net/tcp", "/proc/self/net/tcp6"].reduce(0) { sum, path in
            let lines = try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n").dropFirst()
            return sum
                + lines.count { line in
                    let fields = line.split(separator: " ")
                    guard fields.count > 3, fields[3] == "01" else { return false }
                    return fields[1].split(separator: ":").last.flatMap { UInt16($0, radix: 16) } == port
                }
        }
    }

    @Test func thousandsOfMuteConnectionsStopNobodyForLong() async throws {
        let fixture = try await PeerFixture()
        let misconduct = fixture.site.context.misconduct
        var limits = PeerLimits()
        limits.openConnectionCount = 300
        limits.handshakeTimeout = .seconds(3)
        let port = try PeerPort(
            site: fixture.site, endpoint: .tcp(host: "127.0.0.1", port: 0), limits: limits)
        let number = try #require(port.port)
        var limit = rlimit()
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        #expect(getrlimit(resource, &limit) == 0)
        let before = limit
        limit.rlim_cur = max(limit.rlim_cur, min(limit.rlim_max, 8192))
        #expect(setrlimit(resource, &limit) == 0)
        let early = try fixture.client(of: "tokyo", at: number)
        #expect(try await early.hello().site == "london")
        let mute = (0..<2000).map { _ in connect(to: number) }
        #expect(mute.allSatisfy { $0 >= 0 })
        #expect(await eventually { misconduct.connectionCount >= 1600 }, "\(misconduct.connectionCount)")
        // Those that were refused last may not have heard of it yet.
        #expect(try await eventually { try openCount(at: number) <= 300 })
        #expect(try await early.hello().site == "london")
        // Another one comes in as soon as the first of them have had their time.
        let begin = ContinuousClock.now
        let late = try fixture.client(of: "sydney", at: number)
        #expect(await eventually { (try? await late.hello(timeout: .seconds(2)).site) == "london" })
        #expect(ContinuousClock.now - begin < .seconds(15))
        for descriptor in mute where descriptor >= 0 { close(descriptor) }
        var original = before
        #expect(setrlimit(resource, &original) == 0)
        early.close()
        late.close()
        await port.stop()
        await fixture.end()
    }

    @Test func aConnectionWithoutCallsEndsAndComesAgain() async throws {
        let fixture = try await PeerFixture()
        var limits = PeerLimits()
        limits.idleTime = .milliseconds(500)
        let port = try PeerPort(
            site: fixture.site, endpoint: .tcp(host: "127.0.0.1", port: 0), limits: limits)
        let number = try #require(port.port)
        let client = try fixture.client(of: "tokyo", at: number)
        for round in 0..<2 {
            #expect(try await client.hello(timeout: .seconds(20)).site == "london", "round \(round)")
            #expect(try await eventually { try openCount(at: number) == 0 }, "round \(round)")
        }
        client.close()
        await port.stop()
        await fixture.end()
    }
}
