package import VolumeModel

/// What a site finds out whose whole state went back in time, registry and data together, as a machine's does when its
/// snapshot is put back.
///
/// It takes itself for the owner that it was, and nothing at the site can tell. Other sites can: a later reign began, and
/// some of them know it. So it asks them, and tells them what it takes for true. But whoever went back may be the one that
/// is asked, and may have raised its epoch since, as often as readers came and went: in one line of reigns the epoch alone
/// says nothing. What decides is the last hand-over between sites that each of them knows of (`handover`):
///
/// **An owner stops only when it is told of a hand-over after the one by which its site got the head.**
///
/// - Hand-overs of one line have growing epochs: h1 < h2 < … < hn. Each began with the seal of the owner before it, and that
///   owner's record names the hand-over before as its own. Nothing else is ever told as a hand-over: neither what is wanted,
///   promised or declined, nor a raise, nor a node that passes the head to another one of its site.
/// - Whoever is right began with hn, so it is told of none after its own, and never stops: by an asker, by who was asked, or
///   by hearsay. Whoever is of before began with hk, k < n, however often it raised its epoch: it stops as soon as it is
///   told hn, or any after hk. Its own epoch may be above then.
/// - A heir may decline, and then its state goes back to before: it begins all the same, with the owner's old seal. So the
///   owner keeps what it has taken back, and does not stop for it: it is contradicted.
/// - Where its own hand-over is unknown, because an earlier release did not note it, the epoch that was found stands for it,
///   which is not below: then it may go on, but who is right does not stop. Who is asked tells such a one all that it knows.
/// - A third site knows of the reigns by hearsay, and of hand-overs only those of which it was a part. It tells the last of
///   them, and who got the head by it, if that is news to the asker. Otherwise it has only another owner's name, at no
///   earlier epoch: nobody stops for that, and both owners say that they are contradicted, until one of them is told a
///   hand-over.
/// - A site that has promised the head waits for its heir, and believes it only what the heir can know: that it has begun.
///   An heir that went back, and has raised its epoch past what was promised, does not say so (`answer`).
/// - By force a new line begins, and the higher line counts, as everywhere.
/// - What is told late is of an earlier reign by then, and changes nothing.
///
/// One thing is not told apart: if who went back has handed the head to a third site before it heard of anything, that
/// hand-over is a later one.
extension KnownReign {
    /// Whether who owns under the other reign is to stop when it is told this one: by force, or by a hand-over after its own.
    package func isLater(than own: KnownReign) -> Bool {
        guard reign.epoch.line == own.reign.epoch.line else { return reign.epoch > own.reign.epoch }
        return handover.map { $0 > own.handover ?? own.reign.epoch } ?? false
    }

    /// Whether it cannot be told apart from a later one, or may be: of no earlier epoch, or of the same hand-over.
    package func contests(_ own: KnownReign) -> Bool {
        guard reign.owner.site != own.reign.owner.site else { return false }
        return reign.epoch >= own.reign.epoch || handover != nil && handover == own.handover
    }
}

extension HeadRecord {
    /// The reign of this site that others are asked about: the one under which it writes, or which was overruled by it does
    /// not know whom. It has begun, so that the question may count as its announcement. nil: nothing is written here.
    package var unconfirmedReign: KnownReign? {
        switch role {
        case .owning(let epoch, _), .sealing(let epoch, _):
            KnownReign(Reign(site, epoch), handover: lastHandover)
        // What it has heard of since is not what it wrote under.
        case .fenced(let epoch, _, nil): KnownReign(Reign(site, epoch))
        case .following, .acquiring, .receiving, .declining, .sealed, .reclaiming, .retired, .fenced: nil
        }
    }

    /// The last hand-over between sites that is known here. Of an owner's own reign it is the last of all.
    package var lastHandover: Epoch? {
        if let handover { return handover }
        // Of earlier releases: of a site that is one node every head began with a hand-over, but for one that was kept and
        // goes on by force.
        return site == site.site && headReign.line == knownEpoch.line ? headReign : nil
    }

    /// Whether what is told as a hand-over may be one that was taken back here.
    private func isDoubtful(_ told: Epoch) -> Bool {
        switch role {
        case .owning(let epoch, _), .sealing(let epoch, _):
            takenBack.contains(told) || told <= doubtedThrough ?? (handover == nil ? epoch : Epoch(0))
        default: false
        }
    }

