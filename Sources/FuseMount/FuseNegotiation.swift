internal import CFuse
internal import Glibc

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
enum FuseNegotiation {
    /// Takes over the session's reading and writing, of which only the first answer differs from libfuse's own.
    static func install(in session: OpaquePointer) {
        var io = fuse_custom_io()
        io.read = { descriptor, buffer, count, _ in read(descriptor, buffer, count) }
        io.writev = { descriptor, vectors, count, server in
            guard let server, let vectors, count == 2,
                Unmanaged<FuseServer>.fromOpaque(server).takeUnretainedValue().isFirstAnswer()
            else { return writev(descriptor, vectors, count) }
            return FuseNegotiation.answerInitialization(descriptor, vectors)
        }
        // Fails only for want of memory; then all is as libfuse does it.
        _ = fuse_session_custom_io(session, &io, fuse_session_fd(session))
    }

    /// The kernel's first request is INIT, and it sends no other one before that is answered.
    private static func answerInitialization(
        _ descriptor: Int32, _ vectors: UnsafeMutablePointer<iovec>
    ) -> Int {
        guard vectors[1].iov_len >= MemoryLayout<gw_fuse_init_out>.size, let base = vectors[1].iov_base else {
            return writev(descriptor, vectors, 2)
        }
        var answer = base.loadUnaligned(as: gw_fuse_init_out.self)
        // As far as the mount's own setting goes: see Readahead.
        answer.max_readahead = .max
        // A kernel that does not know it takes no notice.
        answer.flags |= UInt32(GW_FUSE_HANDLE_KILLPRIV_V2)
        base.copyMemory(from: &answer, byteCount: MemoryLayout<gw_fuse_init_out>.size)
        return writev(descriptor, vectors, 2)
    }
}
