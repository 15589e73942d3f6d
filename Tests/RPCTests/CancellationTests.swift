import RPC
import Testing

@Suite(.timeLimit(.minutes(1)))
struct CancellationTests {
    @Test(arguments: [Service.Transport.unix, .tcpTLS])
    func deadlineEndsBothSides(over transport: Service.Transport) async throws {
        let service = try Service(transport)
        let channel = try service.channel()
        _ = try await channel.unary("/test/Unary", [], timeout: .seconds(10))
        let begin = ContinuousClock.now
        let end = await status { _ = try await channel.unary("/test/Sleep", [], timeout: .milliseconds(150)) }
        let elapsed = ContinuousClock.now - begin
        #expect(end.code == .deadlineExceeded)
        #expect(elapsed >= .milliseconds(149) && elapsed < .seconds(3), "\(elapsed)")
        #expect(await service.log.contains("cancelled"))
        #expect(await service.log.contains("receive: cancelled"))
        #expect(await service.log.contains("send: cancelled"))
        await service.end()
    }

    @Test func cancellingTheTaskCancelsUnaryCall() async throws {
        let service = try Service()
        let channel = try service.channel()
        let task = Task { await status { _ = try await channel.unary("/test/Sleep", [], timeout: nil) } }
        #expect(await service.log.contains("begun"))
        task.cancel()
        #expect(await task.value.code == .cancelled)
        #expect(await service.log.contains("cancelled"))
        await service.end()
    }

    @Test func cancelledTaskMakesNoUnaryCall() async throws {
        let service = try Service()
        let channel = try service.channel()
        let gate = Gate()
        let task = Task {
            await gate.wait()
            return await status { _ = try await channel.unary("/test/Sleep", [], timeout: nil) }
        }
        task.cancel()
        gate.open()
        #expect(await task.value.code == .cancelled)
        await service.end()
        #expect(service.log.all == [])
    }

    @Test(arguments: ["send", "receive", "metadata"])
    func cancellingTheTaskCancelsTheStream(in operation: String) async throws {
        let service = try Service()
        let call = try service.channel().open("/test/Sleep", timeout: nil)
        let task = Task {
            await status {
                switch operation {
                case "send": while true { try await call.send([UInt8](repeating: 0, count: 1 << 20)) }
                case "receive": _ = try await call.receive()
                default: _ = try await call.initialMetadata()
                }
            }
        }
        #expect(await service.log.contains("begun"))
        try await Task.sleep(for: .milliseconds(50))
        task.cancel()
        #expect(await task.value.code == .cancelled)
        #expect(await service.log.contains("cancelled"))
        #expect(await status { _ = try await call.receive() }.code == .cancelled)
        #expect(await status { try await call.send([]) }.code == .cancelled)
        await service.end()
    }

    @Test func cancelReachesTheHandlerWithoutAnyoneReceiving() async throws {
        let service = try Service()
        let call = try service.channel().open("/test/Sleep", timeout: nil)
        #expect(await service.log.contains("begun"))
        call.cancel()
        call.cancel()
        #expect(await service.log.contains("cancelled"))
        #expect(await eventually { call.status?.code == .cancelled }, "known without receiving")
        await service.end()
    }

    @Test func droppedCallIsCancelled() async throws {
        let service = try Service()
        let channel = try service.channel()
        do {
            let call = try channel.open("/test/Sleep", timeout: nil)
            #expect(await service.log.contains("begun"))
            _ = call
        }
        #expect(await service.log.contains("cancelled"))
        await service.end()
    }

    @Test func droppedCallWithUnreadMessagesIsCancelled() async throws {
        let service = try Service()
        let channel = try service.channel()
        do {
            let call = try channel.open("/test/Flood", timeout: nil)
            #expect(try await call.receive()?.count == 256 << 10)
        }
        #expect(await service.log.contains("send: cancelled"))
        await service.end()
    }

    @Test func handlerThatCancelsItsOwnTaskEndsTheCall() async throws {
        let service = try Service { (call) async throws(RPCStatus) in
            let receiving = Task { await status { _ = try await call.receive() } }
            try? await Task.sleep(for: .milliseconds(50))
            receiving.cancel()
            throw await receiving.value
        }
        let call = try service.channel().open("/a/b", timeout: .seconds(20))
        #expect(await status { _ = try await call.receive() }.code == .cancelled)
        await service.end()
    }

    @Test func handlerThatNeverAnswersDoesNotHoldItsClient() async throws {
        let service = try Service()
        let channel = try service.channel()
        _ = try await channel.unary("/test/Unary", [], timeout: .seconds(10))
        let late = await status { _ = try await channel.unary("/test/Stubborn", [], timeout: .seconds(1)) }
        #expect(late.code == .deadlineExceeded)
        let task = Task { await status { _ = try await channel.unary("/test/Stubborn", [], timeout: nil) } }
        #expect(await service.log.contains("begun", times: 2))
        task.cancel()
        #expect(await task.value.code == .cancelled)
        #expect(service.log.count("returned") == 0)
        await service.end()
        #expect(await service.log.contains("returned", times: 2))
    }

    @Test func callUsedAfterItsHandlerReturnedIsRefused() async throws {
        let log = Log()
        let service = try Service { (call) async throws(RPCStatus) in
            Task {
                try? await Task.sleep(for: .milliseconds(100))
                log.add("send: \(await status { try await call.send([1]) }.code)")
                log.add("metadata: \(await status { try await call.sendInitialMetadata(["a": "b"]) }.code)")
                log.add("receive: \(await status { _ = try await call.receive() }.code)")
            }
            try call.sendLast([5])
        }
        #expect(try await service.channel().unary("/a/b", [], timeout: .seconds(10)) == [5])
        #expect(await log.contains("send: cancelled"))
        #expect(await log.contains("metadata: cancelled"))
        #expect(await log.contains("receive: cancelled"))
        await service.end()
    }

    /// Nothing may hang, leak or be answered twice, whatever comes at the same moment as the cancellation.
    @Test func cancellingAtAnyMomentIsSafe() async throws {
        let service = try Service()
        let channel = try service.channel()
        await withTaskGroup(of: Void.self) { group in
            for round in 0..<400 {
                group.addTask {
                    let task = Task { await self.useEverything(channel, round) }
                    try? await Task.sleep(for: .microseconds(Int.random(in: 0...20_000)))
                    task.cancel()
                    await task.value
                }
            }
        }
        #expect(try await channel.unary("/test/Unary", [1], timeout: .seconds(10)) == [1])
        let running = await service.server.shutdown(grace: .zero)
        #expect(running == 0)
    }

    private func useEverything(_ channel: RPCChannel, _ round: Int) async {
        if round.isMultiple(of: 4) {
            _ = await status { _ = try await channel.unary("/test/Unary", randomBytes(9999), timeout: nil) }
            return
        }
        _ = await status {
            let call = try channel.open(
                "/test/Echo", timeout: round.isMultiple(of: 3) ? .milliseconds(10) : nil)
            async let received: Void = { while try await call.receive() != nil {} }()
            async let initial = call.initialMetadata()
            for _ in 0..<50 { try await call.send(randomBytes(round.isMultiple(of: 2) ? 10 : 100_000)) }
            try await call.finishSending()
            _ = try await (received, initial)
        }
    }
}
