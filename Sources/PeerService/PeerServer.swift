package import Catalog
internal import Compression
internal import Hydration
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
    func catalog(of volume: VolumeID, for site: SiteID) async throws -> Catalog
    /// The head whose bytes are kept for a reign of the caller.
    func reader(of volume: VolumeID, reign: Epoch, for site: SiteID) async throws -> HeadReader
    func exchange(
        _ message: Godwit_Peer_V1_HandoffMessage, from site: SiteID
    ) async throws -> Godwit_Peer_V1_HandoffMessage
    func takeOver(
        _ request: Godwit_Peer_V1_TakeOverRequest, by site: SiteID
    ) async throws -> Godwit_Peer_V1_TakeOverReply
    func status(of volume: VolumeID, for site: SiteID) async throws -> Godwit_Peer_V1_VolumeStatus
    func withdraw(_ request: Godwit_Peer_V1_WithdrawRequest, by site: SiteID) async throws
        -> Godwit_Peer_V1_WithdrawReply
}

/// The service that peers call: decodes, authenticates, asks the backend, encodes.
package struct PeerServer: Sendable {
    private static let largestExtentCount = 4096
    /// A call's only request comes with it; over the worst link this is long.
    private static let requestTimeout: Duration = .seconds(30)

    private let backend: any PeerBackend

    private let statusOfError: @Sendable (any Error) -> RPCStatus

    /// - Parameter statusOfError: the backend's own errors as callers are told of them.
    package init(backend: any PeerBackend, statusOfError: @escaping @Sendable (any Error) -> RPCStatus) {
        self.backend = backend
        self.statusOfError = statusOfError
    }

    package func handle(_ call: RPCServerCall) async throws(RPCStatus) {
        guard call.method.hasPrefix(PeerClient.service) else {
            throw RPCStatus(.unimplemented, "no such method: \(call.method)")
        }
        guard let certificate = call.peerCertificatePEM else {
            throw RPCStatus(.unauthenticated, "a certificate is needed")
        }
        let site: SiteID
        do {
            site = try backend.authenticate(certificatePEM: certificate)
        } catch {
            throw RPCStatus(.unauthenticated, "\(error)")
        }
        guard let request = try await call.receive(within: Self.requestTimeout) else {
            throw RPCStatus(.invalidArgument, "a request is missing")
        }
        do {
            try await answer(call, String(call.method.dropFirst(PeerClient.service.count)), request, site)
        } catch let error as RPCStatus {
            throw error
        } catch let error as PeerError {
            throw error.status
        } catch let error as HydrationError {
            throw RPCStatus(.unavailable, "\(error)")
        } catch is BinaryDecodingError {
            throw RPCStatus(.invalidArgument, "the request is no message of \(call.method)")
        } catch {
            throw statusOfError(error)
        }
    }

    private func answer(
        _ call: RPCServerCall, _ method: String, _ request: [UInt8], _ site: SiteID
    ) async throws {
        switch method {
        case "Hello":
            _ = try Godwit_Peer_V1_HelloRequest(serializedBytes: request)
            try await call.send(try backend.hello().serializedBytes())
        case "Offer":
            try await call.send(
                try await backend.offer(try .init(serializedBytes: request), by: site).serializedBytes())
        case "Follow": try await follow(call, try .init(serializedBytes: request), site)
        case "List": try await list(call, try .init(serializedBytes: request), site)
        case "Read": try await read(call, try .init(serializedBytes: request), site)
        case "Exchange":
            try await call.send(
                try await backend.exchange(try .init(serializedBytes: request), from: site).serializedBytes())
        case "TakeOver":
            try await call.send(
                try await backend.takeOver(try .init(serializedBytes: request), by: site).serializedBytes())
        case "Status":
            let message = try Godwit_Peer_V1_StatusRequest(serializedBytes: request)
            let volume = try Self.volume(message.volume)
            try await call.send(try await backend.status(of: volume, for: site).serializedBytes())
        case "Withdraw":
            try await call.send(
                try await backend.withdraw(try .init(serializedBytes: request), by: site).serializedBytes())
        default: throw RPCStatus(.unimplemented, "no such method: \(call.method)")
        }
    }

    private func follow(
        _ call: RPCServerCall, _ request: Godwit_Peer_V1_FollowRequest, _ site: SiteID
    ) async throws {
        let catalog = try await backend.catalog(of: try Self.volume(request.volume), for: site)
        let since = request.since > 0 ? SequenceNumber(request.since) : nil
        let volume = try Self.volume(request.volume)
        let position = try await catalog.sendChanges(to: site.description, since: since) { rows in
            // Its right may have been taken back meanwhile.
            _ = try await backend.catalog(of: volume, for: site)
            try await call.send(try FollowCoding.encode(rows).serializedBytes())
        }
        var last = Godwit_Peer_V1_FollowReply()
        last.position = Godwit_Peer_V1_CatalogPosition(position)
        try await call.send(try last.serializedBytes())
    }

    private func list(
        _ call: RPCServerCall, _ request: Godwit_Peer_V1_ListRequest, _ site: SiteID
    ) async throws {
        let wanted = try ListCoding.request(of: request)
        let reader = try await backend.reader(
            of: try Self.volume(request.volume), reign: Epoch(request.epoch), for: site)
        var reply = ListCoding.encode(try reader.list(wanted))
        if request.wantsPosition { reply.position = Godwit_Peer_V1_CatalogPosition(try reader.position()) }
        try await call.send(try reply.serializedBytes())
    }

    private func read(
        _ call: RPCServerCall, _ request: Godwit_Peer_V1_ReadRequest, _ site: SiteID
    ) async throws {
        guard request.extents.count <= Self.largestExtentCount else {
            throw RPCStatus(.invalidArgument, "too many extents")
        }
        let extents = try request.extents.map { extent throws(RPCStatus) in
            guard extent.start < extent.end, extent.end <= ByteRange.maximumOffset else {
                throw RPCStatus(.invalidArgument, "an extent without bytes")
            }
            return Extent(inode: InodeNumber(extent.inode), range: ByteRange(extent.start, extent.end))
        }
        let reader = try await backend.reader(
            of: try Self.volume(request.volume), reign: Epoch(request.epoch), for: site)
        let pieces = try await reader.read(extents, maximumByteCount: Int(request.maximumByteCount))
        try await call.send(try ReadCoding.encode(pieces).serializedBytes())
    }

    private static func volume(_ text: String) throws(RPCStatus) -> VolumeID {
        guard let volume = VolumeID(text) else {
            throw RPCStatus(.invalidArgument, "a volume's identifier is a UUID in lower case")
        }
        return volume
    }
}
