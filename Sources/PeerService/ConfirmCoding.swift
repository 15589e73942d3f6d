internal import PeerProtocol
internal import RPC
package import VolumeModel

/// A reign of which another site tells: who began it, and under which epoch. The hand-off's machine judges it.
package struct ToldReign: Hashable, Sendable {
    package let owner: SiteID
    package let epoch: Epoch

    package init(owner: SiteID, epoch: Epoch) { (self.owner, self.epoch) = (owner, epoch) }
}

/// The question whether a later reign has begun, and its answer, between values and the wire's messages.
enum ConfirmCoding {
    static func message(of owned: [VolumeID: Epoch]) -> Godwit_Peer_V1_ConfirmRequest {
        var request = Godwit_Peer_V1_ConfirmRequest()
        request.reigns = owned.sorted { $0.key < $1.key }.map { volume, epoch in
            var message = Godwit_Peer_V1_OwnReign()
            message.volume = volume.description
            message.epoch = epoch.number
            return message
        }
        return request
    }

    /// - Throws: `invalidArgument` for more volumes than one question may be about, one twice, or what is no volume.
    static func owned(in request: Godwit_Peer_V1_ConfirmRequest) throws(RPCStatus) -> [VolumeID: Epoch] {
        guard request.reigns.count <= PeerLimits.reignCount else {
            throw RPCStatus(.invalidArgument, "\(request.reigns.count) volumes at a time")
        }
        var owned: [VolumeID: Epoch] = [:]
        for message in request.reigns {
            guard let volume = VolumeID(message.volume),
                owned.updateValue(Epoch(message.epoch), forKey: volume) == nil
            else { throw RPCStatus(.invalidArgument, "a volume twice, or an identifier that is none") }
        }
        return owned
    }

    static func message(of later: [VolumeID: ToldReign]) -> Godwit_Peer_V1_ConfirmReply {
        var reply = Godwit_Peer_V1_ConfirmReply()
        reply.later = later.sorted { $0.key < $1.key }.map { volume, told in
            var message = Godwit_Peer_V1_LaterReign()
            message.volume = volume.description
            message.reign.owner = told.owner.description
            message.reign.epoch = told.epoch.number
            return message
        }
        return reply
    }

    /// - Parameter owned: what was asked about: of nothing else is there an answer, nor with an earlier reign.
    static func later(
        in reply: Godwit_Peer_V1_ConfirmReply, than owned: [VolumeID: Epoch], from site: SiteID
    ) throws(PeerError) -> [VolumeID: ToldReign] {
        var later: [VolumeID: ToldReign] = [:]
        for message in reply.later {
            guard let volume = VolumeID(message.volume), let asked = owned[volume],
                let owner = SiteID(message.reign.owner), message.reign.epoch >= asked.number
            else { throw .malformed(site: site, "a later reign that is none") }
            let told = ToldReign(owner: owner, epoch: Epoch(message.reign.epoch))
            guard later.updateValue(told, forKey: volume) == nil else {
                throw .malformed(site: site, "two later reigns of one volume")
            }
        }
        return later
    }
}

extension PeerClient {
    /// Asks whether later reigns have begun than those that this site takes for its own and for the present ones.
    ///
    /// - Parameter owned: `PeerLimits.reignCount` at most.
    /// - Returns: what the peer knows of those of which it knows another one; nil: it does not know this question.
    package func confirm(
        _ owned: [VolumeID: Epoch], timeout: Duration
    ) async throws(PeerError) -> [VolumeID: ToldReign]? {
        let reply: Godwit_Peer_V1_ConfirmReply
        do {
            reply = try await call("Confirm", ConfirmCoding.message(of: owned), timeout: timeout)
        } catch .call(_, _, let status) where status.code == .unimplemented {
            return nil
        }
        return try heard("Confirm") { () throws(PeerError) in
            try ConfirmCoding.later(in: reply, than: owned, from: site)
        }
    }
}
