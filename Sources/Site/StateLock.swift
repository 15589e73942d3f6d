internal import Glibc
internal import Synchronization
internal import VolumeModel

/// One process at a time has a site's state directory: of two, each would write what the other believes to be its own.
///
/// Held from before anything in the directory is read until the process ends, however it ends: the kernel lets go then.
/// The file stays; in it stands who has it, or had it last. Network and process namespaces do not matter.
package final class StateLock: Sendable {
    private static let interval: Duration = .milliseconds(100)
    /// What is read of what another process has written.
    private static let textLimit = 200

    private let descriptor: Mutex<Int32>

    /// Waits until no other process has the directory: after a planned restart the former one may still be ending.
    ///
    /// - Parameters:
    ///   - patience: how long that one may take.
    ///   - waiting: told once, when there is another one, who that is.
    /// - Throws: `.precondition` when there is still another one then; what the disk says; `CancellationError`.
    package init(
        _ state: StateDirectory, patience: Duration, waiting: (_ other: String) -> Void = { _ in }
    ) async throws {
        let path = state.lock
        let opened = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard opened >= 0 else { throw SiteError.system(call: "open", path: path, Errno(errno)) }
        do {
            try await Self.take(opened, path, patience: patience, waiting)
        } catch {
            close(opened)
            throw error
        }
        Self.sign(opened)
        descriptor = Mutex(opened)
    }

    deinit { release() }

    /// May be called again.
    package func release() {
        descriptor.withLock { descriptor in
            if descriptor >= 0 { close(descriptor) }
            descriptor = -1
        }
    }

    private static func take(
        _ descriptor: Int32, _ path: String, patience: Duration, _ waiting: (String) -> Void
    ) async throws {
        let deadline = ContinuousClock.now + patience
        var isTold = false
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            let failure = errno
            if failure == EINTR { continue }
            guard failure == EWOULDBLOCK else {
                throw SiteError.system(call: "flock", path: path, Errno(failure))
            }
            let other = signature(descriptor)
            guard ContinuousClock.now < deadline else {
                throw SiteError.precondition(
                    "another process has this state directory: \(other). Stop it first (\(path))")
            }
            if !isTold { waiting(other) }
            isTold = true
            try await Task.sleep(for: interval)
        }
    }

    /// For people only: nothing depends on what stands there.
    private static func sign(_ descriptor: Int32) {
        var name = [CChar](repeating: 0, count: 256)
        _ = gethostname(&name, name.count - 1)
        let host = String(decoding: name.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        let text = Array("process \(getpid()) at \(host)\n".utf8)
        if ftruncate(descriptor, 0) == 0 { _ = pwrite(descriptor, text, text.count, 0) }
    }

    private static func signature(_ descriptor: Int32) -> String {
        var bytes = [UInt8](repeating: 0, count: textLimit)
        let count = pread(descriptor, &bytes, bytes.count, 0)
        let line = bytes.prefix(max(0, count)).prefix { $0 >= 0x20 && $0 < 0x7f }
        // It has just begun, and has not said so yet.
        return line.isEmpty ? "one that has not told its number" : String(decoding: line, as: UTF8.self)
    }
}
