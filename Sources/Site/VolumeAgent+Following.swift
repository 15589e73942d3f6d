internal import Catalog
internal import Handoff
internal import Hydration
internal import Logging
internal import PeerProtocol
internal import PeerService
internal import VolumeFileSystem
internal import VolumeModel

/// Following another site's head: all of it ahead of a hand-off, the last changes with it, or only the first names.
extension VolumeAgent {
    /// How often a prepared follower takes its owner's changes without being asked.
    private static let followInterval: Duration = .seconds(10)
    /// Who has followed this lately has so little to catch up that it can be done after the seal.
    private static let followCloseness: Duration = .seconds(30)

    func isClose(_ last: ContinuousClock.Instant?) -> Bool {
        last.map { ContinuousClock.now - $0 < Self.followCloseness } ?? false
    }

    /// Who of a site, or which node if it is one, has taken changes of this head lately.
    func closeFollower(at place: SiteID) -> SiteID? {
        followers.filter { ($0.key == place || $0.key.site == place) && isClose($0.value) }
            .max { $0.value < $1.value }?.key
    }

    func forgetFollower(_ site: SiteID) { followers[site] = nil }

    /// Until a replica for which there was no room is tried again.
    private static let exhaustedPause: Duration = .seconds(300)

    /// Keeps a prepared follower close behind its owner. A peer that is away holds up nobody else.
    func followOn() {
        guard case .following(let reign) = record.head.role, record.headNumber != 0,
            record.followedFrom == reign.owner, !isFollowing,
            lastFollowed.map({ ContinuousClock.now - $0 >= Self.followInterval }) ?? true,
            ContinuousClock.now >= nextFollow
        else { return }
        Task {
            do {
                _ = try await self.follow(reign.owner)
            } catch SiteError.exhausted(let text) {
                self.logger.notice("not followed for a while: \(text)")
                self.nextFollow = .now + Self.exhaustedPause
            } catch {
                self.logger.debug("will follow later: \(error)")
            }
        }
    }

    /// Brings a follower's catalog up to its owner's. The first time this takes all of it.
    ///
    /// - Returns: the owner's sequence number that is here durably.
    func follow(_ owner: SiteID) async throws -> SequenceNumber {
        try await followAlone { agent in
            let reached = try agent.followedSequence(of: owner)
            switch agent.record.head.role {
            // What was granted is here, or on its way: there is nothing to follow any more.
            case .receiving: return reached ?? .zero
            // It is being taken over, so names that are not here yet come with that.
            case .acquiring where reached == nil: return .zero
            default: return try await agent.takeChanges(of: owner)
            }
        }
    }

    /// What a follower has of its owner; nil: nothing.
    func followedSequence(of owner: SiteID) throws -> SequenceNumber? {
        guard record.headNumber != 0, record.followedFrom == owner else { return nil }
        let catalog = try openHead(record.headNumber).storage.catalog
        // What arrives directory by directory is the head of one grant, and no replica.
        if catalog.isArriving {
            guard case .receiving = record.head.role else { return nil }
        }
        return try catalog.originSequence()
    }

    /// The name of the owner's head that a follower has followed; nil: none, or it is not known.
    func followedHeadName(of owner: SiteID) throws -> StateName? {
        guard try followedSequence(of: owner) != nil else { return nil }
        return try openHead(record.headNumber).storage.catalog.originHeadName()
    }

    /// Before anything is sealed: who asks for the head must not have a newer state of it. It would be cut back.
    func checkIsNotBehind(_ follower: SiteID, _ request: Godwit_Peer_V1_SealRequest) throws {
        guard case .owning = record.head.role, request.followed > 0,
            let head = StateName(request.followedHeadName)
        else { return }
        let catalog = try openHead(record.headNumber).storage.catalog
        let position = SequenceNumber(request.followed)
        guard try catalog.isBehind(follower.description, at: position, of: head) else { return }
        logger.error("not handed over: site \(follower) has followed a newer state than what is here")
        throw PeerError.behind(id, follower: follower)
    }

    /// That the owner is behind what was followed here, and what to do; nil: it is not.
    var newerReplicaText: String? {
        guard let owner = newerReplica, !record.head.hasOwnHead, record.followedFrom == owner else {
            return nil
        }
        return
            "site \(owner) owns an older state than the one that was followed here: it went back in time, as by a "
            + "snapshot that was restored. What is here stays as it is and follows no longer. To go on with it: "
            + "'godwit volume takeover \(record.name)' here; to give it up: 'godwit volume delete "
            + "\(record.name)' here, and have the owner prepare the volume anew"
    }

    /// What a follower lacks of a head that was sealed for it; nil: more than fits an answer.
    func tail(for follower: SiteID, since: SequenceNumber) async -> Godwit_Peer_V1_FollowReply? {
        do {
            return try await FollowCoding.tail(
                of: try catalogForFollower(follower, reign: .first), for: follower, since: since)
        } catch {
            logger.debug("no tail for \(follower): \(error)")
            return nil
        }
    }

