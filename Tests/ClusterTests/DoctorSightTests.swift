import ClusterResources
import Foundation
import KubernetesAPI
import SiteIdentity
import Testing
import VolumeModel

@testable import kubectl_godwit

/// A member that has told that all is well.
private func member(
    _ node: String, _ change: (inout MemberReport) -> Void = { _ in }
) -> MemberResource {
    var report = MemberReport()
    report.updated = now.ISO8601Format()
    report.clockSeconds = 0
    report.certificateExpires = (now + 60 * day).ISO8601Format()
    report.peers = []
    report.troubles = []
    change(&report)
    var member = MemberResource(
        node: node, spec: .init(site: "london", id: "\(node).london", address: nil, release: "1.0.0"))
    member.status = report
    return member
}

private func peer(_ site: String, _ change: (inout MemberReport.Peer) -> Void = { _ in }) -> MemberReport.Peer
{
    var peer = MemberReport.Peer(site: site)
    peer.release = "1.0.0"
    peer.clockSeconds = 0
    peer.expires = (now + 3650 * day).ISO8601Format()
    change(&peer)
    return peer
}

private let day: TimeInterval = 86_400
private let now = Date(timeIntervalSince1970: 1_800_000_000)

/// The words of all findings but the good ones, with their marks.
private func bad(_ findings: [Finding]) -> [String] {
    findings.filter { $0.outcome != .good }.map { "\($0.outcome.rawValue) \($0.text)" }
}

@Suite struct ClockDifferenceTests {
    private static let date = "Sun, 06 Nov 1994 08:49:37 GMT"
    private static let moment = Date(timeIntervalSince1970: 784_111_777)

    private static func told(_ difference: ClockDifference) -> Int64 {
        MemberReport.clockSeconds(difference.seconds, tolerance: difference.tolerance, told: nil)
    }

    @Test func aClockThatIsRightOrWrongIsToldFromTheServersDate() throws {
        for (offset, seconds) in [(0.2, 0), (0.9, 0), (42.5, 42), (-42.5, -43), (4000, 4000)]
            as [(Double, Int64)]
        {
            let asked = Self.moment + offset
            let found = try #require(
                ClockDifference(date: Self.date, asked: asked, answered: asked + 0.01))
            #expect(Self.told(found) == seconds, "\(offset)")
            #expect(abs(found.serverTime(at: asked).timeIntervalSince(Self.moment)) <= 0.6)
        }
        // An answer that took long tells less.
        let slow = try #require(
            ClockDifference(date: Self.date, asked: Self.moment + 2, answered: Self.moment + 8))
        #expect(Self.told(slow) == 5 && slow.tolerance > 3)
    }

    @Test func whatIsNoDateTellsNothing() {
        for text in ["", "yesterday", Self.date + "x", "Sun, 06 Nov 1994 08:49:37 CET"] {
            #expect(ClockDifference(date: text, asked: Self.moment, answered: Self.moment) == nil, "\(text)")
        }
        let late = ClockDifference(date: Self.date, asked: Self.moment, answered: Self.moment + 60)
        #expect(late == nil)
    }
}

@Suite struct MemberReportTests {
    @Test func aReportIsOfBoundedSize() {
        let trouble = MemberReport.Trouble(
            .deadMount, (0..<1000).map { "\($0) " + String(repeating: "é", count: 1000) })
        #expect(trouble.count == 1000 && trouble.first.count == 5)
        #expect(trouble.first.allSatisfy { $0.unicodeScalars.count == 300 && $0.hasSuffix("…") })
        var peers = (0..<100).map { number in peer("site-\(number)") }
        peers[99].trouble = "it is away"
        peers[98].expires = now.ISO8601Format()
        let told = MemberReport.bounded(peers)
        #expect(told.count == 64)
        #expect(Set(["site-98", "site-99"]).isSubset(of: told.map(\.site)))
    }

    /// As the API server counts, which sees several where people see one.
    @Test func whatOtherSitesSayIsCutByUnicodeScalars() {
        let release = "1" + String(repeating: "\u{301}", count: 1000)
        #expect(release.count == 1)
        let told = MemberReport.bounded(release, to: MemberReport.releaseLimit)
        #expect(told.unicodeScalars.count == 64 && told.hasSuffix("…"))
        #expect(MemberReport.bounded("1.0.0", to: MemberReport.releaseLimit) == "1.0.0")
    }

