internal import Foundation

/// How a cluster's API is reached, and as whom.
package struct ClusterConnection: Sendable {
    package enum Credential: Sendable {
        case none
        case token(String)
        /// Read again for each request: kubelet replaces it from time to time.
        case tokenFile(String)
        case certificate(chainPEM: [UInt8], keyPEM: [UInt8])
        /// Run for a token, and again when that expires.
        case program(CredentialProgram)
    }

    /// `https://host:port`, perhaps with a path before the API's own.
    package var server: String
    /// Whom to believe; nil: the authorities that the host trusts.
    package var authorityPEM: [UInt8]?
    package var credential: Credential
    package var namespace: String
    /// The name to ask for and to find in the server's certificate, where also the address that it is reached at would do;
    /// nil: the host of its address.
    package var serverName: String?
    /// As whom else requests are to be made, if the server lets us: headers, names and values.
    package var impersonation: [(name: String, value: String)] = []

    package init(
        server: String, authorityPEM: [UInt8]?, credential: Credential, namespace: String = "default"
    ) throws(KubernetesError) {
        guard server.hasPrefix("https://") else {
            throw .configuration("the API server's address is to begin with https://, not '\(server)'")
        }
        self.server = server.hasSuffix("/") ? String(server.dropLast()) : server
        self.authorityPEM = authorityPEM
        self.credential = credential
        self.namespace = namespace
    }

    private static let serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

    /// As the pod's service account.
    package static func inCluster(
        environment: [String: String] = ProcessInfo.processInfo.environment,
        directory: String = serviceAccountDirectory
    ) throws(KubernetesError) -> ClusterConnection {
        guard let host = environment["KUBERNETES_SERVICE_HOST"], !host.isEmpty,
            let port = environment["KUBERNETES_SERVICE_PORT"], UInt16(port) != nil
        else { throw .configuration("this is no pod: KUBERNETES_SERVICE_HOST and _PORT are not set") }
        let authority = try read(directory + "/ca.crt", "the cluster's certificate")
        _ = try read(directory + "/token", "the service account's token")
        let namespace = (try? String(contentsOfFile: directory + "/namespace", encoding: .utf8)) ?? "default"
        return try ClusterConnection(
            server: "https://" + (host.contains(":") ? "[\(host)]" : host) + ":" + port,
            authorityPEM: authority, credential: .tokenFile(directory + "/token"),
            namespace: namespace.trimmingCharacters(in: .whitespacesAndNewlines))
    }

    package static var serviceAccountDirectory: String { serviceAccount }

    /// What kubeconfig files say, YAML or JSON, as kubectl merges them: the first that has an entry of a name, or a current
    /// context, is heard. Of several those that are not there are left out.
    ///
    /// - Parameters:
    ///   - context: nil: the current one.
    ///   - runsPrograms: whether the user may sign in by a program that the file names: for a person's command, which may
    ///     wait for it, not for a server.
    package static func kubeconfig(
        paths: [String], context: String? = nil, runsPrograms: Bool = false
    ) throws(KubernetesError) -> ClusterConnection {
        var merged = KubeconfigFile()
        for path in paths where paths.count == 1 || FileManager.default.fileExists(atPath: path) {
            merged.add(try KubeconfigFile(path: path))
        }
        return try merged.connection(context: context, runsPrograms: runsPrograms)
    }

    package static func kubeconfig(
        path: String, context: String? = nil, runsPrograms: Bool = false
    ) throws(KubernetesError) -> ClusterConnection {
        try kubeconfig(paths: [path], context: context, runsPrograms: runsPrograms)
    }

    static func read(_ path: String, _ what: String) throws(KubernetesError) -> [UInt8] {
        do {
            return Array(try Data(contentsOf: URL(fileURLWithPath: path)))
        } catch {
            throw .configuration("\(what), \(path), cannot be read: \(error.localizedDescription)")
        }
    }

    /// The value of the Authorization header; nil: none.
    func authorization() throws(KubernetesError) -> String? {
        let token: String
        switch credential {
        case .none, .certificate: return nil
        case .token(let text): token = text
        case .program(let program): token = try program.token()
        case .tokenFile(let path):
            token = String(decoding: try Self.read(path, "the service account's token"), as: UTF8.self)
        }
        let trimmed = token.trimmingCharacters(in: .whitespacesAndNewlines)
        // A line break inside would begin another header.
        guard !trimmed.isEmpty, trimmed.utf8.allSatisfy({ (0x21...0x7e).contains($0) }) else {
            throw .configuration("the token for the API server is empty or holds what no token may")
        }
        return "Bearer " + trimmed
    }
}
