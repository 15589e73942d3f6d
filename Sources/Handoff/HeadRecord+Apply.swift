internal import VolumeModel

extension HeadRecord {
    /// Takes one event. Does no I/O.
    ///
    /// - Returns: What to do once the record is durable; the same event again changes nothing, though it may
    ///   ask for the same actions again.
    /// - Throws: When the event is refused; the record is then as it was.
    package mutating func apply(_ event: Event) throws(HandoffError) -> [Action] {
        var next = self
        var actions = try next.handle(event)
        actions += next.releaseSourcesNobodyNeeds()
        // Of a reign that is over nobody reads any more.
        if case .owning = next.role {} else { next.readers = [] }
        self = next
        return actions
    }

    private mutating func handle(_ event: Event) throws(HandoffError) -> [Action] {
        switch event {
        case .prepare(let reign): return try prepare(reign)
        case .takeOver: return try takeOver()
        case .overrule(let epoch, let wanted, let base):
            try check(epochs: epoch)
            try check(epochs: wanted)
            return try overrule(epoch, wanted: wanted, base: base)
        case .abort: return abort()
        case .leave: return try leave()
        case .forgetDivergence(let epoch):
            divergences.removeAll { $0.epoch == epoch }
            return mayDiscard ? [.mayDiscard] : []
        case .attach(let holder): return try attach(holder)
        case .admit(let reader): return try admit(reader)
        case .unmounted(let node): return unmounted(node)
        case .detach(let node): return try detach(node)
        case .evict(let node): return try evict(node)
        case .tailRead(let heir, let sequence): return try tailRead(heir: heir, finalSequence: sequence)
        case .caughtUp(let wanted, let sequence): return try caughtUp(wanted: wanted, sequence: sequence)
        case .flattened(let reign): return flattened(reign)
        case .divergenceKept(let epoch): return try divergenceKept(under: epoch)
        case .sealRequested(let by, let known, let wanted):
            try check(peer: by, epochs: known, wanted)
            return try sealRequested(by: by, after: known, wanted: wanted)
        case .sealGranted(let by, let epoch, let grant):
            try check(peer: by, epochs: epoch, grant.heir.epoch)
            return try sealGranted(by: by, after: epoch, grant: grant)
        case .sealRefused(let by, let wanted, let refusal):
            try check(peer: by, epochs: wanted)
            return try sealRefused(by: by, wanted: wanted, refusal)
        case .declineRequested(let reign, let wanted):
            try check(peer: reign.owner, epochs: reign.epoch, wanted)
            return try declineRequested(reign: reign, wanted: wanted)
        case .declined(let by, let wanted):
            try check(peer: by, epochs: wanted)
            return try declined(by: by, wanted: wanted)
        case .ownerAnnounced(let reign):
            try check(epochs: reign.epoch)
            return try learn(reign)
        case .reignTold(let told):
            try check(epochs: told.reign.epoch)
            if let handover = told.handover {
                try check(epochs: handover)
                guard handover <= told.reign.epoch else { throw .implausible("\(told)") }
            }
            return try hear(told)
        case .claimed(let heir, let after, let sequence):
            try check(peer: heir.owner, epochs: heir.epoch, after)
            return try claimed(heir: heir, after: after, through: sequence)
        case .claimAnswered(let by, let reign, let isKept):
            try check(peer: by, epochs: reign)
            return claimAnswered(by: by, reign: reign, isKept: isKept)
        case .releaseRequested(let heir):
            try check(peer: heir.owner, epochs: heir.epoch)
            return try releaseRequested(heir: heir)
        case .released(let by, let reign):
            try check(peer: by, epochs: reign)
            return try released(by: by, reign: reign)
        }
    }

    // MARK: wishes

