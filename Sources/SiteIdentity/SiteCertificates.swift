internal import Crypto
internal import Foundation
internal import SwiftASN1
internal import VolumeModel
internal import X509

/// The form of the certificates of sites: how they are made, and what is demanded of a peer's.
enum SiteCertificates {
    static let authorityLifetime: TimeInterval = 20 * 365 * 86_400
    /// Long enough for a site that nobody looks at for a month, short enough that a lost key ends.
    static let leafLifetime: TimeInterval = 90 * 86_400
    /// A peer's clock may be this much off.
    static let clockTolerance: TimeInterval = 3600

    private static let domain = "site.godwit.internal"

    static func serverName(of site: SiteID) -> String { "\(site).\(domain)" }

    /// - Returns: nil unless `name` is what `serverName` gives for somebody.
    static func site(serverName name: some StringProtocol) -> SiteID? {
        name.hasSuffix("." + domain) ? SiteID(name.dropLast(domain.utf8.count + 1)) : nil
    }

    // MARK: making

    /// An authority that can vouch for this one site's name and for nothing else: TLS itself refuses a
    /// leaf of another name, though the authorities of all peers are in one pool.
    static func makeAuthority(
        of site: SiteID, key: P256.Signing.PrivateKey, now: Date
    ) throws -> Certificate {
        let name = try DistinguishedName { CommonName(site.description) }
        let publicKey = Certificate.PublicKey(key.publicKey)
        return try Certificate(
            version: .v3, serialNumber: .init(), publicKey: publicKey,
            notValidBefore: now - clockTolerance, notValidAfter: now + authorityLifetime, issuer: name,
            subject: name, signatureAlgorithm: .ecdsaWithSHA256,
            extensions: try Certificate.Extensions {
                Critical(BasicConstraints.isCertificateAuthority(maxPathLength: 0))
                Critical(KeyUsage(keyCertSign: true))
                Critical(NameConstraints(permittedDNSDomains: [serverName(of: site)]))
                SubjectKeyIdentifier(hash: publicKey)
            }, issuerPrivateKey: .init(key))
    }

    /// A member's names its node and the site as a whole: whoever calls the site is answered by any of its members.
    static func makeLeaf(
        of site: SiteID, key: P256.Signing.PrivateKey, authority: Certificate,
        authorityKey: P256.Signing.PrivateKey, now: Date
    ) throws -> Certificate {
        let end = min(now + leafLifetime, authority.notValidAfter)
        let names = (site.node == nil ? [site] : [site, site.site]).map {
            GeneralName.dnsName(serverName(of: $0))
        }
        return try Certificate(
            version: .v3, serialNumber: .init(), publicKey: .init(key.publicKey),
            notValidBefore: max(now - clockTolerance, authority.notValidBefore), notValidAfter: end,
            issuer: authority.subject,
            subject: try DistinguishedName { CommonName("\(site.site) node") },
            signatureAlgorithm: .ecdsaWithSHA256,
            extensions: try Certificate.Extensions {
                Critical(BasicConstraints.notCertificateAuthority)
                Critical(KeyUsage(digitalSignature: true))
                try ExtendedKeyUsage([.serverAuth, .clientAuth])
                SubjectAlternativeNames(names)
                AuthorityKeyIdentifier(
                    keyIdentifier: try authority.extensions.subjectKeyIdentifier?.keyIdentifier)
            }, issuerPrivateKey: .init(authorityKey))
    }

    // MARK: reading

    /// One certificate in PEM, whoever sent it.
    static func parse(_ pem: String) throws(IdentityError) -> Certificate {
        guard pem.utf8.count <= KeyDirectory.largestFile else {
            throw .malformed("a certificate that is too long")
        }
        do {
            return try Certificate(pemEncoded: pem)
        } catch {
            throw .malformed("a certificate that cannot be read: \(error)")
        }
    }

    static func fingerprint(of certificate: Certificate) throws(IdentityError) -> String {
        do {
            var serializer = DER.Serializer()
            try serializer.serialize(certificate)
            return SHA256.hash(data: serializer.serializedBytes).map {
                ($0 < 16 ? "0" : "") + String($0, radix: 16)
            }.joined()
        } catch {
            throw .cryptography("a certificate that cannot be written: \(error)")
        }
    }

