internal import Catalog
internal import FuseMount
internal import Glibc
internal import Handoff
internal import Hydration
internal import Logging
internal import PeerService
internal import VolumeFileSystem
internal import VolumeModel

/// All volumes of one site on one host: the embedded form, controller and node in one process.
package actor Site {
    /// How often unfinished business (lost messages, peers that were away) is tried again.
    private static let resumeInterval: Duration = .seconds(2)

    package nonisolated let context: SiteContext
    private var agents: [VolumeID: VolumeAgent] = [:]
    private var isCreating: Set<String> = []
    /// Whose data may be there before their record.
    private var isMaking: Set<VolumeID> = []
    /// What the nodes of this site were last known to know best of its volumes.
    var witnesses: (asked: ContinuousClock.Instant, known: [VolumeID: VolumeRecord])?
    /// Finding that out, for all who ask meanwhile.
    var witnessListing: Task<[VolumeID: VolumeRecord], any Error>?
    private var resuming: Task<Void, Never>?
    private var confirming: Task<Void, Never>?
    /// When the nodes of this site were last looked for.
    var lastMemberLook: ContinuousClock.Instant?
    /// The room that the nodes of this site last told.
    var rooms: (asked: ContinuousClock.Instant, known: [SiteID: UInt64])?
    private var scrubbing: Task<Void, Never>?
    private var reporting: Task<Void, Never>?
    /// Volumes that the registry does not name, and whose data are here all the same.
    var unregistered: Set<VolumeID> = []
    /// When they were last looked for.
    var lastUnregisteredLook: ContinuousClock.Instant?
    /// Why nobody would keep the mounts.
    private var holderFailure: String?
    /// Whether somebody would keep the mounts over a planned restart; nil: nobody is asked to.
    var isHeld: Bool? { context.holder == nil ? nil : holderFailure == nil }

    package init(context: SiteContext) { self.context = context }

    /// Takes up every volume of the registry where it was left.
    package func start() async throws {
        var all: [VolumeAgent] = []
        try await announceMember()
        for stored in try await context.registry.volumes() {
            let agent = VolumeAgent(stored, context: context)
            agents[stored.value.id] = agent
            all.append(agent)
        }
        // First what programs wait for. What is asked of peers, who may be away, comes when all of that is done.
        let left = await keptNames()
        let order =
            all.filter { left.contains($0.mountSource) } + all.filter { !left.contains($0.mountSource) }
        for agent in order { await agent.startAfterRestart() }
        context.confirmations.begin()
        let everything: @Sendable () async -> [VolumeAgent]? = { [weak self] in await self?.allAgents() }
        confirming = Task { [context] in await context.confirmations.run(context, everything) }
        await lookForUnregistered()
        await Self.each(of: order) { await $0.resume() }
        await lookForHolder()
        let scrubber = Scrubber(policy: context.scrubbing) { [weak self] in await self?.allAgents() ?? [] }
        scrubbing = Task { await scrubber.run() }
        if let members = context.members {
            let reporter = MemberReporter(context: context, registry: members.registry) { [weak self] in
                guard let self else { return nil }
                return (await allAgents(), await unregistered)
            }
            reporting = Task { await reporter.run() }
        }
        resuming = Task { [weak self] in
            while !Task.isCancelled {
                try? await Task.sleep(for: Self.resumeInterval)
                guard let all = await self?.allAgents() else { return }
                for agent in all { await agent.resume() }
                await self?.lookForHolder()
                await self?.lookForMembers()
                await self?.lookForUnregistered()
                await self?.forgetStaleOffers()
            }
        }
    }

    /// Does something with some volumes at a time, in order.
    private static func each(
        of agents: [VolumeAgent], _ body: @escaping @Sendable (VolumeAgent) async -> Void
    ) async {
        await withTaskGroup(of: Void.self) { group in
            for (index, agent) in agents.enumerated() {
                if index >= 8 { await group.next() }
                group.addTask { await body(agent) }
            }
        }
    }

    /// The mounts that the process before has left.
    private func keptNames() async -> Set<String> {
        guard let holder = context.holder else { return [] }
        return Set((try? await onBlockingThread { try holder.names() }) ?? [])
    }

    /// Says when there is nobody to keep the mounts, and when there is again. While this process runs nothing is kept,
    /// so that nothing is lost with a holder, and nothing to be done when there is another one: what of this site is
    /// kept all the same is of no volume that it knows, or of a process that was late, and is served by nobody ever again.
    private func lookForHolder() async {
        guard let holder = context.holder else { return }
        var failure: String?
        do {
            let (own, logger) = ("godwit:\(context.site)/", context.logger)
            try await onBlockingThread {
                for name in try holder.names() where name.hasPrefix(own) {
                    logger.error("a mount of '\(name)', which is not known here, is ended")
                    try holder.drop(name)
                }
            }
        } catch {
            failure = "\(error)"
        }
        guard failure != holderFailure else { return }
        holderFailure = failure
        if let failure {
            context.logger.warning("a planned restart now would end mounts that are in use: \(failure)")
        } else {
            context.logger.notice("there is somebody again to keep the mounts over a planned restart")
        }
    }

    /// Leaves mounts to the holder, or unmounts what is not in use; makes everything durable, closes.
    package func stop() async {
        resuming?.cancel()
        confirming?.cancel()
        scrubbing?.cancel()
        reporting?.cancel()
        await resuming?.value
        await scrubbing?.value
        // First what programs wait for, until the next process serves it.
        var (inUse, others): ([VolumeAgent], [VolumeAgent]) = ([], [])
        for agent in agents.values {
            if await agent.mounts.isEmpty { others.append(agent) } else { inUse.append(agent) }
        }
        await Self.each(of: inUse + others) { await $0.close() }
        agents = [:]
        // With the connections ends what it waits for.
        context.closeClients()
        await reporting?.value
        await confirming?.value
    }

    // MARK: volumes

    /// Makes an empty volume. The same request again gives the same volume.
    ///
    /// - Throws: `.nameTaken` when a volume of that name has another capacity or other parameters.
    func create(
        name: String, limits: VolumeLimits, parameters: [String: String],
        hydration: HydrationPolicy = HydrationPolicy()
    ) async throws -> VolumeAgent {
        guard VolumeName.isValid(name) else { throw SiteError.invalid(VolumeName.rule) }
        guard limits.isCountable else { throw SiteError.invalid(VolumeLimits.rule) }
        guard isCreating.insert(name).inserted else {
            throw SiteError.busy("volume '\(name)' is being created by another request")
        }
        defer { isCreating.remove(name) }
        if let existing = try await context.registry.volume(named: name) {
            guard existing.value.limits == limits, existing.value.parameters == parameters else {
                throw SiteError.nameTaken(name)
            }
            return try agent(existing.value.id)
        }
        let agent = try await insert(name, limits, parameters, hydration) { directory in
            try Catalog.create(
                in: directory, limits: limits, epoch: .first, now: VolumeFileSystem.now(), withRoot: true)
        }
        context.logger.info("volume '\(name)' (\(agent.id)) is created")
        return agent
    }

    /// Adds a volume whose first head `make` puts into a directory.
    private func insert(
        _ name: String, _ limits: VolumeLimits, _ parameters: [String: String], _ hydration: HydrationPolicy,
        make: (_ directory: String) async throws -> Void
    ) async throws -> VolumeAgent {
        var generator = SystemRandomNumberGenerator()
        let id = VolumeID(randomHigh: generator.next(), randomLow: generator.next())
        isMaking.insert(id)
        defer { isMaking.remove(id) }
        // The data first, then the record: a crash in between leaves a directory that nothing names, of which
        // 'godwit volume check' tells.
        do {
            let number = try context.state.makeHead(above: 0, of: id)
            try await make(context.state.head(number, of: id))
            var record = VolumeRecord(
                id: id, name: name, limits: limits, parameters: parameters,
                head: HeadRecord(newAt: context.site), headNumber: number)
            record.hydration = hydration
            let agent = VolumeAgent(try await context.registry.insert(record), context: context)
            agents[id] = agent
            return agent
        } catch {
            // A record whose insertion seemed to fail may be there: its data must not go.
            if await isUnnamed(id, name) { try? context.state.deleteVolume(id) }
            throw error
        }
    }

    /// Whether the registry is known to have no volume of this name and number.
    private func isUnnamed(_ id: VolumeID, _ name: String) async -> Bool {
        do {
            return try await context.registry.volume(named: name)?.value.id != id
        } catch {
            return false
        }
    }

    /// Makes a volume of its own of a divergence.
    ///
    /// - Throws: `.nameTaken`; `.precondition` when bytes of it are elsewhere; what the disk says. Nothing is left then.
    func restore(_ epoch: Epoch, of origin: VolumeAgent, as name: String) async throws -> VolumeAgent {
        guard VolumeName.isValid(name) else { throw SiteError.invalid(VolumeName.rule) }
        guard isCreating.insert(name).inserted else {
            throw SiteError.busy("volume '\(name)' is being created by another request")
        }
        defer { isCreating.remove(name) }
        guard try await context.registry.volume(named: name) == nil else { throw SiteError.nameTaken(name) }
        let source = await origin.record
        let agent = try await insert(name, source.limits, source.parameters, source.hydration) { directory in
            try await origin.copyDivergenceExclusively(epoch, to: directory)
        }
        context.logger.notice(
            "volume '\(name)' (\(agent.id)) is made of what '\(source.name)' had at epoch \(epoch)")
        return agent
    }

    /// How many volumes there may be here, for another to be taken as an offer: each costs memory, and a row.
    private static let offerLimit = 20_000

    /// Makes the follower of a volume that a peer offers; known already, it is the same one.
    ///
    /// - Parameters:
    ///   - claim: what comes with it, for which there must be room.
    ///   - stamp: when it was offered, by a node of this site.
    func adopt(
        _ record: VolumeRecord, with claim: ClaimFacts? = nil, at stamp: OfferStamp?,
        limit: Int = Site.offerLimit
    ) async throws -> VolumeAgent {
        if let known = agents[record.id] {
            await known.note(stamp)
            context.offers.renew(record.id)
            return known
        }
        guard agents.count < limit else {
            throw SiteError.unavailable(
                "site \(context.site) has \(agents.count) volumes and takes no more that are offered to it")
        }
        guard VolumeName.isValid(record.name) else { throw SiteError.invalid(VolumeName.rule) }
        if try await context.registry.volume(named: record.name) != nil {
            throw SiteError.nameTaken(record.name)
        }
        try context.offers.admit(record, with: claim)
        let agent: VolumeAgent
        do {
            agent = VolumeAgent(try await context.registry.insert(record), context: context)
        } catch {
            if agents[record.id] == nil { context.offers.forget(record.id) }
            throw error
        }
        // Before a withdrawal from before the offer can find it.
        await agent.note(stamp)
        agents[record.id] = agent
        return agent
    }

    /// Deletes a volume and its bytes here. A volume that is gone already is a success.
    func delete(_ id: VolumeID) async throws {
        guard let agent = agents[id] else { return }
        try await agent.deleteExclusively()
        agents[id] = nil
    }

    /// A peer takes its offer back.
    ///
    /// - Parameter stamp: when a node of this site did: what it has offered since stays.
    /// - Returns: whether nothing of the volume is known here any more.
    func withdraw(_ id: VolumeID, by owner: SiteID, at stamp: OfferStamp?) async throws -> Bool {
        guard let agent = agents[id] else { return true }
        guard try await agent.leaveExclusively(asToldBy: owner, at: stamp) else { return false }
        agents[id] = nil
        return true
    }

    func agent(_ id: VolumeID) throws -> VolumeAgent {
        guard let agent = agents[id] else { throw SiteError.unknownVolume(id.description) }
        return agent
    }

    /// Finds a volume by its identifier or by its name.
    func agent(called text: String) async throws -> VolumeAgent {
        if let id = VolumeID(text), let agent = agents[id] { return agent }
        for agent in agents.values where await agent.record.name == text { return agent }
        throw SiteError.unknownVolume(text)
    }

    /// - Parameter text: a volume's identifier or its name, whichever node has it.
    func id(called text: String) async throws -> VolumeID {
        guard let members = context.members else { return try await agent(called: text).id }
        guard let id = try await members.placements(called: text).first?.record.id else {
            throw SiteError.unknownVolume(text)
        }
        return id
    }

    func knows(_ id: VolumeID) -> Bool { agents[id] != nil }

    func isBeingMade(_ id: VolumeID) -> Bool { isMaking.contains(id) }

    /// Whether the present head of a volume is this site's own.
    func isOwned(_ id: VolumeID) async -> Bool { await agents[id]?.record.head.hasOwnHead ?? false }

    func allAgents() -> [VolumeAgent] { Array(agents.values) }
}

