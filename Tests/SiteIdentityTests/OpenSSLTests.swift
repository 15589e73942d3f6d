import Crypto
import Foundation
import Testing
import VolumeModel
import X509

@testable import SiteIdentity

/// The same certificates in the hands of another implementation, the one that gRPC uses.
///
/// One after the other: a server that is started while another test waits for the end of a pipe inherits it.
@Suite(.serialized, .enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/bin/openssl")))
struct OpenSSLTests {
    let directory: TemporaryDirectory
    let one: SiteIdentity
    let two: SiteIdentity

    init() throws {
        directory = try TemporaryDirectory()
        one = try SiteIdentity.create(site: london, in: directory.path + "/london")
        two = try SiteIdentity.create(site: sydney, in: directory.path + "/sydney")
        try one.trust(two.trustDocument(address: nil))
        try two.trust(one.trustDocument(address: nil))
    }

    @Test func chainIsValidForServerAndClient() throws {
        let root = try directory.write(two.rootPEM(of: london), "root.pem")
        let leaf = try directory.write(one.certificateChainPEM, "leaf-only.pem")
        for purpose in ["sslserver", "sslclient"] {
            let result = try openssl([
                "verify", "-x509_strict", "-purpose", purpose, "-verify_hostname",
                "london.site.godwit.internal", "-CAfile", root, leaf,
            ])
            #expect(result.status == 0, "\(result.output)")
        }
        let wrongName = try openssl([
            "verify", "-verify_hostname", "sydney.site.godwit.internal", "-CAfile", root, leaf,
        ])
        #expect(wrongName.status != 0)
        let wrongRoot = try directory.write(one.rootPEM(of: sydney), "other.pem")
        #expect(try openssl(["verify", "-CAfile", wrongRoot, leaf]).status != 0)
    }

    /// A pinned authority cannot vouch for another site's name even in TLS, where all are in one pool.
    @Test func authorityIsConstrainedToItsOwnName() throws {
        let rogue = try RogueAuthority(tokyo)
        let pool = try directory.write(
            one.trustedRootsPEM() + rogue.certificate.serializeAsPEM().pemString + "\n", "pool.pem")
        let honest = try directory.write(rogue.leaf(names: [name(tokyo)]), "honest.pem")
        let posing = try directory.write(rogue.leaf(names: [name(sydney)]), "posing.pem")
        #expect(try openssl(["verify", "-CAfile", pool, honest]).status == 0)
        let result = try openssl(["verify", "-CAfile", pool, posing])
        #expect(
            result.status != 0 && result.output.contains("permitted subtree violation"), "\(result.output)")
    }

    @Test(arguments: [true, false])
    func sitesShakeHandsIfAndOnlyIfTheyTrustEachOther(_ trusts: Bool) async throws {
        if !trusts { try one.distrust(sydney) }
        let (serverPort, server) = try startServer()
        defer {
            // It may have been started with SIGTERM blocked.
            kill(server.processIdentifier, SIGKILL)
            server.waitUntilExit()
        }
        let certificate = try directory.write(two.certificateChainPEM, "client-cert.pem")
        let key = try directory.write(two.privateKeyPEM, "client-key.pem")
        let root = try directory.write(two.rootPEM(of: london), "client-root.pem")
        var result = (status: Int32(-1), output: "")
        // Until the server listens.
        for _ in 0..<50 {
            result = try openssl(
                [
                    "s_client", "-connect", "127.0.0.1:\(serverPort)", "-cert", certificate, "-key", key,
                    "-CAfile", root, "-verify_return_error", "-verify_hostname",
                    "london.site.godwit.internal", "-ign_eof", "-tls1_3",
                ], input: "GET / HTTP/1.0\r\n\r\n")
            if !result.output.contains("refused") { break }
            try await Task.sleep(for: .milliseconds(100))
        }
        #expect(result.output.contains("Verify return code: 0 (ok)"), "\(result.output.suffix(2000))")
        // In TLS 1.3 the server's verdict on the client comes with the first bytes.
        #expect(result.output.contains("HTTP/1.0 200 ok") == trusts, "\(result.output.suffix(2000))")
    }

    private func startServer() throws -> (port: UInt16, Process) {
        let port = UInt16.random(in: 20_000..<50_000)
        let server = Process()
        server.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
        server.arguments = [
            "s_server", "-accept", "127.0.0.1:\(port)", "-quiet", "-www", "-Verify", "1",
            "-verify_return_error", "-cert", try directory.write(one.certificateChainPEM, "server-cert.pem"),
            "-key", try directory.write(one.privateKeyPEM, "server-key.pem"), "-CAfile",
            try directory.write(one.trustedRootsPEM(), "server-roots.pem"),
        ]
        server.standardOutput = FileHandle.nullDevice
        server.standardError = FileHandle.nullDevice
        server.standardInput = FileHandle.nullDevice
        try server.run()
        return (port, server)
    }
}
