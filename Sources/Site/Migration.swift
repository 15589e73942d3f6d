internal import ControlProtocol
internal import Handoff
internal import Hydration
internal import PeerProtocol
internal import PeerService
internal import VolumeModel

/// Hands a volume from this site to another, and tells how far it is until the bytes have arrived.
///
/// The target does the work: this end only offers, asks it to take over, and looks at its progress. Ended
/// in the middle and started again, it goes on where it was.
struct Migration: Sendable {
    private static let pollInterval: Duration = .milliseconds(250)
    /// A first catalog may be a million rows over a slow link.
    private static let prepareTimeout: Duration = .seconds(3600)

    let agent: VolumeAgent
    let target: SiteID
    let request: Godwit_Control_V1_MigrateRequest

    typealias Progress = Godwit_Control_V1_MigrateProgress

    /// How long the target is asked to go on with what was sealed for it, until whoever waits is told that it takes longer.
    var sealedPatience: Duration = .seconds(20)
    /// How long one of these questions may take, and the answer to how far the target is.
    private static let goOnPatience: (status: Duration, takeOver: Duration) = (.seconds(5), .seconds(15))
    private static let goOnPauses: (first: Duration, longest: Duration) = (.milliseconds(250), .seconds(5))

    func run(_ report: (Progress) async throws -> Void) async throws {
        let started = ContinuousClock.now
        var progress = Progress()
        func tell(_ phase: String, waiting reason: String = "") async throws {
            progress.phase = phase
            progress.waitingReason = reason
            progress.elapsedSeconds = seconds(ContinuousClock.now - started)
            try await report(progress)
        }
        try await tell("preparing")
        var isToBeHandedOver = try await agent.isToBeHandedOver(to: target)
        var patience = Duration.milliseconds(Int64(request.waitMilliseconds))
        if isToBeHandedOver, !request.prepareOnly {
            patience = try await agent.waitUntilUnread(by: target, patience)
            isToBeHandedOver = try await agent.isToBeHandedOver(to: target)
        }
        // A follower that keeps up needs no offer, and need not be looked for: the hand-over is two round trips.
        let follower = await agent.closeFollower(at: target)
        let promised = await agent.promise?.heir.owner
        let known = promised.flatMap { $0 == target || $0.site == target ? $0 : nil } ?? follower
        var heir = known ?? target
        if known == nil { heir = try await agent.context.locate(agent.id, at: target).member }
        let client = try agent.context.client(of: heir)
        if isToBeHandedOver {
            // Inside a site its settings go with the offer.
            let isMember = heir.site == agent.context.site.site
            if request.prepareOnly || follower == nil || isMember {
                var offer = try await agent.offerMessage(to: target)
                offer.withoutReplica = !request.prepareOnly
                offer.ahead = request.prepareOnly && request.ahead
                if request.hasClaim { offer.claim = try ClaimCoding.offered(request.claim) }
                let reply = try await client.offer(offer, timeout: Self.prepareTimeout)
                if reply.hasClaim { progress.claim = ClaimCoding.told(reply.claim) }
            }
            try await tell("ready")
            if request.prepareOnly { return }
            try await tell("handing-over")
            let handingOver = ContinuousClock.now
            let asked = try await askForTakeover(heir, client, patience) {
                try await tell("handing-over", waiting: $0)
            }
            if let epoch = asked {
                progress.epoch = epoch
                // How long it was still used here is no part of it, and is not told.
                if request.waitMilliseconds == 0 {
                    progress.handoffMilliseconds = seconds(ContinuousClock.now - handingOver) * 1000
                }
                try await tell("hydrating")
                if request.detach { return }
            }
        }
        // What is sealed has not moved: the target may still have to get it, and may not hear of it.
        let deadline = ContinuousClock.now + sealedPatience
        var pause = Self.goOnPauses.first
        if !request.prepareOnly, let promise = await agent.promise {
            // Before the first answer, which may take its time.
            progress.epoch = promise.heir.epoch.number
            try await tell("handing-over", waiting: "\(promise.heir.owner) is asked how far it is")
        }
        while let reason = try await reasonNotToOwn(until: deadline) {
            progress.epoch = await agent.promise?.heir.epoch.number ?? 0
            try await tell("handing-over", waiting: reason)
            if request.prepareOnly { return }
            guard ContinuousClock.now < deadline else {
                throw SiteError.unavailable(
                    "the volume is sealed here for site \(target), which does not own it yet: \(reason). It goes on by "
                        + "itself; ask again to see how far it is")
            }
            try await Task.sleep(for: pause)
            pause = min(pause * 2, Self.goOnPauses.longest)
        }
        while true {
            let status = try await client.status(of: agent.id)
            progress.take(status)
            if status.released {
                try await tell("done", waiting: status.waitingReason)
                return
            }
            try await tell("hydrating", waiting: status.waitingReason)
            if request.detach { return }
            try await Task.sleep(for: Self.pollInterval)
        }
    }