    @Test func whatTellsNothingNewIsNotWrittenForAnHour() throws {
        let known = try #require(member("a") { $0.peers = [peer("sydney")] }.status)
        for (isNew, change) in [
            (false, { _ in }), (false, { $0.updated = nil }), (true, { $0.clockSeconds = 2 }),
            (true, { $0.clockSeconds = nil }), (true, { $0.peers?[0].clockSeconds = -2 }),
            (true, { $0.peers = [] }), (true, { $0.peers?[0].trouble = "it is away" }),
            (true, { $0.certificateExpires = nil }), (true, { $0.troubles = nil }),
            (true, { $0.troubles = [.init(.lostMount, ["/mnt"])] }),
        ] as [(Bool, (inout MemberReport) -> Void)] {
            var other = known
            change(&other)
            #expect(other.isDue(.seconds(0), after: known) == isNew, "\(other)")
            #expect(other.isDue(.seconds(3599), after: known) == isNew, "\(other)")
            #expect(other.isDue(.seconds(3600), after: known), "\(other)")
        }
    }

    /// Of a peer that is down, each attempt may fail in another way.
    @Test func otherWordsForTheSameTroubleAreWrittenEveryTenMinutes() throws {
        func report(_ peers: String?, _ keys: String?) throws -> MemberReport {
            let told = member("a") {
                $0.keysTrouble = keys
                $0.peers = [peer("sydney") { $0.trouble = peers }]
            }
            return try #require(told.status)
        }
        let known = try report("connection refused", "it is not there")
        for other in [
            try report("deadline exceeded", "it is not there"),
            try report("connection refused", "it is cut off"),
        ] {
            #expect(!other.isDue(.seconds(599), after: known) && other.isDue(.seconds(600), after: known))
        }
        for other in [
            try report(nil, "it is not there"), try report("connection refused", nil), try report(nil, nil),
        ] {
            #expect(other.isDue(.seconds(0), after: known) && known.isDue(.seconds(0), after: other))
        }
    }

    @Test func readingsOfTheSameClocksTellTheSame() {
        func told(_ seconds: Double, _ tolerance: Double, after told: Int64? = nil) -> Int64 {
            MemberReport.clockSeconds(seconds, tolerance: tolerance, told: told)
        }
        #expect(told(42.4, 0.1) == 42 && told(-42.6, 0.1) == -43)
        // Answers that took long, of a clock that is 42 s ahead.
        for (seconds, tolerance) in [(39.6, 2.5), (44.4, 2.5), (41.0, 1.0), (43.3, 0.01)] {
            #expect(told(seconds, tolerance, after: 42) == 42, "\(seconds)")
        }
        #expect(told(39.6, 0.1, after: 42) == 40)
        // One that may be right is told to be.
        #expect(told(2.4, 2.5) == 0 && told(2.4, 0.1) == 2)
        for extreme in [Int64.min, .max] {
            #expect(told(Double(extreme), 0) == extreme)
            #expect(told(0, 0.5, after: extreme) == 0)
        }
    }
}

@Suite struct TrustSightTests {
    private static func authority(_ site: String, endsIn days: Double) throws -> SiteIdentity.Peer {
        // Twenty years after it was made.
        let made = now + (days - 20 * 365) * day
        let pem = try SiteAuthority(of: try #require(SiteID(site)), now: made).pem
        let authority = try KeptTrust.authority(in: pem, from: "here")
        #expect(abs(authority.expiry.timeIntervalSince(now + days * day)) < 2)
        return authority
    }

    /// Two members, and all they have in common.
    private static func sight(
        london: Double = 3650, sydney: Double = 3650, _ change: (inout MemberReport) -> Void = { _ in }
    ) throws -> TrustSight {
        let keys = try authority("london", endsIn: london)
        let other = try authority("sydney", endsIn: sydney)
        var sight = TrustSight(namespace: "godwit", now: now, members: [])
        sight.keys = .present(keys)
        sight.documents = [.init(name: "sydney.trust", peer: other)]
        sight.members = [
            member("a") {
                $0.authority = keys.fingerprint
                $0.peers = [peer("sydney")]
            },
            member("b") {
                $0.authority = keys.fingerprint
                $0.peers = [peer("sydney")]
                change(&$0)
            },
        ]
        return sight
    }

    @Test func whatIsGoodForYearsIsWell() throws {
        let findings = try Self.sight().findings()
        #expect(bad(findings) == [])
        let texts = findings.map(\.text)
        #expect(texts.contains { $0.contains("the keys of site london, is there, until 2037") }, "\(texts)")
        #expect(texts.contains { $0.hasPrefix("certificates of 2 members: until 2027") }, "\(texts)")
        #expect(texts.contains { $0.hasSuffix("and answers 2 members") }, "\(texts)")
    }

    @Test func whatEndsSoonAndWhatHasEndedIsTold() throws {
        let soon = bad(try Self.sight(london: 40, sydney: 10).findings())
        #expect(soon.count == 2, "\(soon)")
        #expect(soon[0].hasPrefix("warning secret godwit/godwit-site, the keys of site london: expires in "))
        #expect(soon[1].hasPrefix("warning trust in site sydney: expires in "))
        let late = bad(try Self.sight(london: -1, sydney: -1).findings())
        #expect(
            late.count == 2 && late.allSatisfy { $0.hasPrefix("broken ") && $0.contains(": expired on ") })
    }

