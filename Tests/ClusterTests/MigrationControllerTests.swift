import ClusterResources
import Foundation
import KubernetesAPI
import Logging
import Testing

@testable import Cluster
@testable import TestBed

extension ClusterTests {
    /// The controller in this process beside an API server and a site that does as the test says: what it writes when,
    /// and that it goes on from wherever it was ended.
    @Suite struct MigrationControllerTests {
        static let key = (namespace: "default", name: "data")

        /// One cluster with a claim, and a site.
        struct Scene: Sendable {
            let cluster: TestCluster
            let client: KubernetesClient
            let sites = FakeSites()

            func annotate(_ name: String, _ value: String?) async throws {
                _ = try await client.patch(
                    PersistentVolumeClaim.self, key.name, in: key.namespace,
                    ["metadata": ["annotations": .object([name: JSONValue(value)])]])
            }

            func wish(_ target: String?) async throws { try await annotate(ClaimWishes.migrateTo, target) }

            func claim() async throws -> PersistentVolumeClaim? {
                try await client.find(PersistentVolumeClaim.self, key.name, in: key.namespace)
            }

            func migration() async throws -> MigrationResource? {
                try await client.find(MigrationResource.self, key.name, in: key.namespace)
            }

            func wait(for phase: MigrationResource.Phase) async throws {
                try await eventually("phase \(phase.rawValue)", limit: .seconds(30)) {
                    try await migration()?.status?.phase == phase
                }
            }

            func condition(_ type: String) async throws -> Condition? {
                try await migration()?.status?.conditions?.first { $0.type == type }
            }

            /// What the claim says of itself.
            func followed() async throws -> PersistentVolumeClaim.Condition? { try await claim()?.followed }

            func events(_ reason: String) async throws -> [Event] {
                try await client.list(Event.self, in: key.namespace).items.filter { $0.reason == reason }
            }

            /// Deletes the claim as a person, its protection and the garbage collector do.
            func deleteClaim() async throws {
                try await client.delete(PersistentVolumeClaim.self, key.name, in: key.namespace)
                _ = try? await client.patch(
                    PersistentVolumeClaim.self, key.name, in: key.namespace,
                    ["metadata": ["finalizers": .null]])
                try await client.delete(MigrationResource.self, key.name, in: key.namespace)
            }

            /// Runs a controller beside the body, and ends it after that.
            func withController(
                _ client: KubernetesClient? = nil, at site: String = "london",
                accepting acceptedNamespaces: String? = nil, retelling: Duration = .seconds(3000),
                _ body: () async throws -> Void
            ) async throws {
                let controller = MigrationController(
                    client ?? self.client, site: sites.control(of: site),
                    acceptedNamespaces: acceptedNamespaces, logger: Logger(label: "test"),
                    interval: .milliseconds(50), retelling: retelling)
                let running = Task { try await controller.run() }
                do {
                    try await body()
                } catch {
                    running.cancel()
                    _ = await running.result
                    throw error
                }
                running.cancel()
                _ = await running.result
            }
        }

        func withScene(_ body: (Scene) async throws -> Void) async throws {
            let (cluster, client) = try await Self.emptyCluster()
            let scene = Scene(cluster: cluster, client: client)
            try await Self.bind(client)
            do {
                try await body(scene)
            } catch {
                let status = try? await scene.migration()?.status
                Issue.record("status \(String(describing: status)); calls \(scene.sites[\.calls].suffix(20))")
                throw error
            }
        }

        static func emptyCluster() async throws -> (TestCluster, KubernetesClient) {
            let london = try await SharedClusters.take("london", .manifests)
            return (london.cluster, london.client)
        }

        static func bind(_ client: KubernetesClient) async throws {
            _ = try await client.create(
                PersistentVolume(
                    metadata: ObjectMeta(name: "pvc-1"),
                    spec: .init(
                        storage: "1Gi", accessModes: ["ReadWriteOnce"],
                        csi: .init(driver: MigrationController.driver, volumeHandle: FakeSites.volume),
                        claim: .init(namespace: key.namespace, name: key.name), reclaimPolicy: "Retain",
                        storageClassName: "godwit")))
            _ = try await client.create(
                PersistentVolumeClaim(
                    metadata: ObjectMeta(name: key.name, namespace: key.namespace),
                    spec: .init(
                        accessModes: ["ReadWriteOnce"], storage: "1Gi", storageClassName: "godwit",
                        volumeName: "pvc-1")))
        }

