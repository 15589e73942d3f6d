import CFuse
import Glibc
import VolumeFileSystem
import VolumeModel

@testable import FuseMount

/// A FUSE session without a kernel and without threads of its own: each request is handed to it on the caller's thread, in
/// memory that ends where it does, and its answers are looked at.
final class FuseHarness {
    struct Failure: Error {}

    private let server: FuseServer
    private let session: FuseMount.Session
    /// The server's end of a socket that keeps messages apart is the session's to close.
    private let descriptor: Int32
    /// Pages, and behind them one that nobody may read.
    private let memory: UnsafeMutableRawBufferPointer
    private static let pageByteCount = 4096
    private static let requestByteCount = 1 << 17
    private var nextUnique: UInt64 = 2
    /// What was asked to be interrupted: libfuse may answer to that.
    private var interrupted: Set<UInt64> = []
    private var buffer = [UInt8](repeating: 0, count: 1 << 17)
    /// Node ids of what was made or found, the last ones.
    private(set) var nodes: [UInt64] = [1]
    /// For an answer that another thread gives.
    private static let patienceInMilliseconds: Int32 = 20_000

    /// - Throws: when the two do not agree.
    init(_ fileSystem: any MountableFileSystem, initialization: FuseMessage = .initialize()) throws {
        let mapped = mmap(
            nil, Self.requestByteCount + Self.pageByteCount, PROT_READ | PROT_WRITE,
            Int32(MAP_PRIVATE) | Int32(MAP_ANONYMOUS), -1, 0)
        guard let mapped, mapped != MAP_FAILED else { throw Failure() }
        memory = UnsafeMutableRawBufferPointer(start: mapped, count: Self.requestByteCount)
        mprotect(mapped + Self.requestByteCount, Self.pageByteCount, PROT_NONE)
        var ends: [Int32] = [-1, -1]
        let type = Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, type, 0, &ends) == 0 else {
            Self.unmap(memory)
            throw Failure()
        }
        descriptor = ends[0]
        var options = FuseMountOptions()
        // An answer is one message of a socket.
        options.transferByteCount = 64 << 10
        server = FuseServer(fileSystem: fileSystem, options: options, negotiatesAnew: true)
        do {
            session = try FuseMount.makeSession(server, options, "/")
        } catch {
            Self.unmap(memory)
            close(ends[0])
            close(ends[1])
            throw error
        }
        guard FuseNegotiation.install(in: session.pointer, descriptor: ends[1]) else {
            close(ends[1])
            throw Failure()
        }
        process(initialization.bytes(unique: takeUnique()))
        _ = receive(patience: 0)
        guard !server.negotiation.answer.isEmpty else { throw Failure() }
    }

    deinit {
        session.destroy()
        close(descriptor)
        Self.unmap(memory)
    }

    private static func unmap(_ memory: UnsafeMutableRawBufferPointer) {
        if let start = memory.baseAddress { munmap(start, requestByteCount + pageByteCount) }
    }

    private func takeUnique() -> UInt64 {
        defer { nextUnique += 2 }
        return nextUnique
    }

    private func process(_ request: [UInt8]) {
        // Whoever reads beyond it ends the process. It may begin at any address, unlike the kernel's.
        let place = UnsafeMutableRawBufferPointer(rebasing: memory.suffix(request.count))
        place.copyBytes(from: request)
        gw_fuse_process(
            session.pointer, session.descriptor, place.baseAddress?.assumingMemoryBound(to: CChar.self),
            request.count)
    }

    /// One message; nil: there is none.
    private func receive(patience: Int32) -> [UInt8]? {
        var item = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        if patience > 0 { poll(&item, 1, patience) }
        let count = recv(descriptor, &buffer, buffer.count, Int32(MSG_DONTWAIT))
        return count > 0 ? Array(buffer.prefix(count)) : nil
    }

    /// Sends a request and takes its answer.
    ///
    /// - Returns: whether it succeeded.
    /// - Throws: a finding: it has none, two, or one that cannot be.
    func ask(_ message: FuseMessage) throws -> Bool {
        let unique = takeUnique()
        let request = message.bytes(unique: unique)
        let isSilent = FuseOpcode.isSilent(message.opcode)
        let isInterrupt = message.opcode == FuseOpcode.interrupt.rawValue
        if isInterrupt { interrupted.insert(unique) }
        process(request)
        var isAnswered = false
        var succeeded = false
        while true {
            let waits = !isAnswered && !isSilent && !isInterrupt
            guard let bytes = receive(patience: waits ? Self.patienceInMilliseconds : 0) else {
                try demand(!waits, "no answer to \(Self.text(request))")
                return succeeded
            }
            try demand(
                bytes.count >= 16 && bytes.half(at: 0) == UInt32(bytes.count),
                "an answer of \(bytes.count) bytes says that it has others")
            let found = bytes.word(at: 8)
            // A notification, or that there was nothing to interrupt.
            if found == 0 || interrupted.remove(found) != nil { continue }
            try demand(
                found == unique && !isAnswered && !isSilent, "one answer too many to \(Self.text(request))")
            isAnswered = true
            let answer = FuseAnswer(
                error: Int32(bitPattern: bytes.half(at: 4)), payload: Array(bytes.dropFirst(16)))
            if let fault = answer.fault(for: request) {
                throw FuzzFinding(description: "\(fault): \(Self.text(request))")
            }
            succeeded = answer.error == 0
            if let node = answer.node(for: request) { nodes = Array((nodes + [node]).suffix(32)) }
        }
    }

    /// libfuse keeps what interrupts nothing until requests come: as many are sent.
    func settle() throws {
        for _ in 0..<interrupted.count { _ = try ask(FuseMessage(.statfs)) }
        // Those that were no requests are answered never.
        interrupted = []
    }

    /// After DESTROY the session begins anew.
    func beginAnew() throws {
        process(FuseMessage.initialize().bytes(unique: takeUnique()))
        try demand(receive(patience: 0) != nil, "no answer to INIT after DESTROY")
    }

    private static func text(_ request: [UInt8]) -> String {
        "\(request.half(at: 4)): " + request.map { String($0, radix: 16) }.joined(separator: " ")
    }
}

extension FuseMount.Session {
    fileprivate var descriptor: Int32 { fuse_session_fd(pointer) }
}
