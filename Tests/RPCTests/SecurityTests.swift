import RPC
import Testing

@Suite(.timeLimit(.minutes(1)))
struct SecurityTests {
    /// Calls an encrypted service with other credentials than it expects.
    private func call(
        _ service: Service, with security: RPCSecurity, method: String = "/test/Unary"
    ) async throws -> RPCStatus {
        let channel = try RPCChannel(to: service.endpoint, security: security)
        return await status { _ = try await channel.unary(method, [1], timeout: .seconds(10)) }
    }

    @Test(arguments: [Service.Transport.tcpTLS, .unixTLS])
    func clientOfAnotherAuthorityIsRefused(over transport: Service.Transport) async throws {
        let service = try Service(transport)
        let all = try Certificates.shared()
        let wrong = Certificates.security(
            all.stranger, trusting: all.authority, expecting: Certificates.serverName)
        #expect(try await call(service, with: wrong).code == .unavailable)
        #expect(try await call(service, with: service.clientSecurity).code == .ok, "the right one is served")
        await service.end()
    }

    @Test func clientWithoutCertificateIsRefused() async throws {
        let service = try Service(.tcpTLS)
        #expect(try await call(service, with: .plaintext).code == .unavailable)
        let known = try Certificates.shared().clientIdentity
        let port = service.port
        let answer = try await blocking { try firstBytesOfTLSServer(port: port, showing: known) }
        #expect(!answer.isEmpty)
        let refusal = try await blocking { try firstBytesOfTLSServer(port: port, showing: nil) }
        #expect(refusal.isEmpty)
        await service.end()
    }

    @Test func expiredClientIsRefused() async throws {
        let service = try Service(.tcpTLS)
        let all = try Certificates.shared()
        let expired = Certificates.security(
            all.expired, trusting: all.authority, expecting: Certificates.serverName)
        #expect(try await call(service, with: expired).code == .unavailable)
        await service.end()
    }

    @Test func serverOfAnotherAuthorityIsRefused() async throws {
        let service = try Service(.tcpTLS)
        let all = try Certificates.shared()
        let distrusting = Certificates.security(
            all.clientIdentity, trusting: all.strangerAuthority, expecting: Certificates.serverName)
        #expect(try await call(service, with: distrusting).code == .unavailable)
        await service.end()
    }

    @Test func serverWithAnotherNameIsRefused() async throws {
        let service = try Service(.tcpTLS)
        let all = try Certificates.shared()
        for name in ["sydney.test", nil] {
            let other = Certificates.security(all.clientIdentity, trusting: all.authority, expecting: name)
            #expect(try await call(service, with: other).code == .unavailable)
        }
        await service.end()
    }

    @Test func encryptedClientIsRefusedByPlaintextServer() async throws {
        let service = try Service(.tcp)
        #expect(try await call(service, with: Certificates.shared().client).code == .unavailable)
        await service.end()
    }

    @Test(arguments: [Service.Transport.tcpTLS, .unixTLS])
    func handlerReadsTheClientsCertificate(over transport: Service.Transport) async throws {
        let service = try Service(transport) { (call) async throws(RPCStatus) in
            try call.sendLast(Array((call.peerCertificatePEM ?? "none").utf8))
        }
        let answer = try await service.channel().unary("/a/b", [], timeout: .seconds(10))
        #expect(text(answer) == (try Certificates.shared().clientIdentity.certificate))
        await service.end()
    }

    @Test func oneServerListensOnSeveralEndpoints() async throws {
        let directory = try TemporaryDirectory()
        let all = try Certificates.shared()
        let server = RPCServer { (call) async throws(RPCStatus) in
            try call.sendLast(Array((call.peerCertificatePEM == nil ? "plain" : "proved").utf8))
        }
        let path = RPCEndpoint.unix(path: directory.path + "/a b%c?.sock")
        let port = try #require(try server.listen(on: .tcp(host: "localhost", port: 0), security: all.server))
        #expect(try server.listen(on: path, security: .plaintext) == nil)
        try server.start()
        #expect(await status { try server.start() }.code == .failedPrecondition)
        let plain = try RPCChannel(to: path, security: .plaintext)
        #expect(text(try await plain.unary("/a/b", [], timeout: .seconds(10))) == "plain")
        let encrypted = try RPCChannel(to: .tcp(host: "localhost", port: port), security: all.client)
        #expect(text(try await encrypted.unary("/a/b", [], timeout: .seconds(10))) == "proved")
        await server.shutdown(grace: .zero)
    }

    @Test func unusableCertificatesAreNamedAtOnce() async throws {
        let all = try Certificates.shared()
        let client = all.clientIdentity
        let cases: [(RPCSecurity, String)] = [
            (
                Certificates.security(
                    .init(certificate: "", key: client.key), trusting: all.authority, expecting: nil),
                "the certificate chain is not a sequence of PEM certificates"
            ),
            (
                Certificates.security(
                    .init(
                        certificate: client.certificate,
                        key: "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"),
                    trusting: all.authority, expecting: nil), "the private key is not an unencrypted PEM key"
            ),
            (
                Certificates.security(
                    .init(certificate: client.certificate, key: all.stranger.key), trusting: all.authority,
                    expecting: nil), "the private key does not belong to the first certificate of the chain"
            ),
            (
                Certificates.security(client, trusting: "roots", expecting: nil),
                "the trusted roots are not a sequence of PEM certificates"
            ),
            (
                Certificates.security(
                    client,
                    trusting: all.authority
                        + "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
                    expecting: nil), "the trusted roots are not a sequence of PEM certificates"
            ),
        ]
        let endpoint = RPCEndpoint.tcp(host: "127.0.0.1", port: 1)
        for (security, message) in cases {
            let expected = RPCStatus(.invalidArgument, message)
            #expect(await status { _ = try RPCChannel(to: endpoint, security: security) } == expected)
            let server = RPCServer { _ in }
            #expect(await status { try server.listen(on: endpoint, security: security) } == expected)
        }
        let chain = Certificates.security(
            .init(certificate: client.certificate + all.authority, key: client.key),
            trusting: all.strangerAuthority + all.authority, expecting: nil)
        #expect(await status { _ = try RPCChannel(to: endpoint, security: chain) }.code == .ok)
    }
}
