import ClusterResources
import Foundation
import KubernetesAPI
import SiteIdentity
import Testing
import VolumeModel

@testable import TestBed

/// Runs `kubectl-godwit` as the user of a kubeconfig.
func plugin(
    _ kubeconfig: String, _ arguments: [String], limit: Duration = .seconds(120)
) async throws -> ChildProcess.Outcome {
    try await ChildProcess.run(
        Program(kubectlGodwitBinary, arguments + ["--kubeconfig", kubeconfig]), limit: limit)
}

extension ClusterTests.ControllerTests {
    @Test func aMoveIsAskedForAndFollowedToItsEndByThePlugin() async throws {
        try await withScene { scene in
            let kubeconfig = scene.cluster.kubeconfig
            _ = try await scene.startController()
            // One watches in a log, one at a terminal.
            func watch(_ program: Program) async throws -> ChildProcess {
                let started = try await ChildProcess.start(program)
                try scene.cleanup.add("watch \(started.pid)") { _ = await started.end(grace: .seconds(5)) }
                return started
            }
            let command = [
                "migrate", "data", "--to", "sydney", "--watch", "--kubeconfig", kubeconfig,
            ]
            let inLog = try await watch(Program(kubectlGodwitBinary, command))
            let words = ([kubectlGodwitBinary] + command).joined(separator: " ")
            let atTerminal = try await watch(Program("/usr/bin/script", ["-qefc", words, "/dev/null"]))
            try await scene.wait(for: .ready)
            try await eventually("the word that it is ready") { inLog.output().contains("Normal Ready:") }
            #expect(inLog.exit == nil)
            let table = try await plugin(kubeconfig, ["status"])
            #expect(table.exit.isSuccess && table.output.contains("Ready"), "\(table.output)")

            try await scene.sites.sydney.csi(["publish", scene.volume, "--node", "sydney-node"])
            #expect(try await inLog.wait(limit: .seconds(120)).isSuccess, "\(inLog.output())")
            let log = inLog.output()
            #expect(log.contains("persistentvolumeclaim/data is to move to sydney"), "\(log)")
            #expect(log.contains("Ready: site sydney follows"), "\(log)")
            #expect(log.contains("100% resident  Done"), "\(log)")
            #expect(!log.contains("\u{1b}"), "\(log)")
            #expect(try await atTerminal.wait(limit: .seconds(120)).isSuccess, "\(atTerminal.output())")
            let screen = atTerminal.output()
            #expect(screen.contains("\r\u{1b}[K[==============================] 100%"), "\(screen)")

            let status = try await plugin(kubeconfig, ["status", "data"])
            #expect(status.output.contains("Done, from london to sydney"), "\(status.output)")
            #expect(status.output.contains("every byte is at site sydney"), "\(status.output)")
            let json = try await plugin(kubeconfig, ["status", "-A", "-o", "json"])
            let all = try JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [[String: Any]]
            #expect(all?.first?["volumeID"] as? String == scene.volume, "\(json.output)")
        }
    }

    @Test func whatCannotBeFollowedEndsTheWatchWithItsReason() async throws {
        try await withScene { scene in
            let kubeconfig = scene.cluster.kubeconfig
            for (arguments, words) in [
                (["migrate", "none", "--to", "sydney"], "not found"),
                (["migrate", "data", "--to", "No/Site"], "is no site's name"),
                (["status", "none"], "not found"),
                (["status", "data", "-A"], "--all-namespaces"),
                (["migrate", "data", "--to", "sydney", "--context", "other"], "no context 'other'"),
            ] {
                let refused = try await plugin(kubeconfig, arguments)
                #expect(!refused.exit.isSuccess && refused.output.contains(words), "\(refused.output)")
            }
            #expect(try await scene.migration() == nil)
            _ = try await scene.startController()
            let mars = try await plugin(kubeconfig, ["migrate", "data", "--to", "mars", "--watch"])
            #expect(!mars.exit.isSuccess, "\(mars.output)")
            #expect(
                mars.output.contains("mars") && mars.output.contains("'kubectl godwit trust' its"),
                "\(mars.output)")
            let doctor = try await plugin(kubeconfig, ["doctor", "--all"])
            #expect(!doctor.exit.isSuccess)
            #expect(doctor.output.contains("migration default/data to mars failed"), "\(doctor.output)")
            #expect(doctor.output.contains("leads\n"), "\(doctor.output)")
        }
    }
}

