import Handoff
import Testing
import VolumeModel

@testable import Site

/// Who of a site's nodes answers for a volume: the same for whoever asks, at each step of a move.
@Suite struct KeeperTests {
    private static let names = ["worker-1.london", "worker-2.london", "worker-3.london"]

    private func site(_ name: String) throws -> SiteID { try #require(SiteID(name)) }

    private func placement(_ head: HeadRecord, headNumber: UInt64 = 1) -> Placement {
        Placement(
            member: head.site,
            record: VolumeRecord(
                id: VolumeID(randomHigh: 1, randomLow: 2), name: "data",
                limits: VolumeLimits(byteCount: 1 << 30),
                parameters: [:], head: head, headNumber: headNumber))
    }

    /// Whatever the order in which they are told.
    private func keeper(_ placements: [Placement]) -> String? {
        let told = Placement.keeper(among: placements)?.member.description
        #expect(Placement.keeper(among: placements.reversed())?.member.description == told)
        return told
    }

    @Test func ofNobodyThereIsNone() { #expect(keeper([]) == nil) }

    @Test func itGoesWithTheVolumeThroughAMove() throws {
        let (first, second) = (try site(Self.names[0]), try site(Self.names[1]))
        var source = HeadRecord(newAt: first)
        var target = try HeadRecord(followerAt: second, of: Reign(first, .first))
        func now() -> String? { keeper([placement(source), placement(target, headNumber: 0)]) }
        #expect(now() == Self.names[0])
        // Asking is not having: until it is granted the owner may refuse, and goes on.
        _ = try target.apply(.takeOver)
        #expect(now() == Self.names[0])
        let heir = Reign(second, Epoch(2))
        _ = try source.apply(.sealRequested(by: second, after: .first, wanted: heir.epoch))
        #expect(now() == Self.names[1])
        _ = try source.apply(.tailRead(heir: heir, finalSequence: SequenceNumber(7)))
        #expect(now() == Self.names[1])
        _ = try target.apply(
            .sealGranted(by: first, after: .first, grant: Grant(heir: heir, finalSequence: SequenceNumber(7)))
        )
        #expect(now() == Self.names[1])
        _ = try target.apply(.caughtUp(wanted: heir.epoch, sequence: SequenceNumber(7)))
        // The word of it may be lost.
        #expect(now() == Self.names[1])
        _ = try source.apply(.ownerAnnounced(heir))
        #expect(now() == Self.names[1])
    }

    @Test func whoWasOverruledAndDoesNotKnowAnswersNoLonger() throws {
        let (first, second) = (try site(Self.names[0]), try site(Self.names[1]))
        let lost = HeadRecord(newAt: first)
        var other = try HeadRecord(followerAt: second, of: Reign(first, .first))
        let wanted = try #require(Epoch.takeover(after: .first, salt: 3))
        _ = try other.apply(.overrule(.first, wanted: wanted, base: .followed(through: SequenceNumber(1))))
        #expect(keeper([placement(lost), placement(other)]) == Self.names[1])
    }

    @Test func ofThoseWhoOnlyKnowWhoHasItTheNewestAndTheFullestAnswers() throws {
        let sydney = try site("node-a.sydney")
        let old = placement(
            try HeadRecord(followerAt: try site(Self.names[0]), of: Reign(sydney, Epoch(4))))
        let empty = placement(
            try HeadRecord(followerAt: try site(Self.names[1]), of: Reign(sydney, Epoch(6))), headNumber: 0)
        let full = placement(
            try HeadRecord(followerAt: try site(Self.names[2]), of: Reign(sydney, Epoch(6))))
        #expect(keeper([old, empty, full]) == Self.names[2])
        #expect(keeper([old, empty]) == Self.names[1])
        #expect(!full.isBinding && full.knowsAsMuch(as: empty) && !old.knowsAsMuch(as: full))
        let second = placement(
            try HeadRecord(followerAt: try site(Self.names[1]), of: Reign(sydney, Epoch(6))))
        #expect(keeper([full, second]) == Self.names[1])
    }
}
