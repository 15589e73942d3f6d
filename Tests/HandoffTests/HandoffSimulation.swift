import Handoff
import VolumeModel

/// Bugs that can be planted, to show that the simulation finds them.
enum PlantedBug: CaseIterable {
    /// The seal is lost in a crash although it was answered.
    case forgetsTheSeal
    /// Writes are acknowledged after the seal.
    case writesWhenSealed
    /// The new owner begins before the tail has come.
    case promotesEarly
    /// The shell runs actions before the record is durable.
    case actsBeforeItIsDurable
}

/// Sites, a network and a clockless scheduler: every order of deliveries, losses, repetitions and crashes that a
/// seed leads to.
struct HandoffSimulation {
    struct Violation: Error, CustomStringConvertible {
        let description: String
    }

    private enum Task {
        case message(from: Int, to: Int, Event)
        case run(site: Int, Action, life: Int)
    }

    private struct Site {
        var durable: HeadRecord
        var record: HeadRecord
        /// The acknowledged writes that this site's head holds.
        var log: [Int] = []
        /// Grows with each crash: what an earlier life wanted to do is gone.
        var life = 0
    }

    private var random: SplitMix
    private var sites: [Site]
    private var tasks: [Task] = []
    private var acknowledged: [Int] = []
    private var nextWrite = 0
    private let names = ["london", "sydney", "paris"].compactMap { SiteID($0) }
    private let bug: PlantedBug?
    private var isCalm = false
    private(set) var handoffs = 0

    init(seed: UInt64, siteCount: Int = 3, bug: PlantedBug? = nil) throws {
        random = SplitMix(state: seed)
        self.bug = bug
        let owner = HeadRecord(newAt: names[0])
        sites = [Site(durable: owner, record: owner)]
        for name in names[1..<siteCount] {
            let follower = try HeadRecord(followerAt: name, of: Reign(names[0], .first))
            sites.append(Site(durable: follower, record: follower))
        }
    }

    /// Runs a stormy time, then a calm one in which everything must come to an end.
    mutating func run(steps: Int) throws {
        for _ in 0..<steps {
            try step()
            try check()
        }
        isCalm = true
        var quiet = 0
        for _ in 0..<4000 where quiet < 3 {
            if tasks.isEmpty {
                quiet += 1
                for site in sites.indices { restartActions(site) }
            }
            if !tasks.isEmpty { try perform(tasks.removeFirst()) }
            try check()
        }
        let owners = sites.filter { if case .owning = $0.record.role { true } else { false } }
        guard owners.count == 1 else {
            throw Violation(description: "no owner after calm: \(sites.map(\.record.role))")
        }
    }

    private mutating func step() throws {
        switch random.next(below: 20) {
        case 0: wish(random.next(below: sites.count))
        case 1: crash(random.next(below: sites.count))
        case 2...5: write(random.next(below: sites.count))
        case 6: restartActions(random.next(below: sites.count))
        default:
            guard !tasks.isEmpty else { return }
            let index = random.next(below: tasks.count)
            let task = tasks[index]
            let fate = random.next(below: 10)
            if case .message = task {
                if fate == 0 { tasks.remove(at: index); return }
                if fate > 1 { tasks.remove(at: index) }
            } else {
                tasks.remove(at: index)
            }
            try perform(task)
        }
    }

    // MARK: what happens

    /// A person or a pod wants the volume here; or, more seldom, no longer.
    private mutating func wish(_ site: Int) {
        switch sites[site].record.role {
        case .retired(let reign): apply(.prepare(reign), at: site, answering: nil)
        case .acquiring, .receiving, .reclaiming:
            if random.next(below: 3) == 0 { apply(.abort, at: site, answering: nil) }
        default: apply(.takeOver, at: site, answering: nil)
        }
        if case .owning(let epoch, _) = sites[site].record.role, random.next(below: 2) == 0 {
            apply(.flattened(through: epoch), at: site, answering: nil)
        }
    }

    private mutating func crash(_ site: Int) {
        sites[site].record = sites[site].durable
        sites[site].life += 1
        restartActions(site)
    }

    private mutating func restartActions(_ site: Int) {
        enqueue(sites[site].record.actionsAfterRestart(), at: site)
    }

    private mutating func write(_ site: Int) {
        guard case .owning(let epoch, _) = sites[site].record.role else {
            if bug == .writesWhenSealed, case .sealed = sites[site].record.role { accept(site) }
            return
        }
        if sites[site].record.mayWrite(under: epoch) { accept(site) }
    }

    private mutating func accept(_ site: Int) {
        sites[site].log.append(nextWrite)
        acknowledged.append(nextWrite)
        nextWrite += 1
    }

