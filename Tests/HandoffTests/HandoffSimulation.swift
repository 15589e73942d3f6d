import VolumeModel

@testable import Handoff

/// A world of two or three sites in which everything goes wrong in an order that a seed chooses.
///
/// Checked after each step:
/// - at most one site writes, on disk and in memory taken together;
/// - each reign's epoch is above all before it, and belongs to the site that it was promised to;
/// - a new owner has every acknowledged write, and the order of writes is the same everywhere;
/// - whoever holds the head has every acknowledged write;
/// - every byte of the head can be had from some site;
/// - an event that comes twice changes nothing, and no two honest sites contradict each other.
///
/// At the end faults cease, and there must be one owner, no hand-off under way and no site waiting for bytes.
struct HandoffSimulation {
    struct Violation: Error, CustomStringConvertible {
        let description: String
        init(_ description: String) { self.description = description }
    }

    enum Payload {
        case event(Event)
        /// Whether a later reign than this one is known.
        case question(KnownReign)
        /// The owner's log, for a follower.
        case changes(Reign, log: [UInt8])
        case tailRequest(Grant)
        case tail(Grant, log: [UInt8])
        case bytesRequest(heir: Reign, wanted: UInt64)
        case bytes(UInt64, reign: Epoch)
    }

    /// What happened, in words.
    final class Trace {
        private(set) var lines: [String] = []
        func note(_ line: String) { lines.append(line) }
    }

    struct Message {
        let from: Int
        let to: Int
        let payload: Payload
    }

    /// How often what happens; each schedule has its own weather.
    struct Weather {
        var loss = 0
        var duplication = 0
        var crash = 0
        var partition = 0
        var staleMount = 0
        var tick = 0
        /// Percent of the wishes: how often somebody takes over by force.
        var force = 0
        /// Percent: how often a site does all its work at once.
        var haste = 0
        /// Percent: how eagerly bytes are fetched.
        var hydration = 100
        /// Percent: how often the disk takes no record and no write.
        var refusal = 0
        /// Percent: how often a site gets nowhere with its work, while messages come and writes go on.
        var slowness = 0
    }

    let seed: UInt64
    let bug: PlantedBug?
    var random: SeededGenerator
    var weather = Weather()
    var sites: [SimulatedSite] = []
    var network: [Message] = []
    var blocked: [Bool] = []
    var deadLink: (Int, Int)?
    /// nil unless the schedule is being replayed.
    let trace: Trace?

    /// What is true of one line of reigns. A takeover by force begins a new one; the one before it ends when its
    /// last owner hears of that.
    struct World {
        var history: [UInt8] = []
        var acknowledged: UInt64 = 0
        var lastReign: Reign
    }

    // What the worlds know, by `world(of:)`.
    var worlds = [UInt64(0): World(lastReign: Reign(SiteID("london")!, .first))]
    /// Bytes that were lost with an overruled owner's copy.
    var lost: UInt64 = 0
    var writeCount: UInt8 = 0
    /// Under these nobody ever writes.
    private var readEpochs: Set<Epoch> = []
    var promises: [Epoch: SiteID] = [:]
    var reignCount = 0
    var forceCount = 0
    var coverage = Coverage()

    init(seed: UInt64, bug: PlantedBug? = nil, isTracing: Bool = false) {
        self.seed = seed
        self.bug = bug
        trace = isTracing ? Trace() : nil
        random = SeededGenerator(seed: seed)
        let lastReign = Reign(SiteID("london")!, .first)
        let names = ["london", "sydney", "tokyo"].compactMap { SiteID($0) }.prefix(random.chance(50) ? 2 : 3)
        for name in names {
            let record =
                name == lastReign.owner
                ? HeadRecord(newAt: name)
                : HeadRecord(site: name, role: .following(lastReign), spent: .first, headReign: .first)
            sites.append(SimulatedSite(record))
        }
        blocked = Array(repeating: false, count: sites.count * sites.count)
        weather.loss = random.chance(50) ? random.below(40) : 0
        weather.duplication = random.chance(50) ? random.below(40) : 0
        weather.crash = random.chance(70) ? random.below(5) : 0
        weather.partition = random.chance(50) ? random.below(4) : 0
        weather.staleMount = random.chance(50) ? 50 : 0
        weather.force = random.chance(40) ? random.below(20) : 0
        weather.tick = 1 + random.below(8)
        weather.haste = [0, 50, 90][random.below(3)]
        weather.hydration = [0, 20, 100][random.below(3)]
        weather.refusal = random.chance(50) ? [2, 10, 40][random.below(3)] : 0
        weather.slowness = random.chance(40) ? 50 + random.below(45) : 0
        // Two sites that never hear of each other, though a third may hear of both.
        if random.chance(40) {
            let from = random.below(sites.count)
            let to = (from + 1 + random.below(sites.count - 1)) % sites.count
            deadLink = (from, to)
        }
    }

