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
/// gRPC binds only when it starts. Until then a TCP port is held by a socket that is bound but does not
/// listen, which gRPC's socket does not mind (both have SO_REUSEADDR) but everyone else does. A Unix
/// socket is bound by gRPC under another name in the same directory and renamed when it has the right
/// mode: so it appears at once and complete, and gRPC, which unlinks what it bound, cannot unlink
/// the socket of a successor.
final class Listener: Sendable {
    let endpoint: RPCEndpoint
    let security: RPCSecurity
    /// As gRPC names it.
    let nativeAddress: String
    let port: UInt16?
    private let place: Place

    private enum Place {
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
            nativeAddress = RPCEndpoint.nativeUnixAddress(file.temporaryPath)
            port = nil
        case .tcp(let host, let wanted):
            let reservation = try PortReservation(host: host, port: wanted)
            place = .port(reservation.descriptor)
            nativeAddress = reservation.numericAddress
            port = reservation.port
        }
    }

    /// Called when gRPC listens.
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
