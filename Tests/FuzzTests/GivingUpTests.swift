import ControlProtocol
import Handoff
import Hydration
import PeerProtocol
import RPC
import Synchronization
import Testing
import VolumeModel

@testable import PeerService
@testable import Site

/// The end of a wish to own a volume that does not come to its end by itself.
@Suite(.serialized, .timeLimit(.minutes(2))) struct GivingUpTests {
    private let tokyo: SiteID

    init() throws { tokyo = try #require(SiteID("tokyo")) }

    /// An owner in whose hands the volume stays, and what it was told.
    private final class Owner: Sendable {
        struct State {
            var requests = 0
            var declined: [UInt64] = []
            /// Whether it says that the volume is in use; otherwise it cannot be reached.
            var answers = false
        }
        let state = Mutex(State())

        var requestCount: Int { state.withLock { $0.requests } }
        var declined: [UInt64] { state.withLock { $0.declined } }

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
            guard call.method.hasSuffix("/Exchange"), state.withLock({ $0.answers }) else {
                if call.method.hasSuffix("/Exchange") { state.withLock { $0.requests += 1 } }
                throw RPCStatus(.unavailable, "cut")
            }
            let message = try Godwit_Peer_V1_HandoffMessage(serializedBytes: request)
            var reply = Godwit_Peer_V1_HandoffMessage()
            reply.volume = message.volume
            switch message.message {
            case .sealRequest(let body)?:
                state.withLock { $0.requests += 1 }
                try await Task.sleep(for: .milliseconds(100))
                reply.sealRefusal.wanted = body.wanted
                reply.sealRefusal.inUse.node = "tokyo-node"
            case .declined(let body)?:
                state.withLock { $0.declined.append(body.wanted) }
                (reply.announcement.reign.owner, reply.announcement.reign.epoch) = ("tokyo", 1)
            default: throw RPCStatus(.unimplemented, "\(message)")
            }
            return try reply.serializedBytes()
        }
    }

    /// A volume of tokyo's that was offered to london.
    private func begin() async throws -> (PeerFixture, Owner, VolumeAgent) {
        let owner = Owner()
        let fixture = try await PeerFixture(tokyo: owner.handler)
        let id = VolumeID(randomHigh: 7, randomLow: 9)
        var offer = Godwit_Peer_V1_OfferRequest()
        (offer.volume, offer.name, offer.capacity, offer.epoch) = (id.description, "data", 1 << 30, 1)
        offer.withoutReplica = true
        let peer = try fixture.client(of: "tokyo")
        _ = try await peer.offer(offer, timeout: .seconds(10))
        peer.close()
        return (fixture, owner, try await fixture.site.agent(id))
    }

    private func role(_ agent: VolumeAgent) async -> String { await agent.record.head.role.name }

    @Test func whatIsGivenUpIsDeclinedForGoodAndMayBeAskedForAnew() async throws {
        let (fixture, owner, agent) = try await begin()
        await #expect(throws: PeerError.self) { _ = try await agent.ownExclusively(patience: .zero) }
        #expect(await role(agent) == "acquiring")
        // The owner cannot be told, and need not be.
        for _ in 0..<2 {
            try await agent.giveUp()
            #expect(await role(agent) == "declining")
        }
        let declined = await agent.record.head.spent
        await agent.resume()
        #expect(await role(agent) == "declining")
        owner.state.withLock { $0.answers = true }
        await agent.resume()
        #expect(await role(agent) == "following")
        #expect(owner.declined == [declined.number])
        try await agent.giveUp()
        #expect(await role(agent) == "following")
        // Anew, and under another epoch.
        owner.state.withLock { $0.answers = false }
        await #expect(throws: PeerError.self) { _ = try await agent.ownExclusively(patience: .zero) }
        guard case .acquiring(_, let wanted) = await agent.record.head.role else {
            Issue.record("\(await agent.record.head.role)")
            return
        }
        #expect(wanted > declined)
        await fixture.end()
    }

    /// Who waits for it would otherwise ask again at once.
    @Test func whoWaitsIsToldThatItWasGivenUpAndAsksNoMore() async throws {
        let (fixture, owner, agent) = try await begin()
        owner.state.withLock { $0.answers = true }
        let waiting = Task { try await agent.ownExclusively(patience: .seconds(60)) }
        #expect(await eventually { owner.requestCount >= 2 })
        try await agent.giveUp()
        let begun = ContinuousClock.now
        let end = await waiting.result
        #expect(throws: SiteError.self) { try end.get() }
        #expect("\(end)".contains("given up at site london") && ContinuousClock.now - begun < .seconds(20))
        let asked = owner.requestCount
        try await Task.sleep(for: .milliseconds(500))
        #expect(owner.requestCount == asked)
        #expect(await eventually { await role(agent) == "following" })
        await fixture.end()
    }

    @Test func whatNobodyAsksForAnyMoreIsGivenUp() async throws {
        let (fixture, _, agent) = try await begin()
        await #expect(throws: PeerError.self) { _ = try await agent.ownExclusively(patience: .zero) }
        await agent.resume()
        await agent.giveUpIfForgotten(after: .seconds(60))
        #expect(await role(agent) == "acquiring")
        await agent.giveUpIfForgotten(after: .zero)
        #expect(await role(agent) == "declining")
        await fixture.end()
    }

    /// A head that is sealed for tokyo, whose answer is lost.
    private func seal(_ agent: VolumeAgent) async {
        _ = try? await agent.apply(.sealRequested(by: tokyo, after: Epoch(1), wanted: Epoch(2)))
    }

    @Test func atHomeWantingItBackIsGivenUpAndTheHandOverGoesOn() async throws {
        let owner = Owner()
        let fixture = try await PeerFixture(tokyo: owner.handler)
        let agent = try await fixture.site.agent(try await fixture.makeVolume("data"))
        await #expect(throws: SiteError.self) { try await agent.giveUp() }
        await seal(agent)
        await #expect(throws: PeerError.self) { _ = try await agent.ownExclusively(patience: .zero) }
        #expect(await role(agent) == "reclaiming")
        // At home nobody is harmed by that.
        await agent.giveUpIfForgotten(after: .zero)
        #expect(await role(agent) == "reclaiming")
        for _ in 0..<2 {
            try await agent.giveUp()
            #expect(await role(agent) == "sealed")
        }
        await fixture.end()
    }

    // MARK: takeovers by force

    /// Promises.md: "It is carried out at once or not at all".
    @Test func aTakeoverByForceThatCannotBeServedYetIsCarriedOutAndServedLater() async throws {
        let fixture = try await PeerFixture()
        let agent = try await fixture.site.agent(try await fixture.makeVolume("data"))
        await seal(agent)
        #expect(await role(agent) == "sealed")
        // The disk takes nothing any more.
        let number = await agent.record.headNumber
        try await agent.spoil(number)
        try await agent.overruleExclusively(Epoch(2), with: .kept(headReign: Epoch(1)))
        let epoch = try #require(await agent.reignOverruling(Epoch(2)))
        #expect(await role(agent) == "owning")
        #expect(await agent.servedEpoch == nil)
        await #expect(throws: SiteError.self) { try await agent.giveUp() }
        await agent.mend(number)
        await agent.resume()
        #expect(await agent.servedEpoch == epoch)
        await fixture.end()
    }

    /// Claims.md: "the volume is not deleted at home".
    @Test func whatIsBeingSealedForAnotherSiteIsNotDeleted() async throws {
        let fixture = try await PeerFixture()
        let agent = try await fixture.site.agent(try await fixture.makeVolume("data"))
        let number = await agent.record.headNumber
        try await agent.spoil(number)
        await seal(agent)
        #expect(await role(agent) == "sealing")
        await #expect(throws: SiteError.self) { try await fixture.site.delete(agent.id) }
        await agent.mend(number)
        await agent.resume()
        #expect(await role(agent) == "sealed")
        await #expect(throws: SiteError.self) { try await fixture.site.delete(agent.id) }
        await fixture.end()
    }
}

extension VolumeAgent {
    /// From now on the head fails whatever is asked of it.
    fileprivate func spoil(_ number: UInt64) throws {
        servedEpoch = nil
        try openHead(number).storage.close()
    }

    fileprivate func mend(_ number: UInt64) { heads[number] = nil }
}
