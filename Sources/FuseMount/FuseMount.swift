internal import CFuse
internal import Glibc
internal import HostMounts
internal import Synchronization
package import VolumeFileSystem

/// A file system that the kernel has mounted at a directory, until it is unmounted.
///
/// Owns the libfuse session and the thread that serves it. The session is destroyed after its last request
/// was answered and its threads were joined, and only then is the server let go.
package final class FuseMount: Sendable {
    package let path: String
    private let server: FuseServer
    private let state = Mutex(State())

    private struct State {
        var isOver = false
        var waiting: [CheckedContinuation<Void, Never>] = []
    }

    /// What the serving thread takes with it.
    ///
    /// Unchecked Sendable: handed over once, to the one thread that uses it from then on.
    private struct Session: @unchecked Sendable {
        let pointer: OpaquePointer
        let server: Unmanaged<FuseServer>
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
        server = FuseServer(fileSystem: fileSystem, options: options)
        let session = try Self.makeSession(server, options, path)
        guard fuse_session_mount(session.pointer, path) == 0 else {
            fuse_session_destroy(session.pointer)
            session.server.release()
            throw .cannotMount(path: path)
        }
        FuseNegotiation.install(in: session.pointer)
        let threadCount = options.threadCount
        // Beside the session, which answers at once: on a node with many mounts the kernel's table is long.
        let readahead = options.readaheadByteCount
        Self.startThread { Readahead.widen(ofMountAt: path, to: readahead) }
        Self.startThread { [self] in
            _ = gw_fuse_session_loop(session.pointer, threadCount)
            // Takes the mount away if it is still there (a session that ended by an error).
            fuse_session_unmount(session.pointer)
            Task {
                await self.server.drain()
                fuse_session_destroy(session.pointer)
                session.server.release()
                self.noteOver()
            }
        }
    }

    private static func makeSession(
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

    private func noteOver() {
        let waiting = state.withLock { state in
            state.isOver = true
            defer { state.waiting = [] }
            return state.waiting
        }
        for continuation in waiting { continuation.resume() }
    }

    /// Returns when the file system is unmounted, by us or by anybody, and nothing of it runs any more.
    package func waitUntilUnmounted() async {
        await withCheckedContinuation { continuation in
            let isOver = state.withLock { state in
                if !state.isOver { state.waiting.append(continuation) }
                return state.isOver
            }
            if isOver { continuation.resume() }
        }
    }

    /// Unmounts and waits until everything is answered. Unmounted already, it is a success.
    ///
    /// - Throws: `.busy` while files are open; the mount then goes on as if nothing had happened.
    package func unmount() async throws(FuseMountError) {
        if state.withLock({ $0.isOver }) { return }
        if umount2(path, Int32(UMOUNT_NOFOLLOW)) != 0 {
            let number = errno
            switch number {
            case EBUSY: throw .busy(path: path)
            // Somebody else was quicker.
            case EINVAL, ENOENT: break
            default: throw .system(call: "umount2", path: path, number: number)
            }
        }
        await waitUntilUnmounted()
    }

    /// Takes away mounts of ours that lost their server: after a kill -9 the kernel keeps them, and every
    /// call on them fails. Looks at mountinfo, never at the path, which could hang.
    package static func cleanStale(fsName: String) throws(FuseMountError) {
        let stale: [MountEntry]
        do {
            stale = try MountTable.entries().filter { $0.type == "fuse.godwit" && $0.source == fsName }
        } catch {
            throw .system(call: error.call, path: error.path, number: error.number)
        }
        for mount in stale.reversed() {
            // Lazily: the old server is gone, and processes may still hold files of it open.
            if umount2(mount.path, Int32(MNT_DETACH) | Int32(UMOUNT_NOFOLLOW)) != 0, errno != EINVAL {
                throw .system(call: "umount2", path: mount.path, number: errno)
            }
        }
    }
}