    @Test func aMembersCertificateThatIsNotRenewedIsTold() throws {
        func told(_ days: Double) throws -> [String] {
            bad(try Self.sight { $0.certificateExpires = (now + days * day).ISO8601Format() }.findings())
        }
        #expect(try told(30).isEmpty)
        // A third of its life is 30 days: it is late by more than a day.
        #expect(try told(28).map { $0.hasPrefix("warning member b.london: its certificate ends") } == [true])
        #expect(
            try told(-1).map { $0.hasPrefix("broken member b.london: its certificate has expired") } == [true]
        )
    }

    @Test func namesAndKeysThatDoNotMatchAreTold() throws {
        var sight = try Self.sight { $0.authority = "0123" }
        sight.members[0].spec.site = "paris"
        let found = bad(sight.findings())
        #expect(
            found.contains("broken member a.london is of site paris, and the keys are of site london"),
            "\(found)")
        #expect(
            found.contains(
                "warning member b.london uses other keys than those in secret godwit/godwit-site"), "\(found)"
        )
        let refused = bad(try Self.sight { $0.keysTrouble = "these are the keys of site paris" }.findings())
        #expect(
            refused == ["broken member b.london cannot take up its keys: these are the keys of site paris"])
        // What is kept under another name.
        let document = try SiteAuthority(of: try #require(SiteID("tokyo"))).trustDocument(address: nil)
        #expect(throws: IdentityError.self) { try KeptTrust.peer(document, keptAs: "sydney.trust") }
        #expect(try KeptTrust.peer(document, keptAs: "tokyo.trust").site.description == "tokyo")
        var damaged = try Self.sight()
        damaged.documents?.append(.init(name: "tokyo.trust", trouble: "a trust document that was cut off"))
        #expect(
            bad(damaged.findings()) == [
                "broken secret godwit/godwit-peers, 'tokyo.trust': a trust document that was cut off"
            ])
    }

    @Test func aSiteThatDoesNotAnswerOrIsNotTakenUpIsTold() throws {
        let away: (inout MemberReport) -> Void = { $0.peers?[0].trouble = "it does not answer: refused" }
        #expect(
            bad(try Self.sight(away).findings()) == [
                "warning site sydney, as seen from b.london: it does not answer: refused"
            ])
        var sight = try Self.sight(away)
        sight.members[0].status?.peers?[0].trouble = "it does not answer: refused"
        #expect(
            bad(sight.findings()) == [
                "broken site sydney, as seen from a.london and 1 more: it does not answer: refused"
            ])
        #expect(
            bad(try Self.sight { $0.peers = [] }.findings()) == [
                "warning member b.london does not trust sydney yet"
            ])
    }

    @Test func withoutKeysNoMemberStartsAndWhoMayNotLookIsToldOfTheRest() throws {
        var sight = try Self.sight()
        sight.keys = .missing
        #expect(bad(sight.findings()).map { $0.contains("no member starts") } == [true])
        sight.keys = .unusable("it has no 'authority.pem'")
        #expect(bad(sight.findings()).map { $0.hasPrefix("broken secret godwit/godwit-site") } == [true])
        (sight.keys, sight.documents) = (nil, nil)
        #expect(bad(sight.findings()) == [])
        sight.members[0].status?.peers?[0].expires = (now + 5 * day).ISO8601Format()
        #expect(
            bad(sight.findings()).map { $0.hasPrefix("warning trust in site sydney: expires in 5 days") } == [
                true
            ])
    }
}

