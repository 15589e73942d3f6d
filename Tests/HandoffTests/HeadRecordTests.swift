import Testing
import VolumeModel

@testable import Handoff

/// Single rules, each with the events that led to it written out.
@Suite struct HeadRecordTests {
    private func owner() -> HeadRecord { HeadRecord(newAt: london) }

    private func follower(at site: SiteID = sydney) throws -> HeadRecord {
        try HeadRecord(followerAt: site, of: Reign(london, .first))
    }

    /// Hands the head from one record to the other, over a network that loses nothing.
    private func handOver(_ source: inout HeadRecord, _ target: inout HeadRecord, at sequence: Int64) throws {
        let request = try #require(try target.apply(.takeOver).first?.message(from: target.site))
        #expect(request.to == source.site)
        let stop = try source.apply(request.event)
        guard case .sealing(let sealed, let heir) = source.role else { Issue.record("no seal"); return }
        #expect(stop == [.stopServing(sealed), .readTail(heir: heir)])
        let answer = try source.apply(.tailRead(heir: heir, finalSequence: SequenceNumber(sequence)))
        let grant = try #require(answer.first?.message(from: source.site))
        #expect(try target.apply(grant.event).count == 1)
        let begin = try target.apply(.caughtUp(wanted: heir.epoch, sequence: SequenceNumber(sequence)))
        #expect(begin.first == .serve(heir.epoch))
        let word = try #require(begin.last?.message(from: target.site))
        _ = try source.apply(word.event)
    }

    @Test func handOffMovesTheRightToWriteAndKeepsTheBytes() throws {
        var (source, target) = (owner(), try follower())
        try handOver(&source, &target, at: 7)
        #expect(!source.mayWrite(under: Epoch(1)) && !source.mayWrite(under: Epoch(2)))
        #expect(target.mayWrite(under: Epoch(2)) && !target.mayWrite(under: Epoch(1)))
        #expect(target.origin?.site == london)
        let grant = Grant(heir: Reign(sydney, Epoch(2)), finalSequence: SequenceNumber(7))
        #expect(source.retentions == [Retention(grant: grant, headReign: .first)])
        #expect(!source.mayDiscard)
    }

