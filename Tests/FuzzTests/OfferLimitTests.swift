import EngineTestSupport
import Foundation
import Handoff
import Hydration
import PeerProtocol
import PeerService
import RPC
import Synchronization
import Testing
import VolumeModel

@testable import Site

/// A trusted site that no volume here names offers what it likes: it gets its share of this one, and no more.
@Suite(.serialized, .timeLimit(.minutes(2))) struct OfferLimitTests {
    private static func id(_ number: UInt64) -> VolumeID { VolumeID(randomHigh: 77, randomLow: number) }

    private static func offer(
        _ number: UInt64, parameters: [String: String] = [:], withReplica: Bool = false, claim labels: Int = 0
    ) throws -> [UInt8] {
        var offer = Godwit_Peer_V1_OfferRequest()
        offer.volume = id(number).description
        offer.name = "offered-\(number)"
        offer.capacity = 1 << 30
        offer.epoch = 1
        offer.parameters = parameters
        offer.withoutReplica = !withReplica
        if labels > 0 {
            offer.claim.namespace = "shop"
            offer.claim.name = "data"
            offer.claim.requested = "1Gi"
            offer.claim.capacity = "1Gi"
            offer.claim.accessModes = ["ReadWriteOnce"]
            for label in 0..<labels {
                let name = "label-\(label)/" + String(repeating: "x", count: 60)
                offer.claim.labels[name] = String(repeating: "y", count: 63)
            }
        }
        return try offer.serializedBytes()
    }

    private static func withdrawal(_ number: UInt64) throws -> [UInt8] {
        var withdrawal = Godwit_Peer_V1_WithdrawRequest()
        withdrawal.volume = id(number).description
        return try withdrawal.serializedBytes()
    }

    private static func isRefused(_ status: RPCStatus, _ words: String...) -> Bool {
        status.code == .resourceExhausted && words.allSatisfy { status.message.contains($0) }
    }

    @Test func aSiteMayOfferSoManyVolumesAndAnotherAsMany() async throws {
        var limits = OfferLimits()
        limits.volumeCount = 3
        let fixture = try await PeerFixture(offers: limits)
        let (tokyo, sydney) = (try fixture.channel(), try fixture.channel(of: "sydney"))
        for number in UInt64(1)...3 {
            #expect(try await tokyo.exchange("Offer", [try Self.offer(number)]).status.code == .ok)
        }
        let refused = try await tokyo.exchange("Offer", [try Self.offer(4)]).status
        #expect(Self.isRefused(refused, "3 volumes", "from site tokyo", "take some back"), "\(refused)")
        #expect(await !fixture.site.knows(Self.id(4)))
        // What is known may be offered again, and others are not concerned.
        #expect(try await tokyo.exchange("Offer", [try Self.offer(2)]).status.code == .ok)
        #expect(try await sydney.exchange("Offer", [try Self.offer(11)]).status.code == .ok)

        // The next process counts what is here.
        let context = fixture.site.context
        let next = Site(
            context: SiteContext(
                node: "node", state: context.state, registry: context.registry, identity: context.identity,
                hydration: Hydrator.Configuration(), offers: limits, logger: context.logger))
        try await next.start()
        let fifth = VolumeRecord(
            id: Self.id(5), name: "offered-5", limits: VolumeLimits(byteCount: 1 << 30), parameters: [:],
            head: try HeadRecord(
                followerAt: context.site, of: Reign(try #require(SiteID("tokyo")), .first)))
        var guest = fifth
        guest.isGuest = true
        await #expect(throws: SiteError.self) { _ = try await next.adopt(guest, at: nil) }
        await next.stop()

        #expect(try await tokyo.exchange("Withdraw", [try Self.withdrawal(1)]).status.code == .ok)
        #expect(try await tokyo.exchange("Offer", [try Self.offer(4)]).status.code == .ok)
        for channel in [tokyo, sydney] { channel.close() }
        await fixture.end()
    }

    @Test func whatComesWithOffersIsCounted() async throws {
        var limits = OfferLimits()
        limits.recordByteCount = 62_000
        let fixture = try await PeerFixture(offers: limits)
        let tokyo = try fixture.channel()
        let large = ["key": String(repeating: "x", count: 60_000)]
        #expect(
            try await tokyo.exchange("Offer", [try Self.offer(1, parameters: large)]).status.code == .ok)
        let refused = try await tokyo.exchange("Offer", [try Self.offer(2, parameters: large)]).status
        #expect(Self.isRefused(refused, "parameters and claims", "tokyo"), "\(refused)")
        #expect(try await tokyo.exchange("Offer", [try Self.offer(3)]).status.code == .ok)
        // Nor do claims that come later, or grow, get past that.
        #expect(try await tokyo.exchange("Offer", [try Self.offer(3, claim: 1)]).status.code == .ok)
        let swollen = try await tokyo.exchange("Offer", [try Self.offer(3, claim: 40)]).status
        #expect(Self.isRefused(swollen, "parameters and claims", "tokyo"), "\(swollen)")
        let kept = try await fixture.site.agent(Self.id(3)).record.claim?.facts.labels.count
        #expect(kept == 1)
        let another = try await tokyo.exchange("Offer", [try Self.offer(4, claim: 40)]).status
        #expect(Self.isRefused(another, "parameters and claims", "tokyo"), "\(another)")
        #expect(await !fixture.site.knows(Self.id(4)))
        tokyo.close()
        await fixture.end()
    }

    @Test func whatIsNotOfferedAgainAndOfWhichNothingIsHereIsForgotten() async throws {
        var limits = OfferLimits()
        limits.patience = .seconds(2)
        let fixture = try await PeerFixture(
            offers: limits,
            tokyo: { call async throws(RPCStatus) in
                try await Self.answer(call, batchLimit: 1)
            })
        let tokyo = try fixture.channel()
        for (number, withReplica) in [(UInt64(1), false), (2, true)] {
            let end = try await tokyo.exchange("Offer", [try Self.offer(number, withReplica: withReplica)])
                .status
            #expect(end.code == .ok, "\(end)")
        }
        try await Task.sleep(for: .seconds(2.1))
        #expect(try await tokyo.exchange("Offer", [try Self.offer(3)]).status.code == .ok)
        await fixture.site.forgetStaleOffers()
        #expect(await !fixture.site.knows(Self.id(1)))
        // A replica may be all that is left of a volume.
        #expect(await fixture.site.knows(Self.id(2)))
        #expect(await fixture.site.knows(Self.id(3)))
        tokyo.close()
        await fixture.end()
    }

    // MARK: an owner that answers Follow

    /// How many messages it has sent.
    private static let sentCount = Atomic(0)

    /// Names without an end, or so many, and then where the follower is.
    private static func answer(_ call: RPCServerCall, batchLimit: Int) async throws(RPCStatus) {
        guard call.method.hasSuffix("/Follow") else { throw RPCStatus(.unimplemented, "") }
        do {
            _ = try await call.receive()
            var generator = Generator(seed: 3)
            var number = 0
            for _ in 0..<batchLimit {
                var rows: [UInt8] = []
                for _ in 0..<8 {
                    number += 1
                    CatalogRowCoder.append(
                        .attribute(.root, name: Array("user.\(number)".utf8), value: generator.bytes(60_000)),
                        to: &rows)
                }
                var reply = Godwit_Peer_V1_FollowReply()
                reply.byteCount = UInt32(rows.count)
                reply.rows = .init(rows)
                try await call.send(try reply.serializedBytes())
                sentCount.wrappingAdd(1, ordering: .relaxed)
            }
            var last = Godwit_Peer_V1_FollowReply()
            last.position.sequence = 7
            last.position.nextInode = 2
            last.position.nextCookie = 3
            last.position.inodeCount = 1
            try await call.send(try last.serializedBytes())
        } catch let error as RPCStatus {
            throw error
        } catch {
            throw RPCStatus(.cancelled, "\(error)")
        }
    }

    private static func diskByteCount(_ path: String) throws -> Int {
        let names = try FileManager.default.subpathsOfDirectory(atPath: path)
        return try names.reduce(0) { sum, name in
            let attributes = try FileManager.default.attributesOfItem(atPath: path + "/" + name)
            return sum
                + (attributes[.type] as? FileAttributeType == .typeRegular
                    ? (attributes[.size] as? NSNumber)?.intValue ?? 0 : 0)
        }
    }

    @Test func anOwnerWithoutEndOfNamesIsCutOffAtItsShare() async throws {
        var limits = OfferLimits()
        limits.replicaByteCount = 16 << 20
        let fixture = try await PeerFixture(
            offers: limits,
            tokyo: { call async throws(RPCStatus) in
                try await Self.answer(call, batchLimit: 2000)
            })
        let (tokyo, sydney) = (try fixture.channel(), try fixture.channel(of: "sydney"))
        let before = Self.sentCount.load(ordering: .relaxed)
        let endless = try await tokyo.exchange("Offer", [try Self.offer(1, withReplica: true)]).status
        #expect(Self.isRefused(endless, "bytes of names", "from site tokyo"), "\(endless)")
        let sent = Self.sentCount.load(ordering: .relaxed) - before
        #expect(sent < 500, "\(sent) messages of half a MiB")
        let state = fixture.site.context.state.path
        let taken = try Self.diskByteCount(state)
        #expect(taken < 64 << 20, "\(taken) bytes")
        // Nor by another volume.
        let another = try await tokyo.exchange("Offer", [try Self.offer(2, withReplica: true)]).status
        #expect(Self.isRefused(another, "bytes of names"), "\(another)")
        #expect(try Self.diskByteCount(state) < 64 << 20)
        #expect(try await sydney.exchange("Offer", [try Self.offer(11)]).status.code == .ok)
        // What is taken back makes room.
        for number in [UInt64(1), 2] {
            let end = try await tokyo.exchange("Withdraw", [try Self.withdrawal(number)]).status
            #expect(end.code == .ok, "\(end)")
        }
        #expect(try Self.diskByteCount(state) < 4 << 20)
        for channel in [tokyo, sydney] { channel.close() }
        await fixture.end()
    }
}
