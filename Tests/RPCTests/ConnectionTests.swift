import RPC
import Testing

@Suite(.timeLimit(.minutes(2)))
struct ConnectionTests {
    @Test(arguments: [Service.Transport.unix, .tcp, .tcpTLS])
    func channelReconnectsAfterServerRestart(over transport: Service.Transport) async throws {
        let directory = try TemporaryDirectory()
        let first = try Service(transport, on: transport.isUnix ? .unix(path: directory.path + "/s") : nil)
        let channel = try first.channel()
        #expect(try await channel.unary("/test/Unary", [1], timeout: .seconds(5)) == [1])
        for round in 0..<3 {
            await first.server.shutdown(grace: .zero)
            let down = await status { _ = try await channel.unary("/test/Unary", [1], timeout: .seconds(5)) }
            #expect(down.code == .unavailable, "round \(round): \(down)")
            let patient = Task {
                try await channel.unary("/test/Unary", [2], timeout: .seconds(20), waitForReady: true)
            }
            try await Task.sleep(for: .milliseconds(300))
            let next = try Service(transport, on: first.endpoint)
            let begin = ContinuousClock.now
            #expect(try await patient.value == [2])
            #expect(ContinuousClock.now - begin < .seconds(4), "back-off is at most 2 s")
            #expect(try await channel.unary("/test/Unary", [3], timeout: .seconds(5)) == [3])
            await next.end()
        }
    }

    @Test func callWithoutServerFailsAtOnceUnlessItWaits() async throws {
        let listener = try RawListener()
        let port = listener.port
        let channel = try RPCChannel(to: .unix(path: "/tmp/no/such"), security: .plaintext)
        let begin = ContinuousClock.now
        #expect(await status { _ = try await channel.unary("/a/b", [], timeout: nil) }.code == .unavailable)
        let call = try channel.open("/a/b", timeout: nil)
        #expect(await status { try await call.send([]) }.code == .unavailable)
        #expect(ContinuousClock.now - begin < .seconds(5))
        let waiting = await status {
            _ = try await channel.unary("/a/b", [], timeout: .milliseconds(300), waitForReady: true)
        }
        #expect(waiting.code == .deadlineExceeded)
        #expect(port != 0)
    }

    /// Half of an upload must never look like the whole of it.
    @Test(arguments: ["closed", "reset connection", "reset stream", "half a message"])
    func clientThatDiesInMidStreamIsNotTakenForOneThatEnded(_ death: String) async throws {
        let service = try Service()
        for _ in 0..<100 {
            let client = try RawConnection(port: service.port)
            let count = service.log.count("message")
            client.send(HTTP2.preface + HTTP2.settings + HTTP2.open("/test/Receive"))
            client.send(HTTP2.data(HTTP2.message([1, 2, 3])))
            switch death {
            case "closed": client.end()
            case "reset connection":
                #expect(await eventually { service.log.count("message") > count })
                client.end(abruptly: true)
            case "reset stream":
                client.send(HTTP2.reset())
            default:
                client.send(HTTP2.data(HTTP2.prefix(100) + [1, 2, 3], isLast: false))
                client.end()
            }
            if death == "reset stream" {
                #expect(await eventually { service.log.all.contains { $0.hasPrefix("receive") } })
            }
        }
        #expect(await service.log.contains("receive: cancelled", times: 100))
        #expect(service.log.count("receive: ok") == 0)
        await service.end()
    }

    @Test func clientThatEndsItsStreamIsTakenForThat() async throws {
        let service = try Service()
        for _ in 0..<100 {
            let client = try RawConnection(port: service.port)
            client.send(HTTP2.preface + HTTP2.settings + HTTP2.open("/test/Receive"))
            client.send(HTTP2.data(HTTP2.message([1]), isLast: true))
            #expect(await eventually { service.log.all.last == "receive: ok" })
            client.end()
            service.log.add("next")
        }
        #expect(service.log.count("message") == 100)
        await service.end()
    }

    /// A client that ends its stream within a message breaks the protocol: gRPC drops the message.
    @Test func messageCutByTheEndOfTheStreamIsDropped() async throws {
        let service = try Service()
        let client = try RawConnection(port: service.port)
        client.send(HTTP2.preface + HTTP2.settings + HTTP2.open("/test/Receive"))
        client.send(HTTP2.data(HTTP2.prefix(100) + [1, 2, 3], isLast: true))
        #expect(await service.log.contains("receive: ok"))
        #expect(service.log.count("message") == 0)
        client.end()
        await service.end()
    }

    @Test(arguments: [true, false])
    func serverThatDiesInMidCallEndsIt(abruptly: Bool) async throws {
        let listener = try RawListener()
        let channel = try RPCChannel(to: .tcp(host: "127.0.0.1", port: listener.port), security: .plaintext)
        let call = try channel.open("/a/b", timeout: nil)
        let waiting = Task { await status { _ = try await call.receive() } }
        let server = try #require(try await listener.accept())
        server.send(HTTP2.settings)
        try await blocking { while let bytes = server.receive(), !bytes.contains(UInt8(ascii: "b")) {} }
        server.end(abruptly: abruptly)
        #expect(await waiting.value.code == .unavailable)
        #expect(await status { try await call.send([1]) }.code == .unavailable)
    }

