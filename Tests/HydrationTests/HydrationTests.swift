import Catalog
import EngineTestSupport
import Foundation
@testable import Hydration
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

/// A head whose bytes are all at a fake source.
@Suite struct HydrationTests {
    /// Files by their sizes, with bytes that tell which they are.
    private struct Heir {
        let temporary: TemporaryDirectory
        let directory: String
        let files: [InodeNumber]
        let contents: [InodeNumber: [UInt8]]
        let source: FakeSource

        init(_ sizes: [Int], holes: [Range<Int>] = [], _ prepare: (inout FakeSource.State) -> Void = { _ in })
            async throws
        {
            temporary = try TemporaryDirectory()
            let owner = try TestVolume.make(in: try temporary.make("owner"))
            var generator = Generator(seed: UInt64(sizes.count))
            var contents: [InodeNumber: [UInt8]] = [:]
            var files: [InodeNumber] = []
            for (index, size) in sizes.enumerated() {
                let inode = try owner.create("f\(index)")
                var bytes = generator.bytes(size)
                for hole in holes where hole.upperBound <= size {
                    bytes.replaceSubrange(hole, with: [UInt8](repeating: 0, count: hole.count))
                }
                try owner.write(inode, at: 0, bytes)
                contents[inode] = bytes
                files.append(inode)
            }
            directory = try temporary.make("heir")
            try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
            try await owner.close()
            self.files = files
            let all = contents
            self.contents = all
            source = FakeSource({ all[$0] }, prepare)
        }

        func open(
            _ configure: (inout Hydrator.Configuration) -> Void = { _ in },
            freeSpace: (@Sendable () -> UInt64)? = nil
        ) throws -> TestVolume {
            var configuration = Hydrator.Configuration()
            configure(&configuration)
            return try TestVolume(
                opening: directory, source: source, configuration: configuration, freeSpace: freeSpace)
        }

        func expectAll(_ volume: TestVolume) async throws {
            for inode in files {
                let bytes = contents[inode] ?? []
                #expect(try await volume.read(inode, 0..<bytes.count + 1) == bytes)
            }
        }
    }

    // MARK: faults

    @Test func manyReadersOfTheSameBytesAskForThemOnce() async throws {
        let heir = try await Heir([1 << 20]) { $0.delay = .milliseconds(30) }
        let volume = try heir.open()
        let inode = heir.files[0]
        try await withThrowingTaskGroup(of: [UInt8].self) { group in
            for _ in 0..<20 {
                group.addTask { try await volume.read(inode, 500_000..<504_096) }
            }
            for try await bytes in group { #expect(bytes == Array(heir.contents[inode]![500_000..<504_096])) }
        }
        #expect(heir.source.requestedByteCount == 4096)
        #expect(heir.source.requests.count == 1)
        try await volume.close()
    }

    @Test func readersOfOverlappingBytesAskForEachByteOnce() async throws {
        let heir = try await Heir([4 << 20]) { $0.delay = .milliseconds(20) }
        let volume = try heir.open()
        let inode = heir.files[0]
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<16 {
                let start = 1_000_000 + index * 1000
                group.addTask {
                    let found = try await volume.read(inode, start..<start + 3000)
                    #expect(found == Array(heir.contents[inode]![start..<start + 3000]))
                }
            }
            try await group.waitForAll()
        }
        var seen = RangeSet()
        for request in heir.source.requests {
            for extent in request.extents {
                #expect(seen.intersection(extent.range).isEmpty, "asked twice for \(extent.range)")
                seen.insert(extent.range)
            }
        }
        try await volume.close()
    }

