internal import Catalog
internal import Handoff
internal import Hydration
internal import Logging
internal import PeerProtocol
internal import PeerService
internal import VolumeFileSystem
internal import VolumeModel

/// The heads of a volume: opening, following, sealing, hydrating, discarding.
extension VolumeAgent {
    /// Opens a head's storage, once.
    func openHead(_ number: UInt64) throws -> OpenHead {
        if let open = heads[number] { return open }
        guard number != 0 else { throw SiteError.precondition("volume '\(record.name)' has no bytes here") }
        let storage = try HeadStorage(opening: context.state.head(number, of: id))
        let head = OpenHead(number: number, storage: storage, logger: logger)
        heads[number] = head
        return head
    }

    // MARK: following

    /// How often a prepared follower takes its owner's changes without being asked.
    private static let followInterval: Duration = .seconds(10)
    /// Who has followed this lately has so little to catch up that it can be done after the seal.
    private static let followCloseness: Duration = .seconds(30)

    func isClose(_ last: ContinuousClock.Instant?) -> Bool {
        last.map { ContinuousClock.now - $0 < Self.followCloseness } ?? false
    }

    /// Whether a site has taken changes of this head lately.
    func isFollowedClosely(by site: SiteID) -> Bool { isClose(followers[site]) }

    func forgetFollower(_ site: SiteID) { followers[site] = nil }

