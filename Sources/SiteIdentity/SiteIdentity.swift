internal import Crypto
package import Foundation
internal import SwiftASN1
package import VolumeModel
internal import X509

/// A site's keys, and which other sites it trusts.
///
/// Each site is its own certificate authority: a key that stays, and a leaf certificate that is renewed. To
/// trust a peer is to pin the peer's authority to the peer's name. TLS accepts any pinned authority; which
/// site a connection then speaks for is decided by `authenticate`, which wants the leaf signed by the very
/// authority that is pinned for the name it claims.
///
/// The directory (mode 0700) holds, each file in PEM and with mode 0600:
/// - `authority.pem`: the authority's certificate and its key,
/// - `leaf.pem`: the leaf certificate and its key, in one file so that they always belong together,
/// - `peers/NAME.pem`: the trust document of a peer.
package final class SiteIdentity: Sendable {
    package let site: SiteID
    let directory: KeyDirectory
    private let authorityPEM: String
    private let fingerprint: String
    private let leaf: (certificatePEM: String, keyPEM: String)
    /// When the leaf certificate ends.
    package let expiry: Date

    private static let authorityFile = "authority.pem"
    private static let leafFile = "leaf.pem"

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
            let key = P256.Signing.PrivateKey()
            let authority = try making { try SiteCertificates.makeAuthority(of: site, key: key, now: now) }
            try writeLeaf(of: site, authority: authority, authorityKey: key, to: keys, now: now)
            // Last: with it the identity is there.
            try keys.write(try making { try pem(authority, key) }, to: authorityFile)
        }
        let identity = try SiteIdentity(loading: directory)
        guard identity.site == site else { throw .otherSite(identity.site, directory: directory) }
        return identity
    }

    package init(loading directory: String) throws(IdentityError) {
        let keys = KeyDirectory(path: directory)
        self.directory = keys
        let (authority, _, certificatePEM) = try Self.pair(in: Self.authorityFile, of: keys)
        guard let name = authority.subject.first?.first?.value.description, let site = SiteID(name) else {
            throw .malformed("\(directory)/\(Self.authorityFile) names no site")
        }
        try SiteCertificates.check(authority: authority, of: site)
        self.site = site
        authorityPEM = certificatePEM
        fingerprint = try SiteCertificates.fingerprint(of: authority)
        let (leaf, leafKey, leafPEM) = try Self.pair(in: Self.leafFile, of: keys)
        guard authority.publicKey.isValidSignature(leaf.signature, for: leaf) else {
            throw .malformed("\(directory)/\(Self.leafFile) is not of site \(site): run 'godwit pki renew'")
        }
        self.leaf = (leafPEM, leafKey.pemRepresentation)
        expiry = leaf.notValidAfter
    }

    /// Changes with every change of what is in the directory that a value loaded from it would tell: our keys and
    /// whom we trust. Cheap enough for every second.
    package static func stamp(of directory: String) throws(IdentityError) -> String {
        let keys = KeyDirectory(path: directory)
        let peers = KeyDirectory(path: directory + "/peers")
        var digest = SHA256()
        func add(_ text: String?) { digest.update(data: Data((text.map { "+" + $0 } ?? "-").utf8)) }
        for name in [authorityFile, leafFile] { add(try keys.read(name, isSecret: true)) }
        for name in try peers.names() where name.hasSuffix(".pem") {
            add(name)
            // One that is damaged is distrusted, and changes nothing else.
            add((try? peers.read(name)) ?? nil)
        }
        return digest.finalize().map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    /// Makes a new leaf certificate and key. This value keeps the old one; load it again to use the new one.
    package func renewLeaf(now: Date = Date()) throws(IdentityError) {
        try Self.renewLeaf(in: directory.path, now: now)
    }

    /// The same for a site whose leaf is lost or damaged.
    package static func renewLeaf(in directory: String, now: Date = Date()) throws(IdentityError) {
        let keys = KeyDirectory(path: directory)
        let (authority, key, _) = try pair(in: authorityFile, of: keys)
        guard let name = authority.subject.first?.first?.value.description, let site = SiteID(name) else {
            throw .malformed("\(directory)/\(authorityFile) names no site")
        }
        guard now < authority.notValidAfter else { throw .expired(site) }
        try keys.locked { () throws(IdentityError) in
            try writeLeaf(of: site, authority: authority, authorityKey: key, to: keys, now: now)
        }
    }

    /// Whether less than a third of the leaf's life is left.
    package func isRenewalDue(now: Date = Date()) -> Bool {
        expiry.timeIntervalSince(now) < SiteCertificates.leafLifetime / 3
    }

    private static func writeLeaf(
        of site: SiteID, authority: Certificate, authorityKey: P256.Signing.PrivateKey, to keys: KeyDirectory,
        now: Date
    ) throws(IdentityError) {
        let key = P256.Signing.PrivateKey()
        let text = try making {
            try pem(
                SiteCertificates.makeLeaf(
                    of: site, key: key, authority: authority, authorityKey: authorityKey, now: now), key)
        }
        try keys.write(text, to: leafFile)
    }

    private static func pem(_ certificate: Certificate, _ key: P256.Signing.PrivateKey) throws -> String {
        try certificate.serializeAsPEM().pemString + "\n" + key.pemRepresentation + "\n"
    }

    /// A certificate with its key, as `pem` wrote them.
    private static func pair(
        in name: String, of keys: KeyDirectory
    ) throws(IdentityError) -> (Certificate, P256.Signing.PrivateKey, certificatePEM: String) {
        guard let text = try keys.read(name, isSecret: true) else { throw .missing(directory: keys.path) }
        do {
            let documents = try PEMDocument.parseMultiple(pemString: text)
            guard documents.count == 2 else {
                throw IdentityError.malformed("\(keys.path)/\(name) is not a certificate and a key")
            }
            let certificate = try Certificate(pemDocument: documents[0])
            let key = try P256.Signing.PrivateKey(pemRepresentation: documents[1].pemString)
            guard certificate.publicKey == Certificate.PublicKey(key.publicKey) else {
                throw IdentityError.malformed("\(keys.path)/\(name): the key is not that of the certificate")
            }
            return (certificate, key, documents[0].pemString + "\n")
        } catch let error as IdentityError {
            throw error
        } catch {
            throw .malformed("\(keys.path)/\(name) is damaged: \(error)")
        }
    }

    private static func making<Result>(_ body: () throws -> Result) throws(IdentityError) -> Result {
        do { return try body() } catch { throw .cryptography("cannot make a certificate: \(error)") }
    }

    // MARK: for connections

    package var certificateChainPEM: String { leaf.certificatePEM }
    package var privateKeyPEM: String { leaf.keyPEM }

    /// The name in a site's leaf certificates.
    package static func serverName(of site: SiteID) -> String { SiteCertificates.serverName(of: site) }
    package func serverName(of site: SiteID) -> String { Self.serverName(of: site) }

    /// The authorities of all peers, for a server. Without peers it is our own, which can vouch for no peer:
    /// a list that is empty would mean anybody, or the whole web.
    package func trustedRootsPEM() throws(IdentityError) -> String {
        let peers = try peers().map(\.authorityPEM)
        return peers.isEmpty ? authorityPEM : peers.joined()
    }

    package func rootPEM(of site: SiteID) throws(IdentityError) -> String {
        guard let peer = try peer(site) else { throw .notTrusted(site) }
        return peer.authorityPEM
    }

    /// Which site a peer's leaf certificate speaks for.
    package func authenticate(leafPEM: String, now: Date = Date()) throws(IdentityError) -> SiteID {
        let leaf = try SiteCertificates.parse(leafPEM)
        let site = try SiteCertificates.site(namedBy: leaf)
        guard let peer = try peer(site) else { throw .notTrusted(site) }
        let authority = try SiteCertificates.parse(peer.authorityPEM)
        try SiteCertificates.check(leaf: leaf, of: site, authority: authority, now: now)
        return site
    }

    // MARK: for people

    /// What a person gives to the other side: this site's authority, its name, and where to find it.
    package func trustDocument(address: String?) throws(IdentityError) -> String {
        try TrustDocument(
            site: site, address: address, fingerprint: fingerprint, authorityPEM: authorityPEM
        ).text
    }
}