extension ClusterTests {
    @Suite struct PluginTests {
        @Test func theDoctorNamesWhatIsMissingAndIsContentWhenNothingIs() async throws {
            try await withCluster { cluster, client, _ in
                _ = try await cluster.kubectl(["delete", "crd", "migrations.godwit.dev"])
                let bare = try await plugin(cluster.kubeconfig, ["doctor", "--all"])
                #expect(!bare.exit.isSuccess)
                for words in [
                    "custom resource migrations.godwit.dev is not there",
                    "CSIDriver csi.godwit.dev is not there",
                    "deployment godwit/godwit-controller is not there", "no controller leads",
                    "FAIL  secret godwit/godwit-site, the site's keys, is not there",
                    "deployment godwit/godwit-gateway is not there",
                    "service godwit/godwit-gateway is not there",
                    "ok    custom resource volumes.godwit.dev is served", "kubectl apply -k",
                    " broken, ", " checks passed\n",
                ] {
                    #expect(bare.output.contains(words), "\(words): \(bare.output)")
                }
                try await installManifests(cluster)
                try await Self.pretendToRun(cluster, client)
                try await eventually("a doctor who is content") {
                    try await plugin(cluster.kubeconfig, ["doctor"]).exit.isSuccess
                }
                // Of what is as it should be only the number is told.
                let calm = try await plugin(cluster.kubeconfig, ["doctor"]).output.split(separator: "\n")
                #expect(calm.count == 3 && !calm.contains { $0.hasPrefix("ok") }, "\(calm)")
                #expect(calm.last?.hasPrefix("1 to be looked after, ") == true, "\(calm)")
                // kubectl finds it by its name, and passes on what follows.
                var program = Program("kubectl", ["godwit", "doctor", "-o", "json"])
                let directory = URL(fileURLWithPath: kubectlGodwitBinary).deletingLastPathComponent().path
                program.environment = [
                    "PATH": directory + ":/usr/bin:/bin", "KUBECONFIG": cluster.kubeconfig,
                ]
                let content = try await ChildProcess.run(program, limit: .seconds(60))
                let findings =
                    try JSONSerialization.jsonObject(with: Data(content.output.utf8)) as? [[String: Any]]
                #expect(findings?.count ?? 0 > 10, "\(content.output)")
                #expect(findings?.contains { $0["outcome"] as? String == "broken" } == false)
                let texts = (findings ?? []).compactMap { $0["text"] as? String }
                for words in [
                    "kubelet of node node-1 has registered the driver",
                    "member node-1.london at 10.0.0.1:7443 runs \(Release.current)",
                    "secret godwit/godwit-site, the keys of site london, is there, until",
                    "certificates of 1 member: until", "site sydney is trusted",
                    "clocks of 1 member are within 1 s of the API server's",
                    "mounts and disks of 1 member: nothing is dead, lost or left over",
                    "no volume, claim or migration is left without its counterpart",
                    "mounts outlive a planned restart at every node", "godwit-gateway has no address yet",
                ] {
                    #expect(texts.contains { $0.contains(words) }, "\(words): \(texts)")
                }

                // A class whose claims cannot grow.
                #expect(!texts.contains { $0.contains("more room") }, "\(texts)")
                #expect(!texts.contains { $0.contains("storageCapacity") }, "\(texts)")
                _ = try await client.create(
                    StorageClass(metadata: ObjectMeta(name: "fixed"), provisioner: ClusterNames.driver))
                let fixed = try await plugin(cluster.kubeconfig, ["doctor"])
                #expect(fixed.exit.isSuccess, "\(fixed.output)")
                #expect(
                    fixed.output.contains("storage classes cannot be given more room: fixed\n"),
                    "\(fixed.output)")

                try await Self.makeIll(cluster, client)
                let sick = try await plugin(cluster.kubeconfig, ["doctor"])
                #expect(!sick.exit.isSuccess)
                for words in [
                    "warn  trust in site sydney: expires in 1",
                    "warn  the clock of member node-1.london is 42 s ahead of the API server's\n",
                    "FAIL  member node-1.london: a mount is served by nobody, and each use fails: pvc-1 at /mnt\n",
                    "warn  member node-1.london: data of 1 volume that the registry does not name: /x\n",
                    "FAIL  volume pvc-9 is owned by node-9.london, and there is no such member any more\n",
                ] {
                    #expect(sick.output.contains(words), "\(words): \(sick.output)")
                }
                #expect(!sick.output.contains("PRIVATE") && !sick.output.contains("BEGIN"), "\(sick.output)")

                // A container that cannot start, and a kubelet that has forgotten the driver.
                _ = try await client.patch(
                    Pod.self, "godwit-site-x", in: "godwit",
                    ["status": ["containerStatuses": [Self.container("site", waits: "ImagePullBackOff")]]],
                    subresource: "status")
                _ = try await client.patch(CSINode.self, "node-1", ["spec": ["drivers": []]])
                let ill = try await plugin(cluster.kubeconfig, ["doctor"])
                #expect(!ill.exit.isSuccess)
                #expect(ill.output.contains("container site waits: ImagePullBackOff"), "\(ill.output)")
                #expect(ill.output.contains("node-1 has not registered the driver"), "\(ill.output)")
                let member =
                    "member node-1.london at 10.0.0.1:7443: no pod of the site is ready at node node-1"
                #expect(ill.output.contains("FAIL  " + member), "\(ill.output)")
            }
        }

