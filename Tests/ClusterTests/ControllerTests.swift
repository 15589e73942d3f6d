import ClusterResources
import Foundation
import KubernetesAPI
import Testing

@testable import Cluster
@testable import TestBed

extension ClusterTests {
    /// A real cluster, a real controller under exactly the rights that Manifests grant, and two real sites.
    @Suite(.enabled(if: geteuid() == 0, "sites need root")) struct ControllerTests {
        struct Scene: Sendable {
            let cluster: TestCluster
            let client: KubernetesClient
            let sites: SitePair
            let volume: String
            let cleanup: Cleanup

            func annotate(_ annotation: String) async throws {
                let done = try await cluster.kubectl(["annotate", "--overwrite", "pvc", "data", annotation])
                #expect(done.exit.isSuccess, "\(done.output)")
            }

            func migration() async throws -> MigrationResource? {
                try await client.find(MigrationResource.self, "data", in: "default")
            }

            func wait(for phase: MigrationResource.Phase) async throws {
                try await eventually("phase \(phase.rawValue)", limit: .seconds(90)) {
                    try await migration()?.status?.phase == phase
                }
            }

            func isToldOnce(_ reason: String) async throws -> Bool {
                let events = try await client.list(Event.self, in: "default").items
                return events.filter { $0.reason == reason && ($0.count ?? 1) == 1 }.count == 1
            }

            /// Who leads the controllers, as their lease says.
            func leader() async throws -> String? {
                try await client.find(Lease.self, ClusterNames.controller, in: "godwit")?.spec.holderIdentity
            }

            /// Starts `godwit controller` at london, as its service account.
            ///
            /// - Parameters:
            ///   - number: of several at a time.
            ///   - monitor: the port of its probes and figures.
            func startController(
                _ number: Int = 1, monitor: UInt16? = nil
            ) async throws -> ChildProcess {
                let token = try await cluster.serviceAccountToken("godwit-controller", in: "godwit")
                let path = cluster.directory + "/controller.kubeconfig"
                try cluster.kubeconfigText(user: "token: \(token)")
                    .write(toFile: path, atomically: true, encoding: .utf8)
                var program = Program(
                    godwitBinary,
                    [
                        "controller", "--state-dir", sites.london.stateDirectory, "--kubeconfig", path,
                        "--lease-seconds", "6",
                    ] + (monitor.map { ["--monitor-listen", "127.0.0.1:\($0)"] } ?? []))
                program.output = .file(
                    cluster.directory + (number == 1 ? "/controller.log" : "/controller\(number).log"))
                let started = try await ChildProcess.start(program)
                try cleanup.add("controller \(number)") { _ = await started.end(grace: .seconds(10)) }
                return started
            }
        }

        func withScene(_ body: @escaping @Sendable (Scene) async throws -> Void) async throws {
            try await withCluster(.manifests) { cluster, client, cleanup in
                let sites = try await SitePair.start(binary: godwitBinary, cleanup)
                try await sites.london.godwit(["volume", "create", "pvc-1", "--capacity", "1Gi"])
                let volume = try #require(try await sites.london.inspect("pvc-1")["id"] as? String)
                try await Self.bind(volume, client)
                let scene = Scene(
                    cluster: cluster, client: client, sites: sites, volume: volume, cleanup: cleanup)
                do {
                    try await body(scene)
                } catch {
                    let log = try? String(
                        contentsOfFile: cluster.directory + "/controller.log", encoding: .utf8)
                    let status = try? await scene.migration()?.status
                    Issue.record(
                        "the controller's log: \(log?.suffix(3000) ?? "none"); status \(String(describing: status))"
                    )
                    throw error
                }
            }
        }

        /// What provisioner and the cluster's controller manager do.
        private static func bind(_ volume: String, _ client: KubernetesClient) async throws {
            _ = try await client.create(
                PersistentVolume(
                    metadata: ObjectMeta(name: "pvc-1"),
                    spec: .init(
                        storage: "1Gi", accessModes: ["ReadWriteOnce"],
                        csi: .init(driver: MigrationController.driver, volumeHandle: volume),
                        claim: .init(namespace: "default", name: "data"), reclaimPolicy: "Delete",
                        storageClassName: "godwit")))
            _ = try await client.create(
                PersistentVolumeClaim(
                    metadata: ObjectMeta(name: "data", namespace: "default"),
                    spec: .init(
                        accessModes: ["ReadWriteOnce"], storage: "1Gi", storageClassName: "godwit",
                        volumeName: "pvc-1")))
            _ = try await client.patch(
                PersistentVolumeClaim.self, "data", in: "default", ["status": ["phase": "Bound"]],
                subresource: "status")
        }

        @Test func anAnnotationPreparesTheTargetAndTheMoveIsFollowedToItsEnd() async throws {
            try await withScene { scene in
                let controller = try await scene.startController()
                try await scene.annotate("godwit.dev/migrate-to=sydney")
                try await scene.wait(for: .ready)
                let spec = try #require(try await scene.migration()?.spec)
                #expect(spec.from == "london" && spec.to == "sydney" && spec.volume == scene.volume)
                #expect(try await scene.sites.london.inspect("pvc-1")["owner"] as? String == "london")
                let waited = try await scene.cluster.kubectl([
                    "wait", "--for=condition=Ready", "--timeout=30s", "migrations.godwit.dev/data",
                ])
                #expect(waited.exit.isSuccess, "\(waited.output)")

                // A controller that is killed and started again goes on; what was told is not told twice.
                _ = controller.kill()
                _ = try await scene.startController()
                // The pod starts at sydney, which takes ownership.
                try await scene.sites.sydney.csi(["publish", scene.volume, "--node", "sydney-node"])
                try await scene.wait(for: .done)
                let status = try #require(try await scene.migration()?.status)
                #expect(status.resident == "100%", "\(status)")
                #expect(try await scene.isToldOnce("Ready"))
                let described = try await scene.cluster.kubectl(["describe", "pvc", "data"])
                #expect(described.output.contains("every byte is at site sydney"), "\(described.output)")
                let table = try await scene.cluster.kubectl(["get", "migrations"])
                #expect(table.output.contains("Done") && table.output.contains("sydney"), "\(table.output)")
            }
        }

        /// What a controller tells of itself, while its probe is content.
        private static func figures(_ port: UInt16) async throws -> String {
            for path in ["healthz", "metrics"] {
                let answer = try await ChildProcess.run(
                    Program("/usr/bin/curl", ["-sf", "http://127.0.0.1:\(port)/\(path)"]))
                if path == "metrics" || !answer.exit.isSuccess { return answer.output }
            }
            return ""
        }

        /// What two pods of the Deployment do when the node of one loses its power.
        @Test func ofTwoControllersTheOtherGoesOnWithAMoveWhenTheLeaderIsKilled() async throws {
            try await withScene { scene in
                let (port, otherPort) = (try freePort(), try freePort())
                let first = try await scene.startController(monitor: port)
                try await eventually("the first leads") { try await scene.leader()?.isEmpty == false }
                let leader = try await scene.leader()
                let second = try await scene.startController(2, monitor: otherPort)
                try await scene.annotate("godwit.dev/migrate-to=sydney")
                try await scene.wait(for: .ready)
                for words in [
                    "godwit_controller_leading 1", #"godwit_migrations{phase="Ready"} 1"#,
                    #"godwit_migrations{phase="Failed"} 0"#,
                ] {
                    try await eventually(words) { try await Self.figures(port).contains(words + "\n") }
                }
                let worked = try await Self.figures(port)
                #expect(!worked.contains(#"looks_total{outcome="moved"} 0"#), "\(worked)")
                #expect(worked.contains(#"looks_total{outcome="failed"} 0"#), "\(worked)")
                let waits = try await Self.figures(otherPort)
                #expect(waits.contains("godwit_controller_leading 0\n"), "\(waits)")
                #expect(!waits.contains("godwit_migrations"), "\(waits)")
                #expect(try await scene.leader() == leader)

                _ = first.kill(SIGKILL)
                _ = try await first.wait(limit: .seconds(10))
                try await eventually("the second leads") {
                    let now = try await scene.leader()
                    return now != leader && now?.isEmpty == false
                }
                #expect(second.exit == nil)
                try await eventually("figures of the second") {
                    try await Self.figures(otherPort).contains(#"godwit_migrations{phase="Ready"} 1"#)
                }
                // The pod starts at sydney, and the other one sees it through.
                try await scene.sites.sydney.csi(["publish", scene.volume, "--node", "sydney-node"])
                try await scene.wait(for: .done)
                try await eventually("the fulfilled annotation to go") {
                    let claim = try await scene.client.get(
                        PersistentVolumeClaim.self, "data", in: "default")
                    return claim.metadata.annotations?["godwit.dev/migrate-to"] == nil
                }
                #expect(try await scene.isToldOnce("Ready"))
                #expect(try await scene.isToldOnce("Done"))
                #expect(try await scene.sites.sydney.inspect("pvc-1")["owner"] as? String == "sydney")
            }
        }

        @Test func badValuesAreToldAndAGoodOneIsFollowedAfterThem() async throws {
            try await withScene { scene in
                _ = try await scene.startController()
                try await scene.annotate("godwit.dev/rate-limit=fast")
                try await scene.annotate("godwit.dev/migrate-to=No/Site")
                try await scene.wait(for: .failed)
                let bad = try #require(try await scene.migration()?.status)
                #expect(bad.conditions?.first { $0.type == "Validated" }?.reason == "BadValue")
                try await scene.annotate("godwit.dev/migrate-to=mars")
                try await eventually("an unknown site") {
                    try await scene.migration()?.status?.message.contains("mars") == true
                }
                try await scene.annotate("godwit.dev/rate-limit=2Mi")
                try await scene.annotate("godwit.dev/pause=true")
                try await eventually("the site's settings") {
                    let volume = try await scene.sites.london.inspect("pvc-1")
                    return volume["hydrationPaused"] as? Bool == true
                        && (volume["hydrationBytesPerSecond"] as? NSNumber)?.uint64Value == 2 << 20
                }
                try await scene.annotate("godwit.dev/migrate-to=sydney")
                try await scene.wait(for: .ready)
                let described = try await scene.cluster.kubectl(["describe", "pvc", "data"])
                #expect(described.output.contains("'fast'"), "\(described.output)")
                #expect(described.output.contains("'kubectl godwit trust' its"), "\(described.output)")
                // The wish is withdrawn.
                try await scene.annotate("godwit.dev/migrate-to-")
                try await scene.wait(for: .cancelled)
                #expect(try await scene.sites.london.inspect("pvc-1")["owner"] as? String == "london")
            }
        }
    }
}
