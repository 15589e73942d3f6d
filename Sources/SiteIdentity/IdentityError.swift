package import Foundation
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
    /// By the clock here, which may be wrong.
    case expired(SiteID, CertificateTime)
    case notYetValid(SiteID, CertificateTime)
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
        case .expired(let site, let time):
            "\(time.name) of site \(site) \(time.isAuthority ? "were" : "was") valid until "
                + "\(time.end.ISO8601Format()), and the clock here says \(time.clockText): put the clock right "
                + "or, if it is, "
                + (time.isAuthority
                    ? "have new keys made there, and trust them anew" : "run 'godwit pki renew' there")
        case .notYetValid(let site, let time):
            "\(time.name) of site \(site) \(time.isAuthority ? "are" : "is") valid from "
                + "\(time.start.ISO8601Format()) on, and the clock here says \(time.clockText): put the clock "
                + "right, here or there, and if that was wrong when it was made, run 'godwit pki renew' there"
        case .wrongUse(let site, let what): "the certificate of site \(site) \(what)"
        case .ownDocument: "this is the document of this site itself"
        case .malformed(let what), .cryptography(let what): what
        case .file(let path, let cause): "\(path): \(cause)"
        }
    }
}

extension IdentityError {
    /// Whether it is the same trouble, at another time of day perhaps.
    package func isSame(as other: IdentityError) -> Bool {
        switch (self, other) {
        case (.expired(let site, let time), .expired(let second, let later)),
            (.notYetValid(let site, let time), .notYetValid(let second, let later)):
            site == second && time.start == later.start && time.end == later.end
        default: self == other
        }
    }
}

/// What a certificate allows, and what the clock here says.
package struct CertificateTime: Hashable, Sendable {
    package let start: Date
    package let end: Date
    package let clock: Date
    /// Of the keys that vouch for all certificates of a site.
    package let isAuthority: Bool

    package init(_ validity: ClosedRange<Date>, clock: Date, isAuthority: Bool = false) {
        (start, end) = (validity.lowerBound, validity.upperBound)
        self.clock = clock
        self.isAuthority = isAuthority
    }

    fileprivate var name: String { isAuthority ? "the keys" : "the certificate" }
    /// To the minute: what is told when it changes is not told all the time.
    fileprivate var clockText: String { String(clock.ISO8601Format().prefix(16)) + "Z" }
}
