import Foundation
import Glibc
import Monitoring
import Testing

/// The HTTP port, by requests as bytes.
@Suite struct MonitoringServerTests {
    private static func withServer(
        at host: String = "127.0.0.1", _ handler: @escaping MonitoringServer.Handler,
        _ body: (UInt16) async throws -> Void
    ) async throws {
        let server = try await MonitoringServer(host: host, port: 0, handler: handler)
        do {
            try await body(server.port)
        } catch {
            await server.stop()
            throw error
        }
        await server.stop()
    }

    /// Sends bytes and reads until the server closes.
    private static func exchange(_ port: UInt16, _ request: String) throws -> String {
        let descriptor = try connected(port)
        defer { close(descriptor) }
        let bytes = Array(request.utf8)
        #expect(write(descriptor, bytes, bytes.count) == bytes.count)
        return readAll(descriptor)
    }

    /// An address of IPv6, `::1`.
    private static func connectedToIPv6(_ port: UInt16) throws -> Int32 {
        let descriptor = socket(AF_INET6, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in6()
        address.sin6_family = sa_family_t(AF_INET6)
        address.sin6_port = port.bigEndian
        address.sin6_addr = in6addr_loopback
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in6>.size))
            }
        }
        try #require(result == 0)
        return descriptor
    }

    @Test(arguments: ["", "::"]) func everyAddressIsOfBothFamilies(_ host: String) async throws {
        try await Self.withServer(at: host, { _ in MonitoringReply(200, "the answer") }) { port in
            #expect(try Self.exchange(port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").contains("the answer"))
            close(try Self.connectedToIPv6(port))
        }
    }

    private static func connected(_ port: UInt16) throws -> Int32 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(result == 0)
        var limit = timeval(tv_sec: 60, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        return descriptor
    }

    private static func readAll(_ descriptor: Int32) -> String {
        var all: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = read(descriptor, &buffer, buffer.count)
            guard count > 0 else { break }
            all += buffer[..<count]
        }
        return String(decoding: all, as: UTF8.self)
    }

    @Test func aPathIsAnsweredWithItsStatusAndText() async throws {
        try await Self.withServer({ path in
            MonitoringReply(path == "/healthz" ? 200 : 404, "asked for \(path)\n")
        }) { port in
            let good = try Self.exchange(port, "GET /healthz?verbose=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(good.hasPrefix("HTTP/1.1 200 OK\r\n"), "\(good)")
            #expect(good.hasSuffix("\r\n\r\nasked for /healthz\n"), "\(good)")
            let other = try Self.exchange(port, "GET /other HTTP/1.0\r\n\r\n")
            #expect(other.contains(" 404 ") && other.hasSuffix("asked for /other\n"), "\(other)")
            let head = try Self.exchange(port, "HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            #expect(head.contains(" 200 ") && head.hasSuffix("\r\n\r\n"), "\(head)")
        }
    }

    @Test func whatIsNoGetChangesNothing() async throws {
        try await Self.withServer({ _ in MonitoringReply(200, "the answer") }) { port in
            let posted = try Self.exchange(
                port, "POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            #expect(posted.contains(" 405 ") && !posted.contains("the answer"), "\(posted)")
            // What is no HTTP at all, and headers without end, are closed.
            #expect(try !Self.exchange(port, "\u{1}\u{2}nonsense\r\n\r\n").contains("the answer"))
            let long = String(repeating: "a", count: 200_000)
            #expect(
                try !Self.exchange(port, "GET / HTTP/1.1\r\nHost: x\r\nX: \(long)").contains("the answer"))
            #expect(try Self.exchange(port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").contains("the answer"))
        }
    }

    @Test func ofTooManyConnectionsTheLastAreClosed() async throws {
        try await Self.withServer({ _ in MonitoringReply(200, "the answer") }) { port in
            let idle = try (0..<MonitoringServer.connectionLimit).map { _ in try Self.connected(port) }
            let last = try Self.connected(port)
            #expect(Self.readAll(last).isEmpty)
            close(last)
            for descriptor in idle { close(descriptor) }
            // When they have gone there is room again.
            var answer = ""
            for _ in 0..<600 where !answer.contains("the answer") {
                answer = (try? Self.exchange(port, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")) ?? ""
                try await Task.sleep(for: .milliseconds(100))
            }
            #expect(answer.contains("the answer"))
        }
    }
}
