import Glibc
import Synchronization
import Testing
import VolumeModel

@testable import Gateway

/// Bytes as they come and go, without TLS behind the first message.
@Suite(.timeLimit(.minutes(5)))
struct PassingTests {
    private let hello = clientHello(serverName("a.london"))

    @Test func whatNamesNobodyIsClosedAtOnce() async throws {
        let member = try RawServer { try $0.answer([1]) }
        let test = try await TestGateway([("a.london", member.port)])
        let port = test.port
        var truncated = clientHello(serverName("a.london"))
        truncated[4] -= 20
        let wrong: [[UInt8]] = [
            Array("GET / HTTP/1.1\r\n\r\n".utf8), clientHello(nil), clientHello("a.london"),
            clientHello("example.com"), clientHello(serverName("c.london")),
            clientHello(serverName("sydney")), clientHello("*.site.godwit.internal"),
            clientHello("A.london.site.godwit.internal"), clientHello("site.godwit.internal"),
            [22, 3, 1, 0, 0], [22, 2, 0, 0, 0], [0, 0, 0, 0, 0], [22, 3, 3, 0, 5, 1, 0, 0, 1, 0], truncated,
            [UInt8](repeating: 0xff, count: 100_000), randomBytes(1000),
        ]
        for bytes in wrong {
            let answer = try await blocking {
                let client = try RawSocket(port: port)
                try? client.send(bytes)
                return try client.receiveToTheEnd()
            }
            #expect(answer.isEmpty, "\(bytes.prefix(40))")
        }
        #expect(await eventually { test.gateway.counts.open == 0 })
        let hello = self.hello
        #expect(try await blocking { try Self.ask(port, hello) } == [1])
        await test.gateway.stop()
    }

    private static func ask(_ port: UInt16, _ bytes: [UInt8]) throws -> [UInt8] {
        let client = try RawSocket(port: port)
        try client.send(bytes)
        return try client.receiveToTheEnd()
    }

