import Foundation
import Testing
import VolumeModel

@testable import Handoff

/// Where the epoch says nothing of who is right: whoever went back has raised it.
extension GoingBackTests {
    /// Nodes that read came and went while the link was down: each time the epoch is raised.
    @Test func whoWentBackAndRaisedItsEpochStopsAndNotWhoIsRight() throws {
        for raised: UInt64 in [4, 5, 6, 7, 9] {
            for present: UInt64 in [5, 6] {
                let right = HeadRecord(
                    site: sydney, role: .owning(Epoch(present), holder: nil), spent: Epoch(present),
                    headReign: Epoch(5))
                var (record, other) = (owner(raised), right)
                let claim = try #require(record.unconfirmedReign)
                #expect(claim.handover == .first)
                // Asked by it, and answered by it.
                #expect(try other.apply(.reignTold(claim)).isEmpty)
                #expect(other.role == right.role && other.spent >= right.spent)
                let asked = try #require(other.unconfirmedReign)
                let answer = record.objection(to: asked)
                if let answer { #expect(try other.apply(.reignTold(answer)).isEmpty) }
                #expect(other.role == right.role)

                _ = try ask(&record, other)
                let epoch = Epoch(present)
                #expect(record.role == .fenced(Epoch(raised), by: epoch, owner: sydney), "\(raised)")
                try record.validate()
                _ = try record.apply(.divergenceKept(under: Epoch(raised)))
                try record.validate()
                #expect(record.divergences == [Divergence(epoch: Epoch(raised), headReign: .first)])
                // It is given back as ever.
                let request = try #require(try record.apply(.takeOver).first?.message(from: london)?.event)
                _ = try other.apply(request)
                guard case .sealing(epoch, let heir) = other.role else {
                    Issue.record("\(other.role)")
                    continue
                }
                #expect(heir.owner == london && heir.epoch > Epoch(raised))
            }
        }
    }

    /// A message that does not tell of hand-overs stops nobody in the same line.
    @Test func aRaisedEpochAloneStopsNobody() throws {
        let before = heir()
        let stale = Reign(london, Epoch(7))
        for event: Event in [
            .ownerAnnounced(stale), .reignTold(KnownReign(stale)),
            .sealRequested(by: tokyo, after: Epoch(7), wanted: Epoch(8)),
            .sealRefused(by: tokyo, wanted: Epoch(9), .reigning(stale)),
        ] {
            var record = before
            #expect(throws: HandoffError.self, "\(event)") { try record.apply(event) }
            #expect(record == before)
        }
    }

    /// What is announced counts where a grant waits for it: so nothing is that was only raised.
    @Test func whoHearsOfAReignSinceItsOwnBeganAnnouncesNothing() throws {
        var record = owner(9)
        let before = record
        #expect(throws: HandoffError.self) { try record.apply(.ownerAnnounced(later)) }
        #expect(record == before)
    }

    /// tokyo follows who went back, and knows of no hand-over.
    @Test func aSiteThatOnlyFollowsStopsNobodyAndFindsTheOwner() throws {
        let stale = Reign(london, Epoch(7))
        var follower = HeadRecord(site: tokyo, role: .following(stale), spent: Epoch(7), headReign: .first)
        var right = heir()
        let asked = try #require(right.unconfirmedReign)
        let told = try #require(follower.objection(to: asked))
        #expect(told == KnownReign(stale))
        #expect(throws: HandoffError.self) { try right.apply(.reignTold(told)) }
        #expect(right == heir())

        _ = try follower.apply(.takeOver)
        let refusal = Event.sealRefused(by: london, wanted: Epoch(8), .reigning(later))
        _ = try follower.apply(refusal)
        #expect(follower.role == .following(later))
        let settled = follower
        #expect(try follower.apply(refusal).isEmpty && follower == settled)
        #expect(try follower.apply(.takeOver) == [.requestSeal(of: later, wanted: Epoch(9))])
        // From anybody else it is hearsay of before.
        var other = HeadRecord(site: tokyo, role: .following(stale), spent: Epoch(7), headReign: .first)
        _ = try other.apply(.takeOver)
        let asking = other
        _ = try? other.apply(.sealRefused(by: sydney, wanted: Epoch(8), .reigning(later)))
        #expect(other == asking)
    }

    /// tokyo gave the volume to sydney, and sydney cannot be reached.
    @Test func whoHasHandedItOverKnowsOfTheHandover() throws {
        var giver = HeadRecord(
            site: tokyo, role: .owning(Epoch(4), holder: nil), spent: Epoch(4), headReign: Epoch(3))
        _ = try giver.apply(.sealRequested(by: sydney, after: Epoch(4), wanted: Epoch(5)))
        _ = try giver.apply(.tailRead(heir: later, finalSequence: .zero))
        // Promised is not begun.
        #expect(giver.lastHandover == Epoch(3))
        _ = try giver.apply(.ownerAnnounced(later))
        #expect(giver.lastHandover == Epoch(5))
        var record = owner(9)
        _ = try ask(&record, giver)
        #expect(record.role == .fenced(Epoch(9), by: Epoch(5), owner: sydney))
    }

    /// tokyo has given the volume to sydney and follows london since, which went back and has raised its epoch. What it tells is
    /// that sydney got the volume, and not that london did.
    @Test func whoHasGivenItAwayTellsToWhomAlsoWhereItFollowsWhoWentBack() throws {
        var giver = HeadRecord(
            site: tokyo, role: .owning(Epoch(4), holder: nil), spent: Epoch(4), headReign: Epoch(3),
            handover: Epoch(3))
        _ = try giver.apply(.sealRequested(by: sydney, after: Epoch(4), wanted: Epoch(5)))
        _ = try giver.apply(.tailRead(heir: later, finalSequence: .zero))
        _ = try giver.apply(.ownerAnnounced(later))
        var record = owner(9)
        _ = try giver.apply(.prepare(Reign(london, Epoch(9))))
        #expect(giver.role == .following(Reign(london, Epoch(9))))
        let read = try JSONDecoder().decode(HeadRecord.self, from: JSONEncoder().encode(giver))
        #expect(read == giver && read.handedTo == sydney)
        _ = try ask(&record, giver)
        #expect(record.role == .fenced(Epoch(9), by: Epoch(5), owner: sydney))
        // Who is right, and has raised its epoch since, hears nothing of it.
        #expect(giver.objection(to: KnownReign(Reign(sydney, Epoch(10)), handover: Epoch(5))) == nil)
    }

    /// sydney has sealed for london, which went back to before it asked, and has raised its epoch past what was promised.
    @Test func aSealedSiteDoesNotGiveWayToAnHeirThatWentBack() throws {
        for raised: UInt64 in [6, 7, 9] {
            let grant = Grant(heir: Reign(london, Epoch(6)), finalSequence: .zero)
            for role: Role in [.sealed(Epoch(5), grant: grant), .reclaiming(Epoch(5), grant: grant)] {
                var (record, right) = (owner(raised), heir(role))
                let before = record
                let offer = Event.sealGranted(by: sydney, after: Epoch(5), grant: grant)
                let request = Event.declineRequested(reign: later, wanted: Epoch(6))
                for event in [offer, request] {
                    #expect(throws: HandoffError.self) { try record.apply(event) }
                    #expect(record == before)
                }
                // It is told what is true, and declines.
                _ = try ask(&record, right)
                #expect(record.role == .fenced(Epoch(raised), by: Epoch(5), owner: sydney))
                _ = try record.apply(.divergenceKept(under: Epoch(raised)))
                let answer = try record.apply(request)
                #expect(answer == [.tellDeclined(Epoch(6), to: sydney)])
                _ = try right.apply(.declined(by: london, wanted: Epoch(6)))
                #expect(right.role == .owning(Epoch(7), holder: nil))
            }
        }
        // A site that holds its grant does not leave it for an owner of before either.
        let held = Grant(heir: Reign(tokyo, Epoch(6)), finalSequence: .zero)
        let other = HeadRecord(
            site: tokyo, role: .receiving(from: later, grant: held), spent: Epoch(5), headReign: .first)
        var record = other
        #expect(throws: HandoffError.self) { try record.apply(.prepare(Reign(london, Epoch(9)))) }
        #expect(record == other)
    }

    /// london gave it to tokyo, got it back and gave it to sydney; then all of that was undone at london, and tokyo speaks first.
    @Test func whoIsStoppedByAReignOfItsOwnHearsOfTheOwnerAfterThat() throws {
        let own = Reign(london, Epoch(3))
        let giver = HeadRecord(
            site: tokyo, role: .retired(own), spent: Epoch(3), headReign: Epoch(2), handover: Epoch(3),
            handedTo: london)
        let right = HeadRecord(
            site: sydney, role: .owning(Epoch(4), holder: nil), spent: Epoch(4), headReign: Epoch(4),
            handover: Epoch(4))
        var record = owner(5)
        _ = try ask(&record, giver)
        #expect(record.role == .fenced(Epoch(5), by: Epoch(3), owner: nil))
        let stopped = record
        #expect(try ask(&record, right) == [.keepDivergence(under: Epoch(5))])
        #expect(record.role == .fenced(Epoch(5), by: Epoch(4), owner: sydney))
        try record.validate()
        // Nor is the owner told anything by its question, and its offer serves as well.
        var other = right
        let question = try #require(stopped.unconfirmedReign)
        _ = try? other.apply(.reignTold(question))
        #expect(other.role == right.role)
        var offered = stopped
        #expect(try offered.apply(.prepare(Reign(sydney, Epoch(4)))) == [.keepDivergence(under: Epoch(5))])
        #expect(offered.role == .fenced(Epoch(5), by: Epoch(4), owner: sydney))
    }

    /// Only what was promised and taken back is in doubt; of many such promises the oldest are no longer told apart.
    @Test func aPromiseThatWasTakenBackSinceKeepsNobodyFromStopping() throws {
        func takeBack(_ record: inout HeadRecord, _ heir: SiteID) throws {
            let wanted = record.spent.next
            _ = try record.apply(.sealRequested(by: heir, after: record.knownEpoch, wanted: wanted))
            _ = try record.apply(.declined(by: heir, wanted: wanted))
            try record.validate()
        }
        var record = owner()
        // Epoch 5 is sydney's.
        _ = try record.apply(.admit(Reader(member: london, node: "n1")))
        _ = try record.apply(.detach(node: "n1"))
        try takeBack(&record, tokyo)
        #expect(record.takenBack == [Epoch(7)] && record.knownEpoch == Epoch(8))
        var stopped = record
        _ = try ask(&stopped, heir())
        #expect(stopped.role == .fenced(Epoch(8), by: Epoch(5), owner: sydney))

        for _ in 0..<HeadRecord.takenBackLimit { try takeBack(&record, tokyo) }
        #expect(record.takenBack.count == HeadRecord.takenBackLimit && record.doubtedThrough == Epoch(7))
        let before = record
        #expect(throws: HandoffError.self) { try ask(&record, heir()) }
        #expect(record == before)
    }

    /// A record of an earlier release, which noted no hand-over, has gone back and has raised its epoch.
    @Test func ofAnEarlierReleaseItStopsForWhatBeganAfterWhatWasFound() throws {
        for site in [london, SiteID("n1.london")!] {
            var record = HeadRecord(
                site: site, role: .owning(Epoch(4), holder: nil), spent: Epoch(4), headReign: Epoch(2))
            for _ in 0..<3 {
                _ = try record.apply(.admit(Reader(member: site, node: "n1")))
                _ = try record.apply(.detach(node: "n1"))
            }
            #expect(record.knownEpoch == Epoch(10) && record.doubtedThrough == Epoch(4))
            let before = record
            // What began before may have been taken back.
            #expect(
                (try? record.apply(.reignTold(KnownReign(Reign(tokyo, Epoch(11)), handover: Epoch(4)))))
                    == nil)
            #expect(record.role == before.role)
            _ = try ask(&record, heir())
            #expect(record.role == .fenced(Epoch(10), by: Epoch(5), owner: sydney))
            try record.validate()
        }
    }

