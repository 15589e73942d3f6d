internal import VolumeModel

/// What one site gives to another so that it is trusted: three lines of text and a certificate.
///
/// ```
/// godwit-site: london
/// address: 203.0.113.7:7443
/// fingerprint: 4f2a…
/// -----BEGIN CERTIFICATE-----
/// ```
struct TrustDocument {
    private static let largest = 65_536

    let site: SiteID
    let address: String?
    let fingerprint: String
    let authorityPEM: String

    static func text(site: SiteID, address: String?, fingerprint: String, authorityPEM: String) -> String {
        let place = address.map { "address: \($0)\n" } ?? ""
        let end = authorityPEM.hasSuffix("\n") ? "" : "\n"
        return "godwit-site: \(site)\n\(place)fingerprint: \(fingerprint)\n\(authorityPEM)\(end)"
    }

    init(_ text: String) throws(IdentityError) {
        guard text.utf8.count <= Self.largest else { throw .malformed("a trust document that is too long") }
        var fields: [String: String] = [:]
        var certificate: [Substring] = []
        for line in text.split(whereSeparator: \.isNewline) {
            if line.hasPrefix("-----") || !certificate.isEmpty {
                certificate.append(line)
            } else if let colon = line.firstIndex(of: ":") {
                let value = line[line.index(after: colon)...].drop(while: { $0 == " " })
                fields[String(line[..<colon])] = String(value)
            }
        }
        guard let name = fields["godwit-site"], let site = SiteID(name) else {
            throw .malformed("a trust document without 'godwit-site: NAME'")
        }
        guard let fingerprint = fields["fingerprint"], !certificate.isEmpty else {
            throw .malformed("a trust document that was cut off")
        }
        self.site = site
        address = fields["address"]
        self.fingerprint = fingerprint
        authorityPEM = certificate.joined(separator: "\n") + "\n"
    }
}
