import RPC
import Testing

@Suite(.timeLimit(.minutes(1)))
struct MetadataTests {
    @Test func keysAreLowerCaseAndMayRepeat() {
        var metadata: RPCMetadata = ["A": "1", "b": "2", "a": "3"]
        metadata.add("C-bin", binary: [1])
        #expect(metadata["a"] == "1")
        #expect(metadata.values("A") == [.text("1"), .text("3")])
        #expect(metadata[binary: "c-Bin"] == [1])
        #expect(metadata["c-bin"] == nil)
        metadata.removeAll("A")
        #expect(metadata.entries.map(\.key) == ["b", "c-bin"])
        #expect(!metadata.isEmpty)
    }

    /// gRPC itself would end the process.
    @Test func illegalMetadataIsRefusedEverywhere() async throws {
        var binaryWithoutSuffix = RPCMetadata()
        binaryWithoutSuffix.add("a", binary: [1])
        let illegal: [RPCMetadata] = [
            ["": "a"], ["a b": "a"], [":path": "/x"], ["ä": "a"], ["a\0": "a"], ["grpc-timeout": "1S"],
            ["content-type": "text/html"], ["a": "ä"], ["a": "\n"], ["a": "\0"], ["a-bin": "text"],
            binaryWithoutSuffix,
        ]
        let service = try Service { (call) async throws(RPCStatus) in
            let index = Int(try await call.receive()?.first ?? 0)
            let initial = await status { try await call.sendInitialMetadata(illegal[index]) }
            let trailing = await status { try call.setTrailingMetadata(illegal[index]) }
            try call.sendLast(Array("\(initial.code) \(trailing.code)".utf8))
        }
        let channel = try service.channel()
        for (index, metadata) in illegal.enumerated() {
            let unary = await status {
                _ = try await channel.unary("/a/b", [], metadata: metadata, timeout: nil)
            }
            #expect(unary.code == .invalidArgument, "\(metadata)")
            let open = await status { _ = try channel.open("/a/b", metadata: metadata, timeout: nil) }
            #expect(open.code == .invalidArgument)
            let answer = try await channel.unary("/a/b", [UInt8(index)], timeout: .seconds(10))
            #expect(text(answer) == "invalidArgument invalidArgument")
        }
        await service.end()
    }

    @Test func illegalMethodNamesAreRefused() async throws {
        let service = try Service()
        let channel = try service.channel()
        for method in ["", "a/b", "/a b", "/ä", "/a\0", "/a\n"] {
            let unary = await status { _ = try await channel.unary(method, [], timeout: nil) }
            #expect(unary.code == .invalidArgument)
            #expect(await status { _ = try channel.open(method, timeout: nil) }.code == .invalidArgument)
        }
        await service.end()
    }

    @Test func everyPrintableCharacterArrives() async throws {
        let printable = String(decoding: (0x20...0x7e).map { UInt8($0) }, as: UTF8.self)
        let service = try Service { (call) async throws(RPCStatus) in
            try call.sendLast(Array((call.metadata["text"] ?? "").utf8))
        }
        let metadata: RPCMetadata = ["text": "x" + printable + "x"]
        let answer = try await service.channel().unary("/a/b", [], metadata: metadata, timeout: .seconds(10))
        #expect(text(answer) == "x" + printable + "x")
        await service.end()
    }
}
