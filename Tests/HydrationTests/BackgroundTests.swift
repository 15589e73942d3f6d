import Catalog
import EngineTestSupport
import Foundation
@testable import Hydration
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

/// Streaming behind the application's back.
@Suite struct BackgroundTests {
    private static let names = (0..<60).map { "f\($0)" }

    private struct Heir {
        let temporary: TemporaryDirectory
        let directory: String
        let contents: [InodeNumber: [UInt8]]
        let source: FakeSource

        init(largest: Int = 60_000, countsBytes: Bool = true) async throws {
            temporary = try TemporaryDirectory()
            let owner = try TestVolume.make(in: try temporary.make("owner"))
            var generator = Generator(seed: 9)
            var contents: [InodeNumber: [UInt8]] = [:]
            for name in BackgroundTests.names {
                let inode = try owner.create(name)
                let bytes = generator.bytes(1 + generator.next(below: largest))
                try owner.write(inode, at: 0, bytes)
                contents[inode] = bytes
            }
            directory = try temporary.make("heir")
            try await TestVolume.makeHeir(
                of: owner.storage.catalog, in: directory, countsBytes: countsBytes)
            try await owner.close()
            let all = contents
            self.contents = all
            source = FakeSource { all[$0] }
        }

        var byteCount: UInt64 { contents.values.reduce(0) { $0 + UInt64($1.count) } }

        func open(
            _ configure: (inout Hydrator.Configuration) -> Void = { _ in },
            freeSpace: (@Sendable () -> UInt64)? = nil
        ) throws -> TestVolume {
            var configuration = Hydrator.Configuration()
            configuration.batchByteCount = 32 << 10
            configuration.batchExtentCount = 5
            configure(&configuration)
            return try TestVolume(
                opening: directory, source: source, configuration: configuration, freeSpace: freeSpace)
        }
    }

    @Test func everythingComesOnceAndThenTheSourceIsNotNeeded() async throws {
        let heir = try await Heir()
        let volume = try heir.open()
        #expect(try volume.storage.catalog.perform { $0.missingByteCount } == heir.byteCount)
        volume.startHydration()
        try await volume.waitForHydration()
        let progress = try #require(volume.hydrator).progress()
        #expect(progress.phase == .complete && progress.missingByteCount == 0)
        #expect(progress.totalByteCount == heir.byteCount)
        #expect(heir.source.requestedByteCount == heir.byteCount)
        try await volume.close()
        heir.source.set { $0.behaviour = .fails }
        let reopened = try heir.open { $0.faultTimeout = .milliseconds(50) }
        for (inode, bytes) in heir.contents {
            #expect(try await reopened.read(inode, 0..<bytes.count) == bytes)
        }
        try await reopened.close()
    }

    /// Keeps the thread of whoever asks in the background, as a disk does that is slow, until it is let go.
    private struct StuckSource: ByteSource {
        let contents: [InodeNumber: [UInt8]]
        let begun: Counter
        let name = "site elsewhere"

        func read(_ extents: [Extent], urgency: Urgency, timeout: Duration) async throws -> [Piece] {
            if urgency == .background {
                begun.add()
                Self.keepThread()
            }
            return extents.compactMap { extent in
                contents[extent.inode].map { bytes in
                    let part = Array(bytes[Int(extent.range.start)..<min(Int(extent.range.end), bytes.count)])
                    return Piece(inode: extent.inode, range: extent.range, content: .bytes(part))
                }
            }
        }

        private static func keepThread() { usleep(1_500_000) }
    }

    @Test func aFaultNeedsNoThreadThatABackgroundRequestKeeps() async throws {
        let heir = try await Heir()
        let volume = try TestVolume(opening: heir.directory)
        let begun = Counter()
        let hydrator = Hydrator(
            storage: volume.storage, source: StuckSource(contents: heir.contents, begun: begun)
        ) { _ in }
        let streaming = Task { try await hydrator.run() }
        let deadline = ContinuousClock.now + .seconds(10)
        while begun.value < min(4, ProcessInfo.processInfo.activeProcessorCount), .now < deadline {
            try await Task.sleep(for: .milliseconds(5))
        }
        let last = try #require(heir.contents.keys.max())
        let started = ContinuousClock.now
        // Of no higher priority itself: whoever waits lends its own to what it waits for.
        try await hydrator.fetch(ByteRange(0, 1), of: last)
        let latency = ContinuousClock.now - started
        #expect(latency < .milliseconds(700), "\(latency)")
        streaming.cancel()
        _ = await streaming.result
        try await volume.close()
    }