        @Test func aUserOfOneNamespaceSeesWhatIsTheirs() async throws {
            try await withCluster(.manifests) { cluster, client, _ in
                for command in [
                    ["create", "serviceaccount", "dev"],
                    [
                        "create", "role", "dev", "--verb=get,list,patch",
                        "--resource=persistentvolumeclaims",
                    ],
                    ["create", "rolebinding", "dev", "--role=dev", "--serviceaccount=default:dev"],
                    [
                        "create", "rolebinding", "dev-view", "--clusterrole=godwit-view",
                        "--serviceaccount=default:dev",
                    ],
                ] {
                    let made = try await cluster.kubectl(command)
                    try #require(made.exit.isSuccess, "\(made.output)")
                }
                _ = try await client.create(
                    PersistentVolumeClaim(
                        metadata: ObjectMeta(name: "data", namespace: "default"),
                        spec: .init(
                            accessModes: ["ReadWriteOnce"], storage: "1Gi", storageClassName: "godwit",
                            volumeName: "pvc-1")))
                let token = try await cluster.serviceAccountToken("dev", in: "default")
                let kubeconfig = cluster.directory + "/dev.kubeconfig"
                try cluster.kubeconfigText(user: "token: \(token)").write(
                    toFile: kubeconfig, atomically: true, encoding: .utf8)
                let asked = try await plugin(kubeconfig, ["migrate", "data", "--to", "sydney"])
                #expect(asked.exit.isSuccess, "\(asked.output)")
                let claim = try await client.get(PersistentVolumeClaim.self, "data", in: "default")
                #expect(claim.metadata.annotations?["godwit.dev/migrate-to"] == "sydney")
                let status = try await plugin(kubeconfig, ["status", "data"])
                #expect(status.exit.isSuccess && status.output.contains("sydney"), "\(status.output)")
                #expect(status.output.contains("you may not read PersistentVolumes"), "\(status.output)")
                let elsewhere = try await plugin(kubeconfig, ["status", "-n", "godwit"])
                #expect(!elsewhere.exit.isSuccess && elsewhere.output.contains("forbidden"))
                // What they may not look at is named, and is no fault.
                let doctor = try await plugin(kubeconfig, ["doctor"])
                #expect(doctor.exit.isSuccess, "\(doctor.output)")
                #expect(doctor.output.contains("?     the CSIDriver: you may not look"), "\(doctor.output)")
            }
        }

        /// Commands.md, "Rights": a cluster role and a role, for whoever looks after the site without its Secrets.
        @Test func whoHasTheDoctorsRolesSeesAllButTheSecrets() async throws {
            try await withCluster(.manifests) { cluster, _, _ in
                for command in [
                    ["create", "serviceaccount", "carer"],
                    [
                        "create", "clusterrolebinding", "doctor", "--clusterrole=godwit-doctor",
                        "--serviceaccount=default:carer",
                    ],
                    [
                        "create", "rolebinding", "doctor", "-n", "godwit", "--role=godwit-doctor",
                        "--serviceaccount=default:carer",
                    ],
                ] {
                    let made = try await cluster.kubectl(command)
                    try #require(made.exit.isSuccess, "\(made.output)")
                }
                let token = try await cluster.serviceAccountToken("carer", in: "default")
                let kubeconfig = cluster.directory + "/carer.kubeconfig"
                try cluster.kubeconfigText(user: "token: \(token)").write(
                    toFile: kubeconfig, atomically: true, encoding: .utf8)
                let doctor = try await plugin(kubeconfig, ["doctor", "--all"])
                let unknown = doctor.output.split(separator: "\n").filter { $0.hasPrefix("?") }
                #expect(unknown.count == 2, "\(doctor.output)")
                #expect(unknown.allSatisfy { $0.contains("secret godwit/godwit-") }, "\(unknown)")
                #expect(doctor.output.contains("custom resource volumes.godwit.dev is served"))
            }
        }

