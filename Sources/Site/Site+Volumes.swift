internal import ControlProtocol
internal import Hydration
internal import RPC
internal import VolumeModel

/// What concerns all nodes of a site at once: its volumes, whichever node has them, and the room for more.
extension Site {
    /// How long is waited for a node whose answer is only part of another.
    static let lookTimeout: Duration = .seconds(5)

    // MARK: changing

    func expand(_ id: VolumeID, to capacity: UInt64) async throws {
        if let keeper = try await keeperElsewhere(called: id.description) {
            var request = Godwit_Control_V1_ExpandVolumeRequest()
            request.volume = id.description
            request.capacity = capacity
            let _: Godwit_Control_V1_Volume = try await ask(keeper, "ExpandVolume", request)
            return
        }
        let agent = try agent(id)
        var limits = await agent.record.limits
        limits.byteCount = capacity
        try await agent.expand(to: limits)
    }

    /// Of the node that answers for it. Others that still fetch bytes for that one go on as they did.
    func setHydration(_ policy: HydrationPolicy, of id: VolumeID) async throws {
        if let keeper = try await keeperElsewhere(called: id.description) {
            var request = Godwit_Control_V1_SetHydrationRequest()
            request.volume = id.description
            request.paused = policy.isPaused
            request.bytesPerSecond = policy.bytesPerSecond ?? 0
            request.prefetch = policy.prefetch.rawValue
            let _: Godwit_Control_V1_Volume = try await ask(keeper, "SetHydration", request)
            return
        }
        try await agent(id).setHydration(policy)
    }

    // MARK: making and deleting

    /// Makes a volume at the first of some nodes; at this one if none is named.
    ///
    /// - Throws: `.nameTaken` as `create` does, whichever node has the name.
    func create(
        name: String, limits: VolumeLimits, parameters: [String: String], hydration: HydrationPolicy,
        at nodes: [String]
    ) async throws -> VolumeRecord {
        if let known = try await context.members?.registry.placements(named: name), !known.isEmpty {
            guard let record = Placement.keeper(among: known)?.record, record.limits == limits,
                record.parameters == parameters
            else { throw SiteError.nameTaken(name) }
            return record
        }
        var member = context.site
        if let node = nodes.first { member = try await self.member(at: node) }
        guard member != context.site else {
            return try await create(name: name, limits: limits, parameters: parameters, hydration: hydration)
                .record
        }
        var request = Godwit_Control_V1_CreateVolumeRequest()
        request.name = name
        request.capacity = limits.byteCount
        request.inodeLimit = limits.inodeCount
        request.parameters = parameters
        request.hydrationPaused = hydration.isPaused
        request.hydrationBytesPerSecond = hydration.bytesPerSecond ?? 0
        request.hydrationPrefetch = hydration.prefetch.rawValue
        let made: Godwit_Control_V1_Volume = try await ask(member, "CreateVolume", request)
        guard let id = VolumeID(made.id) else { throw SiteError.unavailable("node '\(member)' sent rubbish") }
        return try await record(id)
    }

    /// Deletes a volume at every node. One that is gone already is a success.
    ///
    /// First it is made sure that nothing is in the way anywhere. Then first where it is: what the others keep of it is
    /// needed by nobody after that.
    ///
    /// - Throws: before anything is deleted, what is in the way, or who does not answer.
    func deleteEverywhere(_ id: VolumeID) async throws {
        guard let members = context.members else { return try await delete(id) }
        try await checkDeletable(id, try await members.placements(of: id))
        for member in try await members.abandonOthers(of: id) {
            context.logger.warning("volume \(id): what was at \(member) is given up, with that node")
        }
        // What moves meanwhile is looked for again.
        while let keeper = try await members.keeper(of: id) {
            if keeper.member == context.site {
                guard knows(id) else { throw SiteError.busy("volume \(id) is changing hands") }
                try await delete(id)
            } else {
                do {
                    let _: Godwit_Control_V1_Empty = try await ask(
                        keeper.member, "DeleteVolume", Self.request(id))
                } catch let status as RPCStatus where status.code == .notFound {
                    throw SiteError.busy("volume \(id) is changing hands")
                }
            }
        }
    }

