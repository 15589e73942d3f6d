import ClusterResources
import Foundation
import KubernetesAPI
import Testing

@testable import Cluster
@testable import TestBed

extension ClusterTests {
    @Suite(.enabled(if: geteuid() == 0, "sites need root")) struct TakeoverTests {
        /// Commands.md: "its owner's site is gone: which states are here … this site owns it, without what the owner had not told".
        @Test func anAdministratorTakesAVolumeOverThroughTheAPIServerWhenItsOwnersSiteIsGone() async throws {
            try await TwoClusters.run { both in
                let (london, sydney) = (both.london, both.sydney)
                try await both.makeNamespace(sydney)
                try await both.startController(london)
                let controller = try await both.startController(sydney)
                try await both.withMount(london) { path in
                    try "kept".write(toFile: path + "/file", atomically: false, encoding: .utf8)
                }
                try await both.annotate(london, "godwit.dev/migrate-to=sydney")
                try await both.wait(for: .ready, at: london)
                try await both.wait(forClaim: "Made")
                await london.site.kill()

                let (editor, administrator) = try await accounts(sydney)
                let denied = try await takeover(editor, [])
                #expect(!denied.exit.isSuccess && denied.output.contains("takeovers"), "\(denied.output)")
                let told = try await takeover(administrator, [])
                #expect(told.exit.isSuccess, "\(told.output)")
                for words in [
                    "owned by london at epoch 1", "followed", "--force --overrule 1 --from followed",
                ] {
                    #expect(told.output.contains(words), "\(words): \(told.output)")
                }
                #expect(try await takeovers(sydney).isEmpty, "a question leaves nothing behind")
                #expect(try await sydney.site.inspect("pvc-1")["owner"] as? String == "london")
                for (order, words) in [
                    (["--force", "--overrule", "7"], "not the one"),
                    (["--force", "--overrule", "1", "--from", "kept"], "no state 'kept'"),
                    (["--force"], "--overrule"), (["--overrule", "1"], "without --force"),
                ] {
                    let refused = try await takeover(administrator, order)
                    #expect(!refused.exit.isSuccess && refused.output.contains(words), "\(refused.output)")
                }
                #expect(try await sydney.site.inspect("pvc-1")["owner"] as? String == "london")

                let taken = try await takeover(administrator, ["--force", "--overrule-epoch", "1"])
                #expect(taken.exit.isSuccess && taken.output.contains("is owned here"), "\(taken.output)")
                let epoch = try await sydney.site.number("epoch", of: "pvc-1")
                #expect(try await sydney.site.inspect("pvc-1")["owner"] as? String == "sydney" && epoch > 1)
                // Killed after the site had done it and before it was written down: the same words again.
                _ = controller.kill()
                let order = try await orderWithoutAnswer(both)
                try await both.startController(sydney)
                try await eventually("the order's answer", limit: .seconds(90)) {
                    try await sydney.client.get(TakeoverResource.self, order).status?.phase.isLast == true
                }
                let status = try await sydney.client.get(TakeoverResource.self, order).status
                #expect(
                    status?.phase == .takenOver && status?.epoch == Int64(epoch),
                    "\(String(describing: status))")
                #expect(try await sydney.site.number("epoch", of: "pvc-1") == epoch)
                for object in ["pvc/data-0", "volumes.godwit.dev/pvc-1"] {
                    let described = try await sydney.cluster.kubectl(["describe", object, "-n", "shop"])
                    #expect(described.output.contains("TakenOver"), "\(described.output.suffix(1500))")
                }
                try await theVolumeGoesOn(both)
            }
        }

        /// A pod starts there, and the owner that returns stops by itself.
        private func theVolumeGoesOn(_ both: TwoClusters) async throws {
            try await both.london.site.start()
            try await eventually("london hears of it", limit: .seconds(90)) {
                try await both.london.site.inspect("pvc-1")["owner"] as? String == "sydney"
            }
            try await both.withMount(both.sydney) { path in
                #expect(try String(contentsOfFile: path + "/file", encoding: .utf8) == "kept")
                try "new".write(toFile: path + "/new", atomically: false, encoding: .utf8)
            }
        }

        private func takeover(_ kubeconfig: String, _ order: [String]) async throws -> ChildProcess.Outcome {
            try await ChildProcess.run(
                Program(
                    kubectlGodwitBinary,
                    ["takeover", TwoClusters.claim, "-n", TwoClusters.namespace, "--kubeconfig", kubeconfig]
                        + order), limit: .seconds(120))
        }

        private func takeovers(_ end: TwoClusters.End) async throws -> [TakeoverResource] {
            try await end.client.list(TakeoverResource.self).items.filter { $0.spec.force != true }
        }

        private func orderWithoutAnswer(_ both: TwoClusters) async throws -> String {
            var spec = TakeoverResource.Spec(volume: both.volume, claim: "shop/data-0")
            spec.force = true
            spec.overrule = 1
            return try await both.sydney.client.create(
                TakeoverResource(metadata: ObjectMeta(name: "unanswered"), spec: spec)
            ).metadata.name ?? ""
        }

        /// Who may do anything with claims, volumes and migrations, and who may take over.
        private func accounts(_ end: TwoClusters.End) async throws -> (String, String) {
            for command in [
                ["create", "serviceaccount", "editor"], ["create", "serviceaccount", "administrator"],
                [
                    "create", "clusterrole", "editor", "--verb=*",
                    "--resource=persistentvolumes,persistentvolumeclaims,volumes.godwit.dev,migrations.godwit.dev",
                ],
                [
                    "create", "clusterrolebinding", "r", "--clusterrole=editor",
                    "--serviceaccount=default:editor",
                ],
                [
                    "create", "clusterrolebinding", "t", "--clusterrole=godwit-takeover",
                    "--serviceaccount=default:administrator",
                ],
            ] {
                let made = try await end.cluster.kubectl(command)
                try #require(made.exit.isSuccess, "\(made.output)")
            }
            var paths: [String] = []
            for account in ["editor", "administrator"] {
                let token = try await end.cluster.serviceAccountToken(account, in: "default")
                let path = end.cluster.directory + "/\(account).kubeconfig"
                try end.cluster.kubeconfigText(user: "token: \(token)").write(
                    toFile: path, atomically: true, encoding: .utf8)
                paths.append(path)
            }
            return (paths[0], paths[1])
        }
    }
}
