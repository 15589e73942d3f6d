internal import Foundation
internal import Yams

/// The parts of a kubeconfig that we use; what we cannot do is named, so that it is refused and not ignored.
struct KubeconfigFile: Decodable {
    struct Named<Value: Decodable>: Decodable {
        let name: String
        let value: Value
        /// Where the file is in which it stands: paths in it begin there.
        fileprivate(set) var directory = ""

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
        var serverName: String?
        var proxy: String?

        private enum CodingKeys: String, CodingKey {
            case server
            case serverName = "tls-server-name"
            case proxy = "proxy-url"
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
        var impersonated: String?
        var impersonatedID: String?
        var impersonatedGroups: [String]?
        var impersonatedExtra: [String: [String]]?

        private enum CodingKeys: String, CodingKey {
            case token, tokenFile, username, exec
            case impersonated = "as"
            case impersonatedID = "as-uid"
            case impersonatedGroups = "as-groups"
            case impersonatedExtra = "as-user-extra"
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

    var clusters: [Named<Cluster>]?
    var users: [Named<User>]?
    var contexts: [Named<Context>]?
    var current: String?

    private enum CodingKeys: String, CodingKey {
        case clusters, users, contexts
        case current = "current-context"
    }

    /// What several files say together, before any of them.
    init() {}

    init(path: String) throws(KubernetesError) {
        try self.init(try ClusterConnection.read(path, "the kubeconfig"), path: path)
    }

    /// - Parameter path: where the bytes are from.
    init(_ bytes: [UInt8], path: String) throws(KubernetesError) {
        do {
            self = try YAMLDecoder().decode(KubeconfigFile.self, from: Data(bytes))
        } catch {
            throw .configuration("\(path) is no kubeconfig: \(error)")
        }
        let directory = URL(fileURLWithPath: path).deletingLastPathComponent().path
        for index in (clusters ?? []).indices { clusters?[index].directory = directory }
        for index in (users ?? []).indices { users?[index].directory = directory }
    }

    /// Says also what a file says, as far as none before it has said anything of the name.
    mutating func add(_ file: KubeconfigFile) {
        clusters = (clusters ?? []) + (file.clusters ?? [])
        users = (users ?? []) + (file.users ?? [])
        contexts = (contexts ?? []) + (file.contexts ?? [])
        if current?.isEmpty ?? true { current = file.current }
    }

    func connection(context: String?, runsPrograms: Bool) throws(KubernetesError) -> ClusterConnection {
        guard let name = context ?? current, !name.isEmpty else {
            throw .configuration("the kubeconfig has no current context: name one")
        }
        guard let chosen = contexts?.first(where: { $0.name == name })?.value else {
            throw .configuration("the kubeconfig has no context '\(name)'")
        }
        guard let entry = clusters?.first(where: { $0.name == chosen.cluster }) else {
            throw .configuration("the kubeconfig has no cluster '\(chosen.cluster)'")
        }
        let cluster = entry.value
        if cluster.skipsVerification == true {
            throw .configuration(
                "cluster '\(chosen.cluster)' asks not to verify its certificate: name its authority instead")
        }
        if let proxy = cluster.proxy, !proxy.isEmpty {
            throw .configuration(
                "cluster '\(chosen.cluster)' is to be reached through a proxy ('proxy-url'), which is not supported"
            )
        }
        let user = try self.user(of: chosen)
        var connection = try ClusterConnection(
            server: cluster.server,
            authorityPEM: try bytes(cluster.authorityData, cluster.authority, entry.directory),
            credential: try user.map { user throws(KubernetesError) in try credential(user, runsPrograms) }
                ?? ClusterConnection.Credential.none,
            namespace: chosen.namespace ?? "default")
        connection.serverName = cluster.serverName.flatMap { $0.isEmpty ? nil : $0 }
        connection.impersonation =
            try user.map { user throws(KubernetesError) in try impersonation(user) } ?? []
        return connection
    }

    private func user(of context: Context) throws(KubernetesError) -> Named<User>? {
        guard let name = context.user, !name.isEmpty else { return nil }
        guard let user = users?.first(where: { $0.name == name }) else {
            throw .configuration("the kubeconfig has no user '\(name)'")
        }
        return user
    }

    /// The API server's headers for it, as kubectl sends them.
    private func impersonation(
        _ user: Named<User>
    ) throws(KubernetesError) -> [(name: String, value: String)] {
        var headers: [(name: String, value: String)] = []
        func add(_ name: String, _ values: [String]) { headers += values.map { (name, $0) } }
        add("Impersonate-User", [user.value.impersonated].compactMap(\.self).filter { !$0.isEmpty })
        add("Impersonate-Uid", [user.value.impersonatedID].compactMap(\.self).filter { !$0.isEmpty })
        add("Impersonate-Group", user.value.impersonatedGroups ?? [])
        for (key, values) in (user.value.impersonatedExtra ?? [:]).sorted(by: { $0.key < $1.key }) {
            add("Impersonate-Extra-" + Self.headerName(key), values)
        }
        guard headers.isEmpty || headers[0].name == "Impersonate-User" else {
            throw .configuration("user '\(user.name)' has 'as-…' without 'as'")
        }
        // A line break inside would begin another header.
        guard headers.allSatisfy({ $0.value.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7f } }) else {
            throw .configuration("user '\(user.name)' is to be somebody ('as') whose name no header can hold")
        }
        return headers
    }

    /// What the name of a header may not hold is percent-encoded, and '%' itself.
    private static func headerName(_ text: String) -> String {
        text.utf8.map { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                return String(UnicodeScalar(byte))
            case _ where "!#$&'*+-.^_`|~".utf8.contains(byte): return String(UnicodeScalar(byte))
            default:
                let digits = String(byte, radix: 16, uppercase: true)
                return digits.utf8.count == 1 ? "%0\(digits)" : "%\(digits)"
            }
        }.joined()
    }

    private func credential(
        _ entry: Named<User>, _ runsPrograms: Bool
    ) throws(KubernetesError) -> ClusterConnection.Credential {
        let (name, user, directory) = (entry.name, entry.value, entry.directory)
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
