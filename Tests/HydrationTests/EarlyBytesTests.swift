import EngineTestSupport
import Foundation
import RPC
import Synchronization
import Testing
import VolumeModel

@testable import Hydration
@testable import PeerService

/// What a follower takes ahead of a hand-over: it may be wrong, and only what the source has alike is used.
@Suite struct EarlyBytesTests {
    /// An owner that answers as a peer does: a prefix of what was asked, zeros as holes, what is alike by name.
    private final class Owner: Sendable {
        struct State {
            var files: [UInt64: [UInt8]] = [:]
            var changes: [UInt64: Int64] = [:]
            var time: Int64 = 1000
            var sentByteCount = 0
            var callCount = 0
            /// Of a hundred calls so many fail as a link does.
            var failurePercent = 0
            var answerByteCount = 1 << 20
        }

        let state = Mutex(State())
        private let generator: Mutex<Generator>

        init(seed: UInt64) { generator = Mutex(Generator(seed: seed)) }

        func read(_ asked: [Extent], _ own: [Extent: [UInt8]]) throws -> [Piece] {
            let roll = generator.withLock { $0.next() % 100 }
            return try state.withLock { state in
                state.callCount += 1
                if roll < UInt64(state.failurePercent) { throw Self.failure(.unavailable) }
                var pieces: [Piece] = []
                var room = state.answerByteCount
                for extent in asked {
                    guard room > 0 else { return pieces }
                    guard let file = state.files[extent.inode.number] else {
                        if pieces.isEmpty { throw Self.failure(.notFound) }
                        return pieces
                    }
                    let bytes = Self.slice(file, extent.range)
                    if own[extent] == bytes {
                        pieces.append(
                            Piece(
                                inode: extent.inode, range: extent.range, content: .bytes(bytes), isOwn: true)
                        )
                        continue
                    }
                    let end = min(extent.range.end, extent.range.start + UInt64(room))
                    let part = Array(bytes.prefix(Int(end - extent.range.start)))
                    let range = ByteRange(extent.range.start, end)
                    for piece in HeadReader.split(
                        Piece(inode: extent.inode, range: range, content: .bytes(part)))
                    {
                        pieces.append(piece)
                        guard case .bytes(let bytes) = piece.content else { continue }
                        room -= bytes.count
                        state.sentByteCount += bytes.count
                    }
                    if end < extent.range.end { return pieces }
                }
                return pieces
            }
        }

        private static func failure(_ code: RPCCode) -> PeerError {
            .call(site: SiteID("london")!, method: "Read", RPCStatus(code, "a test"))
        }

        static func slice(_ file: [UInt8], _ range: ByteRange) -> [UInt8] {
            (range.start..<range.end).map { $0 < UInt64(file.count) ? file[Int($0)] : 0 }
        }

        func put(_ number: UInt64, _ bytes: [UInt8]?) {
            state.withLock { state in
                state.time += 1
                state.files[number] = bytes
                state.changes[number] = state.time
            }
        }

        func listed(after inode: InodeNumber, limit: Int = 3) -> [EarlyFile] {
            state.withLock { state in
                state.files.keys.sorted().filter { $0 > inode.number && !state.files[$0]!.isEmpty }.prefix(
                    limit
                )
                .map {
                    EarlyFile(
                        inode: InodeNumber($0), size: UInt64(state.files[$0]!.count),
                        changeTime: FileTime(seconds: state.changes[$0]!, nanoseconds: 7))
                }
            }
        }
    }

    private func store(_ directory: borrowing TemporaryDirectory) throws -> EarlyBytes {
        let path = directory.path + "/early"
        return try EarlyBytes(directory: path) { try? FileManager.default.removeItem(atPath: path) }
    }

    private func pass(_ store: EarlyBytes, _ owner: Owner) async throws -> EarlyPass.Outcome {
        try await EarlyPass(into: store, pause: { _ in }, read: { try owner.read($0, $1) })
            .run { owner.listed(after: $0) }
    }

    /// All of a file, block by block, as it is asked with.
    private func all(_ store: EarlyBytes, _ number: UInt64, _ count: Int) async -> [UInt8] {
        let whole = Extent(inode: InodeNumber(number), range: ByteRange(0, UInt64(count)))
        var bytes = [UInt8](repeating: 0, count: count)
        for (extent, part) in await store.question([whole]).own {
            bytes.replaceSubrange(Int(extent.range.start)..<Int(extent.range.end), with: part)
        }
        return bytes
    }

