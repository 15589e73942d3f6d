import Catalog
import PeerProtocol
import PeerService
import RPC
import Testing
import VolumeModel

/// An owner of a volume that answers its follower with anything but its changes.
@Suite(.timeLimit(.minutes(2))) struct HostileOwnerTests {
    /// What it answers to Follow, in place of changes and a position.
    enum Answer: CaseIterable {
        case silence
        case nothingWithoutEnd
        case anEndTooSoon
        case somethingThenSilence
    }

    private static func answer(_ call: RPCServerCall, _ answer: Answer) async throws {
        _ = try await call.receive()
        switch answer {
        case .silence: try await Task.sleep(for: .seconds(3600))
        case .nothingWithoutEnd:
            while true { try await call.send(try Godwit_Peer_V1_FollowReply().serializedBytes()) }
        case .anEndTooSoon: break
        case .somethingThenSilence:
            var rows: [UInt8] = []
            CatalogRowCoder.append(.removedInode(InodeNumber(7)), to: &rows)
            var reply = Godwit_Peer_V1_FollowReply()
            reply.byteCount = UInt32(rows.count)
            reply.rows = .init(rows)
            try await call.send(try reply.serializedBytes())
            try await Task.sleep(for: .seconds(3600))
        }
    }

    @Test(arguments: Answer.allCases) func aFollowerIsNotHeldUp(by answer: Answer) async throws {
        let server = RPCServer(options: RPCServerOptions()) { (call) async throws(RPCStatus) in
            do {
                try await Self.answer(call, answer)
            } catch let error as RPCStatus {
                throw error
            } catch {
                throw RPCStatus(.cancelled, "\(error)")
            }
        }
        let port = try #require(
            try server.listen(on: .tcp(host: "127.0.0.1", port: 0), security: .plaintext))
        try server.start()
        let client = try PeerClient(
            site: try #require(SiteID("london")), endpoint: .tcp(host: "127.0.0.1", port: port),
            security: .plaintext)
        var rowCount = 0
        // Both ways that it asks: for everything, and for what is new.
        for since in [nil, SequenceNumber(5)] {
            await #expect(throws: PeerError.self) {
                _ = try await client.follow(
                    VolumeID(randomHigh: 3, randomLow: 4), reign: .first, since: since,
                    patience: .seconds(1)
                ) { rowCount += $0.count }
            }
        }
        #expect(rowCount == (answer == .somethingThenSilence ? 2 : 0))
        client.close()
        await server.shutdown(grace: .zero)
    }
}
