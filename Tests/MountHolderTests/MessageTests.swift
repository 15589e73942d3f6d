import Testing

@testable import MountHolder

@Suite struct MessageTests {
    private static let names = ["a", "godwit:london/5f0c", String(repeating: "ü", count: 127), "x\ny"]

    @Test func requestsArriveAsTheyWereSent() {
        for name in Self.names {
            for request in [HolderRequest.put(name), .take(name), .drop(name), .list(after: name)] {
                #expect(HolderRequest(request.bytes) == request)
            }
        }
        #expect(HolderRequest(HolderRequest.list(after: "").bytes) == .list(after: ""))
    }

    @Test func repliesArriveAsTheyWereSent() {
        for reply in [HolderReply.done, .missing, .refused("no"), .names([]), .names(Self.names)] {
            #expect(HolderReply(reply.bytes) == reply)
        }
    }

    @Test func namesThatCannotBeAreRefused() {
        for name in ["", "a\0b", String(repeating: "a", count: 256)] {
            for request in [HolderRequest.put(name), .take(name), .drop(name)] {
                #expect(HolderRequest(request.bytes) == nil)
            }
        }
        #expect(HolderRequest([1, 2, 0xFF]) == nil)
    }

    /// A list is as long as a message may be, and says so by ending before the last name.
    @Test func aLongListIsCut() throws {
        let names = (0..<1000).map { "\($0)" + String(repeating: "n", count: 200) }
        let bytes = HolderReply.names(names).bytes
        #expect(bytes.count <= HolderReply.byteLimit)
        guard case .names(let read)? = HolderReply(bytes) else {
            Issue.record("no list")
            return
        }
        #expect(!read.isEmpty && read.count < names.count && read == Array(names.prefix(read.count)))
    }

    /// What is cut or damaged is another message or none.
    @Test func noBytesAreTakenForMoreThanTheyAre() {
        let messages =
            Self.names.map { HolderRequest.take($0).bytes } + [HolderReply.names(Self.names).bytes]
        for message in messages {
            for count in 0..<message.count {
                let cut = message.prefix(count)
                if let request = HolderRequest(cut) { #expect(request.bytes == Array(cut)) }
                if let reply = HolderReply(cut), case .names = reply { #expect(reply.bytes == Array(cut)) }
            }
        }
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            let bytes = (0..<Int.random(in: 0...300, using: &generator)).map { index in
                // Often near to what is understood.
                index == 0
                    ? UInt8.random(in: 0...2, using: &generator) : .random(in: 0...255, using: &generator)
            }
            if let request = HolderRequest(bytes) { #expect(request.bytes == bytes) }
            if case .names(let names)? = HolderReply(bytes) {
                #expect(HolderReply.names(names).bytes == bytes)
            }
        }
    }
}
