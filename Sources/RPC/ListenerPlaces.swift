internal import Glibc
internal import Synchronization

/// Closed once: when asked to, or at the end.
final class OwnedDescriptor: Sendable {
    private let descriptor: Mutex<Int32>

    init(_ descriptor: Int32) { self.descriptor = Mutex(descriptor) }

    deinit { close() }

    func close() {
        let descriptor = descriptor.withLock { descriptor in
            defer { descriptor = -1 }
            return descriptor
        }
        if descriptor >= 0 { _ = Glibc.close(descriptor) }
    }

    /// Another one for the same, for the caller to close; nil when none is left.
    func duplicate() -> Int32? {
        let copy = descriptor.withLock { fcntl($0, F_DUPFD_CLOEXEC, 0) }
        return copy >= 0 ? copy : nil
    }
}

/// A TCP port that is bound but not listened on.
struct PortReservation {
    let descriptor: OwnedDescriptor
    let port: UInt16

    init(host: String, port: UInt16) throws(RPCStatus) {
        guard !host.utf8.contains(0) else { throw RPCStatus(.invalidArgument, "the host has a zero byte") }
        // Who means every address means those of both families, as far as the kernel has them.
        let isEvery = host.isEmpty || host == "::" || host == "0.0.0.0"
        let place = isEvery ? (Self.hasIPv6 ? "::" : "0.0.0.0") : host
        var hints = addrinfo()
        hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        let result = getaddrinfo(place, String(port), &hints, &found)
        guard result == 0, let found else {
            let reason = String(cString: gai_strerror(result))
            throw RPCStatus(.invalidArgument, "cannot listen on host \(host): \(reason)")
        }
        defer { freeaddrinfo(found) }
        let name = RPCEndpoint.tcp(host: host, port: port)
        let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        let descriptor = socket(found.pointee.ai_family, type, 0)
        guard descriptor >= 0 else { throw failure("cannot make a socket for \(name)", errno) }
        self.descriptor = OwnedDescriptor(descriptor)
        Self.set(SOL_SOCKET, SO_REUSEADDR, 1, of: descriptor)
        if found.pointee.ai_family == AF_INET6 {
            Self.set(Int32(IPPROTO_IPV6), IPV6_V6ONLY, 0, of: descriptor)
        }
        guard bind(descriptor, found.pointee.ai_addr, found.pointee.ai_addrlen) == 0 else {
            throw failure("cannot listen on \(name)", errno)
        }
        self.port = try Self.boundPort(descriptor, name)
    }

    private static var hasIPv6: Bool {
        let descriptor = socket(AF_INET6, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        if descriptor >= 0 { close(descriptor) }
        return descriptor >= 0
    }

    private static func set(_ level: Int32, _ option: Int32, _ value: Int32, of descriptor: Int32) {
        var value = value
        _ = setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
    }

    private static func boundPort(_ descriptor: Int32, _ name: RPCEndpoint) throws(RPCStatus) -> UInt16 {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        var service = [CChar](repeating: 0, count: Int(NI_MAXSERV))
        let result = withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address -> Int32 in
                guard getsockname(descriptor, address, &length) == 0 else { return EAI_SYSTEM }
                return getnameinfo(
                    address, length, nil, 0, &service, socklen_t(service.count),
                    NI_NUMERICHOST | NI_NUMERICSERV)
            }
        }
        let text = String(decoding: service.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        guard result == 0, let port = UInt16(text) else {
            throw RPCStatus(.internalError, "cannot read the port of \(name)")
        }
        return port
    }
}

/// The file of a Unix socket: gRPC binds `temporaryPath`, clients connect to `path`.
final class UnixSocketFile: Sendable {
    let path: String
    let temporaryPath: String
    /// Whose members may connect as well as the owner.
    private let group: UInt32?

    /// Tells this server's socket file from another's at the same path.
    private struct Identity: Equatable {
        var device: UInt
        var inode: UInt
    }
    private let published = Mutex<Identity?>(nil)

    init(path: String, group: UInt32?) throws(RPCStatus) {
        self.group = group
        try RPCEndpoint.checkPath(path)
        let directory = path.lastIndex(of: "/").map { path[...$0] } ?? ""
        let digits = String(UInt32.random(in: 0...UInt32.max), radix: 36)
        temporaryPath = "\(directory).\(digits)"
        self.path = path
        try RPCEndpoint.checkPath(temporaryPath)
        try Self.checkThatNobodyListens(path)
    }

    private static func checkThatNobodyListens(_ path: String) throws(RPCStatus) {
        var status = stat()
        guard lstat(path, &status) == 0 else {
            let code = errno
            guard code == ENOENT else { throw failure("cannot look at \(path)", code) }
            return
        }
        guard status.st_mode & S_IFMT == S_IFSOCK else {
            throw RPCStatus(.alreadyExists, "\(path) exists and is not a socket")
        }
        let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let descriptor = socket(AF_UNIX, type, 0)
        guard descriptor >= 0 else { throw failure("cannot make a socket to try \(path)", errno) }
        defer { close(descriptor) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        let code = result == 0 ? 0 : errno
        guard code == ECONNREFUSED || code == ENOENT else {
            throw RPCStatus(.alreadyExists, "a server listens on \(path) already")
        }
    }

    func publish() throws(RPCStatus) {
        // The group before its mode: nobody else's may connect in between.
        if let group, chown(temporaryPath, uid_t.max, group) != 0 {
            throw abandon("cannot give group \(group)", errno)
        }
        guard chmod(temporaryPath, group == nil ? 0o600 : 0o660) == 0 else {
            throw abandon("cannot set the mode of", errno)
        }
        guard let identity = Self.identity(temporaryPath) else { throw abandon("cannot look at", errno) }
        guard rename(temporaryPath, path) == 0 else { throw abandon("cannot rename", errno) }
        published.withLock { $0 = identity }
    }

    /// Removes the file if it is still this server's.
    func remove() {
        let identity = published.withLock { identity in
            defer { identity = nil }
            return identity
        }
        if let identity, identity == Self.identity(path) { unlink(path) }
    }

    private func abandon(_ attempt: String, _ code: Int32) -> RPCStatus {
        unlink(temporaryPath)
        return failure("\(attempt) the new socket for \(path)", code)
    }

    private static func identity(_ path: String) -> Identity? {
        var status = stat()
        guard lstat(path, &status) == 0 else { return nil }
        return Identity(device: UInt(status.st_dev), inode: UInt(status.st_ino))
    }
}

/// The one translation of errno here.
private func failure(_ attempt: String, _ code: Int32) -> RPCStatus {
    let text = "\(attempt): \(String(cString: strerror(code)))"
    switch code {
    case EADDRINUSE: return RPCStatus(.alreadyExists, text)
    case EACCES, EPERM: return RPCStatus(.permissionDenied, text)
    case EADDRNOTAVAIL, ENOENT, ENOTDIR: return RPCStatus(.invalidArgument, text)
    default: return RPCStatus(.unavailable, text)
    }
}
