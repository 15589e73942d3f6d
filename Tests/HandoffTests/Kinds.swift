import VolumeModel

@testable import Handoff

/// The cases of `Role`, without what is in them.
enum RoleKind: Int, CaseIterable {
    case following, acquiring, receiving, declining, owning, sealing, sealed, reclaiming, retired, fenced

    init(_ role: Role) {
        self =
            switch role {
            case .following: .following
            case .acquiring: .acquiring
            case .receiving: .receiving
            case .declining: .declining
            case .owning: .owning
            case .sealing: .sealing
            case .sealed: .sealed
            case .reclaiming: .reclaiming
            case .retired: .retired
            case .fenced: .fenced
            }
    }
}

/// The cases of `Event`, without what is in them.
enum EventKind: Int, CaseIterable {
    case prepare, takeOver, overrule, abort, leave, forgetDivergence, attach, admit, unmounted, detach, evict
    case tailRead, caughtUp, flattened, divergenceKept
    case sealRequested, sealGranted, sealRefused, declineRequested, declined, ownerAnnounced
    case reignTold
    case claimed, claimAnswered, releaseRequested, released

    init(_ event: Event) {
        self =
            switch event {
            case .prepare: .prepare
            case .takeOver: .takeOver
            case .overrule: .overrule
            case .abort: .abort
            case .leave: .leave
            case .forgetDivergence: .forgetDivergence
            case .attach: .attach
            case .admit: .admit
            case .unmounted: .unmounted
            case .detach: .detach
            case .evict: .evict
            case .tailRead: .tailRead
            case .caughtUp: .caughtUp
            case .flattened: .flattened
            case .divergenceKept: .divergenceKept
            case .sealRequested: .sealRequested
            case .sealGranted: .sealGranted
            case .sealRefused: .sealRefused
            case .declineRequested: .declineRequested
            case .declined: .declined
            case .ownerAnnounced: .ownerAnnounced
            case .reignTold: .reignTold
            case .claimed: .claimed
            case .claimAnswered: .claimAnswered
            case .releaseRequested: .releaseRequested
            case .released: .released
            }
    }
}

/// How often each event made what of which role.
struct Coverage {
    private static let roleCount = RoleKind.allCases.count
    private var counts = Array(repeating: 0, count: roleCount * EventKind.allCases.count * roleCount)
    /// Records that a disk refused.
    var refusalCount = 0

    mutating func count(_ role: Role, _ event: Event, next: Role) {
        counts[Self.index(RoleKind(role), EventKind(event), RoleKind(next))] += 1
    }

    func transitions(_ from: RoleKind, _ event: EventKind, _ to: RoleKind) -> Int {
        counts[Self.index(from, event, to)]
    }

    func meetings(_ role: RoleKind, _ event: EventKind) -> Int {
        RoleKind.allCases.reduce(0) { $0 + transitions(role, event, $1) }
    }

    func steps(_ from: RoleKind, _ to: RoleKind) -> Int {
        EventKind.allCases.reduce(0) { $0 + transitions(from, $1, to) }
    }

    /// How often each role became each other one: a row for each it was.
    var table: String {
        let names = RoleKind.allCases.map { "\($0)" }
        func row(_ cells: [String]) -> String {
            cells.map { String(repeating: " ", count: max(0, 11 - $0.count)) + $0 }.joined()
        }
        let rows = RoleKind.allCases.map { from in
            row(["\(from)"] + RoleKind.allCases.map { from == $0 ? "-" : "\(steps(from, $0))" })
        }
        return ([row([""] + names)] + rows).joined(separator: "\n")
    }

    private static func index(_ role: RoleKind, _ event: EventKind, _ next: RoleKind) -> Int {
        (role.rawValue * EventKind.allCases.count + event.rawValue) * roleCount + next.rawValue
    }

    static func += (left: inout Coverage, right: Coverage) {
        for index in left.counts.indices { left.counts[index] += right.counts[index] }
        left.refusalCount += right.refusalCount
    }
}

extension HeadRecord {
    /// Whether a mount may be opened under this epoch to write.
    func mayWrite(under epoch: Epoch) -> Bool {
        if case .owning(epoch, _) = role { readers.isEmpty } else { false }
    }
}
