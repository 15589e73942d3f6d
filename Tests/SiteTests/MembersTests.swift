import CSIService
import ControlProtocol
import Foundation
import Handoff
import Hydration
import Logging
import PeerProtocol
import PeerService
import RPC
import SiteIdentity
import SiteTestSupport
import SwiftProtobuf
import Testing
import VolumeModel

@testable import Site
@testable import TestBed

/// Several members of one site in this process, with the real port for peers, sockets and mounts.
final class MemberTown: Sendable {
    struct Node: Sendable {
        let site: Site
        let servers: SiteServers
        let csi: SiteCSIBackend
        let control: RPCChannel
        let directory: String

        func ask<Reply: Message>(_ method: String, _ request: some Message) async throws -> Reply {
            let bytes: [UInt8] = try request.serializedBytes()
            return try Reply(
                serializedBytes: try await control.unary(
                    ControlService.service + method, bytes, metadata: RPCMetadata(), timeout: .seconds(60),
                    waitForReady: false))
        }

        func inspect(_ volume: String) async throws -> Godwit_Control_V1_Volume {
            var request = Godwit_Control_V1_VolumeRequest()
            request.volume = volume
            return try await ask("InspectVolume", request)
        }

        func list() async throws -> [Godwit_Control_V1_Volume] {
            let reply: Godwit_Control_V1_ListVolumesReply = try await ask(
                "ListVolumes", Godwit_Control_V1_ListVolumesRequest())
            return reply.volumes
        }

        func stop() async {
            control.close()
            await servers.stop()
            await site.stop()
        }
    }

    let cluster = MemoryCluster()
    private let directory: String
    private let ports: [String: UInt16]
    /// Sites that are trusted, but that no volume is shared with.
    private let strangers: [SiteIdentity]

