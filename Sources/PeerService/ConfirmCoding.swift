internal import PeerProtocol
internal import RPC
package import VolumeModel

/// A reign of which another site tells: who began it, and under which epoch. The hand-off's machine judges it.
package struct ToldReign: Hashable, Sendable {
    package let owner: SiteID
    package let epoch: Epoch
    /// Under which epoch the last hand-over between sites began that is known to lie before it; nil: none is known.
    package let handover: Epoch?

    package init(owner: SiteID, epoch: Epoch, handover: Epoch? = nil) {
        (self.owner, self.epoch, self.handover) = (owner, epoch, handover)
    }
}

/// A reign that a site takes for its own and for the present one.
package struct AskedReign: Hashable, Sendable {
    package let epoch: Epoch
    /// Under which epoch its site got the volume from another one; nil: it is not known.
    package let handover: Epoch?

    package init(_ epoch: Epoch, handover: Epoch? = nil) { (self.epoch, self.handover) = (epoch, handover) }
}

/// The question whether a later reign has begun, and its answer, between values and the wire's messages.
enum ConfirmCoding {
    static func message(of owned: [VolumeID: AskedReign]) -> Godwit_Peer_V1_ConfirmRequest {
        var request = Godwit_Peer_V1_ConfirmRequest()
        request.reigns = owned.sorted { $0.key < $1.key }.map { volume, asked in
            var message = Godwit_Peer_V1_OwnReign()
            message.volume = volume.description
            message.epoch = asked.epoch.number
            message.handover = asked.handover?.number ?? 0
            return message
        }
        return request
    }

    /// - Throws: `invalidArgument` for more volumes than one question may be about, one twice, or what is no volume.
    static func owned(
        in request: Godwit_Peer_V1_ConfirmRequest
    ) throws(RPCStatus) -> [VolumeID: AskedReign] {
        guard request.reigns.count <= PeerLimits.reignCount else {
            throw RPCStatus(.invalidArgument, "\(request.reigns.count) volumes at a time")
        }
        var owned: [VolumeID: AskedReign] = [:]
        for message in request.reigns {
            let asked = AskedReign(Epoch(message.epoch), handover: handover(message.handover))
            guard let volume = VolumeID(message.volume), message.handover <= message.epoch,
                owned.updateValue(asked, forKey: volume) == nil
            else { throw RPCStatus(.invalidArgument, "a volume twice, or what is none") }
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
            message.handover = told.handover?.number ?? 0
            return message
        }
        return reply
    }

    /// - Parameter owned: what was asked about: of nothing else is there an answer, nor with an earlier reign that no
    ///   hand-over makes a later one.
    static func later(
        in reply: Godwit_Peer_V1_ConfirmReply, than owned: [VolumeID: AskedReign], from site: SiteID
    ) throws(PeerError) -> [VolumeID: ToldReign] {
        var later: [VolumeID: ToldReign] = [:]
        for message in reply.later {
            guard let volume = VolumeID(message.volume), let asked = owned[volume],
                let owner = SiteID(message.reign.owner), message.handover <= message.reign.epoch,
                message.reign.epoch >= asked.epoch.number || message.handover > 0
            else { throw .malformed(site: site, "a later reign that is none") }
            let told = ToldReign(
                owner: owner, epoch: Epoch(message.reign.epoch), handover: handover(message.handover))
            guard later.updateValue(told, forKey: volume) == nil else {
                throw .malformed(site: site, "two later reigns of one volume")
            }
        }
        return later
    }

    private static func handover(_ number: UInt64) -> Epoch? { number > 0 ? Epoch(number) : nil }
}

extension PeerClient {
    /// Asks whether later reigns have begun than those that this site takes for its own and for the present ones.
    ///
    /// - Parameter owned: `PeerLimits.reignCount` at most.
    /// - Returns: what the peer knows of those of which it knows another one; nil: it does not know this question.
    package func confirm(
        _ owned: [VolumeID: AskedReign], timeout: Duration
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
