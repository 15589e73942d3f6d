import Catalog
import EngineTestSupport
@testable import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

/// What the application reads first comes first.
@Suite struct ProfileTests {
    private struct Heir {
        let temporary: TemporaryDirectory
        let storage: HeadStorage
        let source: FakeSource
        let inodes: [InodeNumber]
        let contents: [InodeNumber: [UInt8]]

        init() async throws {
            temporary = try TemporaryDirectory()
            let owner = try TestVolume.make(in: try temporary.make("owner"))
            var generator = Generator(seed: 21)
            var contents: [InodeNumber: [UInt8]] = [:]
            var inodes: [InodeNumber] = []
            for number in 0..<40 {
                let inode = try owner.create("f\(number)")
                let bytes = generator.bytes(200_000)
                try owner.write(inode, at: 0, bytes)
                contents[inode] = bytes
                inodes.append(inode)
            }
            let directory = try temporary.make("heir")
            try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
            try await owner.close()
            self.inodes = inodes
            self.contents = contents
            let all = contents
            source = FakeSource { all[$0] }
            storage = try HeadStorage(opening: directory)
        }

        func hydrator(_ profile: [Extent]) -> Hydrator {
            Hydrator(storage: storage, source: source, profile: profile) { _ in }
        }
    }

    @Test func theProfileComesFirstInItsOrderAndTheRestBehind() async throws {
        let heir = try await Heir()
        let profile = [30, 7, 22].map { number in
            Extent(inode: heir.inodes[number], range: ByteRange(8192, 8192 + 4096 * 3))
        }
        let hydrator = heir.hydrator(
            profile + [
                // Of a file that is gone, and beyond the end of one: both are passed over.
                Extent(inode: InodeNumber(999_999), range: ByteRange(0, 4096)),
                Extent(inode: heir.inodes[2], range: ByteRange(196_608, 1 << 40)),
            ])
        try await hydrator.run()
        let requests = heir.source.requests
        let first = try #require(requests.first)
        #expect(first.urgency == .prefetch)
        #expect(
            first.extents == profile + [Extent(inode: heir.inodes[2], range: ByteRange(196_608, 200_000))])
        #expect(requests.dropFirst().allSatisfy { $0.urgency == .background })
        // Everything came, once.
        #expect(hydrator.progress().missingByteCount == 0)
        #expect(heir.source.requestedByteCount == 40 * 200_000)
        #expect(hydrator.prefetched.counts == (3 * 12_288 + 3392, 0))
        try heir.storage.close()
    }

    @Test func aFaultJoinsWhatIsOnItsWay() async throws {
        let heir = try await Heir()
        heir.source.set { $0.delay = .milliseconds(300) }
        let wanted = Extent(inode: heir.inodes[5], range: ByteRange(0, 4096))
        let hydrator = heir.hydrator(
            [wanted, Extent(inode: heir.inodes[6], range: ByteRange(0, 4096))])
        let running = Task { try await hydrator.run() }
        while heir.source.requests.isEmpty { try await Task.sleep(for: .milliseconds(2)) }
        try await hydrator.fetch(wanted.range, of: wanted.inode)
        let page = heir.source.requests.flatMap(\.extents).filter {
            $0.inode == wanted.inode && $0.range.overlaps(wanted.range)
        }
        #expect(page.count == 1)
        heir.source.set { $0.delay = .zero }
        try await running.value
        try heir.storage.close()
    }

    @Test func aSourceThatWasAwayIsAskedForTheProfileAgain() async throws {
        let heir = try await Heir()
        heir.source.set { $0.behaviour = .fails }
        let profile = [Extent(inode: heir.inodes[33], range: ByteRange(0, 4096))]
        let hydrator = heir.hydrator(profile)
        let running = Task { try await hydrator.run() }
        while heir.source.requests.count < 3 { try await Task.sleep(for: .milliseconds(2)) }
        #expect(heir.source.requests.allSatisfy { $0.extents == profile })
        heir.source.set { $0.behaviour = .answers }
        try await running.value
        #expect(hydrator.progress().missingByteCount == 0)
        try heir.storage.close()
    }

    private static func extent(_ number: UInt64, _ range: Range<UInt64>) -> Extent {
        Extent(inode: InodeNumber(number), range: ByteRange(range.lowerBound, range.upperBound))
    }

    @Test func whatIsShortComesBeforeWhatIsLongEachInItsOrder() {
        let long = [
            Self.extent(2, 0..<20 << 20), Self.extent(3, 0..<60_000), Self.extent(3, 100_000..<160_000),
        ]
        let short = [Self.extent(9, 4096..<8192), Self.extent(4, 0..<65_536), Self.extent(9, 0..<4096)]
        #expect(
            Hydrator.shortFirst([short[0], long[0], long[1], short[1], long[2], short[2]]) == short + long)
        // So many short ones that they would hold up the others: the rest stays where it was.
        let many = (100..<300 as Range<UInt64>).map { Self.extent($0, 0..<65_536) }
        let ordered = Hydrator.shortFirst([long[0]] + many)
        #expect(ordered == many[..<64] + [long[0]] + many[64...])
        // Nothing that a record may say is too much.
        let huge = [Self.extent(1, 0..<UInt64(Int64.max)), Self.extent(1, 0..<UInt64(Int64.max))]
        #expect(Hydrator.shortFirst(huge + huge + short) == short + huge + huge)
    }

    @Test func thePolicySaysWhatComesBeforeItIsRead() async throws {
        let heir = try await Heir()
        let profile = [Extent(inode: heir.inodes[30], range: ByteRange(8192, 20_480))]
        let hydrator = heir.hydrator(profile)
        hydrator.follow(HydrationPolicy(prefetch: .nothing))
        let running = Task { try await hydrator.run() }
        func waits(for policy: PrefetchPolicy) async throws {
            while true {
                if case .waiting(let reason) = hydrator.progress().phase,
                    reason.contains("prefetch: \(policy.rawValue)")
                {
                    return
                }
                try await Task.sleep(for: .milliseconds(2))
            }
        }
        try await waits(for: .nothing)
        #expect(heir.source.requests.isEmpty)
        hydrator.follow(HydrationPolicy(prefetch: .start))
        try await waits(for: .start)
        #expect(heir.source.requests.flatMap(\.extents) == profile)
        // What is read comes, and when all of it has been there is nothing to wait for any more.
        for inode in heir.inodes { try await hydrator.fetch(ByteRange(0, 200_000), of: inode) }
        try await running.value
        #expect(hydrator.progress().phase == .complete && hydrator.progress().missingByteCount == 0)
        #expect(heir.source.requests.allSatisfy { $0.urgency != .background })
        try heir.storage.close()
    }

    /// A fault on the first bytes of it must not wait for the last ones.
    @Test func aLongRangeIsAskedForInParts() async throws {
        let heir = try await Heir()
        var configuration = Hydrator.Configuration()
        configuration.batchByteCount = 32 << 10
        let profile = [
            Extent(inode: heir.inodes[3], range: ByteRange(0, 200_000)),
            Extent(inode: heir.inodes[8], range: ByteRange(4096, 8192)),
            Extent(inode: heir.inodes[1], range: ByteRange(8192, 190_464)),
        ]
        let hydrator = Hydrator(
            storage: heir.storage, source: heir.source, configuration: configuration, profile: profile
        ) { _ in }
        try await hydrator.run()
        let ahead = heir.source.requests.filter { $0.urgency == .prefetch }
        let sizes = ahead.map { $0.extents.reduce(0) { $0 + $1.range.byteCount } }
        #expect(sizes.allSatisfy { $0 <= 32 << 10 }, "\(sizes)")
        #expect(sizes.dropLast().allSatisfy { $0 >= 24 << 10 }, "no crumbs: \(sizes)")
        // Of those that are asked for at once, each by a task of its own, any may come first.
        #expect(ahead.prefix(4).contains { $0.extents.first == profile[1] }, "what is short first")
        for extent in profile {
            let parts = ahead.flatMap(\.extents).filter { $0.inode == extent.inode }.map(\.range)
            #expect(RangeSet(parts).ranges == [extent.range])
            #expect(parts.reduce(0) { $0 + $1.byteCount } == extent.range.byteCount, "each byte once")
        }
        #expect(heir.source.requestedByteCount == 40 * 200_000)
        #expect(hydrator.progress().missingByteCount == 0)
        try heir.storage.close()
    }
}
