import Foundation
import Glibc
import Logging
import RPC
import Synchronization
import VolumeModel

@testable import Gateway
@testable import SiteIdentity

/// A directory of one test, gone after it.
final class TemporaryDirectory: Sendable {
    let path: String

    init() throws {
        path = "/tmp/gateway-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// Runs something that blocks its thread outside of the few threads that all tasks share.
func blocking<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread { continuation.resume(with: Result { try body() }) }
    }
}

func eventually(_ condition: () async -> Bool) async -> Bool {
    let end = ContinuousClock.now + .seconds(60)
    while await !condition() {
        guard ContinuousClock.now < end else { return false }
        try? await Task.sleep(for: .milliseconds(10))
    }
    return true
}

/// What a registry would tell.
final class FakeRegistry: Sendable {
    struct Failure: Error {}

    private let state = Mutex((members: [GatewayMember](), asked: 0, fails: false))

    var asked: Int { state.withLock { $0.asked } }
    func fail(_ fails: Bool) { state.withLock { $0.fails = fails } }

    func set(_ members: [(String, UInt16)]) {
        let list = members.map { name, port in
            GatewayMember(id: SiteID(name)!, address: GatewayAddress("127.0.0.1:\(port)")!)
        }
        state.withLock { $0.members = list }
    }

    func members() throws -> [GatewayMember] {
        try state.withLock { state in
            state.asked += 1
            if state.fails { throw Failure() }
            return state.members
        }
    }
}

/// A gateway at a port of the system's choice, in front of what a registry tells.
struct TestGateway {
    let registry = FakeRegistry()
    let gateway: Gateway
    let directory: MemberDirectory
    let port: UInt16

    init(_ members: [(String, UInt16)], _ limits: Gateway.Limits = .init()) async throws {
        registry.set(members)
        var logger = Logger(label: "gateway") { _ in SwiftLogNoOpLogHandler() }
        logger.logLevel = .critical
        directory = MemberDirectory(logger: logger) { [registry] in try registry.members() }
        gateway = Gateway(directory: directory, limits: limits, logger: logger)
        port = try await gateway.listen(host: "127.0.0.1", port: 0)
    }
}

private func loopback(_ port: UInt16) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    return address
}

struct SocketFailure: Error, CustomStringConvertible {
    let description: String
    init(_ what: String) { description = "\(what): \(String(cString: strerror(errno)))" }
}

/// A TCP connection whose calls block their thread, at most a minute: see `blocking`.
final class RawSocket: Sendable {
    let descriptor: Int32

    init(descriptor: Int32) {
        self.descriptor = descriptor
        var limit = timeval(tv_sec: 60, tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            setsockopt(descriptor, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
        }
    }

    convenience init(port: UInt16) throws {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        self.init(descriptor: descriptor)
        var address = loopback(port)
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw SocketFailure("connect") }
    }

    deinit { close(descriptor) }

    func send(_ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(
                    descriptor, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw SocketFailure("send") }
            sent += count
        }
    }

    /// Sends what the other side takes until it takes nothing for three seconds.
    func sendUntilItStalls(_ bytes: [UInt8]) -> Int {
        var sent = 0
        while sent < bytes.count {
            var poller = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
            guard poll(&poller, 1, 3000) == 1 else { return sent }
            let count = bytes.withUnsafeBytes {
                Glibc.send(
                    descriptor, $0.baseAddress! + sent, min(65536, bytes.count - sent),
                    Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
            }
            guard count > 0 else { return sent }
            sent += count
        }
        return sent
    }

    /// To what has come. Closed with something unread, a socket sends a reset, which may overtake the answer.
    func answer(_ bytes: [UInt8]) throws {
        _ = try receive()
        try send(bytes)
    }

    func endSending() { shutdown(descriptor, Int32(SHUT_WR)) }

    /// Sends a reset.
    func reset() {
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
        shutdown(descriptor, Int32(SHUT_RDWR))
    }

    /// Some bytes; none at the end. A reset is an end too.
    func receive(_ limit: Int = 65536) throws -> [UInt8] {
        var buffer = [UInt8](repeating: 0, count: limit)
        let count = recv(descriptor, &buffer, limit, 0)
        if count < 0, errno == EAGAIN { throw SocketFailure("receive") }
        return Array(buffer[..<max(0, count)])
    }

    func receiveToTheEnd() throws -> [UInt8] {
        var all: [UInt8] = []
        while true {
            let part = try receive()
            guard !part.isEmpty else { return all }
            all += part
        }
    }

    func receive(exactly count: Int) throws -> [UInt8] {
        var all: [UInt8] = []
        while all.count < count {
            let part = try receive(min(65536, count - all.count))
            guard !part.isEmpty else { throw SocketFailure("ended after \(all.count) of \(count)") }
            all += part
        }
        return all
    }
}

/// Takes connections and does with each, on a thread of its own, what the test says.
final class RawServer: Sendable {
    let port: UInt16
    private let descriptor: Int32
    private let isStopped = Mutex(false)

    init(_ serve: @escaping @Sendable (RawSocket) throws -> Void) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = loopback(0)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = self.descriptor
        let result = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, length) == 0 && listen(descriptor, 128) == 0
                    && getsockname(descriptor, $0, &length) == 0
            }
        }
        guard result else { throw SocketFailure("listen") }
        port = UInt16(bigEndian: address.sin_port)
        Thread.detachNewThread {
            while true {
                let accepted = accept(descriptor, nil, nil)
                guard accepted >= 0 else { return }
                let one = RawSocket(descriptor: accepted)
                Thread.detachNewThread { try? serve(one) }
            }
        }
    }

    /// Refuses connections from now on.
    func stop() {
        let wasStopped = isStopped.withLock { isStopped in
            defer { isStopped = true }
            return isStopped
        }
        guard !wasStopped else { return }
        shutdown(descriptor, Int32(SHUT_RDWR))
        close(descriptor)
    }

    deinit { stop() }
}

/// The first message of a TLS client, with a name or without.
func clientHello(_ name: String?) -> [UInt8] {
    func counted(_ bytes: [UInt8], by width: Int) -> [UInt8] {
        (0..<width).map { UInt8(truncatingIfNeeded: bytes.count >> (8 * (width - 1 - $0))) } + bytes
    }
    var extensions: [UInt8] = [0, 0x2b] + counted([2, 3, 4], by: 2)
    if let name {
        extensions += [0, 0] + counted(counted([0] + counted(Array(name.utf8), by: 2), by: 2), by: 2)
    }
    let body =
        [3, 3] + [UInt8](repeating: 7, count: 32) + [0] + counted([0x13, 0x01], by: 2) + [1, 0]
        + counted(extensions, by: 2)
    return [22, 3, 1] + counted([1] + counted(body, by: 3), by: 2)
}

func serverName(_ name: String) -> String { SiteIdentity.serverName(of: SiteID(name)!) }

/// Whether both hold the same bytes, at once also for many.
func areSame(_ left: [UInt8], _ right: [UInt8]) -> Bool {
    left.count == right.count
        && left.withUnsafeBytes { left in
            right.withUnsafeBytes { right in
                left.isEmpty || memcmp(left.baseAddress!, right.baseAddress!, left.count) == 0
            }
        }
}

func randomBytes(_ count: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    bytes.withUnsafeMutableBytes { buffer in
        if let start = buffer.baseAddress { arc4random_buf(start, buffer.count) }
    }
    return bytes
}
