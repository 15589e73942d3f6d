package import Catalog
internal import Compression
package import Hydration
package import PeerProtocol
package import RPC
internal import SwiftProtobuf
package import VolumeModel

/// What a site does for its peers. The caller's identity is verified; each call checks its right.
package protocol PeerBackend: Sendable {
    /// Which site a certificate speaks for, or why it is not believed.
    func authenticate(certificatePEM: String) throws -> SiteID
    func hello() -> Godwit_Peer_V1_HelloReply
    func offer(_ request: Godwit_Peer_V1_OfferRequest, by site: SiteID) async throws
        -> Godwit_Peer_V1_OfferReply
    /// The catalog that a follower takes changes of.
    ///
    /// - Parameter reign: what the follower knows of this site's reign. Refused when that is later than any known here.
    func catalog(of volume: VolumeID, reign: Epoch, for site: SiteID) async throws -> Catalog
    /// The head whose bytes are kept for a reign of the caller.
    ///
    /// - Parameter files: as the caller has them, if it asks so.
    func reader(
        of volume: VolumeID, reign: Epoch, seen files: SeenFiles?, for site: SiteID
    ) async throws -> HeadReader
    /// The head that is in use here under a reign of this site, for a follower that takes bytes ahead of a hand-over.
    func passingReader(of volume: VolumeID, reign: Epoch, for site: SiteID) async throws -> HeadReader
    /// The head that is kept for a reign of another site, if it is the state of this name: the caller, who may be any, has
    /// had the volume since.
    func reader(
        of volume: VolumeID, grantedTo heir: Epoch, named name: StateName, for site: SiteID
    ) async throws -> HeadReader
    func exchange(
        _ message: Godwit_Peer_V1_HandoffMessage, from site: SiteID
    ) async throws -> Godwit_Peer_V1_HandoffMessage
    func takeOver(
        _ request: Godwit_Peer_V1_TakeOverRequest, by site: SiteID
    ) async throws -> Godwit_Peer_V1_TakeOverReply
    func status(of volume: VolumeID, for site: SiteID) async throws -> Godwit_Peer_V1_VolumeStatus
    func withdraw(_ request: Godwit_Peer_V1_WithdrawRequest, by site: SiteID) async throws
        -> Godwit_Peer_V1_WithdrawReply
    func locate(_ volume: VolumeID, for site: SiteID) async throws -> Godwit_Peer_V1_LocateReply
    /// A block that the caller's disk has damaged.
    ///
    /// - Returns: nil: no state of the volume that is here has it.
    func content(of block: LostBlock, of volume: VolumeID, for site: SiteID) async throws -> [UInt8]?
    /// How many bytes of each extent, of the head that is kept for a reign of the caller or that it has followed up to
    /// `sequence`, nobody has who is asked within the time.
    func lacking(
        _ extents: [Extent], of volume: VolumeID, reign: Epoch, through sequence: SequenceNumber?,
        hops: UInt32,
        within limit: Duration, for site: SiteID
    ) async throws -> (byteCounts: [UInt64], silent: Set<SiteID>)
    /// What is known here of volumes that the caller takes itself for the owner of: of each of which it may know, the last
    /// reign, if it is another one and not an earlier one, or comes after a later hand-over.
    func confirm(_ owned: [VolumeID: AskedReign], by site: SiteID) async throws -> [VolumeID: ToldReign]
    /// - Returns: what serves the calls of other services that a node of this site makes; nil for anybody else.
    func serveMember(_ member: SiteID) -> RPCServer.Handler?
}

extension PeerBackend {
    package func reader(of volume: VolumeID, reign: Epoch, for site: SiteID) async throws -> HeadReader {
        try await reader(of: volume, reign: reign, seen: nil, for: site)
    }
}

