import Catalog
import EngineTestSupport
import Foundation
import Hydration
import PeerProtocol
import Testing
import VolumeModel

@testable import PeerService
@testable import RPC
@testable import SiteIdentity

/// Whatever comes from a disk or a peer gives an error, or a value that is read again as it was: never a trap.
@Suite struct DecoderTests {
    private static let rounds = 20_000 * Mutator.factor

    // MARK: catalog rows

    private static let rows: [CatalogRow] = {
        let time = FileTime(seconds: -5, nanoseconds: 999_999_999)
        let kinds: [FileKind] = [.regular, .directory, .symbolicLink, .socket]
        let inodes = kinds.enumerated().map { index, kind in
            let attributes = FileAttributes(
                inode: InodeNumber(UInt64(index) * 1000 + 2), kind: kind, permissions: 0o4755, linkCount: 3,
                uid: .max, gid: 5, device: 7, size: 1 << 40, blockCount: 12, accessTime: time,
                modificationTime: .zero, changeTime: time)
            return CatalogRow.inode(
                InodeRecord(
                    attributes: attributes, parent: .root,
                    target: kind == .symbolicLink ? Array("to/there".utf8) : [],
                    backedByteCount: kind == .regular ? 1 << 40 : 0))
        }
        return inodes + [
            .removedInode(InodeNumber(99)),
            .entry(
                DirectoryEntryRecord(
                    parent: .root, cookie: 1 << 40, name: [0xff, 1, 0x2e], inode: InodeNumber(9),
                    kind: .socket)),
            .removedEntry(parent: .root, cookie: 3),
            .attribute(InodeNumber(4), name: Array("user.x".utf8), value: [0, 1, 2]),
            .removedAttribute(InodeNumber(4), name: Array("user.x".utf8)),
        ]
    }()

    private static func encoded(_ rows: [CatalogRow]) -> [UInt8] {
        var bytes: [UInt8] = []
        for row in rows { CatalogRowCoder.append(row, to: &bytes) }
        return bytes
    }

    @Test func damagedCatalogRowsAreErrorsOrOtherRows() throws {
        var mutator = Mutator(1)
        let inputs = Self.rows.map { Self.encoded([$0]) } + [Self.encoded(Self.rows)]
        var readable = 0
        for round in 0..<Self.rounds {
            guard let rows = try? CatalogRowCoder.rows(of: mutator.damaged(inputs)) else { continue }
            readable += 1
            #expect((try? CatalogRowCoder.rows(of: Self.encoded(rows))) == rows, "round \(round)")
        }
        #expect(readable > 0 && readable < Self.rounds)
    }

    @Test func damagedFollowRepliesAreErrorsOrOtherRows() throws {
        var mutator = Mutator(2)
        let many = Self.encoded(Array(repeating: Self.rows, count: 20).flatMap { $0 })
        var last = FollowCoding.encode([])
        last.position = Godwit_Peer_V1_CatalogPosition(
            CatalogPosition(
                sequence: SequenceNumber(7),
                counters: CatalogCounters(
                    nextInode: InodeNumber(9), nextCookie: 3, inodeCount: 4, byteCount: 5,
                    allocatedByteCount: 6), limits: VolumeLimits(byteCount: 1 << 30, inodeCount: 0)))
        let inputs: [[UInt8]] = try [
            FollowCoding.encode(many), FollowCoding.encode(Self.encoded(Self.rows)), last,
        ]
        .map { try $0.serializedBytes() }
        let peer = try #require(SiteID("tokyo"))
        var readable = 0
        for round in 0..<Self.rounds {
            guard let reply = try? FollowCoding.Reply(serializedBytes: mutator.damaged(inputs)) else {
                continue
            }
            let position = reply.position.value
            #expect(Godwit_Peer_V1_CatalogPosition(position).value == position, "round \(round)")
            guard let rows = try? FollowCoding.rows(of: reply, from: peer) else { continue }
            readable += 1
            let again = FollowCoding.encode(Self.encoded(rows))
            #expect((try? FollowCoding.rows(of: again, from: peer)) == rows, "round \(round)")
        }
        #expect(readable > 0)
    }

