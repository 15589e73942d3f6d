import Testing
import VolumeModel

@testable import Handoff

/// A site whose whole state went back in time, and what others tell it.
@Suite struct GoingBackTests {
    private let later = Reign(sydney, Epoch(5))

    private func owner(_ epoch: UInt64 = 4, holder: Holder? = nil) -> HeadRecord {
        HeadRecord(
            site: london, role: .owning(Epoch(epoch), holder: holder), spent: Epoch(epoch), headReign: .first)
    }

    /// sydney, which has begun after london's epoch 4.
    private func heir(_ role: Role? = nil) -> HeadRecord {
        HeadRecord(
            site: sydney, role: role ?? .owning(Epoch(5), holder: nil), spent: Epoch(6), headReign: Epoch(5))
    }

    /// One question and its answer.
    private func ask(_ asking: inout HeadRecord, _ asked: HeadRecord) throws -> [Action] {
        let reign = try #require(asking.unconfirmedReign)
        return try asked.objection(to: reign).map { try asking.apply(.ownerAnnounced($0)) } ?? []
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
            #expect(heir(role).objection(to: Reign(london, Epoch(4))) == told, "\(role)")
        }
        #expect(
            heir(.fenced(Epoch(5), by: Epoch(7), owner: nil)).objection(to: Reign(london, Epoch(4))) == nil)
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
            #expect(record.objection(to: present) == nil, "\(role)")
            // Nor for one of before, nor for its own that was raised since.
            #expect(record.objection(to: Reign(london, Epoch(9))) == nil, "\(role)")
            #expect(record.objection(to: Reign(london, Epoch(3))) == nil, "\(role)")
        }
    }

    @Test func anAnswerThatIsLateFencesNobody() throws {
        // The volume was at sydney, and has returned.
        var record = owner(6)
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
    }

    @Test func whoIsAskedIsFencedWhereItIsTheOneThatWentBack() throws {
        var asked = owner()
        let asking = try #require(heir().unconfirmedReign)
        #expect(asked.objection(to: asking) == nil)
        _ = try asked.apply(.ownerAnnounced(asking))
        #expect(asked.role == .fenced(Epoch(4), by: Epoch(5), owner: sydney))
    }

    /// Else the question would announce what may never begin.
    @Test func onlyAReignThatHasBegunIsAskedAbout() {
        for kind in RoleKind.allCases {
            let asked = HandoffTableTests.record(kind).unconfirmedReign
            #expect(asked == (kind == .owning || kind == .sealing ? Reign(london, Epoch(4)) : nil), "\(kind)")
        }
    }

    @Test func anotherOwnerOfTheSameEpochIsForAPersonToResolve() throws {
        var record = owner(5)
        let before = record
        #expect(throws: HandoffError.self) { try ask(&record, heir()) }
        #expect(record == before)
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
        #expect(follower.objection(to: Reign(london, Epoch(4))) == nil)
        // By force it has overruled somebody who has.
        let forced = Reign(london, try #require(Epoch.takeover(after: Epoch(4), salt: 7)))
        let told = HeadRecord(site: sydney, role: .following(forced), spent: forced.epoch, headReign: .first)
        #expect(told.objection(to: Reign(london, Epoch(4))) == forced)
    }
}

@Suite struct GoingBackSimulationTests {
    private static let count: UInt64 = 400

    @Test(arguments: GoingBackSimulation.Return.allCases)
    func noScheduleBreaksAPromise(_ kind: GoingBackSimulation.Return) {
        var (returns, fenced, writes) = (0, 0, 0)
        for seed in 0..<Self.count {
            var simulation = GoingBackSimulation(seed: seed, kind)
            do {
                try simulation.run()
            } catch {
                Issue.record("\(kind), seed \(seed): \(error)")
                return
            }
            returns += simulation.returnCount
            fenced += simulation.fencedCount
            writes += simulation.writeCount
        }
        // A simulation in which nothing happens proves nothing.
        print("going back (\(kind)): \(returns) returns, \(fenced) fenced, \(writes) writes")
        #expect(writes > Int(Self.count) / 2)
        #expect((fenced > Int(Self.count) / 50) == (kind != .never))
        #expect((returns > Int(Self.count) / 2) == (kind != .never))
    }
}
