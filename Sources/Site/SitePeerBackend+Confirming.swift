internal import Handoff
internal import Logging
package import PeerService
package import VolumeModel

/// What a site is told that asks whether later reigns have begun than those that it takes for its own.
extension SitePeerBackend {
    package func confirm(
        _ owned: [VolumeID: AskedReign], by peer: SiteID
    ) async throws -> [VolumeID: ToldReign] {
        guard !owned.isEmpty else { return [:] }
        context.confirmations.noteQuestion(of: peer.site)
        var later: [VolumeID: ToldReign] = [:]
        let witnesses = try await site.witnessRecords()
        for (id, asked) in owned where Epoch.first <= asked.epoch && asked.epoch <= .highest {
            let claim = KnownReign(Reign(peer, asked.epoch), handover: asked.handover)
            let agent = try? await site.agent(id)
            if let agent { await compare(claim, with: agent) }
            // Of several nodes the one knows best that has the volume.
            var known = witnesses?[id]
            if witnesses == nil, let agent { known = await agent.record }
            guard let known, known.isShared(with: peer), let objection = known.head.objection(to: claim)
            else { continue }
            later[id] = ToldReign(
                owner: objection.reign.owner, epoch: objection.reign.epoch, handover: objection.handover)
            guard objection.isLater(than: claim), context.confirmations.isNews(peer.site, of: id) else {
                continue
            }
            context.logger.warning(
                """
                site \(peer) takes itself for the owner at epoch \(asked.epoch), and is told that \(objection) has begun: it was \
                overruled, or its state went back in time
                """, metadata: ["volume": "\(known.name)", "volume-id": "\(id)"])
        }
        return later
    }

    /// Whoever asks says what it owns: it may be this site whose state went back in time.
    private func compare(_ claim: KnownReign, with agent: VolumeAgent) async {
        guard let (own, sites) = await agent.unconfirmed,
            claim.isLater(than: own) || claim.contests(own)
        else { return }
        let peer = claim.reign.owner
        guard sites.contains(peer.site) else { return agent.doubt(claim.reign, by: peer, against: own.reign) }
        await agent.hearAside(of: claim, from: peer)
    }
}
