internal import CFuse
internal import Glibc
internal import HostMounts
internal import Synchronization
package import VolumeFileSystem
package import VolumeModel

/// A file system that the kernel has mounted at a directory, until it is unmounted, or left for another server.
///
/// Owns the libfuse session and the threads that serve it. The session is destroyed after its last request
/// was answered and its threads were joined, and only then is the server let go.
package final class FuseMount: Sendable {
    package let path: String
    let server: FuseServer
    private let state = Mutex(State())

    private struct State {
        /// Taken away before it is freed.
        var loop: FuseLoop?
        var isLeaving = false
        var left: LeftSession?
        var isOver = false
        var waiting: [CheckedContinuation<Void, Never>] = []
    }

    /// What the serving thread takes with it.
    ///
    /// Unchecked Sendable: handed over once, to the one thread that uses it from then on.
    struct Session: @unchecked Sendable {
        let pointer: OpaquePointer
        let server: Unmanaged<FuseServer>
        /// INIT as the kernel sent it.
        var initialization: [UInt8] = []

        /// Closes the session's descriptor.
        func destroy() {
            fuse_session_destroy(pointer)
            server.release()
        }
    }

    /// Mounts and starts to serve.
    ///
    /// - Parameter path: an existing directory, absolute.
    package init(
        fileSystem: any MountableFileSystem, at path: String, options: FuseMountOptions = FuseMountOptions()
    ) throws(FuseMountError) {
        var status = stat()
        guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
            throw .notADirectory(path: path)
        }
        self.path = path
        server = FuseServer(fileSystem: fileSystem, options: options, negotiatesAnew: true)
        let session = try Self.makeSession(server, options, path)
        guard fuse_session_mount(session.pointer, path) == 0 else {
            session.destroy()
            throw .cannotMount(path: path)
        }
        try begin(session, fuse_session_fd(session.pointer), options)
    }

    /// Serves whoever sends requests as the kernel does, INIT first: for tests.
    ///
    /// - Parameters:
    ///   - descriptor: gives one request a read; from now on this one's, also when it fails.
    ///   - path: a directory of which nothing is used.
    init(
        serving descriptor: Int32, fileSystem: any MountableFileSystem, at path: String,
        options: FuseMountOptions
    ) throws(FuseMountError) {
        self.path = path
        server = FuseServer(fileSystem: fileSystem, options: options, negotiatesAnew: true)
        try begin(try Self.makeSession(server, options, path), descriptor, options)
    }

    /// Agrees with the kernel and starts to serve it.
    private func begin(
        _ session: Session, _ descriptor: Int32, _ options: FuseMountOptions
    ) throws(FuseMountError) {
        var session = session
        guard FuseNegotiation.install(in: session.pointer, descriptor: descriptor),
            let initialization = Self.negotiate(session, descriptor), !server.negotiation.answer.isEmpty
        else {
            fuse_session_unmount(session.pointer)
            session.destroy()
            throw .cannotMount(path: path)
        }
        session.initialization = initialization
        // Beside the session, which answers at once: on a node with many mounts the kernel's table is long.
        let (path, readahead) = (path, options.readaheadByteCount)
        Self.startThread { Readahead.widen(ofMountAt: path, to: readahead) }
        try start(session, descriptor, replaying: [], options)
    }

    /// Goes on with a mount that another server has left.
    ///
    /// - Parameters:
    ///   - left: from now on this one's, also when it fails.
    ///   - fileSystem: the same state of the same volume as that server's when it left.
    /// - Throws: `.cannotResume` when this release would have agreed on something else with the kernel. The mount is
    ///   dead then, unless the descriptor has a copy: to be cleaned.
    package init(
        resuming left: LeftSession, fileSystem: any MountableFileSystem, at path: String,
        options: FuseMountOptions
    ) throws(FuseMountError) {
        self.path = path
        server = FuseServer(fileSystem: fileSystem, options: options, negotiatesAnew: false)
        let (descriptor, agreed) = (left.descriptor, left.session)
        guard agreed.meaning == FuseSession.presentMeaning, agreed.isWellFormed else {
            close(descriptor)
            throw .cannotResume(path: path, reason: "it was served by a release that is too different")
        }
        var session: Session
        do throws(FuseMountError) {
            session = try Self.makeSession(server, options, path)
        } catch {
            close(descriptor)
            throw error
        }
        guard FuseNegotiation.install(in: session.pointer, descriptor: descriptor) else {
            session.destroy()
            close(descriptor)
            throw .cannotResume(path: path, reason: "no memory")
        }
        Self.process(agreed.request, session)
        guard server.negotiation.answer == agreed.answer else {
            session.destroy()
            throw .cannotResume(
                path: path, reason: "this release agrees on other things with the kernel than the one before")
        }
        session.initialization = agreed.request
        try start(session, descriptor, replaying: agreed.waiting, options)
    }

    /// The kernel's first request is INIT, which is there when mount(2) returns, and it sends no other one before
    /// that is answered.
    ///
    /// - Returns: the request; nil when the kernel sends none that we can answer.
    private static func negotiate(_ session: Session, _ descriptor: Int32) -> [UInt8]? {
        var count = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: Int(GW_FUSE_BUFFER_SIZE)) { buffer, filled in
            buffer.withMemoryRebound(to: CChar.self) { buffer in
                repeat { count = gw_fuse_read(descriptor, buffer.baseAddress) } while count == 0
            }
            filled = max(0, count)
        }
        guard count > 0, FuseSession.isRequest(bytes) else { return nil }
        process(bytes, session)
        return bytes
    }

    private static func process(_ request: [UInt8], _ session: Session) {
        var request = request
        request.withUnsafeMutableBytes { bytes in
            var buffer = fuse_buf()
            buffer.mem = bytes.baseAddress
            buffer.size = bytes.count
            fuse_session_process_buf(session.pointer, &buffer)
        }
    }

    /// Starts to serve what was negotiated.
    private func start(
        _ session: Session, _ descriptor: Int32, replaying requests: [[UInt8]], _ options: FuseMountOptions
    ) throws(FuseMountError) {
        guard let loop = FuseLoop(session.pointer, descriptor: descriptor, replaying: requests) else {
            umount2(path, Int32(MNT_DETACH) | Int32(UMOUNT_NOFOLLOW))
            session.destroy()
            throw .cannotMount(path: path)
        }
        server.loop.withLock { $0 = loop }
        state.withLock { $0.loop = loop }
        let threadCount = options.threadCount
        Self.startThread { [self] in
            let hasServed = loop.run(threadCount: threadCount)
            let isLeaving = hasServed && !loop.isOver && state.withLock { $0.isLeaving }
            if !isLeaving {
                // Takes the mount away if it is still there (a session that ended by an error).
                if !loop.isOver { umount2(path, Int32(MNT_DETACH) | Int32(UMOUNT_NOFOLLOW)) }
                fuse_session_unmount(session.pointer)
            }
            Task { await self.end(session, loop, descriptor, isLeaving: isLeaving) }
        }
    }

    /// After the loop: answers what waits, or puts it down for the next server.
    private func end(_ session: Session, _ loop: FuseLoop, _ descriptor: Int32, isLeaving: Bool) async {
        var left: LeftSession?
        if isLeaving {
            let waiting = await server.leave() + loop.notReplayed
            let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
            if copy >= 0 {
                left = LeftSession(
                    descriptor: copy,
                    session: FuseSession(
                        request: session.initialization, answer: server.negotiation.answer, waiting: waiting))
            }
        } else {
            await server.drain()
        }
        server.loop.withLock { $0 = nil }
        session.destroy()
        let waiting = state.withLock { state in
            state.loop = nil
            state.left = left
            state.isOver = true
            defer { state.waiting = [] }
            return state.waiting
        }
        loop.free()
        for continuation in waiting { continuation.resume() }
    }

    /// Stops to serve without unmounting. What is asked from now on waits in the kernel; what was asked is answered,
    /// but for what waits for something that is elsewhere: the next server begins with that.
    ///
    /// - Returns: nil when the mount is over.
    package func leave() async -> LeftSession? {
        await server.endDirectWrites()
        state.withLock { state in
            state.isLeaving = true
            state.loop?.stop()
        }
        await waitUntilUnmounted()
        return state.withLock { state in
            defer { state.left = nil }
            return state.left
        }
    }

    static func makeSession(
        _ server: FuseServer, _ options: FuseMountOptions, _ path: String
    ) throws(FuseMountError) -> Session {
        var words = ["godwit", "-ofsname=\(options.fsName),subtype=godwit,default_permissions,dev,suid"]
        if options.allowsOthers { words[1] += ",allow_other" }
        if options.isReadOnly { words[1] += ",ro" }
        var arguments = fuse_args()
        defer { fuse_opt_free_args(&arguments) }
        for word in words where fuse_opt_add_arg(&arguments, word) != 0 { throw .cannotMount(path: path) }
        var table = FuseOperations.table()
        let retained = Unmanaged.passRetained(server)
        guard
            let session = fuse_session_new(
                &arguments, &table, MemoryLayout<fuse_lowlevel_ops>.size, retained.toOpaque())
        else {
            retained.release()
            throw .cannotMount(path: path)
        }
        server.session.store(UInt(bitPattern: session), ordering: .releasing)
        return Session(pointer: session, server: retained)
    }

    private static func startThread(_ body: @escaping @Sendable () -> Void) {
        final class Box {
            let body: @Sendable () -> Void
            init(_ body: @escaping @Sendable () -> Void) { self.body = body }
        }
        var thread = pthread_t()
        let box = Unmanaged.passRetained(Box(body))
        let result = pthread_create(
            &thread, nil,
            { box in
                guard let box else { return nil }
                Unmanaged<Box>.fromOpaque(box).takeRetainedValue().body()
                return nil
            }, box.toOpaque())
        precondition(result == 0, "no thread could be made for a mount")
        pthread_detach(thread)
    }

    /// Makes the kernel forget what it has cached of a file's bytes: they are not to be given any more. Returns at once.
    package func invalidate(_ inode: InodeNumber, _ range: ByteRange) {
        server.invalidate(inode, range)
    }

    /// The same of all that it has cached of bytes, when the file system gives nothing any more. Returns at once. What it
    /// has cached of another server's answers stays, for nobody knows what that is, and so do names and attributes.
    package func invalidateAll() { server.invalidateAll() }

    /// Returns when the file system is unmounted, by us or by anybody, or left, and nothing of it runs any more.
    package func waitUntilUnmounted() async {
        await withCheckedContinuation { continuation in
            let isOver = state.withLock { state in
                if !state.isOver { state.waiting.append(continuation) }
                return state.isOver
            }
            if isOver { continuation.resume() }
        }
    }

    /// The same, for so long at most; not ended by cancellation.
    ///
    /// - Returns: whether it is unmounted. If not, it is mounted elsewhere as well, perhaps where nobody looks: in a copy
    ///   that another mount namespace has. It is served until that goes, or `leave`.
    package func waitUntilUnmounted(for patience: Duration) async -> Bool {
        let deadline = ContinuousClock.now + patience
        var pause = Duration.microseconds(200)
        while !state.withLock({ $0.isOver }) {
            guard ContinuousClock.now < deadline else { return false }
            let rest = pause
            await Task { try? await Task.sleep(for: rest) }.value
            pause = min(pause * 2, .milliseconds(50))
        }
        return true
    }

    /// Unmounts and waits until everything is answered. Unmounted already, it is a success.
    ///
    /// - Throws: `.busy` while files are open; the mount then goes on as if nothing had happened.
    package func unmount() async throws(FuseMountError) {
        try takeAway()
        await waitUntilUnmounted()
    }

    /// Takes the mount away from its directory, once, without waiting for its end. Unmounted already, it is a success.
    ///
    /// - Throws: as `unmount`.
    package func takeAway() throws(FuseMountError) {
        guard !state.withLock({ $0.isOver }), umount2(path, Int32(UMOUNT_NOFOLLOW)) != 0 else { return }
        let number = errno
        switch number {
        case EBUSY: throw .busy(path: path)
        // Somebody else was quicker.
        case EINVAL, ENOENT: break
        default: throw .system(call: "umount2", path: path, number: number)
        }
    }
}