    /// Runs the schedule.
    mutating func run() throws {
        // The dead link dies some time after the beginning, and may come to life again.
        let link = deadLink
        deadLink = nil
        let dies = random.below(200)
        let revives = dies + 50 + random.below(300)
        for count in 0..<(100 + random.below(500)) {
            if count == dies { deadLink = link }
            if count == revives { deadLink = nil }
            try step()
            try checkAcknowledged()
        }
        try heal()
    }

    // MARK: one step

    private mutating func step() throws {
        var index = random.below(sites.count)
        let dice = random.below(100)
        if dice < weather.crash { return try crashOrRestart(index) }
        if sites[index].memory == nil {
            if random.chance(15) { try crashOrRestart(index) }
            return
        }
        if random.below(100) < weather.partition { togglePartition() }
        switch dice {
        case ..<32: try deliverOne()
        case ..<68:
            // Any site that has something to do.
            for _ in sites where !sites[index].canStep { index = (index + 1) % sites.count }
            try work(index)
            // Often nothing comes between the pieces of its work.
            if random.chance(weather.haste) { try drain(index) }
        case ..<(68 + weather.tick): tick(index)
        case ..<84: try write(index)
        case ..<88: replicate()
        case ..<91: if random.chance(weather.hydration) { hydrate(index) }
        default: try wish(index)
        }
    }

    private mutating func crashOrRestart(_ index: Int) throws {
        if sites[index].memory == nil {
            sites[index].restart(findsDoubtful: random.chance(50))
            trace?.note("\(sites[index].id) restarts: \(sites[index].durable.role)")
            try checkReign(index)
        } else {
            sites[index].crash()
            trace?.note("\(sites[index].id) crashes: \(sites[index].durable.role)")
        }
        try checkOwners()
    }

    private mutating func togglePartition() {
        let link = random.below(blocked.count)
        blocked[link].toggle()
        // Half of the partitions are in both directions.
        if random.chance(50) {
            blocked[(link % sites.count) * sites.count + link / sites.count] = blocked[link]
        }
        trace?.note("links blocked: \(blocked)")
    }

    func tickable(_ index: Int) -> Bool { sites[index].isIdle && sites[index].actions.count < 12 }

    mutating func tick(_ index: Int) {
        guard tickable(index), let record = sites[index].memory else { return }
        sites[index].actions += record.actionsAfterRestart()
        // Of earlier releases nobody asks.
        guard seed.isMultiple(of: 2), let reign = record.unconfirmedReign else { return }
        for other in sites.indices where other != index { send(.question(reign), from: index, to: other) }
    }

    static func world(of epoch: Epoch) -> UInt64 { epoch.line }

    /// The reign that began last in the world that wins.
    var lastReign: Reign {
        worlds.max { $0.key < $1.key }?.value.lastReign ?? Reign(sites[0].id, .first)
    }

    private mutating func overrule(_ index: Int) throws {
        guard let record = sites[index].memory,
            let wanted = Epoch.takeover(after: record.spent, salt: UInt32(index + 1))
        else { return }
        var base = TakeoverBase.followed(through: SequenceNumber(Int64(sites[index].present.log.count)))
        var overruled = record.knownReign
        switch record.role {
        case .sealed(_, let grant), .reclaiming(_, let grant):
            overruled = grant.heir
            base = .kept(headReign: record.headReign)
        // Only where two owners contradict each other a person chooses one of them (`GoingBackTests`).
        case .owning: break
        default:
            let isOther = overruled.map { Self.world(of: $0.epoch) } != sites[index].present.world
            if isOther || random.chance(50) {
                guard let kept = record.retentions.last else { return }
                base = .kept(headReign: kept.headReign)
            }
        }
        guard let overruled else { return }
        try apply(.overrule(overruled.epoch, wanted: wanted, base: base), at: index)
    }

    private mutating func wish(_ index: Int) throws {
        guard sites[index].isIdle, let record = sites[index].memory else { return }
        if random.chance(weather.force) { return try overrule(index) }
        let node = random.chance(50) ? "n1" : "n2"
        let event: Event
        switch random.below(20) {
        case 0..<6: event = .takeOver
        case 6: event = .abort
        case 7..<10: event = .prepare(lastReign)
        case 10: event = .leave
        case 11..<13:
            let attachment = writeCount % 7 == 3 ? "W" : nil
            event = .attach(Holder(node: node, pod: "p", attachment: attachment))
        case 13: event = .evict(node: node)
        case 14: event = .admit(Reader(member: sites[index].id, node: node))
        default:
            guard case .owning(_, let holder?) = record.role else {
                return try apply(.detach(node: node), at: index)
            }
            // Kubernetes may believe that a node has let go while it has not.
            if !random.chance(weather.staleMount) { sites[index].mounted = nil }
            event =
                holder.attachment == nil || writeCount.isMultiple(of: 5)
                ? .unmounted(node: holder.node) : .detach(node: holder.node)
        }
        if case .prepare(let reign) = event, reign.owner == sites[index].id { return }
        try apply(event, at: index)
        if let now = sites[index].memory, !now.readers.isEmpty, case .owning(let epoch, _) = now.role {
            readEpochs.insert(epoch)
        }
    }

