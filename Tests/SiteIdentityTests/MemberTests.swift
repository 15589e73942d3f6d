import Foundation
import Testing
import VolumeModel
import X509

@testable import SiteIdentity

/// A site of several nodes.
@Suite struct MemberTests {
    let directory: TemporaryDirectory
    let secret: MountedSecret
    let peers: MountedSecret

    init() throws {
        directory = try TemporaryDirectory()
        secret = try MountedSecret(directory.path + "/site-keys")
        peers = try MountedSecret(directory.path + "/peers")
        try secret.fill(["authority.pem": SiteAuthority(of: london).pem])
    }

    private func source(_ node: String, keys: String? = nil) -> IdentitySource {
        IdentitySource(
            node: node, siteKeys: secret.path, directory: directory.path + "/" + (keys ?? node),
            peersFrom: peers.path)
    }

    private func member(_ node: String) throws -> SiteIdentity { try source(node).load().identity }

    private func file(_ name: String) throws -> String {
        try String(contentsOfFile: directory.path + "/" + name, encoding: .utf8)
    }

    // MARK: keys

    @Test func aMembersKeysAreMadeFromItsSitesAndKept() throws {
        let (identity, change) = try source("Worker-1").load()
        #expect(identity.site == SiteID("worker-1.london") && change == .firstKeys)
        #expect(try mode(directory.path + "/Worker-1") == 0o700)
        for file in ["authority.pem", "leaf.pem"] {
            #expect(try mode(directory.path + "/Worker-1/" + file) == 0o600, "\(file)")
        }
        #expect(try file("Worker-1/authority.pem") == secret.text("authority.pem"))
        let (again, unchanged) = try source("worker-1", keys: "Worker-1").load()
        #expect(unchanged == .none && again.certificateChainPEM == identity.certificateChainPEM)
        // Also by what knows nothing of Secrets.
        let loaded = try SiteIdentity(loading: directory.path + "/Worker-1")
        #expect(loaded.site == identity.site)
        #expect(try loaded.trustDocument(address: nil).hasPrefix("godwit-site: london\n"))
        // The name is not in the subject, which X.509 lets be 64 bytes long.
        let leaf = try Certificate(pemEncoded: identity.certificateChainPEM)
        #expect(leaf.subject.description == "CN=london node")
    }

    @Test func whatIsDueOrDamagedOrOfAnotherNodeIsMadeAnew() throws {
        let first = try member("a")
        let later = Date() + 80 * 86_400
        let (renewed, change) = try source("a").load(now: later)
        #expect(change == .newLeaf && renewed.expiry > first.expiry)
        #expect(try source("a").load(now: later).change == .none)
        let (moved, second) = try source("b", keys: "a").load(now: later)
        #expect(second == .newLeaf && moved.site == SiteID("b.london"))
        try "rubbish".write(toFile: directory.path + "/a/leaf.pem", atomically: false, encoding: .utf8)
        #expect(try source("b", keys: "a").load(now: later).change == .newLeaf)
        try FileManager.default.removeItem(atPath: directory.path + "/a/leaf.pem")
        #expect(try source("b", keys: "a").load(now: later).change == .newLeaf)
        // While it runs it renews by itself, and stays who it is.
        try moved.renewLeaf(now: later)
        #expect(try SiteIdentity(loading: directory.path + "/a").site == moved.site)
        // A key that others can read is told, not replaced.
        chmod(directory.path + "/a/leaf.pem", 0o644)
        #expect(throws: IdentityError.self) { try source("b", keys: "a").load() }
    }

