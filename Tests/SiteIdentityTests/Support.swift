import Crypto
import Foundation
import SwiftASN1
import VolumeModel
import X509

@testable import SiteIdentity

let london = SiteID("london")!
let sydney = SiteID("sydney")!
let tokyo = SiteID("tokyo")!

/// A directory of one test, gone after it.
final class TemporaryDirectory {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "/godwit-pki-" + UUID().uuidString
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ text: String, _ name: String) throws -> String {
        try text.write(toFile: path + "/" + name, atomically: false, encoding: .utf8)
        return path + "/" + name
    }
}

func mode(_ path: String) throws -> Int {
    let attributes = try FileManager.default.attributesOfItem(atPath: path)
    return (attributes[.posixPermissions] as? Int) ?? -1
}

/// An authority whose key the test holds, so that it can sign what no honest site would.
struct RogueAuthority {
    let key = P256.Signing.PrivateKey()
    let certificate: Certificate

    init(_ site: SiteID, now: Date = Date()) throws {
        certificate = try SiteCertificates.makeAuthority(of: site, key: key, now: now)
    }

    var document: String {
        get throws {
            try TrustDocument(
                site: SiteID("\(certificate.subject.first!.first!.value)")!, address: nil,
                fingerprint: SiteCertificates.fingerprint(of: certificate),
                authorityPEM: certificate.serializeAsPEM().pemString + "\n"
            ).text
        }
    }

    func leaf(
        names: [GeneralName], from: Date = Date() - 60, until: Date = Date() + 3600,
        isAuthority: Bool = false,
        uses: [ExtendedKeyUsage.Usage] = [.serverAuth, .clientAuth], key: P256.Signing.PrivateKey = .init()
    ) throws -> String {
        try Certificate(
            version: .v3, serialNumber: .init(), publicKey: .init(key.publicKey), notValidBefore: from,
            notValidAfter: until, issuer: certificate.subject,
            subject: DistinguishedName { CommonName("node") }, signatureAlgorithm: .ecdsaWithSHA256,
            extensions: Certificate.Extensions {
                Critical(
                    isAuthority
                        ? BasicConstraints.isCertificateAuthority(maxPathLength: nil)
                        : BasicConstraints.notCertificateAuthority)
                try ExtendedKeyUsage(uses)
                SubjectAlternativeNames(names)
            }, issuerPrivateKey: .init(self.key)
        ).serializeAsPEM().pemString
    }
}

func name(_ site: SiteID) -> GeneralName { .dnsName(SiteCertificates.serverName(of: site)) }

/// Runs the openssl command.
func openssl(_ arguments: [String], input: String = "") throws -> (status: Int32, output: String) {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
    process.arguments = arguments
    let (output, stdin) = (Pipe(), Pipe())
    process.standardOutput = output
    process.standardError = output
    process.standardInput = stdin
    try process.run()
    stdin.fileHandleForWriting.write(Data(input.utf8))
    try stdin.fileHandleForWriting.close()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: data, as: UTF8.self))
}