@Suite struct ClockSightTests {
    private static func told(_ clocks: [Int64?], peer seconds: Int64? = nil) -> [String] {
        let members = clocks.enumerated().map { index, clock in
            member("n\(index)") {
                $0.clockSeconds = clock
                $0.peers = seconds.map { seconds in [peer("sydney") { $0.clockSeconds = seconds }] }
            }
        }
        return bad(ClockSight(now: now, members: members).findings())
    }

    @Test func clocksThatAgreeAreWell() {
        #expect(Self.told([0, 1, -2, nil], peer: 3) == [])
        let findings = ClockSight(now: now, members: [member("a"), member("b")]).findings()
        #expect(findings.map(\.text) == ["clocks of 2 members are within 1 s of the API server's"])
    }

    @Test func aClockThatIsWrongIsNamedWithHowMuch() {
        #expect(
            Self.told([0, 42, -5]) == [
                "warning the clock of member n2.london is 5 s behind the API server's",
                "warning the clock of member n1.london is 42 s ahead of the API server's",
            ])
        // From an hour on certificates are refused.
        #expect(
            Self.told([3600]) == ["broken the clock of member n0.london is 3600 s ahead of the API server's"])
        #expect(Self.told([-4, 3]) == ["warning the clock of member n1.london is 7 s ahead of n0.london's"])
        #expect(
            Self.told([0], peer: -9) == ["warning the clock of member n0.london is 9 s behind site sydney's"])
    }
}

@Suite struct SilentMemberTests {
    /// Ill in all it tells of, and of a node that is off since.
    private static func ill(_ node: String, toldBefore age: TimeInterval) -> MemberResource {
        member(node) {
            $0.updated = (now - age).ISO8601Format()
            $0.clockSeconds = 4000
            $0.certificateExpires = (now - day).ISO8601Format()
            $0.authority = "0123"
            $0.keysTrouble = "these are the keys of site paris"
            $0.peers = [peer("tokyo") { $0.trouble = "it does not answer" }]
            $0.troubles = [.init(.deadMount, ["pvc-1 at /mnt"])]
        }
    }

    private static func told(_ members: [MemberResource]) throws -> [String] {
        var trust = TrustSight(namespace: "godwit", now: now, members: members)
        let pem = try SiteAuthority(of: try #require(SiteID("london")), now: now).pem
        trust.keys = .present(try KeptTrust.authority(in: pem, from: "here"))
        return bad(
            trust.findings() + ClockSight(now: now, members: members).findings()
                + ReportSight(namespace: "godwit", now: now, members: members).findings())
    }

    @Test func whatAMemberToldLongAgoIsNotJudged() throws {
        #expect(try Self.told([Self.ill("a", toldBefore: 0)]).count > 4)
        #expect(
            try Self.told([Self.ill("a", toldBefore: 90 * day), member("b")]) == [
                "warning member a.london has told nothing of itself for 2161 h 6 min: its certificate, clock and mounts "
                    + "are not judged"
            ])
    }

    @Test func howLongAMemberIsSilentDoesNotDependOnItsClock() {
        func silence(_ clock: Int64, toldBefore age: TimeInterval) -> Double? {
            member("a") {
                // By its own clock.
                $0.updated = (now - age + Double(clock)).ISO8601Format()
                $0.clockSeconds = clock
            }.silence(at: now)
        }
        for clock in [0, 36_000, -36_000] as [Int64] {
            #expect(silence(clock, toldBefore: 60) == 60, "\(clock)")
            #expect(silence(clock, toldBefore: 14_400) == 14_400, "\(clock)")
        }
    }

    @Test func noClockIsSoWrongThatTheDoctorFails() throws {
        for clock in [Int64.min, .max] {
            let members = [
                member("a") {
                    $0.clockSeconds = clock
                    $0.peers = [peer("sydney") { $0.clockSeconds = clock }]
                },
                member("b") { $0.peers = [peer("sydney") { $0.clockSeconds = .min }] },
            ]
            #expect(try !Self.told(members).isEmpty, "\(clock)")
        }
    }
}

@Suite struct ReportSightTests {
    private static func told(_ change: (inout MemberReport) -> Void) -> [String] {
        bad(ReportSight(namespace: "godwit", now: now, members: [member("a", change)]).findings())
    }