/// The service that peers call: decodes, authenticates, asks the backend, encodes.
package struct PeerServer: Sendable {
    private let backend: any PeerBackend
    private let limits: PeerLimits
    private let calls: PeerCalls

    private let misconduct: PeerMisconduct
    private let isImpossible: @Sendable (any Error) -> Bool
    private let statusOfError: @Sendable (any Error) -> RPCStatus

    /// - Parameters:
    ///   - misconduct: where it is noted what no sound peer sends.
    ///   - isImpossible: whether one of the backend's own errors says so of a message.
    ///   - statusOfError: the backend's own errors as callers are told of them.
    package init(
        backend: any PeerBackend, limits: PeerLimits = PeerLimits(),
        misconduct: PeerMisconduct = PeerMisconduct(),
        isImpossible: @escaping @Sendable (any Error) -> Bool = { _ in false },
        statusOfError: @escaping @Sendable (any Error) -> RPCStatus
    ) {
        self.backend = backend
        self.limits = limits
        calls = PeerCalls(limits: limits)
        self.misconduct = misconduct
        self.isImpossible = isImpossible
        self.statusOfError = statusOfError
    }

    /// Calls of peers that are being answered.
    package var openCallCount: Int { calls.count }

    package func handle(_ call: RPCServerCall) async throws(RPCStatus) {
        guard let certificate = call.peerCertificatePEM else {
            throw RPCStatus(.unauthenticated, "a certificate is needed")
        }
        let site: SiteID
        do {
            site = try backend.authenticate(certificatePEM: certificate)
        } catch {
            throw RPCStatus(.unauthenticated, "\(error)")
        }
        try calls.begin(by: site, over: call.peerAddress)
        defer { calls.end(by: site, over: call.peerAddress) }
        guard call.method.hasPrefix(PeerClient.service) else {
            guard let handler = backend.serveMember(site) else {
                throw refused(RPCStatus(.unimplemented, "no such method: \(call.method)"), call, site)
            }
            return try await handler(call)
        }
        let request = try await request(of: call, by: site)
        do {
            try await answer(call, Self.name(of: call), request, site)
        } catch {
            throw status(of: error, call, site)
        }
    }

    private static func name(of call: RPCServerCall) -> String {
        call.method.hasPrefix(PeerClient.service)
            ? String(call.method.dropFirst(PeerClient.service.count)) : call.method
    }

    private func request(of call: RPCServerCall, by site: SiteID) async throws(RPCStatus) -> [UInt8] {
        let begun = ContinuousClock.now
        let request: [UInt8]?
        do {
            request = try await call.receive(within: limits.requestTimeout)
        } catch {
            if call.hasRefusedMessage {
                _ = refused(
                    RPCStatus(.resourceExhausted, "a message larger than any that is taken"), call, site)
            } else if isWithheld(since: begun, call, site) {
                _ = refused(RPCStatus(.cancelled, "no request came in \(limits.requestTimeout)"), call, site)
            }
            throw error
        }
        calls.noteRequest(by: site, over: call.peerAddress)
        guard let request else {
            throw refused(RPCStatus(.invalidArgument, "a request is missing"), call, site)
        }
        guard request.count <= limits.requestByteCount else {
            let text = "a request of \(request.count) bytes: they have \(limits.requestByteCount) at most"
            throw refused(RPCStatus(.resourceExhausted, text), call, site)
        }
        return request
    }

    /// Whether a peer has kept its request back, rather than that it could not come: of a link that was cut just then, a
    /// peer that stands still, and a time in which this process did, nobody is to be told as of one that misbehaves. So
    /// only where others of its requests came over the same connection, in the later half of the time.
    private func isWithheld(
        since begun: ContinuousClock.Instant, _ call: RPCServerCall, _ site: SiteID
    ) -> Bool {
        let (limit, now) = (limits.requestTimeout, ContinuousClock.now)
        guard now - begun >= limit, now - begun < limit + .seconds(5),
            let heard = calls.lastRequest(by: site, over: call.peerAddress)
        else { return false }
        return heard - begun >= limit / 2
    }

    /// No sound peer sends that.
    private func refused(_ status: RPCStatus, _ call: RPCServerCall, _ site: SiteID) -> RPCStatus {
        misconduct.note(site, Self.name(of: call), status.message)
        return status
    }

    private func status(of error: any Error, _ call: RPCServerCall, _ site: SiteID) -> RPCStatus {
        let status =
            switch error {
            case let error as RPCStatus: error
            case let error as PeerError: error.status
            case let error as HydrationError: RPCStatus(.unavailable, "\(error)")
            case is BinaryDecodingError:
                RPCStatus(.invalidArgument, "the request is no message of \(call.method)")
            default: statusOfError(error)
            }
        // What a third site answered meanwhile is not the caller's doing.
        if case PeerError.malformed(let culprit?, _) = error, culprit != site { return status }
        let isRefusal = status.code == .invalidArgument || status.code == .unimplemented
        // Of other calls it may be what is known here that cannot be.
        let isImpossible = Self.name(of: call) == "Exchange" && isImpossible(error)
        return isRefusal || isImpossible ? refused(status, call, site) : status
    }

    private func answer(
        _ call: RPCServerCall, _ method: String, _ request: [UInt8], _ site: SiteID
    ) async throws {
        switch method {
        case "Hello":
            _ = try Godwit_Peer_V1_HelloRequest(serializedBytes: request)
            try await finish(call, of: site, with: backend.hello())
        case "Offer":
            let message = try Godwit_Peer_V1_OfferRequest(serializedBytes: request)
            try Self.check(message)
            try await finish(call, of: site, with: try await backend.offer(message, by: site))
        case "Follow": try await follow(call, try .init(serializedBytes: request), site)
        case "List": try await list(call, try .init(serializedBytes: request), site)
        case "Read": try await read(call, try .init(serializedBytes: request), site)
        case "Changes": try await changes(call, try .init(serializedBytes: request), site)
        case "Exchange":
            try await finish(
                call, of: site,
                with: try await backend.exchange(try .init(serializedBytes: request), from: site))
        case "TakeOver":
            try await finish(
                call, of: site,
                with: try await backend.takeOver(try .init(serializedBytes: request), by: site))
        case "Status":
            let message = try Godwit_Peer_V1_StatusRequest(serializedBytes: request)
            let volume = try Self.volume(message.volume)
            try await finish(call, of: site, with: try await backend.status(of: volume, for: site))
        case "Locate":
            let message = try Godwit_Peer_V1_LocateRequest(serializedBytes: request)
            try await finish(
                call, of: site, with: try await backend.locate(try Self.volume(message.volume), for: site))
        case "Lacking": try await lacking(call, try .init(serializedBytes: request), site)
        case "Confirm":
            let owned = try ConfirmCoding.owned(in: try .init(serializedBytes: request))
            let later = try await backend.confirm(owned, by: site)
            try await finish(call, of: site, with: ConfirmCoding.message(of: later))
        case "Restore": try await restore(call, try .init(serializedBytes: request), site)
        case "Withdraw":
            try await finish(
                call, of: site,
                with: try await backend.withdraw(try .init(serializedBytes: request), by: site))
        default: throw RPCStatus(.unimplemented, "no such method: \(call.method)")
        }
    }

    // Not inlined: Swift 6.3.1's optimizer ends in a crash where it is.
    @inline(never)
    private func send(_ message: some Message, to call: RPCServerCall) async throws {
        try await call.send(try message.serializedBytes(), within: limits.sendTimeout)
    }

    /// The one answer of a call. A short one goes out together with the status: nobody waits for gRPC in between. A long
    /// one holds its place among those under way until it is sent.
    // Not inlined, for the same reason.
    @inline(never)
    private func finish(_ call: RPCServerCall, of site: SiteID, with message: some Message) async throws {
        let bytes: [UInt8] = try message.serializedBytes()
        guard bytes.count <= PeerLimits.shortAnswerByteCount, calls.beginUnsent(by: site) else {
            return try await call.send(bytes, within: limits.sendTimeout)
        }
        call.whenOver { calls.endUnsent(by: site) }
        try call.sendLast(bytes)
    }

    /// What is stored of an offer for as long as the volume is known here.
    static func check(_ request: Godwit_Peer_V1_OfferRequest) throws(RPCStatus) {
        guard VolumeName.isValid(request.name) else { throw RPCStatus(.invalidArgument, VolumeName.rule) }
        guard VolumeLimits(byteCount: request.capacity, inodeCount: request.inodeLimit).isCountable else {
            throw RPCStatus(.invalidArgument, VolumeLimits.rule)
        }
        let parameterByteCount = request.parameters.reduce(0) { $0 + $1.key.utf8.count + $1.value.utf8.count }
        guard request.parameters.count <= PeerLimits.parameterCount,
            parameterByteCount <= PeerLimits.parameterByteCount
        else {
            throw RPCStatus(
                .invalidArgument,
                "a volume has at most \(PeerLimits.parameterCount) parameters with "
                    + "\(PeerLimits.parameterByteCount) bytes")
        }
    }

    private func follow(
        _ call: RPCServerCall, _ request: Godwit_Peer_V1_FollowRequest, _ site: SiteID
    ) async throws {
        let volume = try Self.volume(request.volume)
        try calls.begin(.follow, by: site)
        defer { calls.end(.follow, by: site) }
        let reign = Epoch(request.epoch)
        let catalog = try await backend.catalog(of: volume, reign: reign, for: site)
        let since = request.since > 0 ? SequenceNumber(request.since) : nil
        let position: CatalogPosition
        do {
            position = try await catalog.sendChanges(to: site.description, since: since) { rows in
                // Its right may have been taken back meanwhile.
                _ = try await backend.catalog(of: volume, reign: reign, for: site)
                try await send(FollowCoding.encode(rows), to: call)
            }
        } catch CatalogError.unknownPosition(let follower, let position) {
            guard try catalog.isBehind(follower, at: position, of: StateName(request.headName)) else {
                throw CatalogError.unknownPosition(follower: follower, position)
            }
            throw PeerError.behind(volume, follower: site)
        }
        var last = Godwit_Peer_V1_FollowReply()
        last.position = Godwit_Peer_V1_CatalogPosition(position)
        try await send(last, to: call)
    }

    private func list(
        _ call: RPCServerCall, _ request: Godwit_Peer_V1_ListRequest, _ site: SiteID
    ) async throws {
        let wanted = try ListCoding.request(of: request)
        let volume = try Self.volume(request.volume)
        // Whoever lists waits for names, or will not be without them for long.
        try calls.begin(.read(isUrgent: true), by: site)
        defer { calls.end(.read(isUrgent: true), by: site) }
        let (listing, position) = try await HeadReader.read {
            try await backend.reader(of: volume, reign: Epoch(request.epoch), for: site)
        } _: { reader in
            let position = request.wantsPosition ? try reader.position() : nil
            return (try await reader.list(wanted), position)
        }
        try await finish(call, of: site, with: ListCoding.encode(listing, position: position))
    }

    private func read(
        _ call: RPCServerCall, _ request: Godwit_Peer_V1_ReadRequest, _ site: SiteID
    ) async throws {
        let extents = try Self.extents(request.extents)
        let hashes = request.extents.enumerated().filter { !$0.element.hash.isEmpty }
            .map { ($0.offset, Array($0.element.hash)) }
        let volume = try Self.volume(request.volume)
        try calls.begin(.read(isUrgent: request.urgent), by: site)
        defer { calls.end(.read(isUrgent: request.urgent), by: site) }
        let reign = Epoch(request.epoch)
        let name = StateName(request.stateName)
        guard request.stateName.isEmpty || name != nil else {
            throw RPCStatus(.invalidArgument, "a state's name has \(StateName.byteCount) bytes")
        }
        let files = SeenFiles(request)
        let (known, limit) = (Dictionary(uniqueKeysWithValues: hashes), Int(request.maximumByteCount))
        // Reading from the disk, hashing and compressing take their time: what nobody waits for holds up no other.
        let reply = try await HeadReader.read {
            guard !request.ahead else {
                return try await backend.passingReader(of: volume, reign: reign, for: site)
            }
            guard let name else {
                return try await backend.reader(of: volume, reign: reign, seen: files, for: site)
            }
            return try await backend.reader(of: volume, grantedTo: reign, named: name, for: site)
        } _: { reader in
            try await Aside.run(request.urgent ? Urgency.urgent.priority : Urgency.background.priority) {
                let pieces = try await reader.read(extents, hashes: known, maximumByteCount: limit)
                return ReadCoding.encode(pieces)
            }
        }
        try await finish(call, of: site, with: reply)
    }

    private func changes(
        _ call: RPCServerCall, _ request: Godwit_Peer_V1_ChangesRequest, _ site: SiteID
    ) async throws {
        let volume = try Self.volume(request.volume)
        try calls.begin(.read(isUrgent: false), by: site)
        defer { calls.end(.read(isUrgent: false), by: site) }
        let reader = try await backend.reader(of: volume, reign: Epoch(request.epoch), for: site)
        let after = InodeNumber(request.after)
        let changes =
            request.heir == 0
            ? try await reader.changes(since: Epoch(request.since), after: after)
            : try await reader.changes(inReignBefore: Epoch(request.heir), after: after)
        try await finish(call, of: site, with: ChangesCoding.encode(changes))
    }

    private func restore(
        _ call: RPCServerCall, _ request: Godwit_Peer_V1_RestoreRequest, _ site: SiteID
    ) async throws {
        let volume = try Self.volume(request.volume)
        guard request.start < request.end, request.end <= ByteRange.maximumOffset,
            let block = LostBlock(
                Extent(inode: InodeNumber(request.inode), range: ByteRange(request.start, request.end)),
                hash: Array(request.hash))
        else {
            throw RPCStatus(
                .invalidArgument,
                "a block has \(LostBlock.byteLimit) bytes at most, begins at a multiple of them, and has a hash of "
                    + "\(LostBlock.hashByteCount)")
        }
        try calls.begin(.restore, by: site)
        defer { calls.end(.restore, by: site) }
        guard let content = try await backend.content(of: block, of: volume, for: site) else {
            calls.noteMiss(by: site)
            throw PeerError.gone(block.extent.inode)
        }
        let piece = Piece(inode: block.extent.inode, range: block.extent.range, content: .bytes(content))
        try await finish(call, of: site, with: ReadCoding.encode(HeadReader.split(piece)))
    }

    private func lacking(
        _ call: RPCServerCall, _ request: Godwit_Peer_V1_LackingRequest, _ site: SiteID
    ) async throws {
        let extents = try Self.extents(request.extents)
        let volume = try Self.volume(request.volume)
        try calls.begin(.read(isUrgent: false), by: site)
        defer { calls.end(.read(isUrgent: false), by: site) }
        let told = try await backend.lacking(
            extents, of: volume, reign: Epoch(request.epoch),
            through: request.through > 0 ? SequenceNumber(request.through) : nil, hops: request.hops,
            within: min(.milliseconds(Int64(request.milliseconds)), PeerLimits.lackingWait), for: site)
        var reply = Godwit_Peer_V1_LackingReply()
        reply.byteCounts = told.byteCounts
        reply.silent = told.silent.map(\.description).sorted().prefix(PeerLimits.silentSiteCount).map { $0 }
        try await finish(call, of: site, with: reply)
    }

    static func extents(_ messages: [Godwit_Peer_V1_Extent]) throws(RPCStatus) -> [Extent] {
        guard messages.count <= PeerLimits.extentCount else {
            throw RPCStatus(.invalidArgument, "too many extents")
        }
        return try messages.map { extent throws(RPCStatus) in
            guard extent.start < extent.end, extent.end <= ByteRange.maximumOffset else {
                throw RPCStatus(.invalidArgument, "an extent without bytes")
            }
            return Extent(inode: InodeNumber(extent.inode), range: ByteRange(extent.start, extent.end))
        }
    }

    static func volume(_ text: String) throws(RPCStatus) -> VolumeID {
        guard let volume = VolumeID(text) else {
            throw RPCStatus(.invalidArgument, "a volume's identifier is a UUID in lower case")
        }
        return volume
    }
}