extension VolumeAgent {
    /// The reigns that bytes are kept for here, without those of this site's nodes that know the volume no longer: it was
    /// deleted there.
    private func neededReigns() async throws -> [Epoch] {
        let kept = record.head.keptReigns
        guard let members = context.members, !kept.isEmpty else { return kept.sorted() }
        let holders = Set(try await members.placements(of: id).map(\.member))
        let gone = record.head.grants.map(\.heir).filter {
            $0.owner.site == context.site.site && !holders.contains($0.owner)
        }
        return kept.subtracting(gone.map(\.epoch)).sorted()
    }

    /// Deletes the volume here: record first, so that nothing ever serves half-deleted bytes.
    func delete() async throws {
        let role = record.head.role
        guard mounts.isEmpty else {
            throw SiteError.precondition("volume '\(record.name)' is mounted: unmount it first")
        }
        if let user = record.head.user, user.attachment != nil {
            throw SiteError.precondition(
                "volume '\(record.name)' is in use: it is attached to node \(user.node). Detach it there first"
            )
        }
        if case .sealing(_, let heir) = role {
            throw SiteError.precondition("volume '\(record.name)' is being handed to \(heir)")
        }
        // What is here may be all that there is of a reign that the record does not know.
        if let obstacle, !context.state.heads(of: id).isEmpty { throw SiteError.unusable(obstacle) }
        if let reign = try await neededReigns().first {
            throw SiteError.precondition(
                "the bytes of volume '\(record.name)' are still needed by its owner at epoch \(reign): "
                    + "wait until they have arrived there")
        }
        if let divergence = record.head.divergences.first {
            throw SiteError.precondition(
                "volume '\(record.name)' keeps what was written here at epoch \(divergence.epoch) and is nowhere "
                    + "else: 'godwit volume divergence delete' first")
        }
        try await takeBackAllOffers()
        guard mounts.isEmpty, try await neededReigns().isEmpty, record.head.role == role else {
            throw SiteError.busy("volume '\(record.name)' is in use again")
        }
        try await context.registry.remove(stored)
        await close()
        forgetCopies()
        context.offers.forget(id)
        do {
            try takeAwayDeadMounts()
        } catch {
            logger.warning("a dead mount of it stays: \(error)")
        }
        try context.state.deleteVolume(id)
        logger.info("deleted")
    }
}
