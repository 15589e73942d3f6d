import Handoff
import PeerProtocol
import SwiftProtobuf
import Testing
import VolumeModel

@testable import PeerService
@testable import Site

/// When a site asks others whether it is still the owner that it takes itself for, and what it believes.
@Suite struct ConfirmationTests {
    private let london = SiteID("london")!
    private let sydney = SiteID("sydney")!
    private let start = ContinuousClock.now

    @Test func afterAStartWhatOthersKnowIsUsedOnceTheyWereAskedOrTheTimeIsOver() {
        var schedule = ConfirmationSchedule()
        // Nobody asks here.
        #expect(schedule.isSettled([london], at: start))
        schedule.begin(at: start)
        #expect(schedule.isSettled([], at: start))
        #expect(!schedule.isSettled([london], at: start))
        schedule.note(.answered, of: london, at: start)
        #expect(schedule.isSettled([london], at: start))
        #expect(!schedule.isSettled([london, sydney], at: start))
        // Who cannot be reached was asked.
        schedule.note(.silent, of: sydney, at: start)
        #expect(schedule.isSettled([london, sydney], at: start))

        var slow = ConfirmationSchedule()
        slow.begin(at: start)
        #expect(!slow.isSettled([london], at: start + .milliseconds(1499)))
        #expect(slow.isSettled([london], at: start + .milliseconds(1500)))
    }

    /// Promises.md: "asks, before it serves such a volume".
    @Test func aMountWaitsWhileOthersAreAskedAndNotForLong() async {
        let confirmations = Confirmations()
        func waited(for sites: Set<SiteID>) async -> Duration {
            let begun = ContinuousClock.now
            await confirmations.wait(for: sites)
            return ContinuousClock.now - begun
        }
        #expect(await waited(for: [sydney]) < .milliseconds(1400))
        confirmations.begin()
        #expect(await waited(for: []) < .milliseconds(1400))
        #expect(await waited(for: [sydney]) >= .milliseconds(1400))
        #expect(await waited(for: [sydney]) < .milliseconds(1400))
    }

