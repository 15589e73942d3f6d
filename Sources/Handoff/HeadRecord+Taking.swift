internal import VolumeModel

/// The side of a hand-off that takes the head: ask, receive, begin, or decline for good.
extension HeadRecord {
    mutating func sealGranted(by: SiteID, after: Epoch, grant: Grant) throws(HandoffError) -> [Action] {
        guard grant.heir.owner == site, grant.heir.epoch > after, grant.finalSequence >= .zero,
            grant.handover.map({ Epoch.first <= $0 && $0 <= after }) ?? true
        else {
            throw .implausible("a grant for \(grant.heir) up to \(grant.finalSequence)")
        }
        switch role {
        case .acquiring(let from, grant.heir.epoch):
            // The owner may have begun a later reign of its own than the one we knew.
            guard from.owner == by, from.epoch == after else {
                throw .contradiction("\(from) was asked for epoch \(grant.heir.epoch), and \(by) grants it")
            }
            role = .receiving(from: from, grant: grant)
            return [.fetchTail(from: by, grant: grant)]
        case .receiving(let from, let present) where present.heir == grant.heir:
            // An owner of a newer release may tell more of it.
            guard present.finalSequence == grant.finalSequence, from == Reign(by, after) else {
                throw .contradiction(
                    "\(from) granted \(grant.heir) up to \(present.finalSequence), and \(by) up to "
                        + "\(grant.finalSequence)")
            }
            return actionsAfterRestart()
        default:
            return try answer(by, reign: after, wanted: grant.heir.epoch)
        }
    }

    mutating func declineRequested(reign: Reign, wanted: Epoch) throws(HandoffError) -> [Action] {
        guard wanted > reign.epoch else { throw .implausible("epoch \(wanted) after epoch \(reign.epoch)") }
        // Nothing has begun here under a wanted epoch: give way to the owner, which wants it back.
        switch role {
        case .acquiring(let from, let own) where own <= wanted && from.epoch <= reign.epoch:
            role = .following(from)
        case .receiving(let from, let grant) where grant.heir.epoch <= wanted && from.epoch <= reign.epoch:
            role = .following(from)
        default: break
        }
        return try answer(reign.owner, reign: reign.epoch, wanted: wanted)
    }

    /// Tells a sealed owner what became of its promise: taken, or never to be taken.
    private mutating func answer(
        _ owner: SiteID, reign: Epoch, wanted: Epoch
    ) throws(HandoffError) -> [Action] {
        switch role {
        // This site was to begin under that epoch, and has not: somebody has owned the head between two epochs of one reign
        // of its own. Its state went back in time, or the other one's did; who asks finds out which.
        case .owning(let epoch, _) where epoch >= wanted && epoch.line == wanted.line && headReign < wanted,
            .sealing(let epoch, _) where epoch >= wanted && epoch.line == wanted.line && headReign < wanted:
            throw .contradiction(
                "\(Reign(site, epoch)), and \(Reign(owner, reign)), which grants epoch \(wanted)")
        default: break
        }
        if knownEpoch >= wanted {
            return announceKnown(to: owner)
                + (wasPassedOver(wanted) ? [.tellDeclined(wanted, to: owner)] : [])
        }
        switch role {
        case .owning(let epoch, _) where reign >= epoch, .sealing(let epoch, _) where reign >= epoch:
            guard reign.line > epoch.line else {
                throw .contradiction("\(Reign(site, epoch)), and \(Reign(owner, reign))")
            }
            return fence(by: reign, owner: owner)
        case .receiving(_, let grant) where grant.heir.epoch <= wanted:
            // We hold a grant, and here is another, of a reign that we do not know: a person must look.
            throw .contradiction("\(owner) grants epoch \(wanted), and \(grant.heir) was granted")
        case .acquiring(let from, let own) where own <= wanted:
            // An offer that answers no request of ours. Ask again above it.
            spent = max(spent, wanted)
            return try acquire(from: from) + [.tellDeclined(wanted, to: owner)]
        default:
            spent = max(spent, wanted)
            return [.tellDeclined(wanted, to: owner)]
        }
    }

    /// Whether a takeover by force came before this site could begin under an epoch that was promised to it.
    ///
    /// What began here has a source until the giver has confirmed that it is needed no more, and then the giver
    /// does not ask.
    private func wasPassedOver(_ wanted: Epoch) -> Bool {
        if case .fenced = role { return false }
        return knownEpoch.line > wanted.line && !sources.contains { $0.reign == wanted }
    }

    mutating func sealRefused(
        by: SiteID, wanted refused: Epoch, _ refusal: SealRefusal
    ) throws(HandoffError) -> [Action] {
        switch refusal {
        case .reigning(let reign):
            try checkHint(reign)
            // Who has promised the head asks for nothing any more, and hears from its heir.
            switch role {
            case .sealed(let epoch, _) where reign.epoch.line == epoch.line,
                .reclaiming(let epoch, _) where reign.epoch.line == epoch.line:
                return []
            default: break
            }
            // Anybody who knows a later reign helps, whatever became of the request.
            guard reign.owner != site, reign.epoch > knownEpoch else {
                return turn(from: by, wanted: refused, to: reign)
            }
            return try learn(reign)
        case .spent(let through):
            guard case .acquiring(let from, let wanted) = role, from.owner == by, wanted == refused,
                through >= wanted
            else { return [] }
            guard through < .highest else { throw .implausible("epoch \(through)") }
            spent = max(spent, through)
            return try acquire(from: from)
        // Whoever wished it here is told so, and wishes it again when it likes: a volume that changes hands
        // long after somebody was told that it cannot would surprise.
        case .inUse, .promised, .overruled, .tooManyRetentions:
            if case .acquiring(let from, let wanted) = role, from.owner == by, wanted == refused {
                role = .following(from)
            }
            return []
        }
    }

