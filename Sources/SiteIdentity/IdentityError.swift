package import VolumeModel

/// Why keys or trust are not what they must be.
package enum IdentityError: Error, Hashable, Sendable, CustomStringConvertible {
    case missing(directory: String)
    case otherSite(SiteID, directory: String)
    case notTrusted(SiteID)
    /// Another authority is pinned for that name already.
    case otherAuthority(SiteID)
    /// A certificate names a site, but that site's authority did not sign it.
    case impostor(claimed: SiteID)
    case expired(SiteID)
    case malformed(String)
    case cryptography(String)
    case file(path: String, String)

    package var description: String {
        switch self {
        case .missing(let directory): "there are no keys in \(directory): run 'godwit pki init' first"
        case .otherSite(let site, let directory): "\(directory) holds the keys of site \(site)"
        case .notTrusted(let site):
            "site \(site) is not trusted here: run 'godwit pki trust' with its document"
        case .otherAuthority(let site):
            "site \(site) is trusted with other keys: compare the fingerprints, then use --replace"
        case .impostor(let site): "a certificate claims to be of site \(site), which did not sign it"
        case .expired(let site):
            "the certificate of site \(site) is not valid now: run 'godwit pki renew' there"
        case .malformed(let what), .cryptography(let what): what
        case .file(let path, let cause): "\(path): \(cause)"
        }
    }
}
