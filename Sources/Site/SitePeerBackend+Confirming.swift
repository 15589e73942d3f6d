internal import Handoff
internal import Logging
package import PeerService
package import VolumeModel

/// What a site is told that asks whether later reigns have begun than those that it takes for its own.
extension SitePeerBackend {
    package func confirm(
        _ owned: [VolumeID: Epoch], by peer: SiteID
    ) async throws -> [VolumeID: ToldReign] {
        guard !owned.isEmpty else { return [:] }
        var later: [VolumeID: ToldReign] = [:]
        let keepers = try await site.keeperRecords()
        for (id, epoch) in owned {
            let claim = Reign(peer, epoch)
            let agent = try? await site.agent(id)
            if let agent { await compare(claim, with: agent) }
            // Of several nodes the one knows best that has the volume.
            var known = keepers?[id]
            if keepers == nil { known = await agent?.record }
            guard let known, known.isShared(with: peer), let objection = known.head.objection(to: claim)
            else { continue }
            later[id] = ToldReign(owner: objection.owner, epoch: objection.epoch)
            guard objection.epoch > epoch, context.confirmations.isNews(peer.site, of: id) else { continue }
            context.logger.warning(
                """
                site \(peer) takes itself for the owner at epoch \(epoch), and is told that \(objection) has begun: it was \
                overruled, or its state went back in time
                """, metadata: ["volume": "\(known.name)", "volume-id": "\(id)"])
        }
        return later
    }

    /// Whoever asks says what it owns: it may be this site whose state went back in time.
    private func compare(_ claim: Reign, with agent: VolumeAgent) async {
        guard let (own, sites) = await agent.unconfirmed, claim.epoch > own.epoch else { return }
        guard sites.contains(claim.owner.site) else {
            return agent.doubt(claim, by: claim.owner, against: own)
        }
        // The caller does not wait until mounts have ended here.
        Task { _ = await agent.hear(of: claim, from: claim.owner) }
    }
}
