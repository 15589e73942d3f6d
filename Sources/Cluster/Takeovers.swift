internal import ClusterResources
internal import Foundation
internal import KubernetesAPI
internal import Logging
internal import VolumeModel

/// Carries out what `Takeover` resources ask for at this cluster's site.
///
/// Each is answered once, or given up: an order that could not be carried out for a while is not carried out when nobody
/// thinks of it any more. What the site is asked may be repeated: a takeover that was made already is answered with
/// the epoch that came of it, so that a controller killed before it wrote that down ends in the same words.
actor Takeovers {
    private static let longestWait: Duration = .seconds(15)
    /// From the first time that the site could not be asked, by the clocks of this cluster's nodes.
    private static let patience: Duration = .seconds(600)
    /// The same of one that no controller has looked at. Long, for it is by the API server's clock as well.
    private static let unseenPatience: Duration = .seconds(86_400)

    private let client: KubernetesClient
    private let site: any SiteControl
    private let events: EventRecorder
    private let logger: Logger
    private let interval: Duration
    /// Those without an answer, by name.
    private var open: [String: TakeoverResource] = [:]
    private var waits: [String: (until: ContinuousClock.Instant, backoff: Backoff)] = [:]

    init(_ client: KubernetesClient, site: any SiteControl, logger: Logger, interval: Duration) {
        self.client = client
        self.site = site
        self.logger = logger
        self.interval = interval
        events = EventRecorder(client, component: ClusterNames.eventSource)
    }

    func run() async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { [self] in
                try await client.follow(
                    TakeoverResource.self, failed: { logger.notice("the cluster's API: \($0)") }
                ) { await self.see($0) }
            }
            group.addTask { try await self.work() }
            try await group.next()
            group.cancelAll()
        }
    }

    private func see(_ change: WatchChange<TakeoverResource>) {
        func note(_ takeover: TakeoverResource) {
            open[takeover.metadata.name ?? ""] = Self.hasEnded(takeover) ? nil : takeover
        }
        switch change {
        case .replaced(let all):
            open = [:]
            for takeover in all { note(takeover) }
        case .applied(let takeover): note(takeover)
        case .deleted(let takeover): open[takeover.metadata.name ?? ""] = nil
        }
        waits = waits.filter { open[$0.key] != nil }
    }

    private static func hasEnded(_ takeover: TakeoverResource) -> Bool {
        takeover.status?.phase.isLast ?? false
    }

    private func work() async throws {
        while true {
            try Task.checkCancellation()
            for name in open.keys.sorted() {
                if let wait = waits[name], wait.until > .now { continue }
                do {
                    try await look(at: name)
                } catch {
                    logger.notice("takeover \(name): \(error)")
                }
            }
            try await Task.sleep(for: interval)
        }
    }

    private func look(at name: String) async throws(KubernetesError) {
        // Read anew: an order that was taken back is not carried out.
        guard let takeover = try await client.find(TakeoverResource.self, name),
            takeover.metadata.deletionTimestamp == nil, !Self.hasEnded(takeover)
        else {
            open[name] = nil
            return
        }
        let answered: (TakeoverResource.Status, reason: String, volume: String?)
        if let given = Self.givenUp(takeover) {
            answered = (given, "GivenUp", nil)
        } else {
            answered = await answer(takeover)
        }
        let (status, reason, volume) = answered
        if status.phase.isLast {
            waits[name] = nil
        } else {
            var backoff = waits[name]?.backoff ?? Backoff(first: interval, limit: Self.longestWait)
            waits[name] = (.now + backoff.next(), backoff)
        }
        try await write(status, reason, takeover, volume)
    }

    /// What is said of one that has waited too long: it is not carried out any more. nil: it has not.
    private static func givenUp(_ takeover: TakeoverResource) -> TakeoverResource.Status? {
        guard let status = takeover.status else {
            guard let made = takeover.metadata.creationTimestamp,
                made < MigrationController.time(before: unseenPatience)
            else { return nil }
            return .init(
                phase: .refused,
                message: "given up: it is a day old, and no controller has looked at it. Make it anew")
        }
        guard status.phase == .waiting, let since = status.conditions?.first?.lastTransitionTime,
            since < MigrationController.time(before: patience)
        else { return nil }
        return .init(
            phase: .refused,
            message:
                "given up after 10 minutes, in which the site did not say that it was done: \(status.message). "
                + "If it was, the volume is owned here, and the same made anew says so; if not, that does it")
    }

    /// Does what is asked for, if it can be done.
    private func answer(
        _ takeover: TakeoverResource
    ) async -> (TakeoverResource.Status, reason: String, volume: String?) {
        let spec = takeover.spec
        let order: TakeoverOrder?
        switch (spec.force ?? false, spec.overrule) {
        case (true, let epoch?) where epoch > 0: order = TakeoverOrder(epoch: UInt64(epoch), base: spec.from)
        case (true, _):
            return (
                .init(phase: .refused, message: "force wants the epoch that is overruled: overrule"),
                "BadValue", nil
            )
        case (false, nil) where spec.from == nil: order = nil
        case (false, _):
            return (
                .init(phase: .refused, message: "overrule and from mean nothing without force"), "BadValue",
                nil
            )
        }
        // Not by a name, which another volume may get.
        guard VolumeID(spec.volume) != nil else {
            return (
                .init(phase: .refused, message: "'\(spec.volume.prefix(60))' is no volume's identifier"),
                "BadValue", nil
            )
        }
        do throws(SiteControlError) {
            let told = try await site.takeOver(spec.volume, order)
            return (Self.status(told, isDone: order != nil), order == nil ? "Told" : "TakenOver", told.volume)
        } catch {
            return error.isTransient
                ? (.init(phase: .waiting, message: error.description), "Unavailable", nil)
                : (.init(phase: .refused, message: error.description), "Refused", nil)
        }
    }

    private static func status(_ told: TakeoverAnswer, isDone: Bool) -> TakeoverResource.Status {
        var status: TakeoverResource.Status
        if isDone {
            status = .init(
                phase: .takenOver,
                message: "volume \(told.volume) is owned here, at epoch \(told.epoch): epoch "
                    + "\(told.overruledEpoch) is overruled")
            status.epoch = Int64(clamping: told.epoch)
        } else {
            let reign =
                told.owner.isEmpty
                ? "nobody who is known here; this site was overruled by epoch \(told.overruledEpoch)"
                : "\(told.owner) at epoch \(told.overruledEpoch)"
            let owner = "volume \(told.volume) is owned by \(reign)"
            status = .init(
                phase: .told,
                message: told.states.isEmpty
                    ? owner + "; nothing of it is here to begin with"
                    : owner + "; it can be taken over here")
        }
        status.owner = told.owner.isEmpty ? nil : told.owner
        status.ownerEpoch = Int64(clamping: told.overruledEpoch)
        status.states = told.states
        if !isDone {
            status.silentSites = told.silentSites.isEmpty ? nil : told.silentSites
            status.ownerAnswers = told.ownerAnswers
        }
        return status
    }

    private func write(
        _ status: TakeoverResource.Status, _ reason: String, _ takeover: TakeoverResource, _ volume: String?
    ) async throws(KubernetesError) {
        let time = Timestamps.seconds(Date())
        var next = status
        next.conditions = [
            Condition(
                "Completed", status.phase == .told || status.phase == .takenOver, reason: reason,
                message: status.message, at: time, observedGeneration: takeover.metadata.generation)
        ]
        if let known = takeover.status?.conditions?.first, known.status == next.conditions?.first?.status {
            next.conditions?[0].lastTransitionTime = known.lastTransitionTime
        }
        next.updated = takeover.status?.updated
        if next == takeover.status { return }
        next.updated = time
        // Events first: of a status that is written nobody thinks again.
        if takeover.status?.message != status.message {
            try await tell(status, reason, takeover, volume)
        }
        var changed = takeover
        changed.status = next
        do {
            _ = try await client.update(changed, subresource: "status")
        } catch {
            switch error {
            // Changed or taken back meanwhile: the next look sees it.
            case .conflict, .notFound: return
            default: throw error
            }
        }
    }

    private func tell(
        _ status: TakeoverResource.Status, _ reason: String, _ takeover: TakeoverResource, _ volume: String?
    ) async throws(KubernetesError) {
        logger.warning("takeover \(takeover.metadata.name ?? ""): \(reason): \(status.message)")
        let isWarning = status.phase == .refused || status.phase == .waiting
        try await events.record(reason, status.message, about: takeover, isWarning: isWarning)
        // What was only asked changes nothing for others.
        guard status.phase == .takenOver else { return }
        if let volume,
            let resource = try await client.find(VolumeResource.self, VolumeResource.objectName(volume)),
            resource.spec.id == takeover.spec.volume
        {
            try await events.record(reason, status.message, about: resource, isWarning: true)
        }
        let parts = (takeover.spec.claim ?? "").split(separator: "/").map(String.init)
        guard parts.count == 2,
            let claim = try await client.find(PersistentVolumeClaim.self, parts[1], in: parts[0]),
            let name = claim.spec.volumeName, !name.isEmpty,
            let persistent = try await client.find(PersistentVolume.self, name),
            persistent.spec.csi?.driver == ClusterNames.driver,
            persistent.spec.csi?.volumeHandle == takeover.spec.volume
        else { return }
        try await events.record(reason, status.message, about: claim, isWarning: true)
    }
}
