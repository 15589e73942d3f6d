internal import Foundation
internal import Glibc

/// A Kubernetes control plane without nodes: etcd and kube-apiserver as processes on loopback, with RBAC on.
///
/// `Tests/install-kubernetes` puts the programs in their place. There is no controller manager, unless `startControllers`
/// starts it: what it would do (bind a claim, make a service account's secret) a test does itself.
package actor TestCluster {
    package nonisolated let name: String
    package nonisolated let directory: String
    package nonisolated let port: UInt16
    nonisolated let etcdPort: UInt16
    private var etcd: ChildProcess?
    private var server: ChildProcess?

    /// Of an administrator, by token; of an administrator, by client certificate.
    package nonisolated var kubeconfig: String { directory + "/admin.kubeconfig" }
    package nonisolated var certificateKubeconfig: String { directory + "/certificate.kubeconfig" }
    package nonisolated var serverURL: String { "https://127.0.0.1:\(port)" }
    package nonisolated var authorityPath: String { directory + "/apiserver/apiserver.crt" }
    package nonisolated var logPath: String { directory + "/apiserver.log" }

    /// The kube-apiserver of this machine; nil when `Tests/install-kubernetes` has not run.
    package static let program: String? = {
        let environment = ProcessInfo.processInfo.environment
        let user = environment["XDG_CACHE_HOME"] ?? (environment["HOME"] ?? "/root") + "/.cache"
        let places = [environment["GODWIT_CACHE"], "/var/cache/godwit-tests", user + "/godwit-tests"]
        return places.compactMap { $0.map { $0 + "/kube-apiserver" } }
            .first { FileManager.default.isExecutableFile(atPath: $0) }
    }()

    /// Starts a cluster whose processes and files go with the cleanup.
    package static func start(_ name: String, _ cleanup: Cleanup) async throws -> TestCluster {
        let directory = try cleanup.makeTemporaryDirectory()
        let cluster = TestCluster(name, directory: directory, port: try freePort(), etcdPort: try freePort())
        try await cluster.makeKeys()
        try await cluster.writeAdmission()
        try cleanup.add("cluster \(name)", limit: .seconds(60)) { await cluster.stop() }
        try await cluster.startEtcd()
        try await cluster.startServer()
        return cluster
    }

    private init(_ name: String, directory: String, port: UInt16, etcdPort: UInt16) {
        self.name = name
        self.directory = directory
        self.port = port
        self.etcdPort = etcdPort
    }

    private func makeKeys() async throws {
        try "admin-token,admin,admin,system:masters\n".write(
            toFile: directory + "/tokens.csv", atomically: true, encoding: .utf8)
        let script = """
            openssl genrsa -out service-account.key 2048
            openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=test-clients
            openssl req -newkey rsa:2048 -nodes -keyout client.key -out client.csr -subj /O=system:masters/CN=certified
            openssl x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out client.crt
            """
        var program = Program("/bin/bash", ["-ec", script])
        program.directory = directory
        try await ChildProcess.check(program)
    }

    /// As GKE has it: critical pods only where a quota speaks of them.
    private func writeAdmission() throws {
        let text = """
            apiVersion: apiserver.config.k8s.io/v1
            kind: AdmissionConfiguration
            plugins:
            - name: ResourceQuota
              configuration:
                apiVersion: apiserver.config.k8s.io/v1
                kind: ResourceQuotaConfiguration
                limitedResources:
                - resource: pods
                  matchScopes:
                  - scopeName: PriorityClass
                    operator: In
                    values: [system-node-critical, system-cluster-critical]

            """
        try write(text, to: directory + "/admission.yaml")
    }

    private func startEtcd() async throws {
        let client = "http://127.0.0.1:\(etcdPort)"
        var program = Program(
            "/usr/bin/etcd",
            [
                "--data-dir", directory + "/etcd", "--listen-client-urls", client, "--advertise-client-urls",
                client, "--listen-peer-urls", "http://127.0.0.1:0", "--unsafe-no-fsync",
            ])
        program.output = .file(directory + "/etcd.log")
        etcd = try await ChildProcess.start(program)
    }

    /// Starts the API server, or starts it again, and waits until it is ready.
    package func startServer() async throws {
        guard let path = Self.program else {
            throw LabError.programMissing("kube-apiserver (run Tests/install-kubernetes)")
        }
        var program = Program(
            path,
            [
                "--etcd-servers", "http://127.0.0.1:\(etcdPort)", "--secure-port", String(port),
                "--bind-address", "127.0.0.1", "--cert-dir", directory + "/apiserver",
                "--service-cluster-ip-range", "10.0.0.0/24", "--authorization-mode", "RBAC",
                "--allow-privileged",
                "--token-auth-file", directory + "/tokens.csv", "--client-ca-file", directory + "/ca.crt",
                "--service-account-issuer", "https://godwit.test", "--api-audiences", "https://godwit.test",
                "--service-account-key-file", directory + "/service-account.key",
                "--service-account-signing-key-file", directory + "/service-account.key",
                // With which kubelet lets it in, for `kubectl exec` and logs; the names of nodes are in no DNS.
                "--kubelet-client-certificate", directory + "/client.crt",
                "--kubelet-client-key", directory + "/client.key",
                "--kubelet-preferred-address-types", "InternalIP",
                // What every cluster has from Kubernetes 1.24 on.
                "--feature-gates", "CSIStorageCapacity=true", "--runtime-config",
                "storage.k8s.io/v1alpha1=true",
                "--admission-control-config-file", directory + "/admission.yaml",
                "--disable-admission-plugins", "ServiceAccount", "--endpoint-reconciler-type", "none",
                "--v", "1",
            ])
        program.output = .file(logPath)
        let started = try await ChildProcess.start(program)
        server = started
        let deadline = ContinuousClock.now + .seconds(120)
        while try await !isReady() {
            guard started.exit == nil, ContinuousClock.now < deadline else {
                let log = (try? String(contentsOfFile: logPath, encoding: .utf8)) ?? ""
                throw LabError.invalid("the API server \(name) does not start: \(log.suffix(3000))")
            }
            try await Task.sleep(for: .milliseconds(200))
        }
        try writeKubeconfigs()
    }

    /// - Returns: whether it was started.
    func startServerIfKilled() async throws -> Bool {
        guard server == nil else { return false }
        try await startServer()
        return true
    }

    private func isReady() async throws -> Bool {
        guard FileManager.default.fileExists(atPath: authorityPath) else { return false }
        let outcome = try await ChildProcess.run(
            Program(
                "/usr/bin/curl",
                [
                    "-sf", "--cacert", authorityPath, "-H", "Authorization: Bearer admin-token",
                    serverURL + "/api/v1/namespaces/default",
                ]))
        return outcome.exit.isSuccess
    }

    private func writeKubeconfigs() throws {
        try write(kubeconfigText(user: "token: admin-token"), to: kubeconfig)
        // Paths beside the file itself, as kubectl allows them.
        try write(
            kubeconfigText(user: "client-certificate: client.crt\n    client-key: client.key"),
            to: certificateKubeconfig)
    }

    /// A kubeconfig file for a user of this cluster, for example `token: abc`.
    package nonisolated func kubeconfigText(user: String) -> String {
        """
        apiVersion: v1
        kind: Config
        current-context: test
        clusters:
        - name: \(name)
          cluster:
            server: \(serverURL)
            certificate-authority: apiserver/apiserver.crt
        contexts:
        - name: test
          context: {cluster: \(name), user: someone, namespace: default}
        users:
        - name: someone
          user:
            \(user)

        """
    }

    private func write(_ text: String, to path: String) throws {
        try text.write(toFile: path, atomically: true, encoding: .utf8)
    }

    /// Runs kubectl as the administrator.
    package nonisolated func kubectl(
        _ arguments: [String], input: String = ""
    ) async throws -> ChildProcess.Outcome {
        var program = Program("kubectl", ["--kubeconfig", kubeconfig] + arguments)
        program.input = Array(input.utf8)
        return try await ChildProcess.run(program, limit: .seconds(120))
    }

    /// A token of a service account, as a pod gets it.
    package nonisolated func serviceAccountToken(
        _ account: String, in namespace: String
    ) async throws -> String {
        let outcome = try await kubectl(
            [
                "create", "--raw", "/api/v1/namespaces/\(namespace)/serviceaccounts/\(account)/token", "-f",
                "-",
            ], input: #"{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}"#)
        let object = try? JSONSerialization.jsonObject(with: Data(outcome.output.utf8)) as? [String: Any]
        guard let token = (object?["status"] as? [String: Any])?["token"] as? String else {
            throw LabError.invalid("no token for \(account): \(outcome.output)")
        }
        return token
    }

    /// The path of a kubeconfig with which a program is a service account of Manifests.
    package nonisolated func accountKubeconfig(_ account: String) async throws -> String {
        let token = try await serviceAccountToken(account, in: "godwit")
        let path = directory + "/\(account).kubeconfig"
        try kubeconfigText(user: "token: \(token)").write(toFile: path, atomically: true, encoding: .utf8)
        return path
    }

    /// kill -9 of the API server; etcd keeps what was acknowledged.
    package func killServer() async {
        _ = server?.kill(SIGKILL)
        _ = try? await server?.wait(limit: .seconds(10))
        server = nil
    }

    package func stop() async {
        _ = await server?.end(with: SIGTERM, grace: .seconds(5))
        _ = await etcd?.end(with: SIGTERM, grace: .seconds(5))
        server = nil
        etcd = nil
    }
}
