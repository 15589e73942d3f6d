import Foundation
import KubernetesAPI
import Synchronization
import Testing

@testable import TestBed

extension ClusterTests {
    @Suite struct ClientTests {
        @Test func objectsAreMadeReadChangedAndDeleted() async throws {
            try await withCluster { cluster, client, _ in
                let map = ConfigMap(
                    metadata: ObjectMeta(name: "one", namespace: "default"), data: ["a": "1", "b": "2"])
                let made = try await client.create(map)
                #expect(made.metadata.uid != nil)
                try await expect("already there", { if case .alreadyExists = $0 { true } else { false } }) {
                    () async throws(KubernetesError) in _ = try await client.create(map)
                }
                // Of two changes of the same version the second is refused.
                var first = made
                first.data = ["a": "3"]
                let changed = try await client.update(first)
                #expect(changed.data == ["a": "3"])
                try await expect("a conflict", { if case .conflict = $0 { true } else { false } }) {
                    () async throws(KubernetesError) in _ = try await client.update(first)
                }
                let merged = try await client.patch(
                    ConfigMap.self, "one", in: "default",
                    ["data": ["a": .null, "c": "4"], "metadata": ["labels": ["k": "v"]]])
                #expect(merged.data == ["c": "4"])
                let applied = try await client.patch(
                    ConfigMap.self, "two", in: "default", ["data": ["x": "y"]],
                    as: .apply(manager: "test", force: true))
                #expect(applied.data == ["x": "y"])
                // A dry run is judged and not kept.
                let dry = ConfigMap(metadata: ObjectMeta(name: "dry", namespace: "default"), data: nil)
                _ = try await client.create(dry, dryRun: true)
                #expect(try await client.find(ConfigMap.self, "dry", in: "default") == nil)
                try await client.delete(ConfigMap.self, "one", in: "default", uid: made.metadata.uid)
                try await client.delete(ConfigMap.self, "one", in: "default")
                try await expect("not found", { if case .notFound = $0 { true } else { false } }) {
                    () async throws(KubernetesError) in
                    _ = try await client.get(ConfigMap.self, "one", in: "default")
                }
                let invalid = ConfigMap(
                    metadata: ObjectMeta(name: "No Name", namespace: "default"), data: nil)
                try await expect("invalid", { if case .invalid = $0 { true } else { false } }) {
                    () async throws(KubernetesError) in _ = try await client.create(invalid)
                }
            }
        }

        @Test func listsComeInPagesAndByLabel() async throws {
            try await withCluster { _, client, _ in
                for number in 0..<25 {
                    _ = try await client.create(
                        ConfigMap(
                            metadata: ObjectMeta(
                                name: "map-\(number)", namespace: "default",
                                labels: ["parity": number % 2 == 0 ? "even" : "odd"]), data: nil))
                }
                let all = try await client.list(
                    ConfigMap.self, in: "default", labels: "parity", pageSize: 7)
                #expect(all.items.count == 25)
                #expect(Set(all.items.map(\.metadata.name)).count == 25)
                let odd = try await client.list(ConfigMap.self, labels: "parity=odd", pageSize: 5)
                #expect(odd.items.count == 12)
            }
        }

