import Foundation
import Testing
import VolumeModel

@testable import Handoff

let london = SiteID("london")!
let sydney = SiteID("sydney")!
let tokyo = SiteID("tokyo")!

/// Every event in every role, as london sees it. Where another site owns the head, it is sydney at epoch 4,
/// and london wants 5; where london owns it, it does so at epoch 4, and the heir is sydney at 5.
@Suite struct HandoffTableTests {
    static let theirs = Reign(sydney, Epoch(4))
    static let heir = Reign(sydney, Epoch(5))
    static let given = Grant(heir: heir, finalSequence: SequenceNumber(9))
    static let taken = Grant(heir: Reign(london, Epoch(5)), finalSequence: SequenceNumber(9))

    static func record(_ kind: RoleKind) -> HeadRecord {
        let (role, spent): (Role, UInt64) =
            switch kind {
            case .following: (.following(theirs), 4)
            case .acquiring: (.acquiring(from: theirs, wanted: Epoch(5)), 4)
            case .receiving: (.receiving(from: theirs, grant: taken), 4)
            case .declining: (.declining(from: theirs, declined: Epoch(5)), 5)
            case .owning: (.owning(Epoch(4), holder: nil), 4)
            case .sealing: (.sealing(Epoch(4), heir: heir), 5)
            case .sealed: (.sealed(Epoch(4), grant: given), 5)
            case .reclaiming: (.reclaiming(Epoch(4), grant: given), 5)
            case .retired: (.retired(theirs), 4)
            case .fenced: (.fenced(Epoch(2), by: Epoch(4), owner: sydney), 4)
            }
        return HeadRecord(site: london, role: role, spent: Epoch(spent), headReign: .first)
    }

    static func event(_ kind: EventKind) -> Event {
        switch kind {
        case .prepare: .prepare(theirs)
        case .takeOver: .takeOver
        case .overrule:
            .overrule(
                Epoch(4), wanted: Epoch(1 << 40 + 7), base: .followed(through: SequenceNumber(9)))
        case .abort: .abort
        case .leave: .leave
        case .forgetDivergence: .forgetDivergence(Epoch(2))
        case .attach: .attach(Holder(node: "n1", pod: nil))
        case .admit: .admit(Reader(member: london, node: "n1"))
        case .unmounted: .unmounted(node: "n1")
        case .detach: .detach(node: "n1")
        case .evict: .evict(node: "n1")
        case .tailRead: .tailRead(heir: heir, finalSequence: SequenceNumber(9))
        case .caughtUp: .caughtUp(wanted: Epoch(5), sequence: SequenceNumber(9))
        case .flattened: .flattened(reign: Epoch(4))
        case .divergenceKept: .divergenceKept(under: Epoch(2))
        case .sealRequested: .sealRequested(by: sydney, after: Epoch(4), wanted: Epoch(5))
        case .sealGranted: .sealGranted(by: sydney, after: Epoch(4), grant: taken)
        case .sealRefused: .sealRefused(by: sydney, wanted: Epoch(5), .reigning(Reign(tokyo, Epoch(5))))
        case .declineRequested: .declineRequested(reign: theirs, wanted: Epoch(5))
        case .declined: .declined(by: sydney, wanted: Epoch(5))
        case .ownerAnnounced: .ownerAnnounced(heir)
        case .reignTold: .reignTold(KnownReign(heir, handover: heir.epoch))
        case .claimed:
            .claimed(heir: Reign(tokyo, Epoch(1 << 40 + 9)), after: Epoch(4), through: SequenceNumber(3))
        case .claimAnswered: .claimAnswered(by: sydney, reign: Epoch(4), isKept: true)
        case .releaseRequested: .releaseRequested(heir: heir)
        case .released: .released(by: sydney, reign: Epoch(4))
        }
    }

    static func outcome(_ kind: RoleKind, _ event: EventKind) -> String {
        let before = record(kind)
        var after = before
        do {
            _ = try after.apply(Self.event(event))
        } catch {
            return switch error {
            case .sealRefused: "!refused"
            case .inUse: "!inUse"
            case .notOwner: "!owner"
            case .promised: "!heir"
            case .overruled: "!fenced"
            case .needed: "!needed"
            case .notReigning: "!reign"
            case .nothingToBeginWith: "!nothing"
            case .notCaughtUp: "!behind"
            case .contradiction: "!conflict"
            case .implausible: "!implausible"
            case .unreadableRecord: "!unreadable"
            }
        }
        if after == before { return "." }
        let next = RoleKind(after.role)
        return next == kind ? "+" : "\(next)"
    }

