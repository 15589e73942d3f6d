import Catalog
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

/// What one peer may have open: beyond it that peer is refused, and nobody else.
@Suite(.serialized, .timeLimit(.minutes(5))) struct PeerLimitTests {
    /// Answers as the site would, but lets whoever asks for changes or bytes wait.
    private struct SlowBackend: PeerBackend {
        /// Calls that have come so far as to wait.
        static let begun = Atomic(0)

        let site: SitePeerBackend

        func passingReader(
            of volume: VolumeID, reign: Epoch, for peer: SiteID
        ) async throws -> HeadReader {
            try await site.passingReader(of: volume, reign: reign, for: peer)
        }

        private func wait() async throws {
            Self.begun.wrappingAdd(1, ordering: .relaxed)
            try await Task.sleep(for: .seconds(3600))
        }

        func authenticate(certificatePEM: String) throws -> SiteID {
            try site.authenticate(certificatePEM: certificatePEM)
        }
        func hello() -> Godwit_Peer_V1_HelloReply { site.hello() }
        func confirm(
            _ owned: [VolumeID: AskedReign], by peer: SiteID
        ) async throws -> [VolumeID: ToldReign] { [:] }
        func offer(
            _ request: Godwit_Peer_V1_OfferRequest, by owner: SiteID
        ) async throws -> Godwit_Peer_V1_OfferReply { Godwit_Peer_V1_OfferReply() }
        func catalog(of volume: VolumeID, reign: Epoch, for peer: SiteID) async throws -> Catalog {
            try await wait()
            throw PeerError.unknownVolume(volume)
        }
        func reader(
            of volume: VolumeID, reign: Epoch, seen files: SeenFiles?, for peer: SiteID
        ) async throws -> HeadReader {
            try await wait()
            throw PeerError.unknownVolume(volume)
        }
        func reader(
            of volume: VolumeID, grantedTo heir: Epoch, named name: StateName, for peer: SiteID
        ) async throws -> HeadReader { throw PeerError.unknownVolume(volume) }
        func exchange(
            _ message: Godwit_Peer_V1_HandoffMessage, from peer: SiteID
        ) async throws -> Godwit_Peer_V1_HandoffMessage { message }
        func takeOver(
            _ request: Godwit_Peer_V1_TakeOverRequest, by peer: SiteID
        ) async throws -> Godwit_Peer_V1_TakeOverReply {
            try await wait()
            return Godwit_Peer_V1_TakeOverReply()
        }
        func status(of volume: VolumeID, for peer: SiteID) async throws -> Godwit_Peer_V1_VolumeStatus {
            throw PeerError.unknownVolume(volume)
        }
        func withdraw(
            _ request: Godwit_Peer_V1_WithdrawRequest, by peer: SiteID
        ) async throws -> Godwit_Peer_V1_WithdrawReply { Godwit_Peer_V1_WithdrawReply() }
        func locate(_ volume: VolumeID, for peer: SiteID) async throws -> Godwit_Peer_V1_LocateReply {
            throw PeerError.unknownVolume(volume)
        }
        func content(
            of block: LostBlock, of volume: VolumeID, for peer: SiteID
        ) async throws -> [UInt8]? {
            guard block.extent.inode != .root else { return nil }
            try await wait()
            return nil
        }
        func lacking(
            _ extents: [Extent], of volume: VolumeID, reign: Epoch, through sequence: SequenceNumber?,
            hops: UInt32, within limit: Duration, for peer: SiteID
        ) async throws -> (byteCounts: [UInt64], silent: Set<SiteID>) {
            throw PeerError.unknownVolume(volume)
        }
        func serveMember(_ member: SiteID) -> RPCServer.Handler? { nil }
    }

    private static let volume = VolumeID(randomHigh: 3, randomLow: 4)

    private func fixture(_ limits: PeerLimits) async throws -> PeerFixture {
        try await PeerFixture(limits: limits) { SlowBackend(site: SitePeerBackend(site: $0)) }
    }

    private func follow() throws -> [UInt8] {
        var request = Godwit_Peer_V1_FollowRequest()
        request.volume = Self.volume.description
        return try request.serializedBytes()
    }

    private func read(isUrgent: Bool) throws -> [UInt8] {
        var request = Godwit_Peer_V1_ReadRequest()
        request.volume = Self.volume.description
        request.urgent = isUrgent
        return try request.serializedBytes()
    }

    /// Opens calls that wait, until so many are open in all.
    private func open(
        _ count: Int, _ method: String, _ request: [UInt8], on channel: RPCChannel, _ fixture: PeerFixture
    ) async throws -> [RPCClientCall] {
        let before = fixture.service.openCallCount
        let begun = SlowBackend.begun.load(ordering: .relaxed)
        var calls: [RPCClientCall] = []
        for _ in 0..<count {
            let call = try channel.open(RPCChannel.peerService + method, timeout: nil, waitForReady: true)
            try await call.send(request)
            calls.append(call)
        }
        #expect(await eventually { fixture.service.openCallCount == before + count })
        // A call is counted before its request has come: another one must not overtake it.
        #expect(await eventually { SlowBackend.begun.load(ordering: .relaxed) >= begun + count })
        return calls
    }

    /// Who is beyond a limit is refused; another peer is not, and later the same one is not either.
    private func check(
        _ method: String, _ request: [UInt8], limit: String, _ open: [RPCClientCall], on channel: RPCChannel,
        _ fixture: PeerFixture
    ) async throws {
        let refused = try await channel.exchange(method, [request]).status
        #expect(refused.code == .resourceExhausted && refused.message.contains(limit), "\(refused)")
        let other = try fixture.channel(of: "sydney")
        let served = try await self.open(1, method, request, on: other, fixture)
        served[0].cancel()
        open[0].cancel()
        #expect(await eventually { fixture.service.openCallCount == open.count - 1 })
        // The place of the cancelled one.
        let next = try channel.open(RPCChannel.peerService + method, timeout: nil, waitForReady: true)
        try await next.send(request)
        #expect(await eventually { fixture.service.openCallCount == open.count })
        for call in open.dropFirst() + [next] { call.cancel() }
        #expect(await eventually { fixture.isIdle })
        other.close()
    }

    @Test func streamsOfChangesBeyondTheLimitAreRefused() async throws {
        var limits = PeerLimits()
        limits.followCount = 3
        let fixture = try await fixture(limits)
        let channel = try fixture.channel()
        let calls = try await open(3, "Follow", follow(), on: channel, fixture)
        // Anything else goes on.
        #expect(try await channel.exchange("Hello", [[]]).status.code == .ok)
        try await check(
            "Follow", follow(), limit: "3 streams of changes", calls, on: channel, fixture)
        channel.close()
        await fixture.end()
    }

    @Test func readsBeyondTheLimitAreRefusedAndThoseInTheBackgroundFirst() async throws {
        var limits = PeerLimits()
        limits.readCount = 5
        limits.backgroundReadCount = 2
        let fixture = try await fixture(limits)
        let channel = try fixture.channel()
        let background = try await open(2, "Read", read(isUrgent: false), on: channel, fixture)
        let refused = try await channel.exchange("Read", [try read(isUrgent: false)]).status
        #expect(
            refused.code == .resourceExhausted && refused.message.contains("2 reads in the background"),
            "\(refused)")
        let urgent = try await open(3, "Read", read(isUrgent: true), on: channel, fixture)
        try await check(
            "Read", read(isUrgent: true), limit: "5 reads", urgent + background, on: channel, fixture)
        channel.close()
        await fixture.end()
    }

    private func restore(_ inode: InodeNumber) throws -> [UInt8] {
        var block = Godwit_Peer_V1_RestoreRequest()
        block.volume = Self.volume.description
        block.inode = inode.number
        block.end = 4096
        block.hash = .init([UInt8](repeating: 1, count: 16))
        return try block.serializedBytes()
    }

    @Test func searchesForBlocksBeyondTheLimitAreRefused() async throws {
        var limits = PeerLimits()
        limits.restoreCount = 2
        limits.missCount = 3
        let fixture = try await fixture(limits)
        let channel = try fixture.channel()
        let searches = try await open(2, "Restore", restore(InodeNumber(7)), on: channel, fixture)
        try await check(
            "Restore", restore(InodeNumber(7)), limit: "2 searches for blocks", searches, on: channel, fixture
        )
        // Each a guess that was wrong.
        for _ in 0..<3 {
            let miss = try await channel.exchange("Restore", [try restore(.root)]).status
            #expect(miss.code == .notFound, "\(miss)")
        }
        for inode in [InodeNumber.root, InodeNumber(7)] {
            let refused = try await channel.exchange("Restore", [try restore(inode)]).status
            #expect(
                refused.code == .resourceExhausted && refused.message.contains("3 searches in vain"),
                "\(refused)")
        }
        let other = try fixture.channel(of: "sydney")
        #expect(try await other.exchange("Restore", [try restore(.root)]).status.code == .notFound)
        channel.close()
        other.close()
        await fixture.end()
    }

    @Test func callsBeyondTheLimitAreRefusedWhateverTheyWaitFor() async throws {
        var limits = PeerLimits()
        limits.callCount = 4
        let fixture = try await fixture(limits)
        let channel = try fixture.channel()
        var takeOver = Godwit_Peer_V1_TakeOverRequest()
        takeOver.volume = Self.volume.description
        let waiting = try await open(2, "TakeOver", takeOver.serializedBytes(), on: channel, fixture)
        // These have not even sent a request.
        var silent: [RPCClientCall] = []
        for _ in 0..<2 {
            let call = try channel.open(RPCChannel.peerService + "Hello", timeout: nil, waitForReady: true)
            silent.append(call)
        }
        #expect(await eventually { fixture.service.openCallCount == 4 })
        let refused = try await channel.exchange("Hello", [[]]).status
        #expect(
            refused == RPCStatus(.resourceExhausted, "site tokyo has 4 calls here already"), "\(refused)")
        let other = try fixture.channel(of: "sydney")
        #expect(try await other.exchange("Hello", [[]]).status.code == .ok)
        for call in waiting + silent { call.cancel() }
        #expect(await eventually { fixture.isIdle })
        #expect(try await channel.exchange("Hello", [[]]).status.code == .ok)
        channel.close()
        other.close()
        await fixture.end()
    }

    @Test func connectionsBeyondTheLimitAreRefusedTheirCalls() async throws {
        var limits = PeerLimits()
        limits.connectionCount = 2
        let fixture = try await fixture(limits)
        let channels = try (0..<3).map { _ in try fixture.channel() }
        var calls: [RPCClientCall] = []
        for channel in channels.prefix(2) {
            calls += try await open(2, "Follow", follow(), on: channel, fixture)
        }
        let refused = try await channels[2].exchange("Hello", [[]]).status
        #expect(
            refused == RPCStatus(.resourceExhausted, "site tokyo has 2 connections here already"),
            "\(refused)")
        #expect(try await channels[1].exchange("Hello", [[]]).status.code == .ok)
        let other = try fixture.channel(of: "sydney")
        #expect(try await other.exchange("Hello", [[]]).status.code == .ok)
        // The connection goes with its last call.
        for call in calls.prefix(2) { call.cancel() }
        #expect(await eventually { fixture.service.openCallCount == 2 })
        #expect(try await channels[2].exchange("Hello", [[]]).status.code == .ok)
        for call in calls { call.cancel() }
        #expect(await eventually { fixture.isIdle })
        for channel in channels + [other] { channel.close() }
        await fixture.end()
    }

    @Test func aCallWhoseRequestDoesNotComeIsEnded() async throws {
        var limits = PeerLimits()
        limits.requestTimeout = .milliseconds(300)
        let fixture = try await fixture(limits)
        let channel = try fixture.channel()
        let call = try channel.open(RPCChannel.peerService + "Hello", timeout: nil, waitForReady: true)
        let end = await status { _ = try await call.receive() }
        #expect(end.code == .cancelled, "\(end)")
        #expect(await eventually { fixture.isIdle })
        channel.close()
        await fixture.end()
    }

    // MARK: offers

    @Test func anOfferIsCheckedBeforeAnythingOfItIsKept() async throws {
        let fixture = try await PeerFixture()
        let channel = try fixture.channel()
        let sound: Godwit_Peer_V1_OfferRequest = {
            var offer = Godwit_Peer_V1_OfferRequest()
            offer.volume = Self.volume.description
            offer.name = "database"
            offer.capacity = VolumeLimits.largest
            offer.inodeLimit = VolumeLimits.largest
            offer.epoch = 3
            offer.withoutReplica = true
            offer.parameters = Dictionary(
                uniqueKeysWithValues: (0..<PeerLimits.parameterCount).map { ("\($0)", "value") })
            return offer
        }()
        let changes: [(String, (inout Godwit_Peer_V1_OfferRequest) -> Void)] = [
            ("no name", { $0.name = "" }), ("a path", { $0.name = "a/b" }), ("a line", { $0.name = "a\nb" }),
            ("a zero", { $0.name = "a\0b" }),
            ("a long name", { $0.name = String(repeating: "ä", count: 65) }),
            ("no identifier", { $0.volume = "../../etc" }), ("capacity", { $0.capacity = .max }),
            ("a little too much", { $0.capacity = VolumeLimits.largest + 1 }),
            ("inodes", { $0.inodeLimit = UInt64(Int64.max) + 1 }),
            ("one parameter too many", { $0.parameters["more"] = "" }),
            (
                "a large parameter",
                { $0.parameters = ["a": String(repeating: "x", count: PeerLimits.parameterByteCount)] }
            ),
        ]
        for (what, change) in changes {
            var offer = sound
            change(&offer)
            let end = try await channel.exchange("Offer", [try offer.serializedBytes()]).status
            #expect(end.code == .invalidArgument && !end.message.isEmpty, "\(what): \(end)")
        }
        #expect(await fixture.site.allAgents().isEmpty)
        let end = try await channel.exchange("Offer", [try sound.serializedBytes()]).status
        #expect(end.code == .ok, "\(end)")
        #expect(await fixture.site.allAgents().count == 1)
        // Nor is any number of them kept.
        let another = VolumeRecord(
            id: VolumeID(randomHigh: 5, randomLow: 6), name: "another",
            limits: VolumeLimits(byteCount: 1 << 30),
            parameters: [:],
            head: try HeadRecord(
                followerAt: fixture.site.context.site, of: Reign(try #require(SiteID("tokyo")), .first)))
        await #expect(throws: SiteError.self) { _ = try await fixture.site.adopt(another, at: nil, limit: 1) }
        #expect(await fixture.site.allAgents().count == 1)
        channel.close()
        await fixture.end()
    }
}
