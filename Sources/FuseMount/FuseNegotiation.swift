internal import CFuse
internal import Glibc
internal import Synchronization

/// What is agreed with the kernel beyond what this libfuse can ask for.
///
/// FUSE_HANDLE_KILLPRIV_V2: the kernel leaves it to us to clear set-ID bits at a write, and tells with each write
/// whether that is due. Without it the kernel asks for `security.capability` before every single write.
///
/// FUSE_PASSTHROUGH, reading and writing a data file without us, is not asked for. All opens of an inode at one time
/// are passthrough or none is, and a grant cannot be taken back: a reader's grant would force one on whoever opens the
/// file for writing meanwhile, at the latest through a shared mapping. Those changes nobody would see: capacity that
/// fills holes, times, what changed since a hand-off. And of readers neither the record of a start nor access times
/// would be told.
///
/// The kernel negotiates once, with the server that mounts. One that goes on with the session of another gives its
/// libfuse the kernel's old request, keeps the answer to itself, and goes on only if it is the one that was given.
final class FuseNegotiation: Sendable {
    private let isOver = Atomic<Bool>(false)
    private let outcome = Mutex<(isSent: Bool, answer: [UInt8])>((true, []))

    /// - Parameter isSent: whether the kernel is to hear the answer.
    init(isSent: Bool) { outcome.withLock { $0.isSent = isSent } }

    /// What INIT was answered with, header included.
    var answer: [UInt8] { outcome.withLock { $0.answer } }

    /// Takes over the session's writing, of which only the first answer differs from libfuse's own. Its reading is not
    /// used (see gw_fuse_loop).
    ///
    /// - Returns: false for want of memory.
    static func install(in session: OpaquePointer, descriptor: Int32) -> Bool {
        var io = fuse_custom_io()
        io.read = { descriptor, buffer, count, _ in read(descriptor, buffer, count) }
        io.writev = { descriptor, vectors, count, server in
            if let vectors, count > 0 { FuseLoop.countAnswer(vectors) }
            guard let server, let vectors, count == 2 else { return writev(descriptor, vectors, count) }
            let negotiation = Unmanaged<FuseServer>.fromOpaque(server).takeUnretainedValue().negotiation
            guard negotiation.isFirst() else { return writev(descriptor, vectors, count) }
            return negotiation.answerInitialization(descriptor, vectors)
        }
        return fuse_session_custom_io(session, &io, descriptor) == 0
    }

    /// - Returns: true once. INIT is answered before another request is read.
    private func isFirst() -> Bool {
        !isOver.load(ordering: .relaxed) && !isOver.exchange(true, ordering: .relaxed)
    }

    private func answerInitialization(_ descriptor: Int32, _ vectors: UnsafeMutablePointer<iovec>) -> Int {
        if vectors[1].iov_len >= MemoryLayout<gw_fuse_init_out>.size, let base = vectors[1].iov_base {
            var answer = base.loadUnaligned(as: gw_fuse_init_out.self)
            // As far as the mount's own setting goes: see Readahead.
            answer.max_readahead = .max
            // A kernel that does not know it takes no notice.
            answer.flags |= UInt32(GW_FUSE_HANDLE_KILLPRIV_V2)
            base.copyMemory(from: &answer, byteCount: MemoryLayout<gw_fuse_init_out>.size)
        }
        let bytes = (0..<2).flatMap { index in
            Array(UnsafeRawBufferPointer(start: vectors[index].iov_base, count: vectors[index].iov_len))
        }
        let isSent = outcome.withLock { outcome in
            outcome.answer = bytes
            return outcome.isSent
        }
        return isSent ? writev(descriptor, vectors, 2) : bytes.count
    }
}
