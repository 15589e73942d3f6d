import EngineTestSupport
import Foundation
import Handoff
import PeerProtocol
import RPC
import SwiftProtobuf
import Testing
import VolumeModel

@testable import PeerService
@testable import Site

/// Promises.md: "A peer without the right certificate gets nothing; nor does a trusted one of a volume that was not offered to it,
/// or no longer is". Call by call: one of Protos/peer.proto that has no row here fails.
@Suite(.serialized, .timeLimit(.minutes(3))) struct PeerRightsTests {
    private struct Row {
        let method: String
        let request: @Sendable (VolumeID) throws -> any Message
        /// How a call ends for a site that the volume names and that is no heir: of a volume that is owned, and of one that
        /// is sealed for another site. nil: not tried here.
        let named: (owned: RPCCode?, sealed: RPCCode?)
        /// How it ends for one that the volume does not name; nil: in the same words as for a volume that there is not.
        var stranger: RPCCode?
    }

    /// The volume is sealed for sydney at this epoch.
    private static let heir: UInt64 = 2

    private static let rows: [Row] = [
        Row(method: "Hello", request: { _ in Godwit_Peer_V1_HelloRequest() }, named: (.ok, .ok)),
        // That it takes nothing from the owner is PeerPolicyTests' affair.
        Row(
            method: "Offer",
            request: { volume in
                var offer = Godwit_Peer_V1_OfferRequest()
                (offer.volume, offer.name, offer.epoch) = (volume.description, "offered", 99)
                offer.withoutReplica = true
                return offer
            }, named: (nil, nil), stranger: .notFound),
        Row(
            method: "Follow",
            request: { volume in
                var follow = Godwit_Peer_V1_FollowRequest()
                follow.volume = volume.description
                return follow
            }, named: (.ok, .failedPrecondition)),
        Row(
            method: "Read",
            request: { volume in
                var read = Godwit_Peer_V1_ReadRequest()
                (read.volume, read.epoch) = (volume.description, heir)
                read.extents = [extent()]
                return read
            }, named: (.failedPrecondition, .failedPrecondition)),
        Row(
            method: "Changes",
            request: { volume in
                var changes = Godwit_Peer_V1_ChangesRequest()
                (changes.volume, changes.epoch, changes.since) = (volume.description, heir, 1)
                return changes
            }, named: (.failedPrecondition, .failedPrecondition)),
        Row(
            method: "List",
            request: { volume in
                var list = Godwit_Peer_V1_ListRequest()
                (list.volume, list.epoch, list.wantsPosition) = (volume.description, heir, true)
                return list
            }, named: (.failedPrecondition, .failedPrecondition)),
        Row(
            method: "Lacking",
            request: { volume in
                var lacking = Godwit_Peer_V1_LackingRequest()
                (lacking.volume, lacking.epoch, lacking.milliseconds) = (volume.description, heir, 1000)
                lacking.extents = [extent()]
                return lacking
            }, named: (.failedPrecondition, .failedPrecondition)),
        // Each message of the hand-off has a row of its own below.
        Row(method: "Exchange", request: { exchange($0) { $0.declined.wanted = 9 } }, named: (nil, nil)),
        Row(
            method: "TakeOver",
            request: { volume in
                var takeOver = Godwit_Peer_V1_TakeOverRequest()
                takeOver.volume = volume.description
                return takeOver
            }, named: (.ok, nil)),
        Row(
            method: "Status",
            request: { volume in
                var status = Godwit_Peer_V1_StatusRequest()
                status.volume = volume.description
                return status
            }, named: (.ok, .ok)),
        Row(
            method: "Withdraw",
            request: { volume in
                var withdraw = Godwit_Peer_V1_WithdrawRequest()
                withdraw.volume = volume.description
                return withdraw
            }, named: (.failedPrecondition, .failedPrecondition)),
        Row(
            method: "Locate",
            request: { volume in
                var locate = Godwit_Peer_V1_LocateRequest()
                locate.volume = volume.description
                return locate
            }, named: (.ok, .ok)),
        Row(
            method: "Confirm",
            request: { volume in
                var own = Godwit_Peer_V1_OwnReign()
                (own.volume, own.epoch) = (volume.description, 1)
                var confirm = Godwit_Peer_V1_ConfirmRequest()
                confirm.reigns = [own]
                return confirm
            }, named: (.ok, .ok)),
        Row(
            method: "Restore",
            request: { volume in
                var generator = Generator(seed: 9)
                var restore = Godwit_Peer_V1_RestoreRequest()
                (restore.volume, restore.inode, restore.end) = (volume.description, 2, 50_000)
                restore.hash = .init(ReadCoding.hash(generator.bytes(50_000)[...]))
                return restore
            }, named: (.ok, .ok)),
    ]

    private static func extent() -> Godwit_Peer_V1_Extent {
        var extent = Godwit_Peer_V1_Extent()
        (extent.inode, extent.end) = (2, 50_000)
        return extent
    }

    private static func exchange(
        _ volume: VolumeID, _ fill: (inout Godwit_Peer_V1_HandoffMessage) -> Void
    ) -> Godwit_Peer_V1_HandoffMessage {
        var message = Godwit_Peer_V1_HandoffMessage()
        message.volume = volume.description
        fill(&message)
        return message
    }

    /// One of each message, by the names that they have in the proto.
    private static func messages(of volume: VolumeID) -> [String: Godwit_Peer_V1_HandoffMessage] {
        let reign: (inout Godwit_Peer_V1_Reign) -> Void = { ($0.owner, $0.epoch) = ("oslo", 99) }
        return [
            "seal_request": exchange(volume) { ($0.sealRequest.after, $0.sealRequest.wanted) = (1, 2) },
            "seal_grant": exchange(volume) {
                ($0.sealGrant.after, $0.sealGrant.finalSequence) = (1, 5)
                reign(&$0.sealGrant.heir)
            },
            "seal_refusal": exchange(volume) {
                ($0.sealRefusal.wanted, $0.sealRefusal.overruledBy) = (2, 99)
            },
            "decline_request": exchange(volume) {
                $0.declineRequest.wanted = 2
                reign(&$0.declineRequest.reign)
            },
            "declined": exchange(volume) { $0.declined.wanted = heir },
            "announcement": exchange(volume) { reign(&$0.announcement.reign) },
            "release_request": exchange(volume) {
                ($0.releaseRequest.heir.owner, $0.releaseRequest.heir.epoch) = ("sydney", heir)
            },
            "released": exchange(volume) { $0.released.reign = 1 },
            "claim": exchange(volume) { ($0.claim.epoch, $0.claim.after, $0.claim.through) = (99, 1, 5) },
            "claim_answer": exchange(volume) { ($0.claimAnswer.epoch, $0.claimAnswer.kept) = (1, false) },
        ]
    }

    private static let proto = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("../../Protos/peer.proto").standardizedFileURL

    @Test func everyCallAndEveryMessageHasARow() throws {
        let text = try String(contentsOf: Self.proto, encoding: .utf8)
        let calls = text.matches(of: /(?m)^  rpc (\w+)\(/).map { String($0.1) }
        #expect(calls.count > 10)
        #expect(Set(calls) == Set(Self.rows.map(\.method)))
        let choice = try #require(text.firstMatch(of: /(?s)oneof message \{(.*?)\}/)).1
        let messages = choice.matches(of: /(\w+) = \d+;/).map { String($0.1) }
        #expect(messages.count >= 10)
        #expect(Set(messages) == Set(Self.messages(of: VolumeID(randomHigh: 1, randomLow: 2)).keys))
    }

    /// How a call ended, and what it brought.
    private struct Answer: Equatable {
        var code: RPCCode
        var message: String
        var bytes: [[UInt8]]

        /// The same of another volume.
        func naming(_ volume: VolumeID, insteadOf other: VolumeID) -> Answer {
            var answer = self
            answer.message = message.replacing(other.description, with: volume.description)
            return answer
        }
    }

    private static func ask(
        _ method: String, _ request: any Message, over channel: RPCChannel
    ) async throws -> Answer {
        let call = try channel.open(
            RPCChannel.peerService + method, timeout: .seconds(60), waitForReady: true)
        try? await call.send(try request.serializedBytes())
        try? await call.finishSending()
        var bytes: [[UInt8]] = []
        let end = await status { while let message = try await call.receive() { bytes.append(message) } }
        return Answer(code: end.code, message: end.message, bytes: bytes)
    }

    /// A site that no volume names, one that both name, and sydney, for which one of them is sealed.
    private struct Town {
        let fixture: PeerFixture
        let owned: VolumeID
        let sealed: VolumeID
        let unknown = VolumeID(randomHigh: 1, randomLow: 2)

        init() async throws {
            fixture = try await PeerFixture()
            owned = try await fixture.makeVolume("owned")
            sealed = try await fixture.makeVolume("sealed")
            let sydney = try fixture.client(of: "sydney")
            defer { sydney.close() }
            let answer = try await sydney.exchange(
                exchange(sealed) { ($0.sealRequest.after, $0.sealRequest.wanted) = (1, heir) })
            try #require(answer.sealGrant.heir.epoch == heir, "\(answer)")
        }

        func records() async throws -> [VolumeRecord] {
            [try await fixture.site.agent(owned).record, try await fixture.site.agent(sealed).record]
        }

        /// Nothing that a site asks which a volume does not name tells even whether there is such a volume.
        func getsNothing(_ site: String) async throws {
            let channel = try fixture.channel(of: site)
            let before = try await records()
            for volume in [owned, sealed] {
                for row in rows {
                    let answer = try await ask(row.method, try row.request(volume), over: channel)
                    if let code = row.stranger {
                        #expect(
                            answer.code == code && answer.bytes.isEmpty, "\(site), \(row.method): \(answer)")
                        continue
                    }
                    let other = try await ask(row.method, try row.request(unknown), over: channel)
                    guard row.method != "Hello" else { continue }
                    #expect(
                        answer == other.naming(volume, insteadOf: unknown),
                        "\(site), \(row.method): \(answer.code) \(answer.message)")
                }
                for (name, message) in messages(of: volume) {
                    let answer = try await ask("Exchange", message, over: channel)
                    #expect(
                        answer.code == .notFound && answer.bytes.isEmpty, "\(site), \(name): \(answer)")
                }
            }
            #expect(try await records() == before, "\(site) has changed something")
            #expect(await !fixture.site.knows(unknown))
            channel.close()
        }
    }

    @Test func aTrustedSiteThatAVolumeDoesNotNameGetsNothingOfItByAnyCall() async throws {
        let town = try await Town()
        try await town.getsNothing("oslo")
        await town.fixture.end()
    }

    @Test func aNamedSiteGetsNoBytesThatAreKeptForAnotherAndNothingOnceItIsNamedNoMore() async throws {
        let town = try await Town()
        let (tokyo, sydney) = (try town.fixture.channel(), try town.fixture.channel(of: "sydney"))
        for volume in [town.owned, town.sealed] {
            for row in Self.rows {
                guard let code = volume == town.owned ? row.named.owned : row.named.sealed else { continue }
                let answer = try await Self.ask(row.method, try row.request(volume), over: tokyo)
                #expect(
                    answer.code == code && (code == .ok) == !answer.bytes.isEmpty,
                    "\(row.method), \(volume == town.owned ? "owned" : "sealed"): \(answer.code) \(answer.message)"
                )
            }
        }
        // The same calls by whom they are for.
        for method in ["Read", "Changes", "List", "Lacking", "Follow"] {
            let row = try #require(Self.rows.first { $0.method == method })
            let answer = try await Self.ask(method, try row.request(town.sealed), over: sydney)
            #expect(
                answer.code == .ok && !answer.bytes.isEmpty, "\(method): \(answer.code) \(answer.message)")
        }
        let tokyoSite = try #require(SiteID("tokyo"))
        for volume in [town.owned, town.sealed] {
            try await town.fixture.site.agent(volume).revoke(tokyoSite)
        }
        try await town.getsNothing("tokyo")
        // But who has had the volume since, whoever that is, can name the state. With another name there is no such volume.
        let sealed = try await town.fixture.storage(of: town.sealed).catalog
        let name = try #require(try sealed.perform { try $0.sealedFor()?.name })
        for (name, code) in [(StateName(randomHigh: 1, randomLow: 2), RPCCode.notFound), (name, .ok)] {
            var read = Godwit_Peer_V1_ReadRequest()
            (read.volume, read.epoch) = (town.sealed.description, Self.heir)
            read.extents = [Self.extent()]
            read.stateName = .init(name.bytes)
            let answer = try await Self.ask("Read", read, over: tokyo)
            #expect(answer.code == code, "\(answer.message)")
        }
        for channel in [tokyo, sydney] { channel.close() }
        await town.fixture.end()
    }

    /// Also in the midst of a stream.
    @Test func aStreamOfChangesEndsWhenTheRightIsTakenBack() async throws {
        let town = try await Town()
        let storage = try await town.fixture.storage(of: town.owned)
        var generator = Generator(seed: 4)
        for number in 0..<400 {
            let value = generator.bytes(60_000)
            try storage.catalog.perform { state in
                try state.setExtendedAttribute(
                    Array("user.\(number)".utf8), of: InodeNumber(2 + UInt64(number % 20)), value: value)
            }
        }
        try storage.catalog.synchronize()
        let tokyo = try town.fixture.channel()
        let row = try #require(Self.rows.first { $0.method == "Follow" })
        let call = try tokyo.open(
            RPCChannel.peerService + "Follow", timeout: .seconds(60), waitForReady: true)
        try await call.send(try row.request(town.owned).serializedBytes())
        try await call.finishSending()
        _ = try await call.receive()
        try await town.fixture.site.agent(town.owned).revoke(try #require(SiteID("tokyo")))
        let end = await status { while try await call.receive() != nil {} }
        #expect(end.code == .notFound, "\(end)")
        tokyo.close()
        await town.fixture.end()
    }
}
