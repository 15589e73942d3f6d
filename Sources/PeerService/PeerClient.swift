package import Catalog
package import Hydration
package import PeerProtocol
package import RPC
internal import SwiftProtobuf
internal import Synchronization
package import VolumeModel

/// The calls that this site makes to one peer.
///
/// What an application waits for has a connection of its own, and never stands behind bulk data in a socket's buffer.
package final class PeerClient: Sendable {
    static let service = "/godwit.peer.v1.Peer/"

    package let site: SiteID
    private let urgent: RPCChannel
    private let bulk: BulkConnections
    private let misconduct: PeerMisconduct
    private let explain: @Sendable () -> String?

    /// - Parameters:
    ///   - misconduct: where it is noted what no sound peer answers.
    ///   - explain: what may be why there is no connection, for people; nil: nothing is known.
    package init(
        site: SiteID, endpoint: RPCEndpoint, security: RPCSecurity,
        misconduct: PeerMisconduct = PeerMisconduct(),
        explain: @escaping @Sendable () -> String? = { nil }
    ) throws(PeerError) {
        self.site = site
        self.misconduct = misconduct
        self.explain = explain
        do {
            let options = PeerLimits.channelOptions
            urgent = try RPCChannel(to: endpoint, security: security, options: options)
            bulk = try BulkConnections { () throws(RPCStatus) in
                var options = options
                options.gathersPackets = true
                return try RPCChannel(to: endpoint, security: security, options: options)
            }
        } catch {
            throw .call(site: site, method: "connect", error)
        }
    }

    package func close() {
        urgent.close()
        bulk.close()
    }

    package func hello(timeout: Duration = .seconds(5)) async throws(PeerError) -> Godwit_Peer_V1_HelloReply {
        try await call("Hello", Godwit_Peer_V1_HelloRequest(), timeout: timeout)
    }

    package func offer(
        _ request: Godwit_Peer_V1_OfferRequest, timeout: Duration
    ) async throws(PeerError) -> Godwit_Peer_V1_OfferReply {
        try await call("Offer", request, timeout: timeout)
    }

    /// - Parameter wait: how long the peer has leave to wait before it answers.
    package func exchange(
        _ message: Godwit_Peer_V1_HandoffMessage, wait: Duration = .zero
    ) async throws(PeerError) -> Godwit_Peer_V1_HandoffMessage {
        try await call("Exchange", message, timeout: wait + .seconds(10))
    }

    package func takeOver(
        _ request: Godwit_Peer_V1_TakeOverRequest, timeout: Duration
    ) async throws(PeerError) -> Godwit_Peer_V1_TakeOverReply {
        try await call("TakeOver", request, timeout: timeout)
    }

    package func status(
        of volume: VolumeID, timeout: Duration = .seconds(5)
    ) async throws(PeerError) -> Godwit_Peer_V1_VolumeStatus {
        var request = Godwit_Peer_V1_StatusRequest()
        request.volume = volume.description
        return try await call("Status", request, timeout: timeout)
    }

    /// Where a volume is at the peer's site, or would best be: a peer that does not know this question is one node.
    package func locate(
        _ volume: VolumeID, timeout: Duration = .seconds(15)
    ) async throws(PeerError) -> (member: SiteID, holders: [SiteID]) {
        var request = Godwit_Peer_V1_LocateRequest()
        request.volume = volume.description
        let reply: Godwit_Peer_V1_LocateReply
        do {
            reply = try await call("Locate", request, timeout: timeout)
        } catch .call(_, _, let status) where status.code == .unimplemented {
            return (site, [site])
        }
        guard reply.holders.count <= PeerLimits.memberCount, let member = SiteID(reply.member),
            member.site == site.site
        else { throw noted("Locate", .malformed(site: site, "a node that is not its own")) }
        let holders = reply.holders.compactMap { SiteID($0) }
        guard holders.count == reply.holders.count, holders.allSatisfy({ $0.site == site.site }) else {
            throw noted("Locate", .malformed(site: site, "nodes that are not its own"))
        }
        return (member, holders)
    }

    /// Another service at the peer's port: one question, one answer.
    package func unary(
        _ method: String, _ request: [UInt8], timeout: Duration
    ) async throws(RPCStatus) -> [UInt8] {
        try await urgent.unary(
            method, request, metadata: RPCMetadata(), timeout: timeout, waitForReady: false)
    }

    /// The same with a stream of answers, until there is none any more.
    package func stream(
        _ method: String, _ request: [UInt8], timeout: Duration?,
        _ receive: ([UInt8]) async throws -> Void
    ) async throws {
        let call = try urgent.open(method, metadata: RPCMetadata(), timeout: timeout, waitForReady: false)
        try await call.send(request)
        try await call.finishSending()
        while let answer = try await call.receive() { try await receive(answer) }
    }

    /// Takes an offer back. May be repeated.
    ///
    /// - Parameter stamp: when it was decided, inside a site: a node that was offered the volume later keeps it.
    /// - Returns: whether the peer knows nothing of the volume any more.
    package func withdraw(
        _ volume: VolumeID, at stamp: OfferStamp? = nil, timeout: Duration = .seconds(30)
    ) async throws(PeerError) -> Bool {
        var request = Godwit_Peer_V1_WithdrawRequest()
        request.volume = volume.description
        request.epoch = stamp?.epoch.number ?? 0
        request.revision = stamp?.revision ?? 0
        let reply: Godwit_Peer_V1_WithdrawReply = try await call("Withdraw", request, timeout: timeout)
        return reply.forgotten
    }

    /// Takes the owner's catalog changes.
    ///
    /// - Parameters:
    ///   - reign: the peer's, as it is known here.
    ///   - head: the name of the peer's head that `since` is of, if it is known.
    ///   - patience: how long nothing may come.
    ///   - apply: takes each batch of rows, in order.
    /// - Returns: where the follower is when all of them are applied. A stream that breaks, stands still or says nothing
    ///   throws, and may be asked again from the same `since`.
    package func follow(
        _ volume: VolumeID, reign: Epoch, since: SequenceNumber?, head: StateName? = nil,
        patience: Duration = PeerLimits.followPatience, apply: ([CatalogRow]) throws -> Void
    ) async throws -> CatalogPosition {
        var request = Godwit_Peer_V1_FollowRequest()
        request.volume = volume.description
        request.since = since?.number ?? 0
        request.epoch = reign.number
        request.headName = .init(head?.bytes ?? [])
        let bytes: [UInt8] = try serialize(request)
        do {
            // The tail of a hand-off is waited for: it takes the urgent connection.
            guard since == nil else { return try await follow(bytes, over: urgent, patience, apply: apply) }
            return try await bulk.call { try await follow(bytes, over: $0, patience, apply: apply) }
        } catch let error as RPCStatus {
            throw failure("Follow", error)
        } catch let error as PeerError {
            throw noted("Follow", error)
        }
    }

    /// What the peer answered is counted and told where it cannot be.
    private func noted(_ method: String, _ error: PeerError) -> PeerError {
        if case .malformed(let culprit, let what) = error, culprit == site {
            misconduct.note(site, method, what)
        }
        return error
    }

    func heard<Value>(
        _ method: String, _ read: () throws(PeerError) -> Value
    ) throws(PeerError) -> Value {
        do {
            return try read()
        } catch {
            throw noted(method, error)
        }
    }

    private func failure(_ method: String, _ status: RPCStatus) -> PeerError {
        guard status.code == .unavailable, let reason = explain() else {
            return .call(site: site, method: method, status)
        }
        return .call(site: site, method: method, RPCStatus(.unavailable, "\(status.message): \(reason)"))
    }

    private func follow(
        _ request: [UInt8], over channel: RPCChannel, _ patience: Duration,
        apply: ([CatalogRow]) throws -> Void
    ) async throws -> CatalogPosition {
        let stream = try channel.open(
            Self.service + "Follow", metadata: RPCMetadata(), timeout: nil, waitForReady: false)
        try await stream.send(request)
        try await stream.finishSending()
        while let message = try await stream.receive(within: patience) {
            let reply: Godwit_Peer_V1_FollowReply = try parse(message)
            let rows = try FollowCoding.rows(of: reply, from: site)
            guard reply.hasPosition || !rows.isEmpty else {
                // There could be any number of them.
                throw PeerError.malformed(site: site, "changes that say nothing")
            }
            if !rows.isEmpty { try apply(rows) }
            if reply.hasPosition { return reply.position.value }
        }
        throw PeerError.malformed(site: site, "a stream of changes without an end")
    }

    /// Lists directories of the head that the peer keeps for our reign.
    ///
    /// - Parameter wantsPosition: whether the answer is to tell where the head was sealed.
    package func list(
        _ wanted: ListingRequest, of volume: VolumeID, reign: Epoch, wantsPosition: Bool = false,
        urgency: Urgency, timeout: Duration
    ) async throws(PeerError) -> (listing: Listing, position: CatalogPosition?) {
        var request = ListCoding.message(of: wanted)
        request.volume = volume.description
        request.epoch = reign.number
        request.wantsPosition = wantsPosition
        let reply: Godwit_Peer_V1_ListReply = try await call(
            "List", request, isUrgent: urgency == .urgent, timeout: timeout)
        let listing = try heard("List") { () throws(PeerError) in
            try ListCoding.listing(of: reply, from: site)
        }
        return (listing, reply.hasPosition ? reply.position.value : nil)
    }

    /// Reads bytes of the head that the peer keeps for our reign; every piece is verified.
    ///
    /// - Parameters:
    ///   - own: what we have ourselves, by extent: where the peer has the same it does not send it.
    ///   - state: a state from before ours, of this name, which the peer granted to another site's reign.
    ///   - seen: files as they are here, for a peer that may not know what was followed of it.
    ///   - isAhead: whether the head is meant that the peer has in use, under the reign that is the peer's then.
    package func read(
        _ extents: [Extent], own: [Extent: [UInt8]] = [:], of volume: VolumeID, reign: Epoch,
        state: StateName? = nil, seen: SeenFiles? = nil, isAhead: Bool = false, urgency: Urgency,
        timeout: Duration
    ) async throws(PeerError) -> [Piece] {
        var request = Godwit_Peer_V1_ReadRequest()
        request.ahead = isAhead
        request.volume = volume.description
        request.epoch = reign.number
        request.maximumByteCount = UInt32(PeerLimits.readAnswerByteCount)
        request.urgent = urgency == .urgent
        request.stateName = .init(state?.bytes ?? [])
        seen?.write(to: &request)
        request.extents = extents.map { extent in
            var message = Godwit_Peer_V1_Extent()
            message.inode = extent.inode.number
            message.start = extent.range.start
            message.end = extent.range.end
            if let bytes = own[extent] { message.hash = .init(ReadCoding.hash(bytes[...])) }
            return message
        }
        let reply: Godwit_Peer_V1_ReadReply = try await call(
            "Read", request, isUrgent: urgency == .urgent, timeout: timeout)
        return try heard("Read") { () throws(PeerError) in
            try ReadCoding.decode(reply, asked: extents, own: own, from: site)
        }
    }

    /// Which bytes of the head that the peer keeps for our reign have changed since the state that was granted to
    /// `epoch`. A peer that does not know this question answers that it does not know.
    package func changes(
        of volume: VolumeID, since epoch: Epoch, after: InodeNumber, reign: Epoch, timeout: Duration
    ) async throws(PeerError) -> ChangesSince {
        var request = Godwit_Peer_V1_ChangesRequest()
        request.volume = volume.description
        request.epoch = reign.number
        request.since = epoch.number
        request.after = after.number
        return try await changes(request, timeout: timeout)
    }

    /// Which bytes changed in the one reign that ended with the state that was granted to `heir`, our own reign or an
    /// earlier one.
    package func changes(
        of volume: VolumeID, inReignBefore heir: Epoch, after: InodeNumber, reign: Epoch, timeout: Duration
    ) async throws(PeerError) -> ChangesSince {
        var request = Godwit_Peer_V1_ChangesRequest()
        request.volume = volume.description
        request.epoch = reign.number
        request.heir = heir.number
        request.after = after.number
        return try await changes(request, timeout: timeout)
    }

    private func changes(
        _ request: Godwit_Peer_V1_ChangesRequest, timeout: Duration
    ) async throws(PeerError) -> ChangesSince {
        do {
            let reply: Godwit_Peer_V1_ChangesReply = try await call(
                "Changes", request, isUrgent: false, timeout: timeout)
            return try heard("Changes") { () throws(PeerError) in
                try ChangesCoding.decode(reply, after: InodeNumber(request.after), from: site)
            }
        } catch .call(_, _, let status) where status.code == .unimplemented {
            return ChangesSince(kind: .unknown)
        }
    }

    /// Asks for a block that the disk here has damaged. What comes has its hash.
    ///
    /// - Returns: nil: the peer has nothing that it was, or does not know this question.
    package func restore(
        _ block: LostBlock, of volume: VolumeID, timeout: Duration = .seconds(30)
    ) async throws(PeerError) -> [UInt8]? {
        var request = Godwit_Peer_V1_RestoreRequest()
        request.volume = volume.description
        request.inode = block.extent.inode.number
        request.start = block.extent.range.start
        request.end = block.extent.range.end
        request.hash = .init(block.hash)
        let reply: Godwit_Peer_V1_ReadReply
        do {
            reply = try await call("Restore", request, isUrgent: false, timeout: timeout)
        } catch .call(_, _, let status) where status.code == .notFound || status.code == .unimplemented {
            return nil
        }
        return try heard("Restore") { () throws(PeerError) in
            try ReadCoding.content(of: block, in: reply, from: site)
        }
    }

    /// How many bytes of each extent, of the head that the peer keeps for our reign, are neither there nor at whom the peer
    /// would get them from; of its present head, if `reign` is the peer's own.
    ///
    /// - Parameter sequence: what we have followed of the present head: of files that were written to since all is lacking.
    /// - Returns: the counts, in the order of the extents, and who did not tell: what such a site has is said to be lacking.
    package func lacking(
        _ extents: [Extent], of volume: VolumeID, reign: Epoch, through sequence: SequenceNumber? = nil,
        hops: UInt32, within timeout: Duration
    ) async throws(PeerError) -> (byteCounts: [UInt64], silent: [SiteID]) {
        var request = Godwit_Peer_V1_LackingRequest()
        request.volume = volume.description
        request.epoch = reign.number
        request.hops = hops
        request.through = sequence?.number ?? 0
        // Whoever is asked on the way is to give up before this does.
        request.milliseconds = UInt32(clamping: Int64(timeout / .milliseconds(1)) * 3 / 4)
        request.extents = extents.map { extent in
            var message = Godwit_Peer_V1_Extent()
            message.inode = extent.inode.number
            message.start = extent.range.start
            message.end = extent.range.end
            return message
        }
        let reply: Godwit_Peer_V1_LackingReply = try await call(
            "Lacking", request, isUrgent: false, timeout: timeout)
        guard reply.byteCounts.count == extents.count, reply.silent.count <= PeerLimits.silentSiteCount else {
            throw noted("Lacking", .malformed(site: site, "an answer to something else"))
        }
        return (reply.byteCounts, reply.silent.compactMap { SiteID($0) })
    }

    // MARK: one call

    func call<Request: Message, Reply: Message>(
        _ method: String, _ request: Request, isUrgent: Bool = true, timeout: Duration
    ) async throws(PeerError) -> Reply {
        let bytes = try serialize(request)
        func answer(of channel: RPCChannel) async throws(RPCStatus) -> [UInt8] {
            try await channel.unary(
                Self.service + method, bytes, metadata: RPCMetadata(), timeout: timeout, waitForReady: false)
        }
        do {
            return try parse(isUrgent ? try await answer(of: urgent) : try await bulk.call(answer))
        } catch let error as RPCStatus {
            throw failure(method, error)
        } catch let error as PeerError {
            throw noted(method, error)
        } catch {
            throw .malformed(site: site, "\(error)")
        }
    }

    private func serialize(_ message: some Message) throws(PeerError) -> [UInt8] {
        do {
            return try message.serializedBytes()
        } catch {
            throw .malformed(site: nil, "a request that cannot be written: \(error)")
        }
    }

    private func parse<Reply: Message>(_ bytes: [UInt8]) throws(PeerError) -> Reply {
        do {
            return try Reply(serializedBytes: bytes)
        } catch {
            throw .malformed(site: site, "an answer that is no message: \(error)")
        }
    }
}

