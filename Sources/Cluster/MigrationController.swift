internal import ClusterResources
package import KubernetesAPI
package import Logging
internal import VolumeModel

/// Follows the claims of a cluster and does for each what its annotations ask for.
///
/// It looks at what is, decides (`ClaimDecision`), acts, and keeps nothing that matters: killed at any moment and
/// started again, it decides the same. Every effect may be repeated.
package actor MigrationController {
    package static let driver = ClusterNames.driver

    let client: KubernetesClient
    let site: any SiteControl
    let events: EventRecorder
    let logger: Logger
    private let figures: ControllerFigures
    private let arrivals: ArrivingClaims
    private let takeovers: Takeovers
    /// Claims that carry an annotation of ours.
    private(set) var claims: [Key: PersistentVolumeClaim] = [:]
    private var migrations: [Key: MigrationResource] = [:]
    var schedule: LookSchedule<Key>
    /// The volumes of the claims as they were last seen: a claim's volume stays the same.
    private var handles: [Key: (persistentVolume: String, id: String)] = [:]
    /// What sites are being asked for, which may take an hour.
    var advances: [Key: Advance] = [:]
    /// Migrations whose status was written since they were last looked at.
    var written: Set<Key> = []
    /// For the rate at which bytes arrive: a display, no state.
    var samples: [Key: MigrationReport.Sample] = [:]
    /// What is said of claims whose volumes come, or came, from other clusters; nil: the site has not told yet.
    var arriving: [Arriving: MoveNote]?
    /// How old an Event is that is told again where its cause is still there: the cluster forgets it after an hour.
    let retelling: Duration

    struct Key: Hashable, Sendable, CustomStringConvertible {
        var namespace: String
        var name: String
        var description: String { namespace + "/" + name }
    }

    /// - Parameters:
    ///   - classes: the storage class here for one of another cluster; the same name where none is given.
    ///   - acceptedNamespaces: a label selector of namespaces in which claims of other clusters are made; nil: all.
    ///   - figures: where it counts what it does.
    ///   - interval: how often a claim is looked at while its volume moves.
    ///   - retelling: after what time what is wrong is told again.
    package init(
        _ client: KubernetesClient, site: any SiteControl, classes: [String: String] = [:],
        acceptedNamespaces: String? = nil, logger: Logger, figures: ControllerFigures = ControllerFigures(),
        interval: Duration = .seconds(2), retelling: Duration = .seconds(3000)
    ) {
        self.figures = figures
        self.client = client
        self.site = site
        self.logger = logger
        self.retelling = retelling
        schedule = LookSchedule(interval: interval)
        events = EventRecorder(client, component: "godwit-controller")
        let maker = ClaimMaker(client: client, classes: classes, acceptedNamespaces: acceptedNamespaces)
        arrivals = ArrivingClaims(client, site: site, maker: maker, logger: logger, interval: interval)
        takeovers = Takeovers(client, site: site, logger: logger, interval: interval)
    }

    package func run() async throws {
        figures.noteLeading(true)
        defer { figures.noteLeading(false) }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { [self] in
                try await client.follow(PersistentVolumeClaim.self, failed: { self.log($0) }) {
                    await self.see($0)
                }
            }
            group.addTask { [self] in
                try await client.follow(MigrationResource.self, failed: { self.log($0) }) {
                    await self.see($0)
                }
            }
            group.addTask { try await self.work() }
            group.addTask { [self] in try await arrivals.run { await self.see(arriving: $0) } }
            group.addTask { [self] in try await takeovers.run() }
            // Whichever ends first, with an error: the others end with it.
            let ended = await group.nextResult()
            group.cancelAll()
            // At once: somebody else may lead already.
            for advance in advances.values { advance.task.cancel() }
            while await group.nextResult() != nil {}
            for key in advances.keys { await giveUp(key) }
            try ended?.get()
        }
    }

    nonisolated func log(_ error: KubernetesError) {
        figures.noteAPIFailure()
        logger.notice("the cluster's API: \(error)")
    }

    // MARK: what is seen

    static func key(_ metadata: ObjectMeta) -> Key {
        Key(namespace: metadata.namespace ?? "default", name: metadata.name ?? "")
    }

    private static func asks(_ claim: PersistentVolumeClaim) -> Bool {
        let annotations = claim.metadata.annotations ?? [:]
        return [ClaimWishes.migrateTo, ClaimWishes.rateLimit, ClaimWishes.pause]
            .contains { annotations[$0] != nil }
    }

    /// Something is asked for, or what is said of it may have to be taken back.
    private static func concerns(_ claim: PersistentVolumeClaim) -> Bool {
        asks(claim) || claim.followed?.status == "False" || claim.note != nil
    }

    private func see(_ change: WatchChange<PersistentVolumeClaim>) {
        switch change {
        case .replaced(let all):
            let before = claims
            claims = [:]
            for claim in all where Self.concerns(claim) { claims[Self.key(claim.metadata)] = claim }
            let present = Set(all.map { Self.key($0.metadata) })
            for key in before.keys where !present.contains(key) { forget(key) }
            // What happened while nobody watched.
            for key in Set(before.keys).union(claims.keys)
            where before[key]?.metadata.resourceVersion != claims[key]?.metadata.resourceVersion {
                schedule.noteChange(key, now: .now)
            }
        case .applied(let claim):
            let key = Self.key(claim.metadata)
            // One without an annotation is looked at only while its migration is open.
            claims[key] = Self.concerns(claim) ? claim : nil
            if claims[key] != nil || migrations[key] != nil { schedule.noteChange(key, now: .now) }
        case .deleted(let claim):
            let key = Self.key(claim.metadata)
            claims[key] = nil
            forget(key)
            if migrations[key] != nil { schedule.noteChange(key, now: .now) }
        }
    }

    /// A claim is gone; another one may come under its name.
    private func forget(_ key: Key) {
        samples[key] = nil
        handles[key] = nil
        written.remove(key)
    }

    private func see(_ change: WatchChange<MigrationResource>) {
        switch change {
        case .replaced(let all):
            let before = migrations
            migrations = Dictionary(all.map { (Self.key($0.metadata), $0) }) { _, last in last }
            for key in Set(before.keys).union(migrations.keys)
            where before[key]?.spec != migrations[key]?.spec {
                schedule.noteChange(key, now: .now)
            }
        case .applied(let migration):
            let key = Self.key(migration.metadata)
            // A status is what we wrote.
            let known = migrations[key]
            if known?.spec != migration.spec
                || known?.metadata.deletionTimestamp != migration.metadata.deletionTimestamp
            {
                schedule.noteChange(key, now: .now)
            }
            migrations[key] = migration
        case .deleted(let migration):
            let key = Self.key(migration.metadata)
            migrations[key] = nil
            if claims[key] != nil { schedule.noteChange(key, now: .now) }
        }
    }

    // MARK: what is done

    /// How often it is found out whose turn it is, and how many looks that begins at most.
    private static let pace: (tick: Duration, limit: Int) = (.milliseconds(500), 10)

    private func work() async throws {
        try await withThrowingDiscardingTaskGroup { group in
            while true {
                try Task.checkCancellation()
                figures.noteTurn(
                    migrations.values.reduce(into: [:]) { $0[$1.currentStatus?.phase, default: 0] += 1 })
                let open = migrations.filter { !$0.value.hasEnded || $0.value.isKept }.keys
                let wanted = Set(claims.keys).union(open).union(arrivalsUnderWay)
                for key in schedule.begin(wanted, limit: Self.pace.limit, now: .now) {
                    group.addTask { await self.look(at: key) }
                }
                try await Task.sleep(for: min(Self.pace.tick, schedule.interval))
            }
        }
    }

    private func look(at key: Key) async {
        var outcome = LookSchedule<Key>.Outcome.waits
        var hasFailed = false
        figures.beginLook()
        defer {
            schedule.end(key, outcome, now: .now, jitter: Double.random(in: 0...1))
            figures.endLook(hasFailed ? .failed : Self.look(outcome))
        }
        do {
            if await isSettled(key) {
                outcome = .settled
                return
            }
            written.remove(key)
            outcome = try await reconcile(key) ? .settled : written.contains(key) ? .moved : .waits
        } catch is CancellationError {
            return
        } catch {
            hasFailed = true
            logger.warning("claim \(key): \(error)")
        }
    }

    private static func look(_ outcome: LookSchedule<Key>.Outcome) -> ControllerFigures.Look {
        switch outcome {
        case .settled: .settled
        case .moved: .moved
        case .waits: .waits
        }
    }

    /// Whether by what watches have told there is nothing to do: then the cluster is not asked. What they have not told
    /// yet comes, and is looked at then.
    private func isSettled(_ key: Key) async -> Bool {
        guard let claim = claims[key], claim.metadata.deletionTimestamp == nil, let handle = handles[key],
            handle.persistentVolume == claim.spec.volumeName
        else { return false }
        let present = migrations[key]
        if let present, present.isKept, !present.concernsTarget { return false }
        // Where the site does not answer there is something to say.
        guard let decision = try? await decide(key, claim, handle.id, present).0 else { return false }
        return decision.isNothing && isShown(decision.badValues.map { Complaint($0) }, of: claim)
    }

    private func decide(
        _ key: Key, _ claim: PersistentVolumeClaim, _ volume: String, _ present: MigrationResource?
    ) async throws(SiteControlError) -> (ClaimDecision, site: String, peers: Set<String>) {
        let (name, peers) = try await site.info()
        let decision = ClaimDecision(
            claim: key.name, volumeID: volume, annotations: claim.metadata.annotations ?? [:],
            volume: try await site.volume(volume), site: name, peers: peers, present: present,
            arrival: arrival(of: volume, key))
        return (decision, name, peers)
    }

    /// - Returns: whether nothing is left to do until something changes.
    private func reconcile(_ key: Key) async throws -> Bool {
        // Read anew, rather than what a watch told a while ago.
        let found = try await client.find(PersistentVolumeClaim.self, key.name, in: key.namespace)
        var present = try await client.find(MigrationResource.self, key.name, in: key.namespace)
        if let known = present, known.isKept, !known.concernsTarget {
            present = try await letGo(known)
        }
        guard let claim = found, claim.metadata.deletionTimestamp == nil, present?.isOf(claim) ?? true else {
            await giveUp(key)
            guard let present else { return true }
            try await withdrawDeleted(present, found.flatMap { present.isOf($0) ? $0 : nil })
            return false
        }
        guard let volumeName = claim.spec.volumeName, !volumeName.isEmpty,
            let persistent = try await client.find(PersistentVolume.self, volumeName),
            let source = persistent.spec.csi, source.driver == Self.driver
        else {
            await giveUp(key)
            if let present, present.metadata.deletionTimestamp != nil {
                try await withdrawDeleted(present, nil)
                return false
            }
            let isOthers = Self.asks(claim) && claim.status?.phase == "Bound"
            try await show(isOthers ? [.notOurs] : [], of: claim)
            return true
        }
        handles[key] = (volumeName, source.volumeHandle)
        return try await follow(key, claim, persistent, source.volumeHandle, present)
    }

    /// - Returns: whether nothing is left to do until something changes.
    private func follow(
        _ key: Key, _ read: PersistentVolumeClaim, _ persistent: PersistentVolume, _ volume: String,
        _ present: MigrationResource?
    ) async throws -> Bool {
        var claim = read
        let decided: (ClaimDecision, site: String, peers: Set<String>)
        do throws(SiteControlError) {
            decided = try await decide(key, claim, volume, present)
        } catch {
            try await show([Complaint(error)], of: claim)
            return false
        }
        let (decision, name, peers) = decided
        let isNoted: Bool
        (claim, isNoted) = await write(decision.note, claim)
        var complaints = decision.badValues.map { Complaint($0) }
        if let first = decision.goesFirst { complaints.append(.goesFirst(to: first)) }
        let refusal = try await setHydration(decision.hydration, of: volume, claim)
        if let refusal { complaints.append(refusal) }
        try await show(complaints, of: claim)
        let facts = Result { () throws(ClaimFacts.Refusal) in try ClaimFacts(claim, of: persistent) }
        // Nothing else is done about a volume while its site is asked for something that is not wanted any more.
        if advances[key]?.wanted != Advance.Wanted(decision.move, facts) { await giveUp(key) }
        switch decision.move {
        case .nothing: return refusal == nil && isNoted
        case .cancel:
            if let present { try await cancel(present, claim, peers) }
        case .close:
            if let present { try await close(present, claim, at: name) }
        case .fail(let spec, let reason, let message):
            guard let migration = try await ensure(spec, key, claim, present, peers) else { break }
            try await write(.init(phase: .failed, message: message), reason: reason, migration, claim)
        case .advance(let spec):
            guard let migration = try await ensure(spec, key, claim, present, peers) else { break }
            switch facts {
            case .failure(let refusal):
                try await write(
                    .init(phase: .failed, message: refusal.description), reason: "BadClaim", migration, claim)
            case .success(let facts):
                guard try await begin(migration, key, claim), advances[key] == nil else { break }
                start(.init(spec: spec, facts: facts), migration, key, claim)
            }
        }
        return false
    }
}