    @Test func silentServerIsNoticedByKeepalive() async throws {
        let listener = try RawListener()
        var options = RPCChannelOptions()
        options.keepaliveInterval = .milliseconds(200)
        options.keepaliveTimeout = .milliseconds(200)
        let channel = try RPCChannel(
            to: .tcp(host: "127.0.0.1", port: listener.port), security: .plaintext, options: options)
        let waiting = Task { await status { _ = try await channel.unary("/a/b", [], timeout: .seconds(30)) } }
        let server = try #require(try await listener.accept())
        server.send(HTTP2.settings)
        #expect(await waiting.value.code == .unavailable)
        server.end()
    }

    @Test func silentClientIsNoticedByKeepalive() async throws {
        var options = RPCServerOptions()
        options.keepaliveInterval = .milliseconds(200)
        options.keepaliveTimeout = .milliseconds(200)
        let service = try Service(options: options)
        let client = try RawConnection(port: service.port)
        client.send(HTTP2.preface + HTTP2.settings + HTTP2.open("/test/Receive"))
        #expect(await service.log.contains("begun"))
        #expect(await service.log.contains("receive: cancelled"))
        await service.end()
    }

    @Test func frequentKeepaliveOfOurClientIsTolerated() async throws {
        var options = RPCChannelOptions()
        options.keepaliveInterval = .milliseconds(1100)
        options.keepaliveWithoutCalls = true
        let service = try Service()
        let call = try service.channel(options).open("/test/Echo", timeout: nil)
        try await call.send([1])
        #expect(try await call.receive() == [1])
        try await Task.sleep(for: .seconds(8))
        try await call.send([2])
        #expect(try await call.receive() == [2])
        await service.end()
    }

    @Test(arguments: [Service.Transport.tcp, .tcpTLS])
    func connectionThatNeverSaysAnythingIsClosed(over transport: Service.Transport) async throws {
        var options = RPCServerOptions()
        options.handshakeTimeout = .milliseconds(300)
        let service = try Service(transport, options: options)
        let client = try RawConnection(port: service.port)
        let isClosed = try await blocking {
            while let bytes = client.receive(patience: 10_000) { if bytes.isEmpty { return false } }
            return true
        }
        #expect(isClosed)
        await service.end()
    }

    @Test func connectionWithoutCallsIsClosedAfterItsIdleTime() async throws {
        var options = RPCServerOptions()
        options.maximumIdleTime = .milliseconds(300)
        let service = try Service(options: options)
        let client = try RawConnection(port: service.port)
        client.send(HTTP2.preface + HTTP2.settings)
        let goAway = try await blocking {
            var all: [UInt8] = []
            while let bytes = client.receive(patience: 10_000), !bytes.isEmpty {
                all += bytes
                // A frame of type 7 on stream 0.
                if all.indices.dropLast(6).contains(where: {
                    Array(all[$0..<($0 + 6)]) == [7, 0, 0, 0, 0, 0]
                }) {
                    return true
                }
            }
            return false
        }
        #expect(goAway)
        let channel = try service.channel()
        #expect(try await channel.unary("/test/Unary", [1], timeout: .seconds(10)) == [1])
        try await Task.sleep(for: .milliseconds(600))
        #expect(try await channel.unary("/test/Unary", [2], timeout: .seconds(10)) == [2], "reconnects")
        await service.end()
    }

    @Test func linesOfTheLibraryGoWhereTheyAreDirected() async throws {
        let log = Log()
        RPCLog.direct(from: .error) { severity, line in log.add("\(severity): \(line)") }
        let service = try Service(.tcpTLS)
        let client = try RawConnection(port: service.port)
        client.send(HTTP2.preface + HTTP2.settings)
        #expect(await eventually { log.all.contains { $0.hasPrefix("error: Handshake failed") } })
        RPCLog.direct(to: nil)
        client.end()
        await service.end()
    }

    @Test(arguments: [Service.Transport.tcp, .tcpTLS])
    func randomBytesDoNotDisturbOthers(over transport: Service.Transport) async throws {
        let service = try Service(transport)
        let channel = try service.channel()
        for round in 0..<100 {
            let connection = try RawConnection(port: service.port)
            var bytes = randomBytes(Int.random(in: 1...5000))
            if round.isMultiple(of: 3) { bytes = HTTP2.preface + bytes }
            if round.isMultiple(of: 4) {
                bytes = HTTP2.preface + HTTP2.settings + HTTP2.open("/test/Echo") + bytes
            }
            connection.send(bytes)
            if round.isMultiple(of: 2) { _ = connection.receive(patience: 5) }
            connection.end(abruptly: round.isMultiple(of: 5))
            #expect(try await channel.unary("/test/Unary", [7], timeout: .seconds(10)) == [7])
        }
        #expect(await service.server.shutdown(grace: .zero) == 0)
    }

    /// A valid conversation, cut at every byte.
    @Test func conversationCutAnywhereEndsCleanly() async throws {
        let service = try Service()
        let whole =
            HTTP2.preface + HTTP2.settings + HTTP2.open("/test/Sum")
            + HTTP2.data(HTTP2.message([1, 2, 3])) + HTTP2.data(HTTP2.message([4]), isLast: true)
        for count in 0...whole.count {
            let connection = try RawConnection(port: service.port)
            connection.send(Array(whole[..<count]))
            connection.end(abruptly: count.isMultiple(of: 2))
        }
        #expect(try await service.channel().unary("/test/Unary", [7], timeout: .seconds(10)) == [7])
        #expect(await service.server.shutdown(grace: .seconds(5)) == 0)
    }
}