/// A peer as the origin of a head.
package struct PeerSource: ByteSource, DirectorySource {
    private let site: SiteID
    private let client: @Sendable () throws -> PeerClient
    private let volume: VolumeID
    private let reign: Epoch
    private let seen: @Sendable ([InodeNumber]) throws -> SeenFiles?
    private let early: EarlyBytes?
    private let memory = Memory()

    /// Whether the peer has refused once: from then on it is told at once, which does no harm where it does know.
    private final class Memory: Sendable { let tellsSeen = Atomic(false) }

    /// - Parameters:
    ///   - client: the connections to the peer, which may be others each time.
    ///   - reign: the reign under which this site owns the volume, for which the peer keeps bytes.
    ///   - early: bytes that were taken ahead of the hand-over: what the peer has alike comes from there.
    ///   - seen: files as they are here, for a peer that has refused because it does not know what was followed of it.
    package init(
        site: SiteID, volume: VolumeID, reign: Epoch, early: EarlyBytes? = nil,
        client: @escaping @Sendable () throws -> PeerClient,
        seen: @escaping @Sendable ([InodeNumber]) throws -> SeenFiles? = { _ in nil }
    ) {
        self.early = early
        self.seen = seen
        self.site = site
        self.client = client
        self.volume = volume
        self.reign = reign
    }

    package var name: String { "site \(site)" }

    package func read(
        _ extents: [Extent], urgency: Urgency, timeout: Duration
    ) async throws -> [Piece] {
        guard let early, !early.isGivenUp else {
            return try await ask(extents, own: [:], urgency: urgency, timeout: timeout)
        }
        let (asked, own) = await early.question(extents)
        let pieces = try await ask(asked, own: own, urgency: urgency, timeout: timeout)
        for piece in pieces where piece.content != .zeros {
            early.drop(Extent(inode: piece.inode, range: piece.range))
        }
        // What is zero takes no room in the head either.
        return pieces.flatMap { piece in
            guard piece.isOwn else { return [piece] }
            return HeadReader.split(piece).map {
                Piece(inode: $0.inode, range: $0.range, content: $0.content, isOwn: true)
            }
        }
    }

    private func ask(
        _ extents: [Extent], own: [Extent: [UInt8]], urgency: Urgency, timeout: Duration
    ) async throws -> [Piece] {
        let deadline = ContinuousClock.now + timeout
        let tellsSeen = memory.tellsSeen.load(ordering: .relaxed)
        let files = tellsSeen ? try? seen(extents.map(\.inode)) : nil
        do {
            return try await client().read(
                extents, own: own, of: volume, reign: reign, seen: files, urgency: urgency, timeout: timeout)
        } catch PeerError.call(let site, let method, let status) where status.code == .failedPrecondition {
            let left = deadline - ContinuousClock.now
            guard !tellsSeen, left > .zero, let files = try? seen(extents.map(\.inode)) else {
                throw PeerError.call(site: site, method: method, status)
            }
            memory.tellsSeen.store(true, ordering: .relaxed)
            return try await client().read(
                extents, own: own, of: volume, reign: reign, seen: files, urgency: urgency, timeout: left)
        }
    }

    func read(
        _ extents: [Extent], own: [Extent: [UInt8]], urgency: Urgency, timeout: Duration
    ) async throws -> [Piece] {
        try await client().read(
            extents, own: own, of: volume, reign: reign, urgency: urgency, timeout: timeout)
    }

    func changes(since epoch: Epoch, after: InodeNumber, timeout: Duration) async throws -> ChangesSince {
        try await client().changes(
            of: volume, since: epoch, after: after, reign: reign, timeout: timeout)
    }

    /// Which bytes changed in the one reign that ended with the state that was granted to `heir`.
    package func changes(
        inReignBefore heir: Epoch, after: InodeNumber, timeout: Duration
    ) async throws -> ChangesSince {
        try await client().changes(
            of: volume, inReignBefore: heir, after: after, reign: reign, timeout: timeout)
    }

    package func list(
        _ request: ListingRequest, urgency: Urgency, timeout: Duration
    ) async throws -> Listing {
        try await client().list(
            request, of: volume, reign: reign, urgency: urgency, timeout: timeout
        ).listing
    }
}