    private final class Counter: Sendable {
        private let count = Atomic(0)

        var value: Int { count.load(ordering: .relaxed) }
        func add() { count.wrappingAdd(1, ordering: .relaxed) }
    }

    @Test func aRestartGoesOnWhereTheRecordEnds() async throws {
        let heir = try await Heir()
        var taken: UInt64 = 0
        for round in 0..<4 {
            heir.source.set {
                $0.requests = []; $0.delay = .milliseconds(3)
            }
            let volume = try heir.open()
            volume.startHydration()
            try await Task.sleep(for: .milliseconds(15))
            await volume.stopHydration()
            // Half of the times in order, half as after kill -9.
            if round % 2 == 0 {
                try await volume.close()
            } else {
                try volume.storage.settle()
                volume.storage.catalog.abandon()
            }
            taken += heir.source.requestedByteCount
        }
        heir.source.set {
            $0.requests = []; $0.delay = .zero
        }
        let volume = try heir.open()
        let missing = try volume.storage.catalog.perform { $0.missingByteCount }
        #expect(missing < heir.byteCount)
        volume.startHydration()
        try await volume.waitForHydration()
        #expect(heir.source.requestedByteCount == missing)
        for (inode, bytes) in heir.contents {
            #expect(try await volume.read(inode, 0..<bytes.count) == bytes)
        }
        try await volume.close()
    }

    @Test func anUnrecordedArrivalIsMissingAfterACrashAndCountedSo() async throws {
        let heir = try await Heir()
        let volume = try heir.open()
        for inode in heir.contents.keys.sorted().prefix(20) { _ = try await volume.read(inode, 0..<1) }
        #expect(try volume.storage.catalog.perform { $0.missingByteCount } < heir.byteCount)
        try volume.storage.catalog.synchronize()
        volume.storage.catalog.abandon()
        let crashed = try heir.open { $0.streamsInBackground = false }
        #expect(try crashed.storage.catalog.perform { $0.missingByteCount } == heir.byteCount)
        #expect(try countMissingBytes(crashed.storage.catalog) == heir.byteCount)
        // Nor does a head that does not stream call itself complete.
        crashed.startHydration()
        try await Task.sleep(for: .milliseconds(100))
        #expect(try #require(crashed.hydrator).progress().phase != .complete)
        try await crashed.close()
    }

    /// After "complete" the origin may be deleted: a sum that is wrong must not be the reason.
    @Test(arguments: [true, false])
    func aWrongSumMakesNothingComplete(_ streams: Bool) async throws {
        let heir = try await Heir(countsBytes: false)
        let volume = try heir.open { $0.streamsInBackground = streams }
        #expect(try volume.storage.catalog.perform { $0.missingByteCount } == 0)
        volume.startHydration()
        if streams {
            try await volume.waitForHydration()
            #expect(heir.source.requestedByteCount == heir.byteCount)
        } else {
            try await Task.sleep(for: .milliseconds(200))
        }
        let phase = try #require(volume.hydrator).progress().phase
        #expect((phase == .complete) == streams)
        #expect(try countMissingBytes(volume.storage.catalog) == (streams ? 0 : heir.byteCount))
        try await volume.close()
    }

