internal import Handoff
internal import Logging
internal import PeerService
internal import VolumeModel

/// Whether other sites know of a later reign than the one that this site takes for its own.
extension VolumeAgent {
    /// What other sites are asked about, and which; nil: nothing. Of a record that is not believed nothing is asked.
    var unconfirmed: (own: KnownReign, sites: Set<SiteID>)? {
        guard !isClosed, obstacle == nil, let own = record.head.unconfirmedReign else { return nil }
        return (own, record.sharedWith)
    }

    /// Right after the start of the process the volume is used, or given away, only when others were asked, as long as
    /// that takes no longer than a moment. So is a reign that begins with a hand-off which was under way in the record that
    /// the process has found.
    func waitForConfirmation() async {
        guard let unconfirmed else { return }
        await context.confirmations.wait(for: unconfirmed.sites)
        askWhereResumed()
        await resumedQuestion?.value
    }

    /// Asks others at once about a reign that may have begun a second time.
    func askWhereResumed() {
        guard isResumingHandoff, resumedQuestion == nil, unconfirmed != nil, !isClosed else { return }
        resumedQuestion = Task {
            await context.confirmations.ask(self, context)
            isResumingHandoff = false
            resumedQuestion = nil
        }
    }

    /// A site was asked, or said so unasked.
    ///
    /// - Parameter told: the later reign that it knows of; nil: none.
    /// - Returns: whether that is noted: else it is to be asked again soon.
    func hear(of told: KnownReign?, from peer: SiteID) async -> Bool {
        guard let told else {
            contests[peer] = nil
            return true
        }
        // Its right may have been taken back since it was asked.
        guard let (own, sites) = unconfirmed, sites.contains(peer.site) else { return true }
        let wasFenced = record.head.role.isFenced
        do {
            try await apply(.reignTold(try await asKnownHere(told)))
        } catch HandoffError.contradiction(let claim) {
            let contest = "sites \(context.site) and \(peer) contradict each other: \(claim)"
            if contests.updateValue(contest, forKey: peer) != contest { logger.error("\(contest)") }
            return true
        } catch HandoffError.implausible(let value) {
            context.misconduct.note(peer, "Confirm", "a later reign of \(value)")
            return true
        } catch {
            // Decided all the same, unless it could not be written down: what follows is asked for again.
            logger.debug("after what site \(peer) has said: \(error)")
        }
        contests[peer] = nil
        guard told.isLater(than: own) else { return true }
        switch record.head.role {
        case .owning(own.reign.epoch, _), .sealing(own.reign.epoch, _): return false
        default: break
        }
        if told.reign.epoch.line == own.reign.epoch.line, !wasFenced {
            logger.error(
                """
                the state of site \(context.site) went back in time: site \(peer) knows of \(told), and here epoch \
                \(own.reign.epoch) was taken for the present one. Nothing is written under it any more, and what was is kept: \
                'godwit volume inspect \(record.name)' tells what there is
                """)
        }
        return true
    }

    /// What another site knows of a node of this one that its own registry does not know any more counts as what this node
    /// has forgotten itself: nobody else can be asked.
    private func asKnownHere(_ told: KnownReign) async throws -> KnownReign {
        let (owner, epoch) = (told.reign.owner, told.reign.epoch)
        guard owner != context.site, owner.site == context.site.site, let members = context.members
        else { return told }
        let placement = try await members.placements(of: id).first { $0.member == owner }
        let isKnown = placement.map { $0.record.head.knownEpoch >= epoch } ?? false
        return isKnown ? told : KnownReign(Reign(context.site, epoch), handover: told.handover)
    }

    /// A site says that it owns the volume, and is not named by it.
    nonisolated func doubt(_ claim: Reign, by peer: SiteID, against own: Reign) {
        guard context.confirmations.isNews(peer.site, of: id) else { return }
        logger.error(
            """
            site \(peer) says that it owns the volume at epoch \(claim.epoch), and this site does so at epoch \(own.epoch) \
            and has not shared it with \(peer): if the state of this site went back in time, stop what uses the volume \
            here, and 'godwit migrate' it with --prepare-only there: then what \(peer) says counts
            """)
    }
}