    @Test func eachTroubleIsNamedWithWhatToDo() throws {
        #expect(Self.told { _ in } == [])
        for kind in MemberReport.TroubleKind.allCases {
            let sight = ReportSight(
                namespace: "godwit", now: now,
                members: [member("a") { $0.troubles = [.init(kind, (1...7).map { "pvc-\($0) at /mnt" })] }])
            let finding = try #require(sight.findings().first)
            #expect(finding.outcome == (kind == .deadMount || kind == .overruledMount ? .broken : .warning))
            #expect(
                finding.text.hasPrefix("member a.london: ") && finding.text.hasSuffix(", …"), "\(finding)")
            #expect(finding.advice != nil && !finding.text.contains("pvc-6"), "\(finding)")
        }
        // Of a release that knows more.
        let later = #"{"kind": "NewTrouble", "count": 1, "first": ["x"]}"#
        let trouble = try JSONDecoder().decode(MemberReport.Trouble.self, from: Data(later.utf8))
        #expect(Self.told { $0.troubles = [trouble] } == ["warning member a.london: NewTrouble, 1 time: x"])
    }

    @Test func aMemberThatTellsNothingIsNamed() {
        #expect(
            Self.told { $0.updated = (now - 4 * 3600).ISO8601Format() }.map { $0.contains("for 4 h 0 min") }
                == [true])
        #expect(Self.told { $0.updated = (now - 7200).ISO8601Format() } == [])
        var silent = member("a")
        silent.status = nil
        let findings = ReportSight(namespace: "godwit", now: now, members: [silent]).findings()
        #expect(
            bad(findings) == ["warning member a.london has told nothing of its certificate, clock and mounts"]
        )
    }

    @Test func aMemberThatCannotLookAtItsMountsIsNotWell() {
        #expect(
            Self.told { $0.troubles = nil } == [
                "warning member a.london cannot look at its mounts: what is dead there is not named"
            ])
    }

    @Test func aStatusThatCannotBeReadHidesNoMember() throws {
        for status in [#""well""#, #"{"troubles": [{"kind": 1}]}"#, #"{"clockSeconds": "none"}"#] {
            let json = """
                {"metadata": {"name": "a"}, "status": \(status),
                "spec": {"site": "london", "id": "a.london", "release": "9.0.0"}}
                """
            let member = try JSONDecoder().decode(MemberResource.self, from: Data(json.utf8))
            #expect(member.spec.id == "a.london" && member.status == nil)
            #expect(
                bad(ReportSight(namespace: "godwit", now: now, members: [member]).findings()) == [
                    "warning member a.london: what it tells of its certificate, clock and mounts is unreadable"
                ])
        }
        // What is there, and more that this release does not know.
        let later =
            #"{"metadata": {"name": "a"}, "status": {"clockSeconds": 7, "new": []}, "#
            + #""spec": {"site": "london", "id": "a.london", "release": "9.0.0"}}"#
        let member = try JSONDecoder().decode(MemberResource.self, from: Data(later.utf8))
        #expect(member.status?.clockSeconds == 7 && !member.isStatusUnreadable)
    }
}

@Suite struct LeftoverSightTests {
    private static func read<Value: Decodable>(_ json: String) throws -> Value {
        try JSONDecoder().decode(Value.self, from: Data(json.utf8))
    }

    private static func volume(_ name: String, owner: String) throws -> VolumeView {
        try read(
            """
            {"metadata": {"name": "\(name)", "creationTimestamp": "2020-01-01T00:00:00Z"},
            "spec": {"id": "id-\(name)", "summary": {"owner": "\(owner)"}}}
            """)
    }

    private static func persistent(_ name: String) -> PersistentVolume {
        var volume = PersistentVolume(
            metadata: ObjectMeta(name: name),
            spec: .init(
                storage: "1Gi", accessModes: [],
                csi: .init(driver: ClusterNames.driver, volumeHandle: "id-\(name)"),
                claim: .init(namespace: "shop", name: "data"), reclaimPolicy: "Delete", storageClassName: ""))
        volume.metadata.creationTimestamp = "2020-01-01T00:00:00Z"
        return volume
    }

    private static func migration(_ claim: String) -> MigrationResource {
        var migration = MigrationResource(
            metadata: ObjectMeta(name: claim, namespace: "shop"),
            spec: .init(claim: claim, volume: "id-pvc-1", from: "london", to: "sydney"))
        migration.metadata.creationTimestamp = "2020-01-01T00:00:00Z"
        return migration
    }

