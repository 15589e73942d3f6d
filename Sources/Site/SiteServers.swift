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
        /// Whose members may use the CSI socket, and a control socket beside it.
        package var group: UInt32?

        package init(control: RPCEndpoint, peers: RPCEndpoint?, csi: RPCEndpoint?, group: UInt32? = nil) {
            self.group = group
            self.control = control
            self.peers = peers
            self.csi = csi
        }
    }

    private let servers: [RPCServer]
    private let peerServer: PeerPort?
    /// The port on which peers are answered, if any.
    package let peerPort: UInt16?
    private let watch: Task<Void, Never>

    /// Starts to answer on all of them.
    package init(site: Site, endpoints: Endpoints, csi: RPCServer.Handler?) throws {
        let control = ControlService(site: site, peerEndpoint: endpoints.peers?.description ?? "")
        let controlServer = RPCServer { (call) async throws(RPCStatus) in try await control.handle(call) }
        try controlServer.listen(on: endpoints.control, security: .plaintext)
        if let group = endpoints.group, case .unix(let path)? = endpoints.csi {
            let beside = path[...(path.lastIndex(of: "/") ?? path.startIndex)] + "control.sock"
            try controlServer.listen(on: .unix(path: String(beside)), security: .plaintext, group: group)
        }
        var servers = [controlServer]
        if let endpoint = endpoints.csi, let csi {
            let server = RPCServer(handler: csi)
            try server.listen(on: endpoint, security: .plaintext, group: endpoints.group)
            servers.append(server)
        }
        for server in servers { try server.start() }
        self.servers = servers
        peerServer = try endpoints.peers.map { try PeerPort(site: site, endpoint: $0) }
        peerPort = peerServer?.port
        let (context, peerServer) = (site.context, peerServer)
        watch = Task { await IdentityWatch(context: context).run { await peerServer?.renew() } }
    }

    package func stop() async {
        watch.cancel()
        await watch.value
        await peerServer?.stop()
        for server in servers { await server.shutdown(grace: .seconds(2)) }
    }
}
