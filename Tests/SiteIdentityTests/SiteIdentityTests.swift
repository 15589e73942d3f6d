import Crypto
import Foundation
import Testing
import VolumeModel
import X509

@testable import SiteIdentity

@Suite struct SiteIdentityTests {
    let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    private func identity(_ site: SiteID) throws -> SiteIdentity {
        try SiteIdentity.create(site: site, in: directory.path + "/\(site)")
    }

    // MARK: keys

    @Test func keysAreReadableByTheirOwnerOnly() throws {
        let path = directory.path + "/london"
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o755])
        let one = try identity(london)
        try one.trust(identity(sydney).trustDocument(address: nil))
        #expect(try mode(path) == 0o700)
        #expect(try mode(path + "/peers") == 0o700)
        for file in ["authority.pem", "leaf.pem", "peers/sydney.pem"] {
            #expect(try mode(path + "/" + file) == 0o600, "\(file)")
        }
        let names = try FileManager.default.contentsOfDirectory(atPath: path)
        #expect(names.sorted() == ["authority.pem", "leaf.pem", "lock", "peers"])
    }

    @Test func keyThatOthersCanReadIsRefused() throws {
        _ = try identity(london)
        chmod(directory.path + "/london/leaf.pem", 0o640)
        #expect(throws: IdentityError.self) { try SiteIdentity(loading: directory.path + "/london") }
    }

    @Test func createAgainChangesNothingAndAnotherNameIsRefused() throws {
        let first = try identity(london)
        let again = try identity(london)
        #expect(first.certificateChainPEM == again.certificateChainPEM)
        #expect(try first.trustDocument(address: nil) == again.trustDocument(address: nil))
        #expect(throws: IdentityError.otherSite(london, directory: directory.path + "/london")) {
            try SiteIdentity.create(site: sydney, in: directory.path + "/london")
        }
    }

    @Test func directoryWithoutKeysSaysWhatToDo() {
        #expect(throws: IdentityError.missing(directory: directory.path)) {
            try SiteIdentity(loading: directory.path)
        }
    }

    /// A crash between the two files: the leaf is of an authority that never was.
    @Test func createAfterACrashInTheMiddleMakesNewKeys() throws {
        let first = try identity(london)
        try FileManager.default.removeItem(atPath: directory.path + "/london/authority.pem")
        let second = try identity(london)
        #expect(first.certificateChainPEM != second.certificateChainPEM)
    }

    @Test func manyAtOnceMakeOneIdentity() async throws {
        let path = directory.path + "/london"
        let documents = try await withThrowingTaskGroup(of: String.self) { group in
            for _ in 0..<8 {
                group.addTask { try SiteIdentity.create(site: london, in: path).trustDocument(address: nil) }
            }
            return try await group.reduce(into: Set<String>()) { $0.insert($1) }
        }
        #expect(documents.count == 1)
    }

    @Test func renewedLeafHasANewKeyAndIsAcceptedByPeers() throws {
        let (one, two) = (try identity(london), try identity(sydney))
        try two.trust(one.trustDocument(address: nil))
        let later = Date() + 80 * 86_400
        #expect(!one.isRenewalDue())
        #expect(one.isRenewalDue(now: later))
        try one.renewLeaf(now: later)
        let renewed = try SiteIdentity(loading: directory.path + "/london")
        #expect(renewed.privateKeyPEM != one.privateKeyPEM)
        #expect(renewed.expiry > one.expiry)
        #expect(try two.authenticate(leafPEM: renewed.certificateChainPEM, now: later) == london)
        // It mends a leaf that is damaged.
        try "rubbish".write(
            toFile: directory.path + "/london/leaf.pem", atomically: false, encoding: .utf8)
        #expect(throws: IdentityError.self) { try SiteIdentity(loading: directory.path + "/london") }
        try SiteIdentity.renewLeaf(in: directory.path + "/london")
        #expect(try SiteIdentity(loading: directory.path + "/london").site == london)
    }

    /// By a clock that is ahead a certificate is renewed which nobody believes when that clock is right again.
    @Test func aLeafThatAClockAheadHasMadeIsRenewed() throws {
        let one = try identity(london)
        let made = Date()
        #expect(one.clockTrouble() == nil)
        try one.renewLeaf(now: made + 70 * 86_400)
        let early = try SiteIdentity(loading: directory.path + "/london")
        guard case .notYetValid(london, let time)? = early.clockTrouble() else {
            Issue.record("\(String(describing: early.clockTrouble()))")
            return
        }
        #expect(time.start > made + 69 * 86_400 && time.clock < made + 3600)
        #expect(early.isRenewalDue())
        try early.renewLeaf()
        let renewed = try SiteIdentity(loading: directory.path + "/london")
        #expect(renewed.clockTrouble() == nil && !renewed.isRenewalDue())
        // A clock before the keys themselves makes none that would be good.
        #expect(!renewed.isRenewalDue(now: made - 7200))
        if case .notYetValid(london, let time)? = renewed.clockTrouble(now: made - 7200) {
            #expect(time.isAuthority)
        } else {
            Issue.record("an authority of the future")
        }
    }

    @Test func damagedKeysAreAClearErrorAtEveryCut() throws {
        _ = try identity(london)
        for name in ["authority.pem", "leaf.pem"] {
            let path = directory.path + "/london/" + name
            let whole = try String(contentsOfFile: path, encoding: .utf8)
            // The last line's end may be missing.
            for length in stride(from: 0, to: whole.count - 2, by: 7) {
                try String(whole.prefix(length)).write(toFile: path, atomically: false, encoding: .utf8)
                #expect {
                    try SiteIdentity(loading: directory.path + "/london")
                } throws: { error in
                    error is IdentityError && !"\(error)".contains("PRIVATE KEY")
                }
            }
            try whole.write(toFile: path, atomically: false, encoding: .utf8)
            #expect(try SiteIdentity(loading: directory.path + "/london").site == london)
        }
    }

    @Test func leafOfAnotherAuthorityOnDiskIsRefused() throws {
        _ = try identity(london)
        _ = try SiteIdentity.create(site: london, in: directory.path + "/other")
        try FileManager.default.removeItem(atPath: directory.path + "/london/leaf.pem")
        try FileManager.default.copyItem(
            atPath: directory.path + "/other/leaf.pem", toPath: directory.path + "/london/leaf.pem")
        #expect(throws: IdentityError.self) { try SiteIdentity(loading: directory.path + "/london") }
    }

    @Test func plantedLinkOrFIFOIsNotFollowed() throws {
        _ = try identity(london)
        let path = directory.path + "/london/leaf.pem"
        try FileManager.default.moveItem(atPath: path, toPath: directory.path + "/leaf.pem")
        symlink(directory.path + "/leaf.pem", path)
        #expect(throws: IdentityError.self) { try SiteIdentity(loading: directory.path + "/london") }
        unlink(path)
        mkfifo(path, 0o600)
        #expect(throws: IdentityError.self) { try SiteIdentity(loading: directory.path + "/london") }
    }

    // MARK: who is who

    @Test func peersKnowEachOtherAfterExchangingDocuments() throws {
        let (one, two) = (try identity(london), try identity(sydney))
        #expect(throws: IdentityError.notTrusted(london)) {
            try two.authenticate(leafPEM: one.certificateChainPEM)
        }
        try two.trust(one.trustDocument(address: "203.0.113.7:7443"))
        #expect(try two.authenticate(leafPEM: one.certificateChainPEM) == london)
        #expect(try two.rootPEM(of: london) == two.trustedRootsPEM())
        #expect(two.serverName(of: london) == "london.site.godwit.internal")
        #expect(throws: IdentityError.notTrusted(tokyo)) { try two.rootPEM(of: tokyo) }
        // Trust is of one direction.
        #expect(throws: IdentityError.notTrusted(sydney)) {
            try one.authenticate(leafPEM: two.certificateChainPEM)
        }
    }

    @Test func trustedPeerCannotPoseAsAnother() throws {
        let home = try identity(london)
        let rogue = try RogueAuthority(sydney)
        try home.trust(rogue.document)
        try home.trust(identity(tokyo).trustDocument(address: nil))
        #expect(try home.authenticate(leafPEM: rogue.leaf(names: [name(sydney)])) == sydney)
        #expect(throws: IdentityError.impostor(claimed: tokyo)) {
            try home.authenticate(leafPEM: rogue.leaf(names: [name(tokyo)]))
        }
        // Nor as this site itself.
        #expect(throws: IdentityError.notTrusted(london)) {
            try home.authenticate(leafPEM: rogue.leaf(names: [name(london)]))
        }
        // An authority with the right name and other keys is another authority.
        let impostor = try RogueAuthority(tokyo)
        #expect(throws: IdentityError.impostor(claimed: tokyo)) {
            try home.authenticate(leafPEM: impostor.leaf(names: [name(tokyo)]))
        }
    }

    @Test func leafMustNameExactlyOneSite() throws {
        let home = try identity(london)
        let rogue = try RogueAuthority(sydney)
        try home.trust(rogue.document)
        let wrong: [[GeneralName]] = [
            [], [name(sydney), name(tokyo)], [name(sydney), name(sydney)], [.dnsName("sydney")],
            [.dnsName("sydney.site.godwit.internal.example.com")], [.dnsName(".site.godwit.internal")],
            [.dnsName("*.site.godwit.internal")], [.dnsName("a.sydney.site.godwit.internal")],
            [.dnsName("SYDNEY.site.godwit.internal")], [.dnsName("../sydney.site.godwit.internal")],
            [.rfc822Name("sydney.site.godwit.internal")], [name(sydney), .rfc822Name("a@b")],
            [.uniformResourceIdentifier("spiffe://sydney")],
        ]
        for names in wrong {
            let leaf = try rogue.leaf(names: names)
            #expect(throws: IdentityError.malformed("a certificate that does not name exactly one site")) {
                try home.authenticate(leafPEM: leaf)
            }
        }
    }

    @Test func leafIsAcceptedInItsTimeOnly() throws {
        let (one, two) = (try identity(london), try identity(sydney))
        try two.trust(one.trustDocument(address: nil))
        let leaf = one.certificateChainPEM
        #expect(try two.authenticate(leafPEM: leaf, now: Date() + 89 * 86_400) == london)
        let late = Date() + 91 * 86_400
        #expect {
            try two.authenticate(leafPEM: leaf, now: late)
        } throws: { error in
            // What the clock says, what the certificate allows, and what to do.
            guard case .expired(london, let time)? = error as? IdentityError else { return false }
            return time.clock == late && !time.isAuthority
                && [
                    "valid until \(time.end.ISO8601Format())", "says \(late.ISO8601Format().prefix(16))",
                    "pki renew",
                ]
                .allSatisfy { "\(error)".contains($0) }
        }
        // A clock that is half an hour behind is fine.
        #expect(try two.authenticate(leafPEM: leaf, now: Date() - 1800) == london)
        #expect {
            try two.authenticate(leafPEM: leaf, now: Date() - 7200)
        } throws: { error in
            if case .notYetValid(london, _)? = error as? IdentityError { true } else { false }
        }
        // So must be its authority.
        let old = try RogueAuthority(tokyo, now: Date() - 21 * 365 * 86_400)
        try two.trust(old.document)
        #expect {
            try two.authenticate(leafPEM: old.leaf(names: [name(tokyo)]))
        } throws: { error in
            if case .expired(tokyo, _)? = error as? IdentityError { true } else { false }
        }
    }

    @Test func certificateForAnotherUseIsRefused() throws {
        let home = try identity(london)
        let rogue = try RogueAuthority(sydney)
        try home.trust(rogue.document)
        for leaf in [
            try rogue.leaf(names: [name(sydney)], isAuthority: true),
            try rogue.leaf(names: [name(sydney)], uses: [.codeSigning]),
            try rogue.leaf(names: [name(sydney)], uses: [.serverAuth]),
        ] {
            #expect { try home.authenticate(leafPEM: leaf) } throws: { error in
                if case .wrongUse(sydney, _)? = error as? IdentityError { true } else { false }
            }
        }
        #expect(throws: IdentityError.self) {
            try home.authenticate(leafPEM: rogue.certificate.serializeAsPEM().pemString)
        }
    }

    @Test func rubbishInPlaceOfALeafIsAnErrorAtEveryCut() throws {
        let (one, two) = (try identity(london), try identity(sydney))
        try two.trust(one.trustDocument(address: nil))
        let whole = one.certificateChainPEM.trimmingCharacters(in: .newlines)
        for length in 0..<whole.count {
            #expect(throws: IdentityError.self) {
                try two.authenticate(leafPEM: String(whole.prefix(length)))
            }
        }
        // A byte changed anywhere in it: never a trap; never accepted if the signature stands for that byte.
        // The signature has more than one encoding: the count of unused bits after one that ends in a zero bit.
        let der = try Certificate(pemEncoded: whole).serializeAsPEM().derBytes
        let signedEnd = 8 + Int(der[6]) << 8 + Int(der[7])
        try #require(der[1] == 0x82 && der[5] == 0x82 && signedEnd < der.count)
        for index in der.indices {
            for bit: UInt8 in [0x01, 0x80] {
                var changed = der
                changed[index] ^= bit
                let body = Data(changed).base64EncodedString(options: .lineLength64Characters)
                let pem = "-----BEGIN CERTIFICATE-----\n\(body)\n-----END CERTIFICATE-----"
                do {
                    #expect(try two.authenticate(leafPEM: pem) == london)
                    #expect(index >= signedEnd, "byte \(index) of \(der)")
                } catch {}
            }
        }
        #expect(throws: IdentityError.self) {
            try two.authenticate(leafPEM: String(repeating: "A", count: 1 << 20))
        }
        #expect(throws: IdentityError.self) { try two.authenticate(leafPEM: "\0\0\u{feff}") }
    }

    @Test func withoutPeersNobodyGetsIn() throws {
        let (one, two) = (try identity(london), try identity(sydney))
        #expect(try one.peers().isEmpty)
        #expect(try one.trustedRootsPEM().contains("BEGIN CERTIFICATE"))
        for leaf in [one.certificateChainPEM, two.certificateChainPEM] {
            #expect(throws: IdentityError.self) { try one.authenticate(leafPEM: leaf) }
        }
    }
}
