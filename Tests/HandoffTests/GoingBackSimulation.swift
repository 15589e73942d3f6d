import VolumeModel

@testable import Handoff

/// Three sites of which some go back in time: the record of one is what it was, and all that was sent meanwhile is still on
/// its way. It may be cut off for a while then, and raise its epoch as nodes that read come and go. Beyond that it is a
/// small world: nothing is lost with a crash, and data is a number.
///
/// By which hand-over a site got its head is noted here, apart from what its record says. Checked:
/// - Whoever was told of a hand-over after its own acknowledges nothing any more.
/// - As long as nobody goes back, no owner is told anything that makes it stop.
/// - Nobody stops whose head came by the last hand-over that there was, whoever went back, is cut off or raises its epoch. One
///   that the only such owner has taken back does not count, though the heir began when it had forgotten that.
/// - A site that went back and asks the owner before it does anything else goes on only if it is right, whoever else does
///   not answer.
/// - In the end, when all have asked each other, no two sites own the head, but by hand-overs of the same epoch, or where one
///   was taken back. Then they know that they are contradicted.
struct GoingBackSimulation {
    struct Violation: Error, CustomStringConvertible {
        let description: String
    }

    enum Payload {
        case event(Event)
        case question(KnownReign)
    }

    struct Site {
        var record: HeadRecord
        /// By which hand-over it got the head that it has, or had last.
        var got = Epoch.first
        /// Who had taken that back before it began all the same, and knows it.
        var voidBy: Int?
        /// States of before, that may be put back.
        var kept: [(record: HeadRecord, got: Epoch, voidBy: Int?)] = []
        var mounted: Epoch?
        /// The last hand-over to another site that it was told of, since it went back.
        var heard = Epoch(0)
        /// The epoch at which it owned the head when it was told of another owner that only a person can judge.
        var contested: Epoch?
        /// How many steps no message comes to it or from it.
        var cutOff = 0
        /// Went back to a hand-off that was under way: it asks when its reign begins, perhaps a second time.
        var isResuming = false
        var hasGoneBack = false
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
    var raisedReturnCount = 0
    /// The last hand-over that has begun.
    private var newest = Epoch.first
    /// What was promised, and by whom it was taken back.
    private var takenBack: [Reign: Int] = [:]

    init(seed: UInt64, _ kind: Return) {
        self.kind = kind
        random = SeededGenerator(seed: seed)
        sites = [Site(record: HeadRecord(newAt: london))]
        for name in [sydney, tokyo] {
            let role = Role.following(Reign(london, .first))
            sites.append(
                Site(
                    record: HeadRecord(site: name, role: role, spent: .first, headReign: .first),
                    got: Epoch(0)))
        }
    }

    mutating func run() throws {
        for _ in 0..<(50 + random.below(250)) {
            try step()
            for index in sites.indices where sites[index].cutOff > 0 { sites[index].cutOff -= 1 }
        }
        // Everything arrives, and everybody asks.
        for index in sites.indices { sites[index].cutOff = 0 }
        for _ in 0..<20 {
            for index in sites.indices {
                try tick(index)
                for other in sites.indices where other != index { ask(index, other) }
            }
            for _ in 0..<500 where !network.isEmpty { try deliver(network.removeFirst()) }
        }
        let owners = sites.filter { owned($0.record) != nil }
        // Of two that came to it at one epoch nobody knows who is right.
        let last = sites.filter { $0.got == newest }
        for site in last where last.count == 1 && site.voidBy == nil && !site.hasGoneBack {
            switch site.record.role {
            case .owning, .sealing, .sealed, .reclaiming: break
            default: throw violation("\(site.record.site) is right, and nothing of it counts")
            }
        }
        guard owners.count > 1 else { return }
        for owner in owners {
            let isContested = owner.contested == owned(owner.record)
            for other in owners where other.record.site != owner.record.site {
                if owner.got == other.got, !isContested {
                    throw violation("two owners, and they do not know it")
                }
                if owner.got < other.got, !isContested || !isExcused(owner.record, other.got) {
                    throw violation("who is of before goes on")
                }
            }
        }
    }

    private func violation(_ what: String) -> Violation {
        Violation(description: "\(what): \(sites.map { "\($0.record.site): \($0.record.role)" })")
    }

    /// Whether that may be what this site has taken back, of which it knows.
    private func isExcused(_ record: HeadRecord, _ handover: Epoch) -> Bool {
        record.takenBack.contains(handover) || handover <= record.doubtedThrough ?? Epoch(0)
    }

    private func promise(of role: Role) -> Reign? {
        switch role {
        case .sealing(_, let heir): heir
        case .sealed(_, let grant), .reclaiming(_, let grant): grant.heir
        default: nil
        }
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
        case ..<79: try apply(.attach(Holder(node: "n1", pod: nil)), at: index)
        case ..<82:
            sites[index].mounted = nil
            try apply(.detach(node: "n1"), at: index)
        case ..<85: try raise(index)
        case ..<92: try write(index)
        case ..<97:
            if sites[index].kept.count < 4 {
                sites[index].kept.append((sites[index].record, sites[index].got, sites[index].voidBy))
            }
        default: try goBack(index)
        }
    }

