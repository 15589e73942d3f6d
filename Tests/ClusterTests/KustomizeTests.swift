import ClusterResources
import Foundation
import KubernetesAPI
import Testing

@testable import TestBed

extension ClusterTests {
    /// What is put together out of Manifests.
    @Suite struct KustomizeTests {
        private static let manifests = ClusterTests.root + "/Manifests"

        /// What an administrator's own kustomization, of a resource and components, comes to.
        private static func build(_ resource: String, _ components: [String] = []) async throws -> String {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let directory = try cleanup.makeTemporaryDirectory()
                // Nothing absolute is taken.
                let depth = directory.split(separator: "/").count
                let up = Array(repeating: "..", count: depth).joined(separator: "/")
                func list(_ paths: [String]) -> String { paths.map { "  - \(up)\($0)\n" }.joined() }
                var text = "resources:\n" + list([resource])
                if !components.isEmpty { text += "components:\n" + list(components) }
                try text.write(
                    toFile: directory + "/kustomization.yaml", atomically: true, encoding: .utf8)
                let built = try await ChildProcess.run(Program("kubectl", ["kustomize", directory]))
                try #require(built.exit.isSuccess, "\(built.output)")
                return built.output
            }
        }

        /// Debian's kubectl has a kustomize from before there were components.
        private static func knowsComponents() async throws -> Bool {
            try await ChildProcess.run(Program("kubectl", ["version", "--client"])).output
                .contains("Kustomize Version")
        }

        @Test(.enabled("kubectl knows components", knowsComponents))
        func withoutAttachingIsAModeAndTheDoctorNamesIt() async throws {
            try await withCluster { cluster, client, _ in
                let text = try await Self.build(
                    Self.manifests + "/base", [Self.manifests + "/without-attaching"])
                let applied = try await cluster.kubectl(["apply", "-f", "-"], input: text)
                try #require(applied.exit.isSuccess, "\(applied.output.suffix(600))")
                let containers = try await cluster.kubectl([
                    "get", "deploy/godwit-controller", "-n", "godwit", "-o",
                    "jsonpath={.spec.template.spec.containers[*].name}",
                ])
                #expect(containers.output == "provisioner resizer migrations")
                let without = try await plugin(cluster.kubeconfig, ["doctor"]).output
                let mode = "ok    CSIDriver csi.godwit.dev is there; without attaching"
                #expect(without.contains(mode), "\(without)")

                // The other mode, as it is told to be changed.
                _ = try await cluster.kubectl(["delete", "csidriver", "csi.godwit.dev"])
                let base = try await cluster.kubectl(["apply", "-k", Self.manifests + "/base"])
                try #require(base.exit.isSuccess, "\(base.output.suffix(600))")
                let with = try await plugin(cluster.kubeconfig, ["doctor"]).output
                #expect(with.contains("is there; a volume is acquired when it is attached"), "\(with)")
            }
        }
    }
}
