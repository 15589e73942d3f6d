import Foundation

@testable import TestBed

/// A node of a test cluster: a real kubelet with containerd and runc, in namespaces of its own.
///
/// It has the machine's network. Its name is that of the cluster, and `-node`, as `SiteProcess` calls it.
struct KubeletNode: Sendable {
    /// Why this machine cannot be a node; nil when it can.
    static let obstacle: String? = findObstacle()

    let name: String
    let directory: String
    /// As the machine counts it.
    let firstProcess: Int32

    var kubeletDirectory: String { directory + "/kubelet" }
    /// Runs the command that follows on the node.
    var launcher: [String] { [Self.script, "enter", String(firstProcess)] }

    private static let script = ClusterTests.root + "/Tests/ClusterTests/node"
    private static let hierarchies = "/sys/fs/cgroup"

    private static func findObstacle() -> String? {
        guard geteuid() == 0 else { return "a node needs root" }
        for program in ["kubelet", "kube-controller-manager"]
        where TestCluster.program(program) == nil {
            return "\(program) is missing: run Tests/install-kubernetes"
        }
        for program in ["containerd", "ctr", "runc", "busybox", "unshare", "nsenter"] {
            do { _ = try Program(program).path() } catch { return "\(program) is missing" }
        }
        let version = firstLine(of: "containerd --version")
        guard version.contains(" 1.") || version.contains(" v1.") else {
            return "this kubelet needs containerd 1: \(version)"
        }
        guard access("/dev/fuse", R_OK | W_OK) == 0 else { return "/dev/fuse is missing" }
        // This kubelet, and this test, know control groups of version 1.
        for name in ["cpu", "cpuset", "memory", "devices", "freezer", "pids"] {
            let path = "\(hierarchies)/\(name)"
            let probe = "\(path)/gw-probe-\(getpid())"
            guard access(path + "/cgroup.procs", F_OK) == 0 else {
                return "no control groups of version 1: \(path) is missing"
            }
            guard mkdir(probe, 0o755) == 0 else { return "no control group can be made in \(path)" }
            rmdir(probe)
        }
        return nil
    }

