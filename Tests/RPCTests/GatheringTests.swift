import Foundation
import Glibc
import RPC
import Testing

/// Packets that may gather, over real connections.
@Suite(.timeLimit(.minutes(2)))
struct GatheringTests {
    private static func gatheringChannel(_ service: Service) throws -> RPCChannel {
        var options = RPCChannelOptions()
        options.gathersPackets = true
        return try service.channel(options)
    }

    /// How many bytes wake who waits for the connections to a port, of each of this process's descriptors of them.
    private static func marks(to port: UInt16) -> [Int32] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")) ?? []
        return names.compactMap(Int32.init).compactMap { descriptor in
            // The port is at the same place in both kinds; gRPC's sockets for IPv4 are of IPv6.
            var address = sockaddr_in6()
            var size = socklen_t(MemoryLayout<sockaddr_in6>.size)
            let failed = withUnsafeMutablePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    getpeername(descriptor, $0, &size)
                }
            }
            let isInternet = [AF_INET, AF_INET6].contains(Int32(address.sin6_family))
            guard failed == 0, isInternet, address.sin6_port == port.bigEndian else { return nil }
            var (mark, markSize) = (Int32(0), socklen_t(4))
            guard getsockopt(descriptor, SOL_SOCKET, SO_RCVLOWAT, &mark, &markSize) == 0 else { return nil }
            return mark
        }
    }

    @Test(arguments: [Service.Transport.tcp, .tcpTLS])
    func packetsGatherWhileManyComeAndNoLonger(over transport: Service.Transport) async throws {
        let service = try Service(transport)
        let channel = try Self.gatheringChannel(service)
        let other = try service.channel()
        _ = try await other.unary("/test/Unary", [1], timeout: .seconds(10))
        let call = try channel.open("/test/Flood", timeout: .seconds(60))
        try await call.send([])
        try await call.finishSending()
        let flood = Task { while try await call.receive() != nil {} }
        try await Task.sleep(for: .milliseconds(100))
        #expect(Self.marks(to: service.port) == [1, 1], "nobody has asked for it")
        PacketGathering.begin()
        #expect(await eventually { Self.marks(to: service.port).contains { $0 > 4096 } })
        #expect(Self.marks(to: service.port).contains(1), "the other channel's")
        PacketGathering.end()
        // Nor are the descriptors held that were needed for it.
        #expect(await eventually { Self.marks(to: service.port) == [1, 1] })
        call.cancel()
        _ = await flood.result
        await service.end()
    }

    @Test(arguments: [Service.Transport.tcp, .tcpTLS])
    func whatComesDoesNotWaitForMore(over transport: Service.Transport) async throws {
        let service = try Service(transport)
        let channel = try Self.gatheringChannel(service)
        PacketGathering.begin()
        defer { PacketGathering.end() }
        // After many bytes few, of all sizes: at every mark that was set.
        for size in [1 << 20, 10, 300_000, 5000, 8 << 20, 0, 100_000, 1] {
            let message = randomBytes(size)
            let answers = try await withThrowingTaskGroup(of: [UInt8].self) { group in
                for _ in 0..<3 {
                    group.addTask { try await channel.unary("/test/Unary", message, timeout: .seconds(20)) }
                }
                return try await group.reduce(into: []) { $0.append($1) }
            }
            #expect(answers == [message, message, message], "\(size) bytes")
        }
        let stream = try channel.open("/test/Echo", timeout: .seconds(20))
        for number in 0..<100 {
            try await stream.send(Array("\(number)".utf8))
            #expect(text(try await stream.receive()) == "\(number)")
        }
        stream.cancel()
        await service.end()
    }

    @Test func aConnectionThatIsGoneIsLetGo() async throws {
        PacketGathering.begin()
        defer { PacketGathering.end() }
        for _ in 0..<3 {
            let service = try Service(.tcp)
            let channel = try Self.gatheringChannel(service)
            _ = try await channel.unary("/test/Unary", randomBytes(1 << 20), timeout: .seconds(10))
            #expect(
                await eventually { Self.marks(to: service.port).count == 2 }, "gRPC's descriptor and ours")
            channel.close()
            await service.end()
            #expect(await eventually { Self.marks(to: service.port).isEmpty })
        }
    }
}
