internal import Handoff
internal import PeerProtocol
internal import PeerService
internal import VolumeModel

/// The hand-off's messages between the machine's words and the wire's: one table each way.
enum HandoffCoding {
    typealias Message = Godwit_Peer_V1_HandoffMessage

    /// - Returns: nil for an action that is no message.
    static func message(of action: Action, volume: VolumeID) -> (to: SiteID, Message)? {
        var message = Message()
        message.volume = volume.description
        switch action {
        case .serve, .readTail, .fetchTail, .stopServing, .keepDivergence, .mayDiscard: return nil
        case .requestSeal(let reign, let wanted):
            message.sealRequest.after = reign.epoch.number
            message.sealRequest.wanted = wanted.number
            return (reign.owner, message)
        case .grantSeal(let after, let grant):
            message.sealGrant.after = after.number
            message.sealGrant.heir = encode(grant.heir)
            message.sealGrant.finalSequence = grant.finalSequence.number
            message.sealGrant.handover = grant.handover?.number ?? 0
            return (grant.heir.owner, message)
        case .requestDecline(let heir, let after):
            message.declineRequest.wanted = heir.epoch.number
            message.declineRequest.reign.epoch = after.number
            return (heir.owner, message)
        case .tellDeclined(let epoch, let site):
            message.declined.wanted = epoch.number
            return (site, message)
        case .announce(let reign, let site):
            message.announcement.reign = encode(reign)
            return (site, message)
        case .claim(let site, let heir, let after, let sequence):
            message.claim.epoch = heir.epoch.number
            message.claim.after = after.number
            message.claim.through = sequence.number
            return (site, message)
        case .answerClaim(let reign, let isKept):
            message.claimAnswer.epoch = reign.epoch.number
            message.claimAnswer.kept = isKept
            return (reign.owner, message)
        case .requestRelease(let site, let reign):
            message.releaseRequest.heir.epoch = reign.number
            return (site, message)
        case .confirmRelease(let reign):
            message.released.reign = reign.epoch.number
            return (reign.owner, message)
        }
    }

    /// A refusal as the answer to a seal request.
    static func message(of refusal: SealRefusal, to request: Message, volume: VolumeID) -> Message {
        var message = Message()
        message.volume = volume.description
        message.sealRefusal.wanted = request.sealRequest.wanted
        switch refusal {
        case .inUse(let holder):
            message.sealRefusal.inUse.node = holder.node
            message.sealRefusal.inUse.pod = holder.pod ?? ""
            message.sealRefusal.inUse.attached = holder.attachment != nil
        case .reigning(let reign): message.sealRefusal.reigning = encode(reign)
        case .spent(let through): message.sealRefusal.spentThrough = through.number
        case .promised(let reign): message.sealRefusal.promisedTo = encode(reign)
        case .overruled(let epoch): message.sealRefusal.overruledBy = epoch.number
        case .tooManyRetentions(let limit): message.sealRefusal.tooManyRetentions = UInt32(clamping: limit)
        }
        return message
    }

    /// The event that a message is. What a message does not say of its sender is taken from its certificate:
    /// nobody speaks for another site.
    ///
    /// - Returns: nil for an empty message.
    static func event(of message: Message, from site: SiteID, self own: SiteID) throws -> Event? {
        switch message.message {
        case nil: return nil
        case .sealRequest(let body):
            return .sealRequested(by: site, after: Epoch(body.after), wanted: Epoch(body.wanted))
        case .sealGrant(let body):
            return .sealGranted(
                by: site, after: Epoch(body.after),
                grant: Grant(
                    heir: try decode(body.heir, from: site),
                    finalSequence: SequenceNumber(body.finalSequence),
                    // Of another site the grant is itself the hand-over.
                    handover: body.handover > 0 && site.site == own.site ? Epoch(body.handover) : nil
                ))
        case .sealRefusal(let body):
            return .sealRefused(by: site, wanted: Epoch(body.wanted), try refusal(body, from: site))
        case .declineRequest(let body):
            return .declineRequested(
                reign: Reign(site, Epoch(body.reign.epoch)), wanted: Epoch(body.wanted))
        case .declined(let body): return .declined(by: site, wanted: Epoch(body.wanted))
        // A site that passed the head on names its present owner.
        case .announcement(let body): return .ownerAnnounced(try decode(body.reign, from: site))
        case .claim(let body):
            return .claimed(
                heir: Reign(site, Epoch(body.epoch)), after: Epoch(body.after),
                through: SequenceNumber(body.through))
        case .claimAnswer(let body):
            return .claimAnswered(by: site, reign: Epoch(body.epoch), isKept: body.kept)
        case .releaseRequest(let body): return .releaseRequested(heir: Reign(site, Epoch(body.heir.epoch)))
        case .released(let body): return .released(by: site, reign: Epoch(body.reign))
        }
    }

    private static func refusal(
        _ body: Godwit_Peer_V1_SealRefusal, from site: SiteID
    ) throws -> SealRefusal {
        switch body.reason {
        case .inUse(let holder):
            return .inUse(
                Holder(
                    node: holder.node, pod: holder.pod.isEmpty ? nil : holder.pod,
                    attachment: holder.attached ? "" : nil))
        case .reigning(let reign): return .reigning(try decode(reign, from: site))
        case .spentThrough(let epoch): return .spent(through: Epoch(epoch))
        case .promisedTo(let reign): return .promised(to: try decode(reign, from: site))
        case .overruledBy(let epoch): return .overruled(by: Epoch(epoch))
        case .tooManyRetentions(let limit): return .tooManyRetentions(limit: Int(limit))
        case nil: throw PeerError.malformed(site: site, "a refusal without a reason")
        }
    }

    private static func encode(_ reign: Reign) -> Godwit_Peer_V1_Reign {
        var message = Godwit_Peer_V1_Reign()
        message.owner = reign.owner.description
        message.epoch = reign.epoch.number
        return message
    }

    private static func decode(_ message: Godwit_Peer_V1_Reign, from site: SiteID) throws -> Reign {
        guard let owner = SiteID(message.owner) else {
            throw PeerError.malformed(site: site, "a reign of a site with no valid name")
        }
        return Reign(owner, Epoch(message.epoch))
    }
}

extension VolumeAgent {
    /// The event that a peer's answer is.
    func answered(_ reply: Godwit_Peer_V1_HandoffMessage, by site: SiteID) throws -> Event? {
        do {
            return try HandoffCoding.event(of: reply, from: site, self: context.site)
        } catch {
            context.misconduct.note(site, "Exchange", "\(error)")
            throw error
        }
    }
}
