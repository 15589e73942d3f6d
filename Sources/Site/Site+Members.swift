internal import ControlProtocol
internal import Handoff
internal import Hydration
internal import PeerProtocol
internal import PeerService
internal import RPC
internal import SwiftProtobuf
internal import VolumeModel

/// A site of several nodes: whichever of them is asked, the one answers that has the volume.
///
/// The nodes ask each other what the command line asks of each of them (`control.proto`), at the port for peers.
extension Site {
    /// How long another node may take for what needs no other site.
    private static let memberTimeout: Duration = .seconds(60)

    // MARK: who there is

    /// Tells the other nodes where this one answers, and finds out who they are.
    func announceMember() async throws {
        guard let members = context.members else { return }
        if let whole = try await members.registry.placements().first(where: { $0.member == context.site.site }
        ) {
            throw SiteError.unusable(
                "the registry has volumes ('\(whole.record.name)') of a site '\(whole.member)' without nodes: move them to "
                    + "another site before this one gets nodes, or start it as it was, without --site-keys")
        }
        try await members.registry.announce(
            Member(id: context.site, node: context.node, address: context.advertised))
        try await members.refresh()
    }

    /// Nodes come and go, and change their addresses.
    func lookForMembers() async {
        guard let members = context.members,
            lastMemberLook.map({ ContinuousClock.now - $0 > .seconds(10) }) ?? true
        else { return }
        lastMemberLook = .now
        do {
            try await members.refresh()
            // Somebody has deleted what this node had told, which is there all the same.
            if members.all().allSatisfy({ $0.id != context.site }) { try await announceMember() }
        } catch {
            context.logger.debug("the nodes of this site are asked for later: \(error)")
        }
    }

    // MARK: who answers

    /// - Parameter text: a volume's identifier or its name.
    /// - Returns: the other node that answers for a volume; nil: this one, or nobody knows it.
    func keeperElsewhere(called text: String) async throws -> SiteID? {
        guard let members = context.members else { return nil }
        if let own = try? await agent(called: text), await ownedRecord(own.id) != nil { return nil }
        let keeper = Placement.keeper(among: try await members.placements(called: text))
        return keeper?.member == context.site ? nil : keeper?.member
    }

    /// Who may say what a takeover by force would begin with: the one that answers for the volume, but if that is gone,
    /// whoever else has something of it.
    func candidates(called text: String) async throws -> [SiteID] {
        guard let members = context.members else { return [context.site] }
        var left = try await members.placements(called: text)
        var candidates: [SiteID] = []
        while let next = Placement.keeper(among: left) {
            candidates.append(next.member)
            left.removeAll { $0.member == next.member }
        }
        return candidates
    }

    /// - Returns: the other node that keeps what it wrote under an epoch, while it was overruled; nil: this one, or none.
    func divergenceElsewhere(_ epoch: Epoch, called text: String) async throws -> SiteID? {
        guard let members = context.members else { return nil }
        let holders = try await members.placements(called: text)
            .filter { $0.record.head.divergences.contains { $0.epoch == epoch } }.map(\.member)
        return holders.contains(context.site) ? nil : holders.first
    }

    /// - Returns: the other node that waits to own a volume, or else answers for it; nil: this one, or nobody knows it.
    func wisherElsewhere(called text: String) async throws -> SiteID? {
        guard let members = context.members else { return nil }
        let wishers = try await members.placements(called: text)
            .filter { $0.record.head.role.isWish }.map(\.member)
        if wishers.contains(context.site) { return nil }
        if let wisher = wishers.first { return wisher }
        return try await keeperElsewhere(called: text)
    }

    /// What is known of a volume here, whichever node has it.
    func record(_ id: VolumeID) async throws -> VolumeRecord {
        if let members = context.members {
            // Who owns it knows best, and nobody need be asked.
            if let own = await ownedRecord(id) { return own }
            guard let keeper = try await members.keeper(of: id) else {
                throw SiteError.unknownVolume(id.description)
            }
            return keeper.record
        }
        return try await agent(id).record
    }

    /// - Returns: nil unless this node owns it.
    func ownedRecord(_ id: VolumeID) async -> VolumeRecord? {
        guard let record = try? await agent(id).record, case .owning = record.head.role else { return nil }
        return record
    }

    // MARK: calls to other nodes

    private func client(of member: SiteID) async throws -> PeerClient {
        try await context.members?.look(for: member)
        return try context.client(of: member)
    }