    private mutating func write(_ index: Int) throws {
        let site = sites[index]
        guard let epoch = site.mounted, site.record.mayWrite(under: epoch) else { return }
        guard site.heard <= site.got else {
            throw violation("\(site.record.site) has heard of \(site.heard), and writes")
        }
        writeCount += 1
    }

    /// What was void counts when nobody who is right knows of that any more.
    private mutating func settle() {
        for index in sites.indices {
            guard let other = sites[index].voidBy else { continue }
            let right = sites.indices.filter {
                owned(sites[$0].record) != nil && sites[$0].got == newest && sites[$0].voidBy == nil
            }
            if right == [other], isExcused(sites[other].record, sites[index].got) { continue }
            sites[index].voidBy = nil
            newest = max(newest, sites[index].got)
        }
    }

    /// A node reads, and does not any more: twice the epoch is another one, and nobody has written.
    private mutating func raise(_ index: Int) throws {
        try apply(.admit(Reader(member: sites[index].record.site, node: "r1")), at: index)
        try apply(.detach(node: "r1"), at: index)
    }

    private mutating func goBack(_ index: Int) throws {
        guard kind != .never, !sites[index].kept.isEmpty else { return }
        // Of two that went back already nobody knows who is right.
        guard kind == .silent || returnCount == 0 else { return }
        let (record, got, voidBy) = sites[index].kept[random.below(sites[index].kept.count)]
        sites[index] = Site(record: record, got: got, voidBy: voidBy)
        sites[index].hasGoneBack = true
        settle()
        returnCount += 1
        guard kind == .asking else {
            if random.chance(50) {
                sites[index].cutOff = 10 + random.below(60)
                for _ in 0..<random.below(4) { try raise(index) }
                if owned(sites[index].record) != nil { raisedReturnCount += 1 }
            }
            return
        }
        switch record.role {
        case .acquiring, .receiving: sites[index].isResuming = true
        default: break
        }
        try askAtOnce(index)
    }

    /// Asks all that can be reached, and this overtakes what is on its way.
    private mutating func askAtOnce(_ index: Int) throws {
        let others = sites.indices.filter { $0 != index }
        let rightful = others.filter {
            owned(sites[$0].record) != nil && sites[$0].got == newest && sites[$0].voidBy == nil
        }
        let before = rightful.map { sites[$0].record.role }
        let reached = others.filter { _ in random.chance(70) }
        for other in reached {
            guard let own = sites[index].record.unconfirmedReign else { break }
            let told = sites[other].record.objection(to: own)
            try apply(.reignTold(own), at: other)
            if let told { try apply(.reignTold(told), at: index) }
        }
        guard rightful.map({ sites[$0].record.role }) == before else {
            throw violation("who is right was stopped")
        }
        if owned(sites[index].record) != nil, rightful.contains(where: { reached.contains($0) }),
            sites[index].got < newest, !isExcused(sites[index].record, newest)
        {
            throw violation("who is of before goes on")
        }
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
        guard sites[message.from].cutOff == 0, sites[message.to].cutOff == 0 else { return }
        switch message.payload {
        case .question(let asked):
            if let told = sites[message.to].record.objection(to: asked) {
                network.append((message.to, message.from, .event(.reignTold(told))))
            }
            // Who asks says what it owns.
            try apply(.reignTold(asked), at: message.to)
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
            if case .contradiction = error, case .reignTold = event {
                sites[index].contested = owned(before)
            }
            if case .unreadableRecord = error { throw violation("\(event): \(error)") }
        }
        if case .caughtUp(let wanted, _) = event, case .receiving = before.role,
            owned(sites[index].record) == wanted
        {
            sites[index].got = wanted
            sites[index].voidBy = takenBack[Reign(before.site, wanted)]
            if sites[index].voidBy == nil { newest = max(newest, wanted) }
        }
        if let promised = promise(of: before.role), owned(sites[index].record) != nil {
            takenBack[promised] = index
        }
        if case .reignTold(let told) = event, let handover = told.handover, before.unconfirmedReign != nil,
            !isExcused(before, handover)
        {
            sites[index].heard = max(sites[index].heard, handover)
        }
        if case .fenced = sites[index].record.role {
            if case .fenced = before.role {
            } else {
                fencedCount += 1
                guard sites[index].got < newest || sites[index].voidBy != nil else {
                    throw violation("\(before.site) is right, and was stopped by \(event)")
                }
            }
            if returnCount == 0 { throw violation("\(before.site) is right, and was stopped") }
        }
        settle()
        for action in actions { try perform(action, at: index) }
        guard sites[index].isResuming, owned(sites[index].record) != nil else { return }
        sites[index].isResuming = false
        try askAtOnce(index)
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
