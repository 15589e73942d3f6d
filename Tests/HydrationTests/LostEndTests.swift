import BlockHashes
import Catalog
import EngineTestSupport
import Foundation
import Glibc
import Hydration
import SQLite
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

/// Data files that are shorter than they were, and those that may be.
@Suite struct LostEndTests {
    private static let size = 300_000

    private static func content() -> [UInt8] {
        var generator = Generator(seed: 3)
        return generator.bytes(size)
    }

    /// A closed head with one file.
    private struct Head {
        let temporary: TemporaryDirectory
        let directory: String
        let file: InodeNumber

        init() async throws {
            temporary = try TemporaryDirectory()
            directory = try temporary.make("head")
            let volume = try TestVolume.make(in: directory)
            file = try volume.create("f")
            try volume.write(file, at: 0, LostEndTests.content())
            try await volume.close()
        }

        var dataFile: String {
            get throws { try #require(try LostEndTests.dataFiles(of: directory).first) }
        }

        func cut(to size: Int) throws { #expect(try truncate(dataFile, size) == 0) }
        func open() throws -> TestVolume { try TestVolume(opening: directory) }
        func findings() throws -> [String] { try HeadCheck.run(directory, isInUse: false).map(\.text) }
    }

    private static func dataFiles(of head: String) throws -> [String] {
        try FileManager.default.subpathsOfDirectory(atPath: head + "/data").filter { $0.contains("/") }
            .sorted()
            .map { head + "/data/" + $0 }
    }

    private static func byteCount(of path: String) -> Int {
        var status = stat()
        return stat(path, &status) == 0 ? Int(status.st_size) : -1
    }

    private func expectRefused(
        _ volume: TestVolume, _ file: InodeNumber, _ ranges: [Range<Int>],
        _ location: SourceLocation = #_sourceLocation
    ) async {
        for range in ranges {
            await #expect(throws: FileSystemError.errno(.inputOutput), "\(range)", sourceLocation: location) {
                try await volume.read(file, range)
            }
        }
    }

    // MARK: what was lost

    @Test(arguments: [false, true])
    func theEndOfAFileThatWasCutIsRefusedAndNamedAndNeverZeros(isCutInUse: Bool) async throws {
        let head = try await Head()
        if !isCutInUse {
            try head.cut(to: 100_000)
            let findings = try head.findings()
            #expect(
                findings.count == 1 && findings[0].hasPrefix("/f (inode \(head.file)): ")
                    && findings[0].contains("bytes [100000, 300000) of"), "\(findings)")
        }
        let volume = try head.open()
        let foundCount = Atomic(0)
        volume.storage.whenDamageIsFound { foundCount.wrappingAdd(1, ordering: .relaxed) }
        if isCutInUse {
            #expect(try await volume.read(head.file, 0..<Self.size) == Self.content())
            try head.cut(to: 100_000)
            #expect(try HeadCheck.run(head.directory, isInUse: true).map(\.text).count == 1)
        }
        await expectRefused(volume, head.file, [100_000..<100_001, 0..<Self.size, Self.size - 1..<Self.size])
        #expect(try await volume.read(head.file, 0..<100_000) == Array(Self.content()[..<100_000]))
        let handle = FileHandle(head.file.number)
        #expect(
            try volume.fileSystem.seek(head.file, handle: handle, offset: 0, toHole: true)
                == UInt64(Self.size))
        #expect(foundCount.load(ordering: .relaxed) == 1)

        // What is written behind it is good, and what lies between is no hole.
        try volume.write(head.file, at: 200_000, [1, 2, 3])
        try volume.fileSystem.allocate(
            head.file, handle: handle, mode: .punchHole, offset: 250_000, byteCount: 1000)
        try volume.truncate(head.file, to: 400_000)
        #expect(try await volume.read(head.file, 200_000..<200_003) == [1, 2, 3])
        #expect(try await volume.read(head.file, 250_000..<251_000).allSatisfy { $0 == 0 })
        #expect(try await volume.read(head.file, 300_000..<400_000).allSatisfy { $0 == 0 })
        await expectRefused(volume, head.file, [100_000..<100_001, 199_999..<200_001, 251_000..<251_001])
        try volume.synchronize(head.file)
        volume.storage.catalog.abandon()

        let again = try head.open()
        #expect(try await again.read(head.file, 200_000..<200_003) == [1, 2, 3])
        #expect(try await again.read(head.file, 300_000..<400_000).allSatisfy { $0 == 0 })
        await expectRefused(again, head.file, [100_000..<100_001, 200_003..<200_004, 251_000..<251_001])
        try await again.close()
        let left = try head.findings()
        #expect(left.count == 1 && left[0].contains("[100000, 200000), [200003, 250000), "), "\(left)")

