package import VolumeModel

/// Why keys or trust are not what they must be.
package enum IdentityError: Error, Hashable, Sendable, CustomStringConvertible {
    case missing(directory: String)
    case otherSite(SiteID, directory: String)
    case notTrusted(SiteID)
    /// Another authority is pinned for that name already.
    case otherAuthority(SiteID, pinned: String, offered: String)
    /// A certificate names a site, but the authority pinned for that site did not sign it.
    case impostor(claimed: SiteID)
    case expired(SiteID)
    case notYetValid(SiteID)
    /// A certificate of the right site for another purpose.
    case wrongUse(SiteID, String)
    /// A site does not trust itself.
    case ownDocument
    /// Text from outside that is not what it should be.
    case malformed(String)
    case cryptography(String)
    case file(path: String, String)

    package var description: String {
        switch self {
        case .missing(let directory): "there are no keys in \(directory): run 'godwit pki init' first"
        case .otherSite(let site, let directory): "\(directory) holds the keys of site \(site)"
        case .notTrusted(let site):
            "site \(site) is not trusted here: run 'godwit pki trust', or in a cluster 'kubectl godwit trust', with its "
                + "document"
        case .otherAuthority(let site, let pinned, let offered):
            "site \(site) is trusted with the fingerprint \(pinned), and this document says \(offered): "
                + "ask there which is right, then use --replace"
        case .impostor(let site): "a certificate claims to be of site \(site), which did not sign it"
        case .expired(let site):
            "the certificate of site \(site) has expired: run 'godwit pki renew' there"
        case .notYetValid(let site):
            "the certificate of site \(site) is not valid yet: compare the clocks here and there"
        case .wrongUse(let site, let what): "the certificate of site \(site) \(what)"
        case .ownDocument: "this is the document of this site itself"
        case .malformed(let what), .cryptography(let what): what
        case .file(let path, let cause): "\(path): \(cause)"
        }
    }
}