    /// Keeps a prepared follower close behind its owner. A peer that is away holds up nobody else.
    func followOn() {
        guard case .following(let reign) = record.head.role, record.headNumber != 0,
            record.followedFrom == reign.owner, !isFollowing,
            lastFollowed.map({ ContinuousClock.now - $0 >= Self.followInterval }) ?? true
        else { return }
        Task {
            do {
                _ = try await self.follow(reign.owner)
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
            // What was granted is here, or on its way: there is nothing to follow any more.
            if case .receiving = agent.record.head.role, let reached = try agent.followedSequence(of: owner) {
                return reached
            }
            return try await agent.takeChanges(of: owner)
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

    /// What a follower lacks of a head that was sealed for it; nil: more than fits an answer.
    func tail(for follower: SiteID, since: SequenceNumber) async -> Godwit_Peer_V1_FollowReply? {
        do {
            return try await FollowCoding.tail(
                of: try catalogForFollower(follower), for: follower, since: since)
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
    func firstListing(for heir: Epoch, of site: SiteID) -> Godwit_Peer_V1_ListReply? {
        do {
            let reader = try reader(for: heir, of: site)
            return ListCoding.encode(
                try reader.list(Self.firstListingRequest), position: try reader.position())
        } catch {
            logger.debug("no first names for \(site): \(error)")
            return nil
        }
    }

    /// More would only delay the first write.
    private static let firstListingRequest = ListingRequest(
        places: [ListingPlace(directory: .root, after: 0)], inodes: [.root], byteCount: 128 << 10)

    /// Whether a replica of this owner's is here, however old.
    func hasReplica(of owner: SiteID) throws -> Bool { try followedSequence(of: owner) != nil }

    /// A head that nothing has come into yet.
    func makeEmptyReplica(of owner: SiteID) async throws {
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
        if let open = heads.removeValue(forKey: old) { try await open.close() }
        try context.state.deleteHead(old, of: id)
    }

    private func takeChanges(of owner: SiteID, into catalog: Catalog) async throws -> SequenceNumber {
        let since = try catalog.originSequence()
        let interruption = replicaInterruption
        if case .following = record.head.role { interruption.set(false) }
        let position = try await context.client(of: owner).follow(id, since: since) { rows in
            guard since != nil || !interruption.isSet else {
                throw SiteError.busy("the volume is being taken over, and its names follow")
            }
            try catalog.apply(rows)
        }
        if position.sequence != since { try catalog.finishChanges(at: position) }
        lastFollowed = .now
        return position.sequence
    }

    // MARK: owning

    /// Writes may begin under an epoch: the epoch's mark goes into the data, hydration starts.
    func serve(_ epoch: Epoch) async throws {
        let head = try openHead(record.headNumber)
        let catalog = head.storage.catalog
        let known = try catalog.perform { try $0.epoch() }
        guard known <= epoch else {
            throw SiteError.unusable(
                "the data of volume '\(record.name)' is of epoch \(known), the registry says \(epoch): "
                    + "the registry is older than the data; restore a newer one")
        }
        if known < epoch {
            try catalog.perform { try $0.setEpoch(epoch) }
            try catalog.synchronize()
        }
        try await agreeOnLimits(catalog)
        try await startHydrationIfNeeded()
    }

    /// Limits only grow: the larger is the newer, whether it came with the head from its last owner or from the
    /// record of an expansion that a crash cut off.
    private func agreeOnLimits(_ catalog: Catalog) async throws {
        let (own, theirs) = (record.limits, try catalog.perform { $0.limits })
        let agreed = VolumeLimits(
            byteCount: own.byteCount == 0 || theirs.byteCount == 0
                ? 0 : max(own.byteCount, theirs.byteCount),
            inodeCount: own.inodeCount == 0 || theirs.inodeCount == 0
                ? 0 : max(own.inodeCount, theirs.inodeCount))
        if agreed != own { try await change { $0.limits = agreed } }
        guard agreed != theirs else { return }
        try catalog.perform { try $0.setLimits(agreed) }
        try catalog.synchronize()
    }

    /// Lets the volume hold more. Repeated it is a success; less than now is refused.
    func expand(to limits: VolumeLimits) async throws {
        guard case .owning = record.head.role else {
            throw SiteError.precondition("volume '\(record.name)' is not owned here: expand it at its owner")
        }
        guard limits.isCountable else { throw SiteError.invalid(VolumeLimits.rule) }
        func shrinks(_ new: UInt64, _ old: UInt64) -> Bool { new != 0 && (old == 0 || new < old) }
        guard !shrinks(limits.byteCount, record.capacity) else {
            throw SiteError.invalid(
                "volume '\(record.name)' has \(record.capacity) bytes and cannot be made smaller")
        }
        guard !shrinks(limits.inodeCount, record.limits.inodeCount) else {
            let present = record.limits.inodeCount == 0 ? "any number of" : "\(record.limits.inodeCount)"
            throw SiteError.invalid(
                "volume '\(record.name)' may hold \(present) inodes, and this cannot be made less")
        }
        try await change { $0.limits = limits }
        try await agreeOnLimits(try openHead(record.headNumber).storage.catalog)
    }

    /// Starts fetching what our heads lack, each from the source of its own reign: the present one, and those
    /// that are kept for heirs. A replica has none; another head's bytes are not its bytes.
    func startHydrationIfNeeded() async throws {
        if let source = record.head.origin { try hydrate(record.headNumber, from: source) }
        for retention in record.head.retentions {
            guard let source = record.head.source(ofHead: retention.headReign),
                let number = record.retainedHeads[retention.grant.heir.epoch]
            else { continue }
            try hydrate(number, from: source)
        }
        for divergence in record.head.divergences {
            guard let source = record.head.source(ofHead: divergence.headReign),
                let number = record.divergentHeads[divergence.epoch]
            else { continue }
            try hydrate(number, from: source)
        }
    }

    private func hydrate(_ number: UInt64, from source: Source) throws {
        let head = try openHead(number)
        guard head.hydrator == nil else { return }
        let context = self.context
        let origin = PeerSource(site: source.site, volume: id, reign: source.reign) {
            try context.client(of: source.site)
        }
        let logger = self.logger
        head.startHydration(
            from: origin, directories: origin, configuration: context.hydration, policy: record.hydration
        ) { line in
            logger.warning("\(line)")
        } whenComplete: { [weak self] in
            await self?.noteFlattened(source.reign)
        }
    }

    /// Pauses or slows what is fetched in the background, from now on and after restarts.
    func setHydration(_ policy: HydrationPolicy) async throws {
        try await change { $0.hydration = policy }
        for head in heads.values { head.hydrator?.follow(policy) }
    }

    private func noteFlattened(_ reign: Epoch) async {
        logger.info("every byte of the head of epoch \(reign) is here")
        do {
            try await apply(.flattened(reign: reign))
        } catch {
            logger.debug("the source will be told later: \(error)")
        }
    }

    // MARK: sealing

    /// The last sequence number of a head that nobody can write to any more.
    ///
    /// What the heir is about to see is pinned: should this head ever go on by force, what changes then can be told.
    func readTail(for heir: Reign) async throws -> SequenceNumber {
        for mount in mounts.values { mount.fileSystem.fence() }
        guard mounts.isEmpty else {
            throw SiteError.precondition("volume '\(record.name)' is still mounted here")
        }
        let storage = try openHead(record.headNumber).storage
        return try await onBlockingThread {
            try storage.catalog.synchronize()
            return try storage.catalog.pin(Self.pinName(of: heir.epoch))
        }
    }

    /// The pin of what was granted to a reign; a follower's has the name of its site.
    private static func pinName(of heir: Epoch) -> String { "\(pinPrefix)\(heir.number)" }
    private static let pinPrefix = "heir at epoch "

    /// Forgets what was granted to reigns that need it no longer.
    private func dropUnneededPins() throws {
        guard record.head.hasOwnHead, let head = heads[record.headNumber] else { return }
        let needed = Set(record.head.keptReigns.map { Self.pinName(of: $0) })
        let pins = try head.storage.catalog.perform { try $0.pinNames() }
        for name in pins where name.hasPrefix(Self.pinPrefix) && !needed.contains(name) {
            try head.storage.catalog.unpin(name)
        }
    }

    /// The reign is over: whoever still has it mounted gets ESTALE.
    func stopServing() async throws {
        for mount in mounts.values { mount.fileSystem.fence() }
    }

    // MARK: keeping for heirs

    /// The head that is kept for a reign of another site.
    func reader(for reign: Epoch, of site: SiteID) throws -> HeadReader {
        guard record.head.isKeepingBytes(for: Reign(site, reign)), let number = record.retainedHeads[reign]
        else {
            throw PeerError.refused(
                "no bytes of volume \(id) are kept here for site \(site) at epoch \(reign)")
        }
        let head = try openHead(number)
        let heir = Reign(site, reign)
        guard let kept = record.head.retentions.first(where: { $0.grant.heir == heir }), kept.mayHaveChanged
        else { return HeadReader(storage: head.storage, hydrator: head.hydrator) }
        let seen = kept.grant.finalSequence
        let isKnown = try head.storage.catalog.perform { state in
            try state.isPinned(for: Self.pinName(of: reign), at: seen)
                || state.isPinned(for: site.description, at: seen)
        }
        guard isKnown else {
            throw PeerError.refused(
                "volume \(id): it is not known any more what has changed since site \(site) looked")
        }
        return HeadReader(storage: head.storage, hydrator: head.hydrator, unchangedSince: seen)
    }

    /// Opens what peers will read soon, so that their first fault does not wait for it.
    func openRetained() async throws {
        for number in record.keptNumbers { _ = try openHead(number) }
    }

    /// Deletes heads that no record names: what a crash has left after the record was changed, or before. Only at the
    /// start, when nobody makes or deletes one. Those above the last number that the record knows stay: it may be an
    /// older one, restored.
    func deleteNamelessHeads() {
        let named = record.keptNumbers.union([record.headNumber])
        for number in context.state.heads(of: id)
        where number <= record.lastHeadNumber && !named.contains(number) {
            do {
                try context.state.deleteHead(number, of: id)
                logger.info("a copy that a crash has left (head \(number)) is deleted")
            } catch {
                logger.warning("a copy that a crash has left stays: \(error)")
            }
        }
    }

    /// Deletes heads that nobody needs: not the present one, and none that is kept for an heir or aside.
    func discardUnneeded() async throws {
        try dropUnneededPins()
        let needed = record.head.keptReigns
        let isRetired = if case .retired = record.head.role { true } else { false }
        var gone: [UInt64] = []
        for (reign, number) in record.retainedHeads where !needed.contains(reign) {
            gone.append(number)
        }
        let present = record.headNumber
        let divergences = Set(record.head.divergences.map(\.epoch))
        let stillRetained = Set(record.retainedHeads.filter { needed.contains($0.key) }.values)
            .union(record.divergentHeads.filter { divergences.contains($0.key) }.values)
        gone += record.divergentHeads.filter { !divergences.contains($0.key) }.values
        let dropsPresent = isRetired && !stillRetained.contains(present)
        gone = gone.filter { !stillRetained.contains($0) && ($0 != present || dropsPresent) }
        let dead = Set(gone)
        try await change { record in
            record.retainedHeads = record.retainedHeads.filter { needed.contains($0.key) }
            record.divergentHeads = record.divergentHeads.filter { divergences.contains($0.key) }
            if dropsPresent { record.headNumber = 0; record.followedFrom = nil }
        }
        for number in dead.union(dropsPresent && present != 0 ? [present] : []) {
            if let open = heads.removeValue(forKey: number) { try await open.close() }
            try context.state.deleteHead(number, of: id)
            logger.info("the old copy (head \(number)) is deleted")
        }
    }
}