    /// A row takes far more room in memory than on the wire: a small answer must not become a large one.
    @Test(arguments: [false, true])
    func answersOfMoreRowsThanAPeerSendsAreRefused(_ isCompressed: Bool) throws {
        let peer = try #require(SiteID("tokyo"))
        let row = Self.encoded([.removedInode(InodeNumber(9))])
        func answer(_ count: Int) throws -> Godwit_Peer_V1_FollowReply {
            let rows = Array(repeating: row, count: count).flatMap { $0 }
            guard !isCompressed else { return FollowCoding.encode(rows) }
            var reply = Godwit_Peer_V1_FollowReply()
            reply.byteCount = UInt32(rows.count)
            reply.rows = .init(rows)
            return reply
        }
        func listing(_ reply: Godwit_Peer_V1_FollowReply) throws -> Listing {
            var answer = Godwit_Peer_V1_ListReply()
            answer.byteCount = reply.byteCount
            answer.encoding = reply.encoding
            answer.rows = reply.rows
            return try ListCoding.listing(of: answer, from: peer)
        }
        // As many as one batch can have: the shortest rows are of two bytes.
        let most = try answer(Catalog.batchByteCount / 2 + 1)
        #expect(try FollowCoding.rows(of: most, from: peer).count == Catalog.batchByteCount / 2 + 1)
        #expect(try listing(most).rows.count == Catalog.batchByteCount / 2 + 1)
        for count in [PeerLimits.rowCount + 1, 3 << 20] {
            let more = try answer(count)
            #expect(throws: PeerError.self, "\(count)") { try FollowCoding.rows(of: more, from: peer) }
            #expect(throws: PeerError.self, "\(count)") { try listing(more) }
        }
    }

    // MARK: bytes of files