    /// A node whose site does not know by which hand-over it got the head hears of all that were before. That is no contradiction,
    /// also where the volume is not shared with whom it names any more.
    @Test func whatWasBeforeConcernsNobody() throws {
        let site = try #require(SiteID("n1.london"))
        let record = HeadRecord(
            site: site, role: .owning(Epoch(4), holder: nil), spent: Epoch(4), headReign: Epoch(4))
        let asked = try #require(record.unconfirmedReign)
        #expect(asked.handover == nil)
        let other = HeadRecord(
            site: sydney, role: .retired(Reign(tokyo, Epoch(3))), spent: Epoch(3), headReign: Epoch(2),
            handover: Epoch(3), handedTo: tokyo)
        let told = try #require(other.objection(to: asked))
        #expect(told == KnownReign(Reign(tokyo, Epoch(3)), handover: Epoch(3)))
        #expect(!record.isConcerned(by: told))
        #expect(record.isConcerned(by: KnownReign(Reign(tokyo, Epoch(5)))))
        #expect(record.isConcerned(by: KnownReign(Reign(tokyo, Epoch(5)), handover: Epoch(5))))
    }

    /// What tokyo owned itself it does not forget for what somebody else says.
    @Test func whoHasHadItSinceDoesNotTurnToAnEarlierOwner() throws {
        let reign = Reign(london, Epoch(7))
        var record = HeadRecord(
            site: tokyo, role: .following(reign), spent: Epoch(7), headReign: Epoch(6), handover: Epoch(7),
            handedTo: london)
        _ = try record.apply(.takeOver)
        let asking = record
        _ = try record.apply(.sealRefused(by: london, wanted: Epoch(8), .reigning(later)))
        #expect(record == asking)
    }