    init(_ cleanup: Cleanup, nodes: [String]) throws {
        directory = try cleanup.makeTemporaryDirectory()
        ports = try nodes.reduce(into: [:]) { $0[$1] = try freePort() }
        let london = try SiteIdentity.create(
            site: try #require(SiteID("london")), in: directory + "/site", now: Date())
        strangers = try ["sydney", "tokyo"].map { [directory] name in
            let stranger = try SiteIdentity.create(
                site: try #require(SiteID(name)), in: "\(directory)/\(name)", now: Date())
            try stranger.trust(try london.trustDocument(address: "127.0.0.1:1"))
            return stranger
        }
    }

    /// A connection of another site to one of the nodes.
    func client(of stranger: Int, to node: String) throws -> PeerClient {
        let identity = strangers[stranger]
        let member = try #require(SiteID("\(node).london"))
        return try PeerClient(
            site: member, endpoint: .tcp(host: "127.0.0.1", port: try #require(ports[node])),
            security: .mutualTLS(
                certificateChainPEM: identity.certificateChainPEM, privateKeyPEM: identity.privateKeyPEM,
                trustedRootsPEM: try identity.rootPEM(of: member),
                expectedServerName: identity.serverName(of: member)))
    }

    /// A member, started or started again: what it keeps is in its directory and in the cluster.
    func start(_ node: String) async throws -> Node {
        let home = "\(directory)/\(node)"
        try FileManager.default.createDirectory(
            atPath: home, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        let state = try StateDirectory(home)
        let (identity, _) = try IdentitySource(
            node: node, siteKeys: directory + "/site", directory: state.keys
        ).load()
        for stranger in strangers {
            try identity.trust(try stranger.trustDocument(address: "127.0.0.1:1"))
        }
        var logger = Logger(label: node)
        logger.logLevel = .error
        let port = try #require(ports[node])
        let address = "127.0.0.1:\(port)"
        let site = Site(
            context: SiteContext(
                node: node, state: state, registry: cluster.registry(of: identity.site), identity: identity,
                hydration: Hydrator.Configuration(), advertised: address, logger: logger))
        try await site.start()
        let endpoints = SiteServers.Endpoints(
            control: .unix(path: state.controlSocket), peers: .tcp(host: "127.0.0.1", port: port), csi: nil)
        return Node(
            site: site, servers: try SiteServers(site: site, endpoints: endpoints, csi: nil),
            csi: SiteCSIBackend(site: site),
            control: try RPCChannel(to: endpoints.control, security: .plaintext), directory: home)
    }
}

extension SiteTests {
    /// A site of several nodes: a volume is at one of them, follows its pod, and any of them answers for it.
    @Suite struct MembersTests {
        private static func withTown(
            _ body:
                @escaping @Sendable (MemberTown, MemberTown.Node, MemberTown.Node, Cleanup) async throws ->
                Void
        ) async throws {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let names = ["worker-1", "worker-2"]
                let town = try MemberTown(cleanup, nodes: names)
                let first = try await town.start(names[0])
                let second = try await town.start(names[1])
                _ = try cleanup.add(mountAt: first.directory + "/mnt")
                _ = try cleanup.add(mountAt: second.directory + "/mnt")
                do {
                    try await body(town, first, second, cleanup)
                } catch {
                    await first.stop()
                    await second.stop()
                    throw error
                }
                await first.stop()
                await second.stop()
            }
        }

        private static func make(
            _ name: String, by node: MemberTown.Node, at nodes: [String] = []
        ) async throws -> VolumeID {
            try await node.csi.create(
                name: name, required: 1 << 30, limit: 0, parameters: [:], hydration: CSIHydration(),
                nodes: nodes
            ).id
        }

        /// Attaches, mounts, runs a script there, and takes it all back, as Kubernetes would.
        private static func use(
            _ id: VolumeID, at node: MemberTown.Node, attachedBy controller: MemberTown.Node,
            _ script: String
        ) async throws -> String {
            let path = node.directory + "/mnt"
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            let epoch = try await controller.csi.publish(id, at: node.csi.node, mode: "SINGLE_NODE_WRITER")
            try await node.csi.stage(id, at: path, isReadOnly: false, group: nil, acquiredUnder: epoch)
            let outcome = try await shell(script, in: path)
            #expect(outcome.exit.isSuccess, "\(outcome.output)")
            try await node.csi.unstage(id, at: path)
            try await controller.csi.unpublish(id, at: node.csi.node)
            return outcome.output
        }

        @Test func aVolumeFollowsItsPodFromNodeToNode() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make("data", by: first, at: ["worker-2"])
                #expect(try await first.inspect("data").node == "worker-2")
                _ = try await Self.use(
                    id, at: first, attachedBy: second,
                    "head -c 3000000 /dev/urandom > file; sha256sum file > sum")
                #expect(try await second.inspect("data").node == "worker-1")
                // There and back: what is there still is used again.
                for node in [second, first, second] {
                    _ = try await Self.use(
                        id, at: node, attachedBy: first, "sha256sum -c sum; date >> dates; sync")
                }
                let last = try await Self.use(id, at: second, attachedBy: second, "wc -l < dates")
                #expect(last == "3\n")
                #expect(try await first.csi.volume(id).publishedNodes.isEmpty)
            }
        }

        @Test func aVolumeThatIsInUseStaysAndTheErrorNamesItsNode() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make("data", by: first)
                _ = try await first.csi.publish(id, at: "worker-1", mode: "SINGLE_NODE_WRITER")
                for asked in [first, second] {
                    do {
                        _ = try await asked.csi.publish(id, at: "worker-2", mode: "SINGLE_NODE_WRITER")
                        Issue.record("a volume that is held was given away")
                    } catch CSIBackendError.precondition(let text) {
                        #expect(text.contains("worker-1"), "\(text)")
                    }
                }
                #expect(try await second.csi.volume(id).publishedNodes == ["worker-1"])
                await #expect(throws: CSIBackendError.self) { try await second.csi.delete(id) }
                await #expect(throws: CSIBackendError.self) {
                    _ = try await first.csi.publish(id, at: "worker-3", mode: "SINGLE_NODE_WRITER")
                }
                // Whichever node is asked: it is attached in one way at a time.
                for asked in [first, second] {
                    do {
                        _ = try await asked.csi.publish(id, at: "worker-1", mode: "SINGLE_NODE_MULTI_WRITER")
                        Issue.record("a volume that is attached was attached in another way")
                    } catch CSIBackendError.exists(let text) {
                        #expect(text.contains("SINGLE_NODE_WRITER"), "\(text)")
                    }
                }
                // Nothing is held there: it is no error.
                try await second.csi.unpublish(id, at: "worker-2")
                #expect(try await second.csi.volume(id).publishedNodes == ["worker-1"])
                try await second.csi.unpublish(id, at: nil)
                _ = try await second.csi.publish(id, at: "worker-2", mode: "SINGLE_NODE_WRITER")
                #expect(try await first.csi.volume(id).publishedNodes == ["worker-2"])
            }
        }

        @Test func aNodeMountsWhatAnotherHasWithoutAnAttacher() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make("data", by: first)
                for (node, script) in [(first, "echo one > file"), (second, "cat file")] {
                    let path = node.directory + "/mnt"
                    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
                    try await node.csi.stage(id, at: path, isReadOnly: false, group: nil, acquiredUnder: nil)
                    let outcome = try await shell(script, in: path)
                    #expect(outcome.exit.isSuccess, "\(outcome.output)")
                    // The other one may not have it now.
                    let other = node.csi.node == "worker-1" ? second : first
                    await #expect(throws: CSIBackendError.self) {
                        try await other.csi.stage(
                            id, at: other.directory + "/mnt", isReadOnly: false, group: nil,
                            acquiredUnder: nil)
                    }
                    try await node.csi.unstage(id, at: path)
                }
            }
        }

        @Test func anyNodeAnswersForEveryVolume() async throws {
            try await Self.withTown { town, first, second, _ in
                let ids = [
                    try await Self.make("here", by: first),
                    try await Self.make("there", by: first, at: ["worker-2"]),
                ]
                for node in [first, second] {
                    #expect(
                        try await node.list().map { "\($0.name) \($0.node)" } == [
                            "here worker-1", "there worker-2",
                        ])
                    #expect(Set(try await node.csi.volumes().map(\.id)) == Set(ids))
                    #expect(try await node.csi.volumes().allSatisfy { $0.trouble == nil })
                    #expect(try await node.csi.volume(named: "there")?.id == ids[1])
                    #expect(try await node.csi.freeBytes(at: []).count == 2)
                    #expect(try await node.csi.freeBytes(at: ["worker-2"]).count == 1)
                    // A name is a volume's at every node.
                    #expect(try await Self.make("there", by: node, at: [node.csi.node]) == ids[1])
                    await #expect(throws: CSIBackendError.self) {
                        _ = try await node.csi.create(
                            name: "here", required: 2 << 30, limit: 0, parameters: [:],
                            hydration: CSIHydration(),
                            nodes: [])
                    }
                }
                #expect(try await first.csi.expand(ids[1], to: 2 << 30).capacity == 2 << 30)
                #expect(try await second.inspect("there").capacity == 2 << 30)
                try await first.csi.modify(
                    ids[1], CSIHydration(isPaused: true, bytesPerSecond: 1 << 20, prefetch: .start))
                let slowed = try await second.inspect("there")
                #expect(slowed.hydrationPaused && slowed.hydrationBytesPerSecond == 1 << 20)
                // It goes with the volume.
                _ = try await Self.use(ids[1], at: first, attachedBy: second, "touch file")
                #expect(try await second.inspect("there").hydrationPaused)
                #expect(try await second.inspect("there").hydrationPrefetch == "start")
                #expect(try await second.inspect("there").node == "worker-1")
            }
        }

        @Test func manyWhoMakeOneNameMakeOneVolume() async throws {
            try await Self.withTown { town, first, second, _ in
                let ids = try await withThrowingTaskGroup(of: VolumeID?.self) { group in
                    for number in 0..<8 {
                        let node = number % 2 == 0 ? first : second
                        group.addTask {
                            do {
                                return try await Self.make(
                                    "data", by: node, at: ["worker-\(number / 2 % 2 + 1)"])
                            } catch CSIBackendError.pending, CSIBackendError.exists {
                                return nil
                            }
                        }
                    }
                    return try await group.reduce(into: Set<VolumeID>()) { if let id = $1 { $0.insert(id) } }
                }
                #expect(ids.count == 1)
                #expect(try await first.list().count == 1)
            }
        }

        @Test func aDeletedVolumeIsGoneAtEveryNode() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make("data", by: first)
                _ = try await Self.use(
                    id, at: first, attachedBy: first, "head -c 5000000 /dev/urandom > file")
                // Bytes of it are at both.
                try await second.csi.modify(id, CSIHydration(isPaused: true))
                _ = try await Self.use(id, at: second, attachedBy: first, "head -c 10 file > part")
                try await first.csi.delete(id)
                #expect(try await town.cluster.registry(of: first.csi.site).placements().isEmpty)
                for node in [first, second] {
                    let left = try FileManager.default.contentsOfDirectory(
                        atPath: node.directory + "/volumes")
                    #expect(left.isEmpty, "\(left)")
                    #expect(try await node.list().isEmpty)
                    try await node.csi.delete(id)
                }
            }
        }

        @Test func whoIsNotNamedTakesNoVolumeThroughANodeThatDoesNotKnowBetter() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make("data", by: first)
                _ = try await first.csi.publish(id, at: "worker-1", mode: "SINGLE_NODE_WRITER")
                var offer = Godwit_Peer_V1_OfferRequest()
                offer.volume = id.description
                offer.name = "data"
                offer.epoch = 1 << 20
                offer.withoutReplica = true
                // To a node that has never heard of it, then to one that knows it from before.
                for round in 0..<2 {
                    for node in ["worker-1", "worker-2"] {
                        let stranger = try town.client(of: 0, to: node)
                        await #expect(throws: PeerError.self, "\(node), round \(round)") {
                            _ = try await stranger.offer(offer, timeout: .seconds(20))
                        }
                        var request = Godwit_Peer_V1_TakeOverRequest()
                        request.volume = id.description
                        await #expect(throws: PeerError.self) {
                            _ = try await stranger.takeOver(request, timeout: .seconds(20))
                        }
                        let (_, holders) = try await stranger.locate(id)
                        #expect(holders.isEmpty)
                        stranger.close()
                    }
                    #expect(try await second.inspect("data").node == "worker-1")
                    try await first.csi.unpublish(id, at: nil)
                    _ = try await Self.use(id, at: second, attachedBy: first, "touch file")
                    _ = try await first.csi.publish(id, at: "worker-1", mode: "SINGLE_NODE_WRITER")
                }
            }
        }

        @Test func aRightThatIsTakenBackIsNoRightAtAnyNode() async throws {
            try await Self.withTown { town, first, second, _ in
                let sydney = try #require(SiteID("sydney"))
                let id = try await Self.make("data", by: first)
                try await first.site.agent(id).change { $0.sharedWith.insert(sydney) }
                _ = try await Self.use(id, at: second, attachedBy: first, "touch file")
                // It went with the volume, and what the first one has is from then.
                #expect(try await first.inspect("data").sharedWith == ["sydney"])
                var revoke = Godwit_Control_V1_RevokeRequest()
                revoke.volume = "data"
                revoke.site = "sydney"
                let _: Godwit_Control_V1_Volume = try await first.ask("Revoke", revoke)
                #expect(try await first.inspect("data").sharedWith.isEmpty)
                for node in ["worker-1", "worker-2"] {
                    let stranger = try town.client(of: 0, to: node)
                    var request = Godwit_Peer_V1_TakeOverRequest()
                    request.volume = id.description
                    await #expect(throws: PeerError.self) {
                        _ = try await stranger.takeOver(request, timeout: .seconds(20))
                    }
                    await #expect(throws: PeerError.self) { _ = try await stranger.status(of: id) }
                    stranger.close()
                }
                _ = try await Self.use(id, at: first, attachedBy: second, "test -e file")
                #expect(try await second.inspect("data").sharedWith.isEmpty)
            }
        }

        @Test func whoDidNotGetAVolumeDoesNotFollowItForEver() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make("data", by: first)
                _ = try await first.csi.publish(id, at: "worker-1", mode: "SINGLE_NODE_WRITER")
                await #expect(throws: CSIBackendError.self) {
                    _ = try await first.csi.publish(id, at: "worker-2", mode: "SINGLE_NODE_WRITER")
                }
                #expect(try await town.cluster.registry(of: first.csi.site).placements().count == 1)
                try await first.csi.unpublish(id, at: nil)
                _ = try await Self.use(id, at: second, attachedBy: first, "touch file")
            }
        }

        @Test func whatOnlyALostNodeHadIsTakenOverByForceFromWhatAnotherHas() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make("data", by: first)
                _ = try await Self.use(id, at: first, attachedBy: first, "echo old > file")
                try await first.csi.modify(id, CSIHydration(isPaused: true))
                // Held at the second when it is lost.
                let epoch = try await first.csi.publish(id, at: "worker-2", mode: "SINGLE_NODE_WRITER")
                await second.stop()
                var request = Godwit_Control_V1_TakeOverRequest()
                request.volume = "data"
                var told: Godwit_Control_V1_TakeOverReply = try await first.ask("TakeOver", request)
                #expect(told.overruledEpoch == epoch.number && told.epoch == 0 && !told.options.isEmpty)
                request.force = true
                request.overruledEpoch = told.overruledEpoch
                told = try await first.ask("TakeOver", request)
                #expect(told.epoch > epoch.number)
                // The attachment to the lost node ends without it.
                try await first.csi.unpublish(id, at: "worker-2")
                #expect(try await Self.use(id, at: first, attachedBy: first, "cat file") == "old\n")
            }
        }

        @Test func aNodeThatIsGoneForGoodIsGivenUpWithItsMember() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make("data", by: first, at: ["worker-2"])
                _ = try await Self.use(id, at: second, attachedBy: first, "echo kept > file")
                _ = try await Self.use(id, at: first, attachedBy: first, "cat file")
                try await SiteTests.wait("all bytes") { try await first.inspect("data").released }
                await second.stop()
                // Nothing is deleted before all can be.
                await #expect(throws: CSIBackendError.self) { try await first.csi.delete(id) }
                #expect(try await Self.use(id, at: first, attachedBy: first, "cat file") == "kept\n")
                town.cluster.forget(second.csi.site)
                try await first.site.context.members?.refresh()
                try await first.csi.delete(id)
                #expect(try await town.cluster.registry(of: first.csi.site).placements().isEmpty)
            }
        }

        @Test func aSiteWithVolumesOfItsOwnGetsNoNodes() async throws {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let town = try MemberTown(cleanup, nodes: ["worker-1"])
                let london = try #require(SiteID("london"))
                _ = try await town.cluster.registry(of: london).insert(
                    VolumeRecord(
                        id: VolumeID(randomHigh: 1, randomLow: 2), name: "data",
                        limits: VolumeLimits(byteCount: 1 << 30), parameters: [:],
                        head: HeadRecord(newAt: london)))
                await #expect(throws: SiteError.self) { _ = try await town.start("worker-1") }
            }
        }

        @Test func aNodeThatIsAwayIsNamedAndItsVolumesWait() async throws {
            try await Self.withTown { town, first, second, _ in
                let id = try await Self.make("data", by: first, at: ["worker-2"])
                _ = try await Self.use(id, at: second, attachedBy: first, "echo kept > file")
                await second.stop()
                let trouble = try #require(try await first.csi.volumes().first?.trouble)
                #expect(trouble.contains("worker-2"), "\(trouble)")
                do {
                    _ = try await first.csi.publish(id, at: "worker-1", mode: "SINGLE_NODE_WRITER")
                    Issue.record("a volume came from a node that is away")
                } catch CSIBackendError.unavailable(let text) {
                    #expect(text.contains("worker-2"), "\(text)")
                }
                await #expect(throws: CSIBackendError.self) { try await first.csi.delete(id) }
                let again = try await town.start("worker-2")
                do {
                    // It is connected to anew in a moment.
                    try await SiteTests.wait("worker-2") {
                        (try? await first.csi.publish(id, at: "worker-1", mode: "SINGLE_NODE_WRITER")) != nil
                    }
                    let seen = try await Self.use(id, at: first, attachedBy: first, "cat file")
                    #expect(seen == "kept\n")
                    #expect(try await first.csi.volumes().allSatisfy { $0.trouble == nil })
                } catch {
                    await again.stop()
                    throw error
                }
                await again.stop()
            }
        }
    }
}