    @Test func damagedReadRepliesAreErrorsOrAnswersToTheQuestion() throws {
        var mutator = Mutator(3)
        let inode = InodeNumber(12)
        let asked = [
            Extent(inode: inode, range: ByteRange(0, 9000)),
            Extent(inode: InodeNumber(13), range: ByteRange(4096, 8192)),
        ]
        func replies(_ bytes: [UInt8]) throws -> [UInt8] {
            try ReadCoding.encode([
                Piece(inode: inode, range: ByteRange(0, 300), content: .bytes(bytes)),
                Piece(inode: inode, range: ByteRange(300, 9000), content: .zeros),
                Piece(
                    inode: InodeNumber(13), range: ByteRange(4096, 4396), content: .bytes(bytes.reversed())),
            ]).serializedBytes()
        }
        let inputs = try [
            replies(mutator.generator.bytes(300)), replies([UInt8](repeating: 7, count: 300)),
        ]
        let peer = try #require(SiteID("tokyo"))
        var readable = 0
        for round in 0..<Self.rounds {
            let bytes = mutator.damaged(inputs)
            guard let reply = try? Godwit_Peer_V1_ReadReply(serializedBytes: bytes),
                let pieces = try? ReadCoding.decode(reply, asked: asked, from: peer)
            else { continue }
            readable += 1
            #expect(
                (try? ReadCoding.decode(ReadCoding.encode(pieces), asked: asked, from: peer)) == pieces,
                "round \(round)")
        }
        #expect(readable > 0)
    }

    /// Whatever a peer sends in place of a block, it is the block or an error.
    @Test func damagedBlocksAreErrorsOrWhatWasAskedFor() throws {
        var mutator = Mutator(32)
        let peer = try #require(SiteID("tokyo"))
        let content = mutator.generator.bytes(5000) + [UInt8](repeating: 0, count: 8192) + [1, 2, 3]
        let extent = Extent(inode: InodeNumber(7), range: ByteRange(1 << 20, 1 << 20 + UInt64(content.count)))
        let block = try #require(LostBlock(extent, hash: ReadCoding.hash(content[...])))
        let whole = Piece(inode: extent.inode, range: extent.range, content: .bytes(content))
        let half = Piece(
            inode: extent.inode, range: ByteRange(1 << 20, 1 << 20 + 2000),
            content: .bytes(Array(content[..<2000])))
        let other = Piece(
            inode: extent.inode, range: extent.range, content: .bytes(mutator.generator.bytes(content.count)))
        let inputs = try [HeadReader.split(whole), [half], [other]].map {
            try ReadCoding.encode($0).serializedBytes() as [UInt8]
        }
        var readable = 0
        for round in 0..<Self.rounds {
            let bytes = round == 0 ? inputs[0] : mutator.damaged(inputs)
            guard let reply = try? Godwit_Peer_V1_ReadReply(serializedBytes: bytes),
                let found = try? ReadCoding.content(of: block, in: reply, from: peer)
            else { continue }
            readable += 1
            #expect(found == content, "round \(round)")
        }
        #expect(readable > 0)
    }

    @Test func damagedChangesAreErrorsOrChangesThatCanBe() throws {
        var mutator = Mutator(31)
        let peer = try #require(SiteID("tokyo"))
        var inodes: [(inode: InodeNumber, bytes: ChangedBytes)] = []
        for inode in 3..<9 as Range<UInt64> {
            var bytes = ChangedBytes(unchangedOf: inode << 30)
            _ = bytes.insert(ByteRange(inode << 20, inode << 21))
            inodes.append((InodeNumber(inode), bytes))
        }
        let sound = ChangesSince(
            kind: .exact, since: Epoch(7), firstNewInode: InodeNumber(9), inodes: inodes, isComplete: false)
        let input = try ChangesCoding.encode(sound).serializedBytes() as [UInt8]
        var readable = 0
        for round in 0..<Self.rounds {
            guard let reply = try? Godwit_Peer_V1_ChangesReply(serializedBytes: mutator.damaged([input])),
                let changes = try? ChangesCoding.decode(reply, after: InodeNumber(2), from: peer)
            else { continue }
            readable += 1
            #expect(changes.isComplete || changes.kind == .exact && !changes.inodes.isEmpty, "round \(round)")
            var last = InodeNumber(2)
            for item in changes.inodes {
                #expect(item.inode > last, "round \(round)")
                last = item.inode
                // Whatever they say, all of a range is either changed or not.
                let range = ByteRange(1 << 20, 1 << 26)
                let parts = item.bytes.parts(of: range)
                #expect(parts.reduce(0) { $0 + $1.range.byteCount } == range.byteCount, "round \(round)")
                #expect(item.bytes.firstChange(from: 0) <= item.bytes.allFrom)
            }
        }
        #expect(readable > 0)
        // More inodes than an answer has room for.
        var many = try Godwit_Peer_V1_ChangesReply(serializedBytes: input)
        many.inodes = (1...100_000 as ClosedRange<UInt64>).map { inode in
            var message = many.inodes[0]
            message.inode = inode
            return message
        }
        #expect(throws: PeerError.self) {
            try ChangesCoding.decode(many, after: InodeNumber(0), from: peer)
        }
    }

    // MARK: start profiles

    @Test func damagedStartProfilesAreErrorsOrProfilesThatCanBeUsed() throws {
        var mutator = Mutator(4)
        var profile = StartProfile()
        let extents = (1...30).map { number in
            Extent(
                inode: InodeNumber(UInt64(number * 7919 % 101) + 1),
                range: ByteRange(UInt64(number) * 4096, UInt64(number) * 8192))
        }
        profile.merge(extents, volumeByteCount: .max)
        var older = profile
        older.merge(Array(extents.prefix(9)), volumeByteCount: .max)
        var readable = 0
        for round in 0..<Self.rounds / 4 {
            let bytes = mutator.damaged([profile.encoded, older.encoded])
            guard var read = try? StartProfile(encoded: bytes) else { continue }
            readable += 1
            #expect((try? StartProfile(encoded: read.encoded)) == read, "round \(round)")
            #expect(read.byteCount <= StartProfile.byteLimit)
            for _ in 0..<3 { read.merge(Array(extents.prefix(2)), volumeByteCount: .max) }
            #expect((try? StartProfile(encoded: read.encoded)) == read, "round \(round)")
        }
        #expect(readable > 0)
    }

    // MARK: text

    @Test func damagedTrustDocumentsAreErrorsOrOtherDocuments() throws {
        var mutator = Mutator(5)
        let site = try #require(SiteID("london"))
        let pem = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQ==\n-----END CERTIFICATE-----\n"
        let inputs = try ["203.0.113.7:7443", "[2001:db8::1]:7443", "site.example:1", nil].map { address in
            Array(
                try TrustDocument(site: site, address: address, fingerprint: "4f2a", authorityPEM: pem)
                    .text.utf8)
        }
        var readable = 0
        for round in 0..<Self.rounds / 4 {
            let text = String(decoding: mutator.damaged(inputs), as: UTF8.self)
            guard let document = try? TrustDocument(text) else { continue }
            readable += 1
            #expect(
                (try? TrustDocument(document.text)) == document, "round \(round): \(text.debugDescription)")
        }
        #expect(readable > 0)
    }

    @Test func damagedEndpointsAreRefusedOrReadAgain() throws {
        var mutator = Mutator(6)
        let inputs = ["203.0.113.7:7443", "[2001:db8::1]:7443", "site.example:1", "unix:///run/godwit.sock"]
            .map { Array($0.utf8) }
        var readable = 0
        for round in 0..<Self.rounds / 4 {
            let text = String(decoding: mutator.damaged(inputs), as: UTF8.self)
            guard let endpoint = RPCEndpoint(text) else { continue }
            readable += 1
            #expect(RPCEndpoint(endpoint.description) == endpoint, "round \(round): \(text.debugDescription)")
        }
        #expect(readable > 0)
    }

    @Test(arguments: ["\u{599}Tg:7443", "tcp://\u{484}'x:1", "a]:1", "[a:1", "\u{e9}.example:1"])
    func aHostThatIsNoNameIsRefused(_ text: String) {
        #expect(RPCEndpoint(text) == nil)
    }
}