    /// Applies what came with the grant, if it goes on from where this follower is.
    func takeTail(
        _ tail: Godwit_Peer_V1_FollowReply, since: SequenceNumber, of owner: SiteID, for heir: Epoch
    ) async throws {
        guard tail.hasPosition else { return }
        let rows = try FollowCoding.rows(of: tail, from: owner)
        _ = try await followAlone { agent in
            let position = tail.position.value
            let reached = position.sequence
            guard try agent.followedSequence(of: owner) == since, reached >= since else { return since }
            if reached > since {
                let catalog = try agent.openHead(agent.record.headNumber).storage.catalog
                try catalog.apply(rows)
                try catalog.finishChanges(at: position)
            }
            agent.confirmedGrant = heir
            return reached
        }
    }

    /// Brings a follower to where its owner sealed; there already, nothing is asked for. A site that has not
    /// followed gets the root, and the other directories when they are asked for.
    func catchUp(with owner: SiteID, to grant: Grant) async throws -> SequenceNumber {
        if try followedSequence(of: owner) == nil { interruptFirstReplica() }
        return try await followAlone { agent in
            guard let reached = try agent.followedSequence(of: owner) else {
                return try await agent.beginArrival(from: owner, grant)
            }
            // Numbers of different heads cannot be compared: that this is the granted one the owner has said.
            let catalog = try agent.openHead(agent.record.headNumber).storage.catalog
            let arrivedFor = try catalog.arrivalGrant()
            let isConfirmed = agent.confirmedGrant == grant.heir.epoch || arrivedFor == grant.heir.epoch
            if isConfirmed, reached >= grant.finalSequence { return reached }
            guard arrivedFor == nil else { return try await agent.beginArrival(from: owner, grant) }
            do {
                let reached = try await agent.takeChanges(of: owner, into: catalog)
                agent.confirmedGrant = grant.heir.epoch
                return reached
            } catch PeerError.call(_, _, let status) where status.code == .outOfRange {
                // It is another head than the one that was followed. Nobody owns the volume now: no time for all names.
                return try await agent.beginArrival(from: owner, grant)
            }
        }
    }

    private func beginArrival(from owner: SiteID, _ grant: Grant) async throws -> SequenceNumber {
        try await makeEmptyReplica(of: owner)
        let (listing, position) = try await firstListing(of: owner, grant)
        guard let position, position.sequence >= grant.finalSequence else {
            throw PeerError.malformed(site: owner, "a head without the end that was granted")
        }
        let present = try openHead(record.headNumber).storage.catalog
        if try present.originSequence() != nil { try await beginFollowing(owner) }
        try openHead(record.headNumber).storage.catalog.beginArrival(
            with: listing, at: position, for: grant.heir.epoch)
        return position.sequence
    }

    private func firstListing(
        of owner: SiteID, _ grant: Grant
    ) async throws -> (listing: Listing, position: CatalogPosition?) {
        if let first = firstListing, first.heir == grant.heir.epoch {
            firstListing = nil
            return (try ListCoding.listing(of: first.reply, from: owner), first.reply.position.value)
        }
        return try await context.client(of: owner).list(
            Self.firstListingRequest, of: id, reign: grant.heir.epoch, wantsPosition: true, urgency: .urgent,
            timeout: .seconds(10))
    }

    /// The first names of a head that was just sealed for an heir that has none; nil: it will have to ask.
    func firstListing(for heir: Epoch, of site: SiteID) async -> Godwit_Peer_V1_ListReply? {
        do {
            let reader = try reader(for: heir, of: site)
            return ListCoding.encode(
                try await reader.list(Self.firstListingRequest), position: try reader.position())
        } catch {
            logger.debug("no first names for \(site): \(error)")
            return nil
        }
    }

    /// More would only delay the first write.
    static let firstListingRequest = ListingRequest(
        places: [ListingPlace(directory: .root, after: 0)], inodes: [.root], byteCount: 128 << 10)

    /// Whether a replica of this owner's is here, however old.
    func hasReplica(of owner: SiteID) throws -> Bool { try followedSequence(of: owner) != nil }

    /// Makes the head that the owner's changes will go into, unless it is here. What is still being taken into the
    /// one before is given up.
    func prepareReplica(of owner: SiteID) async throws {
        guard record.headNumber == 0 || record.followedFrom != owner else { return }
        interruptFirstReplica()
        _ = try await followAlone { agent in
            try await agent.makeEmptyReplica(of: owner)
            return .zero
        }
    }

    /// A head that nothing has come into yet.
    private func makeEmptyReplica(of owner: SiteID) async throws {
        if record.headNumber == 0 || record.followedFrom != owner { try await beginFollowing(owner) }
    }

    /// Ends the taking of a first replica: the volume is to be taken over without.
    func interruptFirstReplica() { replicaInterruption.set(true) }

    /// How long an owner whose own names are still arriving lets an heir wait, who gives up after ten seconds.
    static let sealPatience: Duration = .seconds(7)