    @Test func otherKeysOfTheSameSiteReplaceTheOldOnes() throws {
        let old = try member("a")
        let stamp = try source("a").stamp()
        let next = try SiteAuthority(of: london)
        try secret.fill(["authority.pem": next.pem])
        #expect(try source("a").stamp() != stamp)
        let (identity, change) = try source("a").load()
        #expect(change == .otherAuthority)
        #expect(try identity.trustDocument(address: nil) == next.trustDocument(address: nil))
        #expect(throws: IdentityError.impostor(claimed: SiteID("a.london")!)) {
            try identity.authenticate(leafPEM: old.certificateChainPEM)
        }
        // A crash after the leaf was written: the keys do not fit together until the next start.
        let leaf = try file("a/leaf.pem")
        try secret.fill(["authority.pem": SiteAuthority(of: london).pem])
        _ = try source("a").load()
        try leaf.write(toFile: directory.path + "/a/leaf.pem", atomically: false, encoding: .utf8)
        #expect(throws: IdentityError.self) { try SiteIdentity(loading: directory.path + "/a") }
        #expect(try source("a").load().change == .newLeaf)
    }

    @Test func keysOfAnotherSiteAreRefusedAndNothingIsChanged() throws {
        _ = try member("a")
        let before = try file("a/authority.pem") + file("a/leaf.pem")
        try secret.fill(["authority.pem": SiteAuthority(of: sydney).pem])
        #expect {
            try source("a").load()
        } throws: { error in
            "\(error)".contains("keys of site sydney") && "\(error)".contains("those of site london")
        }
        #expect(try file("a/authority.pem") + file("a/leaf.pem") == before)
        #expect(throws: IdentityError.otherSite(london, directory: directory.path + "/a")) {
            try SiteIdentity.create(site: sydney, in: directory.path + "/a")
        }
    }

    @Test func siteKeysThatCannotBeUsedAreAClearErrorWithoutTheKey() throws {
        let good = try #require(try secret.text("authority.pem"))
        let leaf = try SiteIdentity.create(site: sydney, in: directory.path + "/s")
        let leafPair = leaf.certificateChainPEM + leaf.privateKeyPEM
        var wrong = ["", "rubbish", leafPair, good + good, String(repeating: "x", count: 1 << 20)]
        wrong += stride(from: 0, to: good.count - 2, by: 7).map { String(good.prefix($0)) }
        for text in wrong {
            try secret.fill(["authority.pem": text])
            #expect {
                try source("a").load()
            } throws: { error in
                error is IdentityError && !"\(error)".contains("PRIVATE KEY") && "\(error)".count < 1000
            }
        }
        try secret.fill(["other.pem": good])
        #expect { try source("a").load() } throws: { "\($0)".contains("kubectl godwit init") }
        try secret.fill(["authority.pem": good], mode: 0o444)
        #expect { try source("a").load() } throws: { "\($0)".contains("defaultMode") }
        try secret.fill(["authority.pem": good], mode: 0o440)
        for node in ["", ".", "a..b", "a_b", String(repeating: "a", count: 200), "a/b", "a\0b"] {
            #expect(throws: IdentityError.self, "\(node)") { try source(node, keys: "x").load() }
        }
        #expect(!FileManager.default.fileExists(atPath: directory.path + "/x"))
        #expect {
            try source("a").load(now: Date() + 21 * 365 * 86_400)
        } throws: { error in
            if case .expired(london, _)? = error as? IdentityError { true } else { false }
        }
        #expect(try source("node.example.com", keys: "y").load().identity.site.node == "node.example.com")
        for shown in [
            "\(try SiteAuthority(good, from: "x"))", String(reflecting: try SiteAuthority(good, from: "x")),
        ] {
            #expect(!shown.contains("PRIVATE") && shown.contains("london"), "\(shown)")
        }
    }

    // MARK: who is who

    @Test func membersOfOneSiteAcceptEachOther() throws {
        let (a, b) = (try member("a"), try member("b"))
        #expect(try a.authenticate(leafPEM: b.certificateChainPEM) == b.site)
        #expect(try a.rootPEM(of: b.site) == b.trustedRootsPEM())
        #expect(a.serverName(of: b.site) == "b.london.site.godwit.internal")
        #expect(SiteIdentity.site(serverName: "b.london.site.godwit.internal") == b.site)
        for name in ["b.london", "site.godwit.internal", ".site.godwit.internal", "B.site.godwit.internal"] {
            #expect(SiteIdentity.site(serverName: name) == nil)
        }
        #expect(try a.peers().isEmpty)
        // A key of the whole site is none of its nodes'.
        let whole = directory.path + "/whole"
        let site = try SiteIdentity.create(site: london, in: whole)
        #expect(throws: IdentityError.notTrusted(london)) {
            try a.authenticate(leafPEM: site.certificateChainPEM)
        }
        // Nor does such a site take nodes for its own.
        for leaf in [a.certificateChainPEM, site.certificateChainPEM] {
            #expect(throws: IdentityError.notTrusted(london)) { try site.authenticate(leafPEM: leaf) }
        }
        #expect(throws: IdentityError.notTrusted(london)) { try site.rootPEM(of: a.site) }
        // Another authority of the same name.
        try secret.fill(["authority.pem": SiteAuthority(of: london).pem])
        let other = try member("c")
        #expect(throws: IdentityError.impostor(claimed: other.site)) {
            try a.authenticate(leafPEM: other.certificateChainPEM)
        }
    }

    @Test func whoeverTrustsTheSiteTrustsItsMembersUntilTheyDoNot() throws {
        let far = try SiteIdentity.create(site: sydney, in: directory.path + "/sydney")
        let (a, b) = (try member("a"), try member("b"))
        try far.trust(a.trustDocument(address: "203.0.113.7:7443"))
        for one in [a, b] {
            #expect(try far.authenticate(leafPEM: one.certificateChainPEM) == one.site)
            #expect(try far.rootPEM(of: one.site) == far.rootPEM(of: london))
            #expect(try far.peer(one.site)?.address == "203.0.113.7:7443")
        }
        #expect(throws: IdentityError.notTrusted(sydney)) {
            try a.authenticate(leafPEM: far.certificateChainPEM)
        }
        try far.distrust(london)
        #expect(throws: IdentityError.notTrusted(london)) {
            try far.authenticate(leafPEM: a.certificateChainPEM)
        }
        #expect(throws: IdentityError.ownDocument) { try a.trust(b.trustDocument(address: nil)) }
    }

    @Test func noAuthorityVouchesForAnothersMembers() throws {
        let home = try member("a")
        let rogue = try RogueAuthority(sydney)
        try home.trust(rogue.document)
        try home.trust(
            SiteIdentity.create(site: tokyo, in: directory.path + "/t").trustDocument(address: nil))
        func authenticate(_ names: String...) throws -> SiteID {
            try home.authenticate(leafPEM: rogue.leaf(names: names.map { name(SiteID($0)!) }))
        }
        #expect(try authenticate("n.sydney", "sydney") == SiteID("n.sydney"))
        #expect(try authenticate("sydney", "n.m.sydney") == SiteID("n.m.sydney"))
        for site in ["tokyo", "london"] {
            #expect(throws: IdentityError.impostor(claimed: SiteID("n.\(site)")!)) {
                try authenticate("n.\(site)", site)
            }
        }
        for wrong in [
            ["n.sydney"], ["n.sydney", "m.sydney"], ["n.sydney", "m.sydney", "sydney"],
            ["sydney", "sydney"], ["sydney", "tokyo"], ["sydney", "n.sydney", "n.sydney"],
            ["sydney", "n.tokyo"], ["tokyo", "n.sydney"], ["n.sydney", "n.tokyo"],
        ] {
            let leaf = try rogue.leaf(names: wrong.map { name(SiteID($0)!) })
            #expect {
                try home.authenticate(leafPEM: leaf)
            } throws: { if case .malformed? = $0 as? IdentityError { true } else { false } }
        }
        for names: [GeneralName] in [
            [name(sydney), .rfc822Name("n.sydney")], [name(sydney), .dnsName("n.sydney")],
            [name(sydney), .dnsName("*.sydney.site.godwit.internal")],
            [name(sydney), .dnsName("N.sydney.site.godwit.internal")],
        ] {
            let leaf = try rogue.leaf(names: names)
            #expect(throws: IdentityError.malformed("a certificate that does not name exactly one site")) {
                try home.authenticate(leafPEM: leaf)
            }
        }
    }

    @Test func anotherImplementationAcceptsAMembersCertificate() throws {
        guard FileManager.default.isExecutableFile(atPath: "/usr/bin/openssl") else { return }
        let node = (0..<3).map { _ in String(repeating: "n", count: 40) }.joined(separator: ".")
        let identity = try member(node)
        let root = try directory.write(identity.rootPEM(of: identity.site), "root.pem")
        let leaf = try directory.write(identity.certificateChainPEM, "member.pem")
        for (host, isRight) in [
            ("london", true), (node + ".london", true), ("other.london", false), ("sydney", false),
        ] {
            let result = try openssl([
                "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname",
                host + ".site.godwit.internal", "-CAfile", root, leaf,
            ])
            #expect((result.status == 0) == isRight, "\(host): \(result.output)")
        }
        // TLS itself refuses what an authority may not vouch for.
        let rogue = try RogueAuthority(sydney)
        let pool = try directory.write(rogue.certificate.serializeAsPEM().pemString + "\n", "pool.pem")
        let posing = try directory.write(
            rogue.leaf(names: [name(SiteID("n.london")!), name(london)]), "posing.pem")
        let result = try openssl(["verify", "-CAfile", pool, posing])
        #expect(
            result.status != 0 && result.output.contains("permitted subtree violation"), "\(result.output)")
    }
}

/// A directory as kubelet mounts a Secret into it: links through `..data`, which is turned in one step.
final class MountedSecret {
    let path: String
    private var version = 0

    init(_ path: String) throws {
        self.path = path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        try fill([:])
    }

    func fill(_ files: [String: String], mode: mode_t = 0o400) throws {
        version += 1
        let new = "..\(version)"
        try FileManager.default.createDirectory(
            atPath: path + "/" + new, withIntermediateDirectories: false)
        for (name, text) in files {
            let file = path + "/" + new + "/" + name
            try text.write(toFile: file, atomically: false, encoding: .utf8)
            chmod(file, mode)
        }
        unlink(path + "/..data_tmp")
        symlink(new, path + "/..data_tmp")
        rename(path + "/..data_tmp", path + "/..data")
        for name in try FileManager.default.contentsOfDirectory(atPath: path) where !name.hasPrefix("..") {
            if files[name] == nil { unlink(path + "/" + name) }
        }
        for name in files.keys { symlink("..data/" + name, path + "/" + name) }
        if version > 1 { try FileManager.default.removeItem(atPath: path + "/..\(version - 1)") }
    }

    func text(_ name: String) throws -> String? {
        try String(contentsOfFile: path + "/" + name, encoding: .utf8)
    }
}
