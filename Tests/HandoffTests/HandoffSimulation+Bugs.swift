import VolumeModel

@testable import Handoff

/// Where the planted bugs sit: around the state machine, never in it.
extension HandoffSimulation {
    /// Whether a planted bug forgets to write this record down.
    func isLost(_ record: HeadRecord) -> Bool {
        switch (bug, record.role) {
        case (.sealNotDurable, .sealing), (.sealNotDurable, .sealed), (.beginNotDurable, .owning): true
        default: false
        }
    }

    /// Changes what the state machine decided, as a planted bug would.
    mutating func plant(
        _ event: Event, before: HeadRecord, _ next: inout HeadRecord, _ actions: inout [Action], at index: Int
    ) {
        guard let bug else { return }
        let log = Int64(sites[index].present.log.count)
        if bug == .pastDenied, case .declineRequested(let reign, let wanted) = event, !owns(next) {
            actions = [.tellDeclined(wanted, to: reign.owner)]
        }
        switch (bug, before.role, next.role) {
        case (.tailReadBeforeSeal, .owning, .sealing(_, let heir)):
            actions = []
            sites[index].results.append(.tailRead(heir: heir, finalSequence: SequenceNumber(log)))
        case (.beginBeforeGrant, .following, .acquiring(let from, let wanted)):
            next.spent = wanted
            next.role = .owning(wanted, holder: nil)
            next.headReign = wanted
            next.sources.append(Source(site: from.owner, reign: wanted, phase: .fetching))
        case (.beginBeforeTail, .acquiring, .receiving(_, let grant)):
            sites[index].results.append(
                .caughtUp(wanted: grant.heir.epoch, sequence: grant.finalSequence))
        case (.declinedEpochReused, .sealed(_, let grant), .owning),
            (.declinedEpochReused, .reclaiming(_, let grant), .owning):
            next.role = .owning(grant.heir.epoch, holder: nil)
            next.spent = grant.heir.epoch
        case (.declineForgotten, .acquiring, .declining(let from, _)),
            (.declineForgotten, .receiving, .declining(let from, _)):
            next.spent = before.spent
            next.role = .following(from)
        case (.takenBackUnasked, _, .reclaiming):
            next.spent = next.spent.next
            next.role = .owning(next.spent, holder: nil)
        case (.sourcesDroppedOnReturn, .receiving, .owning):
            for source in next.sources.indices.dropLast() { next.sources[source].phase = .releasing }
        case (.divergenceDropped, .fenced, .retired):
            next.divergences = before.divergences
        case (.sealedStateDropped, _, _):
            if case .declined = event { next.divergences = before.divergences }
        case (.claimForgotten, _, .owning):
            for source in next.sources.indices { next.sources[source].claim = nil }
            actions.removeAll { if case .claim = $0 { true } else { false } }
        case (.discardedEarly, .sealing, .sealed):
            sites[index].present.resident = 0
        default: break
        }
    }
}