    @Test func whatIsThereIsTakenOnceAndWhatChangedByBlocks() async throws {
        let directory = try TemporaryDirectory()
        let store = try store(directory)
        let owner = Owner(seed: 1)
        var random = Generator(seed: 2)
        var large = (0..<3_000_000).map { _ in UInt8.random(in: 0...255, using: &random) }
        large.replaceSubrange(1_000_000..<1_500_000, with: repeatElement(0, count: 500_000))
        owner.put(5, large)
        for number in 10..<1010 { owner.put(UInt64(number), Array("file \(number)".utf8)) }
        #expect(try await pass(store, owner).skippedCount == 0)
        #expect(owner.state.withLock { $0.sentByteCount } < 2_520_000)
        #expect(owner.state.withLock { $0.callCount } < 20, "small files are asked for together")
        #expect(await all(store, 5, large.count) == large)
        #expect(await all(store, 500, 8) == Array("file 500".utf8))
        // Nothing has changed: nobody is asked.
        let before = owner.state.withLock { ($0.sentByteCount, $0.callCount) }
        #expect(try await pass(store, owner) == EarlyPass.Outcome())
        #expect(owner.state.withLock { $0.callCount } == before.1)
        large[2_000_000] ^= 1
        large.removeLast(100_000)
        owner.put(5, large)
        let outcome = try await pass(store, owner)
        #expect(outcome.takenByteCount <= EarlyBytes.blockByteCount, "\(outcome)")
        #expect(await all(store, 5, large.count) == large)
    }

    /// Whatever is here, torn, of another time or of the disk's making: it is asked about, and what came is right.
    @Test(arguments: 0..<20) func afterAQuietPassAllIsAsTheOwnerHasIt(seed: UInt64) async throws {
        let directory = try TemporaryDirectory()
        var store = try store(directory)
        let owner = Owner(seed: seed)
        var random = Generator(seed: seed &* 77 &+ 1)
        func file() -> [UInt8] {
            let count = Int.random(in: 1...300_000, using: &random)
            let isZero = Bool.random(using: &random)
            var bytes = [UInt8](repeating: 0, count: count)
            for _ in 0..<(isZero ? 3 : 40) {
                let start = Int.random(in: 0..<count, using: &random)
                let end = min(count, start + Int.random(in: 1...20_000, using: &random))
                for index in start..<end { bytes[index] = UInt8.random(in: 0...255, using: &random) }
            }
            return bytes
        }
        for number in 1...UInt64(6) { owner.put(number, file()) }
        for _ in 0..<8 {
            owner.state.withLock {
                $0.failurePercent = Int.random(in: 0...40, using: &random)
                $0.answerByteCount = Int.random(in: 4096...(1 << 20), using: &random)
            }
            _ = try? await pass(store, owner)
            let number = UInt64.random(in: 1...8, using: &random)
            switch Int.random(in: 0..<4, using: &random) {
            case 0: owner.put(number, file())
            case 1: owner.put(number, nil)
            case 2:
                // What a crash leaves: bytes of nobody, and as if nothing had happened since.
                let path = directory.path + "/early/0\(number)/000000000000000\(number)"
                if let handle = FileHandle(forWritingAtPath: path) {
                    handle.seek(toFileOffset: UInt64.random(in: 0..<200_000, using: &random))
                    handle.write(Data((0..<5000).map { _ in UInt8.random(in: 0...255, using: &random) }))
                    try handle.close()
                    owner.put(number, owner.state.withLock { $0.files[number] })
                }
            default: store = try self.store(directory)
            }
        }
        owner.state.withLock { $0.failurePercent = 0 }
        let outcome = try await pass(store, owner)
        #expect(outcome.skippedCount == 0)
        for (number, bytes) in owner.state.withLock({ $0.files }) {
            let found = await all(store, number, bytes.count)
            let first = zip(found, bytes).enumerated().first { $0.element.0 != $0.element.1 }
            #expect(
                first == nil, "file \(number) of \(bytes.count), seed \(seed): \(String(describing: first))")
        }
        try store.sweep { number in owner.state.withLock { $0.files[number.number] != nil } }
        #expect(await store.question([Extent(inode: InodeNumber(99), range: ByteRange(0, 1))]).own.isEmpty)
        store.giveUp()
        #expect(!FileManager.default.fileExists(atPath: directory.path + "/early"))
        await #expect(throws: CancellationError.self) {
            owner.put(1, [1])
            _ = try await pass(store, owner)
        }
    }

    @Test func aFileThatIsGoneAtTheOwnerHoldsUpNoOther() async throws {
        let directory = try TemporaryDirectory()
        let store = try store(directory)
        let owner = Owner(seed: 3)
        for number in 1...UInt64(9) { owner.put(number, [UInt8](repeating: UInt8(number), count: 100_000)) }
        let outcome = try await EarlyPass(into: store, pause: { _ in }, read: { try owner.read($0, $1) }).run
        { after in
            let files = owner.listed(after: after, limit: 100)
            owner.state.withLock { state in for number in [UInt64(1), 4, 9] { state.files[number] = nil } }
            return files
        }
        #expect(outcome.skippedCount == 3)
        for number in [UInt64(2), 3, 5, 6, 7, 8] {
            #expect(await all(store, number, 100_000) == [UInt8](repeating: UInt8(number), count: 100_000))
        }
    }
}