    /// The last hand-over that this site was a part of, or was told of, and who got the head by it: the present owner's site,
    /// as far as is known, or who has given it on.
    private func handoverAtFirstHand(before known: Reign) -> KnownReign? {
        guard let last = lastHandover, last.line == known.epoch.line, last <= known.epoch else { return nil }
        guard let handedTo, handedTo.site != known.owner.site else {
            return KnownReign(known, handover: last)
        }
        return KnownReign(Reign(handedTo, last), handover: last)
    }

    /// What a site is told that takes this reign for its own and for the present one; nil: nothing here speaks against it.
    ///
    /// That is a hand-over after its own, whoever owns the head by now; a reign by force; or, without a hand-over, another
    /// site's reign of no earlier epoch. Where that one is of its own site it may have raised its epoch by itself, or handed
    /// the head from node to node, and nobody else has written.
    package func objection(to asked: KnownReign) -> KnownReign? {
        guard let known = knownReign else { return nil }
        let reign = asked.reign
        guard known.epoch.line == reign.epoch.line else {
            return known.epoch > reign.epoch ? KnownReign(known) : nil
        }
        let last = handoverAtFirstHand(before: known)
        if let last, last.isLater(than: asked) { return last }
        // Of one's own reign it is the last of all; of another's it is only the last that is known.
        let isOver = asked.handover.map { isDoubtful($0) } ?? false
        let told = KnownReign(known, handover: known.owner == site && !isOver ? last?.handover : nil)
        if told.contests(asked) { return told }
        // Who does not know by which hand-over it got the head judges for itself.
        guard asked.handover == nil, let last, last.reign.owner.site != reign.owner.site else { return nil }
        return last
    }

    /// Whether that would change anything here, or contradict what is known, were it told by a site that is believed. Who does not
    /// know by which hand-over it got the head is told all, and judges for itself.
    package func isConcerned(by told: KnownReign) -> Bool {
        var copy = self
        guard let actions = try? copy.apply(.reignTold(told)) else { return true }
        return !actions.isEmpty || copy.role != role
    }

    /// What another site tells of who owns the head. It matters to whoever takes itself for the owner.
    mutating func hear(_ told: KnownReign) throws(HandoffError) -> [Action] {
        guard let own = unconfirmedReign else { return [] }
        let (reign, present) = (told.reign, own.reign)
        guard reign.epoch.line == present.epoch.line else {
            return reign.epoch > present.epoch ? try learn(reign) : []
        }
        let got = own.handover ?? handover ?? doubtedThrough
        if told.isLater(than: KnownReign(present, handover: got)), let handover = told.handover {
            guard !isDoubtful(handover) else { throw .contradiction("\(present), and \(told)") }
            return try concede(to: reign, handedOverAt: handover)
        }
        if case .fenced = role { return [] }
        guard told.contests(own) else { return [] }
        guard let ours = own.handover, let handover = told.handover, handover < ours else {
            throw .contradiction("\(present), and \(reign)")
        }
        // It is the other one that is of before, and it is told so. What begins here next is above all that it used.
        spent = max(spent, reign.epoch)
        return []
    }

    /// This site has handed the head over and has forgotten it.
    private mutating func concede(
        to reign: Reign, handedOverAt told: Epoch
    ) throws(HandoffError) -> [Action] {
        let own = unconfirmedReign?.reign.epoch ?? knownEpoch
        guard own < .highest else { throw .implausible("no epoch is left above \(own)") }
        let actions: [Action]
        if reign.owner == site {
            actions = try learnOfOwn(reign.epoch)
        } else if case .fenced = role {
            actions = try learn(reign)
        } else {
            actions = fence(by: reign.epoch, owner: reign.owner)
        }
        handover = max(handover ?? told, told)
        handedTo = reign.owner.site == site.site ? nil : reign.owner
        return actions
    }

    /// Hears of a reign of this site's own that its record does not know: that is of before. What was written since is not
    /// here, and nothing goes on as if it had never been, unless a person says so (`overrule`).
    mutating func learnOfOwn(_ epoch: Epoch) throws(HandoffError) -> [Action] {
        switch role {
        case .owning, .sealing: return fence(by: epoch, owner: nil)
        case .fenced(let own, let by, nil):
            role = .fenced(own, by: max(by, epoch), owner: nil)
            spent = max(spent, epoch)
            return []
        case .following, .acquiring, .receiving, .declining, .sealed, .reclaiming, .retired, .fenced:
            throw .contradiction("this site is said to own epoch \(epoch) and knows only \(knownEpoch)")
        }
    }
}
