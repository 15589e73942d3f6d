import Foundation
import Testing

@testable import TestBed

extension ClusterTests {
    @Suite(.enabled(if: geteuid() == 0, "sites need root")) struct SiteRegistryTests {
        /// As its service account, with exactly the rights that Manifests grant.
        @Test func aSiteKeepsItsVolumesInTheClusterAndFindsThemAfterKill9() async throws {
            try await withCluster(.manifests) { cluster, _, cleanup in
                let token = try await cluster.serviceAccountToken("godwit-site", in: "godwit")
                let path = cluster.directory + "/site.kubeconfig"
                try cluster.kubeconfigText(user: "token: \(token)")
                    .write(toFile: path, atomically: true, encoding: .utf8)
                let site = SiteProcess(
                    name: "london", binary: godwitBinary, stateDirectory: cluster.directory + "/state",
                    address: "127.0.0.1:\(try freePort())", options: ["--registry", path])
                try await site.initialise()
                try cleanup.add("site", limit: .seconds(40)) { await site.stop() }
                try await site.start()
                try await site.godwit(["volume", "create", "kept", "--capacity", "1Gi"])
                try await site.godwit(["volume", "create", "dropped", "--capacity", "1Gi"])
                try await site.csi([
                    "publish", try await identifier("kept", at: site), "--node", "london-node",
                ])
                let table = try await cluster.kubectl(["get", "volumes.godwit.dev"])
                #expect(table.output.contains("london-node"), "\(table.output)")
                await site.kill()
                try await site.start()
                try await site.godwit(["volume", "delete", "dropped"])
                #expect(try await site.inspect("kept")["role"] as? String == "owning")
                let after = try await cluster.kubectl(["get", "volumes.godwit.dev", "-o", "name"])
                #expect(after.output.contains("kept") && !after.output.contains("dropped"), "\(after.output)")
            }
        }

        private func identifier(_ volume: String, at site: SiteProcess) async throws -> String {
            try #require(try await site.inspect(volume)["id"] as? String)
        }
    }
}
