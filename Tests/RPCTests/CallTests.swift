import RPC
import Testing

@Suite(.timeLimit(.minutes(1)))
struct CallTests {
    @Test(arguments: Service.Transport.allCases)
    func unaryCallIsAnswered(over transport: Service.Transport) async throws {
        let service = try Service(transport)
        let channel = try service.channel()
        let answer = try await channel.unary("/test/Unary", Array("godwit".utf8), timeout: .seconds(10))
        #expect(text(answer) == "godwit")
        await service.end()
    }

    @Test(arguments: Service.Transport.allCases)
    func serverStreamsMessagesInOrder(over transport: Service.Transport) async throws {
        let service = try Service(transport)
        let call = try service.channel().open("/test/Count", timeout: .seconds(20))
        try await call.send(Array("500".utf8))
        try await call.finishSending()
        for number in 0..<500 { #expect(text(try await call.receive()) == String(number)) }
        #expect(try await call.receive() == nil)
        #expect(try await call.receive() == nil, "the end is told again")
        #expect(call.status == RPCStatus(.ok, ""))
        await service.end()
    }

    @Test(arguments: Service.Transport.allCases)
    func clientStreamsMessages(over transport: Service.Transport) async throws {
        let service = try Service(transport)
        let call = try service.channel().open("/test/Sum", timeout: .seconds(20))
        for count in 0..<100 { try await call.send([UInt8](repeating: 1, count: count)) }
        try await call.finishSending()
        #expect(text(try await call.receive()) == "4950")
        #expect(try await call.receive() == nil)
        await service.end()
    }

    @Test(arguments: Service.Transport.allCases)
    func bothSidesTalkInTurn(over transport: Service.Transport) async throws {
        let service = try Service(transport)
        let call = try service.channel().open("/test/Echo", timeout: .seconds(20))
        for number in 0..<200 {
            try await call.send(Array("ping \(number)".utf8))
            #expect(text(try await call.receive()) == "ping \(number)")
        }
        try await call.finishSending()
        #expect(try await call.receive() == nil)
        await service.end()
    }

    /// Around the sizes where gRPC keeps bytes inside its slices, where we begin to send without a copy,
    /// and where HTTP/2 splits frames.
    @Test(arguments: Service.Transport.allCases)
    func messagesOfEverySizeArriveUnchanged(over transport: Service.Transport) async throws {
        let service = try Service(transport)
        let channel = try service.channel()
        let call = try channel.open("/test/Echo", timeout: .seconds(50))
        let sizes = Array(0...70) + [4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 1 << 20, 8 << 20]
        for size in sizes {
            let message = randomBytes(size)
            try await call.send(message)
            let echo = try await call.receive()
            #expect(echo == message, "a stream's message of \(size) bytes")
            let answer = try await channel.unary("/test/Unary", message, timeout: .seconds(20))
            #expect(answer == message, "a unary message of \(size) bytes")
        }
        await service.end()
    }

    @Test(arguments: Service.Transport.allCases)
    func metadataAndStatusTravelBothWays(over transport: Service.Transport) async throws {
        let service = try Service(transport)
        var metadata: RPCMetadata = ["asked": "for this", "other": "x"]
        metadata.add("Asked-Bin", binary: [0, 255, 10, 13, 0])
        let call = try service.channel().open("/test/Metadata", metadata: metadata, timeout: .seconds(20))
        let initial = try await call.initialMetadata()
        #expect(initial["first"] == "1")
        #expect(initial["second"] == "2")
        #expect(call.trailingMetadata == nil, "the call has not ended yet")
        #expect(try await call.receive() == [])
        let end = await status { _ = try await call.receive() }
        #expect(end == RPCStatus(.aborted, "again: failedPrecondition, größer → “ok” \u{1F426}\n%41"))
        #expect(call.trailingMetadata?["text"] == "for this")
        #expect(call.trailingMetadata?[binary: "bytes-bin"] == [0, 255, 10, 13, 0])
        await service.end()
    }

    @Test func statusOfUnaryCallIsThrown() async throws {
        let service = try Service()
        let channel = try service.channel()
        let refused = await status {
            _ = try await channel.unary("/test/Refuse", Array("not yours".utf8), timeout: .seconds(10))
        }
        #expect(refused == RPCStatus(.permissionDenied, "not yours"))
        let unknown = await status { _ = try await channel.unary("/test/None", [], timeout: .seconds(10)) }
        #expect(unknown == RPCStatus(.unimplemented, "no method /test/None"))
        await service.end()
    }

    @Test func allCodesArrive() async throws {
        let service = try Service { (call) async throws(RPCStatus) in
            let request = try await call.receive() ?? []
            throw RPCStatus(RPCCode(rawValue: Int(request[0]))!, "code \(request[0])")
        }
        let channel = try service.channel()
        for raw in 1...16 {
            let end = await status {
                _ = try await channel.unary("/a/b", [UInt8(raw)], timeout: .seconds(10))
            }
            #expect(end == RPCStatus(RPCCode(rawValue: raw)!, "code \(raw)"))
        }
        await service.end()
    }

    @Test func veryLongStatusMessageIsCutAndArrives() async throws {
        let service = try Service()
        let channel = try service.channel()
        let long = String(repeating: "ä", count: 100_000)
        let end = await status {
            _ = try await channel.unary("/test/Refuse", Array(long.utf8), timeout: .seconds(10))
        }
        #expect(end.code == .permissionDenied)
        #expect(end.message.hasSuffix("ä…"))
        #expect((2000...2048).contains(end.message.utf8.count))
        await service.end()
    }

    @Test func handlerThatReturnsWithoutAnswerIsAnErrorOfUnaryCall() async throws {
        let service = try Service { _ in }
        let channel = try service.channel()
        let end = await status { _ = try await channel.unary("/a/b", [1], timeout: .seconds(10)) }
        #expect(end.code == .internalError || end.code == .unimplemented, "\(end)")
        await service.end()
    }

    @Test func aClientThatSaysNothingHoldsNoCall() async throws {
        let service = try Service { (call) async throws(RPCStatus) in
            guard let request = try await call.receive(within: .milliseconds(200)) else { return }
            try call.sendLast(request)
        }
        let channel = try service.channel()
        #expect(
            text(try await channel.unary("/a/b", Array("at once".utf8), timeout: .seconds(20))) == "at once")
        let call = try channel.open("/a/b", timeout: nil)
        let end = await status { _ = try await call.receive() }
        #expect(end.code == .cancelled, "\(end)")
        await service.end()
    }

