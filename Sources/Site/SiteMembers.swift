internal import Handoff
internal import Synchronization
internal import VolumeModel

/// The members of a site of several nodes: where each of them answers, and what each knows of a volume.
///
/// To the hand-off each member is a site of its own; that they are one is known here, in who is trusted with a volume,
/// and in who answers for it.
final class SiteMembers: Sendable {
    let own: SiteID
    let registry: any SharedSiteRegistry
    private let known = Mutex<[SiteID: Member]>([:])

    init(own: SiteID, registry: any SharedSiteRegistry) {
        self.own = own
        self.registry = registry
    }

    /// Reads anew who there is. Without it `address` tells what was known last.
    func refresh() async throws {
        let members = try await registry.members().filter { $0.id.site == own.site }
        known.withLock { known in
            known = Dictionary(members.map { ($0.id, $0) }) { first, _ in first }
        }
    }

    /// Reads anew who there is, if a member is none that was known.
    func look(for member: SiteID) async throws {
        if address(of: member) == nil { try await refresh() }
    }

    /// - Returns: host:port; nil: no such member is known, or it has no port for peers.
    func address(of member: SiteID) -> String? { known.withLock { $0[member]?.address } }

    /// All members, as of a moment ago.
    func all() -> [Member] { known.withLock { $0.values.sorted { $0.id < $1.id } } }

    /// - Parameter node: as Kubernetes names it.
    /// - Throws: `.unknownNode` when there is no member at it.
    func member(at node: String) async throws -> SiteID {
        func found() -> SiteID? { all().first { $0.node == node }?.id }
        if let member = found() { return member }
        try await refresh()
        guard let member = found() else { throw SiteError.unknownNode(node) }
        return member
    }

    /// Who answers for a volume.
    func keeper(of id: VolumeID) async throws -> Placement? {
        Placement.keeper(among: try await placements(of: id))
    }

    /// What nodes know of a volume. Without those that there are no more: a person who deletes a `Member` gives up what
    /// only that node had.
    func placements(of id: VolumeID) async throws -> [Placement] {
        try await present(try await registry.placements(of: id))
    }

    /// - Parameter text: a volume's identifier or its name.
    func placements(called text: String) async throws -> [Placement] {
        if let id = VolumeID(text) {
            let placements = try await placements(of: id)
            if !placements.isEmpty { return placements }
        }
        return try await present(try await registry.placements(named: text))
    }

    /// All volumes.
    func placements() async throws -> [Placement] { try await present(try await registry.placements()) }

    private func present(_ placements: [Placement]) async throws -> [Placement] {
        if placements.contains(where: { $0.member != own && address(of: $0.member) == nil }) {
            try await refresh()
        }
        let present = Set(all().map(\.id)).union([own])
        return placements.filter { present.contains($0.member) }
    }

    /// Takes away the entries of nodes that there are no more.
    ///
    /// - Returns: whose they were.
    func abandonOthers(of id: VolumeID) async throws -> [SiteID] {
        let present = Set(try await placements(of: id).map(\.member))
        let gone = try await registry.placements(of: id).filter { !present.contains($0.member) }
        for placement in gone where address(of: placement.member) == nil {
            try await registry.abandon(placement)
        }
        return gone.map(\.member)
    }
}

extension Placement {
    /// Who of those that know a volume answers for it: the one with the newest reign, and of these the owner, or who is
    /// to be. The same wherever it is asked.
    package static func keeper(among placements: [Placement]) -> Placement? {
        placements.min { left, right in
            let (own, other) = (left.record.head, right.record.head)
            let epochs = (own.knownEpoch, other.knownEpoch)
            if epochs.0 != epochs.1 { return epochs.0 > epochs.1 }
            let ranks = (own.role.keeperRank, other.role.keeperRank)
            if ranks.0 != ranks.1 { return ranks.0 < ranks.1 }
            // Of two that follow, the one with a replica.
            let lacks = (left.record.headNumber == 0, right.record.headNumber == 0)
            if lacks.0 != lacks.1 { return lacks.1 }
            return left.member < right.member
        }
    }
}

extension Placement {
    /// Who of those that know a volume tells other sites who owns it: in the highest line the one that knows of the last
    /// hand-over. Another one may follow a site that went back in time, at a higher epoch.
    static func witness(among placements: [Placement]) -> Placement? {
        let line = placements.map(\.record.head.knownEpoch.line).max()
        let present = placements.filter { $0.record.head.knownEpoch.line == line }
        let last = present.compactMap(\.record.head.lastHandover).max()
        return keeper(among: present.filter { last == nil || $0.record.head.lastHandover == last })
    }

    /// Whether the volume is, was last, or is about to be here: nobody else of the site can answer for it then.
    var isBinding: Bool {
        switch record.head.role {
        case .owning, .receiving, .acquiring, .sealing, .sealed, .reclaiming, .declining, .fenced: true
        case .following, .retired: false
        }
    }

    var isOwner: Bool { if case .owning = record.head.role { true } else { false } }

    func knowsAsMuch(as other: Placement) -> Bool {
        record.head.knownEpoch >= other.record.head.knownEpoch
    }
}

extension Role {
    /// Of those who know the same reign, the first answers for the volume: who writes, or is about to; who did; who
    /// would.
    fileprivate var keeperRank: Int {
        switch self {
        case .owning: 0
        case .receiving, .acquiring: 1
        case .sealing, .sealed, .reclaiming: 2
        case .declining: 3
        case .following: 4
        case .retired, .fenced: 5
        }
    }
}
