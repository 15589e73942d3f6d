import Testing
import VolumeModel

@testable import Handoff

/// Giving up a hand-over at any of its steps, with every order, loss and repetition of messages, and crashes: all of them,
/// for two sites.
///
/// What a site sends is never taken away again: it may arrive at any time, in any order, any number of times or not at
/// all. A crash loses what was to be done, and that is to be done again after it: so nothing more is to be tried for it.
@Suite struct GivingUpTests {
    private enum Wish: Hashable, CaseIterable {
        case takeOver, giveUp, takeBack, giveUpTakingBack
    }

    private struct World: Hashable {
        /// london, sydney.
        var records: [HeadRecord]
        var sent: Set<Message> = []
        /// How often each wish may still come.
        var left: [Wish: Int]

        struct Message: Hashable {
            let to: Int
            let event: Event
        }

        var owners: Int { records.count(where: owns) }

        /// An event and what follows from it; false: it changed nothing.
        mutating func apply(_ event: Event, at index: Int) throws -> Bool {
            let before = self
            let actions: [Action]
            do {
                actions = try records[index].apply(event)
            } catch HandoffError.contradiction(let claim) {
                throw HandoffSimulation.Violation("a contradiction: \(claim)")
            } catch HandoffError.implausible(let value) {
                throw HandoffSimulation.Violation("implausible: \(value)")
            } catch HandoffError.sealRefused(let refusal) {
                guard case .sealRequested(let by, _, let wanted) = event else { return false }
                let answer = Event.sealRefused(by: records[index].site, wanted: wanted, refusal)
                sent.insert(Message(to: position(of: by), event: answer))
                return self != before
            } catch {
                return false
            }
            for action in actions + records[index].actionsAfterRestart() {
                guard let (site, event) = action.message(from: records[index].site) else { continue }
                sent.insert(Message(to: position(of: site), event: event))
            }
            return self != before
        }

        func position(of site: SiteID) -> Int { records.firstIndex { $0.site == site } ?? 0 }

        /// What a site's own work may come to now.
        func results(at index: Int) -> [Event] {
            records[index].actionsAfterRestart().compactMap { action in
                switch action {
                case .readTail(let heir): .tailRead(heir: heir, finalSequence: SequenceNumber(5))
                case .fetchTail(_, let grant):
                    .caughtUp(wanted: grant.heir.epoch, sequence: grant.finalSequence)
                default: nil
                }
            }
        }

        func wishes() -> [(wish: Wish, event: Event, index: Int)] {
            left.filter { $0.value > 0 }.keys.map { wish in
                switch wish {
                case .takeOver: (wish, .takeOver, 1)
                case .giveUp: (wish, .abort, 1)
                case .takeBack: (wish, .takeOver, 0)
                case .giveUpTakingBack: (wish, .abort, 0)
                }
            }
        }

        func next() throws -> [World] {
            var all: [World] = []
            func note(_ event: Event, _ index: Int, _ wish: Wish? = nil) throws {
                var world = self
                if let wish { world.left[wish, default: 0] -= 1 }
                if try world.apply(event, at: index) { all.append(world) }
            }
            for (wish, event, index) in wishes() { try note(event, index, wish) }
            for message in sent { try note(message.event, message.to) }
            for index in records.indices {
                for event in results(at: index) { try note(event, index) }
            }
            return all
        }

        /// Nobody wishes anything more, and every message arrives: what it comes to.
        func healed() throws -> World {
            var world = self
            world.sent = []
            for _ in 0..<40 {
                let before = world
                for index in world.records.indices {
                    for action in world.records[index].actionsAfterRestart() {
                        guard let (site, event) = action.message(from: world.records[index].site) else {
                            continue
                        }
                        _ = try world.apply(event, at: world.position(of: site))
                    }
                    for event in world.results(at: index) { _ = try world.apply(event, at: index) }
                }
                // Answers to what has arrived.
                for message in world.sent { _ = try world.apply(message.event, at: message.to) }
                world.sent = []
                if world == before { break }
            }
            return world
        }
    }

    private func start(_ left: [Wish: Int]) throws -> World {
        let (london, sydney) = (try #require(SiteID("london")), try #require(SiteID("sydney")))
        let first = HeadRecord(newAt: london)
        let second = try HeadRecord(followerAt: sydney, of: Reign(london, .first))
        return World(records: [first, second], left: left)
    }

    /// Every world that can be reached.
    private func explore(_ start: World, limit: Int) throws -> Set<World> {
        var seen: Set<World> = [start]
        var queue = [start]
        while let world = queue.popLast() {
            for next in try world.next() where seen.insert(next).inserted {
                guard next.owners <= 1 else {
                    throw HandoffSimulation.Violation("two owners: \(next.records.map(\.role))")
                }
                queue.append(next)
            }
            try #require(seen.count < limit)
        }
        return seen
    }

    /// What each of these comes to, at whatever moments they are wished for.
    private static let wishes: [[Wish: Int]] = [
        [.takeOver: 2, .giveUp: 1], [.takeOver: 1, .giveUp: 1, .takeBack: 1],
        [.takeOver: 1, .takeBack: 1, .giveUpTakingBack: 1],
    ]

    @Test(arguments: 0..<3)
    func givenUpAtAnyStepAVolumeHasOneOwnerAndMayBeAskedForAgain(_ index: Int) throws {
        let worlds = try explore(start(Self.wishes[index]), limit: 50_000)
        let all = Set(worlds.map(\.records))
        var kinds: Set<RoleKind> = []
        for records in all {
            for record in records { kinds.insert(RoleKind(record.role)) }
            let end = try World(records: records, left: [:]).healed()
            try #require(end.owners == 1, "\(records.map(\.role)) ends as \(end.records.map(\.role))")
            // What was given up is at home again, by itself.
            if case .declining = records[1].role {
                #expect(owns(end.records[0]), "\(records.map(\.role))")
            }
            // The same again.
            var again = end
            _ = try again.apply(.takeOver, at: 1)
            again = try again.healed()
            #expect(owns(again.records[1]), "\(end.records.map(\.role)) then \(again.records.map(\.role))")
        }
        #expect(kinds.isSuperset(of: [.sealing, .sealed, .receiving, .acquiring]))
        #expect(kinds.contains(index == 2 ? .reclaiming : .declining))
    }
}
