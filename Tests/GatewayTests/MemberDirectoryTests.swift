import Synchronization
import Testing
import VolumeModel

@testable import Gateway

@Suite(.timeLimit(.minutes(5)))
struct MemberDirectoryTests {
    private static func ask(_ port: UInt16, _ name: String) async throws -> [UInt8] {
        let hello = clientHello(serverName(name))
        return try await blocking {
            let client = try RawSocket(port: port)
            try client.send(hello)
            return try client.receiveToTheEnd()
        }
    }

    @Test func addressesAreHostAndPort() {
        for (text, host) in [
            ("a.example:1", "a.example"), ("10.0.0.1:65535", "10.0.0.1"), ("[::1]:7443", "::1"),
        ] {
            #expect(GatewayAddress(text)?.host == host && GatewayAddress(text)?.description == text)
        }
        for text in [
            "", ":1", "a", "a:", "a:65536", "a:+1", "::1:1", "[a]:1", "[]:1", "a b:1", "a/b:1", "a\u{301}:1",
        ] {
            #expect(GatewayAddress(text) == nil, "\(text)")
        }
    }

    @Test func connectionsToTheSiteAreSpreadOverItsMembers() async throws {
        let servers = try (1...3).map { number in try RawServer { try $0.answer([UInt8(number)]) } }
        let test = try await TestGateway(
            zip(["a.london", "b.london", "c.london"], servers).map { ($0, $1.port) })
        var seen: [UInt8: Int] = [:]
        for _ in 0..<9 { seen[try await Self.ask(test.port, "london").first ?? 0, default: 0] += 1 }
        #expect(seen == [1: 3, 2: 3, 3: 3])
        servers[1].stop()
        for _ in 0..<9 { #expect([[1], [3]].contains(try await Self.ask(test.port, "london"))) }
        // Nobody answers in a member's place.
        #expect(try await Self.ask(test.port, "b.london").isEmpty)
        for server in servers { server.stop() }
        #expect(try await Self.ask(test.port, "london").isEmpty)
        await test.gateway.stop()
    }

    @Test func aSiteWithoutNodesIsFoundByItsName() async throws {
        let server = try RawServer { try $0.answer([1]) }
        let test = try await TestGateway([("london", server.port)])
        #expect(try await Self.ask(test.port, "london") == [1])
        #expect(try await Self.ask(test.port, "a.london").isEmpty)
        await test.gateway.stop()
    }

    @Test func theRegistryIsAskedForWhatIsNotKnownButNotByEverybody() async throws {
        let test = try await TestGateway([("a.london", 1)])
        let name = SiteID("b.london")!
        #expect(await test.directory.trouble != nil)
        let start = ContinuousClock.now
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<100 { group.addTask { _ = await test.directory.addresses(of: name) } }
        }
        let seconds = start.duration(to: .now).components.seconds
        #expect(test.registry.asked <= Int(seconds) + 1)
        #expect(await test.directory.trouble == nil)
        // What is known is not asked for.
        let asked = test.registry.asked
        for _ in 0..<100 { _ = await test.directory.addresses(of: SiteID("a.london")!) }
        #expect(test.registry.asked == asked)
        test.registry.set([("b.london", 2)])
        #expect(await eventually { await test.directory.addresses(of: name).map(\.port) == [2] })
        await test.gateway.stop()
    }

    @Test func aMemberThatMovedIsFoundAndWhatIsKnownOutlivesTheRegistry() async throws {
        let (first, second) = (try RawServer { try $0.answer([1]) }, try RawServer { try $0.answer([2]) })
        let test = try await TestGateway([("a.london", first.port)])
        #expect(try await Self.ask(test.port, "a.london") == [1])
        test.registry.fail(true)
        #expect(await test.directory.addresses(of: SiteID("a.london")!, afresh: true).count == 1)
        #expect(try await Self.ask(test.port, "a.london") == [1])
        first.stop()
        test.registry.fail(false)
        test.registry.set([("a.london", second.port)])
        #expect(await eventually { (try? await Self.ask(test.port, "a.london")) == [2] })
        await test.gateway.stop()
    }

    /// The address of a pod that is gone may be another one's: nothing fails then.
    @Test func theRegistryIsAskedFromTimeToTime() async throws {
        let test = try await TestGateway([])
        let running = Task { await test.directory.run() }
        #expect(await eventually { test.registry.asked >= 2 })
        running.cancel()
        await running.value
        await test.gateway.stop()
    }
}
