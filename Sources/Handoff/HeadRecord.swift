package import VolumeModel

/// The state machine of one volume's head at one site, as a value.
///
/// The shell around it keeps this contract:
/// 1. It applies an event to a copy of the record.
/// 2. It writes the copy durably, by compare-and-swap; if that fails it drops the copy and its actions.
/// 3. Only then does it use the copy in place of the record, and runs the actions.
///
/// A crash after step 2 loses actions; `actionsAfterRestart()` names them again: run it after a restart, and
/// from time to time, for messages are lost too. An event that was refused or lost is simply sent again.
///
/// What this relies on and keeps true:
/// - **One heir.** A reign begins only with the grant of the owner before it, which grants to one heir
///   under one epoch and, before it does, durably refuses every write under its own.
/// - **No epoch twice.** `spent` is at least every epoch that reigned, was promised or was declined, as far as
///   known here; a reign that begins here gets a higher one.
/// - **A declined epoch stays declined.** A site that declines an epoch has spent it first. So a source may take the head back, under a higher epoch still.
/// - **Knowledge only grows.** The reign a record knows of never gets an older one. A site that once
///   owned the head under an epoch therefore knows forever of one at least as high, and never declines it. Only of what
///   a site has raised after its state went back in time nothing is left (`hear`): nobody was promised that.
/// - **Who reads sees one state.** While there are readers nobody may write. The first of them begins a new epoch, and
///   the last ends it: under an epoch that is read the head never changes, and who reads it too late can tell by it.
/// - **The last copy stays.** A site leaves `retentions` only when the heir says so, and an heir says so only
///   when it lacks nothing, or when nobody needs it any more either.
package struct HeadRecord: Hashable, Sendable {
    package let site: SiteID
    package internal(set) var role: Role
    /// No reign at or below this epoch begins at this site, except the present one.
    package internal(set) var spent: Epoch
    /// The reign under which the present head began: that of the last promotion. Taking a head back and evicting who
    /// holds it raise the epoch, but do not change the head.
    package internal(set) var headReign: Epoch
    /// The last hand-over from one site to another that is known here: the epoch under which the heir began, or the line.
    /// Where this site owns the head it is that by which it got it, whichever of its nodes has it now. Raising the epoch and
    /// passing the head from node to node change nothing about it. nil: unknown, or of an earlier release.
    package internal(set) var handover: Epoch?
    /// To which other site that was, where this one gave the head away or was told so; nil: to this site, or it is not known.
    package internal(set) var handedTo: SiteID?
    /// The epochs that were promised to other sites since this one got the head, and declined: the last of them. Such a reign
    /// may begin all the same, at a site whose state went back to before it declined.
    package internal(set) var takenBack: [Epoch]
    /// Up to which epoch others may have been declined, of which that is not known one by one; nil: none.
    package internal(set) var doubtedThrough: Epoch?
    /// Who keeps bytes that this site's heads lack, the oldest first: at most one for each head.
    package internal(set) var sources: [Source]
    /// What this site keeps for others. A pin or a head that is not named here, nor by a sealed role, and is not
    /// the present one, may be dropped.
    package internal(set) var retentions: [Retention]
    /// What was written here and is in no later state. Never dropped but by `forgetDivergence`.
    package internal(set) var divergences: [Divergence]

    /// Who may read the head that this site owns, each once, in the order of their names. While there is one the head is
    /// neither written to nor given away, and has no holder.
    package internal(set) var readers: [Reader]

    /// How many retentions, and how many sources, a record may hold.
    package static let dependencyLimit = 64
    /// Who wants a volume and changes its mind does so a few times between two hand-overs.
    static let takenBackLimit = 8
    /// A record is one of many in an object of the cluster's API, and a reader some 80 bytes of it.
    package static let readerLimit = 256

    /// A new volume, which this site owns.
    package init(newAt site: SiteID) {
        self.init(
            site: site, role: .owning(.first, holder: nil), spent: .first, headReign: .first, handover: .first
        )
    }

    /// A volume that another site owns, to be prepared here.
    package init(followerAt site: SiteID, of reign: Reign) throws(HandoffError) {
        guard reign.owner != site, Epoch.first <= reign.epoch, reign.epoch <= .highest else {
            throw .implausible("site \(site) following \(reign)")
        }
        self.init(site: site, role: .following(reign), spent: reign.epoch, headReign: .first)
    }

    init(
        site: SiteID, role: Role, spent: Epoch, headReign: Epoch, handover: Epoch? = nil,
        handedTo: SiteID? = nil, takenBack: [Epoch] = [], doubtedThrough: Epoch? = nil,
        sources: [Source] = [], retentions: [Retention] = [], divergences: [Divergence] = [],
        readers: [Reader] = []
    ) {
        self.site = site
        self.role = role
        self.spent = spent
        self.headReign = headReign
        self.handover = handover
        self.handedTo = handedTo
        self.takenBack = takenBack
        self.doubtedThrough = doubtedThrough
        self.sources = sources
        self.retentions = retentions
        self.divergences = divergences
        self.readers = readers
    }

    // MARK: what it says

    /// Whether a member of this site may read the head under this epoch. Ask again after having read: what was read
    /// before a no may be of a later state.
    package func mayRead(_ member: SiteID, under epoch: Epoch) -> Bool {
        if case .owning(epoch, _) = role { readers.contains { $0.member == member } } else { false }
    }

    /// Who has the head in use: the holder, or all readers as one; nil: nobody.
    package var user: Holder? {
        guard case .owning(_, let holder) = role else { return nil }
        return readers.isEmpty ? holder : Self.holder(of: readers)
    }

    /// The same for who asks for the head: its own reading alone, if it reads, for of nothing else can it let go itself.
    func user(askedFor member: SiteID) -> Holder? {
        readers.first { $0.member == member }.map { Self.holder(of: [$0]) } ?? user
    }

    private static func holder(of readers: [Reader]) -> Holder {
        Holder(node: readers.map(\.node).joined(separator: ", "), pod: nil, attachment: readingAttachment)
    }

    /// How readers are attached, as people are told.
    private static let readingAttachment = "to be read"

    /// The newest reign that this site knows of; nil when it was overruled by it does not know whom.
    package var knownReign: Reign? {
        switch role {
        case .following(let reign), .retired(let reign): reign
        case .acquiring(let from, _), .receiving(let from, _), .declining(let from, _): from
        case .owning(let epoch, _), .sealing(let epoch, _), .sealed(let epoch, _),
            .reclaiming(let epoch, _):
            Reign(site, epoch)
        case .fenced(_, let by, let owner): owner.map { Reign($0, by) }
        }
    }

    /// The epoch of the newest reign that this site knows of, also where it does not know whose.
    package var knownEpoch: Epoch {
        if case .fenced(_, let by, _) = role { by } else { knownReign?.epoch ?? spent }
    }

    /// Whether the present head is one that this site owns or owned last. A replica's head is not: its bytes,
    /// whatever it lacks, are the owner's.
    package var hasOwnHead: Bool {
        switch role {
        case .owning, .sealing, .sealed, .reclaiming, .fenced: true
        case .following, .acquiring, .receiving, .declining, .retired: false
        }
    }

    /// Whether some site may own an older state without knowing that it was overruled: then the owner announces
    /// itself, to all who may know the volume and from time to time.
    package var mayBeUnheardOf: Bool {
        if case .owning(let epoch, _) = role { epoch.line > 0 } else { false }
    }

    /// Who keeps the bytes that the head of this reign of ours lacks; nil when it lacks nothing.
    package func source(ofHead reign: Epoch) -> Source? {
        sources.first { $0.reign == reign && $0.phase == .fetching }
    }

    /// The same for the present head.
    package var origin: Source? { hasOwnHead ? source(ofHead: headReign) : nil }

    /// The head that is kept for a reign of another site, named by our reign under which it began; nil when
    /// nothing is kept for it.
    package func keptHead(for heir: Reign) -> Epoch? {
        switch role {
        case .sealed(_, let grant), .reclaiming(_, let grant): if grant.heir == heir { return headReign }
        default: break
        }
        return retentions.first { $0.grant.heir == heir }?.headReign
    }

    /// The pinned states that must stay readable for other sites, the one for an heir that has not
    /// taken the head yet included.
    package var grants: [Grant] {
        let kept = retentions.map(\.grant)
        return switch role {
        case .sealed(_, let grant), .reclaiming(_, let grant): kept + [grant]
        default: kept
        }
    }

    /// The epochs of other sites' reigns for which bytes are kept here.
    package var keptReigns: Set<Epoch> { Set(grants.map(\.heir.epoch)) }

    package func isKeepingBytes(for reign: Reign) -> Bool { keptHead(for: reign) != nil }

    /// Whether no other site depends on the bytes here, nor will by anything granted so far.
    package var mayDiscard: Bool {
        if case .retired = role { retentions.isEmpty } else { false }
    }

    // MARK: what is to be done

    /// What to do for a record just loaded, and again whenever an answer is late.
    package func actionsAfterRestart() -> [Action] {
        var actions: [Action] =
            switch role {
            case .following: []
            case .acquiring(let from, let wanted): [.requestSeal(of: from, wanted: wanted)]
            case .receiving(let from, let grant): [.fetchTail(from: from.owner, grant: grant)]
            case .declining(let from, let declined): [.tellDeclined(declined, to: from.owner)]
            // That we began is told again when the source offers its grant again.
            case .owning(let epoch, _): [.serve(epoch)]
            case .sealing(let epoch, let heir): [.stopServing(epoch), .readTail(heir: heir)]
            // The heir may have lost interest while our answer was lost: offer it again.
            case .sealed(let epoch, let grant): [.stopServing(epoch), .grantSeal(after: epoch, grant)]
            case .reclaiming(let epoch, let grant):
                [.stopServing(epoch), .requestDecline(heir: grant.heir, after: epoch)]
            case .retired: mayDiscard ? [.mayDiscard] : []
            case .fenced(let epoch, _, _): [.stopServing(epoch), .keepDivergence(under: epoch)]
            }
        for source in sources {
            if source.phase == .releasing {
                actions.append(.requestRelease(of: source.site, reign: source.reign))
            } else if let claim = source.claim {
                let heir = Reign(site, source.reign)
                actions.append(
                    .claim(from: source.site, heir: heir, after: claim.after, through: claim.through))
            }
        }
        for retention in retentions {
            guard let epoch = retention.unknownAfter else { continue }
            actions.append(.requestDecline(heir: retention.grant.heir, after: epoch))
        }
        return actions
    }
}
