import RPC
import Testing

@Suite(.timeLimit(.minutes(2)))
struct LimitTests {
    @Test func messageTooLargeForTheServerEndsTheCall() async throws {
        var options = RPCServerOptions()
        options.maximumMessageByteCount = 100_000
        let service = try Service(options: options)
        let channel = try service.channel()
        let exact = [UInt8](repeating: 1, count: 100_000)
        #expect(try await channel.unary("/test/Unary", exact, timeout: .seconds(10)) == exact)
        let end = await status {
            _ = try await channel.unary("/test/Unary", exact + [1], timeout: .seconds(10))
        }
        #expect(end.code == .resourceExhausted, "\(end)")
        let call = try channel.open("/test/Receive", timeout: .seconds(10))
        let streamed = await status {
            try await call.send(exact + [1])
            _ = try await call.receive()
        }
        #expect(streamed.code == .resourceExhausted, "\(streamed)")
        #expect(await service.log.contains("receive: cancelled"))
        #expect(service.log.count("receive: ok") == 0)
        await service.end()
    }

    @Test func messageTooLargeForTheClientEndsTheCall() async throws {
        let service = try Service { (call) async throws(RPCStatus) in
            try await call.send([UInt8](repeating: 1, count: 100_001))
        }
        var options = RPCChannelOptions()
        options.maximumMessageByteCount = 100_000
        let channel = try service.channel(options)
        let end = await status { _ = try await channel.unary("/a/b", [], timeout: .seconds(10)) }
        #expect(end.code == .resourceExhausted, "\(end)")
        let call = try channel.open("/a/b", timeout: .seconds(10))
        #expect(await status { _ = try await call.receive() }.code == .resourceExhausted)
        await service.end()
    }

