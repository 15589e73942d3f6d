internal import Handoff
internal import Logging
internal import PeerService
internal import VolumeModel

/// What is under way between a volume and the sites that may know better who owns it.
struct Hearing {
    /// What cannot be true together with what is known here.
    var contests = Contests()
    /// What another site said unasked, until it is decided on.
    var current: Task<Void, Never>?
    /// What follows from what others said.
    var consequence: Task<Void, Never>?
    /// How many times that is not done yet.
    var consequenceCount = 0
    /// Set while the record is one that was read with a hand-off to this site under way: the reign that begins with it may
    /// have begun before, and have ended since.
    var isResuming: Bool
    /// Asking others about that reign.
    var question: Task<Void, Never>?

    init(_ role: Role) {
        isResuming =
            switch role {
            case .acquiring, .receiving: true
            case .following, .declining, .owning, .sealing, .sealed, .reclaiming, .retired, .fenced: false
            }
    }
}

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
        if let unconfirmed {
            await context.confirmations.wait(for: unconfirmed.sites)
            askWhereResumed()
            await hearing.question?.value
        }
        // What follows from an answer is done in a moment, unless a mount does not end.
        let deadline = ContinuousClock.now + ConfirmationSchedule.patience
        while hearing.consequenceCount > 0, ContinuousClock.now < deadline {
            guard (try? await Task.sleep(for: .milliseconds(5))) != nil else { return }
        }
    }

    /// Asks others at once about a reign that may have begun a second time.
    func askWhereResumed() {
        guard hearing.isResuming, hearing.question == nil, unconfirmed != nil, !isClosed else { return }
        hearing.question = Task {
            await context.confirmations.ask(self, context)
            hearing.isResuming = false
            hearing.question = nil
        }
    }

    /// A site was asked, or said so unasked. Waits until what follows is decided, not until it is done: a mount that does
    /// not end keeps nobody from asking about other volumes.
    ///
    /// - Parameter told: the later reign that it knows of; nil: none.
    /// - Returns: whether that is noted: else it is to be asked again soon.
    func hear(of told: KnownReign?, from peer: SiteID) async -> Bool {
        guard let told else {
            hearing.contests.agree(peer.site)
            return true
        }
        // Its right may have been taken back since it was asked.
        guard let (own, sites) = unconfirmed, sites.contains(peer.site) else { return true }
        let owner = told.reign.owner.site
        // A site that the volume names knows to whom it has given it. By hearsay alone nobody may take it whom it does not name.
        guard
            told.isLater(than: own) || owner == peer.site || owner == context.site.site
                || sites.contains(owner)
        else {
            // Only if it would matter were it believed.
            if record.head.isConcerned(by: told) {
                note(told, by: peer, against: own, "\(told), and the volume is not shared with site \(owner)")
            } else {
                hearing.contests.agree(peer.site)
            }
            return true
        }
        let wasFenced = record.head.role.isFenced
        let actions: [Action]
        do {
            actions = try await decide(.reignTold(try await asKnownHere(told)))
        } catch HandoffError.contradiction(let claim) {
            note(told, by: peer, against: own, claim)
            return true
        } catch HandoffError.implausible(let value) {
            context.misconduct.note(peer, "Confirm", "a later reign of \(value)")
            return true
        } catch {
            logger.debug("what site \(peer) has said could not be noted: \(error)")
            return false
        }
        hearing.contests.settle(peer.site)
        guard !actions.isEmpty else { return true }
        performAside(actions)
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

    /// The same, for who does not wait. While one is heard others come to nothing: whoever asks does so again.
    func hearAside(of claim: KnownReign, from peer: SiteID) {
        guard hearing.current == nil, !isClosed else { return }
        hearing.current = Task {
            _ = await hear(of: claim, from: peer)
            hearing.current = nil
        }
    }

    /// What is cut off is asked for again (`resume`).
    private func performAside(_ actions: [Action]) {
        let earlier = hearing.consequence
        hearing.consequenceCount += 1
        hearing.consequence = Task {
            defer { hearing.consequenceCount -= 1 }
            await earlier?.value
            do {
                _ = try await perform(actions, answering: nil)
            } catch {
                logger.debug("will try again: \(error)")
            }
        }
    }

    private func note(
        _ told: KnownReign, by peer: SiteID, against own: KnownReign, _ claim: String
    ) {
        let text = "sites \(context.site) and \(peer) contradict each other: \(claim)"
        let isNew = hearing.contests.note(
            peer.site, names: told.reign.owner.site, against: own.reign, text)
        if isNew { logger.error("\(text)") }
    }

    /// That another site says what cannot be true together with what is known here; nil: none does.
    var contestText: String? {
        record.head.unconfirmedReign.flatMap { hearing.contests.text(against: $0.reign) }
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
