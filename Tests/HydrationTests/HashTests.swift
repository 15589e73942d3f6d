import BlockHashes
import ByteStore
import Catalog
import EngineTestSupport
import Foundation
import Hydration
import SQLite
import Testing
import VolumeFileSystem
import VolumeModel

/// What is kept of blocks, and what is made of it. What a disk really does is in DurabilityTests.
@Suite struct HashTests {
    private static let terms = ScrubTerms(quiet: ScrubTerms.shortestQuiet)

    /// A closed head with one file of some blocks, which has been looked through.
    private static func hashedHead(in directory: String) async throws -> DataFileNumber {
        let volume = try TestVolume.make(in: directory)
        let file = try volume.create("f")
        var generator = Generator(seed: 1)
        try volume.write(file, at: 0, generator.bytes(3 << 20))
        let data = try #require(try volume.storage.catalog.perform { try $0.inode(file)?.data })
        try await volume.close()
        let progress = try HeadScrub.run(closed: directory, terms: terms)
        #expect(progress.hashedByteCount == 3 << 20)
        return data
    }

    private static func execute(_ sql: String, in directory: String) throws {
        try Connection(path: directory + "/" + HashDatabase.fileName, mode: .readWrite).execute(sql)
    }

    @Test func aBlockThatIsNotWhatWasHashedIsDamaged() async throws {
        let temporary = try TemporaryDirectory()
        let head = try temporary.make("head")
        let data = try await Self.hashedHead(in: head)
        let part = PartID(data, 0)
        let hashes = try HashDatabase(in: head)
        var record = try #require(try hashes.record(of: part)).record
        record.hashes[20] ^= 1
        try hashes.write([(part, record, 0)])
        let progress = try HeadScrub.run(closed: head, terms: Self.terms)
        #expect(progress.newDamageCount == 1 && progress.verifiedByteCount == 2 << 20, "\(progress)")
        let findings = try HeadCheck.run(head, isInUse: false)
        #expect(
            findings.count == 1 && findings[0].text.contains("bytes [1048576, 2097152) of"), "\(findings)")
    }

    /// Half of a file has come, the rest is a hole that nobody will read before it comes.
    @Test func whatIsNotHereCannotBeDamaged() async throws {
        let temporary = try TemporaryDirectory()
        let (owner, heir) = (try temporary.make("owner"), try temporary.make("heir"))
        let volume = try TestVolume.make(in: owner)
        let file = try volume.create("f")
        var generator = Generator(seed: 2)
        try volume.write(file, at: 0, generator.bytes(4 << 20))
        try volume.storage.settle()
        try await TestVolume.makeHeir(of: volume.storage.catalog, in: heir)
        let arriving = try HeadStorage(opening: heir)
        try arriving.store(
            Piece(inode: file, range: ByteRange(0, 1 << 20), content: .bytes(generator.bytes(1 << 20))))
        let data = try #require(try arriving.catalog.perform { try $0.inode(file)?.data })
        try arriving.close()
        _ = try HeadScrub.run(closed: heir, terms: Self.terms)
        let hashes = try HashDatabase(in: heir)
        var record = try #require(try hashes.record(of: PartID(data, 0))).record
        record.hashes[20] ^= 1
        try hashes.write([(PartID(data, 0), record, 0)])
        #expect(try HeadScrub.run(closed: heir, terms: Self.terms).newDamageCount == 0)
        #expect(try HeadCheck.run(heir, isInUse: false) == [])
        // What has come can be.
        record.hashes[4] ^= 1
        try hashes.write([(PartID(data, 0), record, 0)])
        #expect(try HeadScrub.run(closed: heir, terms: Self.terms).newDamageCount == 1)
        try await volume.close()
    }

    @Test func whatIsDamagedOfTheHashesSaysNothing() async throws {
        let temporary = try TemporaryDirectory()
        let head = try temporary.make("head")
        _ = try await Self.hashedHead(in: head)
        // One byte of a row, at every place.
        for place in stride(from: 1, through: 100, by: 9) {
            try Self.execute(
                """
                UPDATE part SET record = CAST(substr(record, 1, \(place - 1)) || x'a5'
                || substr(record, \(place) + 1) AS BLOB)
                """, in: head)
            let progress = try HeadScrub.run(closed: head, terms: Self.terms)
            #expect(
                progress.newDamageCount == 0 && progress.hashedByteCount == 3 << 20, "\(place): \(progress)")
        }
        // All of the file, or its schema: nothing keeps the head from being used.
        for damage in ["no database at all", ""] {
            try Data(damage.utf8).write(to: URL(fileURLWithPath: head + "/" + HashDatabase.fileName))
            try HeadStorage(opening: head).close()
            #expect(try HeadCheck.run(head, isInUse: false) == [])
            try Data(damage.utf8).write(to: URL(fileURLWithPath: head + "/" + HashDatabase.fileName))
            #expect(try HeadCheck.run(head, isInUse: false) == [])
            #expect(try HeadScrub.run(closed: head, terms: Self.terms).newDamageCount == 0)
        }
        try Self.execute("DROP TABLE part", in: head)
        try HeadStorage(opening: head).close()
        #expect(try HeadScrub.run(closed: head, terms: Self.terms).newDamageCount == 0)
    }

    @Test func whatWasChangedAMomentAgoIsLeftForLater() async throws {
        let temporary = try TemporaryDirectory()
        let head = try temporary.make("head")
        let volume = try TestVolume.make(in: head)
        try volume.write(try volume.create("f"), at: 0, [1, 2, 3])
        try volume.storage.settle()
        let scrub = try HeadScrub(head, isInUse: true, terms: ScrubTerms(quiet: .seconds(3600)))
        while try scrub.step() != nil {}
        #expect(scrub.progress.busyFileCount == 1 && scrub.progress.hashedByteCount == 0)
        #expect(throws: CatalogError.self) { try HeadScrub.run(closed: head, terms: Self.terms) }
        try await volume.close()
    }

    @Test func whatWasLookedAtLatelyIsNotReadAgain() async throws {
        let temporary = try TemporaryDirectory()
        let head = try temporary.make("head")
        _ = try await Self.hashedHead(in: head)
        let terms = ScrubTerms(quiet: ScrubTerms.shortestQuiet, every: .seconds(3600))
        let progress = try HeadScrub.run(closed: head, terms: terms)
        #expect(progress == ScrubProgress(), "\(progress)")
    }
}
