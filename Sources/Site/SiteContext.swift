package import Hydration
package import Logging
internal import PeerService
internal import RPC
package import SiteIdentity
internal import Synchronization
package import VolumeModel

/// What everything in a site needs: who it is, where it keeps things, whom it knows.
package final class SiteContext: Sendable {
    package let site: SiteID
    /// The name of this host within the site.
    package let node: String
    package let state: StateDirectory
    package let registry: any SiteRegistry
    package let identity: SiteIdentity
    package let logger: Logger
    package let hydration: Hydrator.Configuration
    private let clients = Mutex<[SiteID: PeerClient]>([:])

    package init(
        node: String, state: StateDirectory, registry: any SiteRegistry, identity: SiteIdentity,
        hydration: Hydrator.Configuration, logger: Logger
    ) {
        site = identity.site
        self.node = node
        self.state = state
        self.registry = registry
        self.identity = identity
        self.hydration = hydration
        self.logger = logger
    }

    /// The connections to a peer, made at the first use.
    func client(of peer: SiteID) throws -> PeerClient {
        if let known = clients.withLock({ $0[peer] }) { return known }
        guard let trusted = try identity.peers().first(where: { $0.site == peer }) else {
            throw PeerError.notTrusted(peer)
        }
        guard let address = trusted.address, let endpoint = RPCEndpoint(address) else {
            throw PeerError.refused(
                "no address of site \(peer) is known: 'godwit pki trust' its document with an address")
        }
        let security = RPCSecurity.mutualTLS(
            certificateChainPEM: identity.certificateChainPEM, privateKeyPEM: identity.privateKeyPEM,
            trustedRootsPEM: try identity.rootPEM(of: peer), expectedServerName: identity.serverName(of: peer)
        )
        let client = try PeerClient(site: peer, endpoint: endpoint, security: security)
        return clients.withLock { clients in
            if let other = clients[peer] {
                client.close()
                return other
            }
            clients[peer] = client
            return client
        }
    }

    func closeClients() {
        let all = clients.withLock { clients in
            defer { clients = [:] }
            return Array(clients.values)
        }
        for client in all { client.close() }
    }
}
