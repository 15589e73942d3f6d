import BlockHashes
import ByteStore
import Catalog
import EngineTestSupport
import Foundation
import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

/// What is known to be damaged is given to nobody, until somebody writes it anew.
@Suite struct DamageTests {
    private static let size = 3 << 20
    private static let damaged = ByteRange(1 << 20, 2 << 20)

    private static func content() -> [UInt8] {
        var generator = Generator(seed: 1)
        return generator.bytes(size)
    }

    private static func data(of file: InodeNumber, _ volume: TestVolume) throws -> DataFileNumber {
        try volume.storage.catalog.perform { try $0.inode(file)?.data } ?? .none
    }

    /// A head with one file, of which a scrub has found the second of three blocks damaged; another of its names.
    private struct Head {
        let temporary: TemporaryDirectory
        let directory: String
        let file: InodeNumber

        init() async throws {
            temporary = try TemporaryDirectory()
            directory = try temporary.make("head")
            let volume = try TestVolume.make(in: directory)
            file = try volume.create("f")
            try volume.write(file, at: 0, DamageTests.content())
            let data = try DamageTests.data(of: file, volume)
            try await volume.close()
            _ = try HeadScrub.run(closed: directory, terms: ScrubTerms())
            try flip(data)
            #expect(try scrub().newDamageCount == 1)
        }

        /// As if the disk had done it: the times stay. (There is no other way on every file system.)
        private func flip(_ data: DataFileNumber) throws {
            let hashes = try HashDatabase(in: directory)
            var record = try #require(try hashes.record(of: PartID(data, 0))).record
            record.hashes[BlockHash.byteCount] ^= 1
            try hashes.write([(PartID(data, 0), record, 0)])
        }

        func scrub() throws -> ScrubProgress { try HeadScrub.run(closed: directory, terms: ScrubTerms()) }
        func open() throws -> TestVolume { try TestVolume(opening: directory) }
        func findings() throws -> [HeadFinding] { try HeadCheck.run(directory, isInUse: false) }
    }