    private mutating func perform(_ task: Task) throws {
        switch task {
        case .message(let from, let to, let event): apply(event, at: to, answering: from)
        case .run(let site, let action, let life):
            if sites[site].life == life { try run(action, at: site) }
        }
    }

    private mutating func apply(_ event: Event, at site: Int, answering peer: Int?) {
        var changed = sites[site].record
        let before = changed.role
        do {
            let actions = try changed.apply(event)
            sites[site].record = changed
            var mayPersist = true
            if bug == .forgetsTheSeal, case .sealed = changed.role { mayPersist = false }
            if bug == .forgetsTheSeal, case .sealing = changed.role { mayPersist = false }
            if bug == .actsBeforeItIsDurable, random.next(below: 4) == 0 {
                // A crash between the actions and the record.
                enqueue(actions, at: site)
                for task in tasks {
                    if case .run(site, let action, _) = task { send(action, from: site) }
                }
                sites[site].record = sites[site].durable
                sites[site].life += 1
                return
            }
            if mayPersist { sites[site].durable = changed }
            if case .owning = changed.role, before != changed.role { handoffs += 1 }
            enqueue(actions, at: site)
        } catch HandoffError.sealRefused(let refusal) {
            guard let peer, case .sealRequested(_, _, let wanted) = event else { return }
            tasks.append(
                .message(from: site, to: peer, .sealRefused(by: names[site], wanted: wanted, refusal)))
        } catch {
            // Refused: nothing has changed, whoever asked may ask again.
        }
    }

    private mutating func enqueue(_ actions: [Action], at site: Int) {
        for action in actions { tasks.append(.run(site: site, action, life: sites[site].life)) }
    }

    private mutating func run(_ action: Action, at site: Int) throws {
        switch action {
        case .readTail(let heir):
            apply(
                .tailRead(heir: heir, finalSequence: SequenceNumber(Int64(sites[site].log.count))), at: site,
                answering: nil)
        case .fetchTail(let owner, let grant):
            // As the shell does it: one at a time, and only while this grant is what is awaited. Without
            // that a repeated fetch would overwrite what the new owner has written since (seed 1 found it).
            guard let source = names.firstIndex(of: owner),
                case .receiving(_, grant) = sites[site].record.role
            else { return }
            // The data path: what the sealed head holds, or a stale copy if that was not awaited.
            if bug != .promotesEarly || random.next(below: 2) == 0 { sites[site].log = sites[source].log }
            apply(
                .caughtUp(wanted: grant.heir.epoch, sequence: grant.finalSequence), at: site, answering: nil)
        case .serve, .stopServing, .keepDivergence, .mayDiscard: break
        case .requestSeal, .grantSeal, .requestDecline, .tellDeclined, .announce, .requestRelease,
            .confirmRelease:
            send(action, from: site)
        }
    }

    private mutating func send(_ action: Action, from site: Int) {
        let name = names[site]
        let message: (SiteID, Event)? =
            switch action {
            case .requestSeal(let reign, let wanted):
                (reign.owner, .sealRequested(by: name, after: reign.epoch, wanted: wanted))
            case .grantSeal(let after, let grant):
                (grant.heir.owner, .sealGranted(by: name, after: after, grant: grant))
            case .requestDecline(let heir, let after):
                (heir.owner, .declineRequested(reign: Reign(name, after), wanted: heir.epoch))
            case .tellDeclined(let epoch, let owner): (owner, .declined(by: name, wanted: epoch))
            case .announce(let reign, let to): (to, .ownerAnnounced(reign))
            case .requestRelease(let to, let reign): (to, .releaseRequested(heir: Reign(name, reign)))
            case .confirmRelease(let heir): (heir.owner, .released(by: name, reign: heir.epoch))
            default: nil
            }
        guard let (to, event) = message, let target = names.firstIndex(of: to), target < sites.count else {
            return
        }
        tasks.append(.message(from: site, to: target, event))
    }

    // MARK: what must hold

    private func check() throws {
        var writers: [(site: SiteID, epoch: Epoch)] = []
        for site in sites {
            if case .owning(let epoch, _) = site.record.role { writers.append((site.record.site, epoch)) }
        }
        guard writers.count <= 1 else { throw Violation(description: "two writers: \(writers)") }
        for site in sites {
            guard case .owning = site.record.role else { continue }
            guard site.log == acknowledged else {
                throw Violation(
                    description: "\(site.record.site) owns \(site.log.count) of \(acknowledged.count) writes")
            }
        }
    }
}

/// A small generator whose whole state is a seed (Steele, Lea and Flood, 2014).
struct SplitMix {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value >> 31)
    }

    mutating func next(below bound: Int) -> Int { Int(next() % UInt64(max(1, bound))) }
}
