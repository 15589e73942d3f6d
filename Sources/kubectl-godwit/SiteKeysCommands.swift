internal import ArgumentParser
internal import ClusterResources
internal import KubernetesAPI
internal import SiteIdentity
internal import VolumeModel

/// `kubectl godwit init`
struct Init: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init", abstract: "Make the keys of the cluster's site, which all its nodes share.",
        discussion: """
            They are in the Secret \(ClusterNames.site), and nowhere else. Where it is there already, nothing is \
            changed. Whoever may read it can speak for the site: of those who use the cluster, that should be few.

            Example: kubectl godwit init --site london
            """)

    @OptionGroup var cluster: ClusterOptions
    @Option(name: .customLong("site"), help: "The site's name: a–z, 0–9 and '-'.") var name: String

    func validate() throws { _ = try SecretTrust.site(name) }

    func run() async throws {
        let site = try SecretTrust.site(name)
        try await SecretTrust.run(cluster) { secrets in
            if let known = try await secrets.ownSite() { return try Self.tell(known, site, secrets) }
            let authority = try SiteAuthority(of: site)
            let secret = Secret(
                metadata: secrets.metadata(ClusterNames.site),
                values: [ClusterNames.authority: authority.pem])
            do throws(KubernetesError) {
                _ = try await secrets.client.create(secret)
            } catch {
                switch error {
                case .alreadyExists:
                    // Somebody else was faster.
                    guard let known = try await secrets.ownSite() else { throw error }
                    return try Self.tell(known, site, secrets)
                case .notFound:
                    try Terminal.fail(
                        "there is no namespace '\(secrets.namespace)': 'kubectl apply -k' the installation first"
                    )
                default: throw error
                }
            }
            Terminal.print("secret/\(ClusterNames.site) made: the keys of site \(site)")
            Terminal.print("for other sites: kubectl godwit show --address HOST:PORT > \(site).trust")
        }
    }

    private static func tell(_ known: SiteID, _ wanted: SiteID, _ secrets: SecretTrust) throws {
        let words =
            "secret/\(ClusterNames.site) in namespace \(secrets.namespace) holds the keys of site \(known)"
        guard known == wanted else { try Terminal.fail("\(words), and they are never replaced") }
        Terminal.print(words + " already")
    }
}

/// `kubectl godwit show`
struct Show: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Print what other sites need to trust this one. It holds no secret.",
        discussion: "Example: kubectl godwit show --address 203.0.113.7:7443 > london.trust")

    @OptionGroup var cluster: ClusterOptions
    @Option(help: "Where other sites reach this one, as host:port: the gateway's address.") var address:
        String?

    func run() async throws {
        try await SecretTrust.run(cluster) { secrets in
            guard let document = try await secrets.ownDocument(address: address) else {
                try Terminal.fail(
                    "there is no secret/\(ClusterNames.site) in namespace \(secrets.namespace): "
                        + "'kubectl godwit init' makes it")
            }
            Terminal.print(document.text, terminator: "")
        }
    }
}
