import Foundation
import Testing
import VolumeModel

@testable import Handoff

/// A site whose whole state went back in time, and what others tell it.
@Suite struct GoingBackTests {
    let later = Reign(sydney, Epoch(5))

    func owner(_ epoch: UInt64 = 4, holder: Holder? = nil) -> HeadRecord {
        HeadRecord(
            site: london, role: .owning(Epoch(epoch), holder: holder), spent: Epoch(epoch), headReign: .first,
            handover: .first)
    }

    /// sydney, which has begun after london's epoch 4.
    func heir(_ role: Role? = nil) -> HeadRecord {
        HeadRecord(
            site: sydney, role: role ?? .owning(Epoch(5), holder: nil), spent: Epoch(6), headReign: Epoch(5),
            handover: Epoch(5))
    }

    /// One question and its answer.
    func ask(_ asking: inout HeadRecord, _ asked: HeadRecord) throws -> [Action] {
        let reign = try #require(asking.unconfirmedReign)
        return try asked.objection(to: reign).map { try asking.apply(.reignTold($0)) } ?? []
    }

    @Test func anOwnerThatWentBackStopsAtTheFirstAnswerAndKeepsWhatItWrote() throws {
        var record = owner(holder: Holder(node: "n1", pod: "db-0"))
        let actions = try ask(&record, heir())
        #expect(actions == [.stopServing(Epoch(4)), .keepDivergence(under: Epoch(4))])
        #expect(record.role == .fenced(Epoch(4), by: Epoch(5), owner: sydney))
        #expect(!record.mayWrite(under: Epoch(4)) && record.unconfirmedReign == nil)
        _ = try record.apply(.divergenceKept(under: Epoch(4)))
        #expect(record.role == .retired(later))
        #expect(record.divergences == [Divergence(epoch: Epoch(4), headReign: .first)])
        // Twice, late, and after that: nothing.
        let settled = record
        #expect(try record.apply(.ownerAnnounced(later)).isEmpty && record == settled)
        #expect(throws: HandoffError.notOwner(later)) {
            try record.apply(.attach(Holder(node: "n1", pod: nil)))
        }
    }

    @Test func whoeverOwnsOrFollowsKnowsOfTheLaterReign() throws {
        let third = Reign(tokyo, Epoch(7))
        let grant = Grant(heir: third, finalSequence: SequenceNumber(9))
        let roles: [(Role, Reign)] = [
            (.owning(Epoch(5), holder: nil), later), (.sealing(Epoch(5), heir: third), later),
            (.sealed(Epoch(5), grant: grant), later), (.reclaiming(Epoch(5), grant: grant), later),
            (.retired(third), third), (.following(third), third),
            (.acquiring(from: third, wanted: Epoch(8)), third),
            (.fenced(Epoch(5), by: Epoch(7), owner: tokyo), third),
        ]
        for (role, told) in roles {
            #expect(heir(role).objection(to: KnownReign(Reign(london, Epoch(4))))?.reign == told, "\(role)")
        }
        let fenced = heir(.fenced(Epoch(5), by: Epoch(7), owner: nil))
        #expect(fenced.objection(to: KnownReign(Reign(london, Epoch(4)))) == nil)
    }

    /// What is wanted, promised or given up has not begun.
    @Test func nobodySpeaksAgainstAnOwnerForAReignThatHasNotBegun() throws {
        let present = Reign(london, Epoch(4))
        let grant = Grant(heir: later, finalSequence: SequenceNumber(9))
        for role: Role in [
            .following(present), .retired(present), .acquiring(from: present, wanted: Epoch(5)),
            .receiving(from: present, grant: grant), .declining(from: present, declined: Epoch(5)),
        ] {
            let record = HeadRecord(site: sydney, role: role, spent: Epoch(6), headReign: .first)
            #expect(record.objection(to: KnownReign(present)) == nil, "\(role)")
            // Nor for one of before, nor for its own that was raised since.
            #expect(record.objection(to: KnownReign(Reign(london, Epoch(9)))) == nil, "\(role)")
            #expect(record.objection(to: KnownReign(Reign(london, Epoch(3)))) == nil, "\(role)")
        }
    }

    @Test func anAnswerThatIsLateFencesNobody() throws {
        // The volume was at sydney, and has returned.
        var record = HeadRecord(
            site: london, role: .owning(Epoch(6), holder: nil), spent: Epoch(6), headReign: Epoch(6),
            handover: Epoch(6))
        let before = record
        #expect(try record.apply(.ownerAnnounced(later)) == [.announce(Reign(london, Epoch(6)), to: sydney)])
        #expect(record == before)
        // It is being handed over, or was, when the answer to an earlier question comes.
        let grant = Grant(heir: Reign(tokyo, Epoch(7)), finalSequence: SequenceNumber(9))
        for role: Role in [.sealing(Epoch(6), heir: grant.heir), .sealed(Epoch(6), grant: grant)] {
            var record = HeadRecord(site: london, role: role, spent: Epoch(7), headReign: .first)
            let before = record
            #expect(try record.apply(.ownerAnnounced(later)).isEmpty)
            #expect(record == before)
        }
        // Nor does what a question was answered with, when the volume has come back by a hand-over since.
        let told = KnownReign(later, handover: later.epoch)
        for role: Role in [.owning(Epoch(6), holder: nil), .sealing(Epoch(6), heir: grant.heir)] {
            var record = HeadRecord(site: london, role: role, spent: Epoch(7), headReign: Epoch(6))
            let before = record
            #expect(try record.apply(.reignTold(told)).isEmpty && record == before)
        }
    }

    @Test func whoIsAskedIsFencedWhereItIsTheOneThatWentBack() throws {
        var asked = owner()
        let asking = try #require(heir().unconfirmedReign)
        #expect(asked.objection(to: asking) == nil)
        _ = try asked.apply(.reignTold(asking))
        #expect(asked.role == .fenced(Epoch(4), by: Epoch(5), owner: sydney))
    }

    /// Else the question would announce what may never begin.
    @Test func onlyAReignThatHasBegunIsAskedAbout() {
        for kind in RoleKind.allCases {
            let asked = HandoffTableTests.record(kind).unconfirmedReign?.reign
            #expect(asked == (kind == .owning || kind == .sealing ? Reign(london, Epoch(4)) : nil), "\(kind)")
        }
    }

    @Test func anotherOwnerOfTheSameEpochStopsTheOneOfTheEarlierHandover() throws {
        var (record, right) = (owner(5), heir())
        let claim = try #require(record.unconfirmedReign)
        #expect(try right.apply(.reignTold(claim)).isEmpty && right == heir())
        #expect(try ask(&record, right) == [.stopServing(Epoch(5)), .keepDivergence(under: Epoch(5))])
        #expect(record.role == .fenced(Epoch(5), by: Epoch(5), owner: sydney))
        try record.validate()
        _ = try record.apply(.divergenceKept(under: Epoch(5)))
        try record.validate()
        #expect(record.role == .retired(later))
    }

    @Test func twoOwnersOfOneHandoverAreForAPersonToResolve() throws {
        for (mine, theirs): (UInt64, UInt64) in [(5, 5), (5, 7), (7, 5)] {
            let role = Role.owning(Epoch(mine), holder: nil)
            var record = HeadRecord(
                site: london, role: role, spent: Epoch(9), headReign: Epoch(5), handover: Epoch(5))
            let (before, other) = (record, heir(.owning(Epoch(theirs), holder: nil)))
            let claim = try #require(record.unconfirmedReign)
            let told = try #require(other.objection(to: claim))
            #expect(throws: HandoffError.self) { try record.apply(.reignTold(told)) }
            #expect(record == before)
        }
    }

    /// Promises.md: "`godwit volume takeover` at the site whose state is to count".
    @Test func aPersonDecidesBetweenTwoOwnersByANewLine() throws {
        func owner(at site: SiteID) -> HeadRecord {
            HeadRecord(
                site: site, role: .owning(Epoch(5), holder: nil), spent: Epoch(5), headReign: Epoch(5),
                handover: Epoch(5))
        }
        var (one, other) = (owner(at: london), owner(at: sydney))
        let wanted = try #require(Epoch.takeover(after: Epoch(5), salt: 7))
        let order = Event.overrule(Epoch(5), wanted: wanted, base: .kept(headReign: Epoch(5)))
        for event in [
            Event.overrule(Epoch(4), wanted: wanted, base: .kept(headReign: Epoch(5))),
            .overrule(Epoch(5), wanted: wanted, base: .kept(headReign: .first)),
            .overrule(Epoch(5), wanted: wanted, base: .followed(through: SequenceNumber(3))),
        ] {
            #expect(throws: HandoffError.self, "\(event)") { try one.apply(event) }
        }
        var held = one
        _ = try held.apply(.attach(Holder(node: "n1", pod: nil)))
        #expect(throws: HandoffError.inUse(Holder(node: "n1", pod: nil))) { try held.apply(order) }
        #expect(try one.apply(order) == [.stopServing(Epoch(5)), .serve(wanted)])
        #expect(try one.apply(order) == [.serve(wanted)])
        try one.validate()
        _ = try ask(&other, one)
        #expect(other.role == .fenced(Epoch(5), by: wanted, owner: london))
    }
}
