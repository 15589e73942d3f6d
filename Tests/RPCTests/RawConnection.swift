import Glibc
import RPC
import Synchronization

/// A TCP connection without gRPC, to speak broken HTTP/2 or none.
///
/// What waits for the other side blocks its thread: see `blocking`.
final class RawConnection: Sendable {
    let descriptor: Int32
    private let isClosed = Mutex(false)

    init(descriptor: Int32) { self.descriptor = descriptor }

    /// - Parameters:
    ///   - last: the last number of the address of this host.
    ///   - own: a socket to connect; nil: a new one.
    init(port: UInt16, at last: UInt8 = 1, over own: Int32? = nil) throws {
        descriptor = own ?? Self.makeSocket()
        var address = loopback(port, last)
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw RPCStatus(.unavailable, "cannot connect") }
    }

    deinit { end() }

    static func makeSocket() -> Int32 { socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0) }

    /// Sends as much as the other side takes within a time without progress.
    @discardableResult
    func send(_ bytes: [UInt8], patience: Int32 = 2000) -> Int {
        var sent = 0
        while sent < bytes.count {
            var poller = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
            guard poll(&poller, 1, patience) == 1 else { return sent }
            let count = bytes.withUnsafeBytes { buffer in
                Glibc.send(
                    descriptor, buffer.baseAddress! + sent, min(65536, bytes.count - sent),
                    Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
            }
            guard count > 0 else { return sent }
            sent += count
        }
        return sent
    }

    /// What has come, waiting up to a time for the first of it; nil at the end of the connection.
    func receive(patience: Int32 = 2000) -> [UInt8]? {
        var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&poller, 1, patience) == 1 else { return [] }
        var buffer = [UInt8](repeating: 0, count: 65536)
        let count = recv(descriptor, &buffer, buffer.count, Int32(MSG_DONTWAIT))
        return count > 0 ? Array(buffer[..<count]) : nil
    }

    /// Closes in the ordinary way, or as a machine that has crashed and come back (a reset).
    func end(abruptly: Bool = false) {
        let wasClosed = isClosed.withLock { isClosed in
            defer { isClosed = true }
            return isClosed
        }
        guard !wasClosed else { return }
        if abruptly {
            var option = linger(l_onoff: 1, l_linger: 0)
            setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
        }
        close(descriptor)
    }
}

/// Accepts connections without gRPC.
final class RawListener: Sendable {
    let port: UInt16
    private let descriptor: Int32

    init() throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = loopback(0)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let listener = descriptor
        let result = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(listener, address, length) + listen(listener, 16)
                    + getsockname(listener, address, &length)
            }
        }
        guard result == 0 else { throw RPCStatus(.unavailable, "cannot listen") }
        port = UInt16(bigEndian: address.sin_port)
    }

    deinit { close(descriptor) }

    func accept() async throws -> RawConnection? {
        try await blocking { self.accept(patience: 5000) }
    }

    private func accept(patience: Int32) -> RawConnection? {
        var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&poller, 1, patience) == 1 else { return nil }
        let accepted = Glibc.accept(descriptor, nil, nil)
        return accepted >= 0 ? RawConnection(descriptor: accepted) : nil
    }
}

func loopback(_ port: UInt16, _ last: UInt8 = 1) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = (UInt32(0x7f00_0000) | UInt32(last)).bigEndian
    return address
}

/// Just enough of RFC 9113 to open gRPC calls by hand.
enum HTTP2 {
    static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
    static let settings = frame(type: 4, flags: 0, stream: 0, [])
    static let settingsAcknowledgement = frame(type: 4, flags: 1, stream: 0, [])

    static func frame(type: UInt8, flags: UInt8, stream: UInt32, _ payload: [UInt8]) -> [UInt8] {
        [
            UInt8(payload.count >> 16 & 255), UInt8(payload.count >> 8 & 255), UInt8(payload.count & 255),
            type, flags,
        ]
            + withUnsafeBytes(of: stream.bigEndian, Array.init) + payload
    }