        @Test func everyWayToSignInWorksAndAnotherAuthorityIsRefused() async throws {
            try await withCluster { cluster, _, _ in
                // It connects again and again until then.
                var brief = KubernetesClient.Options()
                brief.attempts = 1
                brief.headTimeout = .seconds(2)
                let options = brief
                func names(_ connection: ClusterConnection) async throws -> Int {
                    let client = try KubernetesClient(connection)
                    let result: Result<Int, any Error>
                    do {
                        result = .success(try await client.list(Namespace.self).items.count)
                    } catch {
                        result = .failure(error)
                    }
                    await client.close()
                    return try result.get()
                }
                #expect(try await names(.kubeconfig(path: cluster.certificateKubeconfig)) > 0)
                // A name that its certificate has, and nobody resolves.
                let path = cluster.directory + "/named.kubeconfig"
                try cluster.kubeconfigText(user: "token: admin-token")
                    .replacingOccurrences(
                        of: "    server:", with: "    tls-server-name: kubernetes.default.svc\n    server:"
                    ).write(toFile: path, atomically: true, encoding: .utf8)
                #expect(try await names(.kubeconfig(path: path)) > 0)
                // As somebody else, who may nothing.
                try cluster.kubeconfigText(user: "token: admin-token\n    as: jane")
                    .write(toFile: path, atomically: true, encoding: .utf8)
                let jane = try ClusterConnection.kubeconfig(path: path)
                await #expect { _ = try await names(jane) } throws: { "\($0)".contains(#""jane""#) }
                // As a pod finds it; kubelet replaces the token while the client lives.
                let pod = cluster.directory + "/pod"
                try FileManager.default.createDirectory(atPath: pod, withIntermediateDirectories: true)
                try FileManager.default.copyItem(atPath: cluster.authorityPath, toPath: pod + "/ca.crt")
                try "wrong\n".write(toFile: pod + "/token", atomically: true, encoding: .utf8)
                let inCluster = try ClusterConnection.inCluster(
                    environment: [
                        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
                        "KUBERNETES_SERVICE_PORT": String(cluster.port),
                    ], directory: pod)
                let client = try KubernetesClient(inCluster)
                try await expect("unauthorized", { if case .unauthorized = $0 { true } else { false } }) {
                    () async throws(KubernetesError) in _ = try await client.list(Namespace.self)
                }
                try "admin-token\n".write(toFile: pod + "/token", atomically: true, encoding: .utf8)
                #expect(try await client.list(Namespace.self).items.isEmpty == false)
                await client.close()
                // Another authority than the server's: no byte of a request is sent.
                let stranger = try Data(contentsOf: URL(fileURLWithPath: cluster.directory + "/ca.crt"))
                let wrong = try ClusterConnection(
                    server: cluster.serverURL, authorityPEM: Array(stranger),
                    credential: .token("admin-token"))
                let deceived = try KubernetesClient(wrong, options: options)
                try await expect("unreachable", { if case .unreachable = $0 { true } else { false } }) {
                    () async throws(KubernetesError) in _ = try await deceived.list(Namespace.self)
                }
                await deceived.close()
            }
        }

        /// A server that has started again may not know the place any more; one that does is asked to go on from there, which
        /// `ScriptedClientTests` shows.
        @Test func aWatchGoesOnAfterTheServerDied() async throws {
            try await withCluster { cluster, client, _ in
                let seen = Shared<Set<String>>([])
                let lists = Shared(0)
                let interruptions = Shared<[String]>([])
                func make(_ name: String) async throws {
                    _ = try await client.create(
                        ConfigMap(metadata: ObjectMeta(name: name, namespace: "default"), data: nil))
                }
                try await make("before")
                let watching = Task {
                    try await client.follow(
                        ConfigMap.self, in: "default", session: .seconds(3),
                        failed: { error in interruptions.withLock { $0.append("\(error)") } }
                    ) { change in
                        switch change {
                        case .replaced(let items):
                            lists.withLock { $0 += 1 }
                            seen.withLock { $0 = Set(items.compactMap(\.metadata.name)) }
                        case .applied(let item):
                            _ = seen.withLock { $0.insert(item.metadata.name ?? "") }
                        case .deleted(let item):
                            _ = seen.withLock { $0.remove(item.metadata.name ?? "") }
                        }
                    }
                }
                defer { watching.cancel() }
                func sees(_ name: String) -> Bool {
                    seen.withLock { $0.contains(name) }
                }
                try await eventually("the first list") { sees("before") }
                try await make("after")
                try await eventually("a change") { sees("after") }
                try await client.delete(ConfigMap.self, "before", in: "default")
                try await eventually("a deletion") { !sees("before") }
                #expect(lists.withLock { $0 } == 1)

                await cluster.killServer()
                try await eventually("the interruption") { interruptions.withLock { !$0.isEmpty } }
                try await cluster.startServer()
                try await make("during")
                try await eventually("a change after the restart", limit: .seconds(90)) { sees("during") }
                watching.cancel()
                _ = try? await watching.value
            }
        }

