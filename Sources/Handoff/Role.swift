package import VolumeModel

/// What one site is, at present, to the head of one volume: one case for each phase of its life.
///
/// ```
///   following ──takeOver──▶ acquiring ──granted──▶ receiving ──caughtUp──▶ owning
///       ▲  ▲                    └──────abort──────────┘                     │ sealRequested
///       │  └──owner knows── declining ◀──┘                                  ▼
///       │                                        owning ◀──takeOver──── sealing
///       └──prepare── retired ◀──heir announced── sealed ◀──tailRead────────┘
///                                                  │ ▲ abort
///                                                  ▼ │
///                            owning ◀──declined── reclaiming
/// ```
///
/// Any role that writes becomes `fenced` when it hears of a reign by force above its own, or of a hand-over after its own.
/// By force (`overrule`) any role that does not write becomes `owning`, `fenced` only while nobody knows whose reign it was.
package enum Role: Hashable, Sendable {
    /// A replica: takes the owner's catalog changes and never writes.
    case following(Reign)
    /// Wants to own: asks the owner of `from` to seal for `wanted`. Nothing was granted.
    case acquiring(from: Reign, wanted: Epoch)
    /// The owner sealed for us; its state up to the grant's final sequence is on its way.
    case receiving(from: Reign, grant: Grant)
    /// Gave up `declined` for good, and tells the owner until it knows.
    case declining(from: Reign, declined: Epoch)
    /// The one owner. May write under this epoch, and under no other.
    /// The holder is whoever has it mounted: while there is one, the head is not given away.
    case owning(Epoch, holder: Holder?)
    /// Will never again write under this epoch. What it wrote last is not read yet; the heir knows nothing.
    case sealing(Epoch, heir: Reign)
    /// The same, with the answer for the heir, which stays the same however often it asks.
    case sealed(Epoch, grant: Grant)
    /// Sealed, and asks the heir to decline, because the head is wanted here again.
    case reclaiming(Epoch, grant: Grant)
    /// Neither writes nor follows. Its bytes matter only to the retentions.
    case retired(Reign)
    /// Was overruled: a reign `by` began without its seal, or with one that it has forgotten because its state went back
    /// in time. Its state is kept aside, never merged.
    case fenced(Epoch, by: Epoch, owner: SiteID?)
}

/// A site that owns the head, or is to own it, under an epoch.
package struct Reign: Hashable, Sendable, CustomStringConvertible {
    package let owner: SiteID
    package let epoch: Epoch

    package init(_ owner: SiteID, _ epoch: Epoch) {
        self.owner = owner
        self.epoch = epoch
    }

    package var description: String { "\(owner) at epoch \(epoch)" }
}

/// What a seal promises: the heir may own the head as soon as it has everything up to `finalSequence`.
package struct Grant: Hashable, Sendable {
    package let heir: Reign
    package let finalSequence: SequenceNumber
    /// Between nodes of one site: by which hand-over the site got the head; nil: it is not known, or not all that was promised
    /// since then is settled. To another site the grant is itself the hand-over.
    package let handover: Epoch?

    package init(heir: Reign, finalSequence: SequenceNumber, handover: Epoch? = nil) {
        self.heir = heir
        self.finalSequence = finalSequence
        self.handover = handover
    }
}

/// What a site knows of who owns the head, as it asks others about it and as they tell it.
package struct KnownReign: Hashable, Sendable, CustomStringConvertible {
    package let reign: Reign
    /// The epoch under which the last hand-over from one site to another began of which is known that it came before, or
    /// the line of reigns. Of the owner's own reign it is the last of all; nil: it is not known.
    package let handover: Epoch?

    package init(_ reign: Reign, handover: Epoch? = nil) {
        self.reign = reign
        self.handover = handover
    }

    package var description: String { "\(reign)" + (handover.map { ", handed over at epoch \($0)" } ?? "") }
}

/// A state that this site keeps for another: pinned where it was sealed.
package struct Retention: Hashable, Sendable {
    package let grant: Grant
    /// The reign of this site under which the kept head began. The source of that reign, if there is one,
    /// has what the kept head lacks.
    package let headReign: Epoch
    /// Whether the head may have been written to after the grant's final sequence: then only what has not changed
    /// since is given.
    package let mayHaveChanged: Bool
    /// The epoch under which it was sealed, if nobody knows whether the heir began: it is asked to decline.
    package let unknownAfter: Epoch?

    package init(
        grant: Grant, headReign: Epoch, mayHaveChanged: Bool = false, unknownAfter: Epoch? = nil
    ) {
        self.grant = grant
        self.headReign = headReign
        self.mayHaveChanged = mayHaveChanged
        self.unknownAfter = unknownAfter
    }
}

/// What a site wrote while it was overruled and did not know it: kept as it is until a person deletes it.
package struct Divergence: Hashable, Sendable {
    /// The epoch under which it was written, after which it is named.
    package let epoch: Epoch
    /// The reign under which the head began.
    package let headReign: Epoch

    package init(epoch: Epoch, headReign: Epoch) {
        self.epoch = epoch
        self.headReign = headReign
    }
}