    @Test func flattenedTargetReleasesItsSource() throws {
        var (source, target) = (owner(), try follower())
        try handOver(&source, &target, at: 7)
        let request = try #require(
            try target.apply(.flattened(reign: Epoch(2))).first?.message(from: sydney))
        #expect(target.origin == nil)
        // The request may be lost: it is asked for until it is confirmed.
        #expect(target.actionsAfterRestart().contains(.requestRelease(of: london, reign: Epoch(2))))
        let actions = try source.apply(request.event)
        #expect(actions.contains(.mayDiscard) && source.mayDiscard)
        let confirmation = try #require(actions.first?.message(from: london))
        _ = try target.apply(confirmation.event)
        #expect(target.sources.isEmpty)
        // And it may come back as a follower.
        _ = try source.apply(.prepare(Reign(sydney, Epoch(2))))
        #expect(source.role == .following(Reign(sydney, Epoch(2))))
    }

    @Test func mountedOwnerRefusesAndNamesThePod() throws {
        var record = owner()
        let holder = Holder(node: "n1", pod: "db-0")
        _ = try record.apply(.attach(holder))
        let request = Event.sealRequested(by: sydney, after: .first, wanted: Epoch(2))
        #expect(throws: HandoffError.sealRefused(.inUse(holder))) { try record.apply(request) }
        #expect(throws: HandoffError.inUse(holder)) {
            try record.apply(.attach(Holder(node: "n2", pod: nil)))
        }
        #expect("\(HandoffError.sealRefused(.inUse(holder)))".contains("pod db-0 on node n1"))
        _ = try record.apply(.detach(node: "n2"))
        #expect(throws: HandoffError.sealRefused(.inUse(holder))) { try record.apply(request) }
        _ = try record.apply(.detach(node: "n1"))
        #expect(try record.apply(request).count == 2)
    }

    @Test func whatIsAttachedStaysHeldUntilItIsDetached() throws {
        var record = owner()
        let attached = Holder(node: "n1", pod: nil, attachment: "W")
        let request = Event.sealRequested(by: sydney, after: .first, wanted: Epoch(2))
        _ = try record.apply(.attach(attached))
        // Mounted by a pod, it is as much attached as before.
        _ = try record.apply(.attach(Holder(node: "n1", pod: "db-0")))
        let mounted = Holder(node: "n1", pod: "db-0", attachment: "W")
        #expect(throws: HandoffError.sealRefused(.inUse(mounted))) { try record.apply(request) }
        for _ in 0..<2 { _ = try record.apply(.unmounted(node: "n1")) }
        #expect(throws: HandoffError.sealRefused(.inUse(attached))) { try record.apply(request) }
        #expect("\(HandoffError.sealRefused(.inUse(attached)))".contains("detach it"))
        #expect("\(HandoffError.sealRefused(.inUse(mounted)))".contains("stop pod db-0 on node n1"))
        _ = try record.apply(.detach(node: "n2"))
        #expect(throws: HandoffError.inUse(attached)) {
            try record.apply(.attach(Holder(node: "n2", pod: nil)))
        }
        _ = try record.apply(.detach(node: "n1"))
        #expect(try record.apply(request).count == 2)
    }

    @Test func whatIsMountedWithoutBeingAttachedIsLetGoAtTheUnmount() throws {
        var record = owner()
        _ = try record.apply(.attach(Holder(node: "n1", pod: "db-0")))
        _ = try record.apply(.unmounted(node: "n2"))
        #expect(record.role == .owning(.first, holder: Holder(node: "n1", pod: "db-0")))
        _ = try record.apply(.unmounted(node: "n1"))
        #expect(record.role == .owning(.first, holder: nil))
    }

    @Test func evictingRaisesTheEpochSoThatTheOlderMountGetsErrors() throws {
        var record = owner()
        let evict = Event.evict(node: "n1")
        #expect(try record.apply(evict) == [] && record == owner(), "nobody holds it")
        _ = try record.apply(.attach(Holder(node: "n1", pod: nil, attachment: "W")))
        #expect(try record.apply(.evict(node: "n2")) == [], "another node holds it")
        #expect(try record.apply(evict) == [.stopServing(Epoch(1)), .serve(Epoch(2))])
        #expect(record.role == .owning(Epoch(2), holder: nil))
        #expect(!record.mayWrite(under: Epoch(1)) && record.mayWrite(under: Epoch(2)))
        #expect(try record.apply(evict) == [])
        // Who knew the older reign is told of this one, and asks again.
        #expect(throws: HandoffError.sealRefused(.reigning(Reign(london, Epoch(2))))) {
            try record.apply(.sealRequested(by: sydney, after: .first, wanted: Epoch(3)))
        }
        #expect(try record.apply(.sealRequested(by: sydney, after: Epoch(2), wanted: Epoch(3))).count == 2)
    }

    @Test func whileSomebodyReadsNobodyWritesNorTakesIt() throws {
        var record = owner()
        let one = Reader(member: SiteID("n1.london")!, node: "n1")
        let two = Reader(member: SiteID("n2.london")!, node: "n2")
        // The first begins an epoch under which nothing changes.
        #expect(try record.apply(.admit(two)) == [.stopServing(.first), .serve(Epoch(2))])
        for reader in [one, two, one] { #expect(try record.apply(.admit(reader)) == [.serve(Epoch(2))]) }
        #expect(record.readers == [one, two])
        let user = try #require(record.user)
        #expect("\(HandoffError.inUse(user))".contains("n1, n2"), "\(HandoffError.inUse(user))")
        for node in ["n1", "n3"] {
            #expect(throws: HandoffError.inUse(user)) {
                try record.apply(.attach(Holder(node: node, pod: nil, attachment: "W")))
            }
        }
        let request = Event.sealRequested(by: sydney, after: Epoch(2), wanted: Epoch(3))
        #expect(throws: HandoffError.sealRefused(.inUse(user))) { try record.apply(request) }
        // Who reads itself and asks for it is in its own way, whoever else is.
        let own = Event.sealRequested(by: two.member, after: Epoch(2), wanted: Epoch(3))
        #expect {
            try record.apply(own)
        } throws: { error in
            guard case HandoffError.sealRefused(.inUse(let user)) = error else { return false }
            return user.node == "n2"
        }
        for epoch: UInt64 in 1...3 { #expect(!record.mayWrite(under: Epoch(epoch))) }
        #expect(record.mayRead(one.member, under: Epoch(2)) && !record.mayRead(one.member, under: .first))
        #expect(!record.mayRead(sydney, under: Epoch(2)))
        for _ in 0..<2 { #expect(try record.apply(.detach(node: "n1")) == []) }
        #expect(!record.mayRead(one.member, under: Epoch(2)) && record.mayRead(two.member, under: Epoch(2)))
        #expect(throws: HandoffError.self) { try record.apply(.attach(Holder(node: "n1", pod: nil))) }
        // With the last the epoch ends: under one that was read nobody ever writes.
        #expect(try record.apply(.detach(node: "n2")) == [.stopServing(Epoch(2)), .serve(Epoch(3))])
        #expect(try record.apply(.detach(node: "n2")) == [])
        #expect(record.user == nil && record.mayWrite(under: Epoch(3)) && !record.mayWrite(under: Epoch(2)))
        _ = try record.apply(.attach(Holder(node: "n1", pod: nil, attachment: "W")))
        let holder = try #require(record.user)
        #expect(throws: HandoffError.inUse(holder)) { try record.apply(.admit(two)) }
        _ = try record.apply(.detach(node: "n1"))
        // Written to in between, it is another state and another epoch.
        #expect(try record.apply(.admit(two)) == [.stopServing(Epoch(3)), .serve(Epoch(4))])
        for epoch: UInt64 in 1...3 { #expect(!record.mayRead(two.member, under: Epoch(epoch))) }
    }

    @Test func ofAReignThatIsOverNobodyReads() throws {
        var record = owner()
        let reader = Reader(member: SiteID("n1.london")!, node: "n1")
        _ = try record.apply(.admit(reader))
        _ = try record.apply(.ownerAnnounced(Reign(sydney, Epoch(1 << 41))))
        #expect(record.readers.isEmpty && !record.mayRead(reader.member, under: Epoch(2)))
        try record.validate()
    }

    @Test func readersAreBoundedAndOfThisSite() throws {
        var record = owner()
        for number in 0..<HeadRecord.readerLimit {
            _ = try record.apply(.admit(Reader(member: SiteID("n\(number).london")!, node: "n\(number)")))
        }
        try record.validate()
        let before = record
        #expect(throws: HandoffError.self) {
            try record.apply(.admit(Reader(member: SiteID("more.london")!, node: "more")))
        }
        #expect(record == before)
        let stranger = HeadRecord(
            site: london, role: .owning(.first, holder: nil), spent: .first, headReign: .first,
            readers: [Reader(member: sydney, node: "n1")])
        #expect(throws: HandoffError.self) { try stranger.validate() }
        var held = owner()
        held.role = .owning(.first, holder: Holder(node: "n1", pod: nil))
        held.readers = [Reader(member: london, node: "n1")]
        #expect(throws: HandoffError.self) { try held.validate() }
    }

    @Test func sealedOwnerAnswersTheSameAgainAndNobodyElse() throws {
        var record = owner()
        let request = Event.sealRequested(by: sydney, after: .first, wanted: Epoch(2))
        _ = try record.apply(request)
        let heir = Reign(sydney, Epoch(2))
        let grant = Action.grantSeal(after: .first, Grant(heir: heir, finalSequence: SequenceNumber(3)))
        #expect(try record.apply(.tailRead(heir: heir, finalSequence: SequenceNumber(3))) == [grant])
        #expect(try record.apply(request) == [grant])
        #expect(record.actionsAfterRestart().contains(grant))
        #expect(throws: HandoffError.sealRefused(.promised(to: heir))) {
            try record.apply(.sealRequested(by: tokyo, after: .first, wanted: Epoch(2)))
        }
        #expect(throws: HandoffError.promised(to: heir)) {
            try record.apply(.attach(Holder(node: "n1", pod: nil)))
        }
    }

    @Test func targetBeginsOnlyWithTheWholeTail() throws {
        var record = try follower()
        _ = try record.apply(.takeOver)
        #expect(throws: HandoffError.notCaughtUp(wanted: Epoch(2), needed: nil)) {
            try record.apply(.caughtUp(wanted: Epoch(2), sequence: SequenceNumber(100)))
        }
        let grant = Grant(heir: Reign(sydney, Epoch(2)), finalSequence: SequenceNumber(9))
        _ = try record.apply(.sealGranted(by: london, after: .first, grant: grant))
        #expect(throws: HandoffError.notCaughtUp(wanted: Epoch(2), needed: SequenceNumber(9))) {
            try record.apply(.caughtUp(wanted: Epoch(2), sequence: SequenceNumber(8)))
        }
        #expect(!record.mayWrite(under: Epoch(2)))
        _ = try record.apply(.caughtUp(wanted: Epoch(2), sequence: SequenceNumber(9)))
        #expect(record.mayWrite(under: Epoch(2)))
    }

    @Test func declinedEpochIsNeverUsedByAnybody() throws {
        var (source, target) = (owner(), try follower())
        let request = try #require(try target.apply(.takeOver).first?.message(from: sydney)?.event)
        _ = try source.apply(request)
        let heir = Reign(sydney, Epoch(2))
        let answers = try source.apply(.tailRead(heir: heir, finalSequence: .zero))
        let grant = try #require(answers.first?.message(from: london)?.event)
        let word = try #require(try target.apply(.abort).first?.message(from: sydney)?.event)
        // The grant was under way: it comes to nothing.
        #expect(try target.apply(grant) == [.tellDeclined(Epoch(2), to: london)])
        _ = try source.apply(word)
        #expect(source.role == .owning(Epoch(3), holder: nil))
        // So does the old request, should it come again.
        #expect(throws: HandoffError.sealRefused(.reigning(Reign(london, Epoch(3))))) {
            try source.apply(request)
        }
        _ = try target.apply(.takeOver)
        #expect(target.role == .acquiring(from: Reign(london, .first), wanted: Epoch(3)))
        _ = try target.apply(.sealRefused(by: london, wanted: Epoch(3), .reigning(Reign(london, Epoch(3)))))
        #expect(target.role == .acquiring(from: Reign(london, Epoch(3)), wanted: Epoch(4)))
    }

    @Test func declineBeforeTheRequestSpendsTheEpoch() throws {
        var (source, target) = (owner(), try follower(at: tokyo))
        _ = try source.apply(.declined(by: sydney, wanted: Epoch(2)))
        #expect(source.role == .owning(.first, holder: nil))
        #expect(throws: HandoffError.sealRefused(.spent(through: Epoch(2)))) {
            try source.apply(.sealRequested(by: sydney, after: .first, wanted: Epoch(2)))
        }
        // Another site that hears so asks above it.
        _ = try target.apply(.takeOver)
        let again = try target.apply(.sealRefused(by: london, wanted: Epoch(2), .spent(through: Epoch(2))))
        #expect(again == [.requestSeal(of: Reign(london, .first), wanted: Epoch(3))])
        #expect(try source.apply(try #require(again.first?.message(from: tokyo)?.event)).count == 2)
    }

    @Test func sourceTakesTheHeadBackOnlyWithTheTargetsWord() throws {
        var (source, target) = (owner(), try follower())
        try handOverUpToGrant(&source, &target)
        let question = try #require(try source.apply(.takeOver).first?.message(from: london)?.event)
        #expect(!source.mayWrite(under: .first))
        // The target has begun in the meantime: it stays so, and the source asks for it the ordinary way.
        _ = try target.apply(.caughtUp(wanted: Epoch(2), sequence: SequenceNumber(5)))
        let answer = try #require(try target.apply(question).first?.message(from: sydney)?.event)
        #expect(answer == .ownerAnnounced(Reign(sydney, Epoch(2))))
        _ = try source.apply(answer)
        #expect(source.role == .acquiring(from: Reign(sydney, Epoch(2)), wanted: Epoch(3)))
    }

    private func handOverUpToGrant(_ source: inout HeadRecord, _ target: inout HeadRecord) throws {
        let request = try #require(try target.apply(.takeOver).first?.message(from: target.site)?.event)
        _ = try source.apply(request)
        guard case .sealing(_, let heir) = source.role else { Issue.record("no seal"); return }
        let answers = try source.apply(.tailRead(heir: heir, finalSequence: SequenceNumber(5)))
        _ = try target.apply(try #require(answers.first?.message(from: source.site)?.event))
    }

    @Test func roundTripBeforeTheBytesArrivedKeepsEveryCopyThatIsNeeded() throws {
        var (first, second) = (owner(), try follower())
        try handOver(&first, &second, at: 5)
        try handOver(&second, &first, at: 9)
        // London owns it again and still keeps for sydney what sydney keeps for london.
        #expect(first.mayWrite(under: Epoch(3)) && first.origin?.site == sydney)
        #expect(first.retentions.map(\.grant.heir) == [Reign(sydney, Epoch(2))])
        #expect(second.source(ofHead: Epoch(2))?.site == london)
        #expect(second.retentions.map(\.grant.heir) == [Reign(london, Epoch(3))])
        // Once london lacks nothing, sydney needs nothing either.
        let request = try #require(
            try first.apply(.flattened(reign: Epoch(3))).first?.message(from: london)?.event)
        let actions = try second.apply(request)
        #expect(actions.contains(.requestRelease(of: london, reign: Epoch(2))))
        #expect(second.mayDiscard)
        _ = try first.apply(.releaseRequested(heir: Reign(sydney, Epoch(2))))
        #expect(first.retentions.isEmpty)
    }

    /// Simulated: london's question came after sydney had passed the head on to tokyo, and a false answer made
    /// london the second owner.
    @Test func siteThatPassedTheHeadOnNeverSaysThatItDeclined() throws {
        var (first, second) = (owner(), try follower())
        try handOverUpToGrant(&first, &second)
        _ = try second.apply(.caughtUp(wanted: Epoch(2), sequence: SequenceNumber(5)))
        // Its announcement is lost.
        var third = try HeadRecord(followerAt: tokyo, of: Reign(sydney, Epoch(2)))
        try handOver(&second, &third, at: 6)
        let question = try #require(try first.apply(.takeOver).first?.message(from: london)?.event)
        let answer = try #require(try second.apply(question).first?.message(from: sydney)?.event)
        #expect(answer == .ownerAnnounced(Reign(tokyo, Epoch(3))))
        _ = try first.apply(answer)
        #expect(first.role == .acquiring(from: Reign(tokyo, Epoch(3)), wanted: Epoch(4)))
        // The same for a repeated grant, and what it keeps for sydney is not forgotten.
        let grant = Grant(heir: Reign(sydney, Epoch(2)), finalSequence: SequenceNumber(5))
        let word = try second.apply(.sealGranted(by: london, after: .first, grant: grant))
        #expect(word == [.announce(Reign(tokyo, Epoch(3)), to: london)])
        #expect(first.retentions.map(\.grant) == [grant])
    }

    /// Simulated: sydney released london on its return, while tokyo's bytes still came through sydney.
    @Test func ownerAgainKeepsTheSourcesOfItsEarlierState() throws {
        var (first, second) = (owner(), try follower())
        try handOver(&first, &second, at: 5)
        var third = try HeadRecord(followerAt: tokyo, of: Reign(sydney, Epoch(2)))
        try handOver(&second, &third, at: 6)
        try handOver(&third, &second, at: 7)
        #expect(second.sources.map(\.site) == [london, tokyo])
        #expect(second.sources.allSatisfy { $0.phase == .fetching })
        #expect(second.isKeepingBytes(for: Reign(tokyo, Epoch(3))))
    }

    @Test func longChainKeepsItsMiddle() throws {
        var (first, second) = (owner(), try follower())
        try handOver(&first, &second, at: 5)
        var third = try HeadRecord(followerAt: tokyo, of: Reign(sydney, Epoch(2)))
        try handOver(&second, &third, at: 9)
        // Sydney has passed it on, still lacks bytes of london's, and goes on fetching them.
        #expect(second.source(ofHead: Epoch(2))?.site == london && !second.mayDiscard)
        let release = try second.apply(.flattened(reign: Epoch(2)))
        #expect(release == [.requestRelease(of: london, reign: Epoch(2))])
        #expect(!second.mayDiscard && third.origin?.site == sydney)
    }

    @Test func ownerThatHearsOfALaterReignByForceFencesItself() throws {
        var record = owner()
        let later = Epoch(1 << 41)
        let actions = try record.apply(.ownerAnnounced(Reign(sydney, later)))
        #expect(actions == [.stopServing(.first), .keepDivergence(under: .first)])
        #expect(!record.mayWrite(under: .first))
        #expect(throws: HandoffError.overruled(under: .first, by: later)) { try record.apply(.takeOver) }
        _ = try record.apply(.divergenceKept(under: .first))
        #expect(record.role == .retired(Reign(sydney, later)))
    }

    @Test func ownerWhoseRecordIsFromABackupFencesItself() throws {
        var record = owner()
        let later = Epoch(1 << 41)
        _ = try record.apply(.sealRequested(by: sydney, after: later, wanted: later.next))
        #expect(record.role == .fenced(.first, by: later, owner: nil))
        // Who overruled it is not known yet: its state stays until it is.
        #expect(throws: HandoffError.overruled(under: .first, by: later)) {
            try record.apply(.divergenceKept(under: .first))
        }
        #expect(try record.apply(.declineRequested(reign: Reign(sydney, Epoch(3)), wanted: Epoch(4))).isEmpty)
        let again = try record.apply(.ownerAnnounced(Reign(tokyo, later)))
        #expect(again == [.keepDivergence(under: .first)])
    }

    @Test func lateOwnerIsToldOfThePresentOne() throws {
        var record = try follower()
        try handOverToNew(&record)
        let word = try record.apply(.ownerAnnounced(Reign(london, .first)))
        #expect(word == [.announce(Reign(sydney, Epoch(2)), to: london)])
    }

    private func handOverToNew(_ target: inout HeadRecord) throws {
        var source = owner()
        try handOver(&source, &target, at: 1)
    }

    @Test func epochsThatCannotBeAreRefused() throws {
        for epoch in [Epoch(0), Epoch(.max), Epoch.highest.next] {
            var record = owner()
            #expect(throws: HandoffError.self) { try record.apply(.ownerAnnounced(Reign(sydney, epoch))) }
            #expect(throws: HandoffError.self) {
                try record.apply(.sealRequested(by: sydney, after: .first, wanted: epoch))
            }
            #expect(throws: HandoffError.self) { try record.apply(.declined(by: sydney, wanted: epoch)) }
            #expect(record == owner())
        }
        // The last of them can be used, and then no other.
        var record = owner()
        _ = try record.apply(.declined(by: sydney, wanted: .highest))
        #expect(throws: HandoffError.self) {
            _ = try record.apply(.attach(Holder(node: "n1", pod: nil)))
            _ = try record.apply(.evict(node: "n1"))
        }
    }

    @Test func messagesInThisSitesNameAreRefused() throws {
        var record = owner()
        #expect(throws: HandoffError.self) {
            try record.apply(.sealRequested(by: london, after: .first, wanted: Epoch(2)))
        }
        #expect(throws: HandoffError.self) { try record.apply(.declined(by: london, wanted: Epoch(2))) }
    }

    @Test func dependenciesAreBounded() throws {
        let sources = (1...64).map { Source(site: sydney, reign: Epoch($0 + 1), phase: .fetching) }
        let retentions = (1...64).map {
            Retention(
                grant: Grant(heir: Reign(sydney, Epoch($0 + 1)), finalSequence: .zero), headReign: .first)
        }
        var full = HeadRecord(
            site: london, role: .owning(Epoch(99), holder: nil), spent: Epoch(99), headReign: Epoch(90),
            sources: sources, retentions: retentions)
        #expect(throws: HandoffError.sealRefused(.tooManyRetentions(limit: 64))) {
            try full.apply(.sealRequested(by: sydney, after: Epoch(99), wanted: Epoch(100)))
        }
        var follower = HeadRecord(
            site: london, role: .retired(Reign(sydney, Epoch(99))), spent: Epoch(99), headReign: Epoch(90),
            sources: sources, retentions: retentions)
        #expect(throws: HandoffError.self) { try follower.apply(.takeOver) }
    }

    @Test func releaseOfWhatIsStillNeededIsRefused() throws {
        var (source, target) = (owner(), try follower())
        try handOver(&source, &target, at: 5)
        #expect(throws: HandoffError.self) { try target.apply(.released(by: london, reign: Epoch(2))) }
        #expect(target.origin?.site == london)
    }
}