    @Test func everyCutOfAHelloWaitsAndThenIsClosed() async throws {
        let member = try RawServer { try $0.answer([1]) }
        var limits = Gateway.Limits()
        limits.helloPatience = .milliseconds(500)
        let test = try await TestGateway([("a.london", member.port)], limits)
        let (port, hello) = (test.port, self.hello)
        try await withThrowingTaskGroup(of: [UInt8].self) { group in
            for length in 0..<hello.count {
                group.addTask { try await blocking { try Self.ask(port, Array(hello.prefix(length))) } }
            }
            for try await answer in group { #expect(answer.isEmpty) }
        }
        #expect(test.gateway.counts.unnamed == UInt64(hello.count))
        // One that has said whom it wants may be silent for longer.
        let slow = try RawServer { socket in
            _ = try socket.receive(exactly: hello.count)
            usleep(1_500_000)
            try socket.send([2])
        }
        test.registry.set([("b.london", slow.port)])
        let other = clientHello(serverName("b.london"))
        #expect(await eventually { (try? await blocking { try Self.ask(port, other) }) == [2] })
        await test.gateway.stop()
    }

    @Test func theFirstMessageMayComeInPiecesWithMoreBehindIt() async throws {
        let member = try RawServer { socket in try socket.send(try socket.receive(exactly: 1000)) }
        let test = try await TestGateway([("a.london", member.port)])
        let port = test.port
        let whole = hello + randomBytes(1000 - hello.count)
        let echo = try await blocking {
            let client = try RawSocket(port: port)
            for byte in whole.prefix(60) {
                try client.send([byte])
                usleep(500)
            }
            try client.send(Array(whole.dropFirst(60)))
            return try client.receiveToTheEnd()
        }
        #expect(echo == whole)
        await test.gateway.stop()
    }

    /// One side may have said everything while the other still speaks.
    @Test(arguments: [0, 1, 3 << 20])
    func theEndOfOneDirectionIsPassedOnAfterItsBytes(_ count: Int) async throws {
        let (answer, start) = (randomBytes(count), hello)
        let member = try RawServer { socket in
            _ = try socket.receive(exactly: start.count)
            try socket.send([0])
            let heard = try socket.receiveToTheEnd()
            try socket.send(answer)
            try socket.send([UInt8(heard.count % 251)])
        }
        let test = try await TestGateway([("a.london", member.port)])
        let (port, request) = (test.port, randomBytes(count))
        let heard = try await blocking {
            let client = try RawSocket(port: port)
            try client.send(start)
            // Who ends before anybody has answered has gone.
            _ = try client.receive(exactly: 1)
            try client.send(request)
            client.endSending()
            return try client.receiveToTheEnd()
        }
        #expect(areSame(Array(heard.dropLast()), answer))
        #expect(heard.last == UInt8(request.count % 251))
        #expect(await eventually { test.gateway.counts.open == 0 })
        await test.gateway.stop()
    }

    /// What a slow reader does not take stays where it is: a few buffers are full, the gateway's memory is not.
    @Test(arguments: [true, false])
    func aSlowReaderHoldsTheSenderBack(_ memberIsSlow: Bool) async throws {
        let offered = randomBytes(48 << 20)
        let start = hello
        let stalled = Mutex<Int?>(nil)
        let heard = Mutex<[UInt8]?>(nil)
        let hasStalled: @Sendable () -> Void = { while stalled.withLock({ $0 }) == nil { usleep(50_000) } }
        let send: @Sendable (RawSocket) throws -> Void = { socket in
            let taken = socket.sendUntilItStalls(offered)
            stalled.withLock { $0 = taken }
            try socket.send(Array(offered.dropFirst(taken)))
            socket.endSending()
        }
        let take: @Sendable (RawSocket) throws -> Void = { socket in
            hasStalled()
            let all = try socket.receiveToTheEnd()
            heard.withLock { $0 = all }
        }
        let member = try RawServer { socket in
            _ = try socket.receive(exactly: start.count)
            try (memberIsSlow ? take : send)(socket)
        }
        let test = try await TestGateway([("a.london", member.port)])
        let port = test.port
        try await blocking {
            let client = try RawSocket(port: port)
            try client.send(start)
            try (memberIsSlow ? send : take)(client)
        }
        #expect(await eventually { heard.withLock { $0 != nil } })
        #expect(areSame(heard.withLock { $0 ?? [] }, offered))
        // The buffers of four sockets, a few MiB each at most, and a read or two.
        let taken = stalled.withLock { $0 ?? 0 }
        #expect(taken < 40 << 20, "\(taken)")
        await test.gateway.stop()
    }

    @Test func whereOneSideIsLostTheOtherIsClosed() async throws {
        let ended = Mutex(0)
        let member = try RawServer { socket in
            _ = try socket.receive(exactly: 100)
            try socket.send([1])
            _ = try socket.receiveToTheEnd()
            ended.withLock { $0 += 1 }
        }
        let test = try await TestGateway([("a.london", member.port)])
        let (port, request) = (test.port, hello + [UInt8](repeating: 0, count: 100 - hello.count))
        for _ in 0..<5 {
            try await blocking {
                let client = try RawSocket(port: port)
                try client.send(request)
                _ = try client.receive(exactly: 1)
                client.reset()
            }
        }
        #expect(await eventually { ended.withLock { $0 } == 5 })
        // And from the member's side, in the middle of what it says.
        let broken = try RawServer { socket in
            _ = try socket.receive(exactly: 100)
            try socket.send([1, 2, 3])
        }
        test.registry.set([("b.london", broken.port)])
        let other = clientHello(serverName("b.london"))
        let padded = other + [UInt8](repeating: 0, count: 100 - other.count)
        #expect(await eventually { (try? await blocking { try Self.ask(port, padded) }) == [1, 2, 3] })
        #expect(await eventually { test.gateway.counts.open == 0 })
        await test.gateway.stop()
    }

    @Test func furtherConnectionsThanTheBoundAreClosed() async throws {
        let member = try RawServer { socket in _ = try socket.receiveToTheEnd() }
        var limits = Gateway.Limits()
        limits.connections = 8
        let test = try await TestGateway([("a.london", member.port)], limits)
        let (port, hello) = (test.port, self.hello)
        let held = try await Self.hold(8, port, hello)
        #expect(await eventually { test.gateway.counts.open == 8 })
        let refused = try await blocking {
            let client = try RawSocket(port: port)
            try? client.send(hello)
            return try client.receiveToTheEnd()
        }
        #expect(refused.isEmpty && test.gateway.counts.tooMany == 1)
        // An end closes those that are open.
        await test.gateway.stop()
        for client in held { #expect(try await blocking { try client.receiveToTheEnd() }.isEmpty) }
        #expect(await eventually { test.gateway.counts.open == 0 })
    }

    @Test func silentConnectionsAreClosed() async throws {
        let member = try RawServer { socket in _ = try socket.receiveToTheEnd() }
        var limits = Gateway.Limits()
        limits.idlePatience = .seconds(1)
        let test = try await TestGateway([("a.london", member.port)], limits)
        let held = try await Self.hold(8, test.port, hello)
        for client in held { #expect(try await blocking { try client.receiveToTheEnd() }.isEmpty) }
        #expect(await eventually { test.gateway.counts.open == 0 })
        await test.gateway.stop()
    }

    private static func hold(_ count: Int, _ port: UInt16, _ hello: [UInt8]) async throws -> [RawSocket] {
        try await blocking {
            try (0..<count).map { _ in
                let client = try RawSocket(port: port)
                try client.send(hello)
                return client
            }
        }
    }

    @Test func manyConnectionsAtOnceAreAllServed() async throws {
        let member = try RawServer { socket in
            while case let part = try socket.receive(), !part.isEmpty { try socket.send(part) }
        }
        let test = try await TestGateway([("a.london", member.port)])
        let port = test.port
        let whole = hello + randomBytes(20_000)
        try await withThrowingTaskGroup(of: Bool.self) { group in
            for _ in 0..<150 {
                group.addTask {
                    try await blocking {
                        let client = try RawSocket(port: port)
                        try client.send(whole)
                        return try client.receive(exactly: whole.count) == whole
                    }
                }
            }
            for try await isWhole in group { #expect(isWhole) }
        }
        await test.gateway.stop()
        let ended = try? await blocking { try RawSocket(port: port) }
        #expect(ended == nil)
    }
}
