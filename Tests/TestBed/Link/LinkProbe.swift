internal import CTestBed
internal import Glibc

/// Measures a link as its users see it: to test the emulation, and to state in reports what it really gave.
package struct LinkProbe: Sendable {
    package let link: WANLink

    package init(_ link: WANLink) { self.link = link }

    /// Round trips of ICMP echoes, which the other end's kernel answers; those without an answer are left
    /// out.
    ///
    /// - Parameter timeLimit: For each echo.
    /// - Returns: one value for each answer, in the order sent.
    package func roundTrips(
        _ count: Int, from direction: LinkDirection = .aToB, interval: Duration = .milliseconds(5),
        timeLimit: Duration = .seconds(1)
    ) async throws -> [Duration] {
        let (end, peer) = link[direction]
        return try await end.namespace.perform {
            let pinger = try Pinger(peer.address)
            var results: [Duration] = []
            for number in 0..<count {
                let sequence = UInt16(truncatingIfNeeded: number)
                if let time = try pinger.echo(sequence, limit: timeLimit.nanoseconds) { results.append(time) }
                _ = tb_poll(nil, 0, interval.nanoseconds)
            }
            return results
        }
    }

    /// Sends bytes through one TCP connection.
    ///
    /// - Returns: bits of payload in a second, from before the handshake until the last byte was read.
    /// - Throws: `.tooSlow` if it took longer than `timeLimit`.
    package func throughput(
        _ byteCount: Int, _ direction: LinkDirection = .aToB, timeLimit: Duration = .seconds(60)
    ) async throws -> Double {
        let (end, peer) = link[direction]
        let deadline = tb_now() + timeLimit.nanoseconds
        let late = LabError.tooSlow("sending \(byteCount) bytes", limit: timeLimit)
        let (listener, port) = try await peer.namespace.perform { try TCP.listen(peer.address) }
        async let received = DedicatedThread.run("tcp-receiver") {
            try TCP.receive(listener, byteCount: byteCount, deadline: deadline, late: late)
        }
        async let sent = end.namespace.perform {
            try TCP.send(byteCount, to: peer.address, port: port, deadline: deadline, late: late)
        }
        let (start, finish) = try await (sent, received)
        return Double(byteCount) * 8 / (Double(max(1, finish - start)) / 1e9)
    }
}

/// Sends ICMP echo requests from the thread's network namespace.
///
/// - Source: RFC 792. On a raw socket replies come with their IP header.
private struct Pinger {
    private let socket: Descriptor
    private let address: sockaddr_in
    private let identifier = UInt16.random(in: 0...UInt16.max)

    init(_ host: String) throws(LabError) {
        address = try socketAddress(host, port: 0)
        let kind = Int32(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let number = try checkedCall("socket", "ICMP") {
            Int(Glibc.socket(AF_INET, kind, Int32(IPPROTO_ICMP)))
        }
        socket = Descriptor(Int32(number))
    }

    func echo(_ sequence: UInt16, limit: Int64) throws(LabError) -> Duration? {
        var packet: [UInt8] = [8, 0, 0, 0]
        for value in [identifier, sequence] { packet += [UInt8(value >> 8), UInt8(value & 0xff)] }
        packet += [UInt8](repeating: 0x67, count: 56)
        let sum = Pinger.checksum(packet)
        packet[2] = UInt8(sum >> 8)
        packet[3] = UInt8(sum & 0xff)
        let start = tb_now()
        _ = try checkedCall("sendto", "ICMP") {
            withSocketAddress(address) { sendto(socket.number, packet, packet.count, 0, $0, $1) }
        }
        while true {
            let left = start + limit - tb_now()
            var descriptor = pollfd(fd: socket.number, events: Int16(POLLIN), revents: 0)
            guard left > 0, tb_poll(&descriptor, 1, left) > 0 else { return nil }
            var buffer = [UInt8](repeating: 0, count: 2048)
            let length = recv(socket.number, &buffer, buffer.count, 0)
            let now = tb_now()
            guard length >= 28 else { continue }
            let reply = buffer[Int(buffer[0] & 0xf) * 4..<length]
            guard reply.count >= 8, reply.first == 0,
                Array(reply.dropFirst(4).prefix(4)) == Array(packet[4..<8])
            else { continue }
            return .nanoseconds(now - start)
        }
    }

    /// - Source: RFC 1071.
    private static func checksum(_ bytes: [UInt8]) -> UInt16 {
        var sum: UInt32 = 0
        for index in stride(from: 0, to: bytes.count - 1, by: 2) {
            sum += UInt32(bytes[index]) << 8 | UInt32(bytes[index + 1])
        }
        while sum > 0xffff { sum = (sum & 0xffff) + (sum >> 16) }
        return ~UInt16(truncatingIfNeeded: sum)
    }
}

/// One TCP connection, used with blocking waits that end at a deadline.
private enum TCP {
    private static let pieceByteCount = 256 << 10

