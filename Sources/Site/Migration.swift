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

    func run(_ report: (Progress) async throws -> Void) async throws {
        let started = ContinuousClock.now
        var progress = Progress()
        func tell(_ phase: String) async throws {
            progress.phase = phase
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
        var heir = follower ?? target
        if follower == nil { heir = try await agent.context.locate(agent.id, at: target).member }
        let client = try agent.context.client(of: heir)
        if isToBeHandedOver {
            // Inside a site its settings go with the offer.
            let isMember = heir.site == agent.context.site.site
            if request.prepareOnly || follower == nil || isMember {
                var offer = try await agent.offerMessage(to: target)
                offer.withoutReplica = !request.prepareOnly
                if request.hasClaim { offer.claim = try ClaimCoding.offered(request.claim) }
                let reply = try await client.offer(offer, timeout: Self.prepareTimeout)
                if reply.hasClaim { progress.claim = ClaimCoding.told(reply.claim) }
            }
            try await tell("ready")
            if request.prepareOnly { return }
            try await tell("handing-over")
            let handingOver = ContinuousClock.now
            var takeOver = Godwit_Peer_V1_TakeOverRequest()
            takeOver.volume = agent.id.description
            takeOver.waitMilliseconds = UInt32(clamping: Int64(patience / .milliseconds(1)))
            do {
                progress.epoch = try await client.takeOver(
                    takeOver, timeout: patience + .seconds(30)
                ).epoch
            } catch {
                // Whatever the reason, the next attempt begins with an offer.
                await agent.forgetFollower(heir)
                if isMember { await agent.takeBackOffer(toMember: heir, timeout: .seconds(30)) }
                throw error
            }
            // How long it was still used here is no part of it, and is not told.
            if request.waitMilliseconds == 0 {
                progress.handoffMilliseconds = seconds(ContinuousClock.now - handingOver) * 1000
            }
            try await tell("hydrating")
            if request.detach { return }
        }
        while true {
            let status = try await client.status(of: agent.id)
            progress.epoch = status.epoch
            progress.totalByteCount = status.totalByteCount
            progress.missingByteCount = status.missingByteCount
            progress.receivedByteCount = status.receivedByteCount
            progress.savedByteCount = status.savedByteCount
            progress.faultCount = status.faultCount
            progress.faultP50Microseconds = status.faultP50Microseconds
            progress.faultP99Microseconds = status.faultP99Microseconds
            progress.waitingReason = status.waitingReason
            progress.inodeCount = status.inodeCount
            if status.hasClaim { progress.claim = ClaimCoding.told(status.claim) }
            if status.released {
                try await tell("done")
                return
            }
            try await tell("hydrating")
            if request.detach { return }
            try await Task.sleep(for: Self.pollInterval)
        }
    }

    private func seconds(_ duration: Duration) -> Double {
        Double(duration.components.seconds) + Double(duration.components.attoseconds) / 1e18
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
    }
}

extension HydrationPolicy {
    /// As messages carry it.
    ///
    /// - Parameters:
    ///   - rate: bytes a second; 0: no limit.
    ///   - prefetch: a word of another release is taken as one's own default.
    init(isPaused: Bool, rate: UInt64, prefetch: String) {
        self.init(
            isPaused: isPaused, bytesPerSecond: rate == 0 ? nil : rate,
            prefetch: PrefetchPolicy(rawValue: prefetch) ?? .all)
    }
}
