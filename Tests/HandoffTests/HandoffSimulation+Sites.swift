import VolumeModel

@testable import Handoff

/// The shell of the simulation: how a site takes events and messages and runs actions.
extension HandoffSimulation {
    // MARK: events

    mutating func apply(_ event: Event, at index: Int) throws {
        guard let record = sites[index].memory else { return }
        var next = record
        do {
            var actions = try next.apply(event)
            if case .claimAnswered(_, let reign, false) = event, next != record {
                // Its owner has handed the head on and deleted it, or it never was there.
                lost |= sites[index].head(of: reign)?.missing ?? 0
            }
            trace?.note("\(sites[index].id): \(event) → \(next.role) (spent: \(next.spent))")
            try checkRepetition(of: event, on: next)
            coverage.count(record.role, event, next: next.role)
            plant(event, before: record, &next, &actions, at: index)
            if next == record {
                sites[index].actions += actions
            } else {
                sites[index].staged = (next, actions)
            }
        } catch let error as HandoffError {
            trace?.note("\(sites[index].id): \(event) refused: \(error)")
            guard next == record else { throw Violation("a refused event changed the record") }
            coverage.count(record.role, event, next: record.role)
            try answer(error, to: event, at: index)
        }
    }

    private mutating func answer(_ error: HandoffError, to event: Event, at index: Int) throws {
        switch error {
        case .sealRefused(let refusal):
            guard case .sealRequested(let by, _, let wanted) = event, let asker = position(of: by) else {
                return
            }
            let answer = Event.sealRefused(by: sites[index].id, wanted: wanted, refusal)
            send(.event(answer), from: index, to: asker)
        case .contradiction, .implausible, .unreadableRecord:
            throw Violation("\(sites[index].id): \(event): \(error)")
        case .inUse, .notOwner, .promised, .overruled, .needed, .notCaughtUp, .notReigning,
            .nothingToBeginWith:
            break
        }
    }

    private func checkRepetition(of event: Event, on record: HeadRecord) throws {
        try record.validate()
        var again = record
        _ = try? again.apply(event)
        guard again == record else {
            throw Violation("\(event) came twice: \(record.role) became \(again.role)")
        }
    }

    /// One piece of work of a site: write the record, run an action, or take a result.
    mutating func work(_ index: Int) throws {
        guard sites[index].memory != nil, !random.chance(weather.slowness) else { return }
        if let (record, actions) = sites[index].staged {
            sites[index].staged = nil
            if random.chance(weather.refusal) {
                // Then nothing has happened, and whoever asked is told; but it may be there after a crash.
                if !isLost(record) { sites[index].doubtful = record }
                coverage.refusalCount += 1
                trace?.note("\(sites[index].id) cannot persist \(record.role)")
                return
            }
            sites[index].memory = record
            sites[index].actions += actions
            if !isLost(record) { sites[index].persist(record) }
            trace?.note("\(sites[index].id) persists \(record.role)")
            try checkReign(index)
            try checkOwners()
            try checkBytes()
        } else if !sites[index].results.isEmpty, sites[index].actions.isEmpty || random.chance(50) {
            try apply(sites[index].results.removeFirst(), at: index)
        } else if !sites[index].actions.isEmpty {
            try run(sites[index].actions.removeFirst(), at: index)
        }
    }

    private mutating func run(_ action: Action, at index: Int) throws {
        if let (to, event) = action.message(from: sites[index].id) {
            guard let target = position(of: to) else { throw Violation("a message to nobody: \(action)") }
            return send(.event(event), from: index, to: target)
        }
        guard let record = sites[index].memory else { return }
        if case .stopServing(let epoch) = action {
            guard bug != .writeWhenSealed else { return }
            if let mounted = sites[index].mounted, mounted <= epoch { sites[index].mounted = nil }
            sites[index].begun.removeAll { $0.epoch <= epoch }
            return
        }
        guard record.actionsAfterRestart().contains(action) else { return }
        switch action {
        case .serve(let epoch):
            if case .owning(epoch, .some) = record.role { sites[index].mounted = epoch }
        case .readTail(let heir):
            if bug != .tailReadBeforeSeal && bug != .writeWhenSealed { sites[index].begun = [] }
            let count = Int64(sites[index].present.log.count)
            sites[index].results.append(.tailRead(heir: heir, finalSequence: SequenceNumber(count)))
        case .fetchTail(let from, let grant):
            if let source = position(of: from) { send(.tailRequest(grant), from: index, to: source) }
        case .keepDivergence(let epoch):
            sites[index].results.append(.divergenceKept(under: epoch))
        case .mayDiscard:
            guard random.chance(50) else { return }
            trace?.note("\(sites[index].id) discards")
            sites[index].present = SimulatedSite.Head()
            try checkBytes()
        default: break
        }
    }

    // MARK: messages

