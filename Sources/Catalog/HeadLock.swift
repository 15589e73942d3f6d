internal import Glibc
internal import Synchronization
internal import VolumeModel

/// The lock of a head's directory: one process at a time. Released by the kernel when the process ends.
package final class HeadLock: Sendable {
    private let descriptor: Mutex<Int32>

    /// - Throws: `.unusable` when another process has the head open.
    package init(directory: String) throws(CatalogError) {
        let path = directory + "/lock"
        let opened = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard opened >= 0 else { throw .system(call: "open", path: path, Errno(errno)) }
        guard flock(opened, LOCK_EX | LOCK_NB) == 0 else {
            let failure = errno
            close(opened)
            if failure == EWOULDBLOCK {
                throw .unusable(
                    path: directory, reason: "another process has this volume open: stop it first")
            }
            throw .system(call: "flock", path: path, Errno(failure))
        }
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
}