    @Test func eachEventDoesToEachRoleWhatTheTableSays() throws {
        let rows = handoffTable.split(separator: "\n").map { $0.split(separator: " ").map(String.init) }
        #expect(rows.count == EventKind.allCases.count + 1)
        #expect(rows[0].dropFirst().map { $0 } == RoleKind.allCases.map { "\($0)" })
        for (event, row) in zip(EventKind.allCases, rows.dropFirst()) {
            #expect(row[0] == "\(event)")
            for (role, expected) in zip(RoleKind.allCases, row.dropFirst()) {
                #expect(Self.outcome(role, event) == expected, "\(event) while \(role)")
            }
        }
    }

    @Test func eachEventTwiceIsAsOnceAndKeepsTheRecordValid() throws {
        for role in RoleKind.allCases {
            for event in EventKind.allCases {
                var once = Self.record(role)
                _ = try? once.apply(Self.event(event))
                try once.validate()
                #expect(try stored(once) == once)
                var twice = once
                _ = try? twice.apply(Self.event(event))
                #expect(twice == once, "\(event) twice while \(role)")
            }
        }
    }

    @Test func onlyTheOwnerMayWriteAndOnlyUnderItsEpoch() {
        for kind in RoleKind.allCases {
            for epoch: UInt64 in 1...7 {
                let may = Self.record(kind).mayWrite(under: Epoch(epoch))
                #expect(may == (kind == .owning && epoch == 4))
            }
        }
    }

    /// What a restart asks for leads on from where the record stands.
    @Test func everyRoleUnderWayHasSomethingToDoAfterARestart() {
        let idle: Set<RoleKind> = [.following]
        for kind in RoleKind.allCases {
            #expect(Self.record(kind).actionsAfterRestart().isEmpty == idle.contains(kind), "\(kind)")
        }
    }

    private func stored(_ record: HeadRecord) throws -> HeadRecord {
        try JSONDecoder().decode(HeadRecord.self, from: JSONEncoder().encode(record))
    }
}

/// What each event (a row) makes of each role (a column): the next role, `.` for no change at all,
/// `+` for the same role with something changed in it, or why it is refused.
private let handoffTable = """
    event            following acquiring receiving declining owning    sealing   sealed     reclaiming retired   fenced
    prepare          .         .         .         following !conflict !conflict !conflict  !conflict  following !fenced
    takeOver         acquiring .         .         acquiring .         owning    reclaiming .          acquiring !fenced
    overrule         owning    owning    owning    owning    !needed   !needed   !reign     !reign     owning    !fenced
    abort            .         declining declining .         .         .         .          sealed     .         .
    leave            retired   !needed   !needed   !needed   !needed   !needed   !needed    !needed    .         !needed
    forgetDivergence .         .         .         .         .         .         .          .          .         .
    attach           !owner    !owner    !owner    !owner    +         !heir     !heir      !heir      !owner    !fenced
    admit            !owner    !owner    !owner    !owner    +         !heir     !heir      !heir      !owner    !fenced
    unmounted        .         .         .         .         .         .         .          .          .         .
    detach           .         .         .         .         .         .         .          .          .         .
    evict            .         .         .         .         .         .         .          .          .         .
    tailRead         .         .         .         .         .         sealed    .          .          .         .
    caughtUp         .         !behind   owning    .         .         .         .          .          .         .
    flattened        .         .         .         .         .         .         .          .          .         .
    divergenceKept   .         .         .         .         .         .         .          .          .         retired
    sealRequested    !refused  !refused  !refused  !refused  sealing   .         .          .          !refused  !refused
    sealGranted      +         receiving .         .         !conflict !conflict .          .          +         +
    sealRefused      +         +         !conflict following !conflict !conflict .          .          +         +
    declineRequested +         following following .         !conflict !conflict .          .          +         +
    declined         .         .         .         .         +         owning    owning     owning     .         .
    ownerAnnounced   +         +         !conflict following !conflict !conflict retired    acquiring  +         +
    reignTold        .         .         .         .         fenced    fenced    .          .          .         .
    claimed          +         +         acquiring following fenced    fenced    retired    acquiring  +         +
    claimAnswered    .         .         .         .         .         .         .          .          .         .
    releaseRequested .         .         .         .         .         !conflict retired    acquiring  .         .
    released         .         .         .         .         .         .         .          .          .         .
    """
