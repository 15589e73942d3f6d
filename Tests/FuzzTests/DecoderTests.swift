import Catalog
import ControlProtocol
import Hydration
import PeerProtocol
import SwiftProtobuf
import Testing
import VolumeModel

@testable import PeerService
@testable import RPC
@testable import Site

/// Inputs that were too large, or not what they seemed, each of a kind of its own. Those at random are `FuzzTargetTests`.
@Suite struct DecoderTests {
    // MARK: more than an answer has room for

    /// A row takes far more room in memory than on the wire: a small answer must not become a large one.
    @Test(arguments: [false, true])
    func answersOfMoreRowsThanAPeerSendsAreRefused(_ isCompressed: Bool) throws {
        let peer = try #require(SiteID("tokyo"))
        let row = CatalogSamples.encoded([.removedInode(InodeNumber(9))])
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

    @Test func changesOfMoreInodesThanAPeerSendsAreRefused() throws {
        let peer = try #require(SiteID("tokyo"))
        var bytes = ChangedBytes(unchangedOf: 1 << 30)
        _ = bytes.insert(ByteRange(1 << 20, 1 << 21))
        let changes = ChangesSince(
            kind: .exact, since: Epoch(7), firstNewInode: InodeNumber(9), inodes: [(InodeNumber(3), bytes)],
            isComplete: false)
        var many = ChangesCoding.encode(changes)
        #expect(try ChangesCoding.decode(many, after: InodeNumber(2), from: peer).inodes.count == 1)
        many.inodes = (1...100_000 as ClosedRange<UInt64>).map { inode in
            var message = many.inodes[0]
            message.inode = inode
            return message
        }
        #expect(throws: PeerError.self) {
            try ChangesCoding.decode(many, after: InodeNumber(0), from: peer)
        }
    }

    // MARK: found once

    /// A cluster keeps records as JSON, in which greater numbers are not whole any more: such a volume's record could not be
    /// read again.
    @Test(arguments: [UInt64.max, 1 << 63, UInt64(Int64.max)])
    func aRateOfAnyHeightIsStoredAndReadAgain(_ rate: UInt64) throws {
        let told = HydrationPolicy(isPaused: false, rate: rate, prefetch: "all")
        #expect(told.bytesPerSecond == UInt64(Int64.max))
        try StateTargets.demandKept(told)
        var asked = HydrationPolicy()
        try asked.take(.with { $0.bytesPerSecond = rate })
        #expect(asked == told)
    }

    @Test(arguments: ["\u{599}Tg:7443", "tcp://\u{484}'x:1", "a]:1", "[a:1", "\u{e9}.example:1"])
    func aHostThatIsNoNameIsRefused(_ text: String) {
        #expect(RPCEndpoint(text) == nil)
    }
}
