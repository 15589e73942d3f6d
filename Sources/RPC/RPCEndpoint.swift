/// Where a server listens, or a channel leads to.
package enum RPCEndpoint: Hashable, Sendable {
    case unix(path: String)
    /// An address or a name. Without brackets, also for IPv6. An empty host or "::" means all addresses
    /// of the machine to a server; so does "0.0.0.0", where gRPC listens on IPv6 as well.
    case tcp(host: String, port: UInt16)

    /// Reads "unix:///run/x.sock", "tcp://127.0.0.1:7443", "127.0.0.1:7443" and "[::1]:7443".
    package init?(_ text: String) {
        if text.hasPrefix("unix:") {
            var path = text.dropFirst("unix:".count)
            if path.hasPrefix("//") { path = path.dropFirst(2) }
            guard !path.isEmpty, !path.utf8.contains(0) else { return nil }
            self = .unix(path: String(path))
            return
        }
        let address = text.hasPrefix("tcp://") ? text.dropFirst("tcp://".count) : text[...]
        guard let colon = address.lastIndex(of: ":") else { return nil }
        let digits = address[address.index(after: colon)...]
        guard digits.allSatisfy({ $0.isASCII && $0.isNumber }), let port = UInt16(digits) else { return nil }
        var host = address[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
            guard host.contains(":") else { return nil }
        } else if host.contains(":") {
            return nil
        }
        // Names are ASCII in DNS; elsewhere a mark could join the colon before or behind it.
        guard host.utf8.allSatisfy({ (0x21...0x7e).contains($0) && !"/[]".utf8.contains($0) }) else {
            return nil
        }
        self = .tcp(host: String(host), port: port)
    }
}

extension RPCEndpoint {
    /// A text of the form "host:port", of one in which an address of IPv6 may lack its brackets, as Kubernetes gives a
    /// node's: "[fd00::1]:7443" of "fd00::1:7443". nil: it is no such text.
    package static func bracketed(_ text: String) -> String? {
        if case .tcp? = RPCEndpoint(text) { return text }
        guard let colon = text.lastIndex(of: ":"), IPFamily(of: String(text[..<colon])) == .v6 else {
            return nil
        }
        let bracketed = "[\(text[..<colon])]\(text[colon...])"
        return RPCEndpoint(bracketed) == nil ? nil : bracketed
    }
}

extension RPCEndpoint: CustomStringConvertible {
    package var description: String {
        switch self {
        case .unix(let path): "unix://\(path)"
        case .tcp(let host, let port):
            host.contains(":") ? "tcp://[\(host)]:\(port)" : "tcp://\(host):\(port)"
        }
    }
}

extension RPCEndpoint {
    /// The longest path that fits in `sockaddr_un` with its zero.
    static let maximumPathByteCount = 107

    static func checkPath(_ path: String) throws(RPCStatus) {
        guard !path.isEmpty, !path.utf8.contains(0) else {
            throw RPCStatus(.invalidArgument, "the path of a Unix socket is empty or contains a zero byte")
        }
        guard path.utf8.count <= maximumPathByteCount else {
            throw RPCStatus(
                .invalidArgument,
                "the path of a Unix socket is longer than \(maximumPathByteCount) bytes: \(path)")
        }
    }

    /// gRPC's name for a socket. It reads addresses as URIs.
    static func nativeUnixAddress(_ path: String) -> String { "unix:" + percentEncoded(path) }

    /// gRPC's name for this endpoint as the target of a channel.
    func nativeTarget() throws(RPCStatus) -> String {
        switch self {
        case .unix(let path):
            try Self.checkPath(path)
            return Self.nativeUnixAddress(path)
        case .tcp(let host, let port):
            guard port != 0, !host.isEmpty, !host.utf8.contains(0) else {
                throw RPCStatus(.invalidArgument, "\(self) has no host or no port to connect to")
            }
            switch IPFamily(of: host) {
            case .v4: return "ipv4:\(host):\(port)"
            case .v6: return "ipv6:\(Self.percentEncoded("[\(host)]")):\(port)"
            case nil: return "dns:///\(Self.percentEncoded(host)):\(port)"
            }
        }
    }

    private static func percentEncoded(_ text: String) -> String {
        var result = ""
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "."),
                UInt8(ascii: "_"),
                UInt8(ascii: "~"), UInt8(ascii: "/"):
                result.unicodeScalars.append(Unicode.Scalar(byte))
            default:
                let digits = String(byte, radix: 16, uppercase: true)
                result += digits.utf8.count == 1 ? "%0\(digits)" : "%\(digits)"
            }
        }
        return result
    }
}