    /// Another node of the site may follow a site that went back, at a higher epoch.
    @Test func ofSeveralNodesTheOneThatKnowsOfTheLastHandoverTellsOthers() throws {
        let nodes = try ["n1", "n2", "n3"].map { try #require(SiteID("\($0).tokyo")) }
        func placement(_ node: SiteID, _ head: HeadRecord) -> Placement {
            Placement(
                member: node,
                record: VolumeRecord(
                    id: VolumeID(randomHigh: 1, randomLow: 2), name: "data",
                    limits: VolumeLimits(byteCount: 1 << 30, inodeCount: 1 << 20), parameters: [:], head: head
                ))
        }
        let stale = try HeadRecord(followerAt: nodes[0], of: Reign(london, Epoch(9)))
        let first = try HeadRecord(followerAt: nodes[2], of: Reign(sydney, Epoch(5)))
        var giver = HeadRecord(newAt: nodes[1])
        _ = try giver.apply(.sealRequested(by: sydney, after: .first, wanted: Epoch(5)))
        _ = try giver.apply(.tailRead(heir: Reign(sydney, Epoch(5)), finalSequence: .zero))
        _ = try giver.apply(.ownerAnnounced(Reign(sydney, Epoch(5))))
        let all = [placement(nodes[0], stale), placement(nodes[1], giver), placement(nodes[2], first)]
        #expect(Placement.witness(among: all)?.member == nodes[1])
        #expect(Placement.witness(among: [all[0], all[2]])?.member == nodes[0])
        // By force a new line has begun, of which the one that gave it away has not heard.
        let forced = try HeadRecord(followerAt: nodes[0], of: Reign(london, Epoch(1 << 41)))
        #expect(Placement.witness(among: [placement(nodes[0], forced)] + all)?.member == nodes[0])
        #expect(Placement.witness(among: []) == nil)
    }

    @Test func whoDidNotAnswerIsAskedSoonAndWhoDidLater() {
        var schedule = ConfirmationSchedule()
        schedule.begin(at: start)
        let all: Set = [london, sydney]
        #expect(schedule.due(among: all, at: start) == [london, sydney])
        schedule.note(.answered, of: london, at: start)
        schedule.note(.silent, of: sydney, at: start)
        #expect(schedule.due(among: all, at: start).isEmpty)
        #expect(schedule.pause(at: start) == .seconds(2))
        #expect(schedule.due(among: all, at: start + .seconds(2)) == [sydney])
        schedule.note(.notUnderstood, of: sydney, at: start + .seconds(2))
        #expect(schedule.pause(at: start + .seconds(2)) == .seconds(58))
        #expect(schedule.due(among: all, at: start + .seconds(60)) == [london])
        // Replaced by a newer release it asks by itself, as a rule; whoever understood is asked when it is time.
        var upgraded = schedule
        upgraded.noteQuestion(of: sydney, at: start + .seconds(30))
        upgraded.noteQuestion(of: london, at: start + .seconds(30))
        #expect(upgraded.due(among: all, at: start + .seconds(30)) == [sydney])
        #expect(schedule.due(among: [sydney], at: start + .seconds(301)).isEmpty)
        #expect(schedule.due(among: [sydney], at: start + .seconds(302)) == [sydney])
        #expect(schedule.due(among: all, at: start + .seconds(3602)) == [london, sydney])
        // Who may know nothing any more keeps nobody awake, and is asked at once if it may again.
        #expect(schedule.due(among: [london], at: start + .seconds(3602)) == [london])
        schedule.note(.unknown, of: london, at: start + .seconds(3602))
        #expect(schedule.pause(at: start + .seconds(3602)) == .seconds(60))
        #expect(schedule.due(among: all, at: start + .seconds(3602)) == [sydney])
    }

    /// Each question says all there is to say, over the connection on which hand-overs go.
    @Test func whoIsSilentForLongIsAskedLessOftenUntilItAsksItself() {
        var schedule = ConfirmationSchedule()
        schedule.begin(at: start)
        var pauses: [Duration] = []
        for _ in 0..<7 {
            schedule.note(.silent, of: sydney, at: start)
            pauses.append(schedule.pause(at: start))
        }
        #expect(pauses == [2, 4, 8, 16, 16, 16, 16].map { .seconds($0) })
        schedule.noteQuestion(of: sydney, at: start + .seconds(1))
        #expect(schedule.due(among: [sydney], at: start + .seconds(1)) == [sydney])
        schedule.note(.silent, of: sydney, at: start + .seconds(1))
        #expect(schedule.pause(at: start + .seconds(1)) == .seconds(2))
        schedule.note(.answered, of: sydney, at: start + .seconds(3))
        schedule.note(.silent, of: sydney, at: start + .seconds(63))
        #expect(schedule.pause(at: start + .seconds(63)) == .seconds(2))
    }

    /// Promises.md: "both go on and say so", until one of them is told better.
    @Test func aContradictionIsToldOfUntilItIsOverAndOnceForAllNodesOfASite() {
        let (tokyo, own) = (SiteID("tokyo")!, Reign(london, Epoch(5)))
        var contests = Contests()
        func note(_ site: SiteID, names named: SiteID, against own: Reign, _ text: String) -> Bool {
            contests.note(site, names: named, against: own, text)
        }
        #expect(note(sydney, names: sydney, against: own, "one"))
        #expect(!note(sydney, names: sydney, against: own, "one"))
        #expect(contests.text(against: own) == "one")
        // It was about that reign.
        #expect(contests.text(against: Reign(london, Epoch(6))) == nil)
        #expect(note(sydney, names: sydney, against: Reign(london, Epoch(6)), "two"))
        contests.settle(sydney)
        #expect(contests.text(against: Reign(london, Epoch(6))) == nil)

        // tokyo takes sydney for the owner, which sydney does no longer.
        #expect(note(tokyo, names: sydney, against: own, "three"))
        #expect(contests.text(against: own) == "three")
        contests.agree(sydney)
        #expect(contests.text(against: own) == nil)
        #expect(!note(tokyo, names: sydney, against: own, "three"))
        #expect(contests.text(against: own) == nil)
        #expect(note(sydney, names: sydney, against: own, "four"))
        #expect(contests.text(against: own) == "four")
        contests.agree(sydney)
        contests.agree(tokyo)
        #expect(contests.text(against: own) == nil)
    }

    /// By which hand-over a site got the volume its nodes tell each other, and nobody else tells them.
    @Test func aGrantTellsTheHandoverOnlyBetweenNodesOfASite() throws {
        let (one, two) = (SiteID("n1.london")!, SiteID("n2.london")!)
        let grant = Grant(heir: Reign(two, Epoch(5)), finalSequence: SequenceNumber(9), handover: Epoch(3))
        let id = VolumeID(randomHigh: 1, randomLow: 2)
        let message = try #require(
            HandoffCoding.message(of: .grantSeal(after: Epoch(4), grant), volume: id)?.1)
        let within = try HandoffCoding.event(of: message, from: one, self: two)
        #expect(within == .sealGranted(by: one, after: Epoch(4), grant: grant))
        let without = Grant(heir: grant.heir, finalSequence: grant.finalSequence)
        let between = try HandoffCoding.event(of: message, from: sydney, self: two)
        #expect(between == .sealGranted(by: sydney, after: Epoch(4), grant: without))
    }

