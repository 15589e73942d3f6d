import Testing
import VolumeModel

@testable import Hydration

/// How much is fetched ahead of whoever reads a file of which little is here.
struct SequentialWindowTests {
    private static let size: UInt64 = 1 << 30
    private static let first = SequentialWindow.firstWindow
    private static let inode = InodeNumber(5)

    private var window = SequentialWindow()

    /// - Returns: where what is fetched ends.
    private mutating func ask(_ start: UInt64, _ count: UInt64 = 4096) -> UInt64 {
        let range = window.range(for: ByteRange(start, start + count), of: Self.inode, size: Self.size)
        #expect(range.start == start)
        return range.end
    }

    /// Reads some MiB in blocks of 128 KiB, as the kernel does.
    ///
    /// - Returns: where what is fetched ends.
    private mutating func read(from start: UInt64, blockCount: UInt64 = 128) -> UInt64 {
        (0..<blockCount).map { ask(start + $0 << 17, 1 << 17) }.max() ?? 0
    }

    /// Whether the largest window is ahead of a place, but for the step in which it is asked for.
    private static func isLargest(_ end: UInt64, at place: UInt64) -> Bool {
        let window = SequentialWindow.largestWindow
        return end <= place + window && end > place + window - window / 16
    }

    @Test mutating func aWindowGrowsOnlyForASequence() {
        #expect(ask(0) == 4096)
        #expect(ask(4096) == 8192 + Self.first)
        // Nothing more yet; from half of it on, twice as much.
        #expect(ask(8192) == 12_288)
        let half = 8192 + Self.first / 2
        #expect(ask(half - 4096) == half + 2 * Self.first)
        #expect(ask(half) == half + 4096)
        let next = half + 2 * Self.first
        #expect(ask(next) == next + 4096 + 4 * Self.first)
        // Elsewhere: exactly what is asked.
        for place in [500, 100, 700, 300, 900, 200] as [UInt64] {
            #expect(ask(place << 20) == place << 20 + 4096)
        }
    }

    @Test mutating func itHasAnEnd() {
        #expect(Self.isLargest(read(from: 0), at: 128 << 17))
        let all = ByteRange(Self.size - 10, Self.size)
        #expect(window.range(for: all, of: Self.inode, size: Self.size) == all)
        #expect(read(from: Self.size - 16 << 20) == Self.size)
    }

    @Test mutating func whatIsAheadAtTheEndIsAskedForOnce() {
        let start = Self.size - 16 << 20
        var end = read(from: start, blockCount: 100)
        #expect(end == Self.size)
        for block in 100..<128 as Range<UInt64> {
            end = ask(start + block << 17, 1 << 17)
            #expect(end == start + (block + 1) << 17)
        }
    }

    /// What is asked for at once comes at once, with a round trip before it in which nothing does.
    @Test mutating func moreIsAskedForLittleByLittle() {
        var end = read(from: 0)
        var steps: [UInt64] = []
        for block in 128..<256 as Range<UInt64> {
            let now = ask(block << 17, 1 << 17)
            if now > end { steps.append(now - end) }
            end = max(end, now)
        }
        #expect(Self.isLargest(end, at: 256 << 17))
        #expect(steps.count >= 16 && steps.allSatisfy { $0 <= 1 << 20 }, "\(steps)")
    }

    /// The kernel asks for several blocks ahead of a reader at a time, and they come to us in any order.
    @Test mutating func blocksInAnotherOrderAreASequenceStill() {
        var end = read(from: 0, blockCount: 32)
        for pair in 16..<64 as Range<UInt64> {
            for block in [2 * pair + 1, 2 * pair] { end = max(end, ask(block << 17, 1 << 17)) }
        }
        #expect(Self.isLargest(end, at: 128 << 17))
    }

    @Test mutating func eachOfSeveralReadersOfAFileHasItsOwn() {
        let places: [UInt64] = [100 << 20, 300 << 20, 500 << 20]
        var ends: [UInt64: UInt64] = [:]
        for block in 0..<64 as Range<UInt64> {
            for place in places { ends[place] = max(ends[place] ?? 0, ask(place + block << 17, 1 << 17)) }
        }
        for place in places { #expect(Self.isLargest(ends[place] ?? 0, at: place + 64 << 17)) }
    }

    /// What is remembered does not grow with the files.
    @Test mutating func whoHasReadLongAgoIsForgotten() {
        _ = ask(0)
        for other in 1000..<5000 as Range<UInt64> {
            let block = ByteRange(0, 4096)
            #expect(window.range(for: block, of: InodeNumber(other), size: Self.size) == block)
        }
        #expect(ask(4096) == 8192)
    }
}