    /// Asks the target to own the volume: as long as it may wait also again, where the link breaks meanwhile.
    ///
    /// - Parameter report: takes why it is asked again.
    /// - Returns: the epoch under which it owns the volume; nil: the answer did not come, and this site has stopped.
    private func askForTakeover(
        _ heir: SiteID, _ client: PeerClient, _ patience: Duration, _ report: (String) async throws -> Void
    ) async throws -> UInt64? {
        let deadline = ContinuousClock.now + patience
        while true {
            let left = max(.zero, deadline - ContinuousClock.now)
            var takeOver = Godwit_Peer_V1_TakeOverRequest()
            takeOver.volume = agent.id.description
            takeOver.waitMilliseconds = UInt32(clamping: Int64(left / .milliseconds(1)))
            do {
                return try await client.takeOver(takeOver, timeout: left + .seconds(30)).epoch
            } catch {
                // Whatever the reason, the next attempt begins with an offer.
                await agent.forgetFollower(heir)
                guard try await agent.isToBeHandedOver(to: target) else { return nil }
                if case .call(_, _, let status) = error, ContinuousClock.now < deadline,
                    // Aborted: what was asked before is still under way there, and does not know that the link broke.
                    [.unavailable, .deadlineExceeded, .aborted].contains(status.code)
                {
                    try await report("\(error)")
                    try await Task.sleep(for: .seconds(1))
                    continue
                }
                if heir.site == agent.context.site.site {
                    await agent.takeBackOffer(toMember: heir, timeout: .seconds(30))
                }
                throw error
            }
        }
    }

    /// Lets the target go on with what was sealed for it, unless the volume is wanted back here.
    ///
    /// - Returns: why it does not own the volume yet; nil: it does, or did.
    /// - Throws: `.precondition` when the volume is owned here again.
    private func reasonNotToOwn(until deadline: ContinuousClock.Instant) async throws -> String? {
        guard let promise = await agent.promise else {
            guard try await agent.isToBeHandedOver(to: target) else { return nil }
            throw SiteError.precondition(
                "the volume is owned here again: it was wanted back, or site \(target) gave it up")
        }
        let heir = promise.heir
        do {
            let client = try agent.context.client(of: heir.owner)
            let patience = Self.goOnPatience
            func left(_ limit: Duration) -> Duration {
                min(limit, max(.milliseconds(500), deadline - ContinuousClock.now))
            }
            // Asked first: a release before this one would ask for a volume that it has given to somebody else since.
            let known = try await client.status(of: agent.id, timeout: left(patience.status)).epoch
            if known >= heir.epoch.number { return reason(heir, isAt: known) }
            if promise.isWantedBack {
                return "it is wanted back here, and \(heir.owner) has not answered yet"
            }
            var goOn = Godwit_Peer_V1_TakeOverRequest()
            goOn.volume = agent.id.description
            goOn.promised = heir.epoch.number
            return reason(
                heir, isAt: try await client.takeOver(goOn, timeout: left(patience.takeOver)).epoch)
        } catch {
            return "\(error)"
        }
    }

