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
                try await Sidecars.start(end.cluster, end.site, node: end.node.name, cleanup)
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

/// The mode of Manifests/without-attaching, of which KustomizeTests see that it is what is set here.
extension WholeClusters {
    private static let claim = "data-keeper-0"

    @discardableResult
    private func kubectl(_ end: End, _ arguments: [String], input: String = "") async throws -> String {
        let done = try await end.cluster.kubectl(["-n", "shop"] + arguments, input: input)
        guard done.exit.isSuccess else {
            throw LabError.invalid("kubectl \(arguments) at \(end.site.name): \(done.output)")
        }
        return done.output
    }

    private func start(_ end: End) async throws {
        let path = ClusterTests.root + "/Tests/kind/files.yaml"
        let text = try String(contentsOfFile: path, encoding: .utf8)
        try await kubectl(
            end, ["apply", "-f", "-"],
            input: text.replacingOccurrences(of: "GODWIT_IMAGE", with: BusyboxImage.name))
    }

    private func isReady(_ end: End) async throws -> Bool {
        let ready = #"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#
        return try await kubectl(end, ["get", "pod", "keeper-0", "--ignore-not-found", "-o", ready]) == "True"
    }

    private func stop(_ end: End) async throws {
        try await kubectl(end, ["delete", "statefulset", "keeper", "--wait=false"])
        try await eventually("the end of the pod at \(end.site.name)", limit: .seconds(120)) {
            try await kubectl(end, ["get", "pod", "keeper-0", "--ignore-not-found", "-o", "name"]).isEmpty
        }
    }

    private func expectNoAttachments() async throws {
        for end in [london, sydney] {
            let attachments = try await kubectl(end, ["get", "volumeattachments", "-o", "name"])
            #expect(attachments.isEmpty, "\(end.site.name): \(attachments)")
        }
    }

    /// Changes the mode of both clusters, and moves the claim that the scenario has left at london.
    func moveWithoutAttaching() async throws {
        let driver = ClusterTests.root + "/Manifests/base/csidriver.yaml"
        let text = try String(contentsOfFile: driver, encoding: .utf8)
        for end in [london, sydney] {
            try await kubectl(end, ["delete", "csidriver", "csi.godwit.dev"])
            try await kubectl(
                end, ["apply", "-f", "-"],
                input: text.replacingOccurrences(of: "attachRequired: true", with: "attachRequired: false"))
        }
        try await start(london)
        try await eventually("the pod at london", limit: .seconds(120)) { try await isReady(london) }
        try await kubectl(
            london, ["exec", "keeper-0", "--", "sh", "-c", "echo before > /data/before && sync"])
        try await expectNoAttachments()

        try await kubectl(london, ["annotate", "pvc", Self.claim, "godwit.dev/migrate-to=sydney"])
        try await eventually("the migration to be Ready", limit: .seconds(120)) {
            let phase = ["get", "migration", Self.claim, "-o", "jsonpath={.status.phase}"]
            return try await kubectl(london, phase) == "Ready"
        }
        // A pod there waits at its mount, and is told for whom.
        try await start(sydney)
        try await eventually("an Event at sydney that names london", limit: .seconds(120)) {
            try await kubectl(sydney, ["describe", "pod", "keeper-0"]).split(separator: "\n")
                .contains { $0.contains("FailedMount") && $0.contains("london") }
        }
        #expect(try await !isReady(sydney))
        try await stop(london)
        try await eventually("the pod at sydney", limit: .seconds(180)) { try await isReady(sydney) }
        let found = try await kubectl(sydney, ["exec", "keeper-0", "--", "cat", "/data/before"])
        #expect(found == "before\n")
        try await expectNoAttachments()
        try await stop(sydney)
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
                try await both.moveWithoutAttaching()
            }
        }
    }
}
