package import VolumeModel

/// What one site is to one volume's head: the state machine of the hand-off.
///
/// Pure: `apply` takes an event and gives actions. The shell makes the changed record durable before it runs
/// any of them. An action may be lost in a crash; `actionsAfterRestart` gives what is still to be done.
///
/// Invariants:
/// - Writes are accepted in `owning` only, and under its epoch only.
/// - `spent` is at least every epoch that this site has used, granted, or given up: none is used again.
/// - `reigned` is the last epoch that this site owned the head under: a grant up to it was used, and must never
///   be declined, also when the head has been handed on since.
/// - A grant never changes: the same request gets the same answer for ever.
package struct HeadRecord: Hashable, Sendable {
    /// Bytes are kept for this many heirs at a time, at most.
    package static let retentionLimit = 16

    package let site: SiteID
    package internal(set) var role: Role
    /// Epochs up to this one are used up, as far as this site knows.
    package internal(set) var spent: Epoch
    /// The last epoch under which this site owned the head; 0: never.
    package internal(set) var reigned: Epoch
    /// Sites that keep bytes which this site's head lacks, or does not need any more but has not released.
    package internal(set) var sources: [Source]
    /// The reigns of other sites for which bytes are kept here.
    package internal(set) var retentions: Set<Reign>

    /// A new volume, owned by the site that makes it.
    package init(newAt site: SiteID) {
        self.init(
            site: site, role: .owning(.first, holder: nil), spent: .first, reigned: .first, sources: [],
            retentions: [])
    }

    /// A follower of another site's reign.
    package init(followerAt site: SiteID, of reign: Reign) throws(HandoffError) {
        try Self.check(reign.epoch)
        self.init(
            site: site, role: .following(reign), spent: reign.epoch, reigned: Epoch(0), sources: [],
            retentions: [])
    }

    init(
        site: SiteID, role: Role, spent: Epoch, reigned: Epoch, sources: [Source], retentions: Set<Reign>
    ) {
        self.site = site
        self.role = role
        self.spent = spent
        self.reigned = reigned
        self.sources = sources
        self.retentions = retentions
    }

    /// Whether a write under this epoch may be accepted now.
    package func mayWrite(under epoch: Epoch) -> Bool {
        if case .owning(epoch, _) = role { true } else { false }
    }

    /// The epochs of other sites' reigns for which bytes are kept here.
    package var keptReigns: Set<Epoch> { Set(retentions.map(\.epoch)) }

    package func isKeepingBytes(for reign: Reign) -> Bool { retentions.contains(reign) }

    // MARK: events

    package mutating func apply(_ event: Event) throws(HandoffError) -> [Action] {
        switch event {
        case .prepare(let reign): try prepare(reign)
        case .takeOver: try takeOver()
        case .abort: abort()
        case .attach(let holder): try attach(holder)
        case .seize(let holder): try seize(holder)
        case .detach(let node): detach(node)
        case .tailRead(let heir, let sequence): tailRead(heir, sequence)
        case .caughtUp(let wanted, let sequence): try caughtUp(wanted, sequence)
        case .flattened(let through): flattened(through)
        case .divergenceKept(let epoch): divergenceKept(epoch)
        case .sealRequested(let site, let after, let wanted): try sealRequested(site, after, wanted)
        case .sealGranted(let site, _, let grant): try sealGranted(site, grant)
        case .sealRefused(let site, let wanted, let refusal): try sealRefused(site, wanted, refusal)
        case .declineRequested(let reign, let wanted): try declineRequested(reign, wanted)
        case .declined(let site, let wanted): declined(site, wanted)
        case .ownerAnnounced(let reign): try ownerAnnounced(reign)
        case .releaseRequested(let heir): releaseRequested(heir)
        case .released(let site, let reign): released(site, reign)
        }
    }

    /// What a crash may have cut off, to be done (again) when a record was just loaded.
    package func actionsAfterRestart() -> [Action] {
        let releases = sources.filter { $0.phase == .releasing }.map {
            Action.requestRelease(of: $0.site, reign: $0.reign)
        }
        let actions: [Action] =
            switch role {
            case .following, .retired: []
            case .acquiring(let reign, let wanted): [.requestSeal(of: reign, wanted: wanted)]
            case .receiving(let reign, let grant): [.fetchTail(from: reign.owner, grant: grant)]
            case .declining(let reign, let declined): [.tellDeclined(declined, to: reign.owner)]
            case .owning(let epoch, _): [.serve(epoch)]
            case .sealing(_, let heir): [.readTail(heir: heir)]
            case .sealed(let epoch, let grant): [.grantSeal(after: epoch, grant)]
            case .reclaiming(let epoch, let grant): [.requestDecline(heir: grant.heir, after: epoch)]
            case .fenced(let epoch, _, _): [.stopServing(epoch), .keepDivergence(under: epoch)]
            }
        return actions + releases
    }

    // MARK: wishes of this site

    private mutating func prepare(_ reign: Reign) throws(HandoffError) -> [Action] {
        try Self.check(reign.epoch)
        switch role {
        case .following(let known), .retired(let known):
            if reign.epoch >= known.epoch { follow(reign) }
        case .sealed(_, let grant), .reclaiming(_, let grant):
            // Who offers a reign has begun it, or a later one: the heir has taken over.
            guard reign.epoch >= grant.heir.epoch else {
                throw .contradiction("\(reign) is offered, but the volume was granted to \(grant.heir)")
            }
            follow(reign)
        case .acquiring, .receiving, .declining: break
        case .owning(let epoch, _), .sealing(let epoch, _):
            guard reign.epoch > epoch else {
                throw .contradiction("\(reign) is offered to the owner at epoch \(epoch)")
            }
            return overrule(epoch, by: reign)
        case .fenced(let epoch, let by, _): throw .overruled(under: epoch, by: by)
        }
        return []
    }

    private mutating func takeOver() throws(HandoffError) -> [Action] {
        switch role {
        case .following(let reign):
            let wanted = max(reign.epoch, spent).next
            role = .acquiring(from: reign, wanted: wanted)
            return actionsAfterRestart()
        case .acquiring, .receiving, .owning, .reclaiming: return actionsAfterRestart()
        case .sealing(let epoch, let heir):
            // The heir knows of nothing; its epoch is used up all the same.
            spend(heir.epoch)
            role = .owning(epoch, holder: nil)
            return [.serve(epoch)]
        case .sealed(let epoch, let grant):
            role = .reclaiming(epoch, grant: grant)
            return actionsAfterRestart()
        case .declining(let reign, _), .retired(let reign): throw .notOwner(reign)
        case .fenced(let epoch, let by, _): throw .overruled(under: epoch, by: by)
        }
    }

    private mutating func abort() -> [Action] {
        switch role {
        case .acquiring(let reign, let wanted):
            return decline(wanted, from: reign)
        case .receiving(let reign, let grant):
            return decline(grant.heir.epoch, from: reign)
        case .following(let reign):
            role = .retired(reign)
            return [.mayDiscard]
        case .reclaiming(let epoch, let grant):
            role = .sealed(epoch, grant: grant)
            return []
        case .declining, .owning, .sealing, .sealed, .retired, .fenced: return []
        }
    }

    private mutating func decline(_ wanted: Epoch, from reign: Reign) -> [Action] {
        spend(wanted)
        role = .declining(from: reign, declined: wanted)
        return actionsAfterRestart()
    }

    private mutating func attach(_ holder: Holder) throws(HandoffError) -> [Action] {
        guard case .owning(let epoch, let current) = role else { throw notOwner }
        if let current, current.node != holder.node { throw .inUse(current) }
        role = .owning(epoch, holder: holder)
        return []
    }

    private mutating func seize(_ holder: Holder) throws(HandoffError) -> [Action] {
        guard case .owning(let epoch, let current) = role else { throw notOwner }
        guard let current, current.node != holder.node else { return try attach(holder) }
        let next = max(epoch, spent).next
        begin(next, holder: holder)
        return [.stopServing(epoch), .serve(next)]
    }

    private mutating func detach(_ node: String) -> [Action] {
        if case .owning(let epoch, let holder?) = role, holder.node == node {
            role = .owning(epoch, holder: nil)
        }
        return []
    }

    // MARK: results of this site's actions

    private mutating func tailRead(_ heir: Reign, _ sequence: SequenceNumber) -> [Action] {
        switch role {
        case .sealing(let epoch, heir):
            role = .sealed(epoch, grant: Grant(heir: heir, finalSequence: sequence))
            retentions.insert(heir)
            spend(heir.epoch)
            return actionsAfterRestart()
        // Read twice: the first answer stands.
        case .sealed(_, let grant) where grant.heir == heir: return actionsAfterRestart()
        default: return []
        }
    }

    private mutating func caughtUp(
        _ wanted: Epoch, _ sequence: SequenceNumber
    ) throws(HandoffError) -> [Action] {
        switch role {
        case .receiving(let reign, let grant) where grant.heir.epoch == wanted:
            guard sequence >= grant.finalSequence else {
                throw .notCaughtUp(wanted: wanted, needed: grant.finalSequence)
            }
            begin(wanted, holder: nil)
            // The new head has one source: whoever granted it. Older ones were of heads that are gone.
            sources = sources.map { Source(site: $0.site, reign: $0.reign, phase: .releasing) }
            sources.removeAll { $0.site == reign.owner && $0.reign == wanted }
            sources.append(Source(site: reign.owner, reign: wanted, phase: .fetching))
            return [.serve(wanted), .announce(Reign(site, wanted), to: reign.owner)]
        case .owning(wanted, _): return []
        default: throw .notCaughtUp(wanted: wanted, needed: nil)
        }
    }

    private mutating func flattened(_ through: Epoch) -> [Action] {
        for index in sources.indices where sources[index].reign <= through {
            sources[index].phase = .releasing
        }
        return sources.filter { $0.phase == .releasing }.map {
            .requestRelease(of: $0.site, reign: $0.reign)
        }
    }

    private mutating func divergenceKept(_ epoch: Epoch) -> [Action] {
        if case .fenced(epoch, let by, let owner?) = role { role = .retired(Reign(owner, by)) }
        return []
    }

    // MARK: messages of other sites

    private mutating func sealRequested(
        _ peer: SiteID, _ after: Epoch, _ wanted: Epoch
    ) throws(HandoffError) -> [Action] {
        try Self.check(wanted)
        let heir = Reign(peer, wanted)
        switch role {
        case .owning(let epoch, let holder):
            guard after == epoch else { throw .sealRefused(.reigning(Reign(site, epoch))) }
            guard wanted > spent else { throw .sealRefused(.spent(through: spent)) }
            if let holder { throw .sealRefused(.inUse(holder)) }
            guard retentions.count < Self.retentionLimit else {
                throw .sealRefused(.tooManyRetentions(limit: Self.retentionLimit))
            }
            role = .sealing(epoch, heir: heir)
            return actionsAfterRestart()
        case .sealing(_, let promised):
            guard promised == heir else { throw .sealRefused(.promised(to: promised)) }
            return [.readTail(heir: heir)]
        case .sealed(let epoch, let grant):
            guard grant.heir == heir else { throw .sealRefused(.promised(to: grant.heir)) }
            return [.grantSeal(after: epoch, grant)]
        case .reclaiming(_, let grant): throw .sealRefused(.promised(to: grant.heir))
        case .following(let reign), .acquiring(let reign, _), .receiving(let reign, _),
            .declining(let reign, _), .retired(let reign):
            throw .sealRefused(.reigning(reign))
        case .fenced(_, let by, _): throw .sealRefused(.overruled(by: by))
        }
    }

    private mutating func sealGranted(_ peer: SiteID, _ grant: Grant) throws(HandoffError) -> [Action] {
        guard grant.heir.owner == site else {
            throw .implausible("site \(peer) grants a seal to \(grant.heir)")
        }
        let wanted = grant.heir.epoch
        // Used already, perhaps long ago: the granter missed that this site owned the head.
        if wanted <= reigned { return [.announce(Reign(site, reigned), to: peer)] }
        switch role {
        case .acquiring(let reign, wanted) where reign.owner == peer:
            role = .receiving(from: reign, grant: grant)
            return actionsAfterRestart()
        case .receiving(_, let known) where known == grant: return actionsAfterRestart()
        case .declining(_, let declined) where declined >= wanted: return [.tellDeclined(wanted, to: peer)]
        case .following(let reign) where reign.owner == peer && wanted > spent:
            // A refusal crossed the grant. Nobody waits here any more, but the baton is ours: take it.
            role = .receiving(from: reign, grant: grant)
            return actionsAfterRestart()
        case .following, .acquiring, .retired:
            // An epoch that was given up here, and of which the giving up got lost on its way.
            return wanted <= spent ? [.tellDeclined(wanted, to: peer)] : []
        default: return []
        }
    }

    private mutating func sealRefused(
        _ peer: SiteID, _ wanted: Epoch, _ refusal: SealRefusal
    ) throws(HandoffError) -> [Action] {
        guard case .acquiring(let reign, wanted) = role, reign.owner == peer else { return [] }
        role = .following(reign)
        switch refusal {
        case .reigning(let other):
            if other.epoch > reign.epoch { role = .following(other) }
        case .spent(let through): if through < .highest { spend(through) }
        case .inUse, .promised, .overruled, .tooManyRetentions: break
        }
        return []
    }

    private mutating func declineRequested(
        _ reign: Reign, _ wanted: Epoch
    ) throws(HandoffError) -> [Action] {
        try Self.check(wanted)
        if wanted <= reigned { return [.announce(Reign(site, reigned), to: reign.owner)] }
        switch role {
        case .acquiring(let from, _), .receiving(let from, _): role = .following(from)
        case .owning, .sealing, .sealed, .reclaiming, .following, .declining, .retired, .fenced: break
        }
        spend(wanted)
        return [.tellDeclined(wanted, to: reign.owner)]
    }

    private mutating func declined(_ peer: SiteID, _ wanted: Epoch) -> [Action] {
        let heir = Reign(peer, wanted)
        switch role {
        case .sealed(_, let grant) where grant.heir == heir,
            .reclaiming(_, let grant) where grant.heir == heir:
            retentions.remove(heir)
            let next = max(spent, wanted).next
            begin(next, holder: nil)
            return [.serve(next), .announce(Reign(site, next), to: peer)]
        case .owning(let epoch, _): return [.announce(Reign(site, epoch), to: peer)]
        default: return []
        }
    }

    private mutating func ownerAnnounced(_ reign: Reign) throws(HandoffError) -> [Action] {
        try Self.check(reign.epoch)
        switch role {
        case .following(let known), .retired(let known):
            if reign.epoch > known.epoch {
                if case .following = role { follow(reign) } else { role = .retired(reign) }
            }
        case .declining(let known, _): if reign.epoch >= known.epoch { follow(reign) }
        case .acquiring(let known, _): if reign.epoch > known.epoch { follow(reign) }
        case .receiving: break
        case .sealed(_, let grant), .reclaiming(_, let grant):
            if reign.epoch >= grant.heir.epoch { role = .retired(reign) }
        case .owning(let epoch, _), .sealing(let epoch, _):
            if reign.epoch > epoch { return overrule(epoch, by: reign) }
        case .fenced: break
        }
        spend(reign.epoch)
        return []
    }

    private mutating func releaseRequested(_ heir: Reign) -> [Action] {
        retentions.remove(heir)
        switch role {
        case .sealed(_, let grant) where grant.heir == heir,
            .reclaiming(_, let grant) where grant.heir == heir:
            role = .retired(heir)
        default: break
        }
        return [.mayDiscard, .confirmRelease(to: heir)]
    }

    private mutating func released(_ peer: SiteID, _ reign: Epoch) -> [Action] {
        sources.removeAll { $0.site == peer && $0.reign == reign && $0.phase == .releasing }
        return []
    }

    // MARK: helpers

    private mutating func follow(_ reign: Reign) {
        role = .following(reign)
        spend(reign.epoch)
    }

    private mutating func overrule(_ epoch: Epoch, by reign: Reign) -> [Action] {
        spend(reign.epoch)
        role = .fenced(epoch, by: reign.epoch, owner: reign.owner)
        return actionsAfterRestart()
    }

    /// A reign of this site begins.
    private mutating func begin(_ epoch: Epoch, holder: Holder?) {
        spend(epoch)
        reigned = max(reigned, epoch)
        role = .owning(epoch, holder: holder)
    }

    private mutating func spend(_ epoch: Epoch) { spent = max(spent, epoch) }

    private var notOwner: HandoffError {
        switch role {
        case .owning: .notOwner(nil)
        case .following(let reign), .acquiring(let reign, _), .receiving(let reign, _),
            .declining(let reign, _), .retired(let reign):
            .notOwner(reign)
        case .sealing(_, let heir): .promised(to: heir)
        case .sealed(_, let grant), .reclaiming(_, let grant): .promised(to: grant.heir)
        case .fenced(let epoch, let by, _): .overruled(under: epoch, by: by)
        }
    }

    private static func check(_ epoch: Epoch) throws(HandoffError) {
        guard epoch > Epoch(0), epoch < .highest else { throw .implausible("epoch \(epoch)") }
    }
}
