internal import VolumeModel

/// What holds between sites, in every order of messages, losses, repetitions and crashes, as long as nobody takes
/// over by force. The model `Tests/HandoffTests/Handoff.pml` asserts each under this name, in every state:
///
/// - `oneWriter`: at most one site owns the head, and so accepts writes.
/// - `tailFirst`: whoever owns the head has every write that was ever acknowledged: a sealed tail is at the heir
///   before its reign begins.
/// - `twiceChangesNothing`: a message that comes again, at once, leaves the record as it is.
/// - `takenBackAfterDecline`: a source owns its head again only when the heir has spent the promised epoch durably
///   without beginning under it, or was never answered.
/// - `noEpochTwice`: an epoch begins once, at one site, and never after it was declined.
/// - `knowledgeGrows`: the reign that a record knows of never gets an older one.
/// - `overruledByForceOnly`: no owner, and no heir that holds a grant, hears of a later reign.
/// - `noContradiction`: no site refuses what an honest one says as a contradiction.
///
/// And while nodes of the owner's site read, as the model `Tests/HandoffTests/Reading.pml` asserts:
///
/// - `nobodyWritesWhatIsRead`: nobody ever writes under an epoch under which somebody was let in to read.
/// - `readsOneState`: what a node reads under an epoch is of one state, also when it is asked for too late.
/// - `endsBeforeWrites`: nobody writes while a node has an earlier state mounted, unless its member was deleted.
/// - `admittedStaysKnown`: a node that is attached to read, and was not detached since, can mount the volume, whatever
///   arrives late.
extension HeadRecord {
    /// What holds for every record that this module makes; a stored one is checked when it is read.
    func validate() throws(HandoffError) {
        func demand(_ holds: Bool, _ rule: String) throws(HandoffError) {
            guard holds else { throw .unreadableRecord("\(rule) (at site \(site))") }
        }
        try demand(Epoch.first <= knownEpoch, "epochs begin at \(Epoch.first)")
        try demand(spent <= .highest, "epoch \(spent) is beyond \(Epoch.highest)")
        try demand(knownEpoch <= spent, "epoch \(knownEpoch) is above \(spent), to which epochs are spent")
        switch role {
        case .following(let reign), .retired(let reign):
            try demand(reign.owner != site, "it follows itself")
        case .acquiring(let from, let wanted):
            try demand(from.owner != site, "it acquires from itself")
            try demand(spent < wanted && wanted <= .highest, "epoch \(wanted) is wanted but spent")
        case .receiving(let from, let grant):
            try demand(from.owner != site && grant.heir.owner == site, "it was granted another site's epoch")
            try demand(spent < grant.heir.epoch, "epoch \(grant.heir.epoch) was granted but is spent")
            try demand(
                grant.handover.map { Epoch.first <= $0 && $0 < grant.heir.epoch } ?? true,
                "a hand-over at epoch \(grant.handover ?? .first)")
            try demand(grant.heir.epoch <= .highest, "epoch \(grant.heir.epoch) is beyond \(Epoch.highest)")
            try demand(grant.finalSequence >= .zero, "sequence number \(grant.finalSequence)")
        case .declining(let from, let declined):
            try demand(from.owner != site && from.epoch < declined, "it declines the past")
            try demand(declined <= spent, "epoch \(declined) is declined but not spent")
        case .owning(_, let holder):
            try demand(holder == nil || readers.isEmpty, "it is held and read at once")
        case .sealing(let epoch, let heir):
            try demand(heir.owner != site && epoch < heir.epoch, "it sealed for itself or the past")
            try demand(heir.epoch <= spent, "epoch \(heir.epoch) is promised but not spent")
        case .sealed(let epoch, let grant), .reclaiming(let epoch, let grant):
            let heir = grant.heir
            try demand(heir.owner != site && epoch < heir.epoch, "it sealed for itself or the past")
            try demand(heir.epoch <= spent, "epoch \(heir.epoch) is promised but not spent")
            try demand(grant.finalSequence >= .zero, "sequence number \(grant.finalSequence)")
        case .fenced(let own, let by, let owner):
            // By an earlier epoch where it has raised its own since its state went back in time.
            try demand(
                Epoch.first <= own && Epoch.first <= by && own < spent && owner != site,
                "it was overruled by nobody")
        }
        try validateDependencies(demand)
    }

    private func validateDependencies(
        _ demand: (Bool, String) throws(HandoffError) -> Void
    ) throws(HandoffError) {
        let limit = Self.dependencyLimit
        try demand(sources.count <= limit && retentions.count <= limit, "more than \(limit) dependencies")
        try demand(Set(sources.map(\.reign)).count == sources.count, "two sources of one reign")
        try demand(Set(retentions.map(\.grant.heir)).count == retentions.count, "a retention twice")
        try demand(Set(divergences.map(\.epoch)).count == divergences.count, "a divergence twice")
        let members = readers.map(\.member)
        try demand(members.count <= Self.readerLimit, "more than \(Self.readerLimit) readers")
        try demand(members == Set(members).sorted(), "readers out of order, or one twice")
        if !readers.isEmpty {
            try demand(role.isOwning, "a head of another is read here")
            try demand(readers.allSatisfy { $0.member.site == site.site }, "a reader at another site")
        }
        for divergence in divergences {
            try demand(
                Epoch.first <= divergence.headReign && divergence.headReign <= divergence.epoch
                    && divergence.epoch < spent, "a divergence of epoch \(divergence.epoch)")
        }
        for source in sources {
            try demand(source.site != site, "it is its own source")
            try demand(Epoch.first < source.reign, "a source of epoch \(source.reign)")
            try demand(source.reign <= spent, "a source of epoch \(source.reign), which is not spent")
            guard let claim = source.claim else { continue }
            try demand(
                Epoch.first <= claim.after && claim.after < source.reign && claim.through >= .zero,
                "a claim after epoch \(claim.after)")
        }
        try demand(Epoch.first <= headReign && headReign <= spent, "a head of epoch \(headReign)")
        try demand(
            handover.map { Epoch.first <= $0 && $0 <= spent } ?? true,
            "a hand-over at epoch \(handover ?? .first)")
        try demand(handedTo?.site != site.site, "it gave the head to itself")
        try demand(takenBack.count <= Self.takenBackLimit, "more than \(Self.takenBackLimit) declined epochs")
        for epoch in takenBack + (doubtedThrough.map { [$0] } ?? []) {
            try demand(
                Epoch.first <= epoch && epoch <= spent, "declined at epoch \(epoch), which is not spent")
        }
        for retention in retentions {
            let grant = retention.grant
            try demand(
                Epoch.first <= retention.headReign && retention.headReign < grant.heir.epoch,
                "a head of epoch \(retention.headReign) kept for \(grant.heir)")
            try demand(grant.heir.owner != site, "it keeps bytes for itself")
            try demand(Epoch.first < grant.heir.epoch, "a retention for \(grant.heir)")
            try demand(grant.heir.epoch <= spent, "a retention for \(grant.heir), which is not spent")
            try demand(grant.finalSequence >= .zero, "sequence number \(grant.finalSequence)")
            try demand(
                retention.unknownAfter.map { Epoch.first <= $0 && $0 < grant.heir.epoch } ?? true,
                "a retention after epoch \(retention.unknownAfter ?? .first)")
        }
    }
}

extension Role {
    fileprivate var isOwning: Bool { if case .owning = self { true } else { false } }
}
