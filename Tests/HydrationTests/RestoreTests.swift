import BlockHashes
import ByteStore
import Catalog
import EngineTestSupport
import Foundation
import Glibc
import Hydration
import SQLite
import Testing
import VolumeFileSystem
import VolumeModel

/// Damaged blocks that are put right from another copy: by their hash, and over nothing that is newer.
@Suite struct RestoreTests {
    private static let size = 3 << 20 - 1000
    private static let block = ByteRange(1 << 20, 2 << 20)

    private static func content(seed: UInt64 = 1) -> [UInt8] {
        var generator = Generator(seed: seed)
        return generator.bytes(size)
    }

    /// A closed head with one file whose second block the disk has changed, and another head that has it as it was.
    private struct Head {
        let temporary: TemporaryDirectory
        let directory: String
        let other: String
        let file: InodeNumber
        let data: DataFileNumber
        let path: String

        init(_ damaged: ByteRange = RestoreTests.block) async throws {
            temporary = try TemporaryDirectory()
            directory = try temporary.make("head")
            other = temporary.path + "/other"
            let volume = try TestVolume.make(in: directory)
            file = try volume.create("f")
            try volume.write(file, at: 0, RestoreTests.content())
            let inode = file
            data = try volume.storage.catalog.perform { try $0.inode(inode)?.data } ?? .none
            try await volume.close()
            let names = try FileManager.default.subpathsOfDirectory(atPath: directory + "/data")
            path = directory + "/data/" + (names.first { $0.contains("/") } ?? "")
            try TemporaryDirectory.copyHead(from: directory, to: other)
            try flip(damaged)
        }

        /// As if a scrub had found it.
        func flip(_ range: ByteRange) throws {
            let descriptor = Glibc.open(path, O_RDWR)
            try #require(descriptor >= 0)
            defer { close(descriptor) }
            let expected = RestoreTests.content()[Int(range.start)..<Int(range.end)]
            var byte = expected[Int(range.start) + 5000] ^ 0x10
            #expect(pwrite(descriptor, &byte, 1, Int(range.start) + 5000) == 1)
            try note(range)
        }

        func note(_ range: ByteRange) throws {
            let expected = RestoreTests.content()[Int(range.start)..<Int(range.end)]
            try HashDatabase(in: directory).add(
                DamagedBlock(
                    data: data, range: range, inode: file,
                    expected: Array(expected).withUnsafeBytes { BlockHash.of($0) }))
        }

        /// The data file's, as its file system tells it.
        func state() throws -> FileState { try StillFile(data, in: directory + "/data").state() }

        func open() throws -> TestVolume { try TestVolume(opening: directory) }
        func findings() throws -> [String] { try HeadCheck.run(directory, isInUse: false).map(\.text) }

        func restorable() throws -> RestorableBlock {
            try #require(try HeadDamage.restorable(directory).first)
        }

