internal import CSIService
internal import Foundation
internal import HostMounts
internal import SiteIdentity
internal import VolumeModel

/// Tells the registry what a member knows of itself, for whoever looks after it: keys, clocks, mounts, leftovers.
struct MemberReporter {
    private static let interval: Duration = .seconds(10)

    let context: SiteContext
    let registry: any SharedSiteRegistry
    /// The volumes, and those that the registry does not name; nil: the site is gone.
    let volumes: @Sendable () async -> (agents: [VolumeAgent], unregistered: Set<VolumeID>)?

    /// Until it is cancelled.
    func run() async {
        let member = Member(id: context.site, node: context.node, address: context.advertised)
        var answers = PeerAnswers()
        /// nil: the mounts could not be looked at.
        var suspects: Set<MountFinding>? = []
        while !Task.isCancelled {
            let peers = trustedPeers()
            if answers.areDue(of: peers) { answers = await ask(peers, after: answers) }
            guard let (agents, unregistered) = await volumes() else { return }
            var found: Set<MountFinding>?
            do {
                found = try await mountFindings(agents)
            } catch {
                // Once.
                if suspects != nil {
                    context.logger.warning("this member cannot look at its mounts: \(error)")
                }
            }
            // What is being mounted or taken away just now looks ill for a moment.
            let report = self.report(of: found?.intersection(suspects ?? []), unregistered, peers, answers)
            suspects = found
            do {
                try await registry.tell(report, of: member)
            } catch {
                context.logger.debug("what this member tells of itself is told later: \(error)")
            }
            try? await Task.sleep(for: Self.interval)
        }
    }

    private func report(
        of mounts: Set<MountFinding>?, _ unregistered: Set<VolumeID>, _ peers: [MemberReport.Peer],
        _ answers: PeerAnswers
    ) -> MemberReport {
        let identity = context.identity
        var report = MemberReport()
        report.certificateExpires = identity.expiry.ISO8601Format()
        report.authorityExpires = identity.authorityExpiry.ISO8601Format()
        report.authority = try? identity.authorityFingerprint()
        report.keysTrouble = context.keysTrouble.withLock { $0 }.map(MemberReport.bounded)
        report.peers = MemberReport.bounded(peers.map { answers.added(to: $0) })
        report.troubles = MountFinding.troubles(mounts, unregistered: unregistered.map(context.state.volume))
        return report
    }

    // MARK: mounts

    private func mountFindings(_ agents: [VolumeAgent]) async throws -> Set<MountFinding> {
        var inUse: [VolumeMounts] = []
        for agent in agents { inUse.append(await agent.mountsInUse()) }
        let (known, publications, own) = (inUse, context.state.publications, "godwit:\(context.site)/")
        return try await onBlockingThread {
            MountFinding.all(
                in: try MountTable.entries(), of: own, known,
                published: CSIService.targets(publishedIn: publications))
        }
    }

    // MARK: other sites

    private func trustedPeers() -> [MemberReport.Peer] {
        var peers = ((try? context.identity.peers()) ?? []).map { peer in
            var told = MemberReport.Peer(site: peer.site.description)
            told.expires = peer.expiry.ISO8601Format()
            return told
        }
        for (site, reason) in (try? context.identity.damagedPeers()) ?? [] {
            var damaged = MemberReport.Peer(site: site.description)
            damaged.trouble = MemberReport.bounded("its document is damaged: \(reason)")
            peers.append(damaged)
        }
        return peers.sorted { $0.site < $1.site }
    }

    /// Asks those of whom an address is known, a few at a time.
    private func ask(_ peers: [MemberReport.Peer], after earlier: PeerAnswers) async -> PeerAnswers {
        let addressed = Set(((try? context.identity.peers()) ?? []).filter { $0.address != nil }.map(\.site))
        var answers = PeerAnswers(of: peers)
        await withTaskGroup(of: (SiteID, MemberReport.Peer).self) { group in
            for (index, site) in addressed.sorted().enumerated() {
                if index >= 8, let (site, answer) = await group.next() {
                    answers.byName[site.description] = answer
                }
                let told = earlier.byName[site.description]?.clockSeconds
                group.addTask { (site, await answer(of: site, clock: told)) }
            }
            for await (site, answer) in group { answers.byName[site.description] = answer }
        }
        return answers
    }

    /// - Parameter told: what its clock was told to be.
    private func answer(of site: SiteID, clock told: Int64?) async -> MemberReport.Peer {
        var answer = MemberReport.Peer(site: site.description)
        do {
            try Task.checkCancellation()
            let asked = Date()
            let reply = try await context.client(of: site).hello()
            answer.release = MemberReport.bounded(reply.release, to: MemberReport.releaseLimit)
            if reply.unixMilliseconds > 0 {
                let tolerance = max(0, Date().timeIntervalSince(asked) / 2)
                let served = Double(reply.unixMilliseconds) / 1000
                answer.clockSeconds = MemberReport.clockSeconds(
                    asked.timeIntervalSince1970 + tolerance - served, tolerance: tolerance, told: told)
            }
        } catch {
            answer.trouble = MemberReport.bounded("it does not answer: \(error)")
        }
        return answer
    }
}

/// What other sites have answered.
private struct PeerAnswers {
    var byName: [String: MemberReport.Peer] = [:]
    private var asked: (sites: [MemberReport.Peer], at: ContinuousClock.Instant)?

    init() {}

    init(of sites: [MemberReport.Peer]) { asked = (sites, .now) }

    private static let interval: Duration = .seconds(300)
    /// While one of them does not answer.
    private static let retryInterval: Duration = .seconds(30)

    /// Whether others are trusted than those who were asked, or it is long ago.
    func areDue(of sites: [MemberReport.Peer]) -> Bool {
        guard let asked, asked.sites == sites else { return true }
        let isComplete = byName.values.allSatisfy { $0.trouble == nil }
        return ContinuousClock.now - asked.at > (isComplete ? Self.interval : Self.retryInterval)
    }

    func added(to peer: MemberReport.Peer) -> MemberReport.Peer {
        guard peer.trouble == nil, var answer = byName[peer.site] else { return peer }
        answer.expires = peer.expires
        return answer
    }
}