    mutating func receive(_ message: Message) throws {
        let index = message.to
        switch message.payload {
        case .event(let event): try apply(event, at: index)
        case .question(let reign):
            guard let told = sites[index].memory?.objection(to: reign) else { return }
            send(.event(.reignTold(told)), from: index, to: message.from)
        case .changes(let reign, let log):
            guard case .following(reign)? = sites[index].memory?.role else { return }
            try extend(index, with: log, of: reign.epoch)
        case .tailRequest(let grant):
            // Only what was promised is given, and only up to where it was promised.
            guard let record = sites[index].memory, record.grants.contains(grant),
                let reign = record.keptHead(for: grant.heir), let head = sites[index].head(of: reign)
            else { return }
            let count = Int(grant.finalSequence.number)
            guard head.log.count >= count else {
                throw Violation("\(sites[index].id) promised more than it has")
            }
            send(.tail(grant, log: Array(head.log.prefix(count))), from: index, to: message.from)
        case .tail(let grant, let log):
            guard case .receiving(_, grant)? = sites[index].memory?.role else { return }
            try extend(index, with: log, of: grant.heir.epoch)
            let sequence = SequenceNumber(Int64(sites[index].present.log.count))
            sites[index].results.append(.caughtUp(wanted: grant.heir.epoch, sequence: sequence))
        case .bytesRequest(let heir, let wanted):
            guard let reign = sites[index].memory?.keptHead(for: heir),
                let head = sites[index].head(of: reign)
            else { return }
            let found = head.resident & wanted
            if found != 0 { send(.bytes(found, reign: heir.epoch), from: index, to: message.from) }
        case .bytes(let bytes, let reign):
            if random.chance(weather.refusal) { return }
            sites[index].add(bytes, toHeadOf: reign)
        }
    }

    private mutating func extend(_ index: Int, with log: [UInt8], of epoch: Epoch) throws {
        // A full disk: what was wanted is asked for again.
        if random.chance(weather.refusal) { return }
        let world = Self.world(of: epoch)
        if sites[index].present.world != world {
            // Another owner's head: it is followed in a new one.
            sites[index].present = SimulatedSite.Head(world: world)
        }
        let own = sites[index].present.log
        guard log.starts(with: own) || own.starts(with: log) else {
            throw Violation("\(sites[index].id) has \(own), and is to follow \(log)")
        }
        if log.count > own.count { sites[index].present.log = log }
    }

    // MARK: checks

    /// A record that makes its site the owner begins a reign.
    mutating func checkReign(_ index: Int) throws {
        guard let record = sites[index].memory else { return }
        if case .sealing(_, let heir) = record.role { promises[heir.epoch] = heir.owner }
        guard case .owning(let epoch, _) = record.role else { return }
        let reign = Reign(sites[index].id, epoch)
        let world = Self.world(of: epoch)
        if worlds[world] == nil { beginWorld(reign, at: index) }
        guard let lastReign = worlds[world]?.lastReign, let history = worlds[world]?.history,
            let acknowledged = worlds[world]?.acknowledged, reign != lastReign
        else { return }
        guard epoch > lastReign.epoch else { throw Violation("\(reign) began after \(lastReign)") }
        if let heir = promises[epoch], heir != reign.owner {
            throw Violation("\(reign) began, but the epoch was promised to \(heir)")
        }
        worlds[world]?.lastReign = reign
        reignCount += 1
        let lost = acknowledged & ~mask(sites[index].present.log)
        guard lost == 0 else { throw Violation("\(reign) began without acknowledged writes: \(lost)") }
        guard sites[index].present.log == history else {
            throw Violation("\(reign) began with \(sites[index].present.log), not \(history)")
        }
    }

    private mutating func beginWorld(_ reign: Reign, at index: Int) {
        let world = Self.world(of: reign.epoch)
        let log = sites[index].present.log
        let acknowledged = worlds.values.reduce(0) { $0 | $1.acknowledged }
        worlds[world] = World(
            history: log, acknowledged: acknowledged & mask(log), lastReign: reign)
        sites[index].present.world = world
        reignCount += 1
        forceCount += 1
    }

    /// At most one owner in each world.
    func checkOwners() throws {
        var owners: [UInt64: SiteID] = [:]
        for site in sites {
            for record in [site.durable, site.memory].compactMap({ $0 }) {
                guard case .owning(let epoch, _) = record.role else { continue }
                let world = Self.world(of: epoch)
                guard owners[world, default: site.id] == site.id else {
                    throw Violation("two owners: \(sites.map { "\($0.id) \($0.durable.role)" })")
                }
                owners[world] = site.id
            }
        }
    }