    /// The headers of a call, each a literal that is not indexed.
    static func open(_ method: String, stream: UInt32 = 1, extra: [(String, String)] = []) -> [UInt8] {
        let headers =
            [
                (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "test"),
                ("content-type", "application/grpc"), ("te", "trailers"),
            ] + extra
        var block: [UInt8] = []
        for (name, value) in headers {
            block += [0, UInt8(name.utf8.count)] + Array(name.utf8)
            block += [UInt8(value.utf8.count)] + Array(value.utf8)
        }
        return frame(type: 1, flags: 4, stream: stream, block)
    }

    static func data(_ bytes: [UInt8], stream: UInt32 = 1, isLast: Bool = false) -> [UInt8] {
        frame(type: 0, flags: isLast ? 1 : 0, stream: stream, bytes)
    }

    /// gRPC's prefix of a message.
    static func prefix(_ count: UInt32, isCompressed: Bool = false) -> [UInt8] {
        [isCompressed ? 1 : 0] + withUnsafeBytes(of: count.bigEndian, Array.init)
    }

    static func message(_ bytes: [UInt8]) -> [UInt8] { prefix(UInt32(bytes.count)) + bytes }

    static func reset(stream: UInt32 = 1) -> [UInt8] {
        frame(type: 3, flags: 0, stream: stream, [0, 0, 0, 8])
    }
}

/// Sends as much data on stream 1 as the server's flow control allows.
struct ObedientSender: Sendable {
    let connection: RawConnection
    private var connectionWindow = 65535
    private var streamWindow = 65535
    private var initialWindow = 65535
    private var unread: [UInt8] = []

    /// - Parameter alreadySent: How much data was sent on the stream before.
    init(_ connection: RawConnection, alreadySent: Int) {
        self.connection = connection
        connectionWindow -= alreadySent
        streamWindow -= alreadySent
    }

    /// - Returns: How much was sent before the server allowed no more for `patience` milliseconds, ended the
    ///   stream or the connection.
    mutating func send(upTo limit: Int, patience: Int32) -> Int {
        var sent = 0
        while sent < limit {
            let allowed = min(connectionWindow, streamWindow, 16384, limit - sent)
            guard allowed > 0 else {
                guard readFrames(patience) else { return sent }
                continue
            }
            let frame = HTTP2.data([UInt8](repeating: 0, count: allowed))
            guard connection.send(frame) == frame.count else { return sent }
            sent += allowed
            connectionWindow -= allowed
            streamWindow -= allowed
        }
        return sent
    }

    /// False if nothing came, or the stream is over.
    private mutating func readFrames(_ patience: Int32) -> Bool {
        guard let bytes = connection.receive(patience: patience), !bytes.isEmpty else { return false }
        unread += bytes
        while unread.count >= 9 {
            let count = Int(unread[0]) << 16 | Int(unread[1]) << 8 | Int(unread[2])
            guard unread.count >= 9 + count else { break }
            let payload = Array(unread[9..<(9 + count)])
            let (type, flags, stream) = (unread[3], unread[4], unread[8])
            unread.removeFirst(9 + count)
            switch type {
            case 1, 3, 7: return false
            case 4 where flags & 1 == 0: applySettings(payload)
            case 6 where flags & 1 == 0: connection.send(HTTP2.frame(type: 6, flags: 1, stream: 0, payload))
            case 8:
                let increment = payload.reduce(0) { $0 << 8 | Int($1) }
                if stream == 0 { connectionWindow += increment } else { streamWindow += increment }
            default: break
            }
        }
        return true
    }

    private mutating func applySettings(_ payload: [UInt8]) {
        for offset in stride(from: 0, to: payload.count - 5, by: 6) where payload[offset + 1] == 4 {
            let value = payload[(offset + 2)..<(offset + 6)].reduce(0) { $0 << 8 | Int($1) }
            streamWindow += value - initialWindow
            initialWindow = value
        }
        connection.send(HTTP2.settingsAcknowledgement)
    }
}
