import Foundation
import KubernetesAPI
import Testing

@testable import TestBed

extension ClusterTests {
    @Suite struct ManifestTests {
        private static let base = ClusterTests.root + "/Manifests/base"

        /// Everything is applied as a person would; the server judges each object by its schema.
        @Test func everythingInstallsAndInstallsAgain() async throws {
            try await withCluster { cluster, _, _ in
                for _ in 0..<2 {
                    let applied = try await cluster.kubectl(["apply", "-k", Self.base])
                    #expect(applied.exit.isSuccess, "\(applied.output.suffix(600))")
                }
                let dry = try await cluster.kubectl(
                    ["apply", "-k", Self.base, "--server-side", "--force-conflicts", "--dry-run=server"])
                #expect(dry.exit.isSuccess, "\(dry.output.suffix(600))")
                let images = try await cluster.kubectl([
                    "get", "deployments,daemonsets", "-n", "godwit", "-o",
                    "jsonpath={..image}",
                ])
                // Each is named in full, from the one list.
                let names = images.output.split(separator: " ").map(String.init)
                #expect(
                    names.count == 5 && names.allSatisfy { $0.contains("/") && $0.contains(":") }, "\(names)")
            }
        }

        @Test func aServiceAccountHasTheRightsThatItNeedsAndNoOthers() async throws {
            try await withCluster { cluster, _, _ in
                let applied = try await cluster.kubectl(["apply", "-k", Self.base])
                #expect(applied.exit.isSuccess, "\(applied.output)")
                func may(_ account: String, _ verb: String, _ what: String) async throws -> Bool {
                    try await cluster.kubectl([
                        "auth", "can-i", verb, what, "-n", "default", "--as",
                        "system:serviceaccount:godwit:\(account)",
                    ]).output.contains("yes")
                }
                for (verb, what) in [("update", "volumes.godwit.dev"), ("list", "volumes.godwit.dev")] {
                    #expect(try await may("godwit-site", verb, what), "\(verb) \(what)")
                }
                for (verb, what) in [
                    ("list", "secrets"), ("list", "persistentvolumeclaims"), ("get", "pods"),
                    ("delete", "migrations.godwit.dev"), ("update", "leases.coordination.k8s.io"),
                ] {
                    #expect(try await !may("godwit-site", verb, what), "\(verb) \(what)")
                }
                for (verb, what) in [
                    ("get", "volumes.godwit.dev"), ("create", "persistentvolumes"),
                    ("create", "persistentvolumeclaims"), ("delete", "persistentvolumeclaims"),
                    ("patch", "persistentvolumeclaims"),
                ] {
                    #expect(try await may("godwit-controller", verb, what), "\(verb) \(what)")
                }
                for (verb, what) in [
                    ("get", "secrets"), ("get", "namespaces"), ("create", "pods"), ("delete", "pods"),
                    ("update", "volumes.godwit.dev"), ("update", "leases.coordination.k8s.io"),
                ] {
                    #expect(try await !may("godwit-controller", verb, what), "\(verb) \(what)")
                }
            }
        }
    }
}
