import Foundation
import Glibc
import Testing

/// The other end of a FUSE session, without a kernel: sends requests through a socket that keeps them apart, as
/// /dev/fuse does, and counts the answers to each.
///
/// Unchecked Sendable: what it remembers is touched under `condition` only. Not to be used where a task's thread must
/// not be blocked: see `onThread`.
final class FakeKernel: @unchecked Sendable {
    /// The server's end, the server's to close.
    let serverDescriptor: Int32
    private let descriptor: Int32
    private let condition = NSCondition()
    private var requests: [UInt64: [UInt8]] = [:]
    private var answers: [UInt64: FuseAnswer] = [:]
    private var waiting: Set<UInt64> = []
    private var nextUnique: UInt64 = 2
    private var newNodes: [UInt64] = []
    private var faults: [String] = []
    private var isOver = false
    /// Longer than anything here takes.
    private static let patience: TimeInterval = 120
    private static let largestAnswer = 1 << 20

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    init() throws {
        var ends: [Int32] = [-1, -1]
        guard
            socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0
        else { throw Failure(description: "socketpair: errno \(errno)") }
        (descriptor, serverDescriptor) = (ends[0], ends[1])
        Thread { self.receive() }.start()
    }

    deinit { close(descriptor) }

    /// Blocks a thread that is no task's: tasks of the server need those.
    static func onThread<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws
        -> Result
    {
        try await withCheckedThrowingContinuation { continuation in
            Thread { continuation.resume(with: Swift.Result(catching: body)) }.start()
        }
    }

    // MARK: sending

    /// Sends a request, without waiting for an answer.
    ///
    /// - Returns: its unique number: even and never the same, as the kernel's are.
    @discardableResult
    func send(_ message: FuseMessage) throws -> UInt64 {
        let unique = condition.withLock {
            defer { nextUnique += 2 }
            return nextUnique
        }
        let bytes = message.bytes(unique: unique)
        condition.withLock {
            requests[unique] = bytes
            if Self.isToBeAnswered(bytes) { waiting.insert(unique) }
        }
        guard Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count else {
            throw Failure(description: "the server takes no more requests: errno \(errno)")
        }
        return unique
    }

    /// Sends less than a request.
    func sendFragment(byteCount: Int) throws {
        let bytes = [UInt8](repeating: 0, count: byteCount)
        guard Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count else {
            throw Failure(description: "the server takes no more requests: errno \(errno)")
        }
    }

    private static func isToBeAnswered(_ request: [UInt8]) -> Bool {
        let opcode = request.half(at: 4)
        // libfuse sends one back where it does not know yet what it is about.
        return !FuseOpcode.isSilent(opcode) && opcode != FuseOpcode.interrupt.rawValue
    }

    /// Sends a request and waits for its answer.
    func ask(_ message: FuseMessage) throws -> FuseAnswer { try answer(to: try send(message)) }

    func answer(to unique: UInt64) throws -> FuseAnswer {
        try wait("request \(unique)") { answers[unique] != nil }
        return condition.withLock { answers[unique] } ?? FuseAnswer(error: 1, payload: [])
    }

    /// Waits until no more than so many requests wait for an answer.
    func wait(untilAtMost count: Int) throws {
        try wait("\(count) requests at most") { waiting.count <= count }
    }

    /// One of the requests that wait for an answer; nil: none does.
    func someWaiting(_ choose: (Int) -> Int) -> UInt64? {
        condition.withLock {
            let all = waiting.sorted()
            return all.isEmpty ? nil : all[choose(all.count)]
        }
    }

    /// Node ids that came since the last time.
    func takeNewNodes() -> [UInt64] {
        condition.withLock {
            defer { newNodes = [] }
            return newNodes
        }
    }

    /// Asks for nothing any more, waits until the server has closed its end, and says what was wrong: with answers, with
    /// their number; empty: nothing.
    func end() throws -> [String] {
        shutdown(descriptor, Int32(SHUT_WR))
        try wait("the server's end") { isOver }
        return condition.withLock {
            faults + waiting.sorted().map { "request \($0) has no answer: \(describe(requests[$0] ?? []))" }
        }
    }

    private func wait(_ what: String, until isDone: () -> Bool) throws {
        let deadline = Date(timeIntervalSinceNow: Self.patience)
        try condition.withLock {
            while !isDone() {
                guard !isOver else { throw Failure(description: "the server has ended before \(what)") }
                guard condition.wait(until: deadline) else {
                    let open = waiting.sorted().prefix(3).map { describe(requests[$0] ?? []) }
                    throw Failure(description: "nothing comes for \(what); open: \(open)")
                }
            }
        }
    }

    private func describe(_ request: [UInt8]) -> String {
        let opcode =
            FuseOpcode(rawValue: request.half(at: 4)).map { "\($0)" } ?? "opcode \(request.half(at: 4))"
        return "\(opcode) \(request.prefix(200).map { String($0, radix: 16) }.joined(separator: " "))"
    }

    // MARK: receiving

    private func receive() {
        var buffer = [UInt8](repeating: 0, count: Self.largestAnswer)
        while true {
            let count = recv(descriptor, &buffer, buffer.count, 0)
            guard count > 0 else { break }
            note(Array(buffer.prefix(count)))
        }
        condition.withLock {
            isOver = true
            condition.broadcast()
        }
    }

    private func note(_ bytes: [UInt8]) {
        condition.withLock {
            defer { condition.broadcast() }
            guard bytes.count >= 16, bytes.half(at: 0) == UInt32(bytes.count) else {
                faults.append(
                    "an answer of \(bytes.count) bytes says that it has others: \(bytes.prefix(16))")
                return
            }
            let (unique, error) = (bytes.word(at: 8), Int32(bitPattern: bytes.half(at: 4)))
            // A notification: FUSE_NOTIFY_INVAL_INODE is the only one that this server sends.
            if unique == 0 {
                if error != 2 || bytes.count != 40 { faults.append("a notification of kind \(error)") }
                return
            }
            let answer = FuseAnswer(error: error, payload: Array(bytes.dropFirst(16)))
            guard let request = requests[unique] else {
                faults.append("an answer to \(unique), which nobody asked")
                return
            }
            if answers.updateValue(answer, forKey: unique) != nil {
                faults.append("request \(unique) is answered twice: \(describe(request))")
            }
            if FuseOpcode.isSilent(request.half(at: 4)) {
                faults.append("request \(unique) is answered: \(describe(request))")
            }
            waiting.remove(unique)
            if let fault = answer.fault(for: request), !isFirst(request) {
                faults.append("request \(unique): \(fault): \(describe(request))")
            }
            if let node = answer.node(for: request) { newNodes.append(node) }
        }
    }

    private func isFirst(_ request: [UInt8]) -> Bool {
        request.half(at: 4) == FuseOpcode.initialize.rawValue && request.word(at: 8) == 2
    }
}
