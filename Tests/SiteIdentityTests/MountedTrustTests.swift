import Foundation
import Testing
import VolumeModel

@testable import SiteIdentity

/// Trust that comes from a mounted Secret.
@Suite struct MountedTrustTests {
    let directory: TemporaryDirectory
    let mounted: MountedSecret
    let source: IdentitySource
    let home: SiteIdentity
    let other: SiteIdentity

    init() throws {
        directory = try TemporaryDirectory()
        mounted = try MountedSecret(directory.path + "/mounted")
        _ = try SiteIdentity.create(site: london, in: directory.path + "/london")
        other = try SiteIdentity.create(site: sydney, in: directory.path + "/sydney")
        source = IdentitySource(directory: directory.path + "/london", peersFrom: mounted.path)
        home = try source.load().identity
    }

    @Test func whomADocumentNamesIsTrustedForAsLongAsItIsThere() throws {
        var stamps = [try source.stamp()]
        try mounted.fill(["sydney.trust": other.trustDocument(address: "a.example:1")], mode: 0o444)
        stamps.append(try source.stamp())
        #expect(try home.peers().map(\.address) == ["a.example:1"])
        #expect(try home.authenticate(leafPEM: other.certificateChainPEM) == sydney)
        #expect(try home.trustedRootsPEM() == other.trustDocument(address: nil).certificate)
        try mounted.fill(["sydney.trust": other.trustDocument(address: "b.example:1")])
        stamps.append(try source.stamp())
        #expect(try home.peers().map(\.address) == ["b.example:1"])
        try mounted.fill([:])
        #expect(try source.stamp() == stamps[0])
        #expect(Set(stamps).count == 3)
        #expect(try home.peers().isEmpty)
        #expect(throws: IdentityError.notTrusted(sydney)) {
            try home.authenticate(leafPEM: other.certificateChainPEM)
        }
        try FileManager.default.removeItem(atPath: mounted.path)
        #expect(try home.peers().isEmpty && source.stamp() == stamps[0])
    }

    @Test func bothDirectoriesMayNameASiteIfTheyAgree() throws {
        try home.trust(other.trustDocument(address: nil))
        try mounted.fill(["sydney.trust": other.trustDocument(address: "a.example:1")])
        #expect(try home.peers().map(\.address) == ["a.example:1"])
        try home.trust(other.trustDocument(address: "b.example:1"))
        #expect(try home.peers().map(\.address) == ["b.example:1"])
        try home.distrust(sydney)
        #expect(try home.peers().map(\.address) == ["a.example:1"])
    }

    @Test func documentsThatPinDifferentKeysAreBothDistrusted() throws {
        let changed = try RogueAuthority(sydney)
        try home.trust(other.trustDocument(address: nil))
        try mounted.fill(["sydney.trust": changed.document])
        let leaves = try [other.certificateChainPEM, changed.leaf(names: [name(sydney)])]
        for leaf in leaves {
            #expect(throws: IdentityError.self) { try home.authenticate(leafPEM: leaf) }
        }
        #expect(try home.peers().isEmpty)
        let reason = try #require(try home.damagedPeers().first?.reason)
        #expect(reason.contains("different keys") && reason.contains("kubectl godwit distrust"), "\(reason)")
        try home.distrust(sydney)
        #expect(try home.authenticate(leafPEM: leaves[1]) == sydney)
        #expect(throws: IdentityError.impostor(claimed: sydney)) {
            try home.authenticate(leafPEM: leaves[0])
        }
        // What a Secret pins is not put aside without a person's word either.
        #expect {
            try home.trust(other.trustDocument(address: nil))
        } throws: { if case .otherAuthority? = $0 as? IdentityError { true } else { false } }
    }

    @Test func damagedAndStrangeFilesCutOffNobodyElse() throws {
        let third = try SiteIdentity.create(site: tokyo, in: directory.path + "/tokyo")
        let good = try third.trustDocument(address: nil)
        try mounted.fill([
            "tokyo.trust": good, "sydney.trust": good, "paris.trust": "rubbish", "UPPER.trust": good,
            "notes.txt": "hello", "rome.trust": String(repeating: "x", count: 1 << 20),
            "n.oslo.trust": good, "london.trust": try home.trustDocument(address: nil),
        ])
        #expect(try home.peers().map(\.site) == [tokyo])
        #expect(try home.damagedPeers().map(\.site.description) == ["paris", "rome", "sydney"])
        #expect(try home.authenticate(leafPEM: third.certificateChainPEM) == tokyo)
        // Not even the site's own name is its own to give away there.
        let rogue = try RogueAuthority(london)
        try mounted.fill(["london.trust": rogue.document])
        #expect(throws: IdentityError.notTrusted(london)) {
            try home.authenticate(leafPEM: rogue.leaf(names: [name(london)]))
        }
    }
}

extension String {
    /// The part of a trust document that is a certificate.
    fileprivate var certificate: String { String(self[range(of: "-----BEGIN")!.lowerBound...]) }
}