    @Test func aSmallFaultWaitsForNothingThatComesInTheBackground() async throws {
        let heir = try await Heir([1 << 20]) { $0.holdsBackground = true }
        let volume = try heir.open { $0.batchByteCount = 256 << 10 }
        let inode = heir.files[0]
        let bytes = try #require(heir.contents[inode])
        volume.startHydration()
        while heir.source.requests.isEmpty { try await Task.sleep(for: .milliseconds(2)) }
        let underWay = try #require(heir.source.requests[0].extents.first?.range)
        #expect(underWay == ByteRange(0, 256 << 10))
        #expect(try await volume.read(inode, 8192..<12288) == Array(bytes[8192..<12288]))
        let asked = heir.source.requests.filter { $0.urgency == .urgent }.flatMap(\.extents)
        #expect(asked == [Extent(inode: inode, range: ByteRange(8192, 12288))])
        // What is large is not worth being sent twice.
        async let large = volume.read(inode, 16384..<147_456)
        try await Task.sleep(for: .milliseconds(50))
        heir.source.set { $0.holdsBackground = false }
        #expect(try await large == Array(bytes[16384..<147_456]))
        #expect(heir.source.requests.filter { $0.urgency == .urgent }.count == 1)
        try await volume.waitForHydration()
        try await heir.expectAll(volume)
        try await volume.close()
    }

    @Test func randomReadsFetchWhatTheyReadAndNoMore() async throws {
        let heir = try await Heir([64 << 20])
        let volume = try heir.open()
        let inode = heir.files[0]
        var generator = Generator(seed: 5)
        var blocks = Set<Int>()
        for _ in 0..<200 {
            // Blocks that follow each other would be a sequence.
            let block = generator.next(below: 8000) * 2
            guard blocks.insert(block).inserted else { continue }
            _ = try await volume.read(inode, block * 4096..<block * 4096 + 4096)
        }
        #expect(heir.source.requestedByteCount == UInt64(blocks.count) * 4096)
        try await volume.close()
    }

    @Test func sequentialReadsAskForMoreAndMoreAhead() async throws {
        let heir = try await Heir([8 << 20]) { $0.delay = .milliseconds(1) }
        let volume = try heir.open()
        let inode = heir.files[0]
        for offset in stride(from: 0, to: 8 << 20, by: 64 << 10) {
            let found = try await volume.read(inode, offset..<offset + (64 << 10))
            #expect(found == Array(heir.contents[inode]![offset..<offset + (64 << 10)]))
            guard offset == 1 << 20 else { continue }
            // A byte that is read again counts once.
            _ = try await volume.read(inode, 0..<100_000)
            let ahead = try #require(volume.hydrator).prefetched.counts
            #expect(ahead.read > 0 && ahead.read <= ahead.all && ahead.read <= 1 << 20, "\(ahead)")
        }
        let urgent = heir.source.requests.filter { $0.urgency == .urgent }.count
        #expect(urgent < 40, "\(urgent) of 128 reads had to ask themselves")
        // What was fetched ahead has all been read.
        let ahead = try #require(volume.hydrator).prefetched.counts
        #expect(ahead.all > 4 << 20 && ahead.read == ahead.all, "\(ahead)")
        #expect(heir.source.requestedByteCount == 8 << 20)
        try await volume.close()
    }

    /// It stays unread, and nothing of it is remembered.
    @Test func whatWasFetchedAheadIsForgottenWhenItIsGone() async throws {
        let heir = try await Heir([200_000, 200_000, 200_000])
        let volume = try heir.open()
        let hydrator = try #require(volume.hydrator)
        func fetchAhead(_ inode: InodeNumber) async throws {
            let extent = Extent(inode: inode, range: ByteRange(0, 200_000))
            _ = try await hydrator.bring([extent], urgency: .prefetch, timeout: .seconds(10))
        }
        func remove(_ number: Int) throws {
            try volume.fileSystem.unlink(Array("f\(number)".utf8), in: .root)
            volume.fileSystem.forget(heir.files[number], count: 1)
        }
        for file in heir.files[..<2] { try await fetchAhead(file) }
        #expect(hydrator.prefetched.counts == (400_000, 0) && hydrator.prefetched.unreadFileCount == 2)
        // Cut, and grown again: of what is read then a quarter was fetched.
        for size in [50_000, 200_000] { try volume.truncate(heir.files[0], to: size) }
        #expect(try await volume.read(heir.files[0], 0..<200_000).count == 200_000)
        #expect(hydrator.prefetched.counts == (400_000, 50_000) && hydrator.prefetched.unreadFileCount == 1)
        try remove(1)
        #expect(hydrator.prefetched.counts == (400_000, 50_000) && hydrator.prefetched.unreadFileCount == 0)
        // On its way while its file goes.
        try remove(2)
        try await fetchAhead(heir.files[2])
        #expect(hydrator.prefetched.counts == (400_000, 50_000) && hydrator.prefetched.unreadFileCount == 0)
        try await volume.close()
    }

