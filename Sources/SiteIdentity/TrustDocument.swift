package import VolumeModel

/// What one site gives to another so that it is trusted: three lines of text and a certificate.
///
/// ```
/// godwit-site: london
/// address: 203.0.113.7:7443
/// fingerprint: 4f2a…
/// -----BEGIN CERTIFICATE-----
/// ```
///
/// Nothing else is accepted, so that what is stored and shown later is what was checked.
struct TrustDocument: Hashable, Sendable {
    private static let largest = 16_384

    let site: SiteID
    /// host:port; nil: it does not say.
    let address: String?
    /// SHA-256 of the authority's certificate, in hexadecimal digits.
    let fingerprint: String
    let authorityPEM: String

    init(site: SiteID, address: String?, fingerprint: String, authorityPEM: String) throws(IdentityError) {
        if let address { try Self.check(address: address) }
        self.site = site
        self.address = address
        self.fingerprint = fingerprint
        self.authorityPEM = authorityPEM
    }

    var text: String {
        let place = address.map { "address: \($0)\n" } ?? ""
        let end = authorityPEM.hasSuffix("\n") ? "" : "\n"
        return "godwit-site: \(site)\n\(place)fingerprint: \(fingerprint)\n\(authorityPEM)\(end)"
    }

    init(_ text: String) throws(IdentityError) {
        guard text.utf8.count <= Self.largest else { throw .malformed("a trust document that is too long") }
        var fields: [String: String] = [:]
        var certificate: [Substring] = []
        var isComplete = false
        for line in text.split(whereSeparator: \.isNewline) {
            if certificate.isEmpty, line != "-----BEGIN CERTIFICATE-----" {
                let (name, value) = try Self.field(line)
                guard fields.updateValue(value, forKey: name) == nil else {
                    throw .malformed("a trust document with two lines '\(name)'")
                }
            } else {
                guard !isComplete else { throw .malformed("a trust document with more than one certificate") }
                certificate.append(line)
                isComplete = line == "-----END CERTIFICATE-----"
            }
        }
        guard let name = fields["godwit-site"], let site = SiteID(site: name) else {
            throw .malformed("a trust document without 'godwit-site: NAME'")
        }
        guard isComplete, let fingerprint = fields["fingerprint"] else {
            throw .malformed("a trust document that was cut off")
        }
        try self.init(
            site: site, address: fields["address"], fingerprint: fingerprint,
            authorityPEM: certificate.joined(separator: "\n") + "\n")
    }

    private static func field(_ line: Substring) throws(IdentityError) -> (name: String, value: String) {
        for name in ["godwit-site", "address", "fingerprint"] where line.hasPrefix(name + ": ") {
            return (name, String(line.dropFirst(name.count + 2)))
        }
        throw .malformed(
            "not a trust document: it is what 'godwit pki show', or 'kubectl godwit show', prints at the other site"
        )
    }

    /// A host name, an IPv4 address or an IPv6 address in brackets, and a port.
    private static func check(address: String) throws(IdentityError) {
        let problem = IdentityError.malformed(
            "'\(address.prefix(80).filter { $0.isASCII && $0 >= " " })' is no address: "
                + "it must be host:port, an IPv6 host in brackets")
        guard address.utf8.count <= 270, let colon = address.lastIndex(of: ":"),
            let port = UInt16(address[address.index(after: colon)...]), port > 0,
            address[address.index(after: colon)...].allSatisfy(\.isNumber)
        else { throw problem }
        var host = address[..<colon]
        var allowed: Set<Character> = Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
            allowed = Set("abcdefABCDEF0123456789:.")
        }
        guard !host.isEmpty, !host.hasPrefix("-"), host.allSatisfy(allowed.contains) else { throw problem }
    }
}

/// The rules of trust where documents are kept by somebody else, such as in a Secret.
package enum KeptTrust {
    /// Under which name a site's document is kept.
    package static func name(of site: SiteID) -> String { "\(site)\(SiteIdentity.mountedEnd)" }

    /// Whom a document names. Nothing is checked.
    package static func site(of document: String) throws(IdentityError) -> SiteID {
        try TrustDocument(document).site
    }

    /// Whom a document that is kept under a name makes known.
    ///
    /// - Throws: when it is damaged, or of another site than the name says.
    package static func peer(_ document: String, keptAs name: String) throws(IdentityError)
        -> SiteIdentity.Peer
    {
        let peer = try TrustDocument(document).peer()
        guard self.name(of: peer.site) == name else {
            throw .malformed("it is the document of site \(peer.site)")
        }
        return peer
    }

    /// Whom others trust who trust the certificate in such a text. The key beside it is not looked at.
    package static func authority(in pem: String, from place: String) throws(IdentityError)
        -> SiteIdentity.Peer
    {
        try TrustDocument(
            SiteAuthority.trustDocument(ofCertificateIn: pem, from: place, address: nil).text
        ).peer()
    }

    /// What is kept of a document that a person gives.
    ///
    /// - Parameters:
    ///   - known: what is kept of that site now.
    ///   - own: the site that is to trust it, if that is known.
    ///   - replacing: accept other keys than the known ones.
    package static func accept(
        _ text: String, over known: String?, at own: SiteID?, replacing: Bool
    ) throws(IdentityError) -> (document: String, peer: SiteIdentity.Peer) {
        let document = try TrustDocument(text)
        guard document.site != own?.site else { throw .ownDocument }
        let accepted = try document.accepted(
            over: { () throws(IdentityError) in
                guard let known else { return nil }
                let kept = try TrustDocument(known)
                _ = try kept.peer()
                guard kept.site == document.site else {
                    throw .malformed("what is kept for site \(document.site) is the document of \(kept.site)")
                }
                return kept
            }, replacing: replacing)
        return (accepted.text, try accepted.peer())
    }
}