/// Who has the head mounted at the owning site, or attached.
package struct Holder: Hashable, Sendable, CustomStringConvertible {
    package let node: String
    /// The pod or pods that use it, for people; nil before one is known: Kubernetes attaches to a node first.
    package let pod: String?
    /// How it is attached, in the words of whoever attached it; nil: it is not, and held only while it is mounted.
    /// Attached, it is held until it is detached, mounted or not.
    package let attachment: String?

    package init(node: String, pod: String?, attachment: String? = nil) {
        self.node = node
        self.pod = pod
        self.attachment = attachment
    }

    package var description: String {
        let place = attachment == nil ? "node \(node)" : "node \(node) (attached)"
        return pod.map { "pod \($0) on \(place)" } ?? place
    }

    /// Why nobody else may have it, and what to do.
    var claim: String {
        switch (attachment, pod) {
        case (nil, _): "mounted: stop \(self) first"
        case (_?, nil): "attached: end what uses it on \(self), and detach it there"
        case (_?, let pod?): "attached: stop pod \(pod) on node \(node) first, and detach it there"
        }
    }
}

/// A node of the owning site's that reads the head while nobody writes to it.
package struct Reader: Hashable, Sendable {
    /// The node's process; the owning site itself, where the head is.
    package let member: SiteID
    package let node: String

    package init(member: SiteID, node: String) {
        self.member = member
        self.node = node
    }
}

/// A site that keeps bytes which this site lacks.
package struct Source: Hashable, Sendable {
    package enum Phase: String, Hashable, Sendable {
        /// Bytes may still be missing here.
        case fetching
        /// Nothing is missing here any more; the source is told until it confirms.
        case releasing
    }

    package let site: SiteID
    /// The reign of this site for which the source keeps them: they belong into the head that began under it,
    /// and into no other.
    package let reign: Epoch
    package var phase: Phase
    /// Until the source has promised to keep them, after a takeover by force: what it is asked for.
    package var claim: Claim?

    /// What this site has seen of the head that the source owned at `after`.
    package struct Claim: Hashable, Sendable {
        package let after: Epoch
        package let through: SequenceNumber

        package init(after: Epoch, through: SequenceNumber) {
            self.after = after
            self.through = through
        }
    }

    package init(site: SiteID, reign: Epoch, phase: Phase, claim: Claim? = nil) {
        self.site = site
        self.reign = reign
        self.phase = phase
        self.claim = claim
    }
}

extension Epoch {
    /// The highest epoch that is believed. Far from the end of the number line, so that a peer's
    /// rubbish cannot use up the epochs, and so that every store can hold it.
    package static let highest = Epoch(1 << 62)

    /// How far a takeover by force jumps. The overruled site may hand the head around for as long as it does not
    /// know: its epochs, which grow by one, must never reach the new one.
    static let takeoverStride: UInt64 = 1 << 40

    /// The line of reigns that a takeover by force began, or the first one. Within a line epochs grow by one. No force
    /// begins one below the stride: the first lasts until there.
    package var line: UInt64 { number < Self.takeoverStride ? 0 : number >> 16 }

    /// An epoch for a takeover by force: of a line of its own.
    ///
    /// - Parameter salt: random, so that two sites that overrule the same reign do not choose the same line; 24 bits
    ///   of it are used.
    /// - Returns: nil when there is none left, or the overruled one is itself beyond the highest.
    package static func takeover(after overruled: Epoch, salt: UInt32) -> Epoch? {
        guard overruled <= highest else { return nil }
        let next = (overruled.number / takeoverStride + 1) * takeoverStride + UInt64(salt & 0xff_ffff) << 16
        return next <= highest.number ? Epoch(next) : nil
    }
}

/// As logs tell it.
extension Role: CustomStringConvertible {
    package var description: String {
        switch self {
        case .following(let reign): "following \(reign)"
        case .acquiring(let from, let wanted): "asking \(from) for epoch \(wanted)"
        case .receiving(let from, let grant):
            "receiving epoch \(grant.heir.epoch) from \(from), up to change \(grant.finalSequence)"
        case .declining(let from, let declined): "declining epoch \(declined) of \(from)"
        case .owning(let epoch, let holder):
            "owning at epoch \(epoch)" + (holder.map { ", held by \($0)" } ?? "")
        case .sealing(let epoch, let heir): "sealing epoch \(epoch) for \(heir)"
        case .sealed(let epoch, let grant):
            "sealed epoch \(epoch) for \(grant.heir), up to change \(grant.finalSequence)"
        case .reclaiming(let epoch, let grant): "reclaiming epoch \(epoch) from \(grant.heir)"
        case .retired(let reign): "retired, owned by \(reign)"
        case .fenced(let epoch, let by, let owner):
            "fenced: epoch \(epoch) was overruled by \(owner.map { "\(Reign($0, by))" } ?? "epoch \(by)")"
        }
    }
}
