internal import PeerService
package import RPC
internal import SiteIdentity

/// The sockets on which a site answers: the command line, its peers, Kubernetes.
package final class SiteServers: Sendable {
    package struct Endpoints: Sendable {
        package var control: RPCEndpoint
        /// nil: peers cannot reach this site.
        package var peers: RPCEndpoint?
        /// nil: no CSI driver.
        package var csi: RPCEndpoint?

        package init(control: RPCEndpoint, peers: RPCEndpoint?, csi: RPCEndpoint?) {
            self.control = control
            self.peers = peers
            self.csi = csi
        }
    }

    private let servers: [RPCServer]
    /// The port on which peers are answered, if any.
    package let peerPort: UInt16?

    /// Starts to answer on all of them.
    package init(site: Site, endpoints: Endpoints, csi: RPCServer.Handler?) throws {
        let control = ControlService(site: site, peerEndpoint: endpoints.peers?.description ?? "")
        let controlServer = RPCServer { (call) async throws(RPCStatus) in try await control.handle(call) }
        try controlServer.listen(on: endpoints.control, security: .plaintext)
        var servers = [controlServer]
        var port: UInt16?
        if let peers = endpoints.peers {
            let peerService = PeerServer(
                backend: SitePeerBackend(site: site), statusOfError: { SiteStatus.status(of: $0) })
            let server = RPCServer { (call) async throws(RPCStatus) in try await peerService.handle(call) }
            let identity = site.context.identity
            port = try server.listen(
                on: peers,
                security: .mutualTLS(
                    certificateChainPEM: identity.certificateChainPEM, privateKeyPEM: identity.privateKeyPEM,
                    trustedRootsPEM: try identity.trustedRootsPEM(), expectedServerName: nil))
            servers.append(server)
        }
        if let endpoint = endpoints.csi, let csi {
            let server = RPCServer(handler: csi)
            try server.listen(on: endpoint, security: .plaintext)
            servers.append(server)
        }
        for server in servers { try server.start() }
        self.servers = servers
        peerPort = port
    }

    package func stop() async {
        for server in servers { await server.shutdown(grace: .seconds(2)) }
    }
}
