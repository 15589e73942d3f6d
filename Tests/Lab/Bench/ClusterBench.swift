internal import ClusterResources
internal import Foundation
internal import Glibc
internal import KubernetesAPI
internal import TestBed

/// Workload 12: a site and a controller in a cluster of many volumes and claims, under the rights that Manifests grant.
///
/// The API server and etcd are real; claims and persistent volumes are objects that nobody uses.
struct ClusterBench: Sendable {
    let plan: BenchPlan

    private static let namespace = "bench"
    /// How many objects are made at once.
    private static let width = 8

    private struct Scene {
        let cluster: TestCluster
        let client: KubernetesClient
        let site: SiteProcess
        let directory: String
    }

    /// What two processes and the API server did in some time.
    private struct Load {
        let requestsAMinute: Double
        let siteProcessor: Double
        let controllerProcessor: Double
        let siteByteCount: UInt64
        let controllerByteCount: UInt64
    }

    func run() async throws -> BenchSection {
        try await Cleanup.scope { cleanup in
            let scene = try await begin(cleanup)
            do {
                return try await measure(scene, cleanup)
            } catch {
                let log = (try? String(contentsOfFile: scene.site.logPath, encoding: .utf8)) ?? ""
                throw LabError.invalid("\(error)\n\(log.suffix(2000))")
            }
        }
    }

    private func begin(_ cleanup: Cleanup) async throws -> Scene {
        let cluster = try await TestCluster.start("bench", cleanup)
        for arguments in [
            ["apply", "-k", "Manifests/base"],
            ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"],
            ["create", "namespace", Self.namespace],
        ] {
            let done = try await cluster.kubectl(arguments)
            guard done.exit.isSuccess else {
                throw LabError.invalid("kubectl \(arguments), in the project's directory: \(done.output)")
            }
        }
        let directory = try cleanup.makeTemporaryDirectory()
        let site = SiteProcess(
            name: "london", binary: plan.binary, stateDirectory: directory + "/state", address: "127.0.0.1:0",
            options: ["--registry", try await cluster.accountKubeconfig("godwit-site")])
        try await site.initialise()
        try cleanup.add("site", limit: .seconds(120)) { await site.stop() }
        let client = try KubernetesClient(.kubeconfig(path: cluster.kubeconfig))
        try cleanup.add("client") { await client.close() }
        return Scene(cluster: cluster, client: client, site: site, directory: directory)
    }

    private func measure(_ scene: Scene, _ cleanup: Cleanup) async throws -> BenchSection {
        let (volumes, claims) = (plan.clusterVolumeCount, plan.clusterClaimCount)
        plan.note("a cluster of \(volumes) volumes and \(claims) claims")
        let idle = try await requestsAMinute(scene)
        try await scene.site.start()
        let making = ContinuousClock.now
        let ids = try await makeVolumes(volumes, scene)
        let madeIn = (ContinuousClock.now - making).seconds
        try await makeClaims(claims, ids, scene)
        let controller = try await startController(scene, cleanup)
        let first = ContinuousClock.now
        try await waitForChange(of: 1, scene)
        let firstReaction = (ContinuousClock.now - first).seconds
        let quiet = try await load(scene, controller, besides: idle)
        plan.note("annotations on \(volumes) claims")
        try await eachOf(0..<volumes) { index in
            try await annotate(index, [ClaimWishes.rateLimit: "50Mi"], scene)
        }
        let second = ContinuousClock.now
        try await waitForChange(of: volumes - 1, scene)
        let secondReaction = (ContinuousClock.now - second).seconds
        let annotated = try await load(scene, controller, besides: idle)
        await scene.site.stop()
        let starting = ContinuousClock.now
        try await scene.site.start(limit: .seconds(300))
        let startedIn = (ContinuousClock.now - starting).seconds
        var section = BenchSection(12, "A cluster of \(volumes) volumes and \(claims) claims")
        section.rows = [
            BenchRow(
                "a volume made by the command line, mean of all",
                BenchText.seconds(madeIn * Double(Self.makers) / Double(volumes)), value: madeIn),
            BenchRow(
                "annotation to its effect, at the controller's start", BenchText.seconds(firstReaction),
                value: firstReaction),
            BenchRow(
                "annotation to its effect, all volumes annotated at once", BenchText.seconds(secondReaction),
                value: secondReaction),
        ]
        section.rows += rows(of: quiet, "at rest") + rows(of: annotated, "at rest, each claim annotated")
        section.rows.append(
            BenchRow("start of the site", BenchText.seconds(startedIn), value: startedIn))
        return section
    }

    private func rows(of load: Load, _ when: String) -> [BenchRow] {
        [
            BenchRow(
                "API requests a minute, \(when)", fixed(load.requestsAMinute, 0), value: load.requestsAMinute),
            BenchRow(
                "memory, \(when): controller", BenchText.size(load.controllerByteCount),
                value: Double(load.controllerByteCount), aim: .atMost(128e6, "128 MB")),
            BenchRow(
                "memory, \(when): site", BenchText.size(load.siteByteCount),
                value: Double(load.siteByteCount),
                aim: .atMost(256e6, "256 MB")),
            BenchRow(
                "of a processor, \(when): controller", "\(fixed(load.controllerProcessor * 100, 1)) %",
                value: load.controllerProcessor, aim: .atMost(0.02, "2 %")),
            BenchRow(
                "of a processor, \(when): site", "\(fixed(load.siteProcessor * 100, 1)) %",
                value: load.siteProcessor, aim: .atMost(0.02, "2 %")),
        ]
    }

