import Foundation
import Glibc
import RPC
import Testing

@Suite(.timeLimit(.minutes(1)))
struct EndpointTests {
    @Test func endpointsAreRead() {
        #expect(RPCEndpoint("unix:///run/x.sock") == .unix(path: "/run/x.sock"))
        #expect(RPCEndpoint("unix:/run/x.sock") == .unix(path: "/run/x.sock"))
        #expect(RPCEndpoint("unix://csi/x.sock") == .unix(path: "csi/x.sock"))
        #expect(RPCEndpoint("tcp://127.0.0.1:7443") == .tcp(host: "127.0.0.1", port: 7443))
        #expect(RPCEndpoint("127.0.0.1:7443") == .tcp(host: "127.0.0.1", port: 7443))
        #expect(RPCEndpoint("tcp://[::1]:0") == .tcp(host: "::1", port: 0))
        #expect(RPCEndpoint("peer.example:65535") == .tcp(host: "peer.example", port: 65535))
        #expect(RPCEndpoint(":80") == .tcp(host: "", port: 80))
        for endpoint in [RPCEndpoint.unix(path: "/a"), .tcp(host: "::1", port: 1), .tcp(host: "a", port: 2)] {
            #expect(RPCEndpoint("\(endpoint)") == endpoint)
        }
    }

    @Test(arguments: [
        "", "unix:", "unix://", "unix:///a\0b", "tcp://", "tcp://a", "a", "a:", "a:b", "a:-1", "a:65536",
        "a:+1",
        "::1:80", "[a]:80", "[::1:80", "a b:80", "http://a:80", "a/b:80", "a:８０", "a\n:80",
    ])
    func nonsenseIsNotAnEndpoint(_ text: String) {
        #expect(RPCEndpoint(text) == nil)
    }

    @Test(
        arguments: [
            ("fd00::1:7443", "[fd00::1]:7443"), ("[fd00::1]:7443", "[fd00::1]:7443"), ("::1:1", "[::1]:1"),
            ("10.0.0.1:7443", "10.0.0.1:7443"), ("a.example:1", "a.example:1"), ("fd00::1", nil),
            ("fd00::1:", nil),
            ("fd00::g:7443", nil), ("unix:///run/x.sock", nil), ("", nil),
        ] as [(String, String?)])
    func anAddressOfANodeGetsItsBrackets(_ text: String, _ bracketed: String?) {
        #expect(RPCEndpoint.bracketed(text) == bracketed)
    }

    @Test func endpointsThatCannotBeUsedAreRefused() async {
        let long = RPCEndpoint.unix(path: "/" + String(repeating: "a", count: 107))
        let endpoints: [RPCEndpoint] = [
            long, .unix(path: ""), .unix(path: "/a\0b"), .tcp(host: "", port: 1), .tcp(host: "a", port: 0),
            .tcp(host: "a\0b", port: 1),
        ]
        for endpoint in endpoints {
            let channel = await status { _ = try RPCChannel(to: endpoint, security: .plaintext) }
            #expect(channel.code == .invalidArgument, "\(endpoint)")
        }
        let server = RPCServer { _ in }
        for endpoint in [long, .unix(path: ""), .unix(path: "/a\0b"), .tcp(host: "no such host", port: 1)] {
            let refused = await status { try server.listen(on: endpoint, security: .plaintext) }
            #expect(refused.code == .invalidArgument, "\(endpoint)")
        }
    }

    @Test func portInUseIsRefusedAtOnce() async throws {
        let service = try Service()
        let server = RPCServer { _ in }
        let taken = await status { try server.listen(on: service.endpoint, security: .plaintext) }
        #expect(taken.code == .alreadyExists, "\(taken)")
        #expect(taken.message.contains("\(service.port)"))
        await service.end()
    }

    @Test func portIsHeldBetweenListenAndStart() async throws {
        let server = RPCServer { _ in }
        let port = try #require(try server.listen(on: .tcp(host: "127.0.0.1", port: 0), security: .plaintext))
        #expect(port != 0)
        #expect(throws: RPCStatus.self) { try RawConnection(port: port) }
        try server.start()
        _ = try RawConnection(port: port)
        #expect(await server.shutdown(grace: .zero) == 0)
    }

