internal import Handoff
internal import PeerService
internal import RPC
internal import VolumeModel

/// The claim that comes with an offer, and the end of an offer.
extension VolumeAgent {
    /// Whether an offer made now begins something, rather than repeats what was offered.
    func isOfferedAnew() -> Bool {
        if case .retired = record.head.role { true } else { record.claim == nil }
    }

    /// Keeps the claim that came with an offer, for this cluster's controller.
    ///
    /// - Parameter isAnew: what was done about the claim when the volume was here before does not count.
    /// - Returns: what has become of it.
    func note(_ facts: ClaimFacts?, isAnew: Bool) async throws -> ClaimReport? {
        guard let facts, !record.head.hasOwnHead else { return nil }
        if isAnew || record.claim?.facts != facts {
            try context.offers.admit(record, with: facts)
            try await change { $0.claim = ForeignClaim(facts: facts) }
            context.offers.note(record)
        }
        return record.claim?.report
    }

    /// What the owner says that the volume may hold by now: it only grows.
    func note(_ limits: VolumeLimits) async throws {
        let agreed = record.limits.agreed(with: limits)
        guard !record.head.hasOwnHead, limits.isCountable, agreed != record.limits else { return }
        try await change { $0.limits = agreed }
    }

    /// This cluster's controller says what has become of the claim.
    func report(_ report: ClaimReport) async throws {
        try await change { $0.claim?.report = report }
    }

    /// The owner takes its offer back: this site follows it no longer, and forgets what it knows only by that offer.
    ///
    /// - Parameter stamp: when the owner did, a node of this site. What it has offered since stays: this comes late.
    /// - Returns: whether nothing of the volume is left here.
    func leave(asToldBy owner: SiteID, at stamp: OfferStamp?) async throws -> Bool {
        switch record.head.role {
        // Whichever node of its site says so.
        case .following(let reign) where reign.owner.site == owner.site: break
        case .retired(let reign) where reign.owner.site == owner.site: break
        case .following, .retired, .acquiring, .receiving, .declining, .owning, .sealing, .sealed,
            .reclaiming,
            .fenced:
            throw SiteError.precondition(
                "volume '\(record.name)' cannot be forgotten at site \(context.site): it is \(record.head.role.name)"
            )
        }
        if let stamp {
            if let known = record.head.knownReign, known.epoch > stamp.epoch { return false }
            guard !isOffered(since: stamp) else { return false }
            try await apply(.ownerAnnounced(Reign(owner, stamp.epoch)))
        }
        if !isReadingPresent { try await endReading() }
        guard record.reading == nil else {
            throw SiteError.precondition("volume '\(record.name)' is read at node '\(context.node)'")
        }
        try await apply(.leave) { !isOffered(since: stamp) }
        guard !isOffered(since: stamp) else { return false }
        guard case .retired = record.head.role else {
            throw SiteError.busy("volume '\(record.name)' was offered again meanwhile")
        }
        if record.isGuest, record.head.keptReigns.isEmpty, record.head.divergences.isEmpty {
            try await delete()
            return true
        }
        try await change { $0.claim = nil }
        return false
    }

    /// A node of this site that was offered the volume, owned here, is not to follow it for ever; unless it was let in to
    /// read. Nothing depends on it, and what it is offered later stays, however late this comes.
    func takeBackOffer(toMember member: SiteID, timeout: Duration) async {
        guard case .owning(let epoch, _) = record.head.role,
            !record.head.readers.contains(where: { $0.member == member })
        else { return }
        let stamp = OfferStamp(epoch: epoch, revision: stored.revision)
        _ = try? await context.client(of: member).withdraw(id, at: stamp, timeout: timeout)
    }

    /// Lets a site that was to take this volume over forget it. May be repeated.
    ///
    /// - Throws: what the site says when it is taking the volume over already.
    func takeBackOffer(to peer: SiteID) async throws {
        guard try isToBeHandedOver(to: peer) else {
            throw SiteError.precondition("volume '\(record.name)' was handed over to site \(peer) already")
        }
        guard record.sharedWith.contains(peer) else { return }
        var isForgotten = true
        for member in try await context.locate(id, at: peer, isExact: true).holders {
            isForgotten = try await context.client(of: member).withdraw(id) && isForgotten
        }
        // Who had it before may have it back.
        let isNeeded = try await isNeeded(by: peer)
        guard isForgotten, !isNeeded else {
            forgetFollowers(at: peer)
            return
        }
        try await change { $0.sharedWith.remove(peer) }
        try await forgetReplica(of: peer)
    }

    /// Before the volume is deleted here, sites that follow it forget it: else their replicas, and the claims that were
    /// made for them, would wait for ever. Only its owner may tell them. May be repeated.
    ///
    /// - Throws: `.unavailable` when one cannot be told, or is taking the volume over.
    func takeBackAllOffers() async throws {
        guard case .owning = record.head.role else { return }
        for peer in record.sharedWith.sorted(by: { $0.description < $1.description }) {
            do {
                try await takeBackOffer(to: peer)
            } catch PeerError.notTrusted {
                // Whoever is not trusted any more is told nothing, and gets nothing.
                continue
            } catch PeerError.call(_, _, let status) where status.code == .notFound {
                continue
            } catch {
                let revoke = "'godwit volume revoke \(record.name) --site \(peer)', or "
                throw SiteError.unavailable(
                    "volume '\(record.name)' is not deleted, because site \(peer) may follow it and has not "
                        + "forgotten it: \(error). It is tried again; if that site is gone for good: "
                        + (context.members == nil ? revoke : "")
                        + "'\(context.trustCommand) distrust \(peer)'")
            }
        }
        guard case .owning = record.head.role else {
            throw SiteError.busy("volume '\(record.name)' is changing hands")
        }
    }

    /// Takes back a site's right to know of this volume, whether or not it can be asked. Of several nodes what the one
    /// says that has the volume counts, whatever the others remember.
    ///
    /// - Throws: `.precondition` when the volume is there, or bytes are kept at one of the two sites for the other:
    ///   these are asked for under that right.
    func revoke(_ peer: SiteID) async throws {
        guard record.sharedWith.contains(peer) else { return }
        let isNeeded = try await isNeeded(by: peer)
        guard record.head.knownReign?.owner.site != peer, !isNeeded else {
            throw SiteError.precondition(
                "volume '\(record.name)' is at site \(peer), or bytes of it are on their way from or to there"
            )
        }
        try await change { $0.sharedWith.remove(peer) }
        try await forgetReplica(of: peer)
        logger.notice("site \(peer) may know of the volume no longer")
    }

    /// Whether bytes are kept at one of the two sites for the other, at whichever of its nodes.
    private func isNeeded(by peer: SiteID) async throws -> Bool {
        let others = try await context.members?.placements(of: id).map(\.record.head) ?? []
        return ([record.head] + others).contains { head in
            head.sources.contains { $0.site.site == peer }
                || head.grants.contains { $0.heir.owner.site == peer }
        }
    }

    /// A site follows no longer: what was kept for it, or for its nodes, alone may go.
    private func forgetReplica(of peer: SiteID) async throws {
        forgetFollowers(at: peer)
        guard record.head.hasOwnHead, record.headNumber != 0 else { return }
        let catalog = try openHead(record.headNumber).storage.catalog
        let pins = try catalog.perform { try $0.pinNames() }.filter { SiteID($0)?.site == peer }
        try await onBlockingThread { for pin in pins { try catalog.dismiss(pin) } }
    }

    private func forgetFollowers(at site: SiteID) {
        for follower in followers.keys where follower.site == site { forgetFollower(follower) }
    }
}