        /// There and back once, so that the first wish is fulfilled and closed.
        private func moveThereAndHome(_ scene: Scene) async throws {
            try await scene.wish("sydney")
            try await scene.wait(for: .ready)
            scene.sites.startPod(at: "sydney")
            try await eventually("the wish is closed") { try await scene.migration()?.status?.closed == true }
            scene.sites.startPod(at: "london")
        }

        @Test func aSecondMoveToTheSameSiteIsNotTakenForTheFirst() async throws {
            try await withScene { scene in
                try await scene.withController {
                    try await moveThereAndHome(scene)
                    #expect(try await scene.condition("Ready")?.status == "True")
                    scene.sites.change { $0.isHeld = true }
                    try await scene.wish("sydney")
                    try await scene.wait(for: .preparing)
                    let status = try #require(try await scene.migration()?.status)
                    #expect(status.resident == nil && status.closed == nil)
                    for condition in try #require(status.conditions) where condition.type != "Validated" {
                        #expect(condition.status == "False", "\(condition)")
                    }
                    // It stands there before the site hears of it, and not only after.
                    scene.sites.change { $0.isHeld = false }
                    try await scene.wait(for: .ready)
                }
            }
        }

        @Test func aSecondMoveGivenUpWhileNobodyLookedIsTakenBack() async throws {
            try await withScene { scene in
                try await scene.withController {
                    try await moveThereAndHome(scene)
                    scene.sites.change { $0.isHeld = true }
                    try await scene.wish("sydney")
                    try await eventually("it is prepared") { scene.sites[\.preparing] == 1 }
                }
                // The controller is ended; the site goes on, and the annotation goes.
                scene.sites.change { state in
                    state.isHeld = false
                    state.calls = []
                }
                try await scene.wish(nil)
                try await scene.withController {
                    try await scene.wait(for: .cancelled)
                    #expect(scene.sites[\.calls].contains("withdraw"))
                }
            }
        }

        /// Claims.md: "Cancelled: the annotation was taken away by you before the hand-over", however long preparing takes.
        @Test func whileASiteIsPreparedItsClaimIsFollowed() async throws {
            try await withScene { scene in
                try await scene.withController {
                    scene.sites.change { $0.isHeld = true }
                    try await scene.wish("sydney")
                    try await eventually("it is prepared") { scene.sites[\.preparing] == 1 }
                    // What changes nothing about the move leaves it alone.
                    try await scene.annotate(ClaimWishes.pause, "true")
                    try await scene.annotate(ClaimWishes.rateLimit, "2Mi")
                    try await eventually("the settings are followed") {
                        scene.sites[\.isPaused] && scene.sites[\.bytesPerSecond] == 2 << 20
                    }
                    #expect(scene.sites[\.preparing] == 1 && scene.sites[\.givenUp] == 0)
                    // Another target, and then none.
                    try await scene.wish("tokyo")
                    try await eventually("it begins anew") {
                        scene.sites[\.preparing] == 1 && scene.sites[\.givenUp] == 1
                    }
                    #expect(scene.sites[\.calls].contains("withdraw"))
                    try await eventually("the target is written down") {
                        let migration = try await scene.migration()
                        return migration?.spec.to == "tokyo" && migration?.status?.phase == .preparing
                    }
                    try await scene.wish(nil)
                    try await scene.wait(for: .cancelled)
                    #expect(scene.sites[\.preparing] == 0 && scene.sites[\.givenUp] == 2)
                    // Once more, and the claim goes.
                    try await scene.wish("sydney")
                    try await eventually("it is prepared") { scene.sites[\.preparing] == 1 }
                    try await scene.client.delete(
                        PersistentVolumeClaim.self, Self.key.name, in: Self.key.namespace)
                    try await eventually("it is given up") { scene.sites[\.preparing] == 0 }
                }
            }
        }