    @Test func numericAddressesOfBothFamiliesWork() async throws {
        for host in ["::1", "127.0.0.1", "::", "0.0.0.0", ""] {
            let server = RPCServer { (call) async throws(RPCStatus) in try call.sendLast([1]) }
            let port = try #require(try server.listen(on: .tcp(host: host, port: 0), security: .plaintext))
            try server.start()
            // Those that mean every address mean those of both families.
            for target in ["::1", "127.0.0.1"] where [target, "::", "0.0.0.0", ""].contains(host) {
                let channel = try RPCChannel(to: .tcp(host: target, port: port), security: .plaintext)
                let answer = try await channel.unary("/a/b", [], timeout: .seconds(10))
                #expect(answer == [1], "\(host) at \(target)")
            }
            await server.shutdown(grace: .zero)
        }
    }

    // MARK: Unix sockets

    @Test func socketIsForItsOwnerAloneAndLeavesNothingBehind() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/s"
        let service = try Service(.unix, on: .unix(path: path))
        var found = stat()
        #expect(lstat(path, &found) == 0)
        #expect(found.st_mode & 0o7777 == 0o600)
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path) == ["s"])
        await service.end()
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path) == [])
    }

    @Test(.enabled(if: geteuid() == 0, "only root gives files to any group"))
    func socketForAGroupIsForItsMembersAsWell() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/s"
        let server = RPCServer { (_) async throws(RPCStatus) in
            throw RPCStatus(.unimplemented, "nothing here")
        }
        try server.listen(on: .unix(path: path), security: .plaintext, group: 65532)
        try server.start()
        var found = stat()
        #expect(lstat(path, &found) == 0)
        #expect(found.st_mode & 0o7777 == 0o660)
        #expect(found.st_uid == geteuid() && found.st_gid == 65532)
        await server.shutdown(grace: .zero)
    }

    @Test func staleSocketIsReplaced() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/s"
        try makeStaleSocket(path)
        let service = try Service(.unix, on: .unix(path: path))
        #expect(try await service.channel().unary("/test/Unary", [1], timeout: .seconds(10)) == [1])
        await service.end()
    }

    @Test func socketInUseAndOtherFilesAreNotReplaced() async throws {
        let service = try Service(.unix)
        let server = RPCServer { _ in }
        let taken = await status { try server.listen(on: service.endpoint, security: .plaintext) }
        #expect(taken.code == .alreadyExists)
        let directory = try TemporaryDirectory()
        let path = directory.path + "/file"
        try "precious".write(toFile: path, atomically: false, encoding: .utf8)
        let file = await status { try server.listen(on: .unix(path: path), security: .plaintext) }
        #expect(file.code == .alreadyExists)
        #expect(try String(contentsOfFile: path, encoding: .utf8) == "precious")
        #expect(try await service.channel().unary("/test/Unary", [1], timeout: .seconds(10)) == [1])
        await service.end()
    }

    @Test func successorsSocketSurvivesTheEndOfItsPredecessor() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/s"
        let old = try Service(.unix, on: .unix(path: path))
        unlink(path)
        let new = try Service(.unix, on: .unix(path: path))
        await old.end()
        #expect(try await new.channel().unary("/test/Unary", [1], timeout: .seconds(10)) == [1])
        await new.end()
    }

    @Test func missingDirectoryIsAnErrorOfStart() async throws {
        let server = RPCServer { _ in }
        try server.listen(on: .unix(path: "/tmp/no-such-directory-here/s"), security: .plaintext)
        let end = await status { try server.start() }
        #expect(end.code == .unavailable)
        #expect(end.message.contains("/tmp/no-such-directory-here/s"))
        #expect(await server.shutdown(grace: .zero) == 0)
    }

    private func makeStaleSocket(_ path: String) throws {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        close(descriptor)
        #expect(result == 0)
    }
}
