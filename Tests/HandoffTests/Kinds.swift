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
    case prepare, takeOver, overrule, abort, leave, forgetDivergence, attach, unmounted, detach, evict
    case tailRead, caughtUp, flattened, divergenceKept
    case sealRequested, sealGranted, sealRefused, declineRequested, declined, ownerAnnounced
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
            case .claimed: .claimed
            case .claimAnswered: .claimAnswered
            case .releaseRequested: .releaseRequested
            case .released: .released
            }
    }
}

/// How often each event met each role, and how often it was followed by each.
struct Coverage {
    private var meetings = Array(repeating: 0, count: RoleKind.allCases.count * EventKind.allCases.count)
    private var steps = Array(repeating: 0, count: RoleKind.allCases.count * RoleKind.allCases.count)

    mutating func count(_ role: Role, _ event: Event, next: Role) {
        meetings[Self.index(RoleKind(role), EventKind(event))] += 1
        steps[RoleKind(role).rawValue * RoleKind.allCases.count + RoleKind(next).rawValue] += 1
    }

    func meetings(_ role: RoleKind, _ event: EventKind) -> Int { meetings[Self.index(role, event)] }

    func steps(_ from: RoleKind, _ to: RoleKind) -> Int {
        steps[from.rawValue * RoleKind.allCases.count + to.rawValue]
    }

    private static func index(_ role: RoleKind, _ event: EventKind) -> Int {
        role.rawValue * EventKind.allCases.count + event.rawValue
    }

    static func += (left: inout Coverage, right: Coverage) {
        for index in left.meetings.indices { left.meetings[index] += right.meetings[index] }
        for index in left.steps.indices { left.steps[index] += right.steps[index] }
    }
}
