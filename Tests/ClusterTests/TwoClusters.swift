import ClusterResources
import Foundation
import KubernetesAPI
import SiteIdentity
import Testing
import VolumeModel

@testable import Cluster
@testable import TestBed

/// Two clusters, each with an API server and an etcd of its own, a site that keeps its registry there, and a controller:
/// all of them with exactly the rights that Manifests grant.
///
/// Nothing binds claims or ends what is being deleted: tests do what the cluster's controller manager would.
///
/// Sites may have several nodes each, behind a gateway.
struct TwoClusters: Sendable {
    struct End: Sendable {
        let cluster: TestCluster
        let client: KubernetesClient
        /// Its nodes. The controller asks the first.
        let sites: [SiteProcess]
        let directory: String

        var site: SiteProcess { sites[0] }

        var name: String { cluster.name }
    }

    static let namespace = "shop"
    static let claim = "data-0"

    let london: End
    let sydney: End
    let volume: String
    let cleanup: Cleanup

    /// - Parameter nodes: how many each site has; of one it is the site itself.
    static func run(
        nodes: Int = 1, logLevel: String = "info",
        _ body: @escaping @Sendable (TwoClusters) async throws -> Void
    ) async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let london = try await start("london", nodes: nodes, logLevel, cleanup)
            let sydney = try await start("sydney", nodes: nodes, logLevel, cleanup)
            if nodes == 1 {
                try await SiteProcess.introduce(london.site, sydney.site)
            } else {
                try await introduce(london, sydney, logLevel, cleanup)
            }
            for end in [london, sydney] {
                for site in end.sites { try await site.start(limit: .seconds(60)) }
            }
            try await london.site.godwit(["volume", "create", "pvc-1", "--capacity", "1Gi"])
            let volume = try #require(try await london.site.inspect("pvc-1")["id"] as? String)
            let both = TwoClusters(london: london, sydney: sydney, volume: volume, cleanup: cleanup)
            try await both.makeClaim()
            do {
                try await body(both)
            } catch {
                await both.explain()
                throw error
            }
        }
    }

    private static func start(
        _ name: String, nodes: Int, _ logLevel: String, _ cleanup: Cleanup
    ) async throws -> End {
        let cluster = try await SharedClusters.take(name, .manifests).cluster
        let directory = try cleanup.makeTemporaryDirectory()
        let kubeconfig = try await cluster.accountKubeconfig("godwit-site")
        var sites: [SiteProcess] = []
        for number in 1...nodes {
            let address = "127.0.0.1:\(try freePort())"
            let member = [
                "--site-keys", directory + "/keys", "--peers-from", directory + "/peers", "--advertise",
                address,
            ]
            let site = SiteProcess(
                name: number == 1 ? name : "\(name)-\(number)", binary: godwitBinary,
                stateDirectory: "\(directory)/state\(number)", address: address,
                options: ["--registry", kubeconfig, "--log-level", logLevel] + (nodes == 1 ? [] : member))
            try cleanup.add("site \(site.name)", limit: .seconds(40)) { await site.stop() }
            sites.append(site)
        }
        if nodes == 1 { try await sites[0].initialise() }
        let client = try KubernetesClient(.kubeconfig(path: cluster.kubeconfig))
        try cleanup.add("client of \(name)") { await client.close() }
        return End(cluster: cluster, client: client, sites: sites, directory: directory)
    }

    /// The Secrets of two sites of several nodes, and the gateway of each.
    private static func introduce(
        _ first: End, _ second: End, _ logLevel: String, _ cleanup: Cleanup
    ) async throws {
        for (end, other) in [(first, second), (second, first)] {
            let authority = try SiteAuthority(of: try #require(SiteID(end.name)))
            let address = "127.0.0.1:\(try freePort())"
            for (path, text) in [
                ("\(end.directory)/keys/authority.pem", authority.pem),
                ("\(other.directory)/peers/\(end.name).trust", try authority.trustDocument(address: address)),
            ] {
                let directory = (path as NSString).deletingLastPathComponent
                try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
                try text.write(toFile: path, atomically: true, encoding: .utf8)
                chmod(path, 0o400)
            }
            var program = Program(
                godwitBinary,
                [
                    "gateway", "--listen", address, "--registry",
                    try await end.cluster.accountKubeconfig("godwit-gateway"), "--monitor-listen",
                    "127.0.0.1:\(try freePort())", "--log-level", logLevel,
                ])
            program.output = .file(end.directory + "/gateway.log")
            let gateway = try await ChildProcess.start(program)
            try cleanup.add("gateway of \(end.name)") { _ = await gateway.end(grace: .seconds(10)) }
        }
    }

    /// Starts `godwit controller` of one cluster.
    @discardableResult
    func startController(
        _ end: End, _ options: [String] = [], log: String = "controller.log"
    ) async throws -> ChildProcess {
        var program = Program(
            godwitBinary,
            [
                "controller", "--state-dir", end.site.stateDirectory, "--kubeconfig",
                try await end.cluster.accountKubeconfig("godwit-controller"), "--lease-seconds", "6",
            ] + options)
        program.output = .file("\(end.directory)/\(log)")
        let started = try await ChildProcess.start(program)
        try cleanup.add("controller \(end.name)") { _ = await started.end(grace: .seconds(10)) }
        return started
    }

    private func explain() async {
        for end in [london, sydney] {
            let log = try? String(contentsOfFile: end.directory + "/controller.log", encoding: .utf8)
            let status = try? await migration(end)?.status
            let volumes = try? await end.cluster.kubectl([
                "get", "volumes.godwit.dev,pv,pvc", "-A", "-o", "wide",
            ])
            Issue.record(
                "\(end.name): \(log?.suffix(2500) ?? "no log"); status \(String(describing: status)); \(volumes?.output ?? "")"
            )
        }
    }

    // MARK: what a user and the cluster's own controllers do

    /// london's claim as the provisioner and the controller manager leave it.
    private func makeClaim() async throws {
        try await makeNamespace(london)
        _ = try await london.client.create(
            PersistentVolume(
                metadata: ObjectMeta(name: "pvc-1"),
                spec: .init(
                    storage: "1Gi", accessModes: ["ReadWriteOnce"],
                    csi: .init(driver: MigrationController.driver, volumeHandle: volume),
                    claim: .init(namespace: Self.namespace, name: Self.claim), reclaimPolicy: "Delete",
                    storageClassName: "godwit")))
        _ = try await london.client.create(
            PersistentVolumeClaim(
                metadata: ObjectMeta(
                    name: Self.claim, namespace: Self.namespace,
                    labels: ["app": "postgres", "shop.example/tier": "db"]),
                spec: .init(
                    accessModes: ["ReadWriteOnce"], storage: "1Gi", storageClassName: "godwit",
                    volumeName: "pvc-1")))
    }

    func makeNamespace(_ end: End) async throws {
        _ = try await end.client.create(Namespace(metadata: ObjectMeta(name: Self.namespace)))
    }

    func annotate(_ end: End, _ annotation: String) async throws {
        let done = try await end.cluster.kubectl([
            "annotate", "--overwrite", "pvc", Self.claim, "-n", Self.namespace, annotation,
        ])
        #expect(done.exit.isSuccess, "\(done.output)")
    }

    /// The protection controllers: what is being deleted and in nobody's use goes.
    func finishDeletions(_ end: End) async throws {
        for claim in try await end.client.list(PersistentVolumeClaim.self, in: Self.namespace).items
        where claim.metadata.deletionTimestamp != nil {
            _ = try? await end.client.patch(
                PersistentVolumeClaim.self, claim.metadata.name ?? "", in: Self.namespace,
                ["metadata": ["finalizers": .null]])
        }
        for volume in try await end.client.list(PersistentVolume.self).items
        where volume.metadata.deletionTimestamp != nil {
            _ = try? await end.client.patch(
                PersistentVolume.self, volume.metadata.name ?? "", ["metadata": ["finalizers": .null]])
        }
    }

    // MARK: what there is

    func claim(_ end: End) async throws -> PersistentVolumeClaim? {
        try await end.client.find(PersistentVolumeClaim.self, Self.claim, in: Self.namespace)
    }

    func persistentVolumes(_ end: End) async throws -> [PersistentVolume] {
        try await end.client.list(PersistentVolume.self).items
    }

    func migration(_ end: End) async throws -> MigrationResource? {
        try await end.client.find(MigrationResource.self, Self.claim, in: Self.namespace)
    }

    func wait(for phase: MigrationResource.Phase, at end: End) async throws {
        try await eventually("phase \(phase.rawValue) at \(end.name)", limit: .seconds(120)) {
            try await migration(end)?.status?.phase == phase
        }
    }

    /// Waits until the migration at london says this of the claim at sydney.
    func wait(forClaim reason: String) async throws {
        try await eventually("ClaimMade for the reason \(reason)", limit: .seconds(120)) {
            let conditions = try await migration(london)?.status?.conditions
            return conditions?.first { $0.type == "ClaimMade" }?.reason == reason
        }
    }

    /// Waits until the claim says this of its move.
    func wait(forNote note: String?, at end: End) async throws {
        try await eventually("the note '\(note ?? "none")' at \(end.name)", limit: .seconds(60)) {
            try await claim(end)?.note == note
        }
    }

    // MARK: a pod

    /// What kubelet does for a pod that starts, writes or reads, and ends.
    ///
    /// - Parameter number: the node that it is scheduled to, from 1.
    func withMount(_ end: End, node number: Int = 1, _ body: (String) async throws -> Void) async throws {
        let path = "\(end.directory)/mount\(number)"
        let site = end.sites[number - 1]
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        // The attacher asks the first, wherever the pod is.
        try await end.site.csi(["publish", volume, "--node", "\(site.name)-node"])
        try await site.csi(["stage", volume, "--staging-path", path])
        let ticket = try cleanup.add(mountAt: path)
        defer { withExtendedLifetime(ticket) {} }
        try await body(path)
        try await site.csi(["unstage", volume, "--staging-path", path])
        try await end.site.csi(["unpublish", volume, "--node", "\(site.name)-node"])
    }
}

/// What limits a namespace.
struct ResourceQuota: KubernetesResource {
    static let resource = ResourceKind(
        group: "", version: "v1", kind: "ResourceQuota", plural: "resourcequotas", isNamespaced: true)
    struct Spec: Codable, Sendable { var hard: [String: String] }
    var metadata: ObjectMeta
    var spec: Spec
}
