import BlockHashes
import EngineTestSupport
import Foundation
import Glibc
import SQLite
import Testing
import VolumeModel

/// The second record of damage, to which each change is added.
@Suite struct DamageRecordTests {
    /// Both records, in memory where that can be: each change is synced twice.
    private struct Records {
        let directory: String
        private let temporary: TemporaryDirectory?

        init() throws {
            let memory = "/dev/shm/godwit-damage-" + UUID().uuidString
            if mkdir(memory, 0o700) == 0 {
                (directory, temporary) = (memory, nil)
            } else {
                let made = try TemporaryDirectory()
                (directory, temporary) = (made.path, made)
            }
        }

        func delete() { try? FileManager.default.removeItem(atPath: directory) }

        var copy: String { directory + "/damage" }
        func content() throws -> Data { try #require(FileManager.default.contents(atPath: copy)) }
        func put(_ content: Data) throws { try content.write(to: URL(fileURLWithPath: copy)) }
        func status() throws -> stat {
            var status = stat()
            try #require(stat(copy, &status) == 0)
            return status
        }

        static let database = ["", "-wal", "-shm"].map { "/hashes.db" + $0 }
        func loseDatabase() { for name in Self.database { unlink(directory + name) } }
        func saveDatabase() throws -> [String: Data] {
            var files: [String: Data] = [:]
            for name in Self.database { files[name] = FileManager.default.contents(atPath: directory + name) }
            return files
        }
        func restoreDatabase(_ files: [String: Data]) throws {
            loseDatabase()
            for (name, data) in files { try data.write(to: URL(fileURLWithPath: directory + name)) }
        }
    }

    private static func block(_ number: UInt64) -> DamagedBlock {
        let start = (number % 100) << 20
        return DamagedBlock(
            data: DataFileNumber(1 + number / 100), range: ByteRange(start, start + (1 << 20)),
            inode: InodeNumber(2 + number / 100),
            expected: (0..<16).map { UInt8(truncatingIfNeeded: number >> $0) })
    }

    /// What the copy says when there is nothing else.
    private static func known(to records: Records) throws -> Set<DamagedBlock> {
        let files = try records.saveDatabase()
        records.loseDatabase()
        defer { try? records.restoreDatabase(files) }
        return Set(try HashDatabase.damage(in: records.directory).blocks)
    }

    @Test func tenThousandBlocksAreWrittenAFewTimesAndNotEachTimeAnew() throws {
        let records = try Records()
        defer { records.delete() }
        let hashes = try HashDatabase(in: records.directory)
        var written: Int64 = 0
        var renames = 0
        var before = stat()
        func look() throws {
            let now = try records.status()
            if now.st_ino == before.st_ino {
                written += Int64(now.st_size - before.st_size)
            } else {
                (written, renames) = (written + Int64(now.st_size), renames + 1)
            }
            before = now
        }
        let blocks = (0..<10_000).map { Self.block($0) }
        for block in blocks {
            #expect(try hashes.add(block))
            try look()
        }
        let whole = Int64(blocks.count) * 150
        #expect(written < 3 * whole && renames < 10, "\(written) bytes, \(renames) times anew")
        #expect(try Self.known(to: records) == Set(blocks))
        // Nor when they are put right again.
        for block in blocks.prefix(1000) {
            try hashes.remove(block)
            try look()
        }
        #expect(written < 4 * whole && renames < 11, "\(written) bytes, \(renames) times anew")
        #expect(try Self.known(to: records) == Set(blocks.dropFirst(1000)))
        try hashes.acceptAll()
        #expect(access(records.copy, F_OK) != 0)
    }

    /// A crash in the midst of a change leaves what was known before, whatever of the change is on the disk; and the next
    /// change is none of a torn record.
    @Test func anEntryThatACrashHasTornCountsAsNotThere() throws {
        let records = try Records()
        defer { records.delete() }
        let old = (0..<10).map { Self.block($0) }
        for block in old { try HashDatabase(in: records.directory).add(block) }
        let (before, database) = (try records.content(), try records.saveDatabase())
        // Some sectors long.
        let change = KnownDamage(blocks: (100..<150).map { Self.block($0) })
        try HashDatabase(in: records.directory).take(change)
        let after = try records.content()
        try #require(after.starts(with: before) && after.count > before.count + 2000)
        for count in stride(from: before.count, to: after.count, by: 7) {
            try records.put(after.prefix(count))
            #expect(try Self.known(to: records) == Set(old), "\(count)")
        }
        for sector in before.count / 512..<(after.count + 511) / 512 {
            var torn = after
            for place in max(before.count, sector * 512)..<min(after.count, (sector + 1) * 512) {
                torn[place] = 0
            }
            try records.put(torn)
            #expect(try Self.known(to: records) == Set(old), "\(sector)")
            try records.restoreDatabase(database)
            let next = Self.block(500)
            try HashDatabase(in: records.directory).add(next)
            #expect(try Self.known(to: records) == Set(old + [next]))
            #expect(Set(try HashDatabase.damage(in: records.directory).blocks) == Set(old + [next]))
        }
        // A flipped bit is no crash.
        for place in stride(from: before.count, to: after.count, by: 5) {
            var flipped = after
            flipped[place] ^= 4
            try records.put(flipped)
            #expect(throws: (any Error).self, "\(place)") { try Self.known(to: records) }
        }
    }

    /// The power fails after the copy has a change, and before the database has it.
    @Test func aChangeThatOnlyTheCopyHasIsNotAddedTo() throws {
        let records = try Records()
        defer { records.delete() }
        try HashDatabase(in: records.directory).add(Self.block(1))
        let database = try records.saveDatabase()
        try HashDatabase(in: records.directory).add(Self.block(2))
        try records.restoreDatabase(database)
        try HashDatabase(in: records.directory).add(Self.block(3))
        #expect(try Self.known(to: records) == [Self.block(1), Self.block(3)])
    }
}
