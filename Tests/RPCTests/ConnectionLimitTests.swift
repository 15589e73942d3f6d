import Glibc
import RPC
import Synchronization
import Testing

/// Connections that are many, slow or too much for the process.
@Suite(.serialized, .timeLimit(.minutes(2)))
struct ConnectionLimitTests {
    private final class Count: Sendable {
        private let value = Mutex(0)
        var now: Int { value.withLock { $0 } }
        func add() { value.withLock { $0 += 1 } }
    }

    /// A connection from another address of this host.
    private func connection(from last: UInt8, to port: UInt16) throws -> RawConnection {
        let own = RawConnection.makeSocket()
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = (UInt32(0x7f00_0000) | UInt32(last)).bigEndian
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(own, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        #expect(result == 0)
        return try RawConnection(port: port, over: own)
    }

    @Test func oneAddressTakesAQuarterAtMostAndKeepsNobodyElseOut() async throws {
        let refused = Count()
        var options = RPCServerOptions()
        options.maximumConnectionCount = 40
        options.noteRefusedConnection = { refused.add() }
        let service = try Service(options: options)
        var mute = try (0..<100).map { _ in try connection(from: 2, to: service.port) }
        #expect(await eventually { refused.now == 90 }, "\(refused.now)")
        // At another address more are let in than that, as long as they call.
        let channels = try (0..<15).map { _ in try service.channel() }
        for channel in channels {
            #expect(try await channel.unary("/test/Unary", [1], timeout: .seconds(10)) == [1])
        }
        #expect(refused.now == 90)
        // Whoever is at the first comes in as soon as one of those has gone.
        for connection in mute { connection.end() }
        mute = []
        #expect(
            await eventually {
                guard let late = try? connection(from: 2, to: service.port) else { return false }
                return late.receive(patience: 200) != nil
            })
        for channel in channels { channel.close() }
        await service.end()
    }

    @Test func connectionsBeyondTheLimitAreClosedAtOnceAndOthersGoOn() async throws {
        let refused = Count()
        var options = RPCServerOptions()
        options.maximumConnectionCount = 50
        options.noteRefusedConnection = { refused.add() }
        let service = try Service(options: options)
        let channel = try service.channel()
        #expect(try await channel.unary("/test/Unary", [1], timeout: .seconds(10)) == [1])
        var mute = try (0..<400).map { try connection(from: UInt8(2 + $0 % 5), to: service.port) }
        #expect(await eventually { refused.now == 351 }, "\(refused.now)")
        // Who is there already is not disturbed, and who comes is told at once.
        #expect(try await channel.unary("/test/Unary", [2], timeout: .seconds(10)) == [2])
        let late = try service.channel()
        let begin = ContinuousClock.now
        let end = await status { _ = try await late.unary("/test/Unary", [3], timeout: .seconds(60)) }
        #expect(end.code == .unavailable && ContinuousClock.now - begin < .seconds(6), "\(end)")
        // A place that becomes free is given again.
        for connection in mute { connection.end() }
        mute = []
        let answer = try await late.unary("/test/Unary", [4], timeout: .seconds(30), waitForReady: true)
        #expect(answer == [4])
        await service.end()
    }

    /// gRPC by itself would accept nothing any more, for good.
    @Test func aPortGoesOnAfterTheProcessHadNoDescriptorLeft() async throws {
        let service = try Service()
        let client = RawConnection.makeSocket()
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        var limit = rlimit()
        #expect(getrlimit(resource, &limit) == 0)
        let before = limit
        limit.rlim_cur = min(limit.rlim_cur, 4096)
        #expect(setrlimit(resource, &limit) == 0)
        var taken: [Int32] = []
        while case let copy = dup(client), copy >= 0 { taken.append(copy) }
        let exhausted = errno
        let connection = try? RawConnection(port: service.port, over: client)
        usleep(300_000)
        for descriptor in taken { close(descriptor) }
        var original = before
        #expect(setrlimit(resource, &original) == 0)
        #expect(exhausted == EMFILE && connection != nil)
        let channel = try service.channel()
        #expect(try await channel.unary("/test/Unary", [1], timeout: .seconds(10)) == [1])
        connection?.end()
        await service.end()
    }

    @Test func aHandshakeThatComesByteByByteIsEnded() async throws {
        var options = RPCServerOptions()
        options.handshakeTimeout = .seconds(1)
        let service = try Service(.tcpTLS, options: options)
        let client = try RawConnection(port: service.port)
        // The beginning of a sound ClientHello of 512 bytes.
        let hello: [UInt8] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3] + [UInt8](repeating: 7, count: 500)
        let sent = try await blocking {
            var sent = 0
            for byte in hello {
                guard client.send([byte]) == 1, client.receive(patience: 25) != nil else { break }
                sent += 1
            }
            return sent
        }
        #expect(sent >= 1 && sent < 400, "\(sent) bytes were taken")
        client.end()
        await service.end()
    }
}
