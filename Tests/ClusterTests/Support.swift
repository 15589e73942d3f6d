import ClusterResources
import Foundation
import KubernetesAPI
import Testing

@testable import Cluster
@testable import TestBed

/// Tests against real API servers, one after the other.
@Suite(
    .serialized, .enabled(if: TestCluster.program != nil, "Tests/install-kubernetes builds the API server"))
enum ClusterTests {}

extension ClusterTests {
    static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path
}

/// Runs a test with a cluster that has our resources, and takes everything back.
func withCluster(
    _ body: @escaping @Sendable (TestCluster, KubernetesClient, Cleanup) async throws -> Void
) async throws {
    try await Cleanup.scope(catchingSignals: false) { cleanup in
        let cluster = try await TestCluster.start("london", cleanup)
        try await installResources(cluster)
        let client = try KubernetesClient(.kubeconfig(path: cluster.kubeconfig))
        do {
            try await body(cluster, client, cleanup)
        } catch {
            await client.close()
            throw error
        }
        await client.close()
    }
}

/// Clusters that all tests of a suite use, one test after the other, because starting one takes longer than most of them.
struct SharedClusters: SuiteTrait, TestScoping {
    struct Member: Sendable {
        let cluster: TestCluster
        let client: KubernetesClient

        /// Takes all away that tests make. Nothing else ends what is being deleted.
        func wipe() async throws {
            for migration in try await client.list(MigrationResource.self).items {
                try await remove(MigrationResource.self, migration.metadata)
            }
            for claim in try await client.list(PersistentVolumeClaim.self).items {
                try await remove(PersistentVolumeClaim.self, claim.metadata)
            }
            for volume in try await client.list(PersistentVolume.self).items {
                try await remove(PersistentVolume.self, volume.metadata)
            }
            for event in try await client.list(Event.self, in: "default").items {
                try await remove(Event.self, event.metadata)
            }
        }

        private func remove<Item: KubernetesResource>(
            _ type: Item.Type, _ metadata: ObjectMeta
        ) async throws {
            try await client.delete(type, metadata.name ?? "", in: metadata.namespace)
            _ = try? await client.patch(
                type, metadata.name ?? "", in: metadata.namespace, ["metadata": ["finalizers": .null]])
        }
    }

    @TaskLocal static var current: [String: Member] = [:]

    let names: [String]

    func provideScope(
        for test: Test, testCase: Test.Case?, performing body: @Sendable () async throws -> Void
    ) async throws {
        let cleanup = Cleanup()
        do {
            let members = try await start(cleanup)
            try await Self.$current.withValue(members) { try await body() }
        } catch {
            await undo(cleanup)
            throw error
        }
        await undo(cleanup)
    }

    private func undo(_ cleanup: Cleanup) async {
        for failure in await cleanup.undoAll() { writeError("not cleaned up: \(failure)") }
    }

    private func start(_ cleanup: Cleanup) async throws -> [String: Member] {
        var members: [String: Member] = [:]
        for name in names {
            let cluster = try await TestCluster.start(name, cleanup)
            try await installResources(cluster)
            let client = try KubernetesClient(.kubeconfig(path: cluster.kubeconfig))
            try cleanup.add("client of \(name)") { await client.close() }
            _ = try await client.create(
                StorageClass(metadata: ObjectMeta(name: "godwit"), provisioner: MigrationController.driver))
            _ = try await client.patch(StorageClass.self, "godwit", ["allowVolumeExpansion": true])
            members[name] = Member(cluster: cluster, client: client)
        }
        return members
    }
}

extension Trait where Self == SharedClusters {
    /// Clusters of these names, with our resources and a storage class, for the whole suite: `SharedClusters.current`.
    static func sharedClusters(_ names: String...) -> SharedClusters { SharedClusters(names: names) }
}

/// Installs the kinds of resources that Manifests define, and waits until they are served.
func installResources(_ cluster: TestCluster) async throws {
    for file in ["volumes", "members", "migrations", "takeovers"] {
        let path = "\(ClusterTests.root)/Manifests/base/\(file).yaml"
        let applied = try await cluster.kubectl(["apply", "-f", path])
        try #require(applied.exit.isSuccess, "\(applied.output)")
        let served = try await cluster.kubectl([
            "wait", "--for=condition=Established", "--timeout=60s", "crd/\(file).godwit.dev",
        ])
        try #require(served.exit.isSuccess, "\(served.output)")
    }
}

/// Waits until something holds.
func eventually(
    _ what: String, limit: Duration = .seconds(60), _ condition: () async throws -> Bool
) async throws {
    let deadline = ContinuousClock.now + limit
    while try await !condition() {
        guard ContinuousClock.now < deadline else { throw LabError.tooSlow(what, limit: limit) }
        try await Task.sleep(for: .milliseconds(100))
    }
}

/// A namespace, which types of the product do not need.
struct Namespace: KubernetesResource {
    static let resource = ResourceKind(
        group: "", version: "v1", kind: "Namespace", plural: "namespaces", isNamespaced: false)
    var metadata: ObjectMeta
}

/// A small object to play with.
struct ConfigMap: KubernetesResource {
    static let resource = ResourceKind(
        group: "", version: "v1", kind: "ConfigMap", plural: "configmaps", isNamespaced: true)
    var metadata: ObjectMeta
    var data: [String: String]?
}
