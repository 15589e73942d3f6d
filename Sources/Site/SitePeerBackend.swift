package import Catalog
internal import Foundation
internal import Handoff
package import Hydration
package import PeerProtocol
package import PeerService
package import RPC
internal import SiteIdentity
package import VolumeModel

/// What this site does for its peers.
package struct SitePeerBackend: PeerBackend {
    let site: Site
    var context: SiteContext { site.context }

    package init(site: Site) { self.site = site }

    package func authenticate(certificatePEM: String) throws -> SiteID {
        try context.identity.authenticate(leafPEM: certificatePEM)
    }

    package func hello() -> Godwit_Peer_V1_HelloReply {
        var reply = Godwit_Peer_V1_HelloReply()
        reply.site = context.site.description
        reply.release = Release.current
        reply.unixMilliseconds = Int64(Date().timeIntervalSince1970 * 1000)
        return reply
    }

    package func offer(
        _ request: Godwit_Peer_V1_OfferRequest, by owner: SiteID
    ) async throws -> Godwit_Peer_V1_OfferReply {
        guard let id = VolumeID(request.volume) else {
            throw PeerError.malformed(site: owner, "a volume identifier that is none")
        }
        let reign = Reign(owner, Epoch(request.epoch))
        let claim = request.hasClaim ? try ClaimCoding.facts(request.claim, from: owner) : nil
        var offered = VolumeRecord(
            id: id, name: request.name,
            limits: VolumeLimits(byteCount: request.capacity, inodeCount: request.inodeLimit),
            parameters: request.parameters,
            head: try HeadRecord(followerAt: context.site, of: reign), sharedWith: context.policy(for: owner))
        offered.isGuest = true
        let isMember = owner.site == context.site.site
        // A node that is new here is about to be asked for what it offers.
        if isMember { try await context.members?.look(for: owner) }
        if isMember, request.hasSettings { try offered.take(request.settings) }
        try await checkRight(of: owner, to: id)
        // Whoever owns the volume here is not to be overruled, nor asked for it, by a site that it does not name.
        if await site.knows(id), await site.isOwned(id) { _ = try await shared(id, with: owner) }
        let agent = try await site.adopt(
            offered, with: claim,
            at: isMember ? OfferStamp(epoch: reign.epoch, revision: request.revision) : nil)
        let isAnew = await agent.isOfferedAnew()
        try await agent.note(offered.limits)
        if request.ahead { try await agent.beginTakingAhead() }
        var reply = Godwit_Peer_V1_OfferReply()
        if request.withoutReplica, try await !agent.hasReplica(of: owner) {
            try await agent.beginPreparing(reign)
        } else {
            reply.sequence = try await agent.prepare(reign).number
        }
        if isMember {
            if request.hasSettings { try await agent.take(request.settings, claim) }
        } else if let report = try await agent.note(claim, isAnew: isAnew) {
            reply.claim = ClaimCoding.peer(report)
        }
        return reply
    }

    package func catalog(
        of volume: VolumeID, reign: Epoch, for peer: SiteID
    ) async throws -> Catalog {
        let agent = try await shared(volume, with: peer)
        try await agent.waitForNames(.seconds(60))
        return try await agent.catalogForFollower(peer, reign: reign)
    }

    package func reader(
        of volume: VolumeID, reign: Epoch, seen files: SeenFiles?, for peer: SiteID
    ) async throws -> HeadReader {
        try await shared(volume, with: peer).reader(for: reign, of: peer, seen: files)
    }

    package func passingReader(
        of volume: VolumeID, reign: Epoch, for peer: SiteID
    ) async throws -> HeadReader {
        try await checkRight(of: peer, to: volume)
        return try await shared(volume, with: peer).passingReader(for: peer, reign: reign)
    }

    package func reader(
        of volume: VolumeID, grantedTo heir: Epoch, named name: StateName, for peer: SiteID
    ) async throws -> HeadReader {
        // Whom the volume went to from there is not known here: that the state can be named is the right to read it. To
        // anybody else there is no such volume.
        guard await site.knows(volume), let agent = try? await site.agent(volume),
            let reader = try? await agent.reader(grantedTo: heir, named: name)
        else { throw PeerError.unknownVolume(volume) }
        return reader
    }

    package func content(
        of block: LostBlock, of volume: VolumeID, for peer: SiteID
    ) async throws -> [UInt8]? {
        try await checkRight(of: peer, to: volume)
        return try await shared(volume, with: peer).content(of: block, for: peer)
    }

    package func lacking(
        _ extents: [Extent], of volume: VolumeID, reign: Epoch, through sequence: SequenceNumber?,
        hops: UInt32,
        within limit: Duration, for peer: SiteID
    ) async throws -> (byteCounts: [UInt64], silent: Set<SiteID>) {
        try await shared(volume, with: peer).lacking(
            extents, for: reign, of: peer, through: sequence, hops: hops, within: limit)
    }

    package func exchange(
        _ message: Godwit_Peer_V1_HandoffMessage, from peer: SiteID
    ) async throws -> Godwit_Peer_V1_HandoffMessage {
        guard let id = VolumeID(message.volume) else {
            throw PeerError.malformed(site: peer, "a volume identifier that is none")
        }
        try await checkRight(of: peer, to: id)
        return try await shared(id, with: peer).receive(message, from: peer)
    }

    package func takeOver(
        _ request: Godwit_Peer_V1_TakeOverRequest, by peer: SiteID
    ) async throws -> Godwit_Peer_V1_TakeOverReply {
        guard let id = VolumeID(request.volume) else {
            throw PeerError.malformed(site: peer, "a volume identifier that is none")
        }
        try await checkRight(of: peer, to: id)
        let agent = try await shared(id, with: peer)
        let patience = Duration.milliseconds(Int64(request.waitMilliseconds))
        guard patience <= PeerLimits.takeOverWait else {
            throw SiteError.invalid(
                "a wait of \(patience) for a volume: it is \(PeerLimits.takeOverWait) at most")
        }
        var reply = Godwit_Peer_V1_TakeOverReply()
        if request.promised > 0 {
            // Also where the caller does not wait for it: on a slow link it would be cut off again and again.
            let work = Task { try await agent.goOnExclusively(to: Epoch(request.promised)) }
            reply.epoch = try await work.value.number
            return reply
        }
        reply.epoch = try await agent.ownExclusively(patience: patience).number
        return reply
    }

    package func status(of volume: VolumeID, for peer: SiteID) async throws -> Godwit_Peer_V1_VolumeStatus {
        // Another site asks how far this one is, whichever of its nodes it asks.
        if peer.site != context.site.site, let members = context.members,
            let keeper = try await members.keeper(of: volume), keeper.member != context.site
        {
            guard keeper.record.isShared(with: peer) else { throw PeerError.unknownVolume(volume) }
            return try await context.client(of: keeper.member).status(of: volume)
        }
        return try await shared(volume, with: peer).summary().peerMessage(site: context.site)
    }

    package func locate(
        _ volume: VolumeID, for peer: SiteID
    ) async throws -> Godwit_Peer_V1_LocateReply {
        // Of what is not for it a site learns nothing.
        let (member, holders) = try await site.locate(volume) { record in
            peer.site == context.site.site || record.isShared(with: peer)
        }
        var reply = Godwit_Peer_V1_LocateReply()
        reply.member = member.description
        reply.holders = holders.map(\.description)
        return reply
    }

    package func serveMember(_ member: SiteID) -> RPCServer.Handler? {
        guard member.site == context.site.site, member != context.site else { return nil }
        let service = ControlService(site: site, peerEndpoint: "", isForMembers: true)
        return { (call) async throws(RPCStatus) in try await service.handle(call) }
    }

    package func withdraw(
        _ request: Godwit_Peer_V1_WithdrawRequest, by peer: SiteID
    ) async throws -> Godwit_Peer_V1_WithdrawReply {
        guard let id = VolumeID(request.volume) else {
            throw PeerError.malformed(site: peer, "a volume identifier that is none")
        }
        var reply = Godwit_Peer_V1_WithdrawReply()
        reply.forgotten = true
        // For whom it does not exist it is forgotten.
        if let agent = try await known(id, to: peer) {
            // What was once here and went to another node of this site stays, as at any site that owned it.
            if case .retired(let reign) = await agent.record.head.role, reign.owner != peer,
                reign.owner.site == context.site.site
            {
                reply.forgotten = false
                return reply
            }
            let isStamped = request.epoch != 0 && peer.site == context.site.site
            reply.forgotten = try await site.withdraw(
                id, by: peer,
                at: isStamped ? OfferStamp(epoch: Epoch(request.epoch), revision: request.revision) : nil)
        }
        return reply
    }

    /// At a site of several nodes the one decides that has the volume: what another remembers of whom it was shared with
    /// may be from before a right was taken back, or another may never have heard of the volume.
    ///
    /// - Throws: `.unknownVolume` for a site, or a node of one, that the owner here does not name.
    private func checkRight(of peer: SiteID, to id: VolumeID) async throws {
        guard peer.site != context.site.site, let members = context.members else { return }
        var record = await site.ownedRecord(id)
        if record == nil { record = try await members.keeper(of: id)?.record }
        guard let record else { return }
        guard !record.head.hasOwnHead || record.isShared(with: peer) else {
            throw PeerError.unknownVolume(id)
        }
    }

    /// A volume that the peer may know of; any other does not exist for it.
    private func shared(_ id: VolumeID, with peer: SiteID) async throws -> VolumeAgent {
        guard let agent = try await known(id, to: peer) else { throw PeerError.unknownVolume(id) }
        return agent
    }

    private func known(_ id: VolumeID, to peer: SiteID) async throws -> VolumeAgent? {
        guard await site.knows(id) else { return nil }
        let agent = try await site.agent(id)
        let isMember = peer.site == context.site.site && context.members != nil
        let isShared = await agent.record.isShared(with: peer)
        return isMember || isShared ? agent : nil
    }
}

