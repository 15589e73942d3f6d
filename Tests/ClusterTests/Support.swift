import ClusterResources
import Foundation
import KubernetesAPI
import Testing

@testable import Cluster
@testable import TestBed

/// Tests against real API servers, one after the other.
@Suite(
    .serialized, .sharedClusters,
    .enabled(if: TestCluster.program != nil, "Tests/install-kubernetes builds the API server"))
enum ClusterTests {}

extension ClusterTests {
    static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path
}

/// Runs a test with a cluster, and takes everything back.
func withCluster(
    _ equipment: SharedClusters.Equipment = .resources,
    _ body: @escaping @Sendable (TestCluster, KubernetesClient, Cleanup) async throws -> Void
) async throws {
    try await Cleanup.scope(catchingSignals: false) { cleanup in
        let cluster = try await SharedClusters.take("london", equipment).cluster
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

/// Clusters that all these tests use, one test after the other, because starting one takes longer than most of them.
actor SharedClusters {
    /// What a cluster has when a test takes it.
    enum Equipment {
        /// Our kinds of resources.
        case resources
        /// All of `Manifests/base`.
        case manifests
    }

    struct Member: Sendable {
        let cluster: TestCluster
        /// An administrator's, for tests that do not kill the API server.
        let client: KubernetesClient
        fileprivate let resources: TestCluster.Contents
        fileprivate var manifests: TestCluster.Contents?
    }

    @TaskLocal fileprivate static var current: SharedClusters?

    private let cleanup: Cleanup
    private var members: [String: Member] = [:]

    fileprivate init(_ cleanup: Cleanup) { self.cleanup = cleanup }

    /// A cluster as if it were new. It is the test's until another takes it.
    static func take(_ name: String, _ equipment: Equipment) async throws -> Member {
        let clusters = try #require(current, "this is no test of ClusterTests")
        return try await clusters.take(name, equipment)
    }

    private func take(_ name: String, _ equipment: Equipment) async throws -> Member {
        var member = if let known = members[name] { known } else { try await start(name) }
        switch (equipment, member.manifests) {
        case (.resources, _):
            try await member.cluster.restore(member.resources)
        case (.manifests, let manifests?):
            try await member.cluster.restore(manifests)
        case (.manifests, nil):
            try await member.cluster.restore(member.resources)
            try await installManifests(member.cluster)
            member.manifests = try await member.cluster.contents()
        }
        members[name] = member
        return member
    }

    private func start(_ name: String) async throws -> Member {
        let cluster = try await TestCluster.start(name, cleanup)
        try await installResources(cluster)
        try await eventually("what the API server itself makes in \(name)") {
            for question in [["get", "--raw", "/readyz"], ["get", "namespace", "kube-node-lease"]] {
                guard try await cluster.kubectl(question).exit.isSuccess else { return false }
            }
            return true
        }
        let client = try KubernetesClient(.kubeconfig(path: cluster.kubeconfig))
        try cleanup.add("client of \(name)") { await client.close() }
        return Member(cluster: cluster, client: client, resources: try await cluster.contents())
    }
}

/// Keeps `SharedClusters` while a suite runs.
struct SharedClustersTrait: SuiteTrait, TestScoping {
    func provideScope(
        for test: Test, testCase: Test.Case?, performing body: @Sendable () async throws -> Void
    ) async throws {
        let cleanup = Cleanup()
        let result: Result<Void, any Error>
        do {
            result = .success(
                try await SharedClusters.$current.withValue(SharedClusters(cleanup)) { try await body() })
        } catch {
            result = .failure(error)
        }
        for failure in await cleanup.undoAll() { writeError("not cleaned up: \(failure)") }
        try result.get()
    }
}

extension Trait where Self == SharedClustersTrait {
    static var sharedClusters: SharedClustersTrait { SharedClustersTrait() }
}

/// Installs Manifests as a person would.
func installManifests(_ cluster: TestCluster) async throws {
    let applied = try await cluster.kubectl(["apply", "-k", ClusterTests.root + "/Manifests/base"])
    try #require(applied.exit.isSuccess, "\(applied.output.suffix(600))")
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

/// A small object to play with.
struct ConfigMap: KubernetesResource {
    static let resource = ResourceKind(
        group: "", version: "v1", kind: "ConfigMap", plural: "configmaps", isNamespaced: true)
    var metadata: ObjectMeta
    var data: [String: String]?
}
