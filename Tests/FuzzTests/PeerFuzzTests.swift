import EngineTestSupport
import Foundation
import Glibc
import Hydration
import PeerProtocol
import RPC
import Testing
import VolumeModel

@testable import PeerService
@testable import Site

/// A trusted peer that says whatever it likes, to a real site over mutual TLS: each call ends with a reason, the others
/// are served meanwhile, and nothing is left behind.
@Suite(.serialized, .timeLimit(.minutes(10))) struct PeerFuzzTests {
    private static let methods = [
        "Hello", "Status", "Follow", "Read", "List", "Exchange", "Offer", "TakeOver", "Changes",
        "Restore", "Lacking", "Locate", "Withdraw", "Confirm",
    ]

    /// A site with one volume that it owns and one that is sealed for tokyo's epoch 2.
    private struct Town {
        let fixture: PeerFixture
        let owned: VolumeID
        let sealed: VolumeID
        static let unknown = VolumeID(randomHigh: 1, randomLow: 2)

        init() async throws {
            fixture = try await PeerFixture()
            owned = try await fixture.makeVolume("owned")
            sealed = try await fixture.makeVolume("sealed")
            var request = Godwit_Peer_V1_HandoffMessage()
            request.volume = sealed.description
            request.sealRequest.after = Epoch.first.number
            request.sealRequest.wanted = 2
            let tokyo = try fixture.client(of: "tokyo")
            defer { tokyo.close() }
            let answer = try await tokyo.exchange(request)
            try #require(answer.sealGrant.heir.epoch == 2, "\(answer)")
        }

        /// Sound requests of a method.
        func requests(_ method: String) throws -> [[UInt8]] {
            switch method {
            case "Hello":
                var hello = Godwit_Peer_V1_HelloRequest()
                hello.release = "1.2.3"
                return [try hello.serializedBytes()]
            case "Status":
                return try [owned, sealed].map {
                    var status = Godwit_Peer_V1_StatusRequest()
                    status.volume = $0.description
                    return try status.serializedBytes()
                }
            case "Follow":
                return try [Int64(0), 1, 5].map {
                    var follow = Godwit_Peer_V1_FollowRequest()
                    follow.volume = owned.description
                    follow.since = $0
                    return try follow.serializedBytes()
                }
            case "Read": return [try read().serializedBytes()]
            case "Changes":
                return try [(UInt64(1), UInt64(0)), (2, 0), (.max, 0), (0, 2), (0, 1), (1, .max)].map {
                    var changes = Godwit_Peer_V1_ChangesRequest()
                    changes.volume = sealed.description
                    changes.epoch = 2
                    (changes.since, changes.heir) = $0
                    changes.after = 3
                    return try changes.serializedBytes()
                }
            case "Lacking":
                return try [(sealed, UInt64(2), UInt32(3)), (sealed, 2, .max), (owned, 1, .max)].map {
                    var lacking = Godwit_Peer_V1_LackingRequest()
                    (lacking.volume, lacking.epoch) = ($0.0.description, $0.1)
                    lacking.extents = read().extents
                    (lacking.milliseconds, lacking.hops) = (1000, $0.2)
                    return try lacking.serializedBytes()
                }
            case "Locate":
                return try [owned, sealed, Self.unknown].map {
                    var locate = Godwit_Peer_V1_LocateRequest()
                    locate.volume = $0.description
                    return try locate.serializedBytes()
                }
            case "Confirm":
                // Not of what this site owns: damaged it may tell of a later reign, which would be believed.
                var confirm = Godwit_Peer_V1_ConfirmRequest()
                confirm.reigns = [sealed, Self.unknown].map {
                    var own = Godwit_Peer_V1_OwnReign()
                    (own.volume, own.epoch) = ($0.description, 2)
                    return own
                }
                return [try confirm.serializedBytes()]
            case "Withdraw":
                // What is unknown already, what was offered, and what this site owns.
                return try [Self.unknown, VolumeID(randomHigh: 5, randomLow: 6), owned, sealed].map {
                    var withdraw = Godwit_Peer_V1_WithdrawRequest()
                    withdraw.volume = $0.description
                    (withdraw.epoch, withdraw.revision) = (3, 4)
                    return try withdraw.serializedBytes()
                }
            case "List": return [try list().serializedBytes()]
            case "Restore":
                return try [owned, sealed].map { try restore($0).serializedBytes() }
            case "Exchange": return try handoffMessages().map { try $0.serializedBytes() }
            case "Offer": return try offers().map { try $0.serializedBytes() }
            default:
                return try [owned, sealed].map {
                    var takeOver = Godwit_Peer_V1_TakeOverRequest()
                    takeOver.volume = $0.description
                    takeOver.waitMilliseconds = 10
                    return try takeOver.serializedBytes()
                }
            }
        }

        private func read() -> Godwit_Peer_V1_ReadRequest {
            var read = Godwit_Peer_V1_ReadRequest()
            read.volume = sealed.description
            read.epoch = 2
            read.maximumByteCount = 100_000
            read.extents = (UInt64(2)...6).map { inode in
                var extent = Godwit_Peer_V1_Extent()
                extent.inode = inode
                extent.start = 4096
                extent.end = 50_000
                if inode % 2 == 0 { extent.hash = .init([UInt8](repeating: 9, count: 16)) }
                return extent
            }
            return read
        }

        /// The first file, all of it.
        func restore(_ volume: VolumeID) -> Godwit_Peer_V1_RestoreRequest {
            var generator = Generator(seed: 9)
            var restore = Godwit_Peer_V1_RestoreRequest()
            restore.volume = volume.description
            restore.inode = 2
            restore.end = 50_000
            restore.hash = .init(ReadCoding.hash(generator.bytes(50_000)[...]))
            return restore
        }

        private func list() -> Godwit_Peer_V1_ListRequest {
            var list = Godwit_Peer_V1_ListRequest()
            list.volume = sealed.description
            list.epoch = 2
            var place = Godwit_Peer_V1_ListingPlace()
            place.directory = InodeNumber.root.number
            list.places = [place]
            list.nameDirectory = InodeNumber.root.number
            list.name = .init(Array("file 3".utf8))
            list.inodes = [InodeNumber.root.number, 4]
            list.descends = true
            list.maximumByteCount = 60_000
            list.wantsPosition = true
            return list
        }

        private func offers() -> [Godwit_Peer_V1_OfferRequest] {
            [sealed, VolumeID(randomHigh: 5, randomLow: 6), VolumeID(randomHigh: 7, randomLow: 8)].map {
                var offer = Godwit_Peer_V1_OfferRequest()
                offer.volume = $0.description
                offer.name = "offered \($0)"
                offer.capacity = 1 << 30
                offer.inodeLimit = 1 << 20
                offer.epoch = 3
                offer.parameters = ["class": "fast"]
                offer.withoutReplica = true
                return offer
            }
        }

        private func handoffMessages() -> [Godwit_Peer_V1_HandoffMessage] {
            var messages: [Godwit_Peer_V1_HandoffMessage] = []
            func add(_ volume: VolumeID, _ fill: (inout Godwit_Peer_V1_HandoffMessage) -> Void) {
                var message = Godwit_Peer_V1_HandoffMessage()
                message.volume = volume.description
                fill(&message)
                messages.append(message)
            }
            for volume in [owned, sealed] {
                add(volume) {
                    $0.sealRequest.after = 9
                    $0.sealRequest.wanted = 10
                    $0.sealRequest.waitMilliseconds = 5
                    $0.sealRequest.followed = 3
                }
                add(volume) {
                    $0.declineRequest.reign.owner = "tokyo"
                    $0.declineRequest.reign.epoch = 1
                    $0.declineRequest.wanted = 3
                }
                add(volume) {
                    $0.announcement.reign.owner = "tokyo"
                    $0.announcement.reign.epoch = 1
                }
                add(volume) { $0.declined.wanted = 9 }
                add(volume) { $0.releaseRequest.heir.epoch = 7 }
                add(volume) { $0.released.reign = 7 }
                add(volume) { $0.claimAnswer.epoch = 7 }
                add(volume) {
                    $0.claim.epoch = 8
                    $0.claim.after = 7
                    $0.claim.through = 3
                }
                add(volume) {
                    $0.sealGrant.after = 7
                    $0.sealGrant.heir.owner = "london"
                    $0.sealGrant.heir.epoch = 8
                    $0.sealGrant.finalSequence = 5
                    $0.sealGrant.tail.byteCount = 1
                }
            }
            return messages
        }

        /// An honest peer gets an answer, and afterwards nothing is open.
        func serves(_ what: String) async throws {
            let sydney = try fixture.client(of: "sydney")
            defer { sydney.close() }
            #expect(try await sydney.hello(timeout: .seconds(60)).site == "london", "after \(what)")
            let seen = try await sydney.status(of: owned, timeout: .seconds(60))
            #expect(seen.inodeCount == 21, "after \(what)")
            #expect(await eventually { fixture.isIdle }, "calls are left after \(what)")
        }
    }

    /// What a call may be told, whatever it said.
    private static let reasons: Set<RPCCode> = [
        .invalidArgument, .notFound, .alreadyExists, .permissionDenied, .resourceExhausted,
        .failedPrecondition, .aborted, .outOfRange, .unavailable,
    ]

    @Test func everyDamagedRequestIsAnsweredOrRefusedWithAReason() async throws {
        let town = try await Town()
        let channel = try town.fixture.channel()
        // Not of this run's seed: of so few calls all may happen to be refused, and one has to be answered.
        var mutator = Mutator(seed: 31)
        for method in Self.methods {
            let sound = try town.requests(method)
            // What is written to a volume's record stays: the machine may refuse what was sound at the beginning.
            if method != "Exchange", method != "TakeOver" {
                let (end, _) = try await channel.exchange(method, [sound[0]])
                #expect(end.code == .ok, "\(method): \(end)")
            }
            var answered = 0
            for round in 0..<60 * Mutator.factor {
                // A takeover may be asked to wait for an hour.
                let timeout = Duration.seconds(method == "TakeOver" ? 2 : 60)
                // Now and then a sound one, so that there is something to go on from.
                let request =
                    round % 10 == 0 ? mutator.generator.element(of: sound) ?? [] : mutator.damaged(sound)
                let (end, count) = try await channel.exchange(method, [request], timeout: timeout)
                if end.code == .ok {
                    answered += 1
                    #expect(count > 0, "\(method), round \(round)")
                } else if end.code != .deadlineExceeded || method != "TakeOver" {
                    #expect(Self.reasons.contains(end.code), "\(method), round \(round): \(end)")
                    #expect(!end.message.isEmpty, "\(method), round \(round): \(end.code)")
                }
            }
            #expect(answered > 0 || method == "Exchange" || method == "TakeOver", "\(method)")
            try await town.serves("\(method)")
        }
        channel.close()
        await town.fixture.end()
    }

    @Test func requestsOfTheWrongSizeAndNumberEndWithAReason() async throws {
        let town = try await Town()
        let channel = try town.fixture.channel()
        let large = PeerLimits().requestByteCount + 1
        let tooLarge = PeerLimits().serverOptions.maximumMessageByteCount + 1
        for method in Self.methods {
            let sound = try town.requests(method)
            let none = try await channel.exchange(method, [])
            #expect(none.status.code == .invalidArgument, "\(method): \(none.status)")
            for size in [large, tooLarge] {
                let end = try await channel.exchange(method, [[UInt8](repeating: 0x0a, count: size)]).status
                #expect(end.code == .resourceExhausted, "\(method), \(size) bytes: \(end)")
            }
            // The first counts.
            let many = try await channel.exchange(method, Array(repeating: sound[0], count: 50)).status
            #expect(many.code == .ok || Self.reasons.contains(many.code), "\(method): \(many)")
            try await town.serves("\(method) of other sizes and numbers")
        }
        channel.close()
        await town.fixture.end()
    }

    /// Blocks are for whom the volume is shared with, and only for who knows what they were.
    @Test func aBlockIsGivenToWhoKnowsItsHashAndMayKnowTheVolume() async throws {
        let town = try await Town()
        let (tokyo, sydney) = (try town.fixture.client(of: "tokyo"), try town.fixture.client(of: "sydney"))
        let request = town.restore(town.owned)
        let extent = Extent(inode: InodeNumber(2), range: ByteRange(0, 50_000))
        let block = try #require(LostBlock(extent, hash: Array(request.hash)))
        let content = try #require(try await tokyo.restore(block, of: town.owned))
        #expect(block.isContent(content))
        var wrong = Array(request.hash)
        wrong[3] ^= 1
        let other = try #require(LostBlock(extent, hash: wrong))
        #expect(try await tokyo.restore(other, of: town.owned) == nil)
        // Nor does it help to know how a file begins.
        let start = Extent(inode: extent.inode, range: ByteRange(0, 4096))
        let prefix = try #require(LostBlock(start, hash: ReadCoding.hash(content[..<4096])))
        #expect(try await tokyo.restore(prefix, of: town.owned) == nil)
        let agent = try await town.fixture.site.agent(town.owned)
        try await agent.change { record in
            record.sharedWith = record.sharedWith.filter { $0.description != "tokyo" }
        }
        #expect(try await tokyo.restore(block, of: town.owned) == nil)
        #expect(try await sydney.restore(block, of: town.owned) == content)
        #expect(try await sydney.restore(block, of: VolumeID(randomHigh: 1, randomLow: 2)) == nil)
        let channel = try town.fixture.channel()
        let changes: [(inout Godwit_Peer_V1_RestoreRequest) -> Void] = [
            { $0.hash = .init($0.hash.dropLast()) }, { $0.end = (1 << 20) + 1 }, { $0.end = 0 },
            { $0.start = 1 }, { $0.start = 4096 }, { $0.end = .max }, { $0.volume = "x" },
        ]
        for change in changes {
            var request = request
            change(&request)
            let end = try await channel.exchange("Restore", [try request.serializedBytes()]).status
            #expect(end.code == .invalidArgument, "\(end)")
        }
        channel.close()
        for client in [tokyo, sydney] { client.close() }
        try await town.serves("blocks that were asked for")
        await town.fixture.end()
    }

    @Test func anUnknownMethodIsUnimplemented() async throws {
        let town = try await Town()
        let channel = try town.fixture.channel()
        let names = ["Nothing", "", "hello", "Hello/", "Read/../Hello", String(repeating: "x", count: 5000)]
        for name in names {
            let end = try await channel.exchange(name, [[]]).status
            #expect(end.code == .unimplemented, "\(name.prefix(40)): \(end)")
        }
        for path in ["/godwit.control.v1.Control/Info", "/x/y"] {
            let end = await status {
                _ = try await channel.unary(path, [], timeout: .seconds(60), waitForReady: true)
            }
            #expect(end.code == .unimplemented, "\(path): \(end)")
        }
        try await town.serves("unknown methods")
        channel.close()
        await town.fixture.end()
    }

    /// Callers that go away at every moment, and streams that are never ended by who opened them.
    @Test func callsThatAreCancelledOrNeverEndLeaveNothing() async throws {
        let town = try await Town()
        let channel = try town.fixture.channel()
        for method in Self.methods {
            let request = try #require(try town.requests(method).first)
            for round in 0..<12 * Mutator.factor {
                let call = try channel.open(
                    RPCChannel.peerService + method, timeout: .seconds(60), waitForReady: true)
                if round % 3 > 0 { try? await call.send(request) }
                if round % 3 > 1 { try? await call.finishSending() }
                if round % 2 == 0 { try await Task.sleep(for: .milliseconds(round)) }
                // Every other one is only dropped.
                if round % 4 < 2 { call.cancel() }
            }
            // Neither its end nor the end of the answer is awaited: it goes on sending until it is told.
            let call = try channel.open(
                RPCChannel.peerService + method, timeout: .seconds(60), waitForReady: true)
            let endless = await status { while true { try await call.send(request) } }
            #expect(endless.code != .deadlineExceeded, "\(method): \(endless)")
            try await town.serves("calls of \(method) that do not end")
        }
        channel.close()
        await town.fixture.end()
    }

    // MARK: a caller that does not read

    @Test func aCallerThatNeverReadsItsStreamIsCutOffAndHoldsNothing() async throws {
        var limits = PeerLimits()
        limits.sendTimeout = .seconds(3)
        let fixture = try await PeerFixture(limits: limits)
        let volume = try await fixture.makeVolume("large")
        // More than the sockets' and streams' buffers take, and no compressor makes smaller.
        let storage = try await fixture.storage(of: volume)
        var generator = Generator(seed: 4)
        for number in 0..<800 {
            let value = generator.bytes(60_000)
            try storage.catalog.perform { state in
                try state.setExtendedAttribute(
                    Array("user.\(number)".utf8), of: InodeNumber(2 + UInt64(number % 20)), value: value)
            }
        }
        try storage.catalog.synchronize()
        var request = Godwit_Peer_V1_FollowRequest()
        request.volume = volume.description
        let channel = try fixture.channel()
        // SQLite keeps descriptors for the next who opens the file: what counts is that they do not become more.
        var descriptorCounts: [Int] = []
        for _ in 0..<2 {
            let calls = try (0..<3).map { _ in
                try channel.open(RPCChannel.peerService + "Follow", timeout: nil, waitForReady: true)
            }
            for call in calls {
                try await call.send(try request.serializedBytes())
                try await call.finishSending()
            }
            #expect(await eventually { fixture.service.openCallCount == 3 })
            #expect(await eventually { fixture.isIdle })
            for call in calls {
                let end = await status { while try await call.receive() != nil {} }
                #expect(end.code == .cancelled, "\(end)")
            }
            descriptorCounts.append(
                try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count)
        }
        #expect(descriptorCounts[1] <= descriptorCounts[0], "\(descriptorCounts)")
        // Who reads gets everything.
        let sydney = try fixture.client(of: "sydney")
        var rowCount = 0
        _ = try await sydney.follow(volume, reign: .first, since: nil) { rowCount += $0.count }
        #expect(rowCount > 800)
        sydney.close()
        channel.close()
        await fixture.end()
    }

    // MARK: memory

    /// A quarter of what was sent would show.
    @Test func refusedMessagesDoNotStayInMemory() async throws {
        let town = try await Town()
        let channel = try town.fixture.channel()
        let limits = PeerLimits()
        let messages = [limits.requestByteCount + 1, limits.serverOptions.maximumMessageByteCount + 1].map {
            [UInt8](repeating: 1, count: $0)
        }
        func send(_ times: Int) async throws {
            for _ in 0..<times {
                for message in messages {
                    let end = try await channel.exchange("Read", [message]).status
                    #expect(end.code == .resourceExhausted, "\(end)")
                }
            }
        }
        try await send(5)
        let before = try Self.residentByteCount()
        try await send(60)
        #expect(await eventually { town.fixture.isIdle })
        let after = try Self.residentByteCount()
        #expect(after - before < 256 << 20, "\(before >> 20) MiB before, \(after >> 20) MiB after")
        try await town.serves("many large messages")
        channel.close()
        await town.fixture.end()
    }

    private static func residentByteCount() throws -> Int {
        let text = try String(contentsOfFile: "/proc/self/statm", encoding: .utf8)
        let pages = try #require(text.split(separator: " ").dropFirst().first.flatMap { Int($0) })
        return pages * Int(getpagesize())
    }
}
