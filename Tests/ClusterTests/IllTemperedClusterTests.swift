import ClusterResources
import KubernetesAPI
import Logging
import Testing
import VolumeModel

@testable import Cluster

/// Whatever the API refuses, and whatever it does without saying so: each story ends where it would have ended.
@Suite struct IllTemperedClusterTests {
    private static let id = FakeSites.volume

    /// A claim of the fake sites' volume, and its PersistentVolume.
    private func bind(
        _ cluster: IllTemperedCluster, _ name: String, to volume: String, annotations: JSONValue,
        marks: JSONValue = [:]
    ) {
        cluster.put(
            "persistentvolumeclaims", "default", name,
            [
                "metadata": [
                    "name": .string(name), "namespace": "default", "uid": "claim", "resourceVersion": "1",
                    "annotations": annotations,
                ],
                "spec": [
                    "accessModes": ["ReadWriteOnce"], "resources": ["requests": ["storage": "1Gi"]],
                    "volumeName": .string(volume), "storageClassName": "godwit",
                ], "status": ["phase": "Bound"],
            ])
        cluster.put(
            "persistentvolumes", "", volume,
            [
                "metadata": [
                    "name": .string(volume), "uid": "volume", "resourceVersion": "1", "annotations": marks,
                ],
                "spec": [
                    "capacity": ["storage": "1Gi"], "accessModes": ["ReadWriteOnce"],
                    "csi": ["driver": "csi.godwit.dev", "volumeHandle": .string(Self.id)],
                    "claimRef": ["namespace": "default", "name": .string(name)],
                ],
            ])
    }

    private func withController(
        _ cluster: IllTemperedCluster, _ sites: FakeSites, at site: String = "london",
        _ body: @escaping @Sendable (ControllerFigures) async throws -> Void
    ) async throws {
        try await ScriptedServer.run { request, _ in
            cluster.answer(request)
        } _: { _, client in
            let figures = ControllerFigures()
            let controller = MigrationController(
                client, site: sites.control(of: site), logger: Logger(label: "test"), figures: figures,
                interval: .milliseconds(100))
            let running = Task { try await controller.run() }
            do {
                try await body(figures)
            } catch {
                running.cancel()
                _ = await running.result
                throw error
            }
            running.cancel()
            _ = await running.result
            #expect(!figures.snapshot.isLeading && figures.complaint() == nil)
        }
    }

    private func all<Item: KubernetesResource>(
        _ type: Item.Type, _ cluster: IllTemperedCluster
    ) throws -> [Item] {
        try cluster.all(Item.resource.plural).map { try $0.decoded(as: Item.self) }
    }

    @Test func aMoveIsFollowedThroughRefusalsFailuresAndLostAnswers() async throws {
        let (cluster, sites) = (IllTemperedCluster(), FakeSites())
        bind(cluster, "data", to: "pvc-1", annotations: ["godwit.dev/migrate-to": "sydney"])
        try await withController(cluster, sites) { figures in
            try await eventually("the migration to be Ready", limit: .seconds(120)) {
                try all(MigrationResource.self, cluster).first?.status?.phase == .ready
            }
            let found = try all(MigrationResource.self, cluster)
            #expect(found.count == 1 && found.first?.spec.to == "sydney")
            #expect(found.first?.metadata.ownerReferences?.first?.uid == "claim")
            try await eventually("the claim says so", limit: .seconds(60)) {
                try all(PersistentVolumeClaim.self, cluster).first?.note == "Ready sydney"
            }
            // What failed was looked at again, and was counted.
            let told = figures.snapshot
            #expect(told.isLeading && (told.looks[.failed] ?? 0) > 0 && told.apiFailures > 0)
        }
    }

    /// Side by side, for what they take is waiting.
    @Test func whatEndsWhatComesAndWhatIsTakenOverEndsTheSame() async throws {
        async let withdrawn: Void = withdrawal()
        async let arrived: Void = arrival()
        async let gone: Void = absence()
        async let taken: Void = takeover()
        _ = try await (withdrawn, arrived, gone, taken)
    }

    /// A wish that was taken away is withdrawn, and nothing holds its migration.
    private func withdrawal() async throws {
        let (cluster, sites) = (IllTemperedCluster(), FakeSites())
        sites.change { state in
            state.known.insert("sydney")
            state.following = ["sydney"]
        }
        bind(cluster, "data", to: "pvc-1", annotations: ["godwit.dev/migration": "Ready sydney"])
        cluster.put(
            "migrations", "default", "data",
            [
                "metadata": [
                    "name": "data", "namespace": "default", "uid": "migration", "resourceVersion": "1",
                    "finalizers": ["godwit.dev/withdraw"],
                ],
                "spec": [
                    "claim": "data", "volume": .string(Self.id), "from": "london", "to": "sydney",
                ],
                "status": ["phase": "Ready", "message": ""],
            ])
        try await withController(cluster, sites) { _ in
            try await eventually("it is cancelled, and not kept", limit: .seconds(120)) {
                let migration = try all(MigrationResource.self, cluster).first
                return migration?.status?.phase == .cancelled && migration?.isKept == false
            }
            try await eventually("the claim says nothing", limit: .seconds(60)) {
                try all(PersistentVolumeClaim.self, cluster).first?.note == nil
            }
        }
        #expect(sites[\.known] == ["london"] && sites[\.following].isEmpty)
    }