    @Test func aCallsEndIsToldOnceHoweverItEnds() async throws {
        let log = Log()
        let service = try Service { (call) async throws(RPCStatus) in
            log.add("begun")
            call.whenOver { log.add("over") }
            let request = try await call.receive() ?? []
            try call.sendLast(request)
        }
        let channel = try service.channel()
        _ = try await channel.unary("/a/b", [1], timeout: .seconds(20))
        #expect(await log.contains("over"))
        let call = try channel.open("/a/b", timeout: nil)
        #expect(await log.contains("begun", times: 2))
        call.cancel()
        #expect(await log.contains("over", times: 2))
        await service.end()
        #expect(log.count("over") == 2)
    }

    @Test func handlerSeesItsDeadlineAndItsPeer() async throws {
        let service = try Service { (call) async throws(RPCStatus) in
            // The wire rounds a time-out up to a unit of its own.
            let left = call.deadline.map { ContinuousClock.now.duration(to: $0) }
            let text = left.map { $0 > .seconds(50) && $0 <= .seconds(61) ? "soon" : "\($0)" } ?? "never"
            try call.sendLast(Array("\(text) \(call.peerAddress) \(call.peerCertificatePEM ?? "none")".utf8))
        }
        let channel = try service.channel()
        let soon = text(try await channel.unary("/a/b", [], timeout: .seconds(60))) ?? ""
        #expect(soon.hasPrefix("soon ipv4:127.0.0.1:"))
        #expect(soon.hasSuffix(" none"))
        let never = text(try await channel.unary("/a/b", [], timeout: nil)) ?? ""
        #expect(never.hasPrefix("never "))
        await service.end()
    }

    @Test(arguments: [Service.Transport.unix, .tcpTLS])
    func thousandCallsRunAtOnce(over transport: Service.Transport) async throws {
        let service = try Service(transport)
        let channel = try service.channel()
        let right = await withTaskGroup(of: Bool.self) { group in
            for number in 0..<1000 {
                group.addTask {
                    let request = Array("call \(number)".utf8)
                    let answer = try? await channel.unary("/test/Unary", request, timeout: .seconds(50))
                    return answer == request
                }
            }
            return await group.reduce(0) { $0 + ($1 ? 1 : 0) }
        }
        #expect(right == 1000)
        await service.end()
    }

    @Test func manyTasksMayUseOneCall() async throws {
        let service = try Service()
        let call = try service.channel().open("/test/Echo", timeout: .seconds(30))
        let numbers = try await withThrowingTaskGroup(of: Int?.self) { group in
            for number in 0..<300 {
                group.addTask {
                    try await call.send(Array(String(number).utf8))
                    return nil
                }
                group.addTask { Int(text(try await call.receive()) ?? "") }
            }
            return try await group.reduce(into: Set<Int>()) { set, number in
                if let number { set.insert(number) }
            }
        }
        #expect(numbers == Set(0..<300))
        await service.end()
    }

    @Test func messagesOfOneTaskKeepTheirOrderWhileAnotherReceives() async throws {
        let service = try Service()
        let call = try service.channel().open("/test/Echo", timeout: .seconds(30))
        async let sent: Void = {
            for number in 0..<2000 { try await call.send(Array(String(number).utf8)) }
            try await call.finishSending()
        }()
        var expected = 0
        while let message = try await call.receive() {
            #expect(text(message) == String(expected))
            expected += 1
        }
        try await sent
        #expect(expected == 2000)
        await service.end()
    }

    @Test func whatTheServerSentBeforeItEndedIsReceivedFirst() async throws {
        let service = try Service { (call) async throws(RPCStatus) in
            for number in 0..<3 { try await call.send([UInt8(number)]) }
            throw RPCStatus(.outOfRange, "enough")
        }
        let call = try service.channel().open("/a/b", timeout: .seconds(10))
        // Until the end of the call has come, messages are taken; then sending fails.
        var failure = RPCStatus(.ok, "")
        while failure.code == .ok { failure = await status { try await call.send([9]) } }
        #expect(failure.code == .failedPrecondition || failure.code == .outOfRange)
        for number in 0..<3 { #expect(try await call.receive() == [UInt8(number)]) }
        let end = await status { _ = try await call.receive() }
        #expect(end == RPCStatus(.outOfRange, "enough"))
        #expect(await status { try await call.send([9]) } == end)
        #expect(await status { try await call.finishSending() } == end)
        await service.end()
    }

    @Test func sendingAfterFinishSendingIsRefused() async throws {
        let service = try Service()
        let call = try service.channel().open("/test/Echo", timeout: .seconds(10))
        try await call.finishSending()
        try await call.finishSending()
        #expect(await status { try await call.send([1]) }.code == .failedPrecondition)
        #expect(try await call.receive() == nil)
        await service.end()
    }
}