    @Test func faultsGoFirst() async throws {
        let heir = try await Heir(largest: 300_000)
        heir.source.set {
            $0.delay = .milliseconds(10)
            $0.urgentDelay = .milliseconds(200)
        }
        let volume = try heir.open()
        volume.startHydration()
        while heir.source.requests.count < StreamWindow.smallest {
            try await Task.sleep(for: .milliseconds(1))
        }
        let last = try #require(heir.contents.keys.max())
        _ = try await volume.read(last, 0..<1)
        // While the fault was under way nothing new was asked for behind it, but for what was on its way out: without that
        // it were some sixty.
        let after = heir.source.requests.drop { $0.urgency != .urgent }.dropFirst()
        let background = after.filter { $0.urgency == .background }.count
        #expect(background <= 5, "\(background) background requests")
        try await volume.waitForHydration()
        try await volume.close()
    }

    @Test func oneFileThatCannotBeHadHoldsUpNoOther() async throws {
        let heir = try await Heir(largest: 5000)
        let bad = heir.contents.keys.sorted()[7]
        heir.source.set { $0.badInodes = [bad] }
        let volume = try heir.open()
        volume.startHydration()
        let deadline = ContinuousClock.now + .seconds(60)
        // Its batch is held up with it, and nothing else.
        while try volume.storage.catalog.perform({ $0.missingByteCount }) > 5 * 5000,
            ContinuousClock.now < deadline
        { try await Task.sleep(for: .milliseconds(10)) }
        #expect(ContinuousClock.now < deadline)
        let progress = try #require(volume.hydrator).progress()
        if case .complete = progress.phase { Issue.record("complete without inode \(bad)") }
        heir.source.set { $0.badInodes = [] }
        try await volume.waitForHydration()
        for (inode, bytes) in heir.contents {
            #expect(try await volume.read(inode, 0..<bytes.count) == bytes)
        }
        try await volume.close()
    }