    // MARK: checking

    /// That a certificate can be pinned as this site's authority.
    static func check(authority: Certificate, of site: SiteID) throws(IdentityError) {
        let names = authority.subject.flatMap { $0.map { $0 } }
        guard names.count == 1, let name = names.first, name.type == .RDNAttributeType.commonName,
            name.value.description == site.description
        else { throw .malformed("the document is of site \(site), its certificate is not") }
        guard authority.issuer == authority.subject,
            authority.publicKey.isValidSignature(authority.signature, for: authority)
        else { throw .malformed("the certificate of site \(site) is not signed by itself") }
        do {
            guard case .isCertificateAuthority? = try authority.extensions.basicConstraints else {
                throw IdentityError.malformed("the certificate of site \(site) is no authority's")
            }
        } catch let error as IdentityError {
            throw error
        } catch {
            throw .malformed("the certificate of site \(site) has unreadable extensions")
        }
    }

    /// The one site that a leaf names, or the one node of it. Nothing is proved by it yet.
    static func site(namedBy leaf: Certificate) throws(IdentityError) -> SiteID {
        let names: [GeneralName]
        do {
            names = try leaf.extensions.subjectAlternativeNames.map { Array($0) } ?? []
        } catch {
            throw .malformed("a certificate whose names cannot be read")
        }
        let sites = names.map { name -> SiteID? in
            guard case .dnsName(let name) = name else { return nil }
            return site(serverName: name)
        }
        let wholes = sites.filter { $0?.node == nil }
        guard (1...2).contains(sites.count), wholes.count == 1, let site = wholes[0] else {
            throw .malformed("a certificate that does not name exactly one site")
        }
        guard let node = sites.compactMap({ $0 }).first(where: { $0.node != nil }) else { return site }
        guard node.site == site else {
            throw .malformed("a certificate that names site \(site) and a node of another one")
        }
        return node
    }

    /// That the leaf is of the site, or the node, whose site pinned this authority, for connections, now.
    ///
    /// - Returns: when both certificates are valid.
    static func check(
        leaf: Certificate, of site: SiteID, authority: Certificate, now: Date
    ) throws(IdentityError) -> ClosedRange<Date> {
        guard leaf.issuer == authority.subject,
            authority.publicKey.isValidSignature(leaf.signature, for: leaf)
        else { throw .impostor(claimed: site) }
        let constraints: BasicConstraints?
        let uses: ExtendedKeyUsage?
        do {
            constraints = try leaf.extensions.basicConstraints
            uses = try leaf.extensions.extendedKeyUsage
        } catch {
            throw .malformed("a certificate of site \(site) with unreadable extensions")
        }
        if case .isCertificateAuthority? = constraints {
            throw .wrongUse(site, "is an authority's, not a node's")
        }
        guard let uses, uses.contains(.clientAuth), uses.contains(.serverAuth) else {
            throw .wrongUse(site, "is not for connections between sites")
        }
        for (certificate, isAuthority) in [(authority, true), (leaf, false)] {
            try certificate.checkTime(of: site, isAuthority: isAuthority, now: now)
        }
        return max(
            leaf.notValidBefore, authority.notValidBefore)...min(
                leaf.notValidAfter, authority.notValidAfter)
    }
}

extension Certificate {
    var validity: ClosedRange<Date> { notValidBefore...max(notValidBefore, notValidAfter) }

    /// - Throws: `.expired` or `.notYetValid`.
    func checkTime(of site: SiteID, isAuthority: Bool, now: Date) throws(IdentityError) {
        guard notValidBefore <= now else {
            throw .notYetValid(site, CertificateTime(validity, clock: now, isAuthority: isAuthority))
        }
        try checkEnd(of: site, isAuthority: isAuthority, now: now)
    }

    /// - Throws: `.expired`.
    func checkEnd(of site: SiteID, isAuthority: Bool, now: Date) throws(IdentityError) {
        guard now <= notValidAfter else {
            throw .expired(site, CertificateTime(validity, clock: now, isAuthority: isAuthority))
        }
    }
}
