internal import CLinux
internal import Glibc
internal import Synchronization

/// A mount that has no server at the moment: the kernel's end of it, and what the next server must know.
///
/// Owns both descriptors. Closed without a server, the kernel ends the connection: who uses the mount gets errors.
package final class HeldMount: Sendable {
    private let ends: Mutex<(device: Int32, state: Int32)>

    package init(device: Int32, state: Int32) { ends = Mutex((device, state)) }

    /// - Throws: when there is no memory for the state; `device` is closed then.
    package convenience init(device: Int32, state: [UInt8]) throws(HolderError) {
        let file = gw_memfd_create("godwit-mount")
        guard file >= 0 else {
            let number = errno
            close(device)
            throw .system(call: "memfd_create", number: number)
        }
        self.init(device: device, state: file)
        var written = 0
        while written < state.count {
            let count = state[written...].withUnsafeBytes { write(file, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw .system(call: "write", number: errno) }
            written += count
        }
    }

    deinit {
        ends.withLock { ends in
            for end in [ends.device, ends.state] where end >= 0 { close(end) }
        }
    }

    /// What the last server left for the next one.
    package func state() throws(HolderError) -> [UInt8] {
        let file = ends.withLock { $0.state }
        var status = stat()
        guard fstat(file, &status) == 0 else { throw .system(call: "fstat", number: errno) }
        guard status.st_mode & S_IFMT == S_IFREG, (0...Self.stateLimit).contains(status.st_size) else {
            throw .malformed
        }
        var bytes = [UInt8](repeating: 0, count: status.st_size)
        var place = 0
        while place < bytes.count {
            let count = bytes[place...].withUnsafeMutableBytes {
                pread(file, $0.baseAddress, $0.count, place)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw .malformed }
            place += count
        }
        return bytes
    }

    /// More than a million open files take.
    private static let stateLimit = 256 << 20

    /// The kernel's end, which is the caller's from now on. -1 when it was taken before.
    package func takeDevice() -> Int32 {
        ends.withLock { ends in
            defer { ends.device = -1 }
            return ends.device
        }
    }

    /// For passing them on; they stay this one's.
    func withDescriptors<Result>(_ body: ([Int32]) -> Result) -> Result {
        ends.withLock { body([$0.device, $0.state]) }
    }
}

/// Why a holder could not be used.
package enum HolderError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Nothing listens there.
    case absent(path: String)
    case system(call: String, number: Int32)
    case refused(String)
    case malformed
    /// Another one keeps the socket.
    case inUse(path: String)
    case invalidPath(String)
    case notRoot(user: UInt32)

    package var description: String {
        switch self {
        case .absent(let path): "nobody listens at \(path): is 'godwit hold' running?"
        case .system(let call, let number): "\(call): \(String(cString: strerror(number)))"
        case .refused(let reason): "the holder of the mounts refuses: \(reason)"
        case .malformed: "what the holder of the mounts gives cannot be read: is it another program?"
        case .inUse(let path): "another holder of mounts is at \(path)"
        case .invalidPath(let path): "'\(path)' cannot be a socket: it is absolute and has 107 bytes at most"
        case .notRoot(let user): "the holder of the mounts runs as user \(user), not as root"
        }
    }
}