    // MARK: what is there

    private static let makers = 4

    /// - Returns: their identifiers.
    private func makeVolumes(_ count: Int, _ scene: Scene) async throws -> [String] {
        try await eachOf(0..<count, width: Self.makers) { index in
            try await scene.site.godwit(["volume", "create", "v-\(index)", "--capacity", "1Gi"])
        }
        let text = try await scene.site.godwit(["volume", "list", "--json"])
        guard let list = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [[String: Any]] else {
            throw LabError.invalid("no JSON array: \(text.prefix(200))")
        }
        var ids: [String: String] = [:]
        for volume in list {
            if let name = volume["name"] as? String, let id = volume["id"] as? String { ids[name] = id }
        }
        return try (0..<count).map { index in
            guard let id = ids["v-\(index)"] else { throw LabError.invalid("volume v-\(index) is not there") }
            return id
        }
    }

    /// The first of them are the volumes'; the others are of somebody else's driver.
    private func makeClaims(_ count: Int, _ ids: [String], _ scene: Scene) async throws {
        try await eachOf(0..<count) { index in
            let isOurs = index < ids.count
            _ = try await scene.client.create(
                PersistentVolume(
                    metadata: ObjectMeta(name: "pv-\(index)"),
                    spec: .init(
                        storage: "1Gi", accessModes: ["ReadWriteOnce"],
                        csi: .init(
                            driver: isOurs ? ClusterNames.driver : "disks.example.org",
                            volumeHandle: isOurs ? ids[index] : "disk-\(index)"),
                        claim: .init(namespace: Self.namespace, name: "data-\(index)"),
                        reclaimPolicy: "Retain",
                        storageClassName: "any")))
            var metadata = ObjectMeta(name: "data-\(index)", namespace: Self.namespace)
            if index == 1 { metadata.annotations = [ClaimWishes.rateLimit: "40Mi"] }
            _ = try await scene.client.create(
                PersistentVolumeClaim(
                    metadata: metadata,
                    spec: .init(
                        accessModes: ["ReadWriteOnce"], storage: "1Gi", storageClassName: "any",
                        volumeName: "pv-\(index)")))
        }
    }

    private func annotate(_ index: Int, _ annotations: [String: String], _ scene: Scene) async throws {
        let values = annotations.mapValues { JSONValue.string($0) }
        _ = try await scene.client.patch(
            PersistentVolumeClaim.self, "data-\(index)", in: Self.namespace,
            ["metadata": ["annotations": .object(values)]])
    }

    /// Waits until the site knows what the claim's annotation says.
    private func waitForChange(of index: Int, _ scene: Scene) async throws {
        let deadline = ContinuousClock.now + .seconds(300)
        while try await scene.site.number("hydrationBytesPerSecond", of: "v-\(index)") == 0 {
            guard ContinuousClock.now < deadline else {
                throw LabError.invalid("nothing becomes of the annotation of data-\(index)")
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    private func eachOf(
        _ range: Range<Int>, width: Int = Self.width, _ body: @escaping @Sendable (Int) async throws -> Void
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in range {
                if index >= range.lowerBound + width { try await group.next() }
                group.addTask { try await body(index) }
            }
            try await group.waitForAll()
        }
    }

    // MARK: what it costs

    private func startController(_ scene: Scene, _ cleanup: Cleanup) async throws -> Int32 {
        var program = Program(
            plan.binary,
            [
                "controller", "--state-dir", scene.site.stateDirectory, "--kubeconfig",
                try await scene.cluster.accountKubeconfig("godwit-controller"),
            ])
        program.output = .file(scene.directory + "/controller.log")
        let started = try await ChildProcess.start(program)
        try cleanup.add("controller") { _ = await started.end(grace: .seconds(10)) }
        return started.pid
    }

    private func load(_ scene: Scene, _ controller: Int32, besides idle: Double) async throws -> Load {
        let site = try await BenchMachine.pid(of: scene.site)
        // What was begun ends first.
        try await Task.sleep(for: .seconds(10))
        let before = (
            try BenchMachine.processorSeconds(site), try BenchMachine.processorSeconds(controller),
            ContinuousClock.now
        )
        let requests = try await requestsAMinute(scene)
        let seconds = (ContinuousClock.now - before.2).seconds
        return Load(
            requestsAMinute: max(0, requests - idle),
            siteProcessor: (try BenchMachine.processorSeconds(site) - before.0) / seconds,
            controllerProcessor: (try BenchMachine.processorSeconds(controller) - before.1) / seconds,
            siteByteCount: try BenchMachine.residentByteCount(site),
            controllerByteCount: try BenchMachine.residentByteCount(controller))
    }

    private func requestsAMinute(_ scene: Scene) async throws -> Double {
        let (start, first) = (ContinuousClock.now, try await requestCount(scene))
        try await Task.sleep(for: .seconds(plan.isQuick ? 20 : 60))
        let count = try await requestCount(scene) - first
        return count / (ContinuousClock.now - start).seconds * 60
    }

    /// All that the API server has answered since its start.
    private func requestCount(_ scene: Scene) async throws -> Double {
        let done = try await scene.cluster.kubectl(["get", "--raw", "/metrics"])
        guard done.exit.isSuccess else { throw LabError.invalid("the API server's metrics: \(done.output)") }
        return done.output.split(separator: "\n").filter { $0.hasPrefix("apiserver_request_total{") }
            .compactMap { $0.split(separator: " ").last.flatMap { Double($0) } }.reduce(0, +)
    }
}