    /// Waits until all names of the present head are here: it cannot be followed or handed on before.
    ///
    /// - Throws: `.directoryUnavailable` when they do not come in time.
    func waitForNames(_ limit: Duration) async throws {
        guard case .owning = record.head.role, record.headNumber != 0, let source = record.head.origin else {
            return
        }
        let catalog = try openHead(record.headNumber).storage.catalog
        let deadline = ContinuousClock.now + limit
        while catalog.isArriving {
            guard ContinuousClock.now < deadline else {
                throw HydrationError.directoryUnavailable(
                    source: "site \(source.site)", .root,
                    cause: "the names of volume '\(record.name)' are still arriving at site \(context.site)")
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    /// Runs one taking of changes at a time, and only while this site does not own the head: rows that came
    /// late would overwrite what the new owner has written since.
    private func followAlone(
        _ body: (isolated VolumeAgent) async throws -> SequenceNumber
    ) async throws -> SequenceNumber {
        while isFollowing { await withCheckedContinuation { waitingFollowers.append($0) } }
        isFollowing = true
        defer {
            isFollowing = false
            let waiting = waitingFollowers
            waitingFollowers = []
            for continuation in waiting { continuation.resume() }
        }
        switch record.head.role {
        case .following, .acquiring, .receiving: return try await body(self)
        case .owning:
            // A repeated wish: what was wanted has happened.
            return try openHead(record.headNumber).storage.catalog.originSequence() ?? .zero
        case .declining, .sealing, .sealed, .reclaiming, .retired, .fenced:
            throw SiteError.precondition("volume '\(record.name)' does not follow another site now")
        }
    }

    private func takeChanges(of owner: SiteID) async throws -> SequenceNumber {
        if try followedSequence(of: owner) == nil { try await renewReplica(of: owner) }
        do {
            return try await takeChanges(of: owner, into: try openHead(record.headNumber).storage.catalog)
        } catch PeerError.call(_, _, let status) where status.code == .dataLoss {
            // Nothing is taken of it: what is here may be the only one of the newer state.
            if newerReplica == nil {
                logger.error("not followed: \(status.message). What is here stays as it is")
            }
            newerReplica = owner
            throw SiteError.precondition(status.message)
        } catch PeerError.call(_, _, let status) where status.code == .outOfRange {
            // It owns another head than the one that was followed: it was elsewhere in between.
            try await beginFollowing(owner)
            return try await takeChanges(of: owner, into: try openHead(record.headNumber).storage.catalog)
        }
    }

    private func renewReplica(of owner: SiteID) async throws {
        try await makeEmptyReplica(of: owner)
        if try openHead(record.headNumber).storage.catalog.isArriving { try await beginFollowing(owner) }
    }

    /// A new, empty replica; the one before it is of no use any more.
    ///
    /// - Throws: `.precondition` when this site owns the head, or did last: that is nobody's replica, and is not
    ///   replaced whatever a peer says.
    private func beginFollowing(_ owner: SiteID) async throws {
        try checkServed()
        let old = record.headNumber
        let number = try context.state.makeHead(above: record.lastHeadNumber, of: id)
        try Catalog.create(
            in: context.state.head(number, of: id), limits: record.limits, epoch: .first,
            now: VolumeFileSystem.now(), withRoot: false)
        // No decision comes between the look and the change.
        try await change { record in
            guard !record.head.hasOwnHead, record.headNumber == old else { return }
            record.headNumber = number
            record.lastHeadNumber = max(record.lastHeadNumber, number)
            record.followedFrom = owner
        }
        guard record.headNumber == number else {
            try context.state.deleteHead(number, of: id)
            throw SiteError.precondition("volume '\(record.name)' does not follow another site now")
        }
        guard old != 0, !record.keptNumbers.contains(old) else { return }
        try await deleteHead(old)
    }

    private func takeChanges(of owner: SiteID, into catalog: Catalog) async throws -> SequenceNumber {
        let since = try catalog.originSequence()
        let interruption = replicaInterruption
        let (name, site) = (record.name, context.site)
        let (offers, volume, number) = (context.offers, self.id, record.headNumber)
        var arrived: UInt64 = 0
        let isAhead = if case .following = record.head.role { true } else { false }
        if isAhead { interruption.set(false) }
        let known = record.head.knownReign.flatMap { $0.owner == owner ? $0.epoch : nil } ?? .first
        let storage = try openHead(record.headNumber).storage
        let head = try catalog.originHeadName()
        let position = try await context.client(of: owner).follow(id, reign: known, since: since, head: head)
        { rows in
            guard since != nil || !interruption.isSet else {
                throw SiteError.busy("the volume is being taken over, and its names follow")
            }
            // However much an owner tells. Once it has sealed, its last changes are what the reserve is for.
            guard !isAhead || storage.hasRoom() else {
                throw SiteError.unavailable(
                    "the disk of site \(site) is full: the names of volume '\(name)' cannot come")
            }
            if isAhead {
                // What is taken is on the disk only when all of it has come.
                arrived += rows.reduce(0) { $0 + UInt64($1.storedByteCount) }
                try offers.checkRoom(forHead: number, of: volume, adding: arrived)
            }
            try catalog.apply(rows)
        }
        if position.sequence != since { try catalog.finishChanges(at: position) }
        lastFollowed = .now
        newerReplica = nil
        return position.sequence
    }
}