        @Test func anEventIsCountedAndDescribed() async throws {
            try await withCluster { cluster, client, _ in
                let claim = try await client.create(
                    PersistentVolumeClaim(
                        metadata: ObjectMeta(name: "data", namespace: "default"),
                        spec: .init(
                            accessModes: ["ReadWriteOnce"], storage: "1Gi", storageClassName: "godwit")))
                let recorder = EventRecorder(client, component: "godwit")
                for _ in 0..<3 {
                    try await recorder.record("BadValue", "'mars' is no site", about: claim, isWarning: true)
                }
                let events = try await client.list(Event.self, in: "default").items
                let ours = events.filter { $0.reason == "BadValue" }
                #expect(ours.count == 1 && ours.first?.count == 3)
                let described = try await cluster.kubectl(["describe", "pvc", "data"])
                #expect(described.output.contains("'mars' is no site"), "\(described.output)")
            }
        }

        @Test func ofTwoCandidatesOneLeadsAndTheOtherFollowsIt() async throws {
            try await withCluster { cluster, client, _ in
                let leading = Shared<Set<String>>([])
                let together = Shared(false)
                func candidate(_ name: String) -> Task<Void, any Error> {
                    Task {
                        let elector = LeaderElector(
                            client, namespace: "default", name: "controller", identity: name,
                            duration: .seconds(6))
                        try await elector.run {
                            leading.withLock { set in
                                set.insert(name)
                                if set.count > 1 { together.withLock { $0 = true } }
                            }
                            defer { _ = leading.withLock { $0.remove(name) } }
                            try await Task.sleep(for: .seconds(600))
                        }
                    }
                }
                let first = candidate("a")
                try await eventually("a leads") { leading.withLock { $0 == ["a"] } }
                let second = candidate("b")
                try await Task.sleep(for: .seconds(3))
                #expect(leading.withLock { $0 } == ["a"])
                first.cancel()
                _ = await first.result
                // It is given up, so that the other need not wait for its end.
                let lease = try await client.get(Lease.self, "controller", in: "default")
                #expect(lease.spec.holderIdentity != "a")
                try await eventually("b leads") { leading.withLock { $0 == ["b"] } }
                // The server is away for longer than the lease: it stops leading, and leads again.
                await cluster.killServer()
                try await eventually("b steps down") { leading.withLock { $0.isEmpty } }
                try await cluster.startServer()
                try await eventually("b leads again", limit: .seconds(90)) {
                    leading.withLock { $0 == ["b"] }
                }
                #expect(together.withLock { !$0 })
                second.cancel()
                _ = try? await second.value
                _ = try? await first.value
            }
        }
    }
}

/// A value that several tasks look at.
final class Shared<Value: Sendable>: Sendable {
    private let value: Mutex<Value>

    init(_ value: Value) { self.value = Mutex(value) }

    func withLock<Result: Sendable>(_ body: @Sendable (inout Value) -> Result) -> Result {
        value.withLock { (value: inout sending Value) in body(&value) }
    }
}

/// Expects a particular refusal.
func expect(
    _ what: String, _ matches: (KubernetesError) -> Bool,
    _ body: () async throws(KubernetesError) -> Void, sourceLocation: SourceLocation = #_sourceLocation
) async throws {
    do throws(KubernetesError) {
        try await body()
        Issue.record("\(what) was expected", sourceLocation: sourceLocation)
    } catch {
        #expect(matches(error), "\(what) was expected, not \(error)", sourceLocation: sourceLocation)
    }
}