        @Test func anEndedControllerAsksItsSiteForNothing() async throws {
            try await withScene { scene in
                scene.sites.change { $0.isHeld = true }
                try await scene.withController {
                    try await scene.wish("sydney")
                    try await eventually("it is prepared") { scene.sites[\.preparing] == 1 }
                }
                #expect(scene.sites[\.preparing] == 0 && scene.sites[\.givenUp] == 1)
                // Nothing is said of it that would look like a failure.
                #expect(try await scene.migration()?.status?.phase == .preparing)
            }
        }

        /// Claims.md: "When the claim at home is deleted before the hand-over, the site that follows forgets the volume", also
        /// when nobody sees the deletion.
        @Test(arguments: [MigrationResource.Phase.preparing, .ready])
        func aClaimDeletedWhileNobodyLooksIsWithdrawn(_ phase: MigrationResource.Phase) async throws {
            try await withScene { scene in
                try await scene.withController {
                    scene.sites.change { $0.isHeld = phase == .preparing }
                    try await scene.wish("sydney")
                    try await scene.wait(for: phase)
                }
                scene.sites.change { state in
                    state.isHeld = false
                    state.known.insert("sydney")
                }
                // The cluster's collector would have it, and may not yet.
                try await scene.deleteClaim()
                let kept = try #require(try await scene.migration())
                #expect(kept.metadata.deletionTimestamp != nil)
                // While the target cannot be told, it says so.
                scene.sites.change { $0.failures["withdraw"] = .init("sydney is away", isTransient: true) }
                try await scene.withController {
                    try await eventually("it is said why it stays") {
                        try await scene.migration()?.status?.message.contains("sydney is away") == true
                    }
                    #expect(try await !scene.events("Unavailable").isEmpty)
                    scene.sites.change { $0.failures = [:] }
                    try await eventually("it goes") { try await scene.migration() == nil }
                }
                #expect(scene.sites[\.known] == ["london"])
            }
        }

        @Test func anotherClaimOfTheSameNameIsNoReasonToForgetTheFirst() async throws {
            try await withScene { scene in
                try await scene.withController {
                    try await scene.wish("sydney")
                    try await scene.wait(for: .ready)
                }
                try await scene.client.delete(
                    PersistentVolumeClaim.self, Self.key.name, in: Self.key.namespace)
                _ = try? await scene.client.patch(
                    PersistentVolumeClaim.self, Self.key.name, in: Self.key.namespace,
                    ["metadata": ["finalizers": .null]])
                _ = try await scene.client.create(
                    PersistentVolumeClaim(
                        metadata: ObjectMeta(name: Self.key.name, namespace: Self.key.namespace),
                        spec: .init(
                            accessModes: ["ReadWriteOnce"], storage: "1Gi", storageClassName: "godwit")))
                try await scene.withController {
                    try await eventually("the first one's migration goes") {
                        try await scene.migration() == nil
                    }
                }
                #expect(scene.sites[\.known] == ["london"])
            }
        }

        /// Claims.md: "Nothing holds a migration that is over".
        @Test func aMigrationIsKeptOnlyWhileItsTargetMayHaveToBeTold() async throws {
            try await withScene { scene in
                func isKept() async throws -> Bool? { try await scene.migration()?.isKept }
                try await scene.withController {
                    try await scene.wish("sydney")
                    try await scene.wait(for: .ready)
                    #expect(try await isKept() == true)
                    // Deleted though the wish stands, it is made anew.
                    let first = try await scene.migration()?.metadata.uid
                    try await scene.client.delete(
                        MigrationResource.self, Self.key.name, in: Self.key.namespace)
                    try await eventually("another one is ready") {
                        let migration = try await scene.migration()
                        return migration?.metadata.uid != first && migration?.status?.phase == .ready
                    }
                    try await scene.wish(nil)
                    try await eventually("cancelled, it is not kept") { try await isKept() == false }
                    #expect(try await scene.migration()?.status?.phase == .cancelled)
                    try await scene.wish("sydney")
                    try await scene.wait(for: .ready)
                    #expect(try await isKept() == true)
                    scene.sites.startPod(at: "sydney", missing: 10)
                    try await eventually("handed over, it is not kept") { try await isKept() == false }
                    try await Task.sleep(for: .milliseconds(500))
                    #expect(try await isKept() == false)
                    scene.sites.change { $0.isReleased = true }
                    try await scene.wait(for: .done)
                }
                try await scene.client.delete(MigrationResource.self, Self.key.name, in: Self.key.namespace)
                #expect(try await scene.migration() == nil)
            }
        }

