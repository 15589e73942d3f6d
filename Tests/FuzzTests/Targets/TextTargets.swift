import ClusterResources
import EngineTestSupport
import Foundation
import Hydration
import VolumeModel
import X509

@testable import Cluster
@testable import Gateway
@testable import HostMounts
@testable import KubernetesAPI
@testable import RPC
@testable import SiteIdentity

/// Names, addresses, annotations, documents and certificates.
enum TextTargets {
    static let all = [texts, certificates]

    private static let texts = FuzzTarget(
        "texts", "names, ids, addresses, amounts, annotations, dates, trust documents, tables of mounts",
        byteLimit: 512,
        words: ["godwit-site: ", "address: ", "fingerprint: ", "unix://", "tcp://", "[::1]:"],
        kinds: [
            .text([HandoffSamples.volume.description]) { text in
                guard let id = VolumeID(text) else { return false }
                try demand(id.description.utf8.elementsEqual(text.utf8), "\(id) of \(text.debugDescription)")
                return true
            },
            .text(["london", "worker-1.london"]) { text in
                guard let site = SiteID(text) else { return false }
                try demand(
                    site.description.utf8.elementsEqual(text.utf8), "\(site) of \(text.debugDescription)")
                let name = SiteIdentity.serverName(of: site)
                try demand(SiteIdentity.site(serverName: name) == site, "\(name) is not \(site)")
                _ = (site.site, SiteID(node: text, of: site))
                return true
            },
            .text(["worker-1.london.site.godwit.internal"]) { text in
                guard let site = SiteIdentity.site(serverName: text) else { return false }
                try demand(
                    SiteIdentity.serverName(of: site).utf8.elementsEqual(text.utf8), text.debugDescription)
                return true
            },
            .text(["data", "a b"]) { VolumeName.isValid($0) && !VolumeResource.objectName($0).isEmpty },
            .text(["10Gi", "5k", "9223372036854775807"]) { text in
                guard let count = ByteQuantity.parse(text) else { return false }
                try demand(count > 0 && count <= UInt64(Int64.max), "\(count) bytes")
                return true
            },
            .text(["203.0.113.7:7443", "[2001:db8::1]:7443", "site.example:1", "unix:///run/godwit.sock"]) {
                _ = RPCEndpoint.bracketed($0)
                guard let endpoint = RPCEndpoint($0) else { return false }
                try demand(RPCEndpoint(endpoint.description) == endpoint, "\($0.debugDescription)")
                return true
            },
            .text(["203.0.113.7:7443", "[2001:db8::1]:7443", "site.example:1"]) { text in
                guard let address = GatewayAddress(text) else { return false }
                try demand(GatewayAddress(address.description) == address, text.debugDescription)
                return true
            },
            .text(documents) { text in
                let document = try TrustDocument(text)
                try demand((try? TrustDocument(document.text)) == document, text.debugDescription)
                return true
            },
            // Values in the order of the names.
            .text(["sydney\n10Mi\nfalse", "\nnone\ntrue"]) { text in
                let values = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
                let names = [ClaimWishes.migrateTo, ClaimWishes.rateLimit, ClaimWishes.pause]
                let wishes = ClaimWishes(
                    annotations: Dictionary(zip(names, values)) { first, _ in first })
                return wishes.badValues.isEmpty
            },
            .text(["Sun, 06 Nov 1994 08:49:37 GMT"]) { text in
                let now = Date(timeIntervalSince1970: 1_000_000_000)
                return ClockDifference(date: text, asked: now, answered: now + 1) != nil
            },
            .text(["36 35 0:52 / /mnt/a\\040b rw,noatime shared:1 - fuse.godwit godwit ro,user_id=0\n"]) {
                !MountTable.parse($0).isEmpty
            },
            .text(["data", "a/b", "."]) { text in
                let escaped = ResourceKind.escaped(text)
                try demand(escaped.utf8.allSatisfy { (0x21...0x7e).contains($0) && $0 != 0x2f }, escaped)
                return true
            },
            .text([
                "database\n  marker PG_VERSION global\n  magic x y\n  base/1 first 16Mi newest 3\n  . all # all\n"
            ]) {
                let table = try PrefetchTable($0)
                try demand(table.extended(by: table).applications.count == table.applications.count, $0)
                return !table.applications.isEmpty
            },
        ])

    private static let documents: [String] = {
        let pem = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQ==\n-----END CERTIFICATE-----\n"
        let addresses = ["203.0.113.7:7443", "[2001:db8::1]:7443", "site.example:1", nil]
        return addresses.compactMap { address in
            try? TrustDocument(
                site: HandoffSamples.here, address: address, fingerprint: "4f2a", authorityPEM: pem
            ).text
        }
    }()

    // MARK: certificates

    /// In PEM, and the bytes that PEM holds: these are hit more often when they are damaged as they are.
    private static let certificates = FuzzTarget(
        "certificates", "a peer's certificate, its names and uses, and the document that makes it known",
        byteLimit: 2048, rounds: 500,
        kinds: [
            .text([samples.authorityPEM, samples.leafPEM]) { try look(at: try SiteCertificates.parse($0)) },
            FuzzTarget.Kind(
                seeds: {
                    [samples.authorityPEM, samples.leafPEM].compactMap { pem in
                        let lines = pem.split(separator: "\n").filter { !$0.hasPrefix("-----") }
                        return Data(base64Encoded: lines.joined()).map(Array.init)
                    }
                },
                body: { bytes in
                    let pem = PEMText.certificate(bytes)
                    return try look(at: try SiteCertificates.parse(pem))
                }),
            .text([samples.document]) { text in
                _ = try KeptTrust.peer(text, keptAs: KeptTrust.name(of: HandoffSamples.here))
                return true
            },
        ])

    private static func look(at certificate: Certificate) throws -> Bool {
        _ = try SiteCertificates.fingerprint(of: certificate)
        _ = certificate.validity
        let now = samples.authority.notValidBefore + 2 * SiteCertificates.clockTolerance
        _ = try? SiteCertificates.check(authority: certificate, of: HandoffSamples.here)
        _ = try? SiteCertificates.check(
            leaf: certificate, of: HandoffSamples.here, authority: samples.authority, now: now)
        _ = try? SiteCertificates.site(namedBy: certificate)
        return true
    }

    private struct Samples: Sendable {
        let authority: Certificate
        let authorityPEM: String
        let leafPEM: String
        let document: String

        init() throws {
            let here = HandoffSamples.here
            let one = try SiteAuthority(of: here)
            let other = try SiteAuthority(of: here)
            let leaf = try SiteCertificates.makeLeaf(
                of: SiteID("n1.london")!, key: other.key, authority: one.certificate, authorityKey: one.key,
                now: Date())
            authority = one.certificate
            authorityPEM = one.certificatePEM
            leafPEM = try leaf.serializeAsPEM().pemString
            document = try one.trustDocument(address: "203.0.113.7:7443")
        }
    }
    /// Keys cannot be the same each time.
    private static let samples: Samples = {
        guard let samples = try? Samples() else { fatalError("no certificates can be made") }
        return samples
    }()
}

/// Bytes as the text that certificates come in.
private enum PEMText {
    static func certificate(_ bytes: [UInt8]) -> String {
        let text = Data(bytes).base64EncodedString(options: [.lineLength64Characters, .endLineWithLineFeed])
        return "-----BEGIN CERTIFICATE-----\n\(text)\n-----END CERTIFICATE-----\n"
    }
}