        /// As the kubeconfigs of cloud providers have it.
        @Test func aUserWhoSignsInByAProgramIsServed() async throws {
            try await withCluster { cluster, _, _ in
                let script = cluster.directory + "/sign-in"
                try """
                #!/bin/sh
                echo "$WHO $1 $KUBERNETES_EXEC_INFO" >> \(cluster.directory)/asked
                printf '{"kind": "ExecCredential", "status": {"token": "%s"}}' "$WHO-token"
                """.write(toFile: script, atomically: true, encoding: .utf8)
                #expect(chmod(script, 0o755) == 0)
                func doctor(_ command: String, who: String = "admin") async throws -> ChildProcess.Outcome {
                    let kubeconfig = cluster.directory + "/program.kubeconfig"
                    let exec =
                        "exec: {apiVersion: client.authentication.k8s.io/v1beta1, command: \(command), args: [now], "
                        + "env: [{name: WHO, value: \(who)}], installHint: get it somewhere}"
                    try cluster.kubeconfigText(user: exec).write(
                        toFile: kubeconfig, atomically: true, encoding: .utf8)
                    return try await plugin(kubeconfig, ["doctor", "--all"])
                }
                let good = try await doctor("./sign-in")
                #expect(good.output.contains("ok    the API server answers"), "\(good.output)")
                let asked = try String(contentsOfFile: cluster.directory + "/asked", encoding: .utf8)
                // Once for all requests, as the interface wants it.
                #expect(asked.split(separator: "\n").count == 1, "\(asked)")
                #expect(asked.hasPrefix("admin now ") && asked.contains("v1beta1"), "\(asked)")
                let other = try await doctor(script, who: "nobody")
                #expect(!other.exit.isSuccess && !other.output.contains("answers"), "\(other.output)")
                for (command, words) in [
                    ("no-such-program", "get it somewhere"), ("/bin/false", "ended with status 1"),
                    ("/bin/echo", "printed no ExecCredential"),
                ] {
                    let refused = try await doctor(command)
                    #expect(!refused.exit.isSuccess && refused.output.contains(words), "\(refused.output)")
                }
            }
        }

        private static func container(_ name: String, waits reason: String? = nil) -> JSONValue {
            [
                "name": .string(name), "ready": .bool(reason == nil), "restartCount": 0, "image": "x",
                "imageID": "x",
                "state": reason.map { ["waiting": ["reason": .string($0)]] } ?? ["running": [:]],
            ]
        }

        /// A report of a member with which nothing is wrong, but for this.
        private static func tell(
            _ client: KubernetesClient, clock: Int64 = 0, troubles: [MemberReport.Trouble] = []
        ) async throws {
            var report = MemberReport()
            report.updated = Timestamps.seconds(Date())
            report.clockSeconds = clock
            report.certificateExpires = Timestamps.seconds(Date() + 80 * 86_400)
            report.peers = [MemberReport.Peer(site: "sydney")]
            report.troubles = troubles
            _ = try await client.patch(
                MemberResource.self, "node-1", ["status": try JSONValue(encoding: report)],
                subresource: "status")
        }