    private mutating func prepare(_ reign: Reign) throws(HandoffError) -> [Action] {
        try check(epochs: reign.epoch)
        let actions = try learn(reign)
        switch role {
        case .retired(let reign):
            role = .following(reign)
            return actions
        case .sealing(_, let heir): throw .promised(to: heir)
        case .sealed(_, let grant), .reclaiming(_, let grant): throw .promised(to: grant.heir)
        case .fenced(let epoch, let by, _):
            // Who offers it may be the one that is not known yet.
            guard actions.isEmpty else { return actions }
            throw .overruled(under: epoch, by: by)
        case .following, .acquiring, .receiving, .declining, .owning: return actions
        }
    }

    private mutating func takeOver() throws(HandoffError) -> [Action] {
        switch role {
        case .owning(let epoch, _): return [.serve(epoch)]
        case .following(let reign), .retired(let reign), .declining(let reign, _):
            return try acquire(from: reign)
        case .acquiring, .receiving: return actionsAfterRestart()
        case .sealing:
            // The heir was not answered, so it cannot have begun.
            return try resume()
        case .sealed(let epoch, let grant), .reclaiming(let epoch, let grant):
            role = .reclaiming(epoch, grant: grant)
            return [.requestDecline(heir: grant.heir, after: epoch)]
        case .fenced(let epoch, let by, _): throw .overruled(under: epoch, by: by)
        }
    }

    /// The intent to own the head after this reign, under an epoch that nobody can have used.
    mutating func acquire(from reign: Reign) throws(HandoffError) -> [Action] {
        guard sources.count < Self.dependencyLimit else {
            throw .implausible("more than \(Self.dependencyLimit) sources: wait until some are flattened")
        }
        spent = max(spent, reign.epoch)
        let wanted = try unspentEpoch()
        role = .acquiring(from: reign, wanted: wanted)
        return [.requestSeal(of: reign, wanted: wanted)]
    }

    private mutating func abort() -> [Action] {
        switch role {
        case .acquiring(let from, let wanted): return decline(wanted, from: from)
        case .receiving(let from, let grant): return decline(grant.heir.epoch, from: from)
        case .declining: return actionsAfterRestart()
        case .reclaiming(let epoch, let grant):
            role = .sealed(epoch, grant: grant)
            return [.grantSeal(after: epoch, grant)]
        case .following, .retired, .owning, .sealing, .sealed, .fenced: return []
        }
    }

    private mutating func leave() throws(HandoffError) -> [Action] {
        switch role {
        case .following(let reign):
            role = .retired(reign)
            return actionsAfterRestart()
        case .retired: return actionsAfterRestart()
        case .acquiring, .receiving, .declining, .owning, .sealing, .sealed, .reclaiming, .fenced:
            throw .needed
        }
    }

    private mutating func decline(_ wanted: Epoch, from: Reign) -> [Action] {
        spent = max(spent, wanted)
        role = .declining(from: from, declined: wanted)
        return [.tellDeclined(wanted, to: from.owner)]
    }

    /// Begins a reign of this site after its own, because the heir cannot begin or never will.
    mutating func resume() throws(HandoffError) -> [Action] {
        let epoch = try unspentEpoch()
        spent = epoch
        doubtEarlierEpochs()
        switch role {
        case .sealing(_, let heir): takeBack(heir)
        case .sealed(_, let grant), .reclaiming(_, let grant): takeBack(grant.heir)
        default: break
        }
        role = .owning(epoch, holder: nil)
        return [.serve(epoch)]
    }

    /// The site has the head by this hand-over; nil: it is not known. What was promised before it is over.
    mutating func getHead(by handover: Epoch?) {
        (self.handover, handedTo) = (handover, nil)
        (takenBack, doubtedThrough) = ([], nil)
    }

    /// Nothing that was promised to other sites since the site got the head may begin yet.
    var isSettled: Bool { takenBack.isEmpty && doubtedThrough == nil }

    private mutating func takeBack(_ heir: Reign) {
        // A node of this site would have begun with the same hand-over.
        guard heir.owner.site != site.site else { return }
        takenBack.append(heir.epoch)
        guard takenBack.count > Self.takenBackLimit else { return }
        let forgotten = takenBack.removeFirst()
        doubtedThrough = max(doubtedThrough ?? forgotten, forgotten)
    }

