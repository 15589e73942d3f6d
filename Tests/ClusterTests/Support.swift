import Foundation
import KubernetesAPI
import Testing

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
