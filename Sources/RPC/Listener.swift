internal import Glibc

/// Numeric addresses, as opposed to names.
enum IPFamily {
    case v4, v6

    init?(of host: String) {
        var address = in6_addr()
        let plain = host.prefix { $0 != "%" }
        if inet_pton(AF_INET, host, &address) == 1 {
            self = .v4
        } else if inet_pton(AF_INET6, String(plain), &address) == 1 {
            self = .v6
        } else {
            return nil
        }
    }
}

/// One endpoint of a server, between being asked for and being served by gRPC.
///
/// A TCP port is bound at once and listened on when the server starts; its connections are counted before gRPC gets
/// them. A Unix socket is bound by gRPC under another name in the same directory and renamed when it has the
/// right mode: so it appears at once and complete, and gRPC, which unlinks what it bound, cannot unlink the
/// socket of a successor.
final class Listener: Sendable {
    let endpoint: RPCEndpoint
    let security: RPCSecurity
    let port: UInt16?
    let place: Place

    enum Place {
        case port(OwnedDescriptor)
        case path(UnixSocketFile)
    }

    init(endpoint: RPCEndpoint, security: RPCSecurity, group: UInt32?) throws(RPCStatus) {
        self.endpoint = endpoint
        self.security = security
        switch endpoint {
        case .unix(let path):
            let file = try UnixSocketFile(path: path, group: group)
            place = .path(file)
            port = nil
        case .tcp(let host, let wanted):
            let reservation = try PortReservation(host: host, port: wanted)
            place = .port(reservation.descriptor)
            port = reservation.port
        }
    }

    /// Called when the server listens.
    func publish() throws(RPCStatus) {
        switch place {
        case .port(let descriptor): descriptor.close()
        case .path(let file): try file.publish()
        }
    }

    /// Called when no connection is wanted any more.
    func remove() {
        switch place {
        case .port(let descriptor): descriptor.close()
        case .path(let file): file.remove()
        }
    }
}
