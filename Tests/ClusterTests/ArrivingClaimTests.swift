import ClusterResources
import KubernetesAPI
import Testing
import VolumeModel

@testable import Cluster
@testable import TestBed

extension ClusterTests.MigrationControllerTests {
    private func facts(
        _ size: String, _ labels: [String: String] = [:], namespace: String = "default"
    ) throws -> ClaimFacts {
        try ClaimFacts(
            namespace: namespace, name: "twin", labels: labels, storageClass: "godwit", requested: size,
            capacity: size, accessModes: ["ReadWriteOnce"], volumeMode: "")
    }

    private func twin(_ scene: Scene) async throws -> PersistentVolumeClaim? {
        try await scene.client.find(PersistentVolumeClaim.self, "twin", in: "default")
    }

    private func bind(_ name: String, _ client: KubernetesClient) async throws {
        _ = try await client.patch(
            PersistentVolumeClaim.self, name, in: "default",
            ["status": ["phase": "Bound", "capacity": ["storage": "1Gi"]]], subresource: "status")
    }

    /// Claims.md: "sizes grow, labels are set", what changes about them after the claim was made.
    @Test func aClaimThatGrowsAtHomeGrowsAtTheTarget() async throws {
        let (cluster, client) = try await Self.emptyCluster()
        let scene = Scene(cluster: cluster, client: client)
        let first = try facts("1Gi", ["app": "db"])
        scene.sites.change { state in
            state.known.insert("sydney")
            state.claims["sydney"] = ForeignClaim(facts: first)
        }
        func report() -> ClaimReport? { scene.sites[\.claims]["sydney"]?.report }
        func offer(_ facts: ClaimFacts) {
            scene.sites.change { $0.claims["sydney"] = ForeignClaim(facts: facts) }
        }
        let name = ArrivingClaim.volumeName(FakeSites.volume)
        try await scene.withController(at: "sydney") {
            try await eventually("it is made") { report()?.reason == "Made" }
            // Not bound yet, a claim does not grow; bound it does.
            offer(try facts("2Gi", ["app": "db", "tier": "1"]))
            try await eventually("it is said that it is smaller") { report()?.reason == "Smaller" }
            #expect(report()?.isMade == true && report()?.message.contains("1Gi rather than 2Gi") == true)
            try await bind("twin", client)
            try await eventually("it has grown") { report()?.reason == "Made" }
            #expect(try await twin(scene)?.spec.resources?.requests == ["storage": "2Gi"])
            #expect(try await twin(scene)?.metadata.labels == ["app": "db", "tier": "1"])
            #expect(
                try await client.find(PersistentVolume.self, name)?.spec.capacity == ["storage": "2Gi"])
            // What only its cluster's users know stays, and nothing shrinks.
            _ = try await client.patch(
                PersistentVolumeClaim.self, "twin", in: "default", ["metadata": ["labels": ["own": "1"]]])
            offer(try facts("1Gi", ["app": "db2"]))
            try await eventually("it is looked at") { report()?.reason == "Made" }
            #expect(try await twin(scene)?.metadata.labels == ["app": "db2", "tier": "1", "own": "1"])
            #expect(try await twin(scene)?.spec.resources?.requests == ["storage": "2Gi"])
        }
    }

    /// Claims.md: "Elsewhere the site follows the volume and no claim is made, and what was made before stays".
    @Test func aNamespaceGetsAClaimOnceItIsAccepted() async throws {
        let (cluster, client) = try await Self.emptyCluster()
        let scene = Scene(cluster: cluster, client: client)
        let first = try facts("1Gi")
        scene.sites.change { state in
            state.known.insert("sydney")
            state.claims["sydney"] = ForeignClaim(facts: first)
        }
        func report() -> ClaimReport? { scene.sites[\.claims]["sydney"]?.report }
        func offer(_ facts: ClaimFacts) {
            scene.sites.change { $0.claims["sydney"] = ForeignClaim(facts: facts) }
        }
        func label(_ value: String?) async throws {
            _ = try await client.patch(
                Namespace.self, "default", ["metadata": ["labels": ["claims": JSONValue(value)]]])
        }
        // Of a selector that means nothing nobody thinks that it means all.
        try await scene.withController(at: "sydney", accepting: "claims in (yes") {
            try await eventually("it is refused") { report()?.reason == "NamespaceNotAccepted" }
            #expect(report()?.message.contains("'claims in (yes', cannot be read") == true, "\(report()!)")
        }
        try await scene.withController(at: "sydney", accepting: "claims in (yes, always)") {
            offer(try facts("1Gi", namespace: "nowhere"))
            try await eventually("it is missing") { report()?.reason == "NamespaceMissing" }
            offer(first)
            try await eventually("it is said what to do") {
                report()?.message.contains("label it there so that 'claims in (yes, always)'") == true
            }
            #expect(report()?.reason == "NamespaceNotAccepted" && report()?.isMade == false)
            try await label("no")
            try await Task.sleep(for: .milliseconds(500))
            #expect(try await twin(scene) == nil)
            #expect(try await client.list(PersistentVolume.self).items.isEmpty)
            try await label("yes")
            try await eventually("it is made") { report()?.reason == "Made" }
            try await label(nil)
            try await bind("twin", client)
            offer(try facts("2Gi"))
            try await eventually("it has grown") { report()?.reason == "Made" }
            #expect(try await twin(scene)?.spec.resources?.requests == ["storage": "2Gi"])
        }
    }

    /// However long a volume cannot be made, nobody lists all that there are for it.
    @Test func aVolumeThatWaitsForItsNamespaceListsNothing() async throws {
        let (cluster, client) = try await Self.emptyCluster()
        let scene = Scene(cluster: cluster, client: client)
        let waiting = try facts("1Gi", namespace: "nowhere")
        scene.sites.change { state in
            state.known.insert("sydney")
            state.claims["sydney"] = ForeignClaim(facts: waiting)
        }
        let (dryRuns, lists) = (Tally(), Tally())
        var options = KubernetesClient.Options()
        options.witness = { sighting throws(KubernetesError) in
            let all = "/api/v1/persistentvolumes?"
            if sighting.target.hasPrefix(all), !sighting.target.contains("watch=true") {
                lists.add()
            }
            if sighting.target.contains("dryRun"), !sighting.isAnswered { dryRuns.add() }
        }
        let counting = try KubernetesClient(.kubeconfig(path: cluster.kubeconfig), options: options)
        try await scene.withController(counting, at: "sydney") {
            try await eventually("it is tried again and again") { dryRuns.count >= 3 }
        }
        #expect(lists.count == 1)
        await counting.close()
    }

    /// Claims.md: "what is still there at home is used again, whatever it is called", and grows with the volume.
    @Test func aClaimThatGrewElsewhereHasGrownWhenItComesHome() async throws {
        try await withScene { scene in
            try await bind("data", scene.client)
            let grown = try facts("3Gi", ["app": "db"])
            scene.sites.startPod(at: "sydney")
            scene.sites.change { $0.claims["london"] = ForeignClaim(facts: grown) }
            try await scene.withController {
                try await eventually("it is known to be there") {
                    scene.sites[\.claims]["london"]?.report?.reason == "Kept"
                }
            }
            let volume = try #require(try await scene.client.find(PersistentVolume.self, "pvc-1"))
            #expect(volume.spec.capacity == ["storage": "3Gi"])
            #expect(try await scene.claim()?.spec.resources?.requests == ["storage": "3Gi"])
            // Its labels are its own.
            #expect(try await scene.claim()?.metadata.labels == nil)
        }
    }
}

/// Sizes, without a cluster.
@Suite struct QuantityTests {
    @Test(arguments: [
        ("1Gi", "1025Mi"), ("1G", "1Gi"), ("1e9", "1Gi"), ("1.5Gi", "2Gi"), ("999m", "1"),
        ("1Ei", "9223372036854775808"),
    ])
    func sizesAreCompared(_ one: String, _ other: String) {
        #expect(Quantity.isLess(one, than: other) && !Quantity.isLess(other, than: one))
        #expect(!Quantity.isLess(one, than: one))
    }

    @Test(arguments: ["", "Gi", "1Xi", "-1", "nan", "inf", "0x10Q"])
    func whatIsNoneIsNotLess(_ text: String) {
        #expect(!Quantity.isLess(text, than: "1Gi") && !Quantity.isLess("1Gi", than: text))
    }
}
