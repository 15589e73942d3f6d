internal import KubernetesAPI
internal import Logging
internal import VolumeModel

/// Follows what comes to this site from other clusters, and keeps this cluster's volumes and claims in step with it.
///
/// It looks at what the site says and at what is there, and keeps nothing that matters. What the site was once told to
/// be made is left to the cluster's users.
actor ArrivingClaims {
    /// How long one that cannot be made waits at most before it is looked at again.
    private static let longestWait: Duration = .seconds(15)

    typealias Telling = @Sendable ([Arriving: MoveNote]) async -> Void

    private let client: KubernetesClient
    private let site: any SiteControl
    private let maker: ClaimMaker
    private let events: EventRecorder
    private let logger: Logger
    private let interval: Duration
    /// PersistentVolumes of our driver by the volume's identifier and then by their own name: those that we made, and
    /// those that were here before. nil: the cluster has not told yet.
    private var present: [String: [String: PersistentVolume]]?
    private var waits: [String: (until: ContinuousClock.Instant, backoff: Backoff)] = [:]

    init(
        _ client: KubernetesClient, site: any SiteControl, maker: ClaimMaker, logger: Logger,
        interval: Duration
    ) {
        self.client = client
        self.site = site
        self.logger = logger
        self.interval = interval
        self.maker = maker
        events = EventRecorder(client, component: "godwit-controller")
    }

    /// - Parameter told: is given what is to be said of the claims that are made, after each look at all.
    func run(_ told: @escaping Telling) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { [self] in
                try await client.follow(
                    PersistentVolume.self, failed: { logger.notice("the cluster's API: \($0)") }
                ) { await self.see($0) }
            }
            group.addTask { try await self.work(told) }
            try await group.next()
            group.cancelAll()
        }
    }

    private func see(_ change: WatchChange<PersistentVolume>) {
        switch change {
        case .replaced(let all):
            present = [:]
            for volume in all { note(volume, isThere: true) }
        case .applied(let volume): note(volume, isThere: true)
        case .deleted(let volume): note(volume, isThere: false)
        }
    }

    private func note(_ volume: PersistentVolume, isThere: Bool) {
        guard let csi = volume.spec.csi, csi.driver == MigrationController.driver,
            let name = volume.metadata.name
        else { return }
        present?[csi.volumeHandle, default: [:]][name] = isThere ? volume : nil
        if present?[csi.volumeHandle]?.isEmpty == true { present?[csi.volumeHandle] = nil }
    }

    /// The one that we made for a volume.
    private func ours(_ id: String) -> PersistentVolume? {
        present?[id]?.values.first { ArrivingClaim.isOurs($0.metadata, for: id) }
    }

    private func work(_ told: Telling) async throws {
        while true {
            try Task.checkCancellation()
            // Before it is known what is here nothing is made.
            guard present != nil else {
                try await Task.sleep(for: .milliseconds(20))
                continue
            }
            do throws(SiteControlError) {
                let here = try await site.info().site
                let volumes = try await site.foreignVolumes()
                for volume in volumes { await look(at: volume, here) }
                await told(notes(of: volumes, at: here))
                await lookForLeftovers(besides: Set(volumes.map(\.id)))
            } catch {
                logger.notice("the site: \(error)")
            }
            try await Task.sleep(for: interval)
        }
    }

    // MARK: what comes

    private func look(at volume: ForeignVolume, _ here: String) async {
        if let report = volume.claim.report, report.isMade {
            await keepIfOwned(volume, here)
            guard report.reason == ClaimMaker.smaller else {
                waits[volume.id] = nil
                return
            }
        }
        if let wait = waits[volume.id], wait.until > .now { return }
        let report: ClaimReport
        do throws(KubernetesError) {
            let known = present?[volume.id]?.keys.sorted() ?? []
            report = try await maker.make(volume, at: here, known: known)
        } catch {
            if case .cancelled = error { return }
            report = ArrivingClaim.refusal(error, volume.claim.facts)
        }
        // Something changed: perhaps somebody is at work on it.
        let isNews = report.reason != volume.claim.report?.reason
        var backoff =
            (isNews ? nil : waits[volume.id]?.backoff) ?? Backoff(first: interval, limit: Self.longestWait)
        let isAllDone = report.isMade && report.reason != ClaimMaker.smaller
        waits[volume.id] = isAllDone ? nil : (.now + backoff.next(), backoff)
        guard report != volume.claim.report else { return }
        // First: of what the site has been told nobody thinks again.
        do throws(KubernetesError) {
            try await tell(report, volume)
        } catch {
            logger.notice("claim \(volume.claim.facts.path): \(error)")
            // Where nothing can be told or done, the site at least is to know.
            if error == .cancelled || report.isMade && error.isTransient { return }
        }
        do {
            try await site.report(report, of: volume.id)
        } catch {
            logger.notice("claim \(volume.claim.facts.path) of volume \(volume.id): \(error)")
        }
    }

    /// About the Volume resource, which `kubectl describe volumes.godwit.dev` shows, and about the claim once it is there.
    private func tell(_ report: ClaimReport, _ volume: ForeignVolume) async throws(KubernetesError) {
        let facts = volume.claim.facts
        logger.info("claim \(facts.path): \(report.reason): \(report.message)")
        let reason = "Claim" + report.reason
        // There is none where the site keeps its registry in a file.
        if let resource = try await client.find(VolumeResource.self, VolumeResource.objectName(volume.name)),
            resource.spec.id == volume.id
        {
            try await events.record(reason, report.message, about: resource, isWarning: !report.isMade)
        }
        guard report.isMade,
            let claim = try await client.find(PersistentVolumeClaim.self, facts.name, in: facts.namespace)
        else { return }
        try await events.record(
            "Arriving",
            "its volume is owned by site \(volume.owner): it is taken over when a pod starts here",
            about: claim)
    }

    private func keepIfOwned(_ volume: ForeignVolume, _ here: String) async {
        guard volume.owner == here, let persistent = ours(volume.id),
            persistent.metadata.annotations?[ArrivingClaim.used] == nil
        else { return }
        do {
            try await maker.keep(persistent)
        } catch {
            logger.notice("persistent volume \(persistent.metadata.name ?? ""): \(error)")
        }
    }

    /// What is to be said of the claims here, whichever persistent volumes of the same volume they are of.
    private func notes(of volumes: [ForeignVolume], at here: String) -> [Arriving: MoveNote] {
        var notes: [Arriving: MoveNote] = [:]
        for volume in volumes where volume.claim.report?.isMade == true {
            guard let phase = volume.phase else { continue }
            for claim in (present?[volume.id] ?? [:]).values.compactMap(\.spec.claimRef) {
                guard let name = claim.name, let namespace = claim.namespace else { continue }
                notes[.init(claim: .init(namespace: namespace, name: name), volume: volume.id)] =
                    MoveNote(phase, to: here)
            }
        }
        return notes
    }

    // MARK: what does not come any more

    private func lookForLeftovers(besides volumes: Set<String>) async {
        for id in (present ?? [:]).keys where !volumes.contains(id) {
            guard let persistent = ours(id), persistent.metadata.deletionTimestamp == nil,
                persistent.metadata.annotations?[ArrivingClaim.used] == nil
            else { continue }
            do {
                // Known still, if only without a claim: it may be needed.
                guard try await site.volume(id) == nil else { continue }
                if try await maker.remove(persistent, of: id) {
                    logger.info("volume \(id) does not come: its claim and persistent volume are deleted")
                }
                waits[id] = nil
            } catch {
                logger.notice("persistent volume \(persistent.metadata.name ?? ""): \(error)")
            }
        }
        if waits.count > volumes.count { waits = waits.filter { volumes.contains($0.key) } }
    }
}