    /// A later reign may be another site's, which overruled it before it began: until this site has heard of it itself, nobody
    /// knows whether the target ever owned the volume.
    private func reason(_ heir: Reign, isAt epoch: UInt64) -> String? {
        epoch == heir.epoch.number
            ? nil : "it has gone on to epoch \(epoch), of which this site has not heard yet"
    }

    private func seconds(_ duration: Duration) -> Double {
        Double(duration.components.seconds) + Double(duration.components.attoseconds) / 1e18
    }
}

extension Godwit_Control_V1_MigrateProgress {
    fileprivate mutating func take(_ status: Godwit_Peer_V1_VolumeStatus) {
        epoch = status.epoch
        totalByteCount = status.totalByteCount
        missingByteCount = status.missingByteCount
        receivedByteCount = status.receivedByteCount
        savedByteCount = status.savedByteCount
        faultCount = status.faultCount
        faultP50Microseconds = status.faultP50Microseconds
        faultP99Microseconds = status.faultP99Microseconds
        inodeCount = status.inodeCount
        if status.hasClaim { claim = ClaimCoding.told(status.claim) }
    }
}

extension VolumeAgent {
    /// Whether the target does not own the volume yet.
    ///
    /// - Throws: `.precondition` when this site cannot hand it over because it is not its owner.
    func isToBeHandedOver(to target: SiteID) throws -> Bool {
        try checkServed()
        guard target != context.site, target != context.site.site else {
            throw SiteError.invalid("volume '\(record.name)' is at site \(target) already: this is it")
        }
        func isTarget(_ owner: SiteID) -> Bool { owner == target || owner.site == target }
        switch record.head.role {
        case .owning, .sealing: return true
        case .sealed(_, let grant), .reclaiming(_, let grant):
            guard isTarget(grant.heir.owner) else {
                throw SiteError.precondition(
                    "volume '\(record.name)' was handed to \(grant.heir): ask there")
            }
            return false
        case .retired(let reign), .following(let reign), .acquiring(let reign, _), .receiving(let reign, _),
            .declining(let reign, _):
            if isTarget(reign.owner) { return false }
            throw SiteError.precondition("volume '\(record.name)' is owned by \(reign): ask there")
        case .fenced(_, let by, _):
            throw SiteError.precondition("volume '\(record.name)' was taken over under epoch \(by)")
        }
    }

    /// What this site has sealed the volume for, as long as it has not heard what became of it.
    var promise: (heir: Reign, isWantedBack: Bool)? {
        switch record.head.role {
        case .sealed(_, let grant): (grant.heir, false)
        case .reclaiming(_, let grant): (grant.heir, true)
        case .following, .acquiring, .receiving, .declining, .owning, .sealing, .retired, .fenced: nil
        }
    }

    /// Goes on with a takeover for which the owner has sealed, and begins none. Repeated it changes nothing.
    ///
    /// - Returns: the epoch of the present reign, as far as known here: the promised one or a later one.
    /// - Throws: `.precondition` when nothing is asked for here under that epoch.
    func goOnExclusively(to promised: Epoch) async throws -> Epoch {
        if record.head.knownEpoch >= promised { return record.head.knownEpoch }
        return try await exclusively { agent in
            agent.wishes.lastUttered = .now
            // Looked at when its turn has come: it may be given back just now, and is not to be asked for anew.
            try await agent.apply(.takeOver, if: { agent.asks(for: promised) })
            guard agent.record.head.knownEpoch < promised else { return agent.record.head.knownEpoch }
            throw SiteError.precondition(
                agent.asks(for: promised)
                    ? await agent.explainNotOwning()
                    : "site \(agent.context.site) does not ask for volume '\(agent.record.name)' under epoch \(promised)"
            )
        }
    }

    private func asks(for promised: Epoch) -> Bool {
        switch record.head.role {
        case .acquiring(_, promised): true
        case .receiving(_, let grant): grant.heir.epoch == promised
        case .following, .declining, .owning, .sealing, .sealed, .reclaiming, .retired, .fenced, .acquiring:
            false
        }
    }

