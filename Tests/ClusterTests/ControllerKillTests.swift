import ClusterResources
import Foundation
import KubernetesAPI
import Logging
import Synchronization
import Testing

@testable import Cluster
@testable import TestBed

/// Ends controllers after so many changes that they made, to clusters or to their sites.
final class Killer: Sendable {
    private struct State {
        var count = 0
        var isDead = false
    }

    private let limit: Int?
    private let state = Mutex(State())

    /// - Parameter limit: nil: they are only counted.
    init(after limit: Int?) { self.limit = limit }

    var count: Int { state.withLock { $0.count } }
    var isDead: Bool { state.withLock { $0.isDead } }

    /// - Parameter isDone: a change was made just now; else something is about to be asked.
    /// - Returns: whether the controllers live.
    private func goesOn(_ isDone: Bool) -> Bool {
        state.withLock { state in
            guard !state.isDead else { return false }
            if isDone { state.count += 1 }
            state.isDead = state.count == limit
            return !state.isDead
        }
    }

    var gate: FakeSites.Gate {
        { [self] isDone throws(SiteControlError) in
            guard goesOn(isDone) else { throw SiteControlError("killed", isTransient: true) }
        }
    }

    var options: KubernetesClient.Options {
        var options = KubernetesClient.Options()
        options.witness = { [self] sighting throws(KubernetesError) in
            // What is only tried changes nothing.
            let isDone = sighting.isAnswered && !sighting.target.contains("dryRun")
            guard goesOn(isDone) else { throw .cancelled }
        }
        return options
    }
}

extension ClusterTests {
    /// Claims.md: "killed at any moment and started again, it decides the same": two clusters, and both their controllers ended
    /// after the first change that they make, the second, and so on.
    @Suite struct ControllerKillTests {
        /// How many moments of each story are tried, evenly spread over all of them.
        static let moments = Int(ProcessInfo.processInfo.environment["GODWIT_CONTROLLER_KILLS"] ?? "") ?? 6

        struct World: Sendable {
            let clusters: [String: SharedClusters.Member]
            let sites = FakeSites()

            var clients: [String: KubernetesClient] { clusters.mapValues(\.client) }
            var london: KubernetesClient { clients["london"]! }
            var sydney: KubernetesClient { clients["sydney"]! }

            func wish(_ target: String?, at site: String) async throws {
                _ = try await clients[site]!.patch(
                    PersistentVolumeClaim.self, "data", in: "default",
                    ["metadata": ["annotations": .object([ClaimWishes.migrateTo: JSONValue(target)])]])
            }

            func migration(_ site: String) async throws -> MigrationResource? {
                try await clients[site]!.find(MigrationResource.self, "data", in: "default")
            }

            func wait(_ site: String, _ what: String, _ holds: (MigrationResource) -> Bool) async throws {
                try await eventually("\(what) at \(site)", limit: .seconds(30)) {
                    try await migration(site).map(holds) ?? false
                }
            }

            func waitUntilReady(_ site: String) async throws {
                try await wait(site, "ready, with its claim") { migration in
                    let made = migration.status?.conditions?.first { $0.type == "ClaimMade" }
                    return migration.status?.phase == .ready && made?.status == "True"
                }
            }

            /// What the protection controllers do.
            func finishDeletions() async throws {
                for client in clients.values {
                    for claim in try await client.list(PersistentVolumeClaim.self).items
                    where claim.metadata.deletionTimestamp != nil {
                        _ = try? await client.patch(
                            PersistentVolumeClaim.self, claim.metadata.name ?? "", in: "default",
                            ["metadata": ["finalizers": .null]])
                    }
                    for volume in try await client.list(PersistentVolume.self).items
                    where volume.metadata.deletionTimestamp != nil {
                        _ = try? await client.patch(
                            PersistentVolume.self, volume.metadata.name ?? "",
                            ["metadata": ["finalizers": .null]])
                    }
                }
            }

            /// All that lasts, without what differs from run to run.
            func state() async throws -> [String] {
                var lines = [
                    "owner \(sites[\.owner]), known at \(sites[\.known].sorted())",
                    "claims \(sites[\.claims].sorted { $0.key < $1.key })",
                ]
                for (site, client) in clients.sorted(by: { $0.key < $1.key }) {
                    for volume in try await client.list(PersistentVolume.self).items {
                        lines.append(
                            "\(site): volume \(volume.metadata.name ?? ""), \(Self.text(volume.metadata)), "
                                + "\(volume.spec.capacity ?? [:]), of \(volume.spec.claimRef?.name ?? "none")"
                        )
                    }
                    for claim in try await client.list(PersistentVolumeClaim.self).items {
                        lines.append(
                            "\(site): claim \(claim.metadata.name ?? ""), \(Self.text(claim.metadata)), "
                                + "of \(claim.spec.volumeName ?? "none"), \(claim.status?.conditions ?? [])")
                    }
                    for migration in try await client.list(MigrationResource.self).items {
                        let status = migration.status
                        let conditions = (status?.conditions ?? []).map {
                            "\($0.type)=\($0.status) \($0.reason)"
                        }
                        lines.append(
                            "\(site): migration to \(migration.spec.to), \(Self.text(migration.metadata)), "
                                + "\(status?.phase.rawValue ?? "none"), \(status?.closed ?? false), \(conditions)"
                        )
                    }
                }
                return lines
            }

            private static func text(_ metadata: ObjectMeta) -> String {
                let marks = [metadata.labels ?? [:], metadata.annotations ?? [:]].map {
                    $0.sorted { $0.key < $1.key }
                }
                let finalizers = (metadata.finalizers ?? []).filter { $0.hasPrefix("godwit") }
                return "\(marks) \(finalizers) \(metadata.deletionTimestamp == nil ? "" : "being deleted")"
            }

