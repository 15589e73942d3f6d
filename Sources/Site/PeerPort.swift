internal import Handoff
internal import Logging
package import PeerService
internal import RPC
internal import SiteIdentity
internal import Synchronization
internal import VolumeModel

/// The port on which peers are answered, with the keys and the trust of the moment.
///
/// A TLS server keeps the certificates that it began with. So there is a new one when they change, on the same port;
/// the old one lets its calls end for a moment, and peers come again to the new one by themselves.
final class PeerPort: Sendable {
    private static let grace: Duration = .seconds(2)

    private let context: SiteContext
    private let service: PeerServer
    private let limits: PeerLimits
    private let endpoint: RPCEndpoint
    private let server: Mutex<RPCServer>
    let port: UInt16?

    init(site: Site, endpoint: RPCEndpoint, limits: PeerLimits = PeerLimits()) throws {
        context = site.context
        self.limits = limits
        // One for all servers: what a peer has open is counted across them.
        service = PeerServer(site: site, limits: limits)
        let (server, port) = try Self.server(on: endpoint, context, service, limits)
        self.server = Mutex(server)
        self.port = port
        // The same port again, also if it was one of the system's choice.
        self.endpoint =
            if case .tcp(let host, _) = endpoint, let port { .tcp(host: host, port: port) } else { endpoint }
    }

    private static func server(
        on endpoint: RPCEndpoint, _ context: SiteContext, _ service: PeerServer, _ limits: PeerLimits
    ) throws -> (server: RPCServer, port: UInt16?) {
        var options = limits.serverOptions
        options.noteRefusedConnection = { [misconduct = context.misconduct] in
            misconduct.noteRefusedConnection()
        }
        let server = RPCServer(options: options) { (call) async throws(RPCStatus) in
            try await service.handle(call)
        }
        let identity = context.identity
        let port = try server.listen(
            on: endpoint,
            security: .mutualTLS(
                certificateChainPEM: identity.certificateChainPEM, privateKeyPEM: identity.privateKeyPEM,
                trustedRootsPEM: try identity.trustedRootsPEM(), expectedServerName: nil))
        try server.start()
        return (server, port)
    }

    /// Answers with what the site's identity is now.
    func renew() async {
        let old = server.withLock { $0 }
        let stopping = Task { await old.shutdown(grace: Self.grace) }
        var lastFailure = ""
        while !Task.isCancelled {
            do {
                let fresh = try Self.server(on: endpoint, context, service, limits).server
                server.withLock { $0 = fresh }
                break
            } catch {
                // The old one lets go of the port in a moment.
                if "\(error)" != lastFailure { context.logger.debug("peers' port: \(error)") }
                lastFailure = "\(error)"
                try? await Task.sleep(for: .milliseconds(20))
            }
        }
        _ = await stopping.value
    }

    func stop() async { _ = await server.withLock { $0 }.shutdown(grace: Self.grace) }
}

extension PeerServer {
    /// What answers the peers of a site.
    ///
    /// - Parameter backend: instead of the site's own.
    package init(site: Site, limits: PeerLimits, backend: (any PeerBackend)? = nil) {
        self.init(
            backend: backend ?? SitePeerBackend(site: site), limits: limits,
            misconduct: site.context.misconduct,
            isImpossible: {
                switch $0 as? HandoffError {
                case .implausible?, .contradiction?: true
                default: false
                }
            }, statusOfError: { SiteStatus.status(of: $0) })
    }
}
