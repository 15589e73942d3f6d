// How leaks and misuse of memory are looked for (everything must pass, and no leak be reported; Foundation's
// `Process` and c-ares, when it resolves "localhost", leak a few bytes of their own):
//
//     swift build --build-tests --sanitize=address --scratch-path .build-asan
//     printf 'leak:Foundation7Process\nleak:libcares\n' > .build-asan/leaks
//     LSAN_OPTIONS=suppressions=$PWD/.build-asan/leaks \
//         swift test --skip-build --disable-xctest --sanitize=address --scratch-path .build-asan --filter RPCTests

import Foundation
import Glibc
import RPC
import Synchronization

/// A directory that is removed with everything in it when the test no longer holds it.
final class TemporaryDirectory: Sendable {
    let path: String

    init() throws {
        path = "/tmp/rpc-\(UInt32.random(in: 0...UInt32.max))"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// Opens once, for all who wait. Waiting does not notice cancellation.
final class Gate: Sendable {
    private struct State {
        var isOpen = false
        var waiting: [CheckedContinuation<Void, Never>] = []
    }
    private let state = Mutex(State())

    var isOpen: Bool { state.withLock { $0.isOpen } }

    func open() {
        let waiting = state.withLock { state in
            state.isOpen = true
            defer { state.waiting = [] }
            return state.waiting
        }
        for continuation in waiting { continuation.resume() }
    }

    func wait() async {
        await withCheckedContinuation { continuation in
            let isOpen = state.withLock { state in
                if !state.isOpen { state.waiting.append(continuation) }
                return state.isOpen
            }
            if isOpen { continuation.resume() }
        }
    }
}

/// What handlers saw.
final class Log: Sendable {
    private let lines = Mutex<[String]>([])

    func add(_ line: String) { lines.withLock { $0.append(line) } }
    var all: [String] { lines.withLock { $0 } }
    func count(_ line: String) -> Int { all.count { $0 == line } }

    /// Waits until a line is there, at most ten seconds.
    func contains(_ line: String, times: Int = 1) async -> Bool {
        await eventually { self.count(line) >= times }
    }
}

/// Runs something that blocks its thread outside of the few threads that all tasks share.
func blocking<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread { continuation.resume(with: Result { try body() }) }
    }
}

func eventually(_ condition: () -> Bool) async -> Bool {
    let end = ContinuousClock.now + .seconds(60)
    while !condition() {
        guard ContinuousClock.now < end else { return false }
        try? await Task.sleep(for: .milliseconds(5))
    }
    return true
}

/// The status that a call ends with, `.ok` if it does not throw.
func status(_ body: () async throws -> Void) async -> RPCStatus {
    do {
        try await body()
        return RPCStatus(.ok, "")
    } catch let status as RPCStatus {
        return status
    } catch {
        return RPCStatus(.unknown, "not a status: \(error)")
    }
}

func text(_ bytes: [UInt8]?) -> String? { bytes.map { String(decoding: $0, as: UTF8.self) } }

func randomBytes(_ count: Int) -> [UInt8] {
    var generator = SystemRandomNumberGenerator()
    var bytes = [UInt8](repeating: 0, count: count)
    bytes.withUnsafeMutableBytes { buffer in
        for offset in stride(from: 0, to: count - count % 8, by: 8) {
            buffer.storeBytes(of: generator.next(), toByteOffset: offset, as: UInt64.self)
        }
    }
    return bytes
}

/// A started server and what is needed to reach it.
struct Service {
    enum Transport: String, CaseIterable, Sendable {
        case unix, tcp, unixTLS, tcpTLS

        var isEncrypted: Bool { self == .unixTLS || self == .tcpTLS }
        var isUnix: Bool { self == .unix || self == .unixTLS }
    }

    let server: RPCServer
    let endpoint: RPCEndpoint
    let clientSecurity: RPCSecurity
    let log: Log
    let gate: Gate
    private let directory: TemporaryDirectory