    @Test func messageTooLargeToSendIsRefusedAndTheCallGoesOn() async throws {
        let log = Log()
        var options = RPCServerOptions()
        options.maximumMessageByteCount = 100
        let service = try Service(options: options) { (call) async throws(RPCStatus) in
            let large = [UInt8](repeating: 1, count: 101)
            log.add("send: \(await status { try await call.send(large) }.code)")
            log.add("last: \(await status { try call.sendLast(large) }.code)")
            try call.sendLast(Array(large[1...]))
        }
        var channelOptions = RPCChannelOptions()
        channelOptions.maximumMessageByteCount = 200
        let channel = try service.channel(channelOptions)
        let large = [UInt8](repeating: 1, count: 201)
        #expect(
            await status { _ = try await channel.unary("/a/b", large, timeout: nil) }.code
                == .resourceExhausted)
        let call = try channel.open("/a/b", timeout: .seconds(10))
        #expect(await status { try await call.send(large) }.code == .resourceExhausted)
        #expect(try await call.receive()?.count == 100)
        #expect(try await call.receive() == nil)
        #expect(log.all == ["send: resourceExhausted", "last: resourceExhausted"])
        await service.end()
    }

    @Test func serverSendsNoFasterThanTheClientReceives() async throws {
        let service = try Service()
        let call = try service.channel().open("/test/Flood", timeout: .seconds(60))
        #expect(try await call.receive()?.count == 256 << 10)
        let ahead = try await settled { service.log.count("sent") }
        #expect(ahead < 80, "\(ahead) × 256 KiB are on the way")
        for _ in 0..<200 { #expect(try await call.receive()?.count == 256 << 10) }
        #expect(service.log.count("sent") >= 200)
        call.cancel()
        #expect(await service.log.contains("send: cancelled"))
        await service.end()
    }

    @Test func clientSendsNoFasterThanTheServerReceives() async throws {
        let gate = Gate()
        let service = try Service { (call) async throws(RPCStatus) in
            await gate.wait()
            var count = 0
            while let message = try await call.receive() { count += message.count }
            try await call.send(Array(String(count).utf8))
        }
        let call = try service.channel().open("/a/b", timeout: .seconds(60))
        let log = Log()
        let sending = Task {
            for _ in 0..<400 {
                try await call.send([UInt8](repeating: 1, count: 256 << 10))
                log.add("sent")
            }
            try await call.finishSending()
        }
        let ahead = try await settled { log.count("sent") }
        #expect(ahead < 80, "\(ahead) × 256 KiB are on the way")
        gate.open()
        try await sending.value
        #expect(text(try await call.receive()) == String(400 << 18))
        await service.end()
    }

    /// The value that a count stays at.
    private func settled(_ count: () -> Int) async throws -> Int {
        var last = -1
        while true {
            try await Task.sleep(for: .milliseconds(300))
            let now = count()
            if now == last { return now }
            last = now
        }
    }

    @Test func callsBeyondTheLimitAreRefused() async throws {
        var options = RPCServerOptions()
        options.maximumConcurrentCalls = 3
        let service = try Service(options: options)
        let channel = try service.channel()
        let calls = try (0..<3).map { _ in try channel.open("/test/Sleep", timeout: nil) }
        #expect(await service.log.contains("begun", times: 3))
        let refused = await status { _ = try await channel.unary("/test/Unary", [1], timeout: .seconds(10)) }
        #expect(refused == RPCStatus(.resourceExhausted, "the server runs 3 calls already"))
        calls[0].cancel()
        #expect(await service.log.contains("send: cancelled"))
        var served = refused
        while served.code == .resourceExhausted {
            served = await status { _ = try await channel.unary("/test/Unary", [1], timeout: .seconds(10)) }
        }
        #expect(served.code == .ok)
        await service.end()
    }

    @Test func callsBeyondTheStreamLimitWait() async throws {
        var options = RPCServerOptions()
        options.maximumConcurrentStreams = 2
        let service = try Service(options: options)
        let channel = try service.channel()
        _ = try await channel.unary("/test/Unary", [1], timeout: .seconds(10))
        let calls = try (0..<2).map { _ in try channel.open("/test/Sleep", timeout: nil) }
        #expect(await service.log.contains("begun", times: 2))
        let third = Task { try await channel.unary("/test/Unary", [1], timeout: .seconds(10)) }
        try await Task.sleep(for: .milliseconds(100))
        calls[0].cancel()
        #expect(try await third.value == [1])
        await service.end()
    }

    @Test func compressedMessagesAreRefused() async throws {
        let service = try Service()
        let client = try RawConnection(port: service.port)
        client.send(HTTP2.preface + HTTP2.settings)
        client.send(HTTP2.open("/test/Receive", extra: [("grpc-encoding", "gzip")]))
        client.send(HTTP2.data(HTTP2.prefix(8, isCompressed: true) + randomBytes(8), isLast: true))
        let answer = try await blocking {
            var answer: [UInt8] = []
            while let bytes = client.receive(), !bytes.isEmpty { answer += bytes }
            return answer
        }
        #expect(service.log.count("message") == 0)
        #expect(service.log.count("receive: ok") == 0)
        #expect(answer.count > 30, "the refusal has been sent")
        client.end()
        #expect(try await service.channel().unary("/test/Unary", [1], timeout: .seconds(10)) == [1])
        await service.end()
    }

    @Test func hugeDeclaredLengthDoesNotMakeTheServerTakeIt() async throws {
        var options = RPCServerOptions()
        options.memoryQuotaByteCount = 48 << 20
        let service = try Service(options: options)
        let client = try RawConnection(port: service.port)
        client.send(HTTP2.preface + HTTP2.settings + HTTP2.open("/test/Receive"))
        #expect(await service.log.contains("begun"))
        client.send(HTTP2.data(HTTP2.prefix(1 << 30)))
        let sent = try await blocking {
            var sender = ObedientSender(client, alreadySent: 5)
            return sender.send(upTo: 900 << 20, patience: 2000)
        }
        #expect(sent < 128 << 20, "\(sent >> 20) MiB taken of 900")
        client.end()
        #expect(await service.log.contains("receive: cancelled"))
        #expect(try await service.channel().unary("/test/Unary", [1], timeout: .seconds(10)) == [1])
        await service.end()
    }

    @Test func streamsResetInRapidSuccessionDoNotDisturbOthers() async throws {
        let service = try Service()
        let channel = try service.channel()
        let client = try RawConnection(port: service.port)
        client.send(HTTP2.preface + HTTP2.settings)
        try await blocking {
            for number in 0..<5000 {
                let stream = UInt32(number * 2 + 1)
                let bytes = HTTP2.open("/test/Receive", stream: stream) + HTTP2.reset(stream: stream)
                guard client.send(bytes) == bytes.count else { break }
            }
        }
        #expect(try await channel.unary("/test/Unary", [1], timeout: .seconds(10)) == [1])
        client.end()
        #expect(await service.server.shutdown(grace: .seconds(5)) == 0)
    }

    @Test func metadataBeyondTheLimitIsRefused() async throws {
        let service = try Service()
        let channel = try service.channel()
        let large = String(repeating: "x", count: 40_000)
        #expect(
            try await channel.unary("/test/Unary", [1], metadata: ["a": large], timeout: .seconds(10)) == [1])
        let end = await status {
            _ = try await channel.unary(
                "/test/Unary", [1], metadata: ["a": large, "b": large], timeout: .seconds(10))
        }
        #expect(end.code == .resourceExhausted || end.code == .unavailable, "\(end)")
        // gRPC may close the connection that brought it; a later call finds a new one.
        var answer: [UInt8] = []
        for _ in 0..<100 where answer != [1] {
            answer = (try? await channel.unary("/test/Unary", [1], timeout: .seconds(10))) ?? []
            if answer != [1] { try await Task.sleep(for: .milliseconds(20)) }
        }
        #expect(answer == [1])
        await service.end()
    }
}
