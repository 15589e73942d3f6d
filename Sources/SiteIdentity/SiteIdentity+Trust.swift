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
    private var mounted: MountedDirectory? { source.peersFrom.map { MountedDirectory(path: $0) } }
    /// As the names of documents end in a mounted directory.
    static let mountedEnd = ".trust"

    /// Trusts the site of a document. The same again changes only the address, if it names one.
    ///
    /// - Parameter replacing: accept another authority for a site that is trusted already.
    /// - Throws: `.otherAuthority` when the site is trusted with other keys.
    @discardableResult
    package func trust(_ text: String, replacing: Bool = false) throws(IdentityError) -> Peer {
        let document = try TrustDocument(text)
        guard document.site != site.site else { throw .ownDocument }
        return try directory.locked { () throws(IdentityError) in
            let known = { () throws(IdentityError) in
                try self.trusted(document.site, in: try self.documents(of: document.site))
            }
            let accepted = try document.accepted(over: known, replacing: replacing)
            try peerDirectory.make()
            try peerDirectory.write(accepted.text, to: "\(document.site).pem")
            return try accepted.peer()
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

    /// Of whom there is a document. One of our own site, which one Secret for all clusters may hold, says nothing.
    private func peerNames() throws(IdentityError) -> [SiteID] {
        var names = Set(
            try peerDirectory.names().compactMap { $0.hasSuffix(".pem") ? SiteID(site: $0.dropLast(4)) : nil }
        )
        if let mounted {
            names.formUnion(
                try mounted.names(endingWith: Self.mountedEnd)
                    .compactMap { SiteID(site: $0.dropLast(Self.mountedEnd.count)) })
        }
        return names.subtracting([site.site]).sorted()
    }

    /// The site of that name, or of that node; of our own, if we are one of several nodes.
    ///
    /// - Returns: nil when the site is not trusted.
    package func peer(_ name: SiteID) throws(IdentityError) -> Peer? {
        try peer(name, from: try documents(of: name.site))
    }

    func peer(_ name: SiteID, from documents: Documents) throws(IdentityError) -> Peer? {
        guard name.site != site.site else { return site.node == nil ? nil : try ownDocument().peer() }
        return try trusted(name.site, in: documents)?.peer()
    }

    private func ownDocument() throws(IdentityError) -> TrustDocument {
        try TrustDocument(try trustDocument(address: nil))
    }

    /// The texts of a site's document, as they are in the directories.
    struct Documents: Equatable, Sendable {
        /// In our own.
        let here: String?
        /// In the one that is mounted.
        let there: String?
    }

    func documents(of site: SiteID) throws(IdentityError) -> Documents {
        Documents(
            here: try peerDirectory.read("\(site).pem"),
            there: try mounted?.read("\(site)\(Self.mountedEnd)"))
    }

    /// What the directories say of a site. Where both have its document, they must agree on its keys; our own
    /// directory's address goes first.
    private func trusted(_ site: SiteID, in documents: Documents) throws(IdentityError) -> TrustDocument? {
        let ours = try documents.here.map { text throws(IdentityError) in
            try Self.document(text, of: site, in: "\(peerDirectory.path)/\(site).pem")
        }
        let given = try documents.there.map { text throws(IdentityError) in
            try Self.document(text, of: site, in: "\(mounted?.path ?? "")/\(site)\(Self.mountedEnd)")
        }
        guard let ours, let given else { return ours ?? given }
        guard ours.fingerprint == given.fingerprint else {
            throw .malformed(
                "\(peerDirectory.path) and \(mounted?.path ?? "") pin different keys for it: end one of them with "
                    + "'godwit pki distrust' or 'kubectl godwit distrust'")
        }
        return ours.address == nil ? given : ours
    }

    private static func document(
        _ text: String, of site: SiteID, in file: String
    ) throws(IdentityError) -> TrustDocument {
        let document = try TrustDocument(text)
        guard document.site == site else {
            throw .malformed("\(file) is the document of site \(document.site)")
        }
        // Before it is compared with another one: its fingerprint is only a word until then.
        _ = try document.peer()
        return document
    }
}

extension TrustDocument {
    /// Whom it makes known, if its certificate is what it says.
    func peer() throws(IdentityError) -> SiteIdentity.Peer {
        let authority = try SiteCertificates.parse(authorityPEM)
        try SiteCertificates.check(authority: authority, of: site)
        guard try SiteCertificates.fingerprint(of: authority) == fingerprint else {
            throw .malformed("the document's fingerprint is not that of its certificate")
        }
        return SiteIdentity.Peer(
            site: site, address: address, authorityPEM: authorityPEM, fingerprint: fingerprint,
            expiry: authority.notValidAfter)
    }

    /// What is kept of a document that a person gives, where the site may be known already: the same keys bring a new
    /// address, if they bring one; other keys take `replacing`.
    func accepted(
        over known: () throws(IdentityError) -> TrustDocument?, replacing: Bool
    ) throws(IdentityError) -> TrustDocument {
        _ = try peer()
        // One that is damaged cannot be compared: it takes a person's word, too.
        guard let known = replacing ? try? known() : try known() else { return self }
        guard known.fingerprint == fingerprint else {
            guard replacing else {
                throw .otherAuthority(site, pinned: known.fingerprint, offered: fingerprint)
            }
            return self
        }
        guard address == nil else { return self }
        return try TrustDocument(
            site: site, address: known.address, fingerprint: fingerprint, authorityPEM: authorityPEM)
    }
}
