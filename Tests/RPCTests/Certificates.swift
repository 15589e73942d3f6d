import Foundation
import RPC
import Synchronization

/// Keys and certificates for tests, made by the `openssl` command line.
struct Certificates: Sendable {
    struct Identity: Sendable {
        let certificate: String
        let key: String
    }

    let authority: String
    let serverIdentity: Identity
    let clientIdentity: Identity
    /// From another authority.
    let strangerAuthority: String
    let stranger: Identity
    let expired: Identity

    static let serverName = "london.test"

    var server: RPCSecurity { Self.security(serverIdentity, trusting: authority, expecting: nil) }
    var client: RPCSecurity { Self.security(clientIdentity, trusting: authority, expecting: Self.serverName) }

    static func security(
        _ identity: Identity, trusting roots: String, expecting name: String?
    ) -> RPCSecurity {
        .mutualTLS(
            certificateChainPEM: identity.certificate, privateKeyPEM: identity.key, trustedRootsPEM: roots,
            expectedServerName: name)
    }

    private static let made = Mutex<Certificates?>(nil)

    static func shared() throws -> Certificates {
        try made.withLock { made in
            if let made { return made }
            let certificates = try Certificates()
            made = certificates
            return certificates
        }
    }

    private init() throws {
        let directory = try TemporaryDirectory()
        let maker = Maker(directory: directory.path)
        authority = try maker.authority("authority").certificate
        strangerAuthority = try maker.authority("stranger-authority").certificate
        serverIdentity = try maker.identity("server", Self.serverName, by: "authority")
        clientIdentity = try maker.identity("client", "sydney.test", by: "authority")
        stranger = try maker.identity("stranger", Self.serverName, by: "stranger-authority")
        expired = try maker.identity("expired", "old.test", by: "authority", days: "-1")
    }
}

private struct Maker {
    let directory: String

    func authority(_ file: String) throws -> Certificates.Identity {
        try openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
            "\(file).key", "-out", "\(file).pem", "-days", "2", "-subj", "/CN=\(file)")
        return try read(file)
    }

    func identity(
        _ file: String, _ name: String, by authority: String, days: String = "2"
    ) throws -> Certificates.Identity {
        try openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
            "\(file).key", "-out", "\(file).csr", "-subj", "/CN=\(name)")
        let extensions = "subjectAltName=DNS:\(name)\nextendedKeyUsage=serverAuth,clientAuth\n"
        try extensions.write(toFile: "\(directory)/\(file).ext", atomically: false, encoding: .utf8)
        try openssl(
            "x509", "-req", "-in", "\(file).csr", "-CA", "\(authority).pem", "-CAkey", "\(authority).key",
            "-CAcreateserial", "-out", "\(file).pem", "-days", days, "-extfile", "\(file).ext")
        return try read(file)
    }

    private func read(_ file: String) throws -> Certificates.Identity {
        Certificates.Identity(
            certificate: try String(contentsOfFile: "\(directory)/\(file).pem", encoding: .utf8),
            key: try String(contentsOfFile: "\(directory)/\(file).key", encoding: .utf8))
    }

    private func openssl(_ arguments: String...) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
        process.arguments = arguments
        process.currentDirectoryURL = URL(fileURLWithPath: directory)
        process.standardError = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw RPCStatus(.internalError, "openssl \(arguments.joined(separator: " ")) failed")
        }
    }
}