    private func checkDeletable(_ id: VolumeID, _ placements: [Placement]) async throws {
        for placement in placements {
            let (head, node) = (placement.record.head, placement.member.node ?? "")
            if let divergence = head.divergences.first {
                throw SiteError.precondition(
                    "volume '\(placement.record.name)' keeps at node '\(node)' what was written there at epoch "
                        + "\(divergence.epoch) and is nowhere else: 'godwit volume divergence delete' first")
            }
            if let grant = head.grants.first(where: { $0.heir.owner.site != context.site.site }) {
                throw SiteError.precondition(
                    "bytes of volume '\(placement.record.name)' at node '\(node)' are still needed by "
                        + "\(grant.heir): wait until they have arrived there")
            }
            if placement.member != context.site {
                let _: Godwit_Control_V1_InfoReply = try await ask(
                    placement.member, "Info", Godwit_Control_V1_InfoRequest(), timeout: Self.lookTimeout)
            }
        }
    }

    // MARK: all volumes

    /// A volume, and what its node tells of it.
    struct Listed {
        let record: VolumeRecord
        let message: Godwit_Control_V1_Volume
    }

    /// Every volume once, as whoever answers for it tells. Of a node that does not answer what the registry says, with
    /// the reason as its trouble.
    ///
    /// - Parameter withClaim: only those that came with a claim from another cluster.
    func everyVolume(withClaim: Bool = false) async throws -> [Listed] {
        guard let members = context.members else {
            var all: [Listed] = []
            for agent in allAgents() {
                if withClaim, await agent.record.claim == nil { continue }
                all.append(await listed(agent))
            }
            return all
        }
        let all = Dictionary(grouping: try await members.placements(), by: \.record.id).values
        let present = all.compactMap { Placement.keeper(among: $0) }
            .filter { !withClaim || $0.record.claim != nil }
        let keepers = Dictionary(grouping: present, by: \.member)
        return await withTaskGroup(of: [Listed].self) { group in
            for (member, placements) in keepers {
                group.addTask { await self.list(placements.map(\.record), at: member) }
            }
            var volumes: [Listed] = []
            for await some in group { volumes += some }
            return volumes
        }
    }

    /// One of them.
    func listed(_ id: VolumeID) async throws -> Listed {
        if let members = context.members, await ownedRecord(id) == nil {
            guard let keeper = try await members.keeper(of: id) else {
                throw SiteError.unknownVolume(id.description)
            }
            if keeper.member != context.site {
                return Listed(
                    record: keeper.record,
                    message: try await ask(keeper.member, "InspectVolume", Self.request(id)))
            }
        }
        return await listed(try agent(id))
    }

    /// The same as this node sees it, whoever answers for it.
    func listedHere(_ id: VolumeID) async throws -> Listed { await listed(try agent(id)) }

    private func listed(_ agent: VolumeAgent) async -> Listed {
        let summary = await agent.summary()
        return Listed(record: summary.record, message: message(summary))
    }

    /// What is told of a volume of this node.
    nonisolated func message(_ summary: VolumeSummary) -> Godwit_Control_V1_Volume {
        var message = summary.controlMessage(site: context.site)
        message.node = context.node
        return message
    }

    private func list(_ records: [VolumeRecord], at member: SiteID) async -> [Listed] {
        guard member != context.site else {
            var all: [Listed] = []
            for record in records {
                guard let agent = try? agent(record.id) else { continue }
                all.append(await listed(agent))
            }
            return all
        }
        var told: [String: Godwit_Control_V1_Volume] = [:]
        var trouble: String?
        var request = Godwit_Control_V1_ListVolumesRequest()
        request.withClaim = records.allSatisfy { $0.claim != nil }
        do {
            let reply: Godwit_Control_V1_ListVolumesReply = try await ask(
                member, "ListVolumes", request, timeout: Self.lookTimeout)
            told = Dictionary(reply.volumes.map { ($0.id, $0) }) { first, _ in first }
        } catch {
            trouble = (error as? RPCStatus)?.message ?? "\(error)"
        }
        return records.map { record in
            if let message = told[record.id.description] { return Listed(record: record, message: message) }
            var summary = VolumeSummary(record: record)
            summary.trouble = trouble
            var message = summary.controlMessage(site: member)
            message.node = context.members?.all().first { $0.id == member }?.node ?? member.description
            return Listed(record: record, message: message)
        }
    }