        /// What the other head has.
        func copy() throws -> [UInt8] {
            try #require(
                HeadDamage.content(of: try restorable().lost, in: [temporary.path + "/none", other]))
        }
    }

    private func expectRefused(
        _ volume: TestVolume, _ head: Head, _ range: Range<Int>,
        _ location: SourceLocation = #_sourceLocation
    ) async {
        await #expect(throws: FileSystemError.errno(.inputOutput), "\(range)", sourceLocation: location) {
            try await volume.read(head.file, range)
        }
    }

    // MARK: what is put right

    @Test func aBlockIsWhatItWasOnceItsBytesAreFound() async throws {
        let head = try await Head()
        let volume = try head.open()
        await expectRefused(volume, head, 0..<Self.size)
        #expect(try volume.storage.restore(try head.restorable(), from: try head.copy()) == 1 << 20)
        #expect(try await volume.read(head.file, 0..<Self.size) == Self.content())
        // Durable before anybody is told.
        #expect(try HashDatabase.damage(in: head.directory) == KnownDamage())
        volume.storage.catalog.abandon()
        let again = try head.open()
        #expect(try await again.read(head.file, 0..<Self.size) == Self.content())
        try await again.close()
        #expect(try head.findings() == [])
    }

    /// The last block of a file is shorter; a copy that has grown since has its bytes all the same, one that was cut not.
    @Test func whoeverHasTheBytesHasThemWhateverBecameOfTheRest() async throws {
        let last = ByteRange(2 << 20, UInt64(Self.size))
        let head = try await Head(last)
        let lost = try head.restorable().lost
        #expect(lost.extent.range == last)
        // The damaged head itself has it not.
        #expect(try lost.find(in: head.directory) == nil)
        let grown = try TestVolume(opening: head.other)
        try grown.write(head.file, at: 0, [UInt8](repeating: 5, count: 100))
        try grown.write(head.file, at: Self.size, [UInt8](repeating: 6, count: 100))
        #expect(try lost.find(in: head.other) == Array(Self.content()[(2 << 20)...]))
        #expect(try lost.find(in: head.other, isForPeer: true) == nil)
        try grown.truncate(head.file, to: (2 << 20) + 100)
        #expect(try lost.find(in: head.other) == nil)
        try grown.truncate(head.file, to: 0)
        #expect(try lost.find(in: head.other) == nil)
        try await grown.close()
        #expect(HeadDamage.content(of: lost, in: [head.temporary.path + "/none", head.other]) == nil)
    }

    /// Who knows the first bytes of a block learns no more of it.
    @Test func aPeerGetsWholeBlocksOrAllOfAFilesEnd() async throws {
        let head = try await Head()
        func block(_ range: ByteRange) -> LostBlock? {
            let bytes = Self.content()[Int(range.start)..<Int(range.end)]
            let hash = Array(bytes).withUnsafeBytes { BlockHash.of($0) }
            return LostBlock(Extent(inode: head.file, range: range), hash: hash)
        }
        let (whole, end) = (Self.block, ByteRange(2 << 20, UInt64(Self.size)))
        for range in [whole, end] {
            #expect(try block(range)?.find(in: head.other, isForPeer: true)?.count == Int(range.byteCount))
            for count in [1, 4096, range.byteCount - 1] {
                let part = try #require(block(ByteRange(range.start, range.start + count)))
                #expect(try part.find(in: head.other, isForPeer: true) == nil, "\(part)")
            }
            for offset in [UInt64(1), 4096, 512 << 10] {
                #expect(block(ByteRange(range.start + offset, range.end)) == nil)
            }
        }
    }

    @Test func otherBytesChangeNothing() async throws {
        let head = try await Head()
        let block = try head.restorable()
        let volume = try head.open()
        var almost = try head.copy()
        almost[77] ^= 1
        for bytes in [almost, Array(try head.copy().dropLast()), [], [UInt8](repeating: 0, count: 1 << 20)] {
            #expect(try volume.storage.restore(block, from: bytes) == 0)
        }
        await expectRefused(volume, head, 1 << 20..<(1 << 20) + 1)
        let other = try TestVolume(opening: head.other)
        try other.write(head.file, at: 1_500_000, [1])
        try await other.close()
        #expect(HeadDamage.content(of: block.lost, in: [head.other]) == nil)
        try await volume.close()
        #expect(try head.findings().count == 1)
    }

    @Test func zerosAreKnownByTheirHash() async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("head")
        let volume = try TestVolume.make(in: directory)
        let file = try volume.create("f")
        try volume.write(file, at: 0, [UInt8](repeating: 1, count: 3 << 20))
        let data = try volume.storage.catalog.perform { try $0.inode(file)?.data } ?? .none
        try HashDatabase(in: directory).add(
            DamagedBlock(data: data, range: Self.block, inode: file, expected: BlockHash.ofZeros))
        try volume.storage.learnDamage()
        let block = try #require(try HeadDamage.restorable(directory).first)
        let content = try #require(HeadDamage.content(of: block.lost, in: []))
        #expect(try volume.storage.restore(block, from: content) == 1 << 20)
        let bytes = try await volume.read(file, 0..<3 << 20)
        #expect(bytes[1 << 20..<2 << 20].allSatisfy { $0 == 0 } && bytes[(1 << 20) - 1] == 1)
        #expect(bytes[2 << 20] == 1)
        try await volume.close()
    }

    @Test func aHeadThatNobodyHasOpenIsPutRightFromAnother() async throws {
        let head = try await Head()
        #expect(try HeadDamage.restore(closed: head.directory, from: []) == [])
        let restored = try HeadDamage.restore(closed: head.directory, from: [head.other])
        #expect(restored == ["/f: bytes [1048576, 2097152) of inode \(head.file)"])
        #expect(try head.findings() == [])
        #expect(try HeadDamage.restore(closed: head.directory, from: [head.other]) == [])
        let volume = try head.open()
        #expect(try await volume.read(head.file, 0..<Self.size) == Self.content())
        try await volume.close()
    }

    /// Readers of a head that a crash has ended take a newer time for writes that they have not seen.
    @Test func whatIsPutBackIsNotWritten() async throws {
        let head = try await Head()
        let before = try head.state()
        let volume = try head.open()
        #expect(try volume.storage.restore(try head.restorable(), from: try head.copy()) == 1 << 20)
        let after = try head.state()
        #expect(after.modification == before.modification && after.change > before.change)
        try await volume.close()
    }

    /// What the disk does to the rest of the file is noticed afterwards as before, and nothing else is taken for that.
    @Test(arguments: [true, false], [false, true])
    func aRepairLeavesTheRestOfTheFileVerifiable(isHashedDamaged: Bool, isWritten: Bool) async throws {
        let head = try await Head()
        let volume = try head.open()
        if isWritten { try volume.write(head.file, at: 1_200_000, [7]) }
        try volume.synchronize(head.file)
        // As after a scrub of what is there now, before the disk has changed the first block too.
        let state = try head.state()
        var content = Self.content()
        if isHashedDamaged { content[(1 << 20) + 5000] ^= 0x10 }
        if isWritten { content[1_200_000] = 7 }
        let hashes = stride(from: 0, to: Self.size, by: 1 << 20).map { start in
            Array(content[start..<min(Self.size, start + 1 << 20)]).withUnsafeBytes { BlockHash.of($0) }
        }
        var first = hashes[0]
        first[3] ^= 1
        let record = PartRecord(hashes: first + hashes[1] + hashes[2], of: state)
        try HashDatabase(in: head.directory).write([(PartID(head.data, 0), record, 0)])
        let restored = try volume.storage.restore(try head.restorable(), from: try head.copy())
        #expect(restored == (1 << 20) - (isWritten ? 1 : 0))
        try await volume.close()
        let progress = try HeadScrub.run(closed: head.directory, terms: ScrubTerms())
        // Of a block that is newer in part it is not known what all of it is.
        #expect(progress.newDamageCount == (isWritten ? 0 : 1), "\(progress)")
        #expect(progress.verifiedByteCount == (isWritten ? 0 : UInt64(Self.size - (1 << 20))), "\(progress)")
        #expect(
            try HashDatabase.damage(in: head.directory).blocks.map(\.range)
                == (isWritten ? [] : [ByteRange(0, 1 << 20)]))
    }

    // MARK: what is newer

    @Test func whatWasWrittenSinceStays() async throws {
        let head = try await Head()
        let block = try head.restorable()
        let copy = try head.copy()
        let volume = try head.open()
        let start = 1_200_000
        let new = [UInt8](repeating: 7, count: 5000)
        try volume.write(head.file, at: start, new)
        var expected = Self.content()
        expected.replaceSubrange(start..<start + 5000, with: new)
        #expect(try volume.storage.restore(block, from: copy) == (1 << 20) - 5000)
        #expect(try await volume.read(head.file, 0..<Self.size) == expected)
        // Nothing is left to be put right.
        try volume.write(head.file, at: start + 10_000, new)
        expected.replaceSubrange(start + 10_000..<start + 15_000, with: new)
        #expect(try volume.storage.restore(block, from: copy) == 0)
        #expect(try await volume.read(head.file, 0..<Self.size) == expected)
        try await volume.close()
        #expect(try head.findings() == [])
    }

    /// A restore that could not be noted is no reason to doubt what the application has written elsewhere in the file.
    @Test func aRestoreThatFailsLeavesWhatWasWrittenSinceAsItIs() async throws {
        let head = try await Head()
        let first = ByteRange(0, 1 << 20)
        try head.flip(first)
        let blocks = try HeadDamage.restorable(head.directory)
        let (written, restored) = (try #require(blocks.first), try #require(blocks.last))
        let copy = try head.copy()
        #expect(written.lost.extent.range == first && restored.lost.extent.range == Self.block)
        let volume = try head.open()
        let new = [UInt8](repeating: 7, count: 1 << 20)
        try volume.write(head.file, at: 0, new)
        let database = try Connection(
            path: head.directory + "/" + HashDatabase.fileName, mode: .readWrite)
        try database.execute(
            "CREATE TRIGGER full BEFORE DELETE ON damage BEGIN SELECT RAISE(ABORT, 'full'); END")
        let second = Array(Self.content()[1 << 20..<2 << 20])
        #expect(throws: (any Error).self) { try volume.storage.restore(restored, from: second) }
        #expect(try await volume.read(head.file, 0..<1 << 20) == new)
        try database.execute("DROP TRIGGER full")
        try volume.synchronize(head.file)
        #expect(try volume.storage.restore(written, from: copy) == 0)
        let expected = new + Self.content()[(1 << 20)...]
        #expect(try await volume.read(head.file, 0..<Self.size) == expected)
        volume.storage.catalog.abandon()
        let again = try head.open()
        #expect(try await again.read(head.file, 0..<Self.size) == expected)
        try await again.close()
        #expect(try head.findings() == [])
    }

    /// A writer at the same moment, again and again.
    @Test func aWriterAtTheSameMomentLosesNothing() async throws {
        let head = try await Head()
        let block = try head.restorable()
        let copy = try head.copy()
        for round in 0..<8 {
            let volume = try head.open()
            let writing = Task.detached { () -> [(Int, UInt8)] in
                var generator = Generator(seed: UInt64(round))
                var written: [(Int, UInt8)] = []
                for number in 0..<20 {
                    let place = (1 << 20) + generator.next(below: 256) * 4096
                    let byte = UInt8(number + 1)
                    try volume.write(head.file, at: place, [UInt8](repeating: byte, count: 4096))
                    written.append((place, byte))
                }
                return written
            }
            if round % 3 > 0 { try await Task.sleep(for: .microseconds(200 * round)) }
            _ = try volume.storage.restore(block, from: copy)
            var expected = Self.content()
            for (place, byte) in try await writing.value {
                expected.replaceSubrange(place..<place + 4096, with: repeatElement(byte, count: 4096))
            }
            let found = try await volume.read(head.file, 0..<Self.size)
            #expect(found == expected, "round \(round)")
            try volume.write(head.file, at: 0, Self.content())
            try await volume.close()
            try head.flip(Self.block)
        }
    }

    /// What was cut away comes back as zeros, never from a copy: also when a crash has brought the damage back.
    @Test func whatWasCutAwayIsNotBroughtBack() async throws {
        let head = try await Head()
        let (block, copy) = (try head.restorable(), try head.copy())
        let cut = (1 << 20) + 4096
        let volume = try head.open()
        try volume.truncate(head.file, to: cut)
        try volume.truncate(head.file, to: Self.size)
        try volume.storage.catalog.synchronize()
        volume.storage.catalog.abandon()
        let again = try head.open()
        #expect(try again.storage.restore(block, from: copy) == 4096)
        let bytes = try await again.read(head.file, 0..<Self.size)
        #expect(bytes[..<cut] == Self.content()[..<cut])
        #expect(bytes[cut...].allSatisfy { $0 == 0 })
        // The cut was durable, that the damage went with it was not.
        try again.truncate(head.file, to: cut)
        try await again.close()
        try head.note(Self.block)
        let last = try head.open()
        try last.truncate(head.file, to: Self.size)
        #expect(try await last.read(head.file, cut..<Self.size).allSatisfy { $0 == 0 })
        #expect(try last.storage.restore(block, from: copy) == 4096)
        #expect(try await last.read(head.file, 0..<cut) == Array(Self.content()[..<cut]))
        #expect(try await last.read(head.file, cut..<Self.size).allSatisfy { $0 == 0 })
        try await last.close()
        #expect(try head.findings() == [])
    }

    /// One crash after a cut was durable and before it was noted, and another one after the file has grown.
    @Test func twoCrashesBringNothingBackThatWasCutAway() async throws {
        let head = try await Head()
        let cut = (1 << 20) + 4096
        let volume = try head.open()
        try volume.truncate(head.file, to: cut)
        try await volume.close()
        try head.note(Self.block)
        let again = try head.open()
        try again.truncate(head.file, to: Self.size)
        try again.storage.catalog.synchronize()
        again.storage.catalog.abandon()
        let last = try head.open()
        #expect(try await last.read(head.file, cut..<Self.size).allSatisfy { $0 == 0 })
        let restored = try last.storage.restore(try head.restorable(), from: try head.copy())
        #expect(restored == 4096)
        #expect(try await last.read(head.file, cut..<Self.size).allSatisfy { $0 == 0 })
        try await last.close()
    }

    // MARK: crashes and doubts

    /// Killed after the bytes were written and before that was noted, whether a scrub comes first or a copy.
    @Test(arguments: [true, false])
    func aCrashBeforeItIsNotedIsRepairedAgain(isScrubFirst: Bool) async throws {
        let head = try await Head()
        let (block, copy) = (try head.restorable(), try head.copy())
        let descriptor = Glibc.open(head.path, O_RDWR)
        #expect(pwrite(descriptor, copy, copy.count, 1 << 20) == copy.count)
        close(descriptor)
        if isScrubFirst {
            let refused = try head.open()
            await expectRefused(refused, head, 1 << 20..<(1 << 20) + 1)
            try await refused.close()
            _ = try HeadScrub.run(closed: head.directory, terms: ScrubTerms())
        } else {
            let volume = try head.open()
            #expect(try volume.storage.restore(block, from: copy) == 1 << 20)
            try await volume.close()
        }
        #expect(try head.findings() == [])
        let volume = try head.open()
        #expect(try await volume.read(head.file, 0..<Self.size) == Self.content())
        try await volume.close()
    }

    /// As long as it may be that somebody has just written there, a block is refused, and put right by nobody.
    @Test func whatIsInDoubtIsNotPutRight() async throws {
        let head = try await Head()
        try HeadDamage.accept(head.directory)
        _ = try HeadScrub.run(closed: head.directory, terms: ScrubTerms())
        let hashes = try HashDatabase(in: head.directory)
        var record = try #require(try hashes.record(of: PartID(head.data, 0))).record
        record.hashes[BlockHash.byteCount] ^= 1
        try hashes.write([(PartID(head.data, 0), record, 0)])
        let volume = try head.open()
        var restorable: [Int] = []
        let scrub = try HeadScrub(head.directory, isInUse: true, terms: ScrubTerms()) {
            try volume.storage.learnDamage(of: $0)
            restorable.append(try HeadDamage.restorable(head.directory).count)
        }
        while try scrub.step() != nil {}
        #expect(scrub.progress.newDamageCount == 1)
        #expect(scrub.takeFound() == [Extent(inode: head.file, range: Self.block)])
        #expect(restorable == [0])
        #expect(try HeadDamage.restorable(head.directory).count == 1)
        await expectRefused(volume, head, 1 << 20..<(1 << 20) + 1)
        try await volume.close()
        // Known damage stays known.
        #expect(try HeadScrub.run(closed: head.directory, terms: ScrubTerms()).newDamageCount == 0)
        #expect(try HeadDamage.restorable(head.directory).count == 1)
    }

    // MARK: the database

    /// The database goes bad while the head is in use: what is known in memory is not lost with it.
    @Test(arguments: ["no database at all", "", nil])
    func aLostDatabaseIsMadeAnewFromWhatIsKnown(_ rubbish: String?) async throws {
        let head = try await Head()
        let volume = try head.open()
        func lose() throws {
            let path = head.directory + "/" + HashDatabase.fileName
            for suffix in ["-wal", "-shm", ""] { unlink(path + suffix) }
            if let rubbish { try Data(rubbish.utf8).write(to: URL(fileURLWithPath: path)) }
        }
        let new = [UInt8](repeating: 7, count: 4096)
        try volume.write(head.file, at: 1 << 20, new)
        try lose()
        try volume.synchronize(head.file)
        #expect(try await volume.read(head.file, 1 << 20..<(1 << 20) + 4096) == new)
        try lose()
        try volume.storage.learnDamage()
        await expectRefused(volume, head, 1_500_000..<1_500_001)
        try lose()
        // Whoever makes it anew takes nothing away from who has the head open.
        let scrub = try HeadScrub(head.directory, isInUse: true, terms: ScrubTerms()) {
            try volume.storage.learnDamage(of: $0)
        }
        while try scrub.step() != nil {}
        try volume.storage.learnDamage()
        await expectRefused(volume, head, 1_500_000..<1_500_001)
        try await volume.close()

        let again = try head.open()
        #expect(try await again.read(head.file, 1 << 20..<(1 << 20) + 4096) == new)
        await expectRefused(again, head, 1_500_000..<1_500_001)
        // Its hash is known still.
        #expect(try again.storage.restore(try head.restorable(), from: try head.copy()) == (1 << 20) - 4096)
        try await again.close()
        #expect(try head.findings() == [])
    }

    @Test func whatIsLearnedOfOneFileLeavesOthersAsTheyAre() async throws {
        let head = try await Head()
        let volume = try head.open()
        let other = DataFileNumber(head.data.number + 1000)
        let hashes = try HashDatabase(in: head.directory)
        let found = DamagedBlock(
            data: other, range: ByteRange(0, 5), inode: InodeNumber(99), expected: DamagedBlock.lost)
        #expect(try hashes.add(found))
        #expect(
            try volume.storage.learnDamage(of: DamagePlace(data: other))
                == [Extent(inode: InodeNumber(99), range: found.range)])
        #expect(volume.storage.firstDamage(of: other, from: 0) == found.range)
        #expect(volume.storage.firstDamage(of: head.data, from: 0) == Self.block)
        try hashes.remove(found)
        #expect(try volume.storage.learnDamage(of: DamagePlace(data: other)) == [])
        #expect(volume.storage.firstDamage(of: other, from: 0) == nil)
        #expect(volume.storage.firstDamage(of: head.data, from: 0) == Self.block)
        try await volume.close()
    }

    /// What is learned of each of many blocks costs no more for what is known of the others.
    @Test func whatIsLearnedOfOneBlockLeavesOthersOfTheFileAsTheyAre() async throws {
        let head = try await Head()
        let volume = try head.open()
        let other = DataFileNumber(head.data.number + 1000)
        let hashes = try HashDatabase(in: head.directory)
        let mebibyte: UInt64 = 1 << 20
        let blocks = (0..<4 as Range<UInt64>).map { number in
            DamagedBlock(
                data: other, range: ByteRange(number * mebibyte, (number + 1) * mebibyte),
                inode: InodeNumber(99), expected: [UInt8(number)])
        }
        func learn(_ block: DamagedBlock) throws -> [ByteRange] {
            try volume.storage.learnDamage(of: DamagePlace(data: other, block: block.range)).map(\.range)
        }
        func known(from offset: UInt64) -> ByteRange? {
            volume.storage.firstDamage(of: other, from: offset)
        }
        for block in blocks where block != blocks[2] {
            try hashes.add(block)
            #expect(try learn(block) == [block.range])
        }
        #expect(known(from: 0) == ByteRange(0, 2 * mebibyte) && known(from: 2 * mebibyte) == blocks[3].range)
        // Gone, or written over: that alone is taken up.
        for block in blocks.dropLast() { try hashes.remove(block) }
        #expect(try learn(blocks[0]) == [])
        #expect(known(from: 0) == blocks[1].range)
        let written = ByteRange(3 * mebibyte, 3 * mebibyte + 10)
        try hashes.noteOverwritten([other: RangeSet([written])])
        #expect(try learn(blocks[3]) == [blocks[3].range])
        #expect(known(from: 2 * mebibyte) == ByteRange(written.end, 4 * mebibyte))
        #expect(
            try volume.storage.learnDamage(of: DamagePlace(data: other)) == [
                Extent(inode: InodeNumber(99), range: blocks[3].range)
            ])
        #expect(known(from: 0) == ByteRange(written.end, 4 * mebibyte))
        try await volume.close()
    }

    /// Only what touches a range is looked at, and what was written beside it stays noted.
    @Test func whatIsNotedOfABlockLeavesOthersOfTheFileAsTheyAre() async throws {
        let head = try await Head()
        let first = ByteRange(0, 1 << 20)
        try head.flip(first)
        let volume = try head.open()
        for place in [10_000, (1 << 20) - 100, (1 << 20) + 50_000] {
            try volume.write(head.file, at: place, [UInt8](repeating: 9, count: 200))
        }
        try volume.synchronize(head.file)
        try await volume.close()
        let before = try HashDatabase.damage(in: head.directory)
        #expect(before.blocks.count == 2 && before.overwritten[head.data]?.ranges.count == 3)
        // The second one is found anew: what was written of it is damaged with it.
        try head.note(Self.block)
        let after = try HashDatabase.damage(in: head.directory)
        #expect(after.blocks == before.blocks)
        #expect(
            after.overwritten[head.data]?.ranges == [
                ByteRange(10_000, 10_200), ByteRange((1 << 20) - 100, 1 << 20),
            ])
        try HashDatabase(in: head.directory).remove(try #require(before.blocks.first))
        #expect(try HashDatabase.damage(in: head.directory).overwritten == [:])
        #expect(try HashDatabase.damage(in: head.directory).ranges == [head.data: RangeSet([Self.block])])
    }

    /// Zeros beyond the end are none of the file's bytes: its data file gets no longer.
    @Test(arguments: [AllocationMode.punchHole, .zeroRangeKeepingSize])
    func zerosBeyondTheEndOfADamagedFileMakeItNoLonger(mode: AllocationMode) async throws {
        let head = try await Head()
        let volume = try head.open()
        try volume.fileSystem.allocate(
            head.file, handle: FileHandle(head.file.number), mode: mode, offset: UInt64(Self.size - 10),
            byteCount: 100_000)
        try volume.fileSystem.allocate(
            head.file, handle: FileHandle(head.file.number), mode: mode, offset: 5 << 20, byteCount: 4096)
        var status = stat()
        #expect(stat(head.path, &status) == 0 && status.st_size == Self.size)
        #expect(
            try await volume.read(head.file, Self.size - 10..<Self.size) == [UInt8](repeating: 0, count: 10))
        try await volume.close()
    }
}