    /// The site has had it since epoch 3, whichever of its nodes has it now.
    @Test func betweenNodesOfASiteTheHandoverStays() throws {
        let (one, two) = (SiteID("n1.london")!, SiteID("n2.london")!)
        var giver = HeadRecord(
            site: one, role: .owning(Epoch(4), holder: nil), spent: Epoch(4), headReign: Epoch(3),
            handover: Epoch(3))
        var heir = try HeadRecord(followerAt: two, of: Reign(one, Epoch(4)))
        let request = try #require(try heir.apply(.takeOver).first?.message(from: two)?.event)
        _ = try giver.apply(request)
        let reign = Reign(two, Epoch(5))
        let answers = try giver.apply(.tailRead(heir: reign, finalSequence: .zero))
        let grant = Grant(heir: reign, finalSequence: .zero, handover: Epoch(3))
        #expect(answers == [.grantSeal(after: Epoch(4), grant)])
        _ = try heir.apply(.sealGranted(by: one, after: Epoch(4), grant: grant))
        for record in [giver, heir] {
            let read = try JSONDecoder().decode(HeadRecord.self, from: JSONEncoder().encode(record))
            #expect(read == record)
        }
        _ = try heir.apply(.caughtUp(wanted: Epoch(5), sequence: .zero))
        _ = try giver.apply(.ownerAnnounced(reign))
        #expect(heir.unconfirmedReign == KnownReign(reign, handover: Epoch(3)))
        #expect(giver.lastHandover == Epoch(3))
        // One that was promised the head and did not take it changes nothing about that, if it is a node of the site.
        var again = heir
        _ = try again.apply(.sealRequested(by: one, after: Epoch(5), wanted: Epoch(6)))
        _ = try again.apply(.declined(by: one, wanted: Epoch(6)))
        #expect(again.knownEpoch == Epoch(7) && again.isSettled)
        _ = try again.apply(.sealRequested(by: sydney, after: Epoch(7), wanted: Epoch(8)))
        _ = try again.apply(.declined(by: sydney, wanted: Epoch(8)))
        #expect(again.takenBack == [Epoch(8)] && again.handover == Epoch(3))
        // Of an earlier release it is not known, and the epoch stands for it.
        var old = heir
        old.handover = nil
        #expect(old.unconfirmedReign == KnownReign(reign))
        _ = try? old.apply(.reignTold(KnownReign(Reign(sydney, Epoch(7)), handover: Epoch(4))))
        #expect(old.role == heir.role)
        _ = try old.apply(.reignTold(KnownReign(Reign(sydney, Epoch(7)), handover: Epoch(6))))
        #expect(old.role == .fenced(Epoch(5), by: Epoch(7), owner: sydney))
    }

