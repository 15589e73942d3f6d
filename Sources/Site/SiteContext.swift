package import Catalog
package import Hydration
package import Logging
package import MountHolder
package import PeerService
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
    /// How what is stored is looked through while nobody asks for it.
    let scrubbing: ScrubPolicy
    /// What names and inodes of each volume in use may take.
    let memory: CatalogMemory
    /// Who keeps the mounts while this process is replaced; nil: nobody.
    let holder: HolderClient?
    /// What is kept of volumes that have left.
    let copies: KeptCopies
    /// What other sites have offered.
    let offers: SiteOffers
    private let current: Mutex<SiteIdentity>
    /// Whom the keys trusted when they were taken into use: what is on disk may be newer.
    private let trusted: Mutex<Set<SiteIdentity.Peer>>
    /// Why what is on disk could not be taken into use, for people; nil: it is in use.
    let keysTrouble = Mutex<String?>(nil)
    private let clients = Mutex<[SiteID: Connection]>([:])
    /// Where other nodes of this site reach this one, as host:port; nil: nowhere.
    let advertised: String?
    /// The nodes of this site; nil: there is this one alone.
    let members: SiteMembers?
    /// The sites that have said that they are one node, and until when that is believed.
    private let single = Mutex<[SiteID: ContinuousClock.Instant]>([:])
    private static let singlePatience: Duration = .seconds(60)
    /// How long takeovers by this site took, from asking the owner to stop until this site could write.
    let handoffs = Mutex(TimeHistogram(bounds: TimeHistogram.handoffBounds))

    /// Whether other sites know of later reigns than those that this one takes for its own.
    let confirmations = Confirmations()

    /// What peers sent that no sound site sends.
    package let misconduct: PeerMisconduct

    /// What disks had damaged and was restored from other copies, since the process began.
    let repairedByteCount = Atomic<UInt64>(0)

    /// The keys that are in use, and whom they trust.
    package var identity: SiteIdentity { current.withLock { $0 } }

    package init(
        node: String, state: StateDirectory, registry: any SiteRegistry, identity: SiteIdentity,
        hydration: Hydrator.Configuration, copies: CopyPolicy = .whileThereIsRoom,
        restAfter: Duration = .seconds(60), scrubbing: ScrubPolicy = ScrubPolicy(),
        memory: CatalogMemory = .standard, offers: OfferLimits = OfferLimits(),
        holder: HolderClient? = nil, advertised: String? = nil,
        logger: Logger
    ) {
        self.advertised = advertised
        self.scrubbing = scrubbing
        self.restAfter = restAfter
        self.memory = memory
        site = identity.site
        self.node = node
        members =
            site.node == nil
            ? nil
            : (registry as? any SharedSiteRegistry).map { SiteMembers(own: identity.site, registry: $0) }
        self.state = state
        self.registry = registry
        current = Mutex(identity)
        trusted = Mutex(Self.peers(of: identity))
        self.hydration = hydration
        self.holder = holder
        self.copies = KeptCopies(copies, in: state)
        self.offers = SiteOffers(offers, in: state, of: identity.site)
        misconduct = PeerMisconduct { logger.warning("\($0)") }
        self.logger = logger
    }

    /// Whom a volume is to be shared with that an owner brings: its site as a whole. Nodes of this site know it anyway.
    func policy(for owner: SiteID) -> Set<SiteID> { owner.site == site.site ? [] : [owner.site] }

    /// How whoever looks after this site says whom it trusts, before `trust` and `distrust`: members of a cluster's site
    /// take their trust from the cluster.
    var trustCommand: String { members == nil ? "godwit pki" : "kubectl godwit" }

    private struct Connection {
        let client: PeerClient
        let address: String
    }

    /// The connections to a peer, made at the first use: another site, one of its nodes, or another node of this one.
    func client(of peer: SiteID) throws -> PeerClient {
        let identity = self.identity
        let isMember = peer.site == site.site
        if let known = clients.withLock({ $0[peer] }),
            !isMember || members?.address(of: peer) == known.address
        {
            return known.client
        }
        let (address, endpoint) = try self.address(of: peer, isMember: isMember, identity)
        let security = RPCSecurity.mutualTLS(
            certificateChainPEM: identity.certificateChainPEM, privateKeyPEM: identity.privateKeyPEM,
            trustedRootsPEM: try identity.rootPEM(of: peer), expectedServerName: identity.serverName(of: peer)
        )
        let client = try PeerClient(
            site: peer, endpoint: endpoint, security: security, misconduct: misconduct
        ) {
            identity.clockTrouble().map { "\($0)" }
        }
        let (used, old) = clients.withLock { clients in
            // Keys that changed meanwhile are for nobody to use again.
            guard self.identity === identity else { return (nil as PeerClient?, nil as PeerClient?) }
            let old = clients[peer]
            if old?.address == address { return (old?.client, nil) }
            clients[peer] = Connection(client: client, address: address)
            return (client, old?.client)
        }
        old?.close()
        if used !== client { client.close() }
        return try used ?? self.client(of: peer)
    }

    private func address(
        of peer: SiteID, isMember: Bool, _ identity: SiteIdentity
    ) throws -> (String, RPCEndpoint) {
        if isMember {
            guard peer != site, let members else { throw PeerError.notTrusted(peer) }
            guard let address = members.address(of: peer), let endpoint = RPCEndpoint(address) else {
                throw SiteError.unavailable(
                    "no address of node '\(peer.node ?? "")' is known: does Godwit run there?")
            }
            return (address, endpoint)
        }
        guard let trusted = try identity.peers().first(where: { $0.site == peer.site }) else {
            throw PeerError.notTrusted(peer)
        }
        guard let address = trusted.address, let endpoint = RPCEndpoint(address) else {
            throw PeerError.refused(
                "no address of site \(peer.site) is known: '\(trustCommand) trust' its document with an address"
            )
        }
        return (address, endpoint)
    }

    /// Who of a site has a volume, or would best have it, and who of it knows the volume at all.
    ///
    /// - Parameters:
    ///   - place: a site, or one node of it, which is the answer then.
    ///   - isExact: whether it must be asked even if it was one node a moment ago.
    func locate(
        _ id: VolumeID, at place: SiteID, isExact: Bool = false
    ) async throws -> (member: SiteID, holders: [SiteID]) {
        if place.node != nil {
            if place.site == site.site { try await members?.look(for: place) }
            return (place, [place])
        }
        if !isExact, let limit = single.withLock({ $0[place] }), ContinuousClock.now < limit {
            return (place, [place])
        }
        if place == site.site, let members {
            let placements = try await members.placements(of: id)
            return (Placement.keeper(among: placements)?.member ?? site, placements.map(\.member))
        }
        let (member, holders) = try await client(of: place).locate(id)
        if member == place { single.withLock { $0[place] = .now + Self.singlePatience } }
        return (member, holders)
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
            return clients.mapValues(\.client)
        }
        single.withLock { $0 = [:] }
        for (site, client) in old {
            guard kept.contains(site.site) || site.site == fresh.site.site else {
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
            return clients.values.map(\.client)
        }
        for client in all { client.close() }
    }
}
