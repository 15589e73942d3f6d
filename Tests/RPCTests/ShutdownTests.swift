import RPC
import Testing

@Suite(.timeLimit(.minutes(1)))
struct ShutdownTests {
    @Test func runningCallsEndWithinGrace() async throws {
        let service = try Service()
        let channel = try service.channel()
        let call = try channel.open("/test/Echo", timeout: .seconds(30))
        try await call.send([1])
        #expect(try await call.receive() == [1])
        async let running = service.server.shutdown(grace: .seconds(30))
        // New calls are refused as soon as the client has heard of it; the running one goes on.
        var end = RPCStatus(.ok, "")
        while end.code == .ok {
            end = await status { _ = try await channel.unary("/test/Unary", [], timeout: .seconds(5)) }
        }
        // One that had just reached the server is cancelled, one that had not is refused.
        #expect(end.code == .unavailable || end.code == .cancelled)
        try await call.send([2])
        #expect(try await call.receive() == [2])
        try await call.finishSending()
        #expect(try await call.receive() == nil)
        let begin = ContinuousClock.now
        #expect(await running == 0)
        #expect(ContinuousClock.now - begin < .seconds(5), "does not wait for the end of grace")
    }

    @Test func callsStillRunningAfterGraceAreCancelled() async throws {
        let service = try Service()
        let channel = try service.channel()
        let calls = (0..<20).map { _ in
            Task { await status { _ = try await channel.unary("/test/Sleep", [], timeout: nil) } }
        }
        #expect(await service.log.contains("begun", times: 20))
        let begin = ContinuousClock.now
        let running = await service.server.shutdown(grace: .milliseconds(300))
        let elapsed = ContinuousClock.now - begin
        #expect(running == 0)
        #expect(elapsed >= .milliseconds(299) && elapsed < .seconds(3), "\(elapsed)")
        for call in calls {
            let code = await call.value.code
            #expect(code == .cancelled || code == .unavailable, "\(code)")
        }
        #expect(service.log.count("cancelled") == 20)
    }

    @Test func handlerThatNeverAnswersDoesNotHoldShutdown() async throws {
        let service = try Service()
        let channel = try service.channel()
        let call = Task { await status { _ = try await channel.unary("/test/Stubborn", [], timeout: nil) } }
        #expect(await service.log.contains("begun"))
        let begin = ContinuousClock.now
        let running = await service.server.shutdown(grace: .milliseconds(100))
        let elapsed = ContinuousClock.now - begin
        #expect(running == 1, "and says so")
        #expect(elapsed < .seconds(3), "\(elapsed)")
        #expect(await call.value.code != .ok)
        service.gate.open()
        #expect(await service.log.contains("returned"))
        #expect(await eventually { true })
    }

    @Test func shutdownMayBeRepeatedAndAllWait() async throws {
        let service = try Service()
        let channel = try service.channel()
        let call = Task { await status { _ = try await channel.unary("/test/Sleep", [], timeout: nil) } }
        #expect(await service.log.contains("begun"))
        await withTaskGroup(of: Int.self) { group in
            for _ in 0..<5 { group.addTask { await service.server.shutdown(grace: .milliseconds(200)) } }
            for await running in group { #expect(running == 0) }
        }
        #expect(service.log.count("cancelled") == 1, "each waited for the handler")
        #expect(await service.server.shutdown(grace: .seconds(30)) == 0)
        #expect(await call.value.code != .ok)
    }

    @Test func silentConnectionsDoNotHoldShutdown() async throws {
        let service = try Service()
        let mute = try RawConnection(port: service.port)
        let half = try RawConnection(port: service.port)
        half.send(HTTP2.preface + HTTP2.settings + HTTP2.open("/test/Receive"))
        #expect(await service.log.contains("begun"))
        let begin = ContinuousClock.now
        #expect(await service.server.shutdown(grace: .milliseconds(200)) == 0)
        #expect(ContinuousClock.now - begin < .seconds(3))
        mute.end()
        half.end()
    }

    @Test func serverThatNeverStartedShutsDown() async throws {
        let server = RPCServer { _ in }
        #expect(await status { try server.start() }.code == .failedPrecondition)
        try server.listen(on: .tcp(host: "127.0.0.1", port: 0), security: .plaintext)
        #expect(await server.shutdown(grace: .seconds(5)) == 0)
        #expect(await status { try server.start() }.code == .failedPrecondition)
    }

    @Test func droppedServerStopsListening() async throws {
        let endpoint: RPCEndpoint
        let channel: RPCChannel
        do {
            let service = try Service(.unix)
            endpoint = service.endpoint
            channel = try service.channel()
            #expect(try await channel.unary("/test/Unary", [1], timeout: .seconds(5)) == [1])
        }
        var end = RPCStatus(.ok, "")
        while end.code == .ok {
            end = await status { _ = try await channel.unary("/test/Unary", [1], timeout: .seconds(5)) }
        }
        #expect(end.code == .unavailable || end.code == .cancelled, "\(endpoint): \(end)")
    }

    @Test func closedChannelCancelsItsCallsAndRefusesNewOnes() async throws {
        let service = try Service()
        let channel = try service.channel()
        let unary = Task { await status { _ = try await channel.unary("/test/Sleep", [], timeout: nil) } }
        let stream = try channel.open("/test/Sleep", timeout: nil)
        #expect(await service.log.contains("begun", times: 2))
        channel.close()
        channel.close()
        #expect(await unary.value.code == .cancelled)
        #expect(await status { _ = try await stream.receive() }.code == .cancelled)
        #expect(await service.log.contains("cancelled", times: 2))
        #expect(await status { _ = try await channel.unary("/a/b", [1], timeout: nil) }.code == .cancelled)
        #expect(await status { _ = try channel.open("/a/b", timeout: nil) }.code == .cancelled)
        await service.end()
    }

    @Test func streamOutlivesItsDroppedChannel() async throws {
        let service = try Service()
        let call = try service.channel().open("/test/Echo", timeout: .seconds(20))
        try await call.send([3])
        #expect(try await call.receive() == [3])
        await service.end()
    }
}