    /// What was acknowledged in a world is in the log of whoever holds its head, at every moment.
    func checkAcknowledged() throws {
        for site in sites {
            switch site.durable.role {
            case .owning, .sealing, .sealed, .reclaiming: break
            case .following, .acquiring, .receiving, .declining, .retired, .fenced: continue
            }
            guard let reign = site.durable.knownReign, let world = worlds[Self.world(of: reign.epoch)],
                world.lastReign == reign
            else { continue }
            let lost = world.acknowledged & ~mask(site.present.log)
            guard lost == 0 else { throw Violation("\(site.id) holds the head without \(lost)") }
        }
    }

    /// Every byte of the head must be somewhere that the head's holder can reach.
    func checkBytes() throws {
        for index in sites.indices {
            switch sites[index].durable.role {
            case .owning, .sealing, .sealed, .reclaiming:
                let reign = sites[index].durable.knownReign
                let last = reign.flatMap { worlds[Self.world(of: $0.epoch)]?.lastReign }
                if reign == last { try checkBytes(of: index) }
            case .following, .acquiring, .receiving, .declining, .retired, .fenced: break
            }
        }
    }

    private func checkBytes(of index: Int) throws {
        var visited: Set<Reign> = []
        let reign = sites[index].durable.headReign
        let missing = mask(sites[index].present.log) & ~reachable(index, headOf: reign, &visited) & ~lost
        guard missing == 0 else { throw Violation("\(sites[index].id) can never get bytes \(missing)") }
    }

    /// The bytes that a head has or can have, through its source, that one's, and so on.
    private func reachable(_ index: Int, headOf reign: Epoch, _ visited: inout Set<Reign>) -> UInt64 {
        let heir = Reign(sites[index].id, reign)
        guard visited.insert(heir).inserted, let head = sites[index].head(of: reign) else { return 0 }
        let source = sites[index].durable.source(ofHead: reign)
        // What a takeover by force claims may be lost: nobody can tell yet.
        if source?.claim != nil { return .max }
        guard let source, let other = position(of: source.site),
            let kept = sites[other].durable.keptHead(for: heir)
        else { return head.resident }
        return head.resident | reachable(other, headOf: kept, &visited)
    }

    // MARK: the end

    /// All faults cease; everything must come to rest.
    mutating func heal() throws {
        trace?.note("healing")
        weather = Weather()
        blocked = blocked.map { _ in false }
        deadLink = nil
        for _ in 0..<80 {
            for index in sites.indices {
                if sites[index].memory == nil {
                    sites[index].restart(findsDoubtful: random.chance(50))
                    try checkReign(index)
                }
                try drain(index)
                if case .owning(_, let holder?)? = sites[index].memory?.role {
                    sites[index].mounted = nil
                    try apply(.detach(node: holder.node), at: index)
                }
                for reader in sites[index].memory?.readers ?? [] {
                    try apply(.detach(node: reader.node), at: index)
                }
                try drain(index)
                tick(index)
                hydrate(index)
                announceForced(index)
            }
            for message in network where sites[message.to].memory != nil {
                try drain(message.to)
                try receive(message)
                network.removeFirst()
            }
            if isAtRest { return try checkNothingIsDeleted() }
        }
        throw Violation("no rest: \(sites.map { "\($0.id) \($0.durable)" }.joined(separator: "\n"))")
    }

    /// Who took over by force says so to everybody, from time to time.
    private mutating func announceForced(_ index: Int) {
        guard let record = sites[index].memory, record.mayBeUnheardOf, let reign = record.knownReign,
            !isAtRest
        else { return }
        for other in sites.indices where other != index {
            send(.event(.ownerAnnounced(reign)), from: index, to: other)
        }
    }

    mutating func drain(_ index: Int) throws {
        while sites[index].canStep { try work(index) }
    }

    private var isAtRest: Bool {
        var ownerCount = 0
        for site in sites {
            guard site.durable.sources.isEmpty, site.durable.retentions.isEmpty else { return false }
            switch site.durable.role {
            case .owning: ownerCount += 1
            case .following, .retired: break
            case .acquiring, .receiving, .declining, .sealing, .sealed, .reclaiming, .fenced: return false
            }
        }
        return ownerCount == 1 && network.isEmpty
            && sites.allSatisfy { site in
                site.staged == nil && (!site.durable.hasOwnHead || site.present.missing & ~lost == 0)
            }
    }

    /// Nothing that was acknowledged is deleted by a takeover: it is in the volume or in a divergence.
    private func checkNothingIsDeleted() throws {
        let kept = sites.reduce(UInt64(0)) { kept, site in
            let heads = site.durable.divergences.compactMap { site.kept[$0.headReign] }
            return heads.reduce(kept | (site.durable.hasOwnHead ? mask(site.present.log) : 0)) {
                $0 | mask($1.log)
            }
        }
        let acknowledged = worlds.values.reduce(0) { $0 | $1.acknowledged }
        guard acknowledged & ~kept == 0 else {
            throw Violation("acknowledged writes \(acknowledged & ~kept) are nowhere")
        }
    }
}