    private static func firstLine(of command: String) -> String {
        guard let stream = popen(command, "r") else { return "" }
        defer { pclose(stream) }
        var line = [CChar](repeating: 0, count: 256)
        guard fgets(&line, Int32(line.count), stream) != nil else { return "" }
        return String(
            decoding: line.prefix { $0 != 0 && $0 != 10 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Starts a node and waits until its cluster calls it ready. Everything of it goes with the cleanup.
    static func start(_ cluster: TestCluster, image: String, _ cleanup: Cleanup) async throws -> KubeletNode {
        guard let kubelet = TestCluster.program("kubelet") else { throw LabError.programMissing("kubelet") }
        let directory = try cleanup.makeTemporaryDirectory()
        let name = "\(cluster.name)-node"
        let group = "gw-\(getpid())-\(processStart(getpid()) ?? 0)-\(cluster.name)"
        removeAbandonedGroups()
        try cleanup.add("control groups of \(name)", limit: .seconds(60)) { try await removeGroup(group) }
        for path in groups(group) {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        }
        var program = Program(
            script,
            [
                "run", directory, name, kubelet, cluster.kubeconfig, cluster.directory + "/ca.crt", image,
                group, String(try freePort()),
            ])
        program.output = .file(directory + "/node.log")
        let process = try await ChildProcess.start(program)
        // A power cut: with its first process everything on it ends.
        try cleanup.add("node \(name)") { await process.end(with: SIGKILL) }
        do {
            try await eventually("the programs of \(name)", limit: .seconds(120)) {
                guard process.exit == nil else { throw LabError.invalid("node \(name) does not start") }
                return access(directory + "/started", F_OK) == 0
            }
            let children = try readSmallFile("/proc/\(process.pid)/task/\(process.pid)/children")
            let text = String(decoding: children, as: UTF8.self)
            guard let first = text.split(separator: " ").first.flatMap({ Int32($0) }) else {
                throw LabError.invalid("node \(name) has no first process")
            }
            let node = KubeletNode(name: name, directory: directory, firstProcess: first)
            try await eventually("\(name) is ready", limit: .seconds(120)) {
                guard process.exit == nil else { throw LabError.invalid("node \(name) ended") }
                let ready = #"{.status.conditions[?(@.type=="Ready")].status}"#
                let found = try await cluster.kubectl(["get", "node", name, "-o", "jsonpath=\(ready)"])
                return found.exit.isSuccess && found.output == "True"
            }
            return node
        } catch {
            throw LabError.invalid("\(error): \(logs(directory))")
        }
    }

    /// The ends of what its programs say.
    static func logs(_ directory: String) -> String {
        ["node", "import", "containerd", "kubelet"].map { name in
            let log = (try? String(contentsOfFile: "\(directory)/\(name).log", encoding: .utf8)) ?? ""
            return "\(name): \(log.suffix(2500))"
        }.joined(separator: "\n")
    }

    // MARK: control groups

    private static func groups(_ name: String) -> [String] {
        let found = (try? FileManager.default.contentsOfDirectory(atPath: hierarchies)) ?? []
        return found.map { "\(hierarchies)/\($0)" }
            .filter { access($0 + "/cgroup.procs", F_OK) == 0 }.map { "\($0)/\(name)" }
    }

    private static func removeGroup(_ name: String) async throws {
        // Processes that were killed may take a moment to go.
        try await eventually("the end of control group \(name)", limit: .seconds(50)) { remove(name) }
    }

    /// - Returns: whether nothing is left.
    private static func remove(_ name: String) -> Bool {
        var isGone = true
        for group in groups(name) where access(group, F_OK) == 0 {
            let below = FileManager.default.enumerator(atPath: group)?.compactMap { $0 as? String } ?? []
            let all = [group] + below.map { "\(group)/\($0)" }
            // The deepest first; files are the kernel's and go with their directory.
            for path in all.sorted(by: { $0.count > $1.count }) { rmdir(path) }
            if access(group, F_OK) == 0 { isGone = false }
        }
        return isGone
    }

    /// Those of test runs that were killed.
    private static func removeAbandonedGroups() {
        for entry in (try? FileManager.default.contentsOfDirectory(atPath: hierarchies + "/memory")) ?? [] {
            let parts = entry.split(separator: "-")
            guard parts.count == 4, parts[0] == "gw", let pid = Int32(parts[1]), let start = UInt64(parts[2]),
                processStart(pid) != start
            else { continue }
            _ = remove(entry)
        }
    }
}

/// The image of all pods in these tests, and of the process that holds a pod: Debian's busybox.
enum BusyboxImage {
    static let name = "godwit.test/busybox:1"

    /// Writes an archive as `docker save` would.
    static func write(in directory: String) async throws -> String {
        let script = """
            mkdir -p root/bin root/tmp root/data root/proc root/sys root/dev root/etc
            cp "$(command -v busybox)" root/bin/busybox
            for name in $(root/bin/busybox --list); do ln -s busybox "root/bin/$name" 2> /dev/null || true; done
            tar -C root --numeric-owner --owner=0 --group=0 -cf layer.tar .
            layer=$(sha256sum layer.tar | cut -d' ' -f1)
            cat > config.json <<END
            {"architecture": "$(dpkg --print-architecture)", "os": "linux",
             "config": {"Cmd": ["/bin/sleep", "2000000000"], "Env": ["PATH=/bin"]},
             "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}}
            END
            echo '[{"Config": "config.json", "RepoTags": ["\(name)"], "Layers": ["layer.tar"]}]' > manifest.json
            tar -cf busybox.tar manifest.json config.json layer.tar
            """
        var program = Program("/bin/bash", ["-ec", script])
        program.directory = directory
        try await ChildProcess.check(program)
        return directory + "/busybox.tar"
    }
}
