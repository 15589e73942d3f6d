package import Catalog
internal import Compression
package import PeerProtocol
package import VolumeModel

/// An owner's catalog changes between rows and the wire's messages.
package enum FollowCoding {
    package typealias Reply = Godwit_Peer_V1_FollowReply

    /// - Parameter rows: encoded by `CatalogRowCoder`.
    static func encode(_ rows: [UInt8]) -> Reply {
        var reply = Reply()
        reply.byteCount = UInt32(clamping: rows.count)
        let compressed = Zstd.compressed(rows)
        reply.encoding = compressed == nil ? .raw : .zstd
        reply.rows = .init(compressed ?? rows)
        return reply
    }

    /// - Throws: `.malformed` when they cannot be read.
    package static func rows(of reply: Reply, from site: SiteID) throws(PeerError) -> [CatalogRow] {
        guard reply.byteCount > 0 else { return [] }
        do {
            let bytes = try bytes(
                of: reply.rows, isCompressed: reply.encoding == .zstd, byteCount: reply.byteCount,
                limit: PeerLimits.largestFollowBatch)
            return try CatalogRowCoder.rows(of: bytes, limit: PeerLimits.rowCount)
        } catch {
            throw .malformed(site: site, "catalog rows that cannot be read (\(error))")
        }
    }

    /// Encoded rows as they were before they were sent.
    ///
    /// - Parameter byteCount: what the sender says that they are. More than `limit` are refused, compressed or not.
    static func bytes(
        of rows: some Collection<UInt8>, isCompressed: Bool, byteCount: UInt32, limit: Int
    ) throws(Zstd.Failure) -> [UInt8] {
        guard !isCompressed else {
            return try Zstd.decompressed(Array(rows), byteCount: Int(byteCount), limit: limit)
        }
        guard rows.count <= limit else { throw .tooLong }
        return Array(rows)
    }

    /// What a follower lacks, as part of another answer.
    ///
    /// - Returns: nil when it is more than one batch.
    package static func tail(
        of catalog: Catalog, for follower: SiteID, since: SequenceNumber
    ) async throws -> Reply? {
        struct TooMuch: Error {}
        var reply: Reply?
        do {
            let position = try await catalog.sendChanges(to: follower.description, since: since) { rows in
                // The heir waits: nothing is read that will not be sent.
                guard reply == nil else { throw TooMuch() }
                reply = encode(rows)
            }
            reply = reply ?? Reply()
            reply?.position = Godwit_Peer_V1_CatalogPosition(position)
            return reply
        } catch is TooMuch {
            return nil
        }
    }
}

extension Godwit_Peer_V1_CatalogPosition {
    init(_ position: CatalogPosition) {
        self.init()
        let counters = position.counters
        sequence = position.sequence.number
        nextInode = counters.nextInode.number
        nextCookie = counters.nextCookie
        inodeCount = counters.inodeCount
        byteCount = counters.byteCount
        allocatedByteCount = counters.allocatedByteCount
        byteLimit = position.limits.byteCount
        inodeLimit = position.limits.inodeCount
        headName = .init(position.headName?.bytes ?? [])
    }

    package var value: CatalogPosition {
        CatalogPosition(
            sequence: SequenceNumber(sequence),
            counters: CatalogCounters(
                nextInode: InodeNumber(nextInode), nextCookie: nextCookie, inodeCount: inodeCount,
                byteCount: byteCount, allocatedByteCount: allocatedByteCount),
            limits: VolumeLimits(byteCount: byteLimit, inodeCount: inodeLimit),
            headName: StateName(headName))
    }
}