    func ask<Reply: Message>(
        _ member: SiteID, _ method: String, _ request: some Message, as _: Reply.Type = Reply.self,
        timeout: Duration? = nil
    ) async throws -> Reply {
        let bytes: [UInt8] = try request.serializedBytes()
        do {
            let answer = try await client(of: member).unary(
                ControlService.service + method, bytes, timeout: timeout ?? Self.memberTimeout)
            return try Reply(serializedBytes: answer)
        } catch let status as RPCStatus {
            throw Self.told(status, by: member)
        }
    }

    /// Passes a call of the command line on to another node, with all that it answers.
    func pass(_ call: RPCServerCall, _ request: [UInt8], to member: SiteID) async throws {
        do {
            let patience = call.deadline.map { $0 - .now }
            try await client(of: member).stream(call.method, request, timeout: patience) {
                try await call.send($0)
            }
        } catch let status as RPCStatus {
            throw Self.told(status, by: member)
        }
    }

    private static func told(_ status: RPCStatus, by member: SiteID) -> RPCStatus {
        switch status.code {
        case .unavailable, .deadlineExceeded, .unauthenticated, .unimplemented:
            RPCStatus(.unavailable, "node '\(member.node ?? "")': \(status.message)")
        default: status
        }
    }

    // MARK: bringing a volume to a node

    /// Sees to it that a node has a volume, or may take it over by itself: whoever of this site has it hands it over.
    /// May be repeated.
    ///
    /// - Throws: `.precondition` with the words of the node that has it, when it is in use there.
    func bring(_ id: VolumeID, to member: SiteID) async throws {
        guard let members = context.members else { return }
        let placements = try await members.placements(of: id)
        guard var keeper = Placement.keeper(among: placements) else {
            throw SiteError.unknownVolume(id.description)
        }
        guard keeper.member != member else { return }
        if !keeper.isBinding {
            // The volume is at another site. Whoever knows as much takes it over itself.
            if placements.contains(where: { $0.member == member && $0.knowsAsMuch(as: keeper) }) { return }
            keeper = try await takeOver(id, atOneOf: placements)
        } else if !keeper.isOwner {
            try await takeOver(id, at: keeper.member)
        }
        var request = Godwit_Control_V1_MigrateRequest()
        request.volume = id.description
        request.to = member.description
        request.detach = true
        if keeper.member == context.site {
            try await Migration(agent: agent(id), target: member, request: request).run { _ in }
        } else {
            let bytes: [UInt8] = try request.serializedBytes()
            do {
                try await client(of: keeper.member).stream(
                    ControlService.service + "Migrate", bytes, timeout: Self.memberTimeout
                ) { _ in }
            } catch let status as RPCStatus {
                throw Self.told(status, by: keeper.member)
            }
        }
    }

    /// What another site has comes to where most of it is, and from there like anything else. Of those that have nothing
    /// of their own any will do, if the first does not answer.
    private func takeOver(_ id: VolumeID, atOneOf placements: [Placement]) async throws -> Placement {
        var left = placements
        var failure: (any Error)?
        while let next = Placement.keeper(among: left) {
            left.removeAll { $0.member == next.member }
            do {
                try await takeOver(id, at: next.member)
                return next
            } catch {
                guard SiteStatus.status(of: error).code == .unavailable else { throw error }
                failure = failure ?? error
            }
        }
        throw failure ?? SiteError.unknownVolume(id.description)
    }

    private func takeOver(_ id: VolumeID, at member: SiteID) async throws {
        guard member != context.site else {
            _ = try await agent(id).ownExclusively(patience: .zero)
            return
        }
        var request = Godwit_Peer_V1_TakeOverRequest()
        request.volume = id.description
        _ = try await client(of: member).takeOver(request, timeout: Self.memberTimeout)
    }

    /// Owns a volume at a node, and holds it for that node until `detach`.
    ///
    /// - Parameter attachment: how, in the words of whoever asks.
    /// - Returns: the epoch under which it is owned there.
    /// - Throws: `.attachedOtherwise` when it is attached there already, in another way.
    func attach(_ id: VolumeID, at node: String, as attachment: String) async throws -> Epoch {
        let member = try await member(at: node)
        let present = try await record(id)
        if present.head.readers.contains(where: { $0.node == node }) {
            throw SiteError.attachedToRead(present.name, at: node)
        }
        try await bring(id, to: member)
        guard member != context.site else { return try await agent(id).attachExclusively(attachment) }
        var request = Godwit_Control_V1_AttachRequest()
        request.volume = id.description
        request.attachment = attachment
        let volume: Godwit_Control_V1_Volume = try await ask(member, "Attach", request)
        return Epoch(volume.epoch)
    }

