internal import Foundation
internal import Yams

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

    /// What a kubeconfig file says, YAML or JSON.
    ///
    /// - Parameters:
    ///   - context: nil: the current one.
    ///   - runsPrograms: whether the user may sign in by a program that the file names: for a person's command, which may
    ///     wait for it, not for a server.
    package static func kubeconfig(
        path: String, context: String? = nil, runsPrograms: Bool = false
    ) throws(KubernetesError) -> ClusterConnection {
        let bytes = try read(path, "the kubeconfig")
        let file: KubeconfigFile
        do {
            file = try YAMLDecoder().decode(KubeconfigFile.self, from: Data(bytes))
        } catch {
            throw .configuration("\(path) is no kubeconfig: \(error)")
        }
        return try file.connection(
            context: context, directory: URL(fileURLWithPath: path).deletingLastPathComponent().path,
            runsPrograms: runsPrograms)
    }

    fileprivate static func read(_ path: String, _ what: String) throws(KubernetesError) -> [UInt8] {
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

/// The parts of a kubeconfig that we use; what we cannot do is named, so that it is refused and not ignored.
private struct KubeconfigFile: Decodable {
    struct Named<Value: Decodable>: Decodable {
        let name: String
        let value: Value

        private enum Key: String, CodingKey { case name, cluster, user, context }

        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: Key.self)
            name = try container.decode(String.self, forKey: .name)
            let key = [Key.cluster, .user, .context].first { container.contains($0) } ?? .cluster
            value = try container.decode(Value.self, forKey: key)
        }
    }
    struct Cluster: Decodable {
        var server: String
        var authority: String?
        var authorityData: String?
        var skipsVerification: Bool?

        private enum CodingKeys: String, CodingKey {
            case server
            case authority = "certificate-authority"
            case authorityData = "certificate-authority-data"
            case skipsVerification = "insecure-skip-tls-verify"
        }
    }
    struct User: Decodable {
        struct Anything: Decodable { init(from decoder: any Decoder) throws {} }
        var token: String?
        var tokenFile: String?
        var certificate: String?
        var certificateData: String?
        var key: String?
        var keyData: String?
        var username: String?
        var exec: CredentialProgram.Settings?
        var provider: Anything?

        private enum CodingKeys: String, CodingKey {
            case token, tokenFile, username, exec
            case provider = "auth-provider"
            case certificate = "client-certificate"
            case certificateData = "client-certificate-data"
            case key = "client-key"
            case keyData = "client-key-data"
        }
    }
    struct Context: Decodable {
        var cluster: String
        var user: String?
        var namespace: String?
    }

    var clusters: [Named<Cluster>]
    var users: [Named<User>]?
    var contexts: [Named<Context>]
    var current: String?

    private enum CodingKeys: String, CodingKey {
        case clusters, users, contexts
        case current = "current-context"
    }

    func connection(
        context: String?, directory: String, runsPrograms: Bool
    ) throws(KubernetesError) -> ClusterConnection {
        guard let name = context ?? current, !name.isEmpty else {
            throw .configuration("the kubeconfig has no current context: name one")
        }
        guard let chosen = contexts.first(where: { $0.name == name })?.value else {
            throw .configuration("the kubeconfig has no context '\(name)'")
        }
        guard let cluster = clusters.first(where: { $0.name == chosen.cluster })?.value else {
            throw .configuration("the kubeconfig has no cluster '\(chosen.cluster)'")
        }
        if cluster.skipsVerification == true {
            throw .configuration(
                "cluster '\(chosen.cluster)' asks not to verify its certificate: name its authority instead")
        }
        return try ClusterConnection(
            server: cluster.server,
            authorityPEM: try bytes(cluster.authorityData, cluster.authority, directory),
            credential: try credential(chosen, directory, runsPrograms),
            namespace: chosen.namespace ?? "default")
    }

    private func credential(
        _ context: Context, _ directory: String, _ runsPrograms: Bool
    ) throws(KubernetesError) -> ClusterConnection.Credential {
        guard let name = context.user else { return .none }
        guard let user = users?.first(where: { $0.name == name })?.value else {
            throw .configuration("the kubeconfig has no user '\(name)'")
        }
        if let exec = user.exec, runsPrograms {
            return .program(CredentialProgram(exec, directory: directory))
        }
        if user.exec != nil || user.provider != nil || user.username != nil {
            throw .configuration(
                "user '\(name)' signs in by a program or a password: use a certificate or a token")
        }
        // A token file wins over a token, as kubectl has it.
        if let file = user.tokenFile { return .tokenFile(Self.absolute(file, directory)) }
        if let token = user.token { return .token(token) }
        let chain = try bytes(user.certificateData, user.certificate, directory)
        let key = try bytes(user.keyData, user.key, directory)
        switch (chain, key) {
        case (nil, nil): return .none
        case (let chain?, let key?): return .certificate(chainPEM: chain, keyPEM: key)
        default: throw .configuration("user '\(name)' has a certificate without a key, or a key without one")
        }
    }

    private func bytes(
        _ encoded: String?, _ path: String?, _ directory: String
    ) throws(KubernetesError) -> [UInt8]? {
        if let encoded {
            guard let data = Data(base64Encoded: encoded, options: .ignoreUnknownCharacters) else {
                throw .configuration("the kubeconfig holds data that is not base64")
            }
            return Array(data)
        }
        return try path.map { path throws(KubernetesError) in
            try ClusterConnection.read(Self.absolute(path, directory), "the kubeconfig's file")
        }
    }

    private static func absolute(_ path: String, _ directory: String) -> String {
        path.hasPrefix("/") ? path : directory + "/" + path
    }
}
