internal import Compression
internal import Crypto
package import Hydration
package import PeerProtocol
package import VolumeModel

/// How pieces of files travel: ranges with hashes, then the bytes of all of them, compressed together.
package enum ReadCoding {
    /// Bytes of SHA-256 that are sent: 128 bits, far beyond what chance can forge.
    private static let hashByteCount = 16

    ///
    /// - Parameter pieces: one that is the reader's own is only named.
    package static func encode(_ pieces: [Piece]) -> Godwit_Peer_V1_ReadReply {
        var reply = Godwit_Peer_V1_ReadReply()
        var payload: [UInt8] = []
        reply.pieces = pieces.map { piece in
            var message = Godwit_Peer_V1_Piece()
            message.inode = piece.inode.number
            message.start = piece.range.start
            message.end = piece.range.end
            switch piece.content {
            case .zeros: break
            case .bytes where piece.isOwn: message.same = true
            case .bytes(let bytes):
                message.hash = .init(hash(bytes[...]))
                payload.append(contentsOf: bytes)
            case .stored: preconditionFailure("bytes that were only named are never sent")
            }
            return message
        }
        reply.byteCount = UInt32(clamping: payload.count)
        if let compressed = Zstd.compressed(payload) {
            reply.payload = .init(compressed)
            reply.encoding = .zstd
        } else {
            reply.payload = .init(payload)
            reply.encoding = .raw
        }
        return reply
    }

    /// Takes an answer apart and verifies every hash and that it is an answer to what was asked.
    ///
    /// - Parameter own: the bytes whose hashes were sent along, by extent; a source may say that it has the same.
    package static func decode(
        _ reply: Godwit_Peer_V1_ReadReply, asked: [Extent], own: [Extent: [UInt8]] = [:], from site: SiteID
    ) throws(PeerError) -> [Piece] {
        let payload: [UInt8]
        switch reply.encoding {
        case .raw: payload = Array(reply.payload)
        case .zstd:
            do {
                payload = try Zstd.decompressed(
                    Array(reply.payload), byteCount: Int(reply.byteCount),
                    limit: PeerLimits.largestReadPayload)
            } catch {
                throw .malformed(site: site, "an answer that cannot be decompressed (\(error))")
            }
        case .UNRECOGNIZED(let number): throw .malformed(site: site, "unknown encoding \(number)")
        }
        var position = 0
        var pieces: [Piece] = []
        for message in reply.pieces {
            guard message.start < message.end, message.end <= ByteRange.maximumOffset else {
                throw .malformed(site: site, "a piece without bytes")
            }
            let range = ByteRange(message.start, message.end)
            let inode = InodeNumber(message.inode)
            if message.same {
                guard let bytes = own[Extent(inode: inode, range: range)] else {
                    throw .malformed(site: site, "'the same' of bytes that were not asked for so")
                }
                pieces.append(Piece(inode: inode, range: range, content: .bytes(bytes), isOwn: true))
                continue
            }
            if message.hash.isEmpty {
                pieces.append(Piece(inode: inode, range: range, content: .zeros))
                continue
            }
            guard range.byteCount <= UInt64(payload.count - position) else {
                throw .malformed(site: site, "fewer bytes than it says")
            }
            let bytes = payload[position..<position + Int(range.byteCount)]
            position += bytes.count
            guard hash(bytes).elementsEqual(message.hash) else {
                throw .malformed(site: site, "bytes of inode \(inode) \(range) that do not fit their hash")
            }
            pieces.append(Piece(inode: inode, range: range, content: .bytes(Array(bytes))))
        }
        try check(pieces, answer: asked, from: site)
        return pieces
    }

    /// Takes a block out of an answer.
    ///
    /// - Throws: `.malformed` when it is not that block.
    package static func content(
        of block: LostBlock, in reply: Godwit_Peer_V1_ReadReply, from site: SiteID
    ) throws(PeerError) -> [UInt8] {
        let range = block.extent.range
        var content: [UInt8] = []
        content.reserveCapacity(Int(range.byteCount))
        for piece in try decode(reply, asked: [block.extent], from: site) {
            switch piece.content {
            case .bytes(let bytes): content += bytes
            case .zeros:
                let end = min(piece.range.end, range.end)
                content += repeatElement(0, count: Int(end - min(end, piece.range.start)))
            case .stored: throw .malformed(site: site, "bytes that are not there")
            }
        }
        guard block.isContent(content) else {
            throw .malformed(site: site, "another block than was asked for")
        }
        return content
    }

    /// The pieces must cover a prefix of what was asked, in order and without gaps.
    private static func check(_ pieces: [Piece], answer asked: [Extent], from site: SiteID) throws(PeerError)
    {
        guard let firstAsked = asked.first else { return }
        var index = 0
        var expected = firstAsked.range.start
        for piece in pieces {
            while index < asked.count, expected >= asked[index].range.end {
                index += 1
                if index < asked.count { expected = asked[index].range.start }
            }
            guard index < asked.count, piece.inode == asked[index].inode, piece.range.start == expected else {
                throw .malformed(site: site, "an answer to another question")
            }
            if case .bytes = piece.content, piece.range.end > asked[index].range.end {
                throw .malformed(site: site, "more bytes than were asked for")
            }
            expected = piece.range.end
        }
        if pieces.isEmpty { throw .malformed(site: site, "an empty answer") }
    }

    static func hash(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        var hasher = SHA256()
        bytes.withUnsafeBytes { hasher.update(bufferPointer: $0) }
        return Array(hasher.finalize().prefix(hashByteCount))
    }
}