    static func listen(_ host: String) throws(LabError) -> (Descriptor, port: UInt16) {
        let listener = try makeSocket()
        var address = try socketAddress(host, port: 0)
        _ = try checkedCall("bind", host) {
            withSocketAddress(address) { Int(bind(listener.number, $0, $1)) }
        }
        _ = try checkedCall("listen", host) { Int(Glibc.listen(listener.number, 1)) }
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        _ = try checkedCall("getsockname", host) {
            withUnsafeMutableBytes(of: &address) { bytes in
                Int(
                    getsockname(
                        listener.number, bytes.baseAddress?.assumingMemoryBound(to: sockaddr.self), &length))
            }
        }
        return (listener, UInt16(bigEndian: address.sin_port))
    }

    /// - Returns: when the last byte was read.
    static func receive(_ listener: Descriptor, byteCount: Int, deadline: Int64, late: LabError) throws
        -> Int64
    {
        try wait(listener, POLLIN, deadline, late)
        let connection = Descriptor(
            Int32(try checkedCall("accept", "TCP") { Int(accept(listener.number, nil, nil)) }))
        var buffer = [UInt8](repeating: 0, count: pieceByteCount)
        var left = byteCount
        while left > 0 {
            try wait(connection, POLLIN, deadline, late)
            let length = try checkedCall("recv", "TCP") {
                recv(connection.number, &buffer, min(left, buffer.count), 0)
            }
            guard length > 0 else { throw LabError.invalid("the sender closed with \(left) bytes missing") }
            left -= length
        }
        return tb_now()
    }

    /// - Returns: when it began to connect.
    static func send(
        _ byteCount: Int, to host: String, port: UInt16, deadline: Int64, late: LabError
    ) throws -> Int64 {
        let connection = try makeSocket()
        let start = tb_now()
        let address = try socketAddress(host, port: port)
        let result = withSocketAddress(address) { connect(connection.number, $0, $1) }
        let failure = errno
        if result < 0, failure != EINPROGRESS {
            throw LabError.systemCall("connect", detail: host, errno: failure)
        }
        let piece = [UInt8](repeating: 0x55, count: pieceByteCount)
        var left = byteCount
        while left > 0 {
            try wait(connection, POLLOUT, deadline, late)
            let length = Glibc.send(connection.number, piece, min(left, piece.count), Int32(MSG_NOSIGNAL))
            let failure = errno
            if length < 0, failure == EAGAIN || failure == EINTR { continue }
            guard length > 0 else { throw LabError.systemCall("send", detail: host, errno: failure) }
            left -= length
        }
        return start
    }

    private static func makeSocket() throws(LabError) -> Descriptor {
        let kind = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        return Descriptor(Int32(try checkedCall("socket", "TCP") { Int(socket(AF_INET, kind, 0)) }))
    }

    private static func wait(_ socket: Descriptor, _ event: Int32, _ deadline: Int64, _ late: LabError) throws
    {
        while true {
            var descriptor = pollfd(fd: socket.number, events: Int16(event), revents: 0)
            let left = deadline - tb_now()
            guard left > 0 else { throw late }
            if tb_poll(&descriptor, 1, left) > 0 { return }
        }
    }
}

private func socketAddress(_ host: String, port: UInt16) throws(LabError) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    guard inet_pton(AF_INET, host, &address.sin_addr) == 1 else {
        throw .invalid("\(host) is not an IPv4 address")
    }
    return address
}

private func withSocketAddress<Result>(
    _ address: sockaddr_in, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result
) -> Result {
    withUnsafePointer(to: address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
}
