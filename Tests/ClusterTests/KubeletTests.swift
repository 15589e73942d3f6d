import Foundation
import KubernetesAPI
import Testing

@testable import TestBed

/// Two whole clusters: control plane, node with a real kubelet, site on that node, migration controller.
private struct WholeClusters: Sendable {
    struct End: Sendable {
        let cluster: TestCluster
        let node: KubeletNode
        let site: SiteProcess
    }

    /// The user of the image, and of the controller's pod in Manifests.
    private static let controllerUser = "65532"

    let london: End
    let sydney: End
    let directory: String
    /// Where sydney's controller answers probes.
    let probePort: UInt16

    static func run(_ body: @escaping @Sendable (WholeClusters) async throws -> Void) async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let directory = try cleanup.makeTemporaryDirectory()
            let image = try await BusyboxImage.write(in: directory)
            let london = try await start("london", image, cleanup)
            let sydney = try await start("sydney", image, cleanup)
            try await SiteProcess.introduce(london.site, sydney.site)
            var probePort: UInt16 = 0
            for end in [london, sydney] {
                try await end.site.start()
                let client = try KubernetesClient(.kubeconfig(path: end.cluster.kubeconfig))
                try cleanup.add("client of \(end.site.name)") { await client.close() }
                try Sidecars.start(client, end.site, node: end.node.name, cleanup)
                probePort = try await startController(end, cleanup)
            }
            let both = WholeClusters(
                london: london, sydney: sydney, directory: directory, probePort: probePort)
            do {
                try await body(both)
            } catch {
                for end in [london, sydney] { Issue.record("\(end.site.name): \(explanation(end))") }
                throw error
            }
        }
    }

    private static func start(_ name: String, _ image: String, _ cleanup: Cleanup) async throws -> End {
        let cluster = try await SharedClusters.take(name, .manifests).cluster
        try await cluster.startControllers(cleanup)
        let node = try await KubeletNode.start(cluster, image: image, cleanup)
        let directory = try cleanup.makeTemporaryDirectory()
        let kubeconfig = try await cluster.accountKubeconfig("godwit-site")
        let site = SiteProcess(
            name: name, binary: godwitBinary, stateDirectory: directory + "/state",
            address: "127.0.0.1:\(try freePort())",
            options: ["--registry", kubeconfig, "--socket-group", controllerUser],
            kubeletDirectory: node.kubeletDirectory, launcher: node.launcher)
        try await site.initialise()
        try cleanup.add("site \(name)", limit: .seconds(40)) { await site.stop() }
        return End(cluster: cluster, node: node, site: site)
    }

    /// `godwit controller` as its pod runs it: not root, and of the node's files it sees the sockets' directory alone.
    ///
    /// - Returns: the port of its probes.
    private static func startController(_ end: End, _ cleanup: Cleanup) async throws -> UInt16 {
        let port = try freePort()
        let kubeconfig = try await end.cluster.accountKubeconfig("godwit-controller")
        let script = """
            mkdir -p "$1/csi"
            touch "$1/godwit"
            mount --bind "$2/plugins/csi.godwit.dev" "$1/csi"
            mount --bind "$3" "$1/godwit"
            exec setpriv --reuid \(controllerUser) --regid \(controllerUser) --clear-groups --inh-caps=-all \
                --no-new-privs "$1/godwit" controller --control-socket "$1/csi/control.sock" \
                --kubeconfig "$4" --lease-seconds 6 --monitor-listen "127.0.0.1:$5"
            """
        let directory = try cleanup.makeTemporaryDirectory()
        var program = Program(
            "unshare",
            [
                "--mount", "/bin/bash", "-ec", script, "controller", directory, end.node.kubeletDirectory,
                godwitBinary, kubeconfig, String(port),
            ])
        program.output = .file(end.node.directory + "/controller.log")
        try cleanup.add(try await ChildProcess.start(program))
        return port
    }

    private static func explanation(_ end: End) -> String {
        let controller = try? String(
            contentsOfFile: end.node.directory + "/controller.log", encoding: .utf8)
        let site = try? String(contentsOfFile: end.site.logPath, encoding: .utf8)
        return KubeletNode.logs(end.node.directory) + "\ncontroller: \(controller?.suffix(2500) ?? "")"
            + "\nsite: \(site?.suffix(2500) ?? "")"
    }

    /// Runs `Tests/kind/scenario`.
    func play(_ workload: String) async throws -> ChildProcess.Outcome {
        var program = Program(
            ClusterTests.root + "/Tests/kind/scenario",
            [london.cluster.kubeconfig, sydney.cluster.kubeconfig, workload])
        program.environment = ["GODWIT_IMAGE": BusyboxImage.name]
        return try await ChildProcess.run(program, limit: .seconds(900))
    }
}

extension ClusterTests {
    @Suite(.enabled(if: KubeletNode.obstacle == nil, "\(KubeletNode.obstacle ?? "")"))
    struct KubeletTests {
        /// Issued by people with kubectl, done by kubelets; the same script runs against kind's clusters.
        @Test func podsOfTwoClustersHaveTheVolumeThatMovesByAnnotation() async throws {
            try await WholeClusters.run { both in
                let outcome = try await both.play("files")
                #expect(outcome.exit.isSuccess, "\(outcome.output.suffix(20_000))")
                print(outcome.output)
                try #require(outcome.exit.isSuccess)
                let probe = try await ChildProcess.check(
                    Program("/usr/bin/curl", ["-sf", "http://127.0.0.1:\(both.probePort)/healthz"]))
                #expect(probe == "ok\n")
            }
        }
    }
}
