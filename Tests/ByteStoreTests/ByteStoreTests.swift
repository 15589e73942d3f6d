@testable import ByteStore
import EngineTestSupport
import Foundation
import Synchronization
import Testing
import VolumeModel

@Suite struct ByteStoreTests {
    private func read(_ file: DataFile, _ count: Int, at offset: UInt64 = 0) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xee, count: count)
        try bytes.withUnsafeMutableBytes { try file.read(into: $0, at: offset) }
        return bytes
    }

    private func write(_ file: DataFile, _ bytes: [UInt8], at offset: UInt64 = 0) throws {
        try bytes.withUnsafeBytes { try file.write($0, at: offset) }
    }

    private static func openDescriptors() throws -> Int {
        try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count
    }

    @Test func thousandsOfFilesNeedOnlyAFewDescriptors() throws {
        let temporary = try TemporaryDirectory()
        let store = try ByteStore(directory: temporary.path + "/data", openFileLimit: 64)
        for number in 1...2000 as ClosedRange<UInt64> {
            try write(try store.create(DataFileNumber(number)), Array("file \(number)".utf8))
            #expect(store.openFileCount <= 65)
        }
        #expect(store.synchronizeAll().isEmpty)
        for number in stride(from: 1, through: 2000, by: 7) {
            let file = try store.open(DataFileNumber(UInt64(number)))
            let expected = Array("file \(number)".utf8)
            #expect(try read(file, expected.count) == expected)
            #expect(store.openFileCount <= 65)
        }
    }

    /// What lies ready is used however long nobody asks for it, and whoever comes first: to empty a file of which nothing is
    /// known takes a sync.
    @Test func filesMadeAheadAreUsedAfterARest() async throws {
        let temporary = try TemporaryDirectory()
        let spares = SpareFiles(in: try DataDirectory(path: temporary.path))
        defer { spares.end() }
        for number in 1...20 as ClosedRange<UInt64> { _ = spares.take(DataFileNumber(number)) }
        for isOpen in [true, false] {
            for _ in 0..<1000 where (spares.openCount > 0) != isOpen {
                try await Task.sleep(for: .milliseconds(10))
            }
            #expect((spares.openCount > 0) == isOpen)
        }
        // The later one first, as when two ask at once.
        for number in [22, 21, 23] as [UInt64] {
            let spare = try #require(spares.take(DataFileNumber(number)))
            var status = stat()
            #expect(fstat(spare, &status) == 0 && status.st_size == 0)
            close(spare)
            #expect(spares.take(DataFileNumber(number)) == nil, "each is given once")
        }
        #expect(spares.take(DataFileNumber(20)) == nil, "what was asked for is nobody's spare")
    }

    /// Two objects for one file would not know of each other's changes, and a sync might skip some.
    @Test func aFileInUseStaysTheSameHoweverManyOthersAreOpened() throws {
        let temporary = try TemporaryDirectory()
        let store = try ByteStore(directory: temporary.path + "/data", openFileLimit: 16)
        let used = try store.create(DataFileNumber(1))
        for number in 2...200 as ClosedRange<UInt64> { _ = try store.create(DataFileNumber(number)) }
        #expect(try store.open(DataFileNumber(1)) === used)
        // Also when everything is in use at once.
        let all = try (1...100 as ClosedRange<UInt64>).map { try store.open(DataFileNumber($0)) }
        for (index, file) in all.enumerated() {
            #expect(try store.open(DataFileNumber(UInt64(index + 1))) === file)
        }
    }

    /// Not even when the next sync succeeds, of what has changed since: it covers none of them.
    @Test func cutsOfFilesThatWereLetGoAreKnownUntilTheWholeDiskIsSynced() throws {
        let temporary = try TemporaryDirectory()
        let isRefused = Mutex(true)
        let store = try ByteStore(directory: temporary.path + "/data") {
            isRefused.withLock { $0 }
                ? ByteStoreError(call: "syncfs", path: "disk", errno: .inputOutput) : nil
        }
        let numbers = (1...4 as ClosedRange<UInt64>).map { DataFileNumber($0) }
        for number in numbers {
            let file = try store.create(number)
            try write(file, [1, 2, 3])
            try file.synchronize()
            try file.truncate(to: 1)
        }
        store.closeAll()
        #expect(store.synchronizeAll().count == numbers.count)
        isRefused.withLock { $0 = false }
        for _ in 0..<2 { #expect(store.synchronizeAll().count == numbers.count) }
        let found = try store.open(numbers[0])
        #expect(found.hasUnsyncedCut && found.hasFailed)
        // One that is let go is reason for a sync of all.
        let other = try store.create(DataFileNumber(9))
        try write(other, [1])
        store.closeAll()
        _ = store.synchronizeAll()
        #expect(try !store.open(numbers[1]).hasUnsyncedCut)
    }

    @Test func namesAreSpreadAndSurviveTheProcess() throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path + "/data"
        do {
            let store = try ByteStore(directory: path)
            let file = try store.create(DataFileNumber(0x1234_5678))
            try write(file, [1, 2, 3])
            try file.synchronize()
        }
        #expect(FileManager.default.fileExists(atPath: path + "/78/0000000012345678"))
        let store = try ByteStore(directory: path)
        #expect(try read(try store.open(DataFileNumber(0x1234_5678)), 3) == [1, 2, 3])
        // What an earlier life left under a number is gone.
        #expect(try ByteStore(directory: path).create(DataFileNumber(0x1234_5678)).extent().size == 0)
    }

    /// Where a file ends is for the catalog to say. If it is said to go on, its end was lost.
    @Test func whatIsBehindTheEndIsAnErrorAndNotZeros() throws {
        let temporary = try TemporaryDirectory()
        let file = try ByteStore(directory: temporary.path + "/data").create(DataFileNumber(1))
        try write(file, [1, 2, 3])
        for (count, offset) in [(4, 0), (1, 3), (1, 4096)] as [(Int, UInt64)] {
            do {
                _ = try read(file, count, at: offset)
                Issue.record("read what is not there")
            } catch let error as ByteStoreError {
                #expect(error.errno == .noData)
            }
        }
        try file.grow(to: 3)
        try file.grow(to: 2)
        try file.extend(to: 1)
        #expect(try file.extent().size == 3)
        try file.grow(to: 5)
        #expect(try read(file, 5) == [1, 2, 3, 0, 0])
        try file.extend(to: 10_000)
        #expect(try file.extent().size == 10_000)
        #expect(try read(file, 10_000) == [1, 2, 3] + [UInt8](repeating: 0, count: 9997))
    }

    @Test func aMissingFileIsAnErrorAndNotZeros() throws {
        let temporary = try TemporaryDirectory()
        let store = try ByteStore(directory: temporary.path + "/data")
        for number in [1, 256, 0xffff] as [UInt64] {
            do {
                _ = try store.open(DataFileNumber(number))
                Issue.record("opened what is not there")
            } catch {
                #expect(error.errno == .noSuchEntry)
            }
        }
        let file = try store.create(DataFileNumber(1))
        try write(file, [9])
        try store.delete(DataFileNumber(1))
        try store.delete(DataFileNumber(1))
        try store.delete(DataFileNumber(77))
        #expect(throws: ByteStoreError.self) { try store.open(DataFileNumber(1)) }
        // Who still holds it may read on.
        #expect(try read(file, 1) == [9])
    }

    @Test func plantedSymbolicLinksAreNotFollowed() throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path + "/data"
        let victim = temporary.path + "/victim"
        try Data("precious".utf8).write(to: URL(fileURLWithPath: victim))
        let store = try ByteStore(directory: path)
        try FileManager.default.createDirectory(atPath: path + "/01", withIntermediateDirectories: false)
        try FileManager.default.createSymbolicLink(
            atPath: path + "/01/0000000000000001", withDestinationPath: victim)
        #expect(throws: ByteStoreError.self) { try store.open(DataFileNumber(1)) }
        // A new file takes its place.
        try write(try store.create(DataFileNumber(1)), [9])
        #expect(try read(try store.open(DataFileNumber(1)), 1) == [9])
        // Nor when a directory on the way is one.
        let elsewhere = try temporary.make("elsewhere")
        try FileManager.default.createSymbolicLink(atPath: path + "/02", withDestinationPath: elsewhere)
        #expect(throws: ByteStoreError.self) { try store.create(DataFileNumber(2)) }
        #expect(throws: ByteStoreError.self) { try store.delete(DataFileNumber(2)) }
        try FileManager.default.createSymbolicLink(
            atPath: temporary.path + "/link", withDestinationPath: elsewhere)
        #expect(throws: ByteStoreError.self) { try ByteStore(directory: temporary.path + "/link") }
        #expect(try String(contentsOfFile: victim, encoding: .utf8) == "precious")
        #expect(try FileManager.default.contentsOfDirectory(atPath: elsewhere).isEmpty)
    }

    @Test func bytesHolesAndSizesAreWhatPosixSays() throws {
        let temporary = try TemporaryDirectory()
        let store = try ByteStore(directory: temporary.path + "/data")
        let file = try store.create(DataFileNumber(1))
        try write(file, [UInt8](repeating: 7, count: 10_000), at: 100_000)
        #expect(try file.nextData(from: 0) == 98_304)
        #expect(try file.nextHole(from: 100_000) >= 110_000)
        try file.punchHole(ByteRange(100_000, 104_000))
        #expect(try read(file, 4001, at: 100_000) == [UInt8](repeating: 0, count: 4000) + [7])
        try file.zero(ByteRange(104_000, 104_001))
        #expect(try read(file, 1, at: 104_000) == [0])
        try file.allocate(ByteRange(0, 1 << 20))
        #expect(try file.extent().size == 110_000)
        #expect(try file.extent().blockCount >= 2048)
        try file.truncate(to: 105_000)
        try file.truncate(to: 110_000)
        #expect(try read(file, 2, at: 104_999) == [7, 0])
    }

    /// Where the file system tells of it.
    @Test func roomThatWasNeverWrittenToIsBlocksAndNoHole() throws {
        let temporary = try TemporaryDirectory()
        let store = try ByteStore(directory: temporary.path + "/data")
        let file = try store.create(DataFileNumber(1))
        #expect(try file.blocks(from: 0, upTo: 1 << 30) == nil)
        try file.allocate(ByteRange(8192, 1 << 20))
        #expect(try file.extent().size == 0)
        #expect(try file.blocks(from: 0, upTo: 1 << 30) == ByteRange(8192, 1 << 20))
        #expect(try file.blocks(from: 0, upTo: 8192) == nil)
        // More pieces than are asked for at a time, one after the other.
        for block in 0..<100 as Range<UInt64> where block % 2 == 1 {
            try write(file, [7], at: 16_384 + block * 4096)
        }
        try file.synchronize()
        #expect(try file.blocks(from: 0, upTo: 1 << 30) == ByteRange(8192, 1 << 20))
        try file.grow(to: 1 << 20)
        for block in 0..<40 as Range<UInt64> {
            try file.punchHole(ByteRange(524_288 + block * 8192, 524_288 + block * 8192 + 4096))
        }
        #expect(try file.blocks(from: 500_000, upTo: 1 << 20)?.end == 524_288)
        #expect(try file.blocks(from: 524_288, upTo: 1 << 20) == ByteRange(528_384, 532_480))
        #expect(try file.blocks(from: 843_776, upTo: 1 << 30) == ByteRange(847_872, 1 << 20))
    }

    @Test func aFileIsKnownToHaveNoHolesAsFarAsThatIsSo() throws {
        let temporary = try TemporaryDirectory()
        let store = try ByteStore(directory: temporary.path + "/data")
        var file = try store.create(DataFileNumber(1))
        for reopens in [false, true] {
            try write(file, [UInt8](repeating: 7, count: 100_000))
            try file.grow(to: 200_000)
            if reopens {
                store.closeAll()
                file = try store.open(DataFileNumber(1))
            }
            #expect(try file.isSolid(upTo: 102_400, of: 200_000))
            #expect(try !file.isSolid(upTo: 102_401, of: 200_000))
            try write(file, [7], at: 102_400)
            #expect(try file.isSolid(upTo: 106_496, of: 200_000))
            // The hole is seen again, wherever it is made.
            try file.punchHole(ByteRange(4096, 8192))
            #expect(try file.isSolid(upTo: 4096, of: 200_000))
            #expect(try !file.isSolid(upTo: 4097, of: 200_000))
            try file.allocate(ByteRange(0, 200_000))
            #expect(try file.isSolid(upTo: 200_704, of: 200_000))
            try file.truncate(to: 50_000)
            try file.grow(to: 200_000)
            #expect(try file.isSolid(upTo: 53_248, of: 200_000))
            #expect(try !file.isSolid(upTo: 53_249, of: 200_000))
            try file.truncate(to: 0)
        }
    }

    @Test func aSyncCoversWhatWasWrittenBeforeItByAnybody() async throws {
        let temporary = try TemporaryDirectory()
        let store = try ByteStore(directory: temporary.path + "/data", openFileLimit: 16)
        // Many threads write, sync and push each other's files out; each must see its own bytes.
        await withTaskGroup(of: Void.self) { group in
            for worker in 0..<4 as Range<UInt64> {
                group.addTask {
                    var generator = Generator(seed: worker)
                    for round in 0..<150 as Range<UInt64> {
                        let number = DataFileNumber(1 + worker + 4 * UInt64(generator.next(below: 20)))
                        do {
                            let file = try (try? store.open(number)) ?? store.create(number)
                            try self.write(file, [UInt8(worker), UInt8(round)], at: round * 2)
                            if round % 3 == 0 { try file.synchronize() }
                            if round % 50 == 0 { #expect(store.synchronizeAll().isEmpty) }
                            let found = try self.read(try store.open(number), 2, at: round * 2)
                            #expect(found == [UInt8(worker), UInt8(round)])
                        } catch {
                            Issue.record("\(error)")
                        }
                    }
                }
            }
        }
    }

    /// Whether or not the file system shares blocks; with holes, and however the range lies.
    @Test(arguments: 0..<30 as Range<UInt64>)
    func whatIsTakenOfAnotherFileIsWhatItHas(seed: UInt64) throws {
        let temporary = try TemporaryDirectory()
        let store = try ByteStore(directory: temporary.path + "/data")
        var generator = Generator(seed: seed)
        let size = 1 + generator.next(below: seed % 5 == 0 ? 3_000_000 : 60_000)
        let one = try store.create(DataFileNumber(1))
        var content = [UInt8](repeating: 0, count: size)
        for _ in 0..<3 {
            let bytes = generator.bytes(1 + generator.next(below: size))
            let start = generator.next(below: size - bytes.count + 1)
            try write(one, bytes, at: UInt64(start))
            content.replaceSubrange(start..<start + bytes.count, with: bytes)
        }
        try one.truncate(to: UInt64(size))
        let two = try store.create(DataFileNumber(2))
        let before = generator.bytes(size)
        try write(two, before)
        let start = generator.next(below: size)
        let end = start + 1 + generator.next(below: size - start)
        try two.take(ByteRange(UInt64(start), UInt64(end)), from: one)
        var expected = before
        expected.replaceSubrange(start..<end, with: content[start..<end])
        #expect(try read(two, size) == expected, "seed \(seed): \(start)..<\(end) of \(size)")
        #expect(try read(one, size) == content)
        #expect(try two.extent().size == UInt64(size))
    }

    // MARK: files that are made ahead

    private func numbers(in store: ByteStore) throws -> [UInt64] {
        var numbers: [UInt64] = []
        try store.forEach { number, _ in
            numbers.append(number.number)
        } other: {
            Issue.record("found \($0)")
        }
        return numbers.sorted()
    }

    /// Makes so many files in a row, each with bytes of its own, that others are made ahead.
    private func fill(_ store: ByteStore, _ range: ClosedRange<UInt64>) throws {
        for number in range {
            let file = try store.create(DataFileNumber(number), isNext: true)
            #expect(try file.extent().size == 0)
            try write(file, Array("\(number)".utf8))
        }
    }

    private func check(_ store: ByteStore, _ range: ClosedRange<UInt64>) throws {
        for number in range {
            let bytes = Array("\(number)".utf8)
            #expect(try read(try store.open(DataFileNumber(number)), bytes.count) == bytes)
        }
    }

    @Test func ofFilesMadeAheadNoneIsLeftAndNoneGivenTwice() throws {
        let temporary = try TemporaryDirectory()
        let store = try ByteStore(directory: temporary.path + "/data", openFileLimit: 16)
        try fill(store, 1...1000)
        store.endSpares()
        #expect(try numbers(in: store) == Array(1...1000))
        try fill(store, 1001...1100)
        store.closeAll()
        #expect(try numbers(in: store) == Array(1...1100))
        try check(store, 1...1100)
    }

    @Test func theNextLifeDeletesWhatWasMadeAheadAndNothingElse() async throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path + "/data"
        do {
            let store = try ByteStore(directory: path)
            try fill(store, 1...100)
            var counts = [100]
            let deadline = ContinuousClock.now + .seconds(60)
            // Until there are some, and no more come.
            while counts.last == 100 || Set(counts.suffix(10)).count > 1 || counts.count < 10,
                ContinuousClock.now < deadline
            {
                try await Task.sleep(for: .milliseconds(20))
                counts.append(try numbers(in: store).count)
            }
        }
        let store = try ByteStore(directory: path)
        #expect(try numbers(in: store).count > 100)
        // One that has bytes is not one of them, whatever it is.
        try write(try store.create(DataFileNumber(110)), [1])
        store.closeAll()
        let next = try ByteStore(directory: path)
        next.deleteSpares(from: DataFileNumber(101))
        #expect(try numbers(in: next) == Array(1...100) + [110])
        try fill(next, 101...200)
        next.endSpares()
        try check(next, 1...200)
    }

    /// Files of the catalog that are made again, after a power loss or in a copy, are among others: nothing is made ahead of
    /// them, and nothing deleted.
    @Test func aheadOfFilesThatAreMadeAgainNoneIsMade() async throws {
        let temporary = try TemporaryDirectory()
        let store = try ByteStore(directory: temporary.path + "/data")
        for number in 500...600 as ClosedRange<UInt64> { _ = try store.create(DataFileNumber(number)) }
        try await Task.sleep(for: .milliseconds(50))
        #expect(try numbers(in: store) == Array(500...600))
        store.endSpares()
        #expect(try numbers(in: store) == Array(500...600))
    }

    /// One thread makes files, as under the catalog's lock; the end comes at any moment.
    @Test func theEndDeletesNoFileThatWasAskedFor() async throws {
        let temporary = try TemporaryDirectory()
        for round in 0..<40 {
            let store = try ByteStore(directory: temporary.path + "/data\(round)", openFileLimit: 16)
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try self.fill(store, 1...150) }
                group.addTask {
                    try await Task.sleep(for: .microseconds(Int.random(in: 0...4000)))
                    store.endSpares()
                }
                try await group.waitForAll()
            }
            store.closeAll()
            #expect(try numbers(in: store) == Array(1...150), "round \(round)")
            try check(store, 1...150)
        }
    }
}