            /// What people have been told.
            func events() async throws -> Set<String> {
                var told: Set<String> = []
                for (site, client) in clients {
                    for event in try await client.list(Event.self, in: "default").items {
                        // Of a claim that is on its way out, whoever comes later finds it gone.
                        if event.message.contains("the claim was deleted") { continue }
                        told.insert("\(site): \(event.reason): \(event.message)")
                    }
                }
                return told
            }
        }

        /// Runs the controllers of both clusters, until they are killed or the caller is cancelled.
        private func runControllers(_ world: World, _ killer: Killer?) async {
            await withTaskGroup(of: Void.self) { group in
                for site in ["london", "sydney"] {
                    group.addTask {
                        guard
                            let client = try? KubernetesClient(
                                .kubeconfig(path: world.clusters[site]!.cluster.kubeconfig),
                                options: killer?.options ?? .init())
                        else { return }
                        let controller = MigrationController(
                            client, site: world.sites.control(of: site, gate: killer?.gate),
                            logger: Logger(label: site), interval: .milliseconds(20))
                        try? await controller.run()
                        await client.close()
                    }
                }
                if let killer {
                    group.addTask {
                        while !killer.isDead, !Task.isCancelled {
                            try? await Task.sleep(for: .milliseconds(5))
                        }
                    }
                }
                _ = await group.next()
                group.cancelAll()
            }
        }

        /// - Returns: how many changes were made before the end or the kill.
        private func play(_ world: World, killedAfter limit: Int?, _ story: (World) async throws -> Void)
            async throws
            -> Int
        {
            for site in world.clusters.keys { _ = try await SharedClusters.take(site, .manifests) }
            world.sites.change { $0 = .init() }
            try await MigrationControllerTests.bind(world.london)
            let killer = Killer(after: limit)
            let controllers = Task {
                await runControllers(world, killer)
                guard !Task.isCancelled else { return }
                await runControllers(world, nil)
            }
            do {
                try await story(world)
            } catch {
                controllers.cancel()
                await controllers.value
                throw error
            }
            if limit == nil { try await Task.sleep(for: .seconds(1)) }
            controllers.cancel()
            await controllers.value
            return killer.count
        }

        private func play(
            _ story: @escaping @Sendable (World) async throws -> Void
        ) async throws {
            let world = World(clusters: [
                "london": try await SharedClusters.take("london", .manifests),
                "sydney": try await SharedClusters.take("sydney", .manifests),
            ])
            let count = try await play(world, killedAfter: nil, story)
            let (state, events) = (try await world.state(), try await world.events())
            try #require(count > 5)
            let step = max(1, count / max(1, Self.moments))
            for limit in stride(from: Int.random(in: 1...step), through: count, by: step) {
                do {
                    _ = try await play(world, killedAfter: limit) { world in
                        try await story(world)
                        try await eventually("the same state in the end", limit: .seconds(20)) {
                            try await world.state() == state
                        }
                        try await Task.sleep(for: .milliseconds(100))
                    }
                    #expect(try await world.state() == state, "killed after change \(limit) of \(count)")
                    let missing = events.subtracting(try await world.events())
                    #expect(missing.isEmpty, "not told after change \(limit) of \(count): \(missing)")
                } catch {
                    let now = (try? await world.state()) ?? []
                    Issue.record(
                        "killed after change \(limit) of \(count): \(now.joined(separator: "\n")) rather than \(state.joined(separator: "\n"))"
                    )
                    throw error
                }
            }
        }

        @Test func aMoveThereAndBackEndsTheSame() async throws {
            try await play { world in
                try await world.wish("sydney", at: "london")
                try await world.waitUntilReady("london")
                world.sites.startPod(at: "sydney")
                try await world.wait("london", "closed") { $0.status?.closed == true && !$0.isKept }
                try await eventually("sydney's volume is noted as used") {
                    let volumes = try await world.sydney.list(PersistentVolume.self).items
                    return volumes.first?.metadata.annotations?[ArrivingClaim.used] != nil
                }
                try await world.wish("london", at: "sydney")
                try await world.waitUntilReady("sydney")
                world.sites.startPod(at: "london")
                try await world.wait("sydney", "closed") { $0.status?.closed == true && !$0.isKept }
                let wish = try await world.london.get(PersistentVolumeClaim.self, "data", in: "default")
                #expect(wish.metadata.annotations?[ClaimWishes.migrateTo] == nil)
            }
        }

        @Test func aCancelledMoveEndsTheSame() async throws {
            try await play { world in
                try await world.wish("sydney", at: "london")
                try await world.waitUntilReady("london")
                try await world.wish(nil, at: "london")
                try await world.wait("london", "cancelled") { $0.status?.phase == .cancelled && !$0.isKept }
                try await nothingIsLeft(world)
            }
        }

        @Test func aDeletedClaimEndsTheSame() async throws {
            try await play { world in
                try await world.wish("sydney", at: "london")
                try await world.waitUntilReady("london")
                try await world.london.delete(PersistentVolumeClaim.self, "data", in: "default")
                try await world.finishDeletions()
                // As the garbage collector does.
                try await world.london.delete(MigrationResource.self, "data", in: "default")
                try await eventually("the migration is gone") { try await world.migration("london") == nil }
                try await nothingIsLeft(world)
            }
        }

        private func nothingIsLeft(_ world: World) async throws {
            try await eventually("nothing is left at sydney") {
                try await world.finishDeletions()
                let volumes = try await world.sydney.list(PersistentVolume.self).items
                let claims = try await world.sydney.list(PersistentVolumeClaim.self).items
                return volumes.isEmpty && claims.isEmpty
            }
        }
    }
}
