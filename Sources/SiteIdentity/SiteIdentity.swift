internal import Crypto
package import Foundation
internal import SwiftASN1
internal import Synchronization
package import VolumeModel
internal import X509

/// A site's keys, and which other sites it trusts.
///
/// Each site is its own certificate authority: a key that stays, and a leaf certificate that is renewed. To
/// trust a peer is to pin the peer's authority to the peer's name. TLS accepts any pinned authority; which
/// site a connection then speaks for is decided by `authenticate`, which wants the leaf signed by the very
/// authority that is pinned for the name it claims.
package final class SiteIdentity: Sendable {
    static let authorityLifetime: TimeInterval = 20 * 365 * 86_400
    static let leafLifetime: TimeInterval = 90 * 86_400
    /// A peer's clock may be this much off.
    static let clockTolerance: TimeInterval = 3600

    package let site: SiteID
    private let directory: String
    private let authority: Certificate
    private let leaf: (certificatePEM: String, keyPEM: String)

    /// Another site that is trusted here.
    package struct Peer: Hashable, Sendable {
        package let site: SiteID
        /// Where its peers' port is; nil: it never said.
        package let address: String?
        package let authorityPEM: String
        /// SHA-256 of the authority's certificate.
        package let fingerprint: String
        package let expiry: Date
    }

    // MARK: making and loading

    /// Makes a site's keys. Made already for the same site, it changes nothing.
    package static func create(
        site: SiteID, in directory: String
    ) throws(IdentityError) -> SiteIdentity {
        try KeyFiles.makeDirectory(directory)
        if KeyFiles.exists(directory + "/ca.pem") {
            let existing = try SiteIdentity(loading: directory)
            guard existing.site == site else { throw .otherSite(existing.site, directory: directory) }
            return existing
        }
        do {
            let key = P256.Signing.PrivateKey()
            let name = try DistinguishedName { CommonName(site.description) }
            let authority = try Certificate(
                version: .v3, serialNumber: .init(), publicKey: .init(key.publicKey),
                notValidBefore: Date() - clockTolerance, notValidAfter: Date() + authorityLifetime,
                issuer: name, subject: name, signatureAlgorithm: .ecdsaWithSHA256,
                extensions: try Certificate.Extensions {
                    Critical(BasicConstraints.isCertificateAuthority(maxPathLength: 0))
                    Critical(KeyUsage(keyCertSign: true))
                }, issuerPrivateKey: .init(key))
            try KeyFiles.write(key.pemRepresentation, to: directory + "/ca.key")
            try writeLeaf(site: site, authority: authority, key: key, directory: directory)
            // Last: with it the identity is there.
            try KeyFiles.write(try authority.serializeAsPEM().pemString, to: directory + "/ca.pem")
        } catch let error as IdentityError {
            throw error
        } catch {
            throw .cryptography("\(error)")
        }
        return try SiteIdentity(loading: directory)
    }

    package init(loading directory: String) throws(IdentityError) {
        guard KeyFiles.exists(directory + "/ca.pem") else { throw .missing(directory: directory) }
        self.directory = directory
        let authority = try Self.certificate(pem: try KeyFiles.read(directory + "/ca.pem"))
        guard let name = Self.commonName(of: authority), let site = SiteID(name) else {
            throw .malformed("\(directory)/ca.pem names no site")
        }
        self.site = site
        self.authority = authority
        leaf = (
            try KeyFiles.read(directory + "/leaf.pem"), try KeyFiles.readSecret(directory + "/leaf.key")
        )
    }

    /// Makes a new leaf certificate and key. Running sites take it up when they start again.
    package func renewLeaf() throws(IdentityError) {
        do {
            let key = try P256.Signing.PrivateKey(
                pemRepresentation: try KeyFiles.readSecret(directory + "/ca.key"))
            try Self.writeLeaf(site: site, authority: authority, key: key, directory: directory)
        } catch let error as IdentityError {
            throw error
        } catch {
            throw .cryptography("\(error)")
        }
    }

    private static func writeLeaf(
        site: SiteID, authority: Certificate, key: P256.Signing.PrivateKey, directory: String
    ) throws {
        let leafKey = P256.Signing.PrivateKey()
        let leaf = try Certificate(
            version: .v3, serialNumber: .init(), publicKey: .init(leafKey.publicKey),
            notValidBefore: Date() - clockTolerance, notValidAfter: Date() + leafLifetime,
            issuer: authority.subject,
            subject: try DistinguishedName { CommonName(site.description + " node") },
            signatureAlgorithm: .ecdsaWithSHA256,
            extensions: try Certificate.Extensions {
                Critical(BasicConstraints.notCertificateAuthority)
                Critical(KeyUsage(digitalSignature: true))
                try ExtendedKeyUsage([.serverAuth, .clientAuth])
                SubjectAlternativeNames([.dnsName(serverName(of: site))])
            }, issuerPrivateKey: .init(key))
        try KeyFiles.write(leafKey.pemRepresentation, to: directory + "/leaf.key")
        try KeyFiles.write(try leaf.serializeAsPEM().pemString, to: directory + "/leaf.pem")
    }

    // MARK: for connections

    package var certificateChainPEM: String { leaf.certificatePEM }
    package var privateKeyPEM: String { leaf.keyPEM }

    /// The name in a site's leaf certificates.
    package static func serverName(of site: SiteID) -> String { "\(site).site.godwit.internal" }
    package func serverName(of site: SiteID) -> String { Self.serverName(of: site) }

    /// The authorities of all peers, for a server. Without peers it is our own, which no peer has.
    package func trustedRootsPEM() throws(IdentityError) -> String {
        let peers = try peers().map(\.authorityPEM)
        return peers.isEmpty ? try KeyFiles.read(directory + "/ca.pem") : peers.joined(separator: "\n")
    }

    package func rootPEM(of site: SiteID) throws(IdentityError) -> String {
        guard let peer = try peers().first(where: { $0.site == site }) else { throw .notTrusted(site) }
        return peer.authorityPEM
    }

    /// Which site a peer's leaf certificate speaks for.
    package func authenticate(leafPEM: String, now: Date = Date()) throws(IdentityError) -> SiteID {
        let leaf = try Self.certificate(pem: leafPEM)
        let site = try Self.site(of: leaf)
        guard let peer = try peers().first(where: { $0.site == site }) else { throw .notTrusted(site) }
        let authority = try Self.certificate(pem: peer.authorityPEM)
        guard authority.publicKey.isValidSignature(leaf.signature, for: leaf) else {
            throw .impostor(claimed: site)
        }
        guard leaf.notValidBefore <= now, now <= leaf.notValidAfter else { throw .expired(site) }
        return site
    }

    private static func site(of leaf: Certificate) throws(IdentityError) -> SiteID {
        let names: [GeneralName]
        do {
            names = try leaf.extensions.subjectAlternativeNames.map { Array($0) } ?? []
        } catch {
            throw .malformed("a certificate whose names cannot be read")
        }
        let suffix = ".site.godwit.internal"
        guard names.count == 1, case .dnsName(let name)? = names.first, name.hasSuffix(suffix),
            let site = SiteID(name.dropLast(suffix.count))
        else { throw .malformed("a certificate that does not name exactly one site") }
        return site
    }

    // MARK: trust

    /// What a person gives to the other side: this site's authority, its name, and where to find it.
    package func trustDocument(address: String?) throws(IdentityError) -> String {
        TrustDocument.text(
            site: site, address: address, fingerprint: Self.fingerprint(of: authority),
            authorityPEM: try KeyFiles.read(directory + "/ca.pem"))
    }

    /// Trusts the site of a document. The same again changes only the address.
    ///
    /// - Parameter replacing: accept another authority for a site that is trusted already.
    @discardableResult
    package func trust(_ text: String, replacing: Bool = false) throws(IdentityError) -> Peer {
        let document = try TrustDocument(text)
        let authority = try Self.certificate(pem: document.authorityPEM)
        guard Self.commonName(of: authority) == document.site.description else {
            throw .malformed("the document is of site \(document.site), its certificate is not")
        }
        guard Self.fingerprint(of: authority) == document.fingerprint else {
            throw .malformed("the document's fingerprint is not that of its certificate")
        }
        guard document.site != site else { throw .malformed("this is the document of this site itself") }
        if let known = try peers().first(where: { $0.site == document.site }),
            known.fingerprint != document.fingerprint, !replacing
        {
            throw .otherAuthority(document.site)
        }
        try KeyFiles.makeDirectory(directory + "/peers")
        try KeyFiles.write(text, to: "\(directory)/peers/\(document.site).pem")
        return try Self.peer(of: document)
    }

    /// Ends the trust in a site. Repeated, it is a success.
    package func distrust(_ site: SiteID) throws(IdentityError) {
        try KeyFiles.delete("\(directory)/peers/\(site).pem")
    }

    /// Everybody who is trusted, by name.
    package func peers() throws(IdentityError) -> [Peer] {
        var peers: [Peer] = []
        for name in try KeyFiles.list(directory + "/peers") where name.hasSuffix(".pem") {
            peers.append(
                try Self.peer(of: try TrustDocument(try KeyFiles.read("\(directory)/peers/\(name)"))))
        }
        return peers.sorted { $0.site < $1.site }
    }

    private static func peer(of document: TrustDocument) throws(IdentityError) -> Peer {
        let authority = try certificate(pem: document.authorityPEM)
        return Peer(
            site: document.site, address: document.address, authorityPEM: document.authorityPEM,
            fingerprint: document.fingerprint, expiry: authority.notValidAfter)
    }

    // MARK: certificates

    private static func certificate(pem: String) throws(IdentityError) -> Certificate {
        do {
            return try Certificate(pemEncoded: pem)
        } catch {
            throw .malformed("a certificate that cannot be read: \(error)")
        }
    }

    private static func commonName(of certificate: Certificate) -> String? {
        for part in certificate.subject {
            for attribute in part where attribute.type == .RDNAttributeType.commonName {
                return attribute.value.description
            }
        }
        return nil
    }

    private static func fingerprint(of certificate: Certificate) -> String {
        var serializer = DER.Serializer()
        // A certificate that was just parsed or made can always be written.
        try? serializer.serialize(certificate)
        return SHA256.hash(data: serializer.serializedBytes).map {
            ($0 < 16 ? "0" : "") + String($0, radix: 16)
        }.joined()
    }
}