        @Test(arguments: ["info", "volume", "setHydration"])
        func whatTheSiteDoesNotDoIsAnEventAndACondition(_ call: String) async throws {
            try await withScene { scene in
                let failure = SiteControlError("its disk is gone", isTransient: false)
                try await scene.withController {
                    scene.sites.change { $0.failures[call] = failure }
                    try await scene.annotate(ClaimWishes.rateLimit, "2Mi")
                    try await eventually("the claim says so") {
                        try await scene.followed()?.status == "False"
                    }
                    let condition = try #require(try await scene.followed())
                    #expect(
                        condition.reason == "Refused" && condition.message?.contains("disk is gone") == true)
                    let event = try #require(try await scene.events("Refused").first)
                    #expect(event.type == "Warning" && event.message.contains("disk is gone"))
                    // Settings that are not followed are no reason not to move.
                    try await scene.wish("sydney")
                    if call == "setHydration" { try await scene.wait(for: .ready) }
                    scene.sites.change { $0.failures = [:] }
                    try await scene.wait(for: .ready)
                    try await eventually("it is followed") { try await scene.followed()?.status == "True" }
                    #expect(scene.sites[\.bytesPerSecond] == 2 << 20)
                }
                #expect(try await scene.events("Refused").count == 1)
            }
        }

        /// Claims.md: "What cannot be followed is a Warning of the claim and its condition".
        @Test func aBadValueIsAConditionUntilItIsGoneAndToldAgainBeforeItsEventIs() async throws {
            try await withScene { scene in
                try await scene.annotate(ClaimWishes.rateLimit, "fast")
                try await scene.annotate(ClaimWishes.pause, "perhaps")
                func count() async throws -> Int32 {
                    try await scene.events("BadValue").compactMap(\.count).max() ?? 0
                }
                try await scene.withController {
                    try await eventually("the claim says so") {
                        try await scene.followed()?.status == "False"
                    }
                    let message = try #require(try await scene.followed()?.message)
                    #expect(message.contains("'fast'") && message.contains("'perhaps'"), "\(message)")
                    try await Task.sleep(for: .seconds(1))
                    #expect(try await scene.events("BadValue").count == 2)
                    #expect(try await count() == 1)
                }
                // Started again it knows what was told, until the cluster forgets it.
                try await scene.withController {
                    try await Task.sleep(for: .seconds(1))
                    #expect(try await count() == 1)
                }
                try await scene.withController(retelling: .seconds(1)) {
                    try await eventually("it is told again") { try await count() > 1 }
                    // Without the annotations there is nothing to complain of.
                    try await scene.annotate(ClaimWishes.rateLimit, nil)
                    try await scene.annotate(ClaimWishes.pause, nil)
                    try await eventually("it is taken back") { try await scene.followed()?.status == "True" }
                }
            }
        }

        @Test func aFailureThatStaysIsToldAgainBeforeItsEventIsForgotten() async throws {
            try await withScene { scene in
                func count() async throws -> Int32 {
                    try await scene.events("UnknownSite").compactMap(\.count).max() ?? 0
                }
                try await scene.wish("mars")
                try await scene.withController {
                    try await eventually("it is told") { try await count() == 1 }
                    try await Task.sleep(for: .seconds(1))
                    #expect(try await count() == 1)
                }
                try await scene.withController(retelling: .seconds(1)) {
                    try await eventually("it is told again") { try await count() > 1 }
                }
            }
        }
    }
}