    /// sydney has declined what was promised to it, and then its state of before was put back: it takes the old promise.
    @Test func whatWasDeclinedAndBeginsAllTheSameStopsNobody() throws {
        var giver = HeadRecord(newAt: london)
        var heir = try HeadRecord(followerAt: sydney, of: Reign(london, .first))
        let request = try #require(try heir.apply(.takeOver).first?.message(from: sydney)?.event)
        _ = try giver.apply(request)
        let grant = Grant(heir: Reign(sydney, Epoch(2)), finalSequence: .zero)
        _ = try giver.apply(.tailRead(heir: grant.heir, finalSequence: .zero))
        _ = try heir.apply(.sealGranted(by: london, after: .first, grant: grant))
        _ = try giver.apply(.declined(by: sydney, wanted: Epoch(2)))
        #expect(giver.unconfirmedReign == KnownReign(Reign(london, Epoch(3)), handover: .first))
        let read = try JSONDecoder().decode(HeadRecord.self, from: JSONEncoder().encode(giver))
        #expect(read == giver && read.takenBack == [Epoch(2)])

        _ = try heir.apply(.caughtUp(wanted: Epoch(2), sequence: .zero))
        let claim = try #require(heir.unconfirmedReign)
        #expect(claim == KnownReign(grant.heir, handover: Epoch(2)))
        let (right, begun) = (giver, heir)
        #expect(throws: HandoffError.self) { try giver.apply(.reignTold(claim)) }
        #expect(throws: HandoffError.self) { try ask(&heir, giver) }
        #expect(giver == right && heir == begun)
        // What is handed over from now on counts again.
        _ = try giver.apply(.reignTold(KnownReign(Reign(tokyo, Epoch(9)), handover: Epoch(4))))
        #expect(giver.role == .fenced(Epoch(3), by: Epoch(9), owner: tokyo))
    }