    // MARK: writes

    /// A mount does not know the record: it goes on until it is ended.
    private mutating func write(_ index: Int) throws {
        guard sites[index].memory != nil else { return }
        switch random.below(3) {
        case 0:
            guard let epoch = sites[index].mounted, writeCount < 60 else { return }
            sites[index].begun.append(.init(number: writeCount, epoch: epoch))
            writeCount += 1
        case 1:
            guard !sites[index].begun.isEmpty else { return }
            let write = sites[index].begun.remove(at: random.below(sites[index].begun.count))
            // The disk may be full.
            if random.chance(weather.refusal) { return }
            guard !readEpochs.contains(write.epoch) else {
                throw Violation("write \(write.number) under epoch \(write.epoch), which was read")
            }
            let position = sites[index].present.log.count
            sites[index].present.log.append(write.number)
            sites[index].present.resident |= 1 << UInt64(write.number)
            sites[index].committed.append(write)
            trace?.note("\(sites[index].id) commits \(write.number) at \(position) under \(write.epoch)")
            let world = Self.world(of: write.epoch)
            let count = worlds[world]?.history.count
            guard position == count else {
                throw Violation("write \(write.number) took position \(position) of \(count ?? -1)")
            }
            worlds[world]?.history.append(write.number)
        default:
            guard !sites[index].committed.isEmpty else { return }
            let write = sites[index].committed.removeFirst()
            // As fsync does, which asks again when all is committed: not the record, but the mount.
            guard sites[index].mounted == write.epoch else { return }
            worlds[Self.world(of: write.epoch)]?.acknowledged |= 1 << UInt64(write.number)
            trace?.note("\(sites[index].id) acknowledges \(write.number)")
        }
    }

    /// The owner tells a follower what has changed, and that it is the owner.
    private mutating func replicate() {
        for index in sites.indices {
            guard let record = sites[index].memory, case .owning(let epoch, _) = record.role else { continue }
            let reign = Reign(sites[index].id, epoch)
            let target = random.below(sites.count)
            guard target != index else { return }
            send(.changes(reign, log: sites[index].present.log), from: index, to: target)
            send(.event(.ownerAnnounced(reign)), from: index, to: target)
        }
    }

    /// Each head that lacks bytes asks its own source for them.
    mutating func hydrate(_ index: Int) {
        guard sites[index].isIdle, let record = sites[index].memory else { return }
        for source in record.sources where source.phase == .fetching {
            guard let target = position(of: source.site), let head = sites[index].head(of: source.reign)
            else { continue }
            if head.missing & ~lost == 0 || bug == .releasedEarly {
                sites[index].results.append(.flattened(reign: source.reign))
            } else {
                let heir = Reign(sites[index].id, source.reign)
                send(.bytesRequest(heir: heir, wanted: head.missing), from: index, to: target)
            }
        }
    }

    // MARK: network

    func position(of site: SiteID) -> Int? { sites.firstIndex { $0.id == site } }

    mutating func send(_ payload: Payload, from: Int, to: Int) {
        // A bounded network: what is beyond is lost, as it may be.
        guard network.count < 40 else { return }
        network.append(Message(from: from, to: to, payload: payload))
    }

    private func isBlocked(_ message: Message) -> Bool {
        if let (one, other) = deadLink {
            let link = (message.from, message.to)
            if link == (one, other) || link == (other, one) { return true }
        }
        return blocked[message.from * sites.count + message.to]
    }

    private mutating func deliverOne() throws {
        guard !network.isEmpty else { return }
        // Mostly in order, often not.
        let index = random.chance(50) ? 0 : random.below(network.count)
        let message = network[index]
        if isBlocked(message) {
            if random.chance(50) { network.remove(at: index) }
            return
        }
        if random.chance(weather.loss) {
            network.remove(at: index)
            trace?.note("lost: \(message.payload)")
            return
        }
        guard sites[message.to].isIdle else {
            if sites[message.to].memory == nil { network.remove(at: index) }
            return
        }
        if !random.chance(weather.duplication) { network.remove(at: index) }
        try receive(message)
        if random.chance(weather.haste) { try drain(message.to) }
    }
}
