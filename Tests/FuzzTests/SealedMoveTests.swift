import ControlProtocol
import Handoff
import PeerProtocol
import RPC
import Synchronization
import Testing
import VolumeModel

@testable import Catalog
@testable import PeerService
@testable import Site

/// What is sealed has not moved: a target whose answer is lost is asked to go on, and nothing else is told meanwhile.
@Suite(.serialized, .timeLimit(.minutes(2))) struct SealedMoveTests {
    /// A target that asks its owner to seal, and then is cut off for so many questions.
    private final class Tokyo: Sendable {
        struct State {
            var fixture: PeerFixture?
            var asked: [Godwit_Peer_V1_TakeOverRequest] = []
            /// Questions that are yet to be lost.
            var losses = 0
            var lost = 0
            var owns = false
            /// It does not say how far it is.
            var isMute = false
        }
        let state = Mutex(State())

        var asked: [UInt64] { state.withLock { $0.asked.map(\.promised) } }
        var owns: Bool { state.withLock { $0.owns } }

        var handler: RPCServer.Handler {
            { (call) async throws(RPCStatus) in
                do {
                    try call.sendLast(try await self.answer(call))
                } catch let error as RPCStatus {
                    throw error
                } catch {
                    throw RPCStatus(.internalError, "\(error)")
                }
            }
        }

        private func answer(_ call: RPCServerCall) async throws -> [UInt8] {
            let request = try await call.receive() ?? []
            switch call.method.split(separator: "/").last {
            case "Offer": return try Godwit_Peer_V1_OfferReply().serializedBytes()
            case "TakeOver": return try await takeOver(try .init(serializedBytes: request))
            case "Status":
                if state.withLock({ $0.isMute }) { try await Task.sleep(for: .seconds(30)) }
                var status = Godwit_Peer_V1_VolumeStatus()
                status.role = owns ? "owning" : "receiving"
                status.epoch = owns ? 2 : 1
                status.released = owns
                return try status.serializedBytes()
            case "Exchange": throw RPCStatus(.unavailable, "cut")
            default: throw RPCStatus(.unimplemented, call.method)
            }
        }

        private func takeOver(_ request: Godwit_Peer_V1_TakeOverRequest) async throws -> [UInt8] {
            let (fixture, isLost) = state.withLock { state in
                state.asked.append(request)
                defer { state.losses -= 1 }
                return (state.fixture, state.losses > 0)
            }
            var message = Godwit_Peer_V1_HandoffMessage()
            message.volume = request.volume
            let london = try fixture?.client(of: "tokyo")
            defer { london?.close() }
            if request.promised == 0 {
                (message.sealRequest.after, message.sealRequest.wanted) = (1, 2)
                let answer = try? await london?.exchange(message)
                let isGranted = if case .sealGrant? = answer?.message { true } else { false }
                guard isLost || isGranted else {
                    throw RPCStatus(.unavailable, "it is in use")
                }
            }
            guard !isLost else {
                state.withLock { $0.lost += 1 }
                throw RPCStatus(.unavailable, "cut")
            }
            (message.announcement.reign.owner, message.announcement.reign.epoch) = ("tokyo", 2)
            state.withLock { $0.owns = true }
            _ = try await london?.exchange(message)
            var reply = Godwit_Peer_V1_TakeOverReply()
            reply.epoch = 2
            return try reply.serializedBytes()
        }
    }

    private struct Told: Sendable {
        var phase: String
        var reason: String
        var targetOwns: Bool
    }

    private func begin(losses: Int) async throws -> (PeerFixture, Tokyo, VolumeAgent) {
        let tokyo = Tokyo()
        let fixture = try await PeerFixture(tokyo: tokyo.handler)
        tokyo.state.withLock { ($0.fixture, $0.losses) = (fixture, losses) }
        return (fixture, tokyo, try await fixture.site.agent(try await fixture.makeVolume("data")))
    }

    private func end(_ fixture: PeerFixture, _ tokyo: Tokyo) async {
        tokyo.state.withLock { $0.fixture = nil }
        await fixture.end()
    }

    private func move(
        _ agent: VolumeAgent, _ tokyo: Tokyo, prepareOnly: Bool = false, wait: UInt32 = 0,
        patience: Duration = .seconds(20)
    ) async throws -> [Told] {
        var request = Godwit_Control_V1_MigrateRequest()
        request.prepareOnly = prepareOnly
        request.detach = prepareOnly
        request.waitMilliseconds = wait
        var all: [Told] = []
        var migration = Migration(
            agent: agent, target: try #require(SiteID("tokyo")), request: request)
        migration.sealedPatience = patience
        try await migration.run {
            all.append(Told(phase: $0.phase, reason: $0.waitingReason, targetOwns: tokyo.owns))
        }
        for told in all where ["hydrating", "done"].contains(told.phase) {
            #expect(told.targetOwns, "\(all)")
        }
        return all
    }

    @Test func aTakeoverWhoseAnswerIsLostIsAskedForUntilTheTargetOwns() async throws {
        let (fixture, tokyo, agent) = try await begin(losses: 3)
        let told = try await move(agent, tokyo)
        #expect(
            told.map(\.phase) == [
                "preparing", "ready", "handing-over", "handing-over", "handing-over", "handing-over", "done",
            ],
            "\(told)")
        #expect(told[3].reason.contains("asked") && told[4].reason.contains("cut"), "\(told)")
        // The first asks for the volume, the others only to go on with that.
        #expect(tokyo.asked == [0, 2, 2, 2])
        #expect(await agent.record.head.role.name == "retired")
        await end(fixture, tokyo)
    }

    /// As the controller asks, every time that it looks at the claim.
    @Test func aVolumeThatIsSealedIsNotToldToHaveMoved() async throws {
        let (fixture, tokyo, agent) = try await begin(losses: 3)
        var seal = Godwit_Peer_V1_TakeOverRequest()
        seal.volume = await agent.id.description
        _ = try? await fixture.site.context.client(of: try #require(SiteID("tokyo"))).takeOver(
            seal, timeout: .seconds(10))
        #expect(await agent.record.head.role.name == "sealed")
        for round in 1...2 {
            let told = try await move(agent, tokyo, prepareOnly: true)
            #expect(told.map(\.phase) == ["preparing", "handing-over"], "\(told)")
            #expect(told.last?.reason.contains("cut") == true)
            #expect(tokyo.asked == [0] + Array(repeating: 2, count: round))
        }
        let told = try await move(agent, tokyo, prepareOnly: true)
        #expect(told.map(\.phase) == ["preparing", "done"], "\(told)")
        await end(fixture, tokyo)
    }

    /// Whoever asks for the hand-over alone (`--detach`) is told at once what it waits for, and is not kept for longer than
    /// the target is asked.
    @Test func aTargetThatDoesNotAnswerIsNamedAtOnce() async throws {
        let (fixture, tokyo, agent) = try await begin(losses: 2)
        await #expect(throws: (any Error).self) { _ = try await move(agent, tokyo, patience: .zero) }
        #expect(await agent.record.head.role.name == "sealed")
        tokyo.state.withLock { $0.isMute = true }
        var request = Godwit_Control_V1_MigrateRequest()
        request.detach = true
        let target = try #require(SiteID("tokyo"))
        var migration = Migration(agent: agent, target: target, request: request)
        migration.sealedPatience = .seconds(1)
        let begun = ContinuousClock.now
        var told: [(reason: String, after: Duration)] = []
        await #expect(throws: SiteError.self) {
            try await migration.run { progress in
                guard progress.phase == "handing-over" else { return }
                told.append((progress.waitingReason, ContinuousClock.now - begun))
            }
        }
        #expect(ContinuousClock.now - begun < .seconds(4))
        let first = try #require(told.first)
        #expect(first.reason == "tokyo is asked how far it is" && first.after < .milliseconds(900), "\(told)")
        await end(fixture, tokyo)
    }

    @Test func oneThatIsWantedBackIsNotPushedOn() async throws {
        let (fixture, tokyo, agent) = try await begin(losses: 100)
        var seal = Godwit_Peer_V1_TakeOverRequest()
        seal.volume = await agent.id.description
        _ = try? await fixture.site.context.client(of: try #require(SiteID("tokyo"))).takeOver(
            seal, timeout: .seconds(10))
        await #expect(throws: (any Error).self) { _ = try await agent.ownExclusively(patience: .zero) }
        #expect(await agent.record.head.role.name == "reclaiming")
        let told = try await move(agent, tokyo, prepareOnly: true)
        #expect(told.map(\.phase) == ["preparing", "handing-over"], "\(told)")
        #expect(told.last?.reason.contains("wanted back") == true, "\(told)")
        #expect(tokyo.asked == [0])
        // The target declines: at home it is prepared as if nothing had been.
        let peer = try fixture.client(of: "tokyo")
        var declined = Godwit_Peer_V1_HandoffMessage()
        declined.volume = await agent.id.description
        declined.declined.wanted = 2
        _ = try await peer.exchange(declined)
        #expect(await agent.record.head.role.name == "owning")
        #expect(try await move(agent, tokyo, prepareOnly: true).map(\.phase) == ["preparing", "ready"])
        peer.close()
        await end(fixture, tokyo)
    }

    /// Who waits for a volume that is in use goes on waiting when the link breaks meanwhile.
    @Test func aWaitOutlastsALinkThatBreaks() async throws {
        let (fixture, tokyo, agent) = try await begin(losses: 1)
        // Not sealed yet: nobody asks london while it is held.
        try await agent.apply(.attach(Holder(node: "node", pod: nil)))
        let moving = Task { try await move(agent, tokyo, wait: 30_000) }
        #expect(await eventually { tokyo.state.withLock { $0.lost == 1 } })
        try await agent.apply(.unmounted(node: "node"))
        let told = try await moving.value
        #expect(told.last?.phase == "done", "\(told)")
        #expect(tokyo.asked.count >= 2 && tokyo.asked.allSatisfy { $0 == 0 }, "\(told)")
        await end(fixture, tokyo)
    }

    /// Of what was handed over it is told when that was, as far as it is known.
    @Test func aKeptStateHasAnAgeUnlessNobodyKnowsIt() async throws {
        let (fixture, tokyo, agent) = try await begin(losses: 0)
        _ = try await move(agent, tokyo)
        let catalog = try await fixture.storage(of: agent.id).catalog
        let option = try #require(try await agent.takeoverOptions().first)
        let age = try #require(option.age)
        #expect(option.name == "kept" && age >= 0 && age < 60, "\(option)")
        // By a release that noted none, and by a clock that was ahead.
        for time in [nil, Int64.max / 2] as [Int64?] {
            try catalog.perform { try $0.noteSeal(for: Epoch(2), at: time) }
            #expect(try #require(try await agent.takeoverOptions().first).age == nil)
        }
        await end(fixture, tokyo)
    }

    // MARK: the target's side

    @Test func askedToGoOnASiteBeginsNothingAndTakesNothingBack() async throws {
        let fixture = try await PeerFixture()
        let agent = try await fixture.site.agent(try await fixture.makeVolume("data"))
        let tokyo = try fixture.client(of: "tokyo")
        func goOn(_ promised: UInt64) async -> (epoch: UInt64, status: RPCStatus) {
            var request = Godwit_Peer_V1_TakeOverRequest()
            request.volume = await agent.id.description
            request.promised = promised
            var epoch: UInt64 = 0
            let ended = await status {
                epoch = try await tokyo.takeOver(request, timeout: .seconds(10)).epoch
            }
            return (epoch, ended)
        }
        let owned = await agent.record
        #expect(await goOn(1).epoch == 1)
        #expect(await goOn(7).status.code == .failedPrecondition)
        #expect(await agent.record == owned)
        // It has gone on to sydney since.
        let sydney = try fixture.client(of: "sydney")
        var message = Godwit_Peer_V1_HandoffMessage()
        message.volume = await agent.id.description
        (message.sealRequest.after, message.sealRequest.wanted) = (1, 2)
        #expect(try await sydney.exchange(message).sealGrant.heir.epoch == 2)
        (message.announcement.reign.owner, message.announcement.reign.epoch) = ("sydney", 2)
        _ = try await sydney.exchange(message)
        let retired = await agent.record
        #expect(retired.head.role.name == "retired")
        for promised in [1, 2] as [UInt64] { #expect(await goOn(promised).epoch == 2) }
        #expect(await goOn(3).status.code == .failedPrecondition)
        #expect(await agent.record == retired)
        tokyo.close()
        sydney.close()
        await fixture.end()
    }
}