        try HeadDamage.accept(head.directory)
        #expect(try head.findings() == [])
        let accepted = try head.open()
        let bytes = try await accepted.read(head.file, 0..<400_000)
        #expect(bytes.prefix(100_000) == Self.content().prefix(100_000) && bytes[200_000] == 1)
        #expect(bytes[100_000..<200_000].allSatisfy { $0 == 0 })
        try await accepted.close()
        #expect(try head.findings() == [])
    }

    @Test func aCutThatWasAcceptedIsZerosEvenIfNobodyHasReadIt() async throws {
        let head = try await Head()
        try head.cut(to: 100_000)
        #expect(try HeadScrub.run(closed: head.directory, terms: ScrubTerms()).newDamageCount == 1)
        #expect(try HeadScrub.run(closed: head.directory, terms: ScrubTerms()).newDamageCount == 0)
        #expect(try head.findings().count == 1)
        try HeadDamage.accept(head.directory)
        let volume = try head.open()
        #expect(try await volume.read(head.file, 100_000..<Self.size).allSatisfy { $0 == 0 })
        try await volume.close()
        #expect(try head.findings() == [])
    }

    /// Gone altogether: found by a look, a scrub and a read, each by itself.
    @Test func aFileThatIsGoneIsNamedAndCanBeMadeAnew() async throws {
        let head = try await Head()
        #expect(unlink(try head.dataFile) == 0)
        let findings = try head.findings()
        #expect(findings.count == 1 && findings[0].contains("bytes [0, 300000) of"), "\(findings)")
        #expect(try HeadScrub.run(closed: head.directory, terms: ScrubTerms()).newDamageCount == 1)
        #expect(try head.findings() == findings)
        let volume = try head.open()
        await expectRefused(volume, head.file, [0..<1, Self.size - 1..<Self.size])
        #expect(throws: FileSystemError.errno(.inputOutput)) { try volume.write(head.file, at: 5, [1]) }
        try volume.truncate(head.file, to: 0)
        try volume.write(head.file, at: 0, [1, 2, 3])
        #expect(try await volume.read(head.file, 0..<3) == [1, 2, 3])
        try await volume.close()
        #expect(try head.findings() == [])
    }

    /// The disk has taken all; only what was last changed may be short.
    @Test func aCrashHidesNoLossOfWhatWasSettledBefore() async throws {
        let head = try await Head()
        let volume = try head.open()
        let other = try volume.create("other")
        try volume.write(other, at: 0, Self.content())
        try volume.storage.settle()
        let late = try volume.create("late")
        try volume.write(late, at: 0, Self.content())
        try volume.write(other, at: Self.size, [1, 2, 3])
        try volume.storage.catalog.synchronize()
        let after = head.temporary.path + "/after"
        try TemporaryDirectory.copyHead(from: head.directory, to: after)
        try await volume.close()
        // The first was settled; the others are as a power loss may leave them.
        for path in try Self.dataFiles(of: after) { #expect(truncate(path, 200_000) == 0) }
        let findings = try HeadCheck.run(after, isInUse: false).map(\.text)
        #expect(findings.count == 1 && findings[0].hasPrefix("/f "), "\(findings)")
        let again = try TestVolume(opening: after)
        #expect(try HeadCheck.run(after, isInUse: true).map(\.text) == findings)
        for file in [other, late] {
            #expect(try await again.read(file, 0..<Self.size + 3) == Array(Self.content()[..<200_000]))
        }
        await expectRefused(again, head.file, [200_000..<200_001])
        try await again.close()
        #expect(try HeadCheck.run(after, isInUse: false).map(\.text) == findings)
        // From now on these are as long as they are.
        let files = try Self.dataFiles(of: after)
        #expect(files.map(Self.byteCount) == [200_000, 200_000, 200_000])
        #expect(truncate(files[2], 1000) == 0)
        #expect(try HeadCheck.run(after, isInUse: false).count == 2)
    }

    // MARK: what may be missing

    /// However a file got its size, its data file has it as well, and nothing is said to be lost.
    @Test func holesAtTheEndAreNoLoss() async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("head")
        let volume = try TestVolume.make(in: directory)
        func file(_ name: String, _ change: (InodeNumber) throws -> Void) throws {
            let file = try volume.create(name)
            try volume.write(file, at: 0, [1, 2, 3])
            try change(file)
        }
        try file("truncated") { file in try volume.truncate(file, to: 1 << 20) }
        try file("shorter") { file in
            try volume.truncate(file, to: 1 << 20)
            try volume.truncate(file, to: 2)
        }
        try file("emptied") { file in
            try volume.truncate(file, to: 0)
            try volume.truncate(file, to: 5000)
        }
        try file("emptiedAndWritten") { file in
            try volume.truncate(file, to: 0)
            try volume.truncate(file, to: 5000)
            try volume.write(file, at: 10, [1])
        }
        for (name, mode) in [
            ("allocated", .allocate), ("kept", .allocateKeepingSize), ("zeroed", .zeroRange),
            ("zeroedKept", .zeroRangeKeepingSize), ("punched", .punchHole),
        ] as [(String, AllocationMode)] {
            try file(name) { file in
                try volume.fileSystem.allocate(
                    file, handle: FileHandle(file.number), mode: mode, offset: 100_000, byteCount: 9999)
            }
        }
        #expect(try HeadCheck.run(directory, isInUse: true) == [])
        try volume.storage.settle()
        let records = try volume.storage.catalog.perform { try $0.inodes(withDataFrom: DataFileNumber(1)) }
        #expect(records.count == 8)
        #expect(try HeadCheck.run(directory, isInUse: true) == [])
        try await volume.close()
        #expect(try HeadCheck.run(directory, isInUse: false) == [])
        #expect(
            try Self.dataFiles(of: directory).map(Self.byteCount)
                == records.sorted { $0.data < $1.data }.map { Int($0.attributes.size) })
    }

    @Test func aFileThatArrivesIsAsLongAsItWillBe() async throws {
        let temporary = try TemporaryDirectory()
        let (owner, heir) = (try temporary.make("owner"), try temporary.make("heir"))
        let volume = try TestVolume.make(in: owner)
        let file = try volume.create("f")
        try volume.write(file, at: 0, [1])
        try volume.truncate(file, to: 4 << 20)
        try volume.storage.settle()
        try await TestVolume.makeHeir(of: volume.storage.catalog, in: heir)
        try await volume.close()
        let arriving = try HeadStorage(opening: heir)
        try arriving.store(
            Piece(inode: file, range: ByteRange(0, 4096), content: .bytes(Array(repeating: 1, count: 4096))))
        try arriving.store(Piece(inode: file, range: ByteRange(1 << 20, 4 << 20), content: .zeros))
        try arriving.settle()
        #expect(try HeadCheck.run(heir, isInUse: true) == [])
        try arriving.close()
        #expect(try HeadCheck.run(heir, isInUse: false) == [])
        #expect(try Self.dataFiles(of: heir).map(Self.byteCount) == [4 << 20])
        // What has come is lost, and what has not comes.
        #expect(truncate(try Self.dataFiles(of: heir)[0], 0) == 0)
        let source = FakeSource { _ in
            [UInt8](repeating: 1, count: 4096) + [UInt8](repeating: 0, count: (4 << 20) - 4096)
        }
        let again = try TestVolume(opening: heir, source: source)
        await expectRefused(again, file, [0..<1, 1 << 20..<(1 << 20) + 1])
        #expect(try await again.read(file, 4096..<1 << 20).allSatisfy { $0 == 0 })
        await expectRefused(again, file, [0..<1, 1 << 20..<(1 << 20) + 1])
        try await again.close()
    }

    /// Heads of releases that left holes at the end out: whatever is done to such a file, and whoever follows it.
    @Test(arguments: [true, false])
    func whatAnOlderReleaseHasMadeIsNoLoss(_ hasReturned: Bool) async throws {
        let head = try await Head()
        if hasReturned {
            let volume = try head.open()
            try volume.write(head.file, at: 0, [1])
            try await volume.close()
        }
        // It commits, and says nothing of sizes; or has never heard of them.
        try Connection(path: head.directory + "/" + Catalog.fileName, mode: .readWrite).execute(
            hasReturned
                ? "UPDATE meta SET value = value + 1 WHERE key = 'sequence'"
                : "DELETE FROM meta WHERE key IN ('settled', 'sized_from', 'sized_through')")
        try head.cut(to: 100_000)
        try head.cut(to: 100_000)
        #expect(try head.findings().filter { !$0.contains("blocks") } == [])
        var volume = try head.open()
        #expect(try HeadCheck.run(head.directory, isInUse: true) == [])
        let new = try volume.create("new")
        try volume.write(new, at: 0, Self.content())
        _ = try volume.fileSystem.link(head.file, as: Array("another name".utf8), in: .root)
        try volume.storage.settle()
        #expect(try HeadCheck.run(head.directory, isInUse: true) == [])
        try await volume.close()
        volume = try head.open()
        var changes = AttributeChanges()
        changes.permissions = 0o600
        _ = try volume.fileSystem.setAttributes(changes, of: head.file, caller: .root)
        try volume.storage.settle()
        #expect(try HeadCheck.run(head.directory, isInUse: true) == [])
        #expect(try await volume.read(head.file, 100_000..<Self.size).allSatisfy { $0 == 0 })
        try volume.write(head.file, at: Self.size, [1])
        try await volume.close()
        for path in try Self.dataFiles(of: head.directory) { #expect(truncate(path, 150_000) == 0) }
        let findings = try head.findings().filter { !$0.contains("blocks") }
        #expect(findings.count == 1 && findings[0].contains("bytes [150000, "), "\(findings)")
    }

    /// Also of a file of which every byte is here, and that nobody uses: all that is left to do is to record that.
    @Test func whatACrashHasLeftBeyondTheEndIsGoneBeforeAFilesBlocksAreCounted() async throws {
        let temporary = try TemporaryDirectory()
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let file = try owner.create("f")
        let content = Self.content()
        try owner.write(file, at: 0, content)
        let directory = try temporary.make("heir")
        try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
        try await owner.close()
        let source = FakeSource { _ in content }
        let before = try TestVolume(opening: directory, source: source)
        func store(_ range: Range<Int>, in volume: TestVolume) throws {
            try volume.storage.store(
                Piece(
                    inode: file, range: ByteRange(UInt64(range.lowerBound), UInt64(range.upperBound)),
                    content: .bytes(Array(content[range]))))
        }
        try store(0..<100_000, in: before)
        try before.storage.settle()
        try store(100_000..<Self.size, in: before)
        #expect(before.storage.bytes.synchronizeAll().isEmpty)
        let catalog = before.storage.catalog
        try catalog.perform { state in
            for item in state.unrecordedResidency() { try state.record(item, blockCount: nil) }
        }
        try catalog.synchronize()
        catalog.abandon()
        let path = try #require(try Self.dataFiles(of: directory).first)
        let descriptor = Glibc.open(path, O_WRONLY)
        let rest = [UInt8](repeating: 7, count: 100_000)
        #expect(pwrite(descriptor, rest, rest.count, 500_000) == rest.count && close(descriptor) == 0)

        let volume = try TestVolume(opening: directory, source: source)
        volume.startHydration()
        try await volume.waitForHydration()
        #expect(Self.byteCount(of: path) == Self.size)
        #expect(try volume.fileSystem.attributes(of: file).blockCount == 74 * 8)
        try await volume.close()
        #expect(try HeadCheck.run(directory, isInUse: false) == [])
    }

    /// Everything that changes a size, against a look from beside: nothing is ever called lost.
    @Test func sizesThatChangeAreNeverTakenForLosses() async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("head")
        let volume = try TestVolume.make(in: directory)
        let files = try (0..<4).map { try volume.create("f\($0)") }
        let changing = Task.detached {
            var generator = Generator(seed: 9)
            while !Task.isCancelled {
                let file = files[generator.next(below: files.count)]
                switch generator.next(below: 4) {
                case 0: try volume.truncate(file, to: generator.next(below: 200_000))
                case 1: try volume.storage.settle()
                default: try volume.write(file, at: generator.next(below: 200_000), [1, 2, 3])
                }
            }
        }
        let reading = Task.detached {
            var generator = Generator(seed: 10)
            while !Task.isCancelled {
                let start = generator.next(below: 200_000)
                _ = try await volume.read(files[generator.next(below: files.count)], start..<start + 5000)
            }
        }
        let deadline = ContinuousClock.now + .seconds(3)
        while ContinuousClock.now < deadline {
            #expect(try HeadCheck.run(directory, isInUse: true) == [])
            let scrub = try HeadScrub(directory, isInUse: true, terms: ScrubTerms()) {
                _ = try volume.storage.learnDamage(of: $0)
            }
            while try scrub.step() != nil {}
            #expect(scrub.progress.newDamageCount == 0)
        }
        changing.cancel()
        reading.cancel()
        try await changing.value
        try await reading.value
        try await volume.close()
        let findings = try HeadCheck.run(directory, isInUse: false)
        #expect(findings == [], "\(findings)")
        #expect(try HashDatabase.damage(in: directory) == KnownDamage())
    }
}