    /// Lets a node read a volume until `detach`, beside others that do. It stays at the node that owns it; what another
    /// site has comes to this one first.
    ///
    /// - Returns: the epoch under which it is read.
    /// - Throws: `.attachedOtherwise` when the node holds it in another way; the words of the node that owns it when it is
    ///   in use otherwise.
    func admitReader(of id: VolumeID, at node: String) async throws -> Epoch {
        let member = try await member(at: node)
        var owner = member
        if let members = context.members {
            guard let keeper = try await members.keeper(of: id) else {
                throw SiteError.unknownVolume(id.description)
            }
            if keeper.isBinding { owner = keeper.member } else { try await bring(id, to: member) }
        }
        guard owner != context.site else {
            return try await agent(id).admitExclusively(Reader(member: member, node: node))
        }
        let volume: Godwit_Control_V1_Volume = try await ask(
            owner, "AttachReader", Self.request(id, readAt: node))
        return Epoch(volume.epoch)
    }

    /// Lets go of a volume at a node, or wherever it is held or read. May be repeated.
    func detach(_ id: VolumeID, at node: String?) async throws {
        guard let members = context.members else {
            guard node == nil || node == context.node, knows(id) else { return }
            try await agent(id).dismissExclusively(node)
            return try await agent(id).detachExclusively()
        }
        let placements = try await members.placements(of: id)
        let keeper = Placement.keeper(among: placements)
        try await detachReaders(of: id, at: node, placements, keeper)
        let holders = placements.filter { placement in
            // Who was overruled holds nothing any more, though it may not know.
            guard case .owning(_, let holder?) = placement.record.head.role,
                keeper.map({ placement.knowsAsMuch(as: $0) }) ?? true
            else { return false }
            return node == nil || holder.node == node
        }.map(\.member)
        for holder in holders { try await detach(id, at: holder) }
    }

    /// First whoever reads ends, and may not begin again, and then it is said to whoever owns what is read: the next to
    /// come may write. Who is just mounting it says that it is busy.
    private func detachReaders(
        of id: VolumeID, at node: String?, _ placements: [Placement], _ keeper: Placement?
    ) async throws {
        let named = (keeper?.record.head.readers ?? []).filter { node == nil || $0.node == node }
        var reading = Set(placements.filter { $0.record.reading != nil }.map(\.member))
        if let node {
            let member = try await presentMember(at: node)
            reading = reading.filter { $0 == member }
        }
        // Also who has not written it down yet.
        for reader in named {
            if let member = try await presentMember(at: reader.node) { reading.insert(member) }
        }
        for member in reading.sorted() where member != keeper?.member {
            do {
                try await detach(id, at: member)
            } catch let status as RPCStatus where status.code == .notFound {
                // It does not know the volume.
            }
        }
        guard let keeper else { return }
        for reader in named {
            if keeper.member == context.site {
                try await agent(id).dismissExclusively(reader.node)
            } else {
                let _: Godwit_Control_V1_Empty = try await ask(
                    keeper.member, "DetachReader", Self.request(id, readAt: reader.node))
            }
        }
    }

    /// - Returns: nil: there is none any more, and it reads nothing.
    private func presentMember(at node: String) async throws -> SiteID? {
        do {
            return try await member(at: node)
        } catch SiteError.unknownNode {
            return nil
        }
    }

    private func detach(_ id: VolumeID, at member: SiteID) async throws {
        if member != context.site {
            let _: Godwit_Control_V1_Empty = try await ask(member, "Detach", Self.request(id))
        } else if knows(id) {
            try await agent(id).detachExclusively()
        }
    }

    func member(at node: String) async throws -> SiteID {
        if let members = context.members { return try await members.member(at: node) }
        guard node == context.node else { throw SiteError.unknownNode(node) }
        return context.site
    }

    private static func request(_ id: VolumeID, readAt node: String) -> Godwit_Control_V1_ReaderRequest {
        var request = Godwit_Control_V1_ReaderRequest()
        request.volume = id.description
        request.node = node
        return request
    }

    static func request(_ id: VolumeID) -> Godwit_Control_V1_VolumeRequest {
        var request = Godwit_Control_V1_VolumeRequest()
        request.volume = id.description
        return request
    }
}
