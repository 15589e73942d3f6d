internal import Crypto
package import Foundation
internal import Synchronization
package import VolumeModel
internal import X509

/// A site's keys, or those of one of its nodes, and which other sites are trusted.
///
/// Each site is its own certificate authority: a key that stays, and a leaf certificate that is renewed. To
/// trust a peer is to pin the peer's authority to the peer's name. TLS accepts any pinned authority; which
/// site a connection then speaks for is decided by `authenticate`, which wants the leaf signed by the very
/// authority that is pinned for the name it claims.
///
/// The nodes of a site share its authority, and each has a leaf of its own: whoever pinned the site's authority trusts
/// all of them, and they trust each other.
///
/// The directory (mode 0700) holds, each file in PEM and with mode 0600:
/// - `authority.pem`: the authority's certificate and its key,
/// - `leaf.pem`: the leaf certificate and its key, in one file so that they always belong together,
/// - `peers/NAME.pem`: the trust document of a peer.
package final class SiteIdentity: Sendable {
    /// Whom the leaf names: a site, or one of its nodes.
    package let site: SiteID
    /// Where all this is from.
    package let source: IdentitySource
    let directory: KeyDirectory
    private let authority: SiteAuthority
    private let leaf: (certificatePEM: String, keyPEM: String)
    /// When the leaf certificate ends.
    package let expiry: Date
    private let certificate: Certificate
    /// What was proved of leaf certificates, by their PEM.
    private let proofs = Mutex<[String: Proof]>([:])

    static let authorityFile = "authority.pem"
    static let leafFile = "leaf.pem"

    // MARK: making and loading

    /// Makes a site's keys. Made already for the same site, it changes nothing.
    ///
    /// - Throws: `.otherSite` when the directory holds the keys of another site.
    package static func create(
        site: SiteID, in directory: String, now: Date = Date()
    ) throws(IdentityError) -> SiteIdentity {
        let keys = KeyDirectory(path: directory)
        try keys.make()
        try keys.locked { () throws(IdentityError) in
            guard try keys.read(authorityFile) == nil else { return }
            let authority = try SiteAuthority(of: site, now: now)
            try writeLeaf(of: site, authority: authority, to: keys, now: now)
            // Last: with it the identity is there.
            try keys.write(authority.pem, to: authorityFile)
        }
        let identity = try SiteIdentity(loading: directory)
        guard identity.site.site == site else { throw .otherSite(identity.site.site, directory: directory) }
        return identity
    }

    package convenience init(loading directory: String) throws(IdentityError) {
        try self.init(loading: IdentitySource(directory: directory))
    }

    /// Takes what is in the directories as it is.
    init(loading source: IdentitySource) throws(IdentityError) {
        let keys = KeyDirectory(path: source.directory)
        self.source = source
        directory = keys
        guard let authority = try Self.authority(in: keys) else { throw .missing(directory: keys.path) }
        self.authority = authority
        guard let text = try keys.read(Self.leafFile, isSecret: true) else {
            throw .missing(directory: keys.path)
        }
        let leaf = try Self.leaf(text, from: "\(keys.path)/\(Self.leafFile)", of: authority)
        site = leaf.name
        self.leaf = (leaf.pair.certificatePEM, leaf.pair.key.pemRepresentation)
        certificate = leaf.pair.certificate
        expiry = leaf.pair.certificate.notValidAfter
    }

    /// - Returns: nil when there is none.
    static func authority(in keys: KeyDirectory) throws(IdentityError) -> SiteAuthority? {
        guard let text = try keys.read(authorityFile, isSecret: true) else { return nil }
        return try SiteAuthority(text, from: "\(keys.path)/\(authorityFile)")
    }

    /// A leaf with its key, and whom of the authority's site it names.
    static func leaf(
        _ text: String, from place: String, of authority: SiteAuthority
    ) throws(IdentityError) -> (pair: KeyPair, name: SiteID) {
        let pair = try KeyPair(text, from: place)
        let name = try SiteCertificates.site(namedBy: pair.certificate)
        guard name.site == authority.site,
            authority.certificate.publicKey.isValidSignature(
                pair.certificate.signature, for: pair.certificate)
        else { throw .malformed("\(place) is not of site \(authority.site): run 'godwit pki renew'") }
        return (pair, name)
    }

    /// Makes a new leaf certificate and key. This value keeps the old one; load it again to use the new one.
    package func renewLeaf(now: Date = Date()) throws(IdentityError) {
        try Self.renewLeaf(in: directory.path, now: now)
    }

    /// The same for a site whose leaf is lost or damaged. A node's name is in its leaf: where that cannot be read, the
    /// node's next start makes a new one.
    package static func renewLeaf(in directory: String, now: Date = Date()) throws(IdentityError) {
        let keys = KeyDirectory(path: directory)
        guard let authority = try authority(in: keys) else { throw .missing(directory: directory) }
        try authority.certificate.checkEnd(of: authority.site, isAuthority: true, now: now)
        try keys.locked { () throws(IdentityError) in
            var name = authority.site
            if let known = try? keys.read(leafFile), let leaf = try? leaf(known, from: "", of: authority) {
                name = leaf.name
            }
            try writeLeaf(of: name, authority: authority, to: keys, now: now)
        }
    }

    /// Whether less than a third of the leaf's life is left; or it was made by a clock that was ahead, so that it is not
    /// valid for long yet.
    package func isRenewalDue(now: Date = Date()) -> Bool {
        Self.isRenewalDue(certificate, of: authority.certificate, now: now)
    }

    static func isRenewalDue(_ leaf: Certificate, of authority: Certificate, now: Date) -> Bool {
        // By a clock that is behind the authority itself no leaf would be valid.
        isRenewalDue(leaf.notValidAfter, now: now)
            || now < leaf.notValidBefore && authority.notValidBefore <= now
    }

    /// What this site's own certificate, or its authority, says of the clock here; nil: they agree.
    package func clockTrouble(now: Date = Date()) -> IdentityError? {
        do {
            try authority.certificate.checkTime(of: authority.site, isAuthority: true, now: now)
            try certificate.checkTime(of: site, isAuthority: false, now: now)
            return nil
        } catch {
            return error
        }
    }

    package static func isRenewalDue(_ expiry: Date, now: Date) -> Bool {
        expiry.timeIntervalSince(now) < SiteCertificates.leafLifetime / 3
    }

    static func writeLeaf(
        of name: SiteID, authority: SiteAuthority, to keys: KeyDirectory, now: Date
    ) throws(IdentityError) {
        let key = P256.Signing.PrivateKey()
        let text: String
        do {
            let leaf = try SiteCertificates.makeLeaf(
                of: name, key: key, authority: authority.certificate, authorityKey: authority.key, now: now)
            text = try leaf.serializeAsPEM().pemString + "\n" + key.pemRepresentation + "\n"
        } catch {
            throw .cryptography("cannot make a certificate: \(error)")
        }
        try keys.write(text, to: leafFile)
    }

    // MARK: for connections

    package var certificateChainPEM: String { leaf.certificatePEM }
    package var privateKeyPEM: String { leaf.keyPEM }

    /// The name in the leaf certificates of a site, or of a node.
    package static func serverName(of site: SiteID) -> String { SiteCertificates.serverName(of: site) }
    package func serverName(of site: SiteID) -> String { Self.serverName(of: site) }

    /// Whom a connection asks for by this name.
    package static func site(serverName: String) -> SiteID? { SiteCertificates.site(serverName: serverName) }

    /// The authorities of all peers, for a server; and our own, if our site has several nodes. Without any it is our own,
    /// which can vouch for no peer: a list that is empty would mean anybody, or the whole web.
    package func trustedRootsPEM() throws(IdentityError) -> String {
        let peers = try peers().map(\.authorityPEM)
        return (peers.isEmpty || site.node != nil ? authority.certificatePEM : "") + peers.joined()
    }

    package func rootPEM(of site: SiteID) throws(IdentityError) -> String {
        guard let peer = try peer(site) else { throw .notTrusted(site.site) }
        return peer.authorityPEM
    }

    /// Which site, or which node of a site, a peer's leaf certificate speaks for.
    ///
    /// Asked at each request: it reads anew whom this site trusts, and proves anew only what has changed.
    package func authenticate(leafPEM: String, now: Date = Date()) throws(IdentityError) -> SiteID {
        if let proof = proofs.withLock({ $0[leafPEM] }), proof.lifetime.contains(now),
            try documents(of: proof.name.site) == proof.documents
        {
            return proof.name
        }
        let leaf = try SiteCertificates.parse(leafPEM)
        let name = try SiteCertificates.site(namedBy: leaf)
        let documents = try documents(of: name.site)
        // Our own site has no keys as a whole when it has nodes.
        guard let peer = try peer(name, from: documents), name != site.site else {
            throw .notTrusted(name.site)
        }
        let authority = try SiteCertificates.parse(peer.authorityPEM)
        let lifetime = try SiteCertificates.check(leaf: leaf, of: name, authority: authority, now: now)
        proofs.withLock { proofs in
            // Only who is trusted comes this far: many are certificates that were renewed.
            if proofs.count >= Proof.limit { proofs.removeAll() }
            proofs[leafPEM] = Proof(name: name, documents: documents, lifetime: lifetime)
        }
        return name
    }

    /// That a leaf certificate speaks for a name, as long as the site's trust documents are these.
    private struct Proof {
        static let limit = 256

        let name: SiteID
        let documents: Documents
        let lifetime: ClosedRange<Date>
    }

    // MARK: for people

    /// When the authority ends, and the fingerprint that others see in its document.
    package var authorityExpiry: Date { authority.expiry }
    package func authorityFingerprint() throws(IdentityError) -> String {
        try SiteCertificates.fingerprint(of: authority.certificate)
    }

    /// A new certificate counts from this much before the clock of whoever made it: so far behind another clock may be.
    package static var clockTolerance: TimeInterval { SiteCertificates.clockTolerance }

    /// What a person gives to the other side: this site's authority, its name, and where to find it.
    package func trustDocument(address: String?) throws(IdentityError) -> String {
        try authority.trustDocument(address: address)
    }
}