        /// The document of a site whose authority ends in so many days.
        private static func document(of site: String, endingIn days: Double) throws -> String {
            let made = Date() + (days - 20 * 365) * 86_400
            return try SiteAuthority(of: try #require(SiteID(site)), now: made).trustDocument(address: nil)
        }

        /// An authority that expires, a clock that is wrong, a dead mount, and leftovers of both kinds.
        private static func makeIll(_ cluster: TestCluster, _ client: KubernetesClient) async throws {
            let peers = try await client.get(Secret.self, ClusterNames.peers, in: "godwit")
            _ = try await client.patch(
                Secret.self, ClusterNames.peers, in: "godwit",
                peers.patch("sydney.trust", try document(of: "sydney", endingIn: 15)))
            try await tell(
                client, clock: 42,
                troubles: [.init(.deadMount, ["pvc-1 at /mnt"]), .init(.unregisteredData, ["/x"])])
            let volume = """
                apiVersion: godwit.dev/v1alpha1
                kind: Volume
                metadata: {name: pvc-9}
                spec:
                  id: 00000000-0000-4000-8000-000000000009
                  summary: {owner: node-9.london}
                  members:
                    node-9.london:
                      revision: 1
                      writer: x
                      record: {name: pvc-9, capacity: 0, inodeLimit: 0, parameters: {}, headNumber: 1,
                        head: {version: 1, site: node-9.london, role: owning}, retainedHeads: {},
                        lastHeadNumber: 1, sharedWith: [], hydration: {isPaused: false}}
                """
            let made = try await cluster.kubectl(["apply", "--validate=false", "-f", "-"], input: volume)
            try #require(made.exit.isSuccess, "\(made.output)")
        }

        /// What a scheduler, kubelet and the controller manager would write of an installation that runs.
        private static func pretendToRun(_ cluster: TestCluster, _ client: KubernetesClient) async throws {
            for name in [ClusterNames.controller, ClusterNames.gateway] {
                _ = try await client.patch(
                    Deployment.self, name, in: "godwit",
                    ["status": ["replicas": 2, "availableReplicas": 2, "readyReplicas": 2]],
                    subresource: "status")
            }
            _ = try await client.patch(
                DaemonSet.self, ClusterNames.site, in: "godwit",
                [
                    "status": [
                        "desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberReady": 1,
                        "numberMisscheduled": 0,
                    ]
                ], subresource: "status")
            let objects = """
                apiVersion: v1
                kind: Pod
                metadata:
                  name: godwit-site-x
                  namespace: godwit
                  labels: {app.kubernetes.io/name: godwit, app.kubernetes.io/component: site}
                spec:
                  nodeName: node-1
                  containers: [{name: site, image: "ghcr.io/godwit/godwit:latest"}]
                ---
                apiVersion: v1
                kind: Pod
                metadata:
                  name: godwit-holder-x
                  namespace: godwit
                  labels: {app.kubernetes.io/name: godwit, app.kubernetes.io/component: holder}
                spec:
                  nodeName: node-1
                  containers: [{name: holder, image: "ghcr.io/godwit/godwit:latest"}]
                ---
                apiVersion: v1
                kind: Node
                metadata: {name: node-1}
                ---
                apiVersion: godwit.dev/v1alpha1
                kind: Member
                metadata: {name: node-1}
                spec: {site: london, id: node-1.london, address: "10.0.0.1:7443", release: \(Release.current)}
                ---
                apiVersion: storage.k8s.io/v1
                kind: CSINode
                metadata: {name: node-1}
                spec: {drivers: [{name: csi.godwit.dev, nodeID: node-1, topologyKeys: []}]}
                """
            let made = try await cluster.kubectl(["apply", "-f", "-"], input: objects)
            try #require(made.exit.isSuccess, "\(made.output)")
            for component in ["site", "holder"] {
                _ = try await client.patch(
                    Pod.self, "godwit-\(component)-x", in: "godwit",
                    ["status": ["phase": "Running", "containerStatuses": [container(component)]]],
                    subresource: "status")
            }
            _ = try await client.patch(
                Node.self, "node-1", ["status": ["conditions": [["type": "Ready", "status": "True"]]]],
                subresource: "status")
            let authority = try SiteAuthority(of: try #require(SiteID("london")))
            for (name, key, value) in [
                (ClusterNames.site, ClusterNames.authority, authority.pem),
                (ClusterNames.peers, "sydney.trust", try document(of: "sydney", endingIn: 3650)),
            ] {
                _ = try await client.create(
                    Secret(metadata: ObjectMeta(name: name, namespace: "godwit"), values: [key: value]))
            }
            try await tell(client)
            var lease = Lease(
                metadata: ObjectMeta(name: ClusterNames.controller, namespace: "godwit"), spec: .init())
            lease.spec.holderIdentity = "node-1-abc"
            lease.spec.leaseDurationSeconds = 300
            lease.spec.renewTime = Timestamps.microseconds(Date())
            _ = try await client.create(lease)
        }
    }
}