extension VolumeAgent {
    /// Makes this site a follower of a reign, with its catalog as of now. May be repeated.
    func prepare(_ reign: Reign) async throws -> SequenceNumber {
        try await accept(reign)
        return try await follow(reign.owner)
    }

    /// Makes this site one that may take the volume over, without a replica. May be repeated.
    func beginPreparing(_ reign: Reign) async throws {
        try await accept(reign)
        guard case .following(let present) = record.head.role, present.owner == reign.owner else { return }
        try await prepareReplica(of: reign.owner)
    }

    private func accept(_ reign: Reign) async throws {
        try checkServed()
        try await apply(.prepare(reign))
        // Named only once the machine has accepted it as the owner.
        let policy = context.policy(for: reign.owner)
        try await change { $0.sharedWith.formUnion(policy) }
    }

    /// Its owner wants this site to take bytes ahead of a hand-over.
    func beginTakingAhead() async throws {
        guard !record.head.hasOwnHead, !record.hydration.isAhead else { return }
        try await change { $0.hydration.isAhead = true }
    }

    /// The head that is in use here, for a follower that has taken its names lately.
    func passingReader(for peer: SiteID, reign: Epoch) throws -> HeadReader {
        guard case .owning = record.head.role, followers[peer] != nil else {
            throw PeerError.refused("volume \(id) is not owned here and followed by site \(peer)")
        }
        // It keeps up without this: what it has followed lately is no matter of bytes.
        let last = followers[peer]
        defer { followers[peer] = last }
        _ = try catalogForFollower(peer, reign: reign)
        return HeadReader(storage: try openHead(record.headNumber).storage, hydrator: nil, seen: .passing)
    }

    /// The catalog that a follower takes changes of: the head that we own, or sealed for it.
    ///
    /// - Parameter reign: the epoch under which the follower knows this site as the owner.
    func catalogForFollower(_ peer: SiteID, reign: Epoch) throws -> Catalog {
        if let obstacle { throw PeerError.refused(obstacle) }
        let present: Epoch
        switch record.head.role {
        case .owning(let epoch, _): present = epoch
        case .sealed(let epoch, let grant), .reclaiming(let epoch, let grant):
            present = epoch
            guard grant.heir.owner == peer else {
                throw PeerError.refused("volume \(id) was handed to \(grant.heir)")
            }
        case .following, .acquiring, .receiving, .declining, .sealing, .retired, .fenced:
            throw PeerError.refused("volume \(id) is not owned here")
        }
        guard reign <= present else {
            throw PeerError.refused(
                "volume \(id) is known at site \(peer) to be of epoch \(reign) and here of epoch \(present): what is "
                    + "here is older, restored perhaps, and not to be followed")
        }
        followers[peer] = .now
        return try openHead(record.headNumber).storage.catalog
    }
}
