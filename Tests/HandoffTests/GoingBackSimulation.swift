import VolumeModel

@testable import Handoff

/// Three sites of which some go back in time: the record of one is what it was, and all that was sent meanwhile is still on
/// its way. Beyond that it is a small world: nothing is lost with a crash, and data is a number.
///
/// Checked:
/// - Whoever has heard of a later reign of another site acknowledges nothing under its own any more.
/// - As long as nobody goes back, no owner is told anything that makes it stop.
/// - A site that went back and asks before it does anything else stops nobody who is right.
/// - In the end, when all have asked each other, no two sites own the head under different epochs.
struct GoingBackSimulation {
    struct Violation: Error, CustomStringConvertible {
        let description: String
    }

    enum Payload {
        case event(Event)
        case question(Reign)
    }

    struct Site {
        var record: HeadRecord
        /// States of before, that may be put back.
        var kept: [HeadRecord] = []
        var mounted: Epoch?
        /// The latest reign of another site that it was told of, since it went back.
        var heard: Epoch = Epoch(0)
    }

    /// What a site does that has gone back.
    enum Return: CaseIterable {
        /// No site goes back.
        case never
        /// It asks all others at once, as a site does that is started and reaches them.
        case asking
        /// It goes on, and asks when it comes to it.
        case silent
    }

    let kind: Return
    var random: SeededGenerator
    var sites: [Site]
    var network: [(from: Int, to: Int, payload: Payload)] = []
    var returnCount = 0
    var fencedCount = 0
    var writeCount = 0

    init(seed: UInt64, _ kind: Return) {
        self.kind = kind
        random = SeededGenerator(seed: seed)
        sites = [Site(record: HeadRecord(newAt: london))]
        for name in [sydney, tokyo] {
            let role = Role.following(Reign(london, .first))
            sites.append(
                Site(record: HeadRecord(site: name, role: role, spent: .first, headReign: .first)))
        }
    }

    mutating func run() throws {
        for _ in 0..<(50 + random.below(250)) { try step() }
        // Everything arrives, and everybody asks.
        for _ in 0..<20 {
            for index in sites.indices {
                try tick(index)
                for other in sites.indices where other != index { ask(index, other) }
            }
            for _ in 0..<500 where !network.isEmpty { try deliver(network.removeFirst()) }
        }
        let epochs = Set(sites.compactMap { owned($0.record) })
        guard epochs.count <= 1 else { throw violation("owners of different epochs") }
    }

    private func violation(_ what: String) -> Violation {
        Violation(description: "\(what): \(sites.map { "\($0.record.site): \($0.record.role)" })")
    }

    private func owned(_ record: HeadRecord) -> Epoch? {
        if case .owning(let epoch, _) = record.role { epoch } else { nil }
    }

    private mutating func step() throws {
        let index = random.below(sites.count)
        switch random.below(100) {
        case ..<40:
            guard !network.isEmpty else { return }
            let position = random.below(network.count)
            let message = network[position]
            if !random.chance(20) { network.remove(at: position) }
            if !random.chance(15) { try deliver(message) }
        case ..<55: try tick(index)
        case ..<65: ask(index, (index + 1 + random.below(2)) % 3)
        case ..<75: try apply([Event.takeOver, .takeOver, .abort][random.below(3)], at: index)
        case ..<80: try apply(.attach(Holder(node: "n1", pod: nil)), at: index)
        case ..<84:
            sites[index].mounted = nil
            try apply(.detach(node: "n1"), at: index)
        case ..<92: try write(index)
        case ..<97:
            if sites[index].kept.count < 4 { sites[index].kept.append(sites[index].record) }
        default: try goBack(index)
        }
    }

    private mutating func write(_ index: Int) throws {
        let site = sites[index]
        guard let epoch = site.mounted, site.record.mayWrite(under: epoch) else { return }
        guard site.heard <= epoch else {
            throw violation("\(site.record.site) has heard of \(site.heard), and writes")
        }
        writeCount += 1
    }