    @Test func aFullDiskPausesAndFreeSpaceResumes() async throws {
        let heir = try await Heir()
        let free = Mutex<UInt64>(1000)
        let volume = try heir.open(freeSpace: { free.withLock { $0 } })
        volume.startHydration()
        try await Task.sleep(for: .milliseconds(300))
        #expect(heir.source.requests.isEmpty)
        guard case .waiting(let reason) = try #require(volume.hydrator).progress().phase else {
            Issue.record("does not wait")
            return
        }
        #expect(reason.contains("full"))
        // A full disk takes no more, but lets go of what it has.
        #expect(throws: FileSystemError.errno(.noSpace)) { _ = try volume.create("new") }
        let some = try #require(heir.contents.keys.min())
        #expect(throws: FileSystemError.errno(.noSpace)) { try volume.write(some, at: 0, [1]) }
        free.withLock { $0 = 20 << 20 }
        try await Task.sleep(for: .milliseconds(250))
        try volume.fileSystem.unlink(Array("f3".utf8), in: .root)
        try volume.truncate(some, to: 0)
        #expect(throws: FileSystemError.errno(.noSpace)) { try volume.write(some, at: 0, [1]) }
        free.withLock { $0 = 1 << 40 }
        try await volume.waitForHydration()
        try volume.write(some, at: 0, [1])
        try await volume.close()
    }

    @Test func hydrationCanBePausedAndFaultsAreServedAllTheSame() async throws {
        let heir = try await Heir()
        let volume = try heir.open()
        try #require(volume.hydrator).follow(HydrationPolicy(isPaused: true))
        volume.startHydration()
        try await Task.sleep(for: .milliseconds(100))
        #expect(heir.source.requests.isEmpty)
        let (inode, bytes) = try #require(heir.contents.first)
        #expect(try await volume.read(inode, 0..<bytes.count) == bytes)
        try #require(volume.hydrator).follow(HydrationPolicy())
        try await volume.waitForHydration()
        try await volume.close()
    }

    /// Four connections over a link that they share, each with one request at a time: those that are made at once, on
    /// different ones, end at once. Times are in milliseconds.
    private struct Link {
        var transfer: Double
        var roundTrip: Double
        /// How much longer some trips take.
        var jitter = 0.0
        private let start = ContinuousClock.now
        private var now = 0.0
        private var connections: [[(asked: Double, arrives: Double, left: Double, units: Int)]] = Array(
            repeating: [], count: 4)
        private var requestCount = 0

        init(transfer: Double, roundTrip: Double, jitter: Double = 0) {
            (self.transfer, self.roundTrip, self.jitter) = (transfer, roundTrip, jitter)
        }

        /// Answers the requests that the window allows, for so long.
        ///
        /// - Returns: the share of the time in which the link was in use, and the longest that an answer took.
        mutating func serve(_ window: inout StreamWindow, for time: Double) -> (
            share: Double, longest: Double
        ) {
            let (begin, step) = (now, min(0.5, transfer / 10))
            var (used, longest) = (0.0, 0.0)
            while now < begin + time {
                while connections.reduce(0, { $0 + $1.count }) < window.requestCount {
                    let late = jitter * Double(requestCount * 7 % 10) / 10
                    let units = window.requestUnits
                    connections[requestCount % 4].append(
                        (now, now + roundTrip + late, transfer * Double(units), units))
                    requestCount += 1
                }
                let active = connections.indices.filter {
                    connections[$0].first.map { $0.arrives <= now } ?? false
                }
                for index in active { connections[index][0].left -= step / Double(active.count) }
                if !active.isEmpty { used += step }
                now += step
                for index in active where connections[index][0].left <= 0 {
                    let answer = connections[index].removeFirst()
                    let latency = now - answer.asked
                    longest = max(longest, latency)
                    window.noteAnswer(
                        of: answer.units, after: .seconds(latency / 1000), at: start + .seconds(now / 1000))
                }
            }
            return (used / time, longest)
        }
    }

    /// 128 KiB take 10.5 ms of 100 Mbit/s.
    @Test(arguments: [(10.5, 20.0), (2, 100), (1, 20), (10.5, 100), (100, 20)])
    func aLinkIsFilledWithinASecondOrTwoAndNoLongQueueBuilt(_ transfer: Double, _ roundTrip: Double) {
        var window = StreamWindow()
        var link = Link(transfer: transfer, roundTrip: roundTrip, jitter: roundTrip / 8)
        _ = link.serve(&window, for: 3000)
        let (share, longest) = link.serve(&window, for: 10_000)
        #expect(share > 0.9, "\(window)")
        #expect(longest < 3 * (roundTrip + transfer), "\(window): \(longest) ms")
    }

    @Test func lessIsAskedForWhenTheLinkBecomesSlower() {
        var window = StreamWindow()
        var link = Link(transfer: 1, roundTrip: 100)
        _ = link.serve(&window, for: 5000)
        #expect(window.unitCount > 80)
        link.transfer = 20
        _ = link.serve(&window, for: 60_000)
        #expect(window.unitCount < 20)
        window.noteFailure()
        #expect(window == StreamWindow())
    }

    /// 100 Mbit/s, 1 Gbit/s over three distances, and what the processors of one host carry.
    @Test(arguments: [(10.5, 20.0, 1), (1, 100, 8), (1, 20, 4), (1, 0.5, 2), (0.5, 0.5, 4)])
    func aQuickLinkIsAskedForMoreAtATime(_ transfer: Double, _ roundTrip: Double, _ units: Int) {
        var window = StreamWindow()
        #expect(window.requestUnits == 1)
        var link = Link(transfer: transfer, roundTrip: roundTrip)
        _ = link.serve(&window, for: 5000)
        let (share, longest) = link.serve(&window, for: 5000)
        #expect(window.requestUnits == units, "\(window)")
        #expect(share > 0.9 && longest < 10 + 3 * (roundTrip + transfer), "\(share), \(longest) ms")
        link.transfer = 100
        _ = link.serve(&window, for: 200_000)
        #expect(window.requestUnits == 1)
    }

    @Test func aRateIsKeptAndCanBeLiftedAtAnyTime() async throws {
        let heir = try await Heir(largest: 300_000)
        let volume = try heir.open()
        let hydrator = try #require(volume.hydrator)
        // At this rate it would take an hour.
        hydrator.follow(HydrationPolicy(bytesPerSecond: max(1, heir.byteCount / 3600)))
        volume.startHydration()
        try await Task.sleep(for: .milliseconds(500))
        #expect(heir.source.requests.count <= 2)
        // A fault does not wait for it.
        let (inode, bytes) = try #require(heir.contents.max { $0.value.count < $1.value.count })
        #expect(try await volume.read(inode, 0..<4096) == Array(bytes.prefix(4096)))
        hydrator.follow(HydrationPolicy())
        try await volume.waitForHydration()
        #expect(hydrator.progress().missingByteCount == 0)
        try await volume.close()
    }

    @Test func aLimiterSpreadsRequestsAndSavesUpLittle() {
        var limiter = RateLimiter()
        let now = ContinuousClock.now
        #expect(limiter.take(1000, bytesPerSecond: 1000, at: now) == .zero)
        #expect(limiter.take(500, bytesPerSecond: 1000, at: now) == .seconds(1))
        #expect(limiter.take(500, bytesPerSecond: 1000, at: now + .milliseconds(400)) == .milliseconds(600))
        #expect(limiter.take(500, bytesPerSecond: 1000, at: now + .seconds(1)) == .zero)
        #expect(limiter.take(1, bytesPerSecond: 1000, at: now + .seconds(1)) == .milliseconds(500))
        // At another rate the rest is paid sooner.
        #expect(limiter.take(1, bytesPerSecond: 5000, at: now + .seconds(1)) == .milliseconds(100))
        // After an hour's rest there is a burst of a tenth of a second, not of an hour.
        let later = now + .seconds(3600)
        #expect(limiter.take(200, bytesPerSecond: 1000, at: later) == .zero)
        #expect(limiter.take(1, bytesPerSecond: 1000, at: later) == .milliseconds(100))
        // What was taken and did not come is given back.
        limiter.settle(taken: 200, come: 50)
        #expect(limiter.take(1, bytesPerSecond: 1000, at: later) == .zero)
    }

    /// As slow as a link may be made, what is here already comes at the disk's speed: whether that is known beforehand
    /// or only with the answer.
    @Test(arguments: [false, true])
    func aRateHoldsUpNothingThatIsHereAlready(isKnownBefore: Bool) async throws {
        let heir = try await Heir(largest: 300_000)
        let contents = heir.contents
        heir.source.set { state in
            state.isOwn = { _ in true }
            state.knowsOwn = isKnownBefore
        }
        let volume = try heir.open()
        let hydrator = try #require(volume.hydrator)
        hydrator.follow(HydrationPolicy(bytesPerSecond: 1))
        volume.startHydration()
        try await volume.waitForHydration()
        let progress = hydrator.progress()
        #expect(progress.missingByteCount == 0 && progress.receivedByteCount == 0)
        #expect(progress.savedByteCount > 0)
        for (inode, bytes) in contents {
            #expect(try await volume.read(inode, 0..<bytes.count + 1) == bytes)
        }
        try await volume.close()
    }

    /// And what is not here waits all the same, also where others are.
    @Test(arguments: [false, true])
    func aRateHoldsUpWhatComesOverTheLinkAmongWhatIsHere(isKnownBefore: Bool) async throws {
        let heir = try await Heir(largest: 300_000)
        let large = heir.contents.filter { $0.value.count > 64 << 10 }.keys.sorted()
        let foreign = Set(large.suffix(large.count / 2))
        heir.source.set { state in
            state.isOwn = { !foreign.contains($0) }
            state.knowsOwn = isKnownBefore
        }
        let volume = try heir.open()
        let hydrator = try #require(volume.hydrator)
        let byteCount = heir.contents.filter { foreign.contains($0.key) }.values.reduce(0) { $0 + $1.count }
        hydrator.follow(HydrationPolicy(bytesPerSecond: UInt64(max(1, byteCount / 3600))))
        volume.startHydration()
        try await Task.sleep(for: .seconds(1))
        // One request is free, and one may hold a little that is here beside it.
        #expect(hydrator.progress().receivedByteCount <= 2 * 32 << 10)
        #expect(byteCount > 20 * 32 << 10)
        hydrator.follow(HydrationPolicy())
        try await volume.waitForHydration()
        #expect(hydrator.progress().receivedByteCount == UInt64(byteCount))
        try await volume.close()
    }
}