    init(
        _ transport: Transport = .tcp, on wanted: RPCEndpoint? = nil,
        options: RPCServerOptions = RPCServerOptions(), handler: RPCServer.Handler? = nil
    ) throws {
        let log = Log()
        let gate = Gate()
        self.log = log
        self.gate = gate
        directory = try TemporaryDirectory()
        server = RPCServer(options: options, handler: handler ?? standardHandler(log, gate))
        let certificates = transport.isEncrypted ? try Certificates.shared() : nil
        let security = certificates?.server ?? .plaintext
        clientSecurity = certificates?.client ?? .plaintext
        let asked =
            wanted
            ?? (transport.isUnix ? .unix(path: directory.path + "/s") : .tcp(host: "127.0.0.1", port: 0))
        let port = try server.listen(on: asked, security: security)
        endpoint = port.map { .tcp(host: "127.0.0.1", port: $0) } ?? asked
        try server.start()
    }

    func channel(_ options: RPCChannelOptions = RPCChannelOptions()) throws -> RPCChannel {
        try RPCChannel(to: endpoint, security: clientSecurity, options: options)
    }

    /// Ends everything, so that nothing of one test is seen by the next.
    func end() async {
        gate.open()
        await server.shutdown(grace: .zero)
    }

    var port: UInt16 {
        guard case .tcp(_, let port) = endpoint else { return 0 }
        return port
    }
}

/// The methods that most tests use.
func standardHandler(_ log: Log, _ gate: Gate) -> RPCServer.Handler {
    { (call) async throws(RPCStatus) in
        switch call.method {
        case "/test/Unary":
            let request = try await call.receive() ?? []
            try call.sendLast(request)
        case "/test/Count":
            let count = Int(text(try await call.receive()) ?? "") ?? 0
            for number in 0..<count { try await call.send(Array(String(number).utf8)) }
        case "/test/Sum":
            var count = 0
            while let message = try await call.receive() { count += message.count }
            try await call.send(Array(String(count).utf8))
        case "/test/Echo":
            while let message = try await call.receive() { try await call.send(message) }
        case "/test/Metadata":
            try await answerMetadata(call)
        case "/test/Refuse":
            throw RPCStatus(.permissionDenied, text(try await call.receive()) ?? "")
        case "/test/Sleep":
            log.add("begun")
            try? await Task.sleep(for: .seconds(3600))
            log.add(call.isCancelled && Task.isCancelled ? "cancelled" : "not cancelled")
            let isOver = await status {
                _ = try await call.receive(); _ = try await call.receive()
            }
            log.add("receive: \(isOver.code)")
            log.add("send: \(await status { try await call.send([1]) }.code)")
        case "/test/Receive":
            log.add("begun")
            let end = await status { while try await call.receive() != nil { log.add("message") } }
            log.add("receive: \(end.code)")
        case "/test/Stubborn":
            log.add("begun")
            await gate.wait()
            log.add("returned")
        case "/test/Flood":
            let block = [UInt8](repeating: 7, count: 256 << 10)
            let end = await status { while true { try await call.send(block); log.add("sent") } }
            log.add("send: \(end.code)")
        default:
            throw RPCStatus(.unimplemented, "no method \(call.method)")
        }
    }
}

private func answerMetadata(_ call: RPCServerCall) async throws(RPCStatus) {
    var trailing = RPCMetadata()
    trailing.add("text", call.metadata["asked"] ?? "nothing")
    trailing.add("bytes-bin", binary: call.metadata[binary: "asked-bin"] ?? [])
    try call.setTrailingMetadata(trailing)
    try await call.sendInitialMetadata(["first": "1", "second": "2"])
    try await call.send([])
    let again = await status { try await call.sendInitialMetadata(["third": "3"]) }
    throw RPCStatus(.aborted, "again: \(again.code), größer → “ok” \u{1F426}\n%41")
}