    @Test func theFirstLineLastsUntilForceMayBeginAnother() throws {
        #expect(Epoch(1 << 16).line == 0 && Epoch(1 << 40 - 1).line == 0)
        let forced = try #require(Epoch.takeover(after: Epoch(1 << 17), salt: 0))
        #expect(forced.line > 0 && forced.next.line == forced.line)
        var right = heir()
        let stale = KnownReign(Reign(london, Epoch(1 << 17)), handover: .first)
        #expect(try right.apply(.reignTold(stale)).isEmpty && right.role == heir().role)
    }

    /// The volume has been elsewhere and has returned, and then the state of before was put back.
    @Test func anOwnerThatHasLostALaterReignOfItsOwnStopsUntilAPersonDecides() throws {
        var record = owner()
        let own = Reign(london, Epoch(6))
        let told = heir(.retired(own))
        #expect(try ask(&record, told) == [.stopServing(Epoch(4)), .keepDivergence(under: Epoch(4))])
        #expect(record.role == .fenced(Epoch(4), by: Epoch(6), owner: nil))
        try record.validate()
        let fenced = record
        #expect(throws: HandoffError.self) { try record.apply(.divergenceKept(under: Epoch(4))) }
        #expect(try ask(&record, told).isEmpty && record == fenced)
        #expect(throws: HandoffError.self) { try record.apply(.takeOver) }

        // With what is here.
        var goingOn = fenced
        let wanted = try #require(Epoch.takeover(after: Epoch(6), salt: 7))
        let order = Event.overrule(Epoch(6), wanted: wanted, base: .kept(headReign: .first))
        for base: TakeoverBase in [.kept(headReign: Epoch(4)), .followed(through: SequenceNumber(3))] {
            #expect(throws: HandoffError.nothingToBeginWith) {
                try goingOn.apply(.overrule(Epoch(6), wanted: wanted, base: base))
            }
        }
        #expect(throws: HandoffError.self) {
            try goingOn.apply(.overrule(Epoch(5), wanted: wanted, base: .kept(headReign: .first)))
        }
        #expect(try goingOn.apply(order) == [.serve(wanted)])
        try goingOn.validate()
        #expect(goingOn.mayWrite(under: wanted) && goingOn.mayBeUnheardOf && goingOn.divergences.isEmpty)
        #expect(try goingOn.apply(order) == [.serve(wanted)])

        // Or with what the other site has.
        _ = try record.apply(.ownerAnnounced(Reign(sydney, wanted)))
        _ = try record.apply(.divergenceKept(under: Epoch(4)))
        #expect(record.role == .retired(Reign(sydney, wanted)) && record.divergences.count == 1)
    }

    /// Kubernetes had the owner raise its epoch, and then the state of before was put back: nobody else has written.
    @Test func aFollowerDoesNotSpeakAgainstAnOwnerForEpochsThatWereOnlyRaised() throws {
        let follower = HeadRecord(
            site: sydney, role: .following(Reign(london, Epoch(6))), spent: Epoch(6), headReign: .first)
        #expect(follower.objection(to: KnownReign(Reign(london, Epoch(4)))) == nil)
        // By force it has overruled somebody who has.
        let forced = Reign(london, try #require(Epoch.takeover(after: Epoch(4), salt: 7)))
        let told = HeadRecord(site: sydney, role: .following(forced), spent: forced.epoch, headReign: .first)
        #expect(told.objection(to: KnownReign(Reign(london, Epoch(4))))?.reign == forced)
    }
}
