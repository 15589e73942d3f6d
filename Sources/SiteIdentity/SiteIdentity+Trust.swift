package import Foundation
package import VolumeModel

/// Whom a site trusts.
extension SiteIdentity {
    /// Another site that is trusted here.
    package struct Peer: Hashable, Sendable {
        package let site: SiteID
        /// Where its peers' port is, as host:port; nil: it never said.
        package let address: String?
        package let authorityPEM: String
        /// SHA-256 of the authority's certificate, in hexadecimal digits.
        package let fingerprint: String
        /// When the authority ends.
        package let expiry: Date
    }

    private var peerDirectory: KeyDirectory { KeyDirectory(path: directory.path + "/peers") }

    /// Trusts the site of a document. The same again changes only the address, if it names one.
    ///
    /// - Parameter replacing: accept another authority for a site that is trusted already.
    /// - Throws: `.otherAuthority` when the site is trusted with other keys.
    @discardableResult
    package func trust(_ text: String, replacing: Bool = false) throws(IdentityError) -> Peer {
        let document = try TrustDocument(text)
        guard document.site != site else { throw .malformed("this is the document of this site itself") }
        let offered = try Self.peer(of: document)
        return try directory.locked { () throws(IdentityError) in
            var accepted = document
            // One that is damaged cannot be compared: it takes a person's word, too.
            if let known = replacing ? try? peer(document.site) : try peer(document.site) {
                guard known.fingerprint == offered.fingerprint || replacing else {
                    throw .otherAuthority(
                        document.site, pinned: known.fingerprint, offered: offered.fingerprint)
                }
                if document.address == nil, known.fingerprint == offered.fingerprint {
                    accepted = try TrustDocument(
                        site: document.site, address: known.address, fingerprint: document.fingerprint,
                        authorityPEM: document.authorityPEM)
                }
            }
            try peerDirectory.make()
            try peerDirectory.write(accepted.text, to: "\(document.site).pem")
            return try Self.peer(of: accepted)
        }
    }

    /// Ends the trust in a site. Repeated, it is a success.
    package func distrust(_ site: SiteID) throws(IdentityError) {
        try directory.locked { () throws(IdentityError) in
            guard try !peerDirectory.names().isEmpty else { return }
            try peerDirectory.delete("\(site).pem")
        }
    }

    /// Everybody who is trusted, by name. A document that is damaged on disk is left out, as is its site:
    /// one bad file must not cut off the others. `damagedPeers` names them.
    package func peers() throws(IdentityError) -> [Peer] {
        var peers: [Peer] = []
        for site in try peerNames() {
            if let peer = try? peer(site) { peers.append(peer) }
        }
        return peers
    }

    /// Sites whose documents are here but cannot be used, with the reason.
    package func damagedPeers() throws(IdentityError) -> [(site: SiteID, reason: String)] {
        var damaged: [(SiteID, String)] = []
        for site in try peerNames() {
            do { _ = try peer(site) } catch { damaged.append((site, "\(error)")) }
        }
        return damaged
    }

    private func peerNames() throws(IdentityError) -> [SiteID] {
        try peerDirectory.names().compactMap { $0.hasSuffix(".pem") ? SiteID($0.dropLast(4)) : nil }
    }

    /// - Returns: nil when the site is not trusted.
    func peer(_ site: SiteID) throws(IdentityError) -> Peer? {
        guard let text = try peerDirectory.read("\(site).pem") else { return nil }
        let document = try TrustDocument(text)
        guard document.site == site else {
            throw .malformed("\(peerDirectory.path)/\(site).pem is the document of site \(document.site)")
        }
        return try Self.peer(of: document)
    }

    private static func peer(of document: TrustDocument) throws(IdentityError) -> Peer {
        let authority = try SiteCertificates.parse(document.authorityPEM)
        try SiteCertificates.check(authority: authority, of: document.site)
        guard try SiteCertificates.fingerprint(of: authority) == document.fingerprint else {
            throw .malformed("the document's fingerprint is not that of its certificate")
        }
        return Peer(
            site: document.site, address: document.address, authorityPEM: document.authorityPEM,
            fingerprint: document.fingerprint, expiry: authority.notValidAfter)
    }
}
