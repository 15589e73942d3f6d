import Foundation
import Testing
import VolumeModel
import X509

@testable import SiteIdentity

@Suite struct TrustTests {
    let directory: TemporaryDirectory
    let home: SiteIdentity
    let other: SiteIdentity

    init() throws {
        directory = try TemporaryDirectory()
        home = try SiteIdentity.create(site: london, in: directory.path + "/london")
        other = try SiteIdentity.create(site: sydney, in: directory.path + "/sydney")
    }

    @Test func peersAreListedByNameWithTheirAddress() throws {
        let third = try SiteIdentity.create(site: tokyo, in: directory.path + "/tokyo")
        try home.trust(third.trustDocument(address: "[2001:db8::7]:7443"))
        try home.trust(other.trustDocument(address: nil))
        let peers = try home.peers()
        #expect(peers.map(\.site) == [sydney, tokyo])
        #expect(peers.map(\.address) == [nil, "[2001:db8::7]:7443"])
        #expect(peers.allSatisfy { $0.fingerprint.count == 64 && $0.expiry > Date() })
        #expect(try home.trustedRootsPEM().components(separatedBy: "BEGIN CERTIFICATE").count == 3)
    }

    @Test func trustAgainChangesOnlyTheAddress() throws {
        let first = try home.trust(other.trustDocument(address: "a.example:1"))
        #expect(try home.trust(other.trustDocument(address: "a.example:1")) == first)
        #expect(try home.trust(other.trustDocument(address: "b.example:2")).address == "b.example:2")
        // A document without an address does not take it away.
        #expect(try home.trust(other.trustDocument(address: nil)).address == "b.example:2")
        #expect(try home.peers().count == 1)
    }

