internal import VolumeModel

/// Takeover by force, when the owner's site is gone: no seal, hence no promise that nothing is lost.
///
/// The new epoch lies so far above that it wins wherever it is heard of. Whoever it overrules is fenced by the
/// first message that carries it, and keeps what nobody else has seen as a divergence.
extension HeadRecord {
    mutating func overrule(
        _ epoch: Epoch, wanted: Epoch, base: TakeoverBase
    ) throws(HandoffError) -> [Action] {
        let overruled: Reign
        var ended: [Action] = []
        switch role {
        case .owning(wanted, _): return actionsAfterRestart()
        // Another site owns the head as well, by what neither of them can judge: this is the one that counts.
        case .owning(let own, nil) where base == .kept(headReign: headReign) && readers.isEmpty:
            overruled = Reign(site, own)
            ended = [.stopServing(own)]
        case .owning(_, let holder?) where base == .kept(headReign: headReign): throw .inUse(holder)
        case .owning, .sealing: throw .needed
        case .fenced(let own, let by, .some): throw .overruled(under: own, by: by)
        // Perhaps by a reign of this site's own, of which only others know. What is here may be all that is left.
        case .fenced(_, let by, nil): overruled = Reign(site, by)
        // The heir may have begun, and then it is the one that is overruled.
        case .sealed(_, let grant), .reclaiming(_, let grant): overruled = grant.heir
        case .following(let reign), .retired(let reign), .acquiring(let reign, _), .receiving(let reign, _),
            .declining(let reign, _):
            overruled = reign
        }
        guard overruled.epoch == epoch else { throw .notReigning(epoch, known: overruled) }
        guard wanted > spent, wanted.number / Epoch.takeoverStride > spent.number / Epoch.takeoverStride
        else { throw .implausible("epoch \(wanted) for a takeover after epoch \(spent)") }
        let announcements = try begin(with: base, wanted: wanted, after: overruled)
        spent = wanted
        getHead(by: wanted)
        role = .owning(wanted, holder: nil)
        return ended + [.serve(wanted)] + announcements
    }

    /// Puts the head that the takeover begins with in its place.
    private mutating func begin(
        with base: TakeoverBase, wanted: Epoch, after overruled: Reign
    ) throws(HandoffError) -> [Action] {
        switch (base, role) {
        // The head goes on as it is. Whose reign it was that is overruled, nobody knows: all are told in time.
        case (.kept(headReign), .fenced), (.kept(headReign), .owning): return []
        case (_, .fenced): throw .nothingToBeginWith
        case (.kept(headReign), .sealed(let epoch, let grant)),
            (.kept(headReign), .reclaiming(let epoch, let grant)):
            retentions.append(
                Retention(
                    grant: grant, headReign: headReign, mayHaveChanged: true, unknownAfter: epoch))
        case (_, .sealed), (_, .reclaiming): throw .nothingToBeginWith
        case (.kept(let reign), _):
            guard retentions.contains(where: { $0.headReign == reign }) else { throw .nothingToBeginWith }
            retentions = retentions.map { kept in
                guard kept.headReign == reign else { return kept }
                return Retention(
                    grant: kept.grant, headReign: reign, mayHaveChanged: true,
                    unknownAfter: kept.unknownAfter)
            }
            headReign = reign
        case (.followed(let sequence), _):
            guard sequence > .zero else { throw .nothingToBeginWith }
            guard sources.count < Self.dependencyLimit else {
                throw .implausible("more than \(Self.dependencyLimit) sources")
            }
            headReign = wanted
            let claim = Source.Claim(after: overruled.epoch, through: sequence)
            sources.append(
                Source(site: overruled.owner, reign: wanted, phase: .fetching, claim: claim))
        }
        return [.announce(Reign(site, wanted), to: overruled.owner)]
    }

    /// The heir took over by force a head that this site owned, and has seen of it what is said.
    mutating func claimed(
        heir: Reign, after: Epoch, through sequence: SequenceNumber
    ) throws(HandoffError) -> [Action] {
        guard heir.epoch > after, sequence >= .zero else {
            throw .implausible("a claim of \(heir) after epoch \(after)")
        }
        let actions = try learn(heir)
        if isKeepingBytes(for: heir) { return actions + [.answerClaim(of: heir, isKept: true)] }
        guard let head = headOwned(at: after), retentions.count < Self.dependencyLimit else {
            return actions + [.answerClaim(of: heir, isKept: false)]
        }
        retentions.append(
            Retention(
                grant: Grant(heir: heir, finalSequence: sequence), headReign: head, mayHaveChanged: true))
        return actions + [.answerClaim(of: heir, isKept: true)]
    }

    /// The head that this site owned at an epoch, if it still has it.
    private func headOwned(at epoch: Epoch) -> Epoch? {
        if hasOwnHead, headReign <= epoch { return headReign }
        if let kept = retentions.first(where: { $0.headReign <= epoch && epoch < $0.grant.heir.epoch }) {
            return kept.headReign
        }
        return divergences.first { $0.headReign <= epoch && epoch <= $0.epoch }?.headReign
    }

    mutating func claimAnswered(by: SiteID, reign: Epoch, isKept: Bool) -> [Action] {
        guard let index = sources.firstIndex(where: { $0.site == by && $0.reign == reign }) else {
            return isKept ? [.requestRelease(of: by, reign: reign)] : []
        }
        guard sources[index].claim != nil else { return [] }
        if isKept {
            sources[index].claim = nil
        } else {
            // What is missing is lost, but for what the overruled owner keeps.
            sources.remove(at: index)
        }
        return []
    }
}