    @Test func aSmallFileIsFetchedWholeAtOnce() async throws {
        let heir = try await Heir([20_000])
        let volume = try heir.open()
        _ = try await volume.read(heir.files[0], 10_000..<10_010)
        #expect(heir.source.requests.count == 1)
        #expect(heir.source.requestedByteCount == 20_000)
        try await heir.expectAll(volume)
        #expect(heir.source.requests.count == 1)
        try await volume.close()
    }

    // MARK: trouble

    @Test func aSilentSourceIsAnErrorInTimeAndWorksAgainLater() async throws {
        let heir = try await Heir([1 << 20, 1 << 20])
        for behaviour in [FakeSource.Behaviour.isSilent, .fails, .hangs] {
            heir.source.set { $0.behaviour = behaviour }
            let volume = try heir.open { $0.faultTimeout = .milliseconds(300) }
            let started = ContinuousClock.now
            await #expect(throws: FileSystemError.errno(.inputOutput), "\(behaviour)") {
                _ = try await volume.read(heir.files[0], 0..<4096)
            }
            let took = ContinuousClock.now - started
            // Generous: other tests take the processors meanwhile. The default is 30 seconds.
            #expect(took >= .milliseconds(250) && took < .seconds(25), "\(behaviour): \(took)")
            // The line for a person names the file, the range and the source.
            #expect(
                volume.log.contains { line in
                    line.contains("/f0") && line.contains("[0, 4096)") && line.contains("site elsewhere")
                }, "\(volume.log)")
            heir.source.set { $0.behaviour = .answers }
            var bytes: [UInt8]?
            for _ in 0..<100 where bytes == nil { bytes = try? await volume.read(heir.files[0], 0..<4096) }
            #expect(bytes == Array(heir.contents[heir.files[0]]![0..<4096]))
            volume.storage.catalog.abandon()
        }
    }

    @Test func shortAnswersAreAskedForAgainAndRubbishIsRefused() async throws {
        let heir = try await Heir([100_000]) { $0.answerByteCount = 777 }
        let volume = try heir.open { $0.faultTimeout = .milliseconds(200) }
        let inode = heir.files[0]
        #expect(try await volume.read(inode, 1000..<9000) == Array(heir.contents[inode]![1000..<9000]))
        let zeros = [UInt8](repeating: 0, count: 100)
        let answers: [@Sendable ([Extent]) throws -> [Piece]] = [
            { _ in [] },
            { [Piece(inode: InodeNumber(999), range: $0[0].range, content: .zeros)] },
            { [Piece(inode: $0[0].inode, range: ByteRange(0, 10), content: .zeros)] },
            { [Piece(inode: $0[0].inode, range: $0[0].range, content: .bytes(zeros))] },
            { [Piece(inode: $0[0].inode, range: ByteRange(90_000, 90_000), content: .bytes([]))] },
        ]
        for answer in answers {
            heir.source.set { $0.answer = answer }
            await #expect(throws: FileSystemError.errno(.inputOutput)) {
                _ = try await volume.read(inode, 50_000..<60_000)
            }
        }
        heir.source.set { $0.answer = nil }
        try await heir.expectAll(volume)
        try await volume.close()
    }

    @Test func holesAreNamedWholeAndCostNothing() async throws {
        let heir = try await Heir([10 << 20], holes: [4096..<(9 << 20)]) { $0.namesWholeHoles = true }
        let volume = try heir.open()
        let inode = heir.files[0]
        _ = try await volume.read(inode, 8192..<8193)
        // One request has told all of the hole.
        let missing = try volume.storage.catalog.perform {
            try $0.missingRanges(of: inode, in: ByteRange(0, 10 << 20))
        }
        #expect(missing == [ByteRange(0, 8192), ByteRange(9 << 20, 10 << 20)])
        #expect(try await volume.read(inode, 5 << 20..<(5 << 20) + 10) == [UInt8](repeating: 0, count: 10))
        #expect(heir.source.requests.count == 1)
        volume.startHydration()
        try await volume.waitForHydration()
        try await heir.expectAll(volume)
        #expect(try #require(volume.hydrator).progress().receivedByteCount <= 2 << 20)
        try await volume.close()
    }

    @Test func zerosBeyondTheOriginsPartHideNoLocalBytes() async throws {
        let heir = try await Heir([100_000], holes: [0..<100_000]) { $0.namesWholeHoles = true }
        let volume = try heir.open()
        let inode = heir.files[0]
        let local = [UInt8](repeating: 5, count: 5000)
        try volume.write(inode, at: 99_000, local)
        try volume.write(inode, at: 300_000, local)
        #expect(try await volume.read(inode, 0..<10) == [UInt8](repeating: 0, count: 10))
        #expect(try await volume.read(inode, 98_999..<104_001) == [0] + local + [0])
        #expect(try await volume.read(inode, 299_999..<306_000) == [0] + local)
        try await volume.close()
    }

    // MARK: writes

    @Test func aWriteNeverFetchesAndWinsOverWhatArrivesLater() async throws {
        let heir = try await Heir([1 << 20]) { $0.delay = .milliseconds(60) }
        let volume = try heir.open()
        let inode = heir.files[0]
        async let read = volume.read(inode, 0..<(64 << 10))
        try await Task.sleep(for: .milliseconds(20))
        let requestCount = heir.source.requests.count
        try volume.write(inode, at: 1000, [UInt8](repeating: 1, count: 3000))
        #expect(heir.source.requests.count <= max(1, requestCount))
        var expected = Array(heir.contents[inode]![0..<(64 << 10)])
        expected.replaceSubrange(1000..<4000, with: [UInt8](repeating: 1, count: 3000))
        #expect(try await read == expected)
        // Cut while bytes are on their way: what comes late stays out.
        async let late = volume.read(inode, 500_000..<510_000)
        try await Task.sleep(for: .milliseconds(20))
        try volume.truncate(inode, to: 505_000)
        try volume.truncate(inode, to: 600_000)
        _ = try await late
        let tail = try await volume.read(inode, 500_000..<510_000)
        #expect(tail == Array(heir.contents[inode]![500_000..<505_000]) + [UInt8](repeating: 0, count: 5000))
        try await volume.close()
    }

    @Test func aFileRemovedWhileItsBytesAreOnTheirWayLeavesNothing() async throws {
        let heir = try await Heir([1 << 20, 1000]) { $0.delay = .milliseconds(60) }
        let volume = try heir.open()
        let inode = heir.files[0]
        let read = Task { try await volume.read(inode, 0..<5000) }
        try await Task.sleep(for: .milliseconds(20))
        try volume.fileSystem.unlink(Array("f0".utf8), in: .root)
        volume.fileSystem.forget(inode, count: 1)
        try volume.storage.settle()
        await #expect(throws: FileSystemError.errno(.stale)) { _ = try await read.value }
        volume.startHydration()
        try await volume.waitForHydration()
        #expect(try volume.storage.catalog.perform { $0.missingByteCount } == 0)
        let left = try FileManager.default.subpathsOfDirectory(atPath: heir.directory + "/data")
            .filter { $0.contains("/") }
        #expect(left.count == 1, "\(left)")
        #expect(volume.log.isEmpty, "\(volume.log)")
        try await volume.close()
    }
}