    private static func sight() throws -> LeftoverSight {
        var sight = LeftoverSight(
            now: now, members: [member("a") { $0.peers = [peer("sydney")] }],
            volumes: [try volume("pvc-1", owner: "a.london"), try volume("pvc-2", owner: "b.sydney")])
        sight.persistent = [persistent("pvc-1"), persistent("pvc-2")]
        sight.claims = [
            PersistentVolumeClaim(
                metadata: ObjectMeta(name: "data", namespace: "shop"),
                spec: .init(accessModes: nil, storage: "1Gi", storageClassName: nil))
        ]
        sight.migrations = [migration("data")]
        return sight
    }

    @Test func whatHasItsCounterpartIsNoFinding() throws {
        let findings = try Self.sight().findings()
        #expect(findings.map(\.outcome) == [.good], "\(findings)")
        // What people make by hand has none.
        var sight = try Self.sight()
        sight.volumes.append(try Self.volume("data", owner: "a.london"))
        #expect(bad(sight.findings()) == [])
    }

    @Test func aVolumeOfAMemberOrASiteThatIsGoneIsNamed() throws {
        var sight = try Self.sight()
        sight.volumes[0] = try Self.volume("pvc-1", owner: "gone.london")
        #expect(
            bad(sight.findings()) == [
                "broken volume pvc-1 is owned by gone.london, and there is no such member any more"
            ])
        // Its data may be whole, at a node that is off.
        let advice = try #require(sight.findings().first { $0.outcome == .broken }?.advice)
        #expect(advice.hasPrefix("start node gone if it is only off: "), "\(advice)")
        sight = try Self.sight()
        sight.members[0].status?.peers = []
        #expect(
            bad(sight.findings()) == [
                "warning volume pvc-2 is owned by site sydney, which is not trusted here: nothing of it arrives"
            ])
        // Before members have told whom they trust nobody knows.
        sight.members[0].status = nil
        #expect(bad(sight.findings()) == [])
    }

    @Test func volumesAndPersistentVolumesWithoutEachOtherAreNamed() throws {
        var sight = try Self.sight()
        sight.persistent?.append(Self.persistent("pvc-3"))
        sight.volumes.append(try Self.volume("pvc-4", owner: "a.london"))
        #expect(
            bad(sight.findings()) == [
                "broken persistent volume pvc-3 is of a volume that the site does not know: its pods wait for ever",
                "warning volume pvc-4 is owned here, and of no persistent volume",
            ])
        // What was made a moment ago is being made.
        sight.persistent?[2].metadata.creationTimestamp = now.ISO8601Format()
        sight.volumes[2].metadata.creationTimestamp = now.ISO8601Format()
        #expect(bad(sight.findings()) == [])
        sight.persistent = nil
        #expect(bad(sight.findings()).map { $0.hasPrefix("unknown persistent volumes: ") } == [true])
    }

    @Test func whatIsBeingDeletedForLongIsNamed() throws {
        var sight = try Self.sight()
        sight.persistent?[0].metadata.deletionTimestamp = "2020-01-01T00:00:00Z"
        // Its claim keeps it.
        #expect(bad(sight.findings()) == [])
        sight.claims = []
        sight.migrations?[0].metadata.deletionTimestamp = "2020-01-01T00:00:00Z"
        #expect(
            bad(sight.findings()).map { $0.prefix(44) } == [
                "warning persistent volume pvc-1 is being del",
                "warning migration shop/data is being deleted",
            ])
        sight.migrations?[0].metadata.deletionTimestamp = now.ISO8601Format()
        sight.persistent?[0].metadata.deletionTimestamp = nil
        #expect(bad(sight.findings()) == [])
        sight.migrations?[0].metadata.deletionTimestamp = nil
        #expect(bad(sight.findings()) == ["warning migration shop/data is of a claim that is gone"])
    }
}

@Suite struct FindingTests {
    @Test func theLastLineCountsWhatWasFound() {
        let good = Finding(.good, "")
        #expect(Finding.summary([good, good]) == "2 checks passed")
        #expect(
            Finding.summary([Finding(.broken, ""), good, Finding(.warning, ""), Finding(.unknown, "")])
                == "1 broken, 1 to be looked after, 1 not to be seen with your rights, 1 check passed")
    }
}
