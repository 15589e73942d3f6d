package import Catalog
internal import Compression
package import PeerProtocol
package import RPC
package import VolumeModel

/// Listings of directories between values and the wire's messages.
package enum ListCoding {
    static func message(of request: ListingRequest) -> Godwit_Peer_V1_ListRequest {
        var message = Godwit_Peer_V1_ListRequest()
        message.places = request.places.map { place in
            var message = Godwit_Peer_V1_ListingPlace()
            message.directory = place.directory.number
            message.after = place.after
            return message
        }
        if let name = request.name {
            message.nameDirectory = name.directory.number
            message.name = .init(name.name)
        }
        message.inodes = request.inodes.map(\.number)
        message.descends = request.descends
        message.maximumByteCount = UInt32(clamping: request.byteCount)
        return message
    }

    /// - Throws: `invalidArgument` when it is more than one answer may be about, or a name that no file can have.
    package static func request(of message: Godwit_Peer_V1_ListRequest) throws(RPCStatus) -> ListingRequest {
        guard message.places.count <= PeerLimits.placeCount,
            message.inodes.count <= PeerLimits.inodeCount
        else {
            throw RPCStatus(.invalidArgument, "too many directories or inodes")
        }
        var name: ListingRequest.Name?
        if message.nameDirectory != 0 {
            let bytes = Array(message.name)
            guard FileName.isValid(bytes) else {
                throw RPCStatus(.invalidArgument, "a name that no file has")
            }
            name = ListingRequest.Name(directory: InodeNumber(message.nameDirectory), name: bytes)
        }
        return ListingRequest(
            places: message.places.map {
                ListingPlace(directory: InodeNumber($0.directory), after: max(0, $0.after))
            }, name: name, inodes: message.inodes.map { InodeNumber($0) }, descends: message.descends,
            byteCount: min(max(Int(message.maximumByteCount), 4096), PeerLimits.listAnswerByteCount))
    }

    /// - Parameter position: where the head was sealed; nil: nobody asks.
    package static func encode(
        _ listing: Listing, position: CatalogPosition? = nil
    ) -> Godwit_Peer_V1_ListReply {
        var rows: [UInt8] = []
        for row in listing.singles { CatalogRowCoder.append(row, to: &rows) }
        var reply = Godwit_Peer_V1_ListReply()
        reply.singleByteCount = UInt32(clamping: rows.count)
        for row in listing.rows { CatalogRowCoder.append(row, to: &rows) }
        reply.byteCount = UInt32(clamping: rows.count)
        let compressed = Zstd.compressed(rows)
        reply.encoding = compressed == nil ? .raw : .zstd
        reply.rows = .init(compressed ?? rows)
        reply.parts = listing.parts.map { part in
            var message = Godwit_Peer_V1_ListingPart()
            message.directory = part.directory.number
            message.after = part.after
            message.last = part.last
            message.complete = part.isComplete
            return message
        }
        if let position { reply.position = Godwit_Peer_V1_CatalogPosition(position) }
        return reply
    }

    /// - Throws: `.malformed` when it cannot be read.
    package static func listing(
        of reply: Godwit_Peer_V1_ListReply, from site: SiteID
    ) throws(PeerError) -> Listing {
        do {
            let bytes = try FollowCoding.bytes(
                of: reply.rows, isCompressed: reply.encoding == .zstd, byteCount: reply.byteCount,
                limit: PeerLimits.largestListing)
            let singleCount = Int(reply.singleByteCount)
            guard singleCount <= bytes.count else { throw CatalogRowCoder.Failure.malformed }
            return Listing(
                singles: try CatalogRowCoder.rows(
                    of: Array(bytes[..<singleCount]), limit: PeerLimits.rowCount),
                parts: reply.parts.map { part in
                    Listing.Part(
                        directory: InodeNumber(part.directory), after: part.after, last: part.last,
                        isComplete: part.complete)
                },
                rows: try CatalogRowCoder.rows(
                    of: Array(bytes[singleCount...]), limit: PeerLimits.rowCount))
        } catch {
            throw .malformed(site: site, "a listing that cannot be read (\(error))")
        }
    }
}
