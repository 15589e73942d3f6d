/// How a volume is mounted.
package struct FuseMountOptions: Sendable {
    /// What mountinfo shows as the source: `godwit:<site>/<volume>`.
    package var fsName = "godwit"
    package var isReadOnly = false
    /// Threads that take requests from the kernel. Few are quicker on few cores; nothing that waits for the
    /// network runs on them, and what waits for a disk's sync on half of them at most.
    package var threadCount: UInt32 = 4
    /// Most bytes of one read or write.
    package var transferByteCount = 1 << 20
    /// How far the kernel reads ahead of who reads a file in order.
    package var readaheadByteCount = 256 << 10
    /// Whether other users than the one who mounts may look into it.
    package var allowsOthers = true
    /// How long the kernel keeps names and attributes without asking, in seconds. Long, because a head has
    /// one owner and one mount: nothing changes behind the kernel's back.
    package var cacheSeconds = 3600.0

    package init() {}
}

/// Why a volume could not be mounted or unmounted.
package enum FuseMountError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The path is not an existing directory.
    case notADirectory(path: String)
    /// libfuse or mount(2) refused; libfuse writes the cause to standard error.
    case cannotMount(path: String)
    /// A mount that another server has left cannot be gone on with.
    case cannotResume(path: String, reason: String)
    /// Files are open or a process has its working directory there.
    case busy(path: String)
    case system(call: String, path: String, number: Int32)

    package var description: String {
        switch self {
        case .notADirectory(let path): "\(path) is not a directory: make it first"
        case .cannotMount(let path): "cannot mount at \(path): is /dev/fuse there, and are we root?"
        case .cannotResume(let path, let reason): "the mount at \(path) cannot go on: \(reason)"
        case .busy(let path): "\(path) is in use: end what has files open there, then unmount again"
        case .system(let call, let path, let number): "\(call) \(path): errno \(number)"
        }
    }
}