    private mutating func goBack(_ index: Int) throws {
        guard kind != .never, !sites[index].kept.isEmpty else { return }
        let others = sites.indices.filter { $0 != index }
        let rightful = others.filter { owned(sites[$0].record) != nil }
        // Of two that went back already nobody knows who is right.
        guard kind == .silent || returnCount == 0 else { return }
        let record = sites[index].kept[random.below(sites[index].kept.count)]
        let isOf = rightful.first.map { sites[$0].record.knownEpoch > record.knownEpoch } ?? false
        sites[index] = Site(record: record)
        returnCount += 1
        guard kind == .asking else { return }
        let before = rightful.map { sites[$0].record.role }
        // This overtakes what is on its way.
        for other in others {
            guard let reign = sites[index].record.unconfirmedReign else { break }
            if let told = sites[other].record.objection(to: reign) {
                try apply(.ownerAnnounced(told), at: index)
            }
        }
        guard rightful.map({ sites[$0].record.role }) == before else {
            throw violation("who is right was stopped")
        }
        if isOf, owned(sites[index].record) != nil { throw violation("who is of before goes on") }
    }

    // MARK: sites

    private mutating func tick(_ index: Int) throws {
        for action in sites[index].record.actionsAfterRestart() { try perform(action, at: index) }
        for source in sites[index].record.sources where source.phase == .fetching {
            try apply(.flattened(reign: source.reign), at: index)
        }
    }

    private mutating func ask(_ index: Int, _ other: Int) {
        guard let reign = sites[index].record.unconfirmedReign else { return }
        network.append((index, other, .question(reign)))
    }

    private mutating func deliver(_ message: (from: Int, to: Int, payload: Payload)) throws {
        switch message.payload {
        case .question(let reign):
            if let told = sites[message.to].record.objection(to: reign) {
                network.append((message.to, message.from, .event(.ownerAnnounced(told))))
            }
            // Who asks says what it owns.
            let own = sites[message.to].record.unconfirmedReign
            if let own, reign.epoch > own.epoch { try apply(.ownerAnnounced(reign), at: message.to) }
        case .event(let event): try apply(event, at: message.to)
        }
    }

    private mutating func apply(_ event: Event, at index: Int) throws {
        let before = sites[index].record
        var actions: [Action] = []
        do {
            actions = try sites[index].record.apply(event)
            try sites[index].record.validate()
        } catch {
            if case .sealRefused(let refusal) = error, case .sealRequested(let by, _, let wanted) = event,
                let asker = sites.firstIndex(where: { $0.record.site == by })
            {
                let answer = Event.sealRefused(by: before.site, wanted: wanted, refusal)
                network.append((index, asker, .event(answer)))
            }
            if case .contradiction = error, returnCount == 0 { throw violation("\(event): \(error)") }
            if case .unreadableRecord = error { throw violation("\(event): \(error)") }
        }
        if case .ownerAnnounced(let reign) = event, reign.owner != before.site {
            sites[index].heard = max(sites[index].heard, reign.epoch)
        }
        if case .fenced = sites[index].record.role {
            if case .fenced = before.role {} else { fencedCount += 1 }
            if returnCount == 0 { throw violation("\(before.site) is right, and was stopped") }
        }
        for action in actions { try perform(action, at: index) }
    }

    private mutating func perform(_ action: Action, at index: Int) throws {
        let site = sites[index].record.site
        if let (to, event) = action.message(from: site) {
            guard let target = sites.firstIndex(where: { $0.record.site == to }), network.count < 60
            else { return }
            return network.append((index, target, .event(event)))
        }
        switch action {
        case .serve(let epoch):
            if case .owning(epoch, .some) = sites[index].record.role { sites[index].mounted = epoch }
        case .stopServing(let epoch):
            if let mounted = sites[index].mounted, mounted <= epoch { sites[index].mounted = nil }
        case .readTail(let heir):
            try apply(.tailRead(heir: heir, finalSequence: SequenceNumber(1)), at: index)
        case .fetchTail(_, let grant):
            try apply(.caughtUp(wanted: grant.heir.epoch, sequence: grant.finalSequence), at: index)
        case .keepDivergence(let epoch): try apply(.divergenceKept(under: epoch), at: index)
        default: break
        }
    }
}