    /// Whom this site took for the owner says that an earlier reign is the present one: it had gone back in time itself,
    /// and has raised its epoch before it heard so. It is believed, for it speaks against itself. The request is dropped, so
    /// that two that name each other keep nobody asking in circles.
    private mutating func turn(from peer: SiteID, wanted refused: Epoch, to reign: Reign) -> [Action] {
        guard case .acquiring(let from, let wanted) = role, from.owner == peer, wanted == refused,
            reign.owner != site, reign.owner != peer, reign.epoch <= from.epoch,
            // Of a hand-over of its own it knows better.
            reign.epoch >= lastHandover ?? .first
        else { return [] }
        // Whoever is asked next has seen none of these.
        spent = max(spent, wanted)
        role = .following(reign)
        return []
    }

    private func checkHint(_ reign: Reign) throws(HandoffError) {
        guard Epoch.first <= reign.epoch, reign.epoch <= .highest else {
            throw .implausible("epoch \(reign.epoch)")
        }
    }

    /// The catalog is complete up to the grant: this site's reign begins.
    mutating func caughtUp(wanted: Epoch, sequence: SequenceNumber) throws(HandoffError) -> [Action] {
        switch role {
        case .receiving(let from, let grant) where grant.heir.epoch == wanted:
            guard sequence >= grant.finalSequence else {
                throw .notCaughtUp(wanted: wanted, needed: grant.finalSequence)
            }
            spent = wanted
            role = .owning(wanted, holder: nil)
            headReign = wanted
            getHead(by: from.owner.site == site.site ? grant.handover : wanted)
            sources.append(Source(site: from.owner, reign: wanted, phase: .fetching))
            return [.serve(wanted), .announce(grant.heir, to: from.owner)]
        case .owning(wanted, _): return actionsAfterRestart()
        case .acquiring(_, wanted): throw .notCaughtUp(wanted: wanted, needed: nil)
        // Declined, or passed on, in the meantime.
        default: return []
        }
    }

    // MARK: who owns it

    /// A reign that has begun, by its owner's word or by hearsay.
    mutating func learn(_ reign: Reign) throws(HandoffError) -> [Action] {
        let known = knownEpoch
        guard reign.epoch >= known else {
            // Somebody lags behind: an owner that was overruled, perhaps.
            guard case .owning(let own, _) = role, reign.owner != site else { return [] }
            // Or this one was, for in one line nobody else has owned the head since it is here (`hear`).
            guard reign.epoch.line != own.line || reign.epoch <= headReign else {
                throw .contradiction("\(Reign(site, own)), and \(reign)")
            }
            return announceKnown(to: reign.owner)
        }
        if let present = knownReign, reign.epoch == known, reign.owner != present.owner {
            throw .contradiction("\(present), and \(reign)")
        }
        switch role {
        // In one line the epoch does not decide who is right (`hear`).
        case .owning(let own, _) where reign.epoch > own && reign.epoch.line == own.line,
            .sealing(let own, _) where reign.epoch > own && reign.epoch.line == own.line:
            throw .contradiction("\(Reign(site, own)), and \(reign)")
        default: break
        }
        if reign.owner == site, reign.epoch > known || knownReign == nil {
            return try learnOfOwn(reign.epoch)
        }
        switch role {
        case .following: role = .following(reign)
        case .retired: role = .retired(reign)
        case .declining: role = .following(reign)
        case .acquiring(_, let wanted):
            guard reign.epoch > known else { return [] }
            spent = max(spent, wanted)
            return try acquire(from: reign)
        case .receiving(_, let grant):
            guard reign.epoch > known else { return [] }
            guard reign.epoch != grant.heir.epoch else {
                throw .contradiction("\(reign) began, but \(grant.heir) was granted")
            }
            // Only a takeover by force can be past a grant that we hold: what we have is not the newest. In one line it is
            // a site that went back in time.
            guard reign.epoch.line > known.line else {
                throw .contradiction("\(reign) began, but \(grant.heir) was granted")
            }
            spent = max(spent, grant.heir.epoch)
            return try acquire(from: reign)
        case .owning, .sealing:
            return reign.epoch > known ? fence(by: reign.epoch, owner: reign.owner) : []
        case .sealed(_, let grant), .reclaiming(_, let grant):
            return try heirAnnounced(reign, grant: grant)
        case .fenced(let own, _, let owner):
            role = .fenced(own, by: reign.epoch, owner: reign.owner)
            spent = max(spent, reign.epoch)
            return owner == nil ? [.keepDivergence(under: own)] : []
        }
        spent = max(spent, reign.epoch)
        return []
    }

    private mutating func heirAnnounced(_ reign: Reign, grant: Grant) throws(HandoffError) -> [Action] {
        let sealed = knownEpoch
        guard reign.owner != site else { return [] }
        guard reign == grant.heir || reign.epoch > grant.heir.epoch else {
            throw .contradiction("\(reign) began, but \(grant.heir) was granted")
        }
        let isWanted = if case .reclaiming = role { true } else { false }
        // A node of this site has it by the hand-over by which the site got it.
        if grant.heir.owner.site == site.site {
            handover = lastHandover
        } else if reign.owner.site == grant.heir.owner.site, reign.epoch.line == grant.heir.epoch.line {
            (handover, handedTo) = (grant.heir.epoch, grant.heir.owner)
        }
        spent = max(spent, reign.epoch)
        role = .retired(reign)
        retentions.append(
            Retention(
                grant: grant, headReign: headReign, unknownAfter: reign == grant.heir ? nil : sealed))
        guard isWanted else { return [] }
        // That the heir began must be kept even if nothing more can be asked for.
        return (try? acquire(from: reign)) ?? []
    }
}
