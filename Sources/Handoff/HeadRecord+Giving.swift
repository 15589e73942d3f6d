internal import VolumeModel

/// The side of a hand-off that gives the head away: seal, answer, and take back what was declined.
extension HeadRecord {
    mutating func sealRequested(
        by: SiteID, after known: Epoch, wanted: Epoch
    ) throws(HandoffError) -> [Action] {
        guard wanted > known else { throw .implausible("epoch \(wanted) after epoch \(known)") }
        let heir = Reign(by, wanted)
        switch role {
        case .owning(let epoch, _):
            // Somebody knows a later reign than ours: we were overruled, or one of us is mistaken.
            guard known <= epoch else {
                guard known.line > epoch.line else {
                    throw .contradiction("\(Reign(site, epoch)), and \(by) knows of epoch \(known)")
                }
                return fence(by: known, owner: nil)
            }
            guard known == epoch else { throw .sealRefused(.reigning(Reign(site, epoch))) }
            guard wanted > spent else { throw .sealRefused(.spent(through: spent)) }
            if let user = user(askedFor: by) { throw .sealRefused(.inUse(user)) }
            guard retentions.count < Self.dependencyLimit else {
                throw .sealRefused(.tooManyRetentions(limit: Self.dependencyLimit))
            }
            spent = wanted
            role = .sealing(epoch, heir: heir)
            return [.stopServing(epoch), .readTail(heir: heir)]
        case .sealing(_, let promised):
            guard promised == heir else { throw .sealRefused(.promised(to: promised)) }
            return actionsAfterRestart()
        case .sealed(let epoch, let grant), .reclaiming(let epoch, let grant):
            guard grant.heir == heir else { throw .sealRefused(.promised(to: grant.heir)) }
            return [.grantSeal(after: epoch, grant)]
        case .following(let reign), .retired(let reign), .acquiring(let reign, _),
            .receiving(let reign, _), .declining(let reign, _):
            throw .sealRefused(.reigning(reign))
        case .fenced(_, let by, let owner):
            throw .sealRefused(owner.map { .reigning(Reign($0, by)) } ?? .overruled(by: by))
        }
    }

    mutating func tailRead(heir: Reign, finalSequence: SequenceNumber) throws(HandoffError) -> [Action] {
        let grant = Grant(
            heir: heir, finalSequence: finalSequence,
            handover: heir.owner.site == site.site && isSettled ? handover : nil)
        switch role {
        case .sealing(let epoch, heir):
            guard finalSequence >= .zero else { throw .implausible("sequence number \(finalSequence)") }
            role = .sealed(epoch, grant: grant)
            return [.grantSeal(after: epoch, grant)]
        // Nothing is written after a seal: whoever reads again reads the same.
        case .sealed(let epoch, let sealed), .reclaiming(let epoch, let sealed):
            guard sealed.heir == heir else { return [] }
            guard sealed == grant else {
                throw .contradiction(
                    "epoch \(epoch) ended at \(sealed.finalSequence), and now at \(finalSequence)")
            }
            return actionsAfterRestart()
        // Too late: taken back, or taken, in the meantime.
        default: return []
        }
    }

    /// The heir will never begin: this site may go on, under an epoch above the declined one.
    mutating func declined(by: SiteID, wanted: Epoch) throws(HandoffError) -> [Action] {
        let decliner = Reign(by, wanted)
        switch role {
        case .sealing(_, let heir):
            guard heir == decliner else { return [] }
            return try resume() + announceKnown(to: by)
        case .sealed(let epoch, let grant), .reclaiming(let epoch, let grant):
            // Another epoch says nothing about this one: the site may have owned it before.
            guard grant.heir == decliner else {
                return grant.heir.owner == by ? [.grantSeal(after: epoch, grant)] : []
            }
            return try resume() + announceKnown(to: by)
        case .owning:
            // Its request, should it still arrive, is now refused as spent.
            spent = max(spent, wanted)
            return forget(decliner) + announceKnown(to: by)
        case .following, .retired, .acquiring, .receiving, .declining, .fenced:
            return forget(decliner) + announceKnown(to: by)
        }
    }

    /// An heir that will never begin needs nothing: it was passed over by force. What was sealed for it, and went
    /// nowhere, is nowhere else.
    private mutating func forget(_ heir: Reign) -> [Action] {
        guard let index = retentions.firstIndex(where: { $0.grant.heir == heir }),
            let sealed = retentions[index].unknownAfter
        else { return [] }
        let retention = retentions.remove(at: index)
        if !retention.mayHaveChanged {
            divergences.append(Divergence(epoch: sealed, headReign: retention.headReign))
        }
        return mayDiscard ? [.mayDiscard] : []
    }

    func announceKnown(to peer: SiteID) -> [Action] {
        guard let reign = knownReign else { return [] }
        return [.announce(reign, to: peer)]
    }

    // MARK: overruled

    mutating func fence(by epoch: Epoch, owner: SiteID?) -> [Action] {
        let own = knownEpoch
        // What is kept of it is of a spent epoch, also where it was raised past the one that is told.
        spent = max(spent, epoch, min(own.next, .highest))
        role = .fenced(own, by: epoch, owner: owner)
        return [.stopServing(own), .keepDivergence(under: own)]
    }

    mutating func divergenceKept(under kept: Epoch) throws(HandoffError) -> [Action] {
        guard case .fenced(let epoch, let by, let owner) = role, kept == epoch else { return [] }
        // It is asked for again once the owner is known.
        guard let owner else { throw .overruled(under: epoch, by: by) }
        role = .retired(Reign(owner, by))
        divergences.append(Divergence(epoch: epoch, headReign: headReign))
        return []
    }
}