    @Test func anAnswerToSomethingElseIsNoSoundOne() throws {
        let (volume, other) = (VolumeID(randomHigh: 1, randomLow: 2), VolumeID(randomHigh: 3, randomLow: 4))
        func answer(
            _ later: [(VolumeID, String, UInt64)], handover: UInt64 = 0
        ) throws(PeerError) -> [VolumeID: ToldReign] {
            var reply = Godwit_Peer_V1_ConfirmReply()
            reply.later = later.map { volume, owner, epoch in
                var message = Godwit_Peer_V1_LaterReign()
                message.volume = volume.description
                (message.reign.owner, message.reign.epoch) = (owner, epoch)
                message.handover = handover
                return message
            }
            return try ConfirmCoding.later(in: reply, than: [volume: AskedReign(Epoch(5))], from: sydney)
        }
        #expect(try answer([]) == [:])
        let told = ToldReign(owner: sydney, epoch: Epoch(6))
        #expect(try answer([(volume, "sydney", 6)]) == [volume: told])
        // The asker has raised its epoch since.
        let earlier = ToldReign(owner: sydney, epoch: Epoch(4), handover: Epoch(3))
        #expect(try answer([(volume, "sydney", 4)], handover: 3) == [volume: earlier])
        #expect(throws: PeerError.self) { try answer([(volume, "sydney", 6)], handover: 7) }
        for unsound: [(VolumeID, String, UInt64)] in [
            [(other, "sydney", 6)], [(volume, "sydney", 4)], [(volume, "Sydney!", 6)],
            [(volume, "sydney", 6), (volume, "tokyo", 7)],
        ] {
            #expect(throws: PeerError.self, "\(unsound)") { try answer(unsound) }
        }
    }

    @Test func aQuestionHasEachVolumeOnceAndNotTooMany() throws {
        let owned = Dictionary(
            uniqueKeysWithValues: (0..<UInt64(PeerLimits.reignCount)).map {
                (VolumeID(randomHigh: $0, randomLow: 1), AskedReign(Epoch($0 + 1), handover: .first))
            })
        var request = ConfirmCoding.message(of: owned)
        #expect(try ConfirmCoding.owned(in: request) == owned)
        let bytes: [UInt8] = try request.serializedBytes()
        #expect(bytes.count < PeerLimits().requestByteCount / 2)
        let twice = request.reigns[0]
        request.reigns[1] = twice
        #expect(throws: (any Error).self) { try ConfirmCoding.owned(in: request) }
        request.reigns.append(twice)
        #expect(throws: (any Error).self) { try ConfirmCoding.owned(in: request) }
        request.reigns = [twice]
        request.reigns[0].handover = request.reigns[0].epoch + 1
        #expect(throws: (any Error).self) { try ConfirmCoding.owned(in: request) }
        request.reigns = [twice]
        request.reigns[0].volume = "../"
        #expect(throws: (any Error).self) { try ConfirmCoding.owned(in: request) }
    }
}