    /// A claim that comes is made once.
    private func arrival() async throws {
        let (cluster, sites) = (IllTemperedCluster(), FakeSites())
        let facts = try ClaimFacts(
            namespace: "default", name: "twin", labels: [:], storageClass: "godwit", requested: "1Gi",
            capacity: "1Gi", accessModes: ["ReadWriteOnce"], volumeMode: "")
        sites.change { state in
            state.known.insert("sydney")
            state.claims["sydney"] = ForeignClaim(facts: facts)
        }
        cluster.put(
            "storageclasses", "", "godwit",
            ["metadata": ["name": "godwit"], "provisioner": "csi.godwit.dev"])
        try await withController(cluster, sites, at: "sydney") { _ in
            try await eventually("the site to know that it is made", limit: .seconds(120)) {
                sites[\.claims]["sydney"]?.report?.reason == "Made"
            }
        }
        let (volumes, claims) = (
            try all(PersistentVolume.self, cluster), try all(PersistentVolumeClaim.self, cluster)
        )
        #expect(volumes.count == 1 && volumes.first?.spec.claimRef?.name == "twin")
        #expect(claims.count == 1 && claims.first?.spec.volumeName == volumes.first?.metadata.name)
    }

    /// A claim that does not come any more goes with its volume.
    private func absence() async throws {
        let (cluster, sites) = (IllTemperedCluster(), FakeSites())
        let marks: JSONValue = .object([ArrivingClaim.mark: .string(Self.id)])
        bind(
            cluster, "twin", to: ArrivingClaim.volumeName(Self.id), annotations: marks, marks: marks)
        try await withController(cluster, sites, at: "sydney") { _ in
            try await eventually("both are gone", limit: .seconds(120)) {
                try all(PersistentVolume.self, cluster).isEmpty
                    && all(PersistentVolumeClaim.self, cluster).isEmpty
            }
        }
    }

    /// Commands.md: "after 10 minutes it is given up": such an order is not carried out when the site is back.
    @Test func anOrderThatCouldNotBeCarriedOutForAWhileIsGivenUp() async throws {
        let (cluster, sites) = (IllTemperedCluster(), FakeSites())
        sites.change {
            $0.takeover = TakeoverAnswer(
                volume: "pvc-1", owner: "london", overruledEpoch: 2, epoch: 1 << 32, states: [])
        }
        let waiting: JSONValue = [
            "phase": "Waiting", "message": "the site is away",
            "conditions": [
                [
                    "type": "Completed", "status": "False", "reason": "Unavailable", "message": "",
                    "lastTransitionTime": "2020-01-01T00:00:00Z",
                ]
            ],
        ]
        for (name, made, status) in [
            ("waiting", "2020-01-01T00:00:00Z", waiting), ("unseen", "2020-01-01T00:00:00Z", nil),
        ] as [(String, String, JSONValue?)] {
            var order: [String: JSONValue] = [
                "metadata": [
                    "name": .string(name), "uid": .string(name), "resourceVersion": "1",
                    "creationTimestamp": .string(made),
                ],
                "spec": ["volume": .string(Self.id), "force": true, "overrule": 2],
            ]
            order["status"] = status
            cluster.put("takeovers", "", name, .object(order))
        }
        try await withController(cluster, sites, at: "sydney") { _ in
            try await eventually("both are given up", limit: .seconds(120)) {
                try all(TakeoverResource.self, cluster).allSatisfy {
                    $0.status?.phase == .refused && $0.status?.conditions?.first?.reason == "GivenUp"
                }
            }
        }
        #expect(!sites[\.calls].contains("takeOver"))
        let told = try all(TakeoverResource.self, cluster).compactMap(\.status?.message)
        #expect(told.contains { $0.contains("the site is away") }, "\(told)")
    }

    /// A takeover is answered once it can be written.
    private func takeover() async throws {
        let (cluster, sites) = (IllTemperedCluster(), FakeSites())
        sites.change {
            $0.takeover = TakeoverAnswer(
                volume: "pvc-1", owner: "london", overruledEpoch: 2, epoch: 1 << 32, states: [])
        }
        cluster.put(
            "takeovers", "", "data-1",
            [
                "metadata": ["name": "data-1", "uid": "takeover", "resourceVersion": "1"],
                "spec": ["volume": .string(Self.id), "force": true, "overrule": 2],
            ])
        try await withController(cluster, sites, at: "sydney") { _ in
            try await eventually("it is answered", limit: .seconds(120)) {
                try all(TakeoverResource.self, cluster).first?.status?.phase == .takenOver
            }
        }
        let takeover = try all(TakeoverResource.self, cluster).first
        #expect(takeover?.status?.epoch == 1 << 32 && takeover?.status?.owner == "london")
        #expect(try all(EventView.self, cluster).contains { $0.reason == "TakenOver" })
    }
}