    func offerMessage(to target: SiteID) async throws -> Godwit_Peer_V1_OfferRequest {
        let isMember = target.site == context.site.site
        if !isMember { try await change { $0.sharedWith.insert(target.site) } }
        var offer = Godwit_Peer_V1_OfferRequest()
        offer.volume = id.description
        offer.name = record.name
        offer.capacity = record.limits.byteCount
        offer.inodeLimit = record.limits.inodeCount
        offer.parameters = record.parameters
        if case .owning(let epoch, _) = record.head.role { offer.epoch = epoch.number }
        if case .sealing(let epoch, _) = record.head.role { offer.epoch = epoch.number }
        if isMember {
            offer.revision = stored.revision
            addSettings(to: &offer)
        }
        return offer
    }

    /// What goes with a volume from node to node of one site.
    private func addSettings(to offer: inout Godwit_Peer_V1_OfferRequest) {
        offer.settings.sharedWith = record.sharedWith.map(\.description).sorted()
        offer.settings.hydrationPaused = record.hydration.isPaused
        offer.settings.hydrationBytesPerSecond = record.hydration.bytesPerSecond ?? 0
        offer.settings.hydrationPrefetch = record.hydration.prefetch.rawValue
        offer.settings.hydrationAhead = record.hydration.isAhead
        guard let claim = record.claim else { return }
        offer.claim = ClaimCoding.peer(claim.facts)
        if let report = claim.report { offer.settings.claim = ClaimCoding.peer(report) }
    }

    /// Takes what came with an offer of another node of this site, unless this one has gone on since.
    func take(_ settings: Godwit_Peer_V1_SiteSettings, _ facts: ClaimFacts?) async throws {
        guard !record.head.hasOwnHead else { return }
        var taken = record
        try taken.take(settings)
        let (shared, policy) = (taken.sharedWith, taken.hydration)
        let claim = facts.map {
            ForeignClaim(facts: $0, report: settings.hasClaim ? ClaimCoding.report(settings.claim) : nil)
        }
        try await change { record in
            record.sharedWith = shared
            record.hydration = policy
            record.claim = claim
        }
    }
}

extension VolumeRecord {
    mutating func take(_ settings: Godwit_Peer_V1_SiteSettings) throws {
        let shared = settings.sharedWith.compactMap { SiteID(site: $0) }
        guard shared.count == settings.sharedWith.count else {
            throw PeerError.malformed(site: nil, "a name of a site that is none")
        }
        sharedWith = Set(shared)
        hydration = HydrationPolicy(
            isPaused: settings.hydrationPaused, rate: settings.hydrationBytesPerSecond,
            prefetch: settings.hydrationPrefetch)
        hydration.isAhead = settings.hydrationAhead
    }
}

extension HydrationPolicy {
    /// As messages carry it.
    ///
    /// - Parameters:
    ///   - rate: bytes a second; 0: no limit. More than `largestRate` are taken as that.
    ///   - prefetch: a word of another release is taken as one's own default.
    init(isPaused: Bool, rate: UInt64, prefetch: String) {
        self.init(
            isPaused: isPaused, bytesPerSecond: Self.limit(rate),
            prefetch: PrefetchPolicy(rawValue: prefetch) ?? .all)
    }

    private static func limit(_ rate: UInt64) -> UInt64? { rate == 0 ? nil : min(rate, largestRate) }

    /// Takes what a command asks for; what it does not name stays.
    mutating func take(_ request: Godwit_Control_V1_SetHydrationRequest) throws(SiteError) {
        if request.hasPaused { isPaused = request.paused }
        if request.hasBytesPerSecond { bytesPerSecond = Self.limit(request.bytesPerSecond) }
        if request.hasAhead { isAhead = request.ahead }
        guard request.hasPrefetch else { return }
        guard let prefetch = PrefetchPolicy(rawValue: request.prefetch) else {
            throw .invalid("prefetching is 'all', 'start' or 'none', not '\(request.prefetch)'")
        }
        self.prefetch = prefetch
    }
}
