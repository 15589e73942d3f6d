package import Foundation
internal import Crypto
internal import SwiftASN1
package import VolumeModel
internal import X509

/// A site's authority: the certificate that others pin, and the key that signs the site's leaf certificates.
///
/// Nothing prints the key but `pem`.
package struct SiteAuthority: Sendable, CustomStringConvertible, CustomReflectable {
    package let site: SiteID
    let certificate: Certificate
    let key: P256.Signing.PrivateKey
    let certificatePEM: String

    /// Makes a new one.
    package init(of site: SiteID, now: Date = Date()) throws(IdentityError) {
        guard site.node == nil else { throw .malformed("\(site) is a node, and keys are a whole site's") }
        let key = P256.Signing.PrivateKey()
        do {
            certificate = try SiteCertificates.makeAuthority(of: site, key: key, now: now)
            certificatePEM = try certificate.serializeAsPEM().pemString + "\n"
        } catch {
            throw .cryptography("cannot make a certificate: \(error)")
        }
        self.site = site
        self.key = key
    }

    /// Reads what `pem` wrote.
    ///
    /// - Parameter place: where the text is from, for errors.
    package init(_ pem: String, from place: String) throws(IdentityError) {
        let pair = try KeyPair(pem, from: place)
        (certificate, key, certificatePEM) = (pair.certificate, pair.key, pair.certificatePEM)
        site = try Self.site(of: certificate, from: place)
    }

    /// Certificate and key, in one text so that they always belong together. Secret.
    package var pem: String { certificatePEM + key.pemRepresentation + "\n" }
    package var expiry: Date { certificate.notValidAfter }

    /// For others to pin.
    package func trustDocument(address: String?) throws(IdentityError) -> String {
        try Self.trustDocument(of: certificate, pem: certificatePEM, site: site, address: address)
    }

    /// The same out of the certificate in such a text. Its key is not looked at.
    package static func trustDocument(
        ofCertificateIn pem: String, from place: String, address: String?
    ) throws(IdentityError) -> (site: SiteID, text: String) {
        let documents: [PEMDocument]
        do { documents = try PEMDocument.parseMultiple(pemString: pem) } catch {
            throw .malformed("\(place) holds no certificate in PEM")
        }
        guard let first = documents.first(where: { $0.discriminator == Certificate.defaultPEMDiscriminator })
        else { throw .malformed("\(place) holds no certificate in PEM") }
        let text = first.pemString + "\n"
        let certificate = try SiteCertificates.parse(text)
        let site = try site(of: certificate, from: place)
        return (site, try trustDocument(of: certificate, pem: text, site: site, address: address))
    }

    private static func trustDocument(
        of certificate: Certificate, pem: String, site: SiteID, address: String?
    ) throws(IdentityError) -> String {
        try TrustDocument(
            site: site, address: address, fingerprint: SiteCertificates.fingerprint(of: certificate),
            authorityPEM: pem
        ).text
    }

    private static func site(of certificate: Certificate, from place: String) throws(IdentityError) -> SiteID
    {
        guard let name = certificate.subject.first?.first?.value.description, let site = SiteID(site: name)
        else { throw .malformed("\(place) names no site") }
        try SiteCertificates.check(authority: certificate, of: site)
        return site
    }

    package var description: String { "the authority of site \(site)" }
    package var customMirror: Mirror { Mirror(self, children: [:]) }
}

/// A certificate with its key, as they stand in one file.
struct KeyPair {
    let certificate: Certificate
    let key: P256.Signing.PrivateKey
    let certificatePEM: String

    init(_ text: String, from place: String) throws(IdentityError) {
        do {
            let documents = try PEMDocument.parseMultiple(pemString: text)
            guard documents.count == 2 else {
                throw IdentityError.malformed("\(place) is not a certificate and a key")
            }
            certificate = try Certificate(pemDocument: documents[0])
            key = try P256.Signing.PrivateKey(pemRepresentation: documents[1].pemString)
            guard certificate.publicKey == Certificate.PublicKey(key.publicKey) else {
                throw IdentityError.malformed("\(place): the key is not that of the certificate")
            }
            certificatePEM = documents[0].pemString + "\n"
        } catch let error as IdentityError {
            throw error
        } catch {
            // The parser's own words quote what it read, keys too.
            throw .malformed("\(place) is damaged: not a certificate and a key in PEM")
        }
    }
}