    /// Earlier releases noted neither a hand-over nor what was declined: up to the epoch that was found nothing is certain. Of
    /// what begins later it is.
    mutating func doubtEarlierEpochs() {
        if handover == nil, doubtedThrough == nil { doubtedThrough = knownEpoch }
    }

    // MARK: mounts

    private mutating func attach(_ holder: Holder) throws(HandoffError) -> [Action] {
        guard case .owning(let epoch, let present) = role else { throw notOwner }
        if let present, present.node != holder.node { throw .inUse(present) }
        if !readers.isEmpty, let user { throw .inUse(user) }
        let attachment = holder.attachment ?? present?.attachment
        role = .owning(epoch, holder: Holder(node: holder.node, pod: holder.pod, attachment: attachment))
        return [.serve(epoch)]
    }

    private mutating func admit(_ reader: Reader) throws(HandoffError) -> [Action] {
        guard case .owning(let epoch, let holder) = role else { throw notOwner }
        if let holder { throw .inUse(holder) }
        if readers.contains(where: { $0.member == reader.member }) { return [.serve(epoch)] }
        guard readers.count < Self.readerLimit else {
            throw .implausible("more than \(Self.readerLimit) nodes that read one volume")
        }
        let isFirst = readers.isEmpty
        readers.append(reader)
        readers.sort { $0.member < $1.member }
        return isFirst ? try beginAnew(after: epoch) : [.serve(epoch)]
    }

    private mutating func unmounted(_ node: String) -> [Action] {
        guard case .owning(let epoch, let present?) = role, present.node == node else { return [] }
        let rest = present.attachment.map { Holder(node: node, pod: nil, attachment: $0) }
        role = .owning(epoch, holder: rest)
        return []
    }

    private mutating func detach(_ node: String) throws(HandoffError) -> [Action] {
        guard case .owning(let epoch, let present) = role else { return [] }
        if present?.node == node { role = .owning(epoch, holder: nil) }
        guard readers.contains(where: { $0.node == node }) else { return [] }
        readers.removeAll { $0.node == node }
        return readers.isEmpty ? try beginAnew(after: epoch) : []
    }

    private mutating func evict(_ node: String) throws(HandoffError) -> [Action] {
        guard case .owning(let epoch, let present?) = role, present.node == node else { return [] }
        return try beginAnew(after: epoch)
    }

    /// The owner goes on under a new epoch, held by nobody: nothing counts any more that was allowed under the old one.
    private mutating func beginAnew(after epoch: Epoch) throws(HandoffError) -> [Action] {
        let raised = try unspentEpoch()
        doubtEarlierEpochs()
        spent = raised
        role = .owning(raised, holder: nil)
        return [.stopServing(epoch), .serve(raised)]
    }

    private var notOwner: HandoffError {
        switch role {
        case .sealing(_, let heir): .promised(to: heir)
        case .sealed(_, let grant), .reclaiming(_, let grant): .promised(to: grant.heir)
        case .fenced(let epoch, let by, _): .overruled(under: epoch, by: by)
        case .following, .acquiring, .receiving, .declining, .owning, .retired: .notOwner(knownReign)
        }
    }

    // MARK: helpers of all events

    func unspentEpoch() throws(HandoffError) -> Epoch {
        guard spent < .highest else { throw .implausible("no epoch is left above \(spent)") }
        return spent.next
    }

    private func check(peer: SiteID, epochs: Epoch...) throws(HandoffError) {
        guard peer != site else { throw .implausible("a message of this site from elsewhere") }
        for epoch in epochs { try check(epochs: epoch) }
    }

    private func check(epochs epoch: Epoch) throws(HandoffError) {
        guard Epoch.first <= epoch, epoch <= .highest else { throw .implausible("epoch \(epoch)") }
    }
}