    // MARK: room

    /// The room at each node, as of some seconds ago: other sites may ask as often as they like.
    private func knownRooms() async throws -> [SiteID: UInt64] {
        if let rooms, ContinuousClock.now - rooms.asked < .seconds(10) { return rooms.known }
        let known = try await freeBytes(at: [], timeout: .milliseconds(1500))
        rooms = (.now, known)
        return known
    }

    /// The room for volumes at each of some nodes; at all of them if none is named. Those that do not answer have none.
    func freeBytes(at nodes: [String], timeout: Duration = lookTimeout) async throws -> [SiteID: UInt64] {
        let own = try context.state.freeBytes()
        guard let members = context.members else { return [context.site: own] }
        try await members.refresh()
        let wanted = members.all().filter { nodes.isEmpty || nodes.contains($0.node) }
        return await withTaskGroup(of: (SiteID, UInt64)?.self) { group in
            for member in wanted {
                group.addTask {
                    if member.id == self.context.site { return (member.id, own) }
                    let reply = try? await self.ask(
                        member.id, "Info", Godwit_Control_V1_InfoRequest(),
                        as: Godwit_Control_V1_InfoReply.self,
                        timeout: timeout)
                    return reply.map { (member.id, $0.freeByteCount) }
                }
            }
            var rooms: [SiteID: UInt64] = [:]
            for await case let (member, room)? in group { rooms[member] = room }
            return rooms
        }
    }

    /// What the nodes of this site know best of who owns its volumes, as of a minute ago: other sites may ask as often as
    /// they like, and each of their nodes asks once a minute. nil: there is this node alone.
    func witnessRecords() async throws -> [VolumeID: VolumeRecord]? {
        guard let members = context.members else { return nil }
        if let witnesses, ContinuousClock.now - witnesses.asked < ConfirmationSchedule.interval {
            return witnesses.known
        }
        let asked = ContinuousClock.now
        let listing =
            witnessListing
            ?? Task {
                Dictionary(grouping: try await members.placements(), by: \.record.id)
                    .compactMapValues { Placement.witness(among: $0)?.record }
            }
        witnessListing = listing
        defer { if witnessListing == listing { witnessListing = nil } }
        let known = try await listing.value
        witnesses = (asked, known)
        return known
    }

    /// Where a volume is that another site asks for, or where it would best come to: where something of it is, or where
    /// there is most room.
    ///
    /// - Parameter isShared: whether it may be told of what is known of a volume; else of none.
    func locate(
        _ id: VolumeID, isShared: @Sendable (VolumeRecord) -> Bool
    ) async throws -> (member: SiteID, holders: [SiteID]) {
        guard let members = context.members else {
            guard let agent = try? agent(id), isShared(await agent.record) else { return (context.site, []) }
            return (context.site, [context.site])
        }
        var placements = try await members.placements(of: id)
        var keeper = Placement.keeper(among: placements)
        if let record = keeper?.record, !isShared(record) { (placements, keeper) = ([], nil) }
        let holders = placements.map(\.member)
        if let keeper, keeper.member == context.site || keeper.isBinding {
            return (keeper.member, holders)
        }
        let rooms = try await knownRooms()
        // What is left of an earlier stay is of no use at a node that does not answer.
        if let keeper, rooms[keeper.member] != nil { return (keeper.member, holders) }
        let best = rooms.max { ($0.value, $1.key) < ($1.value, $0.key) }
        return (best?.key ?? context.site, holders)
    }
}