    private func expectRefused(
        _ volume: TestVolume, _ file: InodeNumber, _ ranges: [Range<Int>],
        _ location: SourceLocation = #_sourceLocation
    ) async throws {
        for range in ranges {
            await #expect(throws: FileSystemError.errno(.inputOutput), "\(range)", sourceLocation: location) {
                try await volume.read(file, range)
            }
        }
    }

    @Test func readsOfDamagedBytesFailAndAllOthersDoNot() async throws {
        let head = try await Head()
        let volume = try head.open()
        let block = Int(Self.damaged.start)..<Int(Self.damaged.end)
        try await expectRefused(
            volume, head.file,
            [
                block, 0..<Self.size, block.lowerBound - 1..<block.lowerBound + 1,
                block.upperBound - 1..<Self.size,
            ])
        let content = Self.content()
        #expect(try await volume.read(head.file, 0..<block.lowerBound) == Array(content[..<block.lowerBound]))
        #expect(
            try await volume.read(head.file, block.upperBound..<Self.size)
                == Array(content[block.upperBound...]))
        try await volume.close()

        // Whoever has looked at it and finds it good has it.
        try HeadDamage.accept(head.directory)
        let accepted = try head.open()
        #expect(try await accepted.read(head.file, 0..<Self.size) == content)
        try await accepted.close()
    }

    /// What was written and synced is read, also after a crash; what was not written stays damaged.
    @Test func whatIsWrittenOverDamageIsGoodAndTheRestOfItIsNot() async throws {
        let head = try await Head()
        let volume = try head.open()
        let start = Int(Self.damaged.start) + 10_000
        try volume.write(head.file, at: start, [UInt8](repeating: 7, count: 5000))
        #expect(try await volume.read(head.file, start..<start + 5000) == [UInt8](repeating: 7, count: 5000))
        try await expectRefused(volume, head.file, [start - 1..<start, start + 4999..<start + 5001])
        try volume.synchronize(head.file)
        // Not synced.
        try volume.write(head.file, at: start + 20_000, [UInt8](repeating: 8, count: 5000))
        volume.storage.catalog.abandon()

        let again = try head.open()
        #expect(try await again.read(head.file, start..<start + 5000) == [UInt8](repeating: 7, count: 5000))
        try await expectRefused(again, head.file, [start - 1..<start, start + 20_000..<start + 20_001])
        // Zeros that were asked for are no less good.
        try again.fileSystem.allocate(
            head.file, handle: FileHandle(head.file.number), mode: .punchHole, offset: UInt64(start + 20_000),
            byteCount: 100)
        #expect(
            try await again.read(head.file, start + 20_000..<start + 20_100)
                == [UInt8](repeating: 0, count: 100))
        try again.fileSystem.allocate(
            head.file, handle: FileHandle(head.file.number), mode: .allocate, offset: UInt64(start + 30_000),
            byteCount: 100)
        try await expectRefused(again, head.file, [start + 30_000..<start + 30_001])
        try await again.close()
        let findings = try head.findings()
        #expect(
            findings.count == 1
                && findings[0].text.contains("[1048576, \(start)), [\(start + 5000), \(start + 20_000)), "),
            "\(findings)")
        // A look at what is a mixture now finds nothing new, and nothing better.
        #expect(try head.scrub().newDamageCount == 0)
        #expect(try head.findings() == findings)

        let last = try head.open()
        try last.write(head.file, at: Int(Self.damaged.start), [UInt8](repeating: 9, count: 1 << 20))
        #expect(try await last.read(head.file, 0..<Self.size).count == Self.size)
        try await last.close()
        #expect(try head.findings() == [])
        #expect(try HashDatabase.damage(in: head.directory) == KnownDamage())
    }

    @Test func whatWasCutAwayIsNotDamagedWhenItComesBackAsZeros() async throws {
        let head = try await Head()
        let volume = try head.open()
        let cut = Int(Self.damaged.start) + 4096
        try volume.truncate(head.file, to: cut)
        try volume.truncate(head.file, to: Self.size)
        try await expectRefused(volume, head.file, [cut - 1..<cut])
        #expect(try await volume.read(head.file, cut..<Self.size).allSatisfy { $0 == 0 })
        try volume.synchronize(head.file)
        volume.storage.catalog.abandon()
        let again = try head.open()
        #expect(try await again.read(head.file, cut..<Self.size).allSatisfy { $0 == 0 })
        try await expectRefused(again, head.file, [cut - 1..<cut])
        try again.truncate(head.file, to: 0)
        try again.write(head.file, at: 0, [1, 2, 3])
        #expect(try await again.read(head.file, 0..<3) == [1, 2, 3])
        try await again.close()
        #expect(try head.findings() == [])
    }

    /// A program that copies only what is no hole must not take lost bytes for one.
    @Test func damageIsNoHole() async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("head")
        let volume = try TestVolume.make(in: directory)
        let file = try volume.create("f")
        try volume.write(file, at: 3 << 20, [1])
        let data = try Self.data(of: file, volume)
        try volume.storage.settle()
        let hashes = try HashDatabase(in: directory)
        try hashes.add(
            DamagedBlock(data: data, range: ByteRange(1 << 20, 2 << 20), inode: file, expected: [1]))
        #expect(try volume.storage.learnDamage() == [Extent(inode: file, range: ByteRange(1 << 20, 2 << 20))])
        let handle = FileHandle(file.number)
        #expect(try volume.fileSystem.seek(file, handle: handle, offset: 0, toHole: false) == 1 << 20)
        #expect(try volume.fileSystem.seek(file, handle: handle, offset: 1 << 20, toHole: true) == 2 << 20)
        #expect(try volume.fileSystem.seek(file, handle: handle, offset: 2 << 20, toHole: false) == 3 << 20)
        // Nor is a volume made of it in which they are zeros.
        let copy = try temporary.make("copy")
        #expect(throws: DamagedBytes.self) { try volume.storage.copy(to: copy) }
        try await volume.close()
    }

    /// A scrub beside somebody who writes: damage that it finds is not said of what was written since.
    @Test func whoeverHasTheHeadOpenIsToldBeforeItCounts() async throws {
        let head = try await Head()
        try HeadDamage.accept(head.directory)
        _ = try head.scrub()
        let looking = try head.open()
        let data = try Self.data(of: head.file, looking)
        try await looking.close()
        let hashes = try HashDatabase(in: head.directory)
        var record = try #require(try hashes.record(of: PartID(data, 0))).record
        record.hashes[0] ^= 1
        try hashes.write([(PartID(data, 0), record, 0)])
        let volume = try head.open()
        let scrub = try HeadScrub(head.directory, isInUse: true, terms: ScrubTerms()) {
            _ = try volume.storage.learnDamage(of: $0)
            // In the last moment before it counts.
            try volume.write(head.file, at: 0, [1, 2, 3])
        }
        while try scrub.step() != nil {}
        #expect(scrub.progress.newDamageCount == 0 && scrub.progress.busyFileCount == 1, "\(scrub.progress)")
        _ = try volume.storage.learnDamage()
        #expect(try await volume.read(head.file, 0..<Self.size).prefix(3) == [1, 2, 3])
        try await volume.close()
    }
}
