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

        /// The objects of a kustomization, each as kustomize writes it.
        private static func objects(_ text: String) -> [String] { text.components(separatedBy: "\n---\n") }

        private static func names(_ text: String) -> Set<String> {
            func line(_ object: String, _ start: String) -> Substring {
                object.split(separator: "\n").first { $0.hasPrefix(start) }?.dropFirst(start.count) ?? "?"
            }
            return Set(objects(text).map { "\(line($0, "kind: "))/\(line($0, "  name: "))" })
        }

        /// What README and Operating.md have people install, as opposed to what these tests' API server knows.
        @Test func whatIsInstalledIsTheBaseAndTheBudgetsAndAllOfItIsLabelled() async throws {
            let (whole, base) = (
                try await Self.build(Self.manifests), try await Self.build(Self.manifests + "/base")
            )
            #expect(
                Self.names(whole).subtracting(Self.names(base)) == [
                    "PodDisruptionBudget/godwit-controller", "PodDisruptionBudget/godwit-gateway",
                ])
            #expect(Self.names(base).isSubset(of: Self.names(whole)) && Self.names(base).count > 25)
            for object in Self.objects(whole) {
                for label in ["name", "instance", "part-of"] {
                    #expect(
                        object.contains("\n    app.kubernetes.io/\(label): godwit"),
                        "\(label) of \(Self.names(object))")
                }
            }
            for budget in Self.objects(whole) where budget.contains("kind: PodDisruptionBudget") {
                #expect(budget.contains("maxUnavailable: 1") && budget.contains("apiVersion: policy/v1\n"))
            }
        }

        @Test(.enabled("kubectl knows components", knowsComponents))
        func everyKustomizationIsBuilt() async throws {
            var components: [String] = []
            var count = 0
            let below = FileManager.default.enumerator(atPath: ClusterTests.root + "/Manifests")
            for case let path as String in below ?? .init() where path.hasSuffix("kustomization.yaml") {
                let directory = (Self.manifests + "/" + path as NSString).deletingLastPathComponent
                let text = try String(contentsOfFile: directory + "/kustomization.yaml", encoding: .utf8)
                count += 1
                if text.contains("\nkind: Component\n") {
                    components.append(directory)
                    let plain = try await Self.build(Self.manifests)
                    #expect(try await Self.build(Self.manifests, [directory]) != plain, "\(directory)")
                } else {
                    #expect(try await !Self.build(directory).isEmpty, "\(directory)")
                }
            }
            #expect(count == 5 && components.count == 2)
            // One does not exclude the other; and the one of kind's clusters.
            let all = try await Self.build(Self.manifests, components)
            #expect(all.components(separatedBy: "type: spc_t").count == 3)
            #expect(!all.contains("name: attacher") && all.contains("attachRequired: false"))
            let kind = try await Self.build(ClusterTests.root + "/Tests/kind")
            #expect(kind.contains("image: docker.io/library/godwit:kind") && kind.contains("nodePort: 30743"))
        }

        /// The site's pod is privileged, and of that type by itself.
        @Test(.enabled("kubectl knows components", knowsComponents))
        func whereSELinuxIsEnforcingTheSocketsUsersAreOfTheTypeThatMayUseThem() async throws {
            try await withCluster { cluster, _, _ in
                let text = try await Self.build(Self.manifests + "/base", [Self.manifests + "/selinux"])
                let applied = try await cluster.kubectl(["apply", "-f", "-"], input: text)
                try #require(applied.exit.isSuccess, "\(applied.output.suffix(600))")
                for (name, type) in [
                    ("deploy/godwit-controller", "spc_t"), ("ds/godwit-holder", "spc_t"),
                    ("ds/godwit-site", ""), ("deploy/godwit-gateway", ""),
                ] {
                    let field = "jsonpath={.spec.template.spec.securityContext.seLinuxOptions.type}"
                    let found = try await cluster.kubectl(["get", name, "-n", "godwit", "-o", field])
                    #expect(found.output == type, "\(name)")
                }
                // What the base says of users stays.
                let user = try await cluster.kubectl([
                    "get", "deploy/godwit-controller", "-n", "godwit", "-o",
                    "jsonpath={.spec.template.spec.securityContext.runAsUser}",
                ])
                #expect(user.output == "65532")
            }
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
                let without = try await plugin(cluster.kubeconfig, ["doctor", "--all"]).output
                let mode = "ok    CSIDriver csi.godwit.dev is there; without attaching"
                #expect(without.contains(mode), "\(without)")

                // The other mode, as it is told to be changed.
                _ = try await cluster.kubectl(["delete", "csidriver", "csi.godwit.dev"])
                try await installManifests(cluster)
                let with = try await plugin(cluster.kubeconfig, ["doctor", "--all"]).output
                #expect(with.contains("is there; a volume is acquired when it is attached"), "\(with)")
            }
        }
    }
}
