import EngineTestSupport
@testable import Hydration
import Synchronization
import Testing
import VolumeModel

/// What comes ahead of a program that reads a file in sequence.
@Suite struct ReadAheadTests {
    private static let inode = InodeNumber(7)
    private static let start = ContinuousClock.now

    /// Asks as `Hydrator.fetchAhead` does.
    private func ask(_ ahead: inout ReadAhead, _ byteCount: UInt64, limit: Int) -> ByteRange? {
        guard let wanted = ahead.wanted(of: Self.inode, requestLimit: limit) else { return nil }
        let part = ByteRange(wanted.start, min(wanted.end, wanted.start + byteCount))
        guard ahead.asked(wanted, of: Self.inode, upTo: part.end, isRequest: true) else { return nil }
        return part
    }

    @Test func asksInOrderAndForNoMoreAtOnceThanTheLinkTakes() {
        var ahead = ReadAhead()
        #expect(ahead.isEmpty && ask(&ahead, 10, limit: 2) == nil)
        ahead.want(ByteRange(100, 125), of: Self.inode, at: Self.start)
        #expect(ask(&ahead, 10, limit: 2) == ByteRange(100, 110))
        #expect(ask(&ahead, 10, limit: 2) == ByteRange(110, 120))
        #expect(ask(&ahead, 10, limit: 2) == nil)
        ahead.ended(of: Self.inode, hasFailed: false)
        #expect(ask(&ahead, 10, limit: 2) == ByteRange(120, 125))
        for _ in 0..<2 {
            #expect(!ahead.isEmpty)
            ahead.ended(of: Self.inode, hasFailed: false)
        }
        #expect(ahead.isEmpty)
    }

    @Test func goesOnWhereMoreIsWantedAndLeavesWhatIsNoLonger() throws {
        var ahead = ReadAhead()
        ahead.want(ByteRange(0, 20), of: Self.inode, at: Self.start)
        #expect(ask(&ahead, 10, limit: 9) == ByteRange(0, 10))
        ahead.want(ByteRange(15, 40), of: Self.inode, at: Self.start)
        #expect(ask(&ahead, 100, limit: 9) == ByteRange(10, 40))
        // Between a look and the request somebody reads elsewhere.
        ahead.want(ByteRange(40, 50), of: Self.inode, at: Self.start)
        let old = try #require(ahead.wanted(of: Self.inode, requestLimit: 9))
        ahead.want(ByteRange(1000, 1010), of: Self.inode, at: Self.start)
        let isAsked = ahead.asked(old, of: Self.inode, upTo: 50, isRequest: true)
        #expect(old == ByteRange(40, 50) && !isAsked)
        #expect(ask(&ahead, 100, limit: 9) == ByteRange(1000, 1010))
        ahead.want(ByteRange(0, 5), of: Self.inode, at: Self.start)
        #expect(ask(&ahead, 100, limit: 9) == ByteRange(0, 5))
        // What is here already needs no request.
        ahead.want(ByteRange(5, 30), of: Self.inode, at: Self.start)
        let isSettled = ahead.asked(ByteRange(5, 30), of: Self.inode, upTo: 30, isRequest: false)
        #expect(isSettled)
        for _ in 0..<4 { ahead.ended(of: Self.inode, hasFailed: false) }
        #expect(ahead.isEmpty)
    }

    @Test func filesReadSideBySideShareWhatTheLinkTakes() {
        var ahead = ReadAhead()
        let inodes = (1...3 as ClosedRange<UInt64>).map { InodeNumber($0) }
        for inode in inodes { ahead.want(ByteRange(0, 1000), of: inode, at: Self.start) }
        var counts: [InodeNumber: Int] = [:]
        for inode in inodes {
            while let wanted = ahead.wanted(of: inode, requestLimit: 7) {
                _ = ahead.asked(wanted, of: inode, upTo: wanted.start + 10, isRequest: true)
                counts[inode, default: 0] += 1
            }
        }
        #expect(inodes.map { counts[$0] } == [2, 2, 2])
        #expect(ahead.wanted(of: inodes[0], requestLimit: 1) == nil, "one is under way")
        // Who has asked for nothing for long is not waited for, whatever has become of his requests.
        #expect(ahead.isAwaited(at: Self.start + .milliseconds(900)))
        #expect(!ahead.isAwaited(at: Self.start + .milliseconds(1100)))
    }

    @Test func aFailureEndsItUntilMoreIsRead() {
        var ahead = ReadAhead()
        ahead.want(ByteRange(0, 100), of: Self.inode, at: Self.start)
        _ = ask(&ahead, 10, limit: 2)
        _ = ask(&ahead, 10, limit: 2)
        ahead.ended(of: Self.inode, hasFailed: true)
        #expect(ask(&ahead, 10, limit: 2) == nil && !ahead.isEmpty)
        // Asked for again by the next read.
        ahead.want(ByteRange(20, 40), of: Self.inode, at: Self.start)
        #expect(ask(&ahead, 100, limit: 2) == ByteRange(20, 40))
        ahead.ended(of: Self.inode, hasFailed: false)
        ahead.ended(of: Self.inode, hasFailed: false)
        #expect(ahead.isEmpty)
    }

    @Test func whatIsReadInSequenceComesOnceAndTellsWhatTheLinkTakes() async throws {
        let size = 6 << 20
        var generator = Generator(seed: 3)
        let bytes = generator.bytes(size)
        let temporary = try TemporaryDirectory()
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let inode = try owner.create("file")
        try owner.write(inode, at: 0, bytes)
        let directory = try temporary.make("heir")
        try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
        try await owner.close()
        let source = FakeSource({ _ in bytes }) { $0.delay = .milliseconds(2) }
        var configuration = Hydrator.Configuration()
        configuration.streamsInBackground = false
        let volume = try TestVolume(opening: directory, source: source, configuration: configuration)
        for offset in stride(from: 0, to: size, by: 128 << 10) {
            let range = offset..<offset + (128 << 10)
            #expect(try await volume.read(inode, range) == Array(bytes[range]))
        }
        #expect(source.requests.count { $0.urgency == .prefetch } > 8)
        #expect(source.requestedByteCount == UInt64(size))
        let hydrator = try #require(volume.hydrator)
        while hydrator.ahead.withLock({ !$0.isEmpty }) { try await Task.sleep(for: .milliseconds(2)) }
        // Though nothing streams in the background.
        #expect(hydrator.activity.withLock { !$0.window.isAlone })
        try await volume.close()
    }
}
