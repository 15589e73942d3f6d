internal import ArgumentParser
internal import ClusterResources
internal import KubernetesAPI
internal import SiteIdentity
internal import VolumeModel

/// The two Secrets of an installation: the site's keys, and whom it trusts. Their values get into no message.
struct SecretTrust {
    /// How often a change is tried again that somebody else came before.
    private static let attempts = 10

    let client: KubernetesClient
    let namespace: String

    static func site(_ name: String) throws -> SiteID {
        guard let site = SiteID(site: name) else {
            throw ValidationError("a site's name is 1 to 63 of a–z, 0–9 and '-', not '\(name)'")
        }
        return site
    }

    static func run(_ cluster: ClusterOptions, _ body: (SecretTrust) async throws -> Void) async throws {
        try await cluster.withClient { client in
            let namespace = cluster.namespace ?? ClusterNames.namespace
            do {
                try await body(SecretTrust(client: client, namespace: namespace))
            } catch let error as IdentityError {
                try Terminal.fail(error.description)
            }
        }
    }

    func metadata(_ name: String) -> ObjectMeta {
        ObjectMeta(name: name, namespace: namespace, labels: ["app.kubernetes.io/name": "godwit"])
    }

    // MARK: who we are

    /// - Returns: nil when there are no keys.
    func ownDocument(address: String?) async throws -> (site: SiteID, text: String)? {
        guard let secret = try await client.find(Secret.self, ClusterNames.site, in: namespace) else {
            return nil
        }
        let place = "secret/\(ClusterNames.site)"
        guard let text = secret.value(ClusterNames.authority) else {
            throw IdentityError.malformed("\(place) has no '\(ClusterNames.authority)'")
        }
        return try SiteAuthority.trustDocument(ofCertificateIn: text, from: place, address: address)
    }

    func ownSite() async throws -> SiteID? { try await ownDocument(address: nil)?.site }

    /// Who may say whom to trust need not be who may read the site's keys.
    func ownSiteIfVisible() async throws -> SiteID? {
        do {
            return try await ownSite()
        } catch KubernetesError.forbidden {
            return nil
        }
    }

    // MARK: whom we trust

    /// Changes what is kept under a name; anew if somebody else changes the Secret meanwhile.
    ///
    /// - Parameter decide: from what is kept to what is to be.
    func change(
        _ name: String, _ decide: (String?) throws -> (document: String, peer: SiteIdentity.Peer)
    ) async throws -> SiteIdentity.Peer {
        try await retrying {
            guard let secret = try await client.find(Secret.self, ClusterNames.peers, in: namespace) else {
                let (document, peer) = try decide(nil)
                _ = try await client.create(
                    Secret(metadata: metadata(ClusterNames.peers), values: [name: document]))
                return peer
            }
            // What is there and no text is there all the same.
            let known = secret.hasValue(name) ? secret.value(name) ?? "" : nil
            let (document, peer) = try decide(known)
            if document != known { try await patch(secret, name, document) }
            return peer
        }
    }

    /// - Returns: whether it was there.
    func remove(_ name: String) async throws -> Bool {
        try await retrying {
            guard let secret = try await client.find(Secret.self, ClusterNames.peers, in: namespace),
                secret.hasValue(name)
            else { return false }
            try await patch(secret, name, nil)
            return true
        }
    }

    private func patch(_ secret: Secret, _ name: String, _ value: String?) async throws {
        _ = try await client.patch(
            Secret.self, ClusterNames.peers, in: namespace, secret.patch(name, value))
    }

    private func retrying<Result>(_ body: () async throws -> Result) async throws -> Result {
        for _ in 1..<Self.attempts {
            do { return try await body() } catch let error as KubernetesError {
                switch error {
                case .conflict, .alreadyExists: continue
                default: throw error
                }
            }
        }
        return try await body()
    }
}
