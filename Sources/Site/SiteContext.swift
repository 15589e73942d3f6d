package import Hydration
package import Logging
package import MountHolder
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
    package let logger: Logger
    package let hydration: Hydrator.Configuration
    /// How long after its last use a volume that is not mounted keeps its files open.
    let restAfter: Duration
    /// Who keeps the mounts while this process is replaced; nil: nobody.
    let holder: HolderClient?
    /// What is kept of volumes that have left.
    let copies: KeptCopies
    private let current: Mutex<SiteIdentity>
    /// Whom the keys trusted when they were taken into use: what is on disk may be newer.
    private let trusted: Mutex<Set<SiteIdentity.Peer>>
    private let clients = Mutex<[SiteID: PeerClient]>([:])
    /// How long takeovers by this site took, from asking the owner to stop until this site could write.
    let handoffs = Mutex(TimeHistogram(bounds: TimeHistogram.handoffBounds))

    /// The keys that are in use, and whom they trust.
    package var identity: SiteIdentity { current.withLock { $0 } }

    package init(
        node: String, state: StateDirectory, registry: any SiteRegistry, identity: SiteIdentity,
        hydration: Hydrator.Configuration, copies: CopyPolicy = .whileThereIsRoom,
        restAfter: Duration = .seconds(60), holder: HolderClient? = nil, logger: Logger
    ) {
        self.restAfter = restAfter
        site = identity.site
        self.node = node
        self.state = state
        self.registry = registry
        current = Mutex(identity)
        trusted = Mutex(Self.peers(of: identity))
        self.hydration = hydration
        self.holder = holder
        self.copies = KeptCopies(copies, in: state)
        self.logger = logger
    }

    /// The connections to a peer, made at the first use.
    func client(of peer: SiteID) throws -> PeerClient {
        if let known = clients.withLock({ $0[peer] }) { return known }
        let identity = self.identity
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
        let used = clients.withLock { clients in
            // Keys that changed meanwhile are for nobody to use again.
            guard self.identity === identity else { return nil as PeerClient? }
            clients[peer] = clients[peer] ?? client
            return clients[peer]
        }
        if used !== client { client.close() }
        return try used ?? self.client(of: peer)
    }

    /// How long calls that are under way with old keys may take.
    private static let oldCallPatience: Duration = .seconds(60)

    /// From now on connections are made with these keys, and with those who are trusted now.
    func use(_ fresh: SiteIdentity) {
        let now = Self.peers(of: fresh)
        let kept = trusted.withLock { trusted in
            defer { trusted = now }
            return Set(trusted.intersection(now).map(\.site))
        }
        let old = clients.withLock { clients in
            defer { clients = [:] }
            current.withLock { $0 = fresh }
            return clients
        }
        for (site, client) in old {
            guard kept.contains(site) else {
                client.close()
                continue
            }
            Task {
                try? await Task.sleep(for: Self.oldCallPatience)
                client.close()
            }
        }
    }

    /// None, if that cannot be read: then every connection is made anew.
    private static func peers(of identity: SiteIdentity) -> Set<SiteIdentity.Peer> {
        Set((try? identity.peers()) ?? [])
    }

    func closeClients() {
        let all = clients.withLock { clients in
            defer { clients = [:] }
            return Array(clients.values)
        }
        for client in all { client.close() }
    }
}