    @Test func otherKeysForAKnownNameNeedAPersonsWord() throws {
        let known = try home.trust(other.trustDocument(address: nil))
        let changed = try RogueAuthority(sydney)
        let offered = try SiteCertificates.fingerprint(of: changed.certificate)
        #expect(
            throws: IdentityError.otherAuthority(sydney, pinned: known.fingerprint, offered: offered)
        ) { try home.trust(changed.document) }
        #expect(try home.authenticate(leafPEM: other.certificateChainPEM) == sydney)
        try home.trust(changed.document, replacing: true)
        #expect(throws: IdentityError.impostor(claimed: sydney)) {
            try home.authenticate(leafPEM: other.certificateChainPEM)
        }
    }

    @Test func distrustEndsItAndMayBeRepeated() throws {
        try home.distrust(sydney)
        try home.trust(other.trustDocument(address: nil))
        try home.distrust(sydney)
        try home.distrust(sydney)
        #expect(try home.peers().isEmpty)
        #expect(throws: IdentityError.notTrusted(sydney)) {
            try home.authenticate(leafPEM: other.certificateChainPEM)
        }
    }

    /// A certificate is proved once, and whom this site trusts is looked up each time.
    @Test func whoWasAuthenticatedIsStillAskedForTrustAndTime() throws {
        let leaf = other.certificateChainPEM
        try home.trust(other.trustDocument(address: nil))
        for _ in 0..<3 { #expect(try home.authenticate(leafPEM: leaf) == sydney) }
        #expect {
            try home.authenticate(leafPEM: leaf, now: Date() + 91 * 86_400)
        } throws: { error in
            if case .expired(sydney, _)? = error as? IdentityError { true } else { false }
        }
        #expect {
            try home.authenticate(leafPEM: leaf, now: Date() - 7200)
        } throws: { error in
            if case .notYetValid(sydney, _)? = error as? IdentityError { true } else { false }
        }
        #expect(try home.authenticate(leafPEM: leaf) == sydney)
        try home.distrust(sydney)
        #expect(throws: IdentityError.notTrusted(sydney)) { try home.authenticate(leafPEM: leaf) }
        // Another process of the same directory changes the trust, too.
        let person = try SiteIdentity(loading: directory.path + "/london")
        try person.trust(other.trustDocument(address: "a.example:1"))
        #expect(try home.authenticate(leafPEM: leaf) == sydney)
        try person.trust(RogueAuthority(sydney).document, replacing: true)
        #expect(throws: IdentityError.impostor(claimed: sydney)) { try home.authenticate(leafPEM: leaf) }
    }

    @Test func manyRenewedCertificatesAreAuthenticated() throws {
        let rogue = try RogueAuthority(sydney)
        try home.trust(rogue.document)
        let leaves = try (0..<300).map { _ in try rogue.leaf(names: [name(sydney)]) }
        for leaf in leaves + leaves.reversed() {
            #expect(try home.authenticate(leafPEM: leaf) == sydney)
        }
    }

    @Test func ownDocumentIsRefused() throws {
        #expect(throws: IdentityError.self) { try home.trust(home.trustDocument(address: nil)) }
    }

    @Test func everyCutOfADocumentIsRefused() throws {
        let text = try other.trustDocument(address: "a.example:1").trimmingCharacters(in: .newlines)
        for length in 0..<text.count {
            #expect(throws: IdentityError.self) { try home.trust(String(text.prefix(length))) }
        }
        #expect(try home.peers().isEmpty)
        // Mail programs and editors may change the ends of lines.
        try home.trust(text.replacingOccurrences(of: "\n", with: "\r\n") + "\r\n\r\n")
        #expect(try home.peers().count == 1)
    }

    @Test func documentThatIsNotWhatItSaysIsRefused() throws {
        let text = try other.trustDocument(address: "a.example:1")
        let own = try home.trustDocument(address: nil)
        let certificate = own[own.range(of: "-----BEGIN")!.lowerBound...]
        let leafDocument = try TrustDocument(
            site: sydney, address: nil, fingerprint: String(repeating: "0", count: 64),
            authorityPEM: other.certificateChainPEM
        ).text
        var wrong = [
            text.replacingOccurrences(of: "godwit-site: sydney", with: "godwit-site: tokyo"),
            text.replacingOccurrences(of: "godwit-site: sydney", with: "godwit-site: ../../etc/passwd"),
            text.replacingOccurrences(of: "fingerprint: ", with: "fingerprint: 0"),
            String(text[..<text.range(of: "-----BEGIN")!.lowerBound]) + certificate,
            text + certificate, "godwit-site: tokyo\n" + text, "note: hello\n" + text, text + "trailing",
            leafDocument, "", String(repeating: "x", count: 1 << 20),
        ]
        for address in [
            "a.example", "a.example:", ":1", "a.example:0", "a.example:65536", "a.example:+1", "a b:1",
            "a.example:1:2", "::1:7443", "[::1]", "-x:1", "a\u{1b}[2J:1", "[a.example]:1",
        ] {
            wrong.append(text.replacingOccurrences(of: "a.example:1", with: address))
            #expect(throws: IdentityError.self, "\(address)") { try other.trustDocument(address: address) }
        }
        for document in wrong {
            #expect(throws: IdentityError.self, "\(document.prefix(200))") { try home.trust(document) }
        }
        #expect(try home.peers().isEmpty)
    }

    @Test func oneDamagedDocumentDoesNotCutOffTheOthers() throws {
        let third = try SiteIdentity.create(site: tokyo, in: directory.path + "/tokyo")
        try home.trust(other.trustDocument(address: nil))
        try home.trust(third.trustDocument(address: nil))
        let file = directory.path + "/london/peers/sydney.pem"
        try "rubbish".write(toFile: file, atomically: false, encoding: .utf8)
        #expect(try home.peers().map(\.site) == [tokyo])
        #expect(try home.damagedPeers().map(\.site) == [sydney])
        #expect(try home.authenticate(leafPEM: third.certificateChainPEM) == tokyo)
        #expect(throws: IdentityError.self) { try home.authenticate(leafPEM: other.certificateChainPEM) }
        // What was pinned cannot be compared any more: that takes a person's word as well.
        #expect(throws: IdentityError.self) { try home.trust(other.trustDocument(address: nil)) }
        try home.trust(other.trustDocument(address: nil), replacing: true)
        #expect(try home.peers().map(\.site) == [sydney, tokyo])
        // A document under another site's name is no document of that site.
        try third.trustDocument(address: nil).write(toFile: file, atomically: false, encoding: .utf8)
        #expect(try home.damagedPeers().map(\.site) == [sydney])
    }

    @Test func strangeFilesAmongThePeersAreIgnored() throws {
        try home.trust(other.trustDocument(address: nil))
        for name in ["UPPER.pem", "a..pem", ".pem", "sydney.pem.new", "notes.txt"] {
            try "x".write(
                toFile: directory.path + "/london/peers/" + name, atomically: false, encoding: .utf8)
        }
        #expect(try home.peers().map(\.site) == [sydney])
        #expect(try home.damagedPeers().isEmpty)
    }
}
