import ClusterResources
import Foundation
import KubernetesAPI
import Testing

@testable import Cluster
@testable import TestBed

extension ClusterTests {
    /// What one test leaves behind the next one does not find.
    @Suite struct SharedClusterTests {
        private static let kinds =
            "namespaces,customresourcedefinitions,clusterroles,csidrivers,storageclasses,configmaps,"
            + "serviceaccounts,deployments,persistentvolumeclaims,events"

        private static func state(_ cluster: TestCluster) async throws -> String {
            let names = try await cluster.kubectl(["get", kinds, "--all-namespaces", "-o", "name"])
            try #require(names.exit.isSuccess, "\(names.output)")
            let labels = try await cluster.kubectl(["get", "storageclasses", "--show-labels", "--no-headers"])
            // How old they are changes.
            return names.output + labels.output.split(separator: " ").suffix(1).joined()
        }

        @Test func aClusterIsAsNewForWhoeverTakesItNext() async throws {
            let (cluster, client) = try await MigrationControllerTests.emptyCluster()
            let before = try await Self.state(cluster)
            _ = try await client.create(Namespace(metadata: ObjectMeta(name: "left")))
            _ = try await client.create(
                ConfigMap(metadata: ObjectMeta(name: "left", namespace: "left"), data: ["a": "b"]))
            _ = try await client.patch(
                StorageClass.self, "godwit", ["metadata": ["labels": ["left": "behind"]]])
            _ = try await client.create(
                PersistentVolumeClaim(
                    metadata: ObjectMeta(name: "left", namespace: "default"),
                    spec: .init(
                        accessModes: ["ReadWriteOnce"], storage: "1Gi", storageClassName: "godwit")))
            // Its protection keeps it.
            try await client.delete(PersistentVolumeClaim.self, "left", in: "default")
            for arguments in [
                ["delete", "csidriver", "csi.godwit.dev"], ["delete", "crd", "migrations.godwit.dev"],
            ] {
                let deleted = try await cluster.kubectl(arguments)
                try #require(deleted.exit.isSuccess, "\(deleted.output)")
            }
            #expect(try await Self.state(cluster) != before)
            let file = cluster.directory + "/left"
            try "behind".write(toFile: file, atomically: false, encoding: .utf8)
            await cluster.killServer()

            let (again, next) = try await MigrationControllerTests.emptyCluster()
            #expect(again === cluster)
            #expect(try await Self.state(cluster) == before)
            #expect(try await next.list(MigrationResource.self).items.isEmpty)
            #expect(!FileManager.default.fileExists(atPath: file))

            let bare = try await SharedClusters.take("london", .resources)
            #expect(try await bare.client.find(Namespace.self, "godwit") == nil)
            #expect(try await bare.client.list(MigrationResource.self).items.isEmpty)
        }
    }
}
