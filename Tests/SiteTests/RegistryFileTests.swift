import EngineTestSupport
import Foundation
import Handoff
import Site
import Testing
import VolumeModel

/// The file of a standalone site's registry, and what a disk or another program makes of it.
@Suite struct RegistryFileTests {
    private static func record(_ name: String, _ generator: inout Generator) throws -> VolumeRecord {
        VolumeRecord(
            id: VolumeID(randomHigh: generator.next(), randomLow: generator.next()), name: name,
            limits: VolumeLimits(byteCount: 1 << 40),
            parameters: ["note": String(repeating: name, count: 99)],
            head: HeadRecord(newAt: try #require(SiteID("london"))), headNumber: 1)
    }

    private static func fill(_ path: String) async throws -> [VolumeRecord] {
        var generator = Generator(seed: 1)
        let registry = try SQLiteRegistry(path: path)
        for number in 0..<60 { _ = try await registry.insert(record("volume \(number)", &generator)) }
        return try await registry.volumes().map(\.value)
    }

    @Test func aFlippedBitInARegistryIsNoticed() async throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path + "/site.db"
        let records = try await Self.fill(path)
        // Whoever closes it last has moved its log.
        let sound = try Data(contentsOf: URL(fileURLWithPath: path))
        #expect(sound[20] == 8 && sound.count > 40_000)
        var generator = Generator(seed: 2)
        var refused = 0
        for round in 0..<160 {
            for suffix in ["-wal", "-shm"] { unlink(path + suffix) }
            let offset = round < 100 ? round : generator.next(below: sound.count)
            var bytes = sound
            bytes[offset] ^= 1 << UInt8(generator.next(below: 8))
            try bytes.write(to: URL(fileURLWithPath: path))
            do {
                let isSame = try await SQLiteRegistry(path: path).volumes().map(\.value) == records
                #expect(isSame, "byte \(offset)")
            } catch {
                #expect("\(error)".contains(path), "\(error)")
                refused += 1
            }
        }
        // Others are in pages of an index that is not looked at.
        #expect(refused > 120, "\(refused)")
    }

    /// A registry that is weeks old would be worse than none.
    @Test func aRegistryWhoseLogIsDamagedHasLostNoMoreThanItsLastMoments() async throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path + "/site.db"
        var generator = Generator(seed: 4)
        let registry = try SQLiteRegistry(path: path)
        for number in 0..<20 { _ = try await registry.insert(Self.record("volume \(number)", &generator)) }
        // Without its log.
        let moved = temporary.path + "/moved.db"
        var count = 0
        for _ in 0..<200 where count < 20 {
            try await Task.sleep(for: .milliseconds(50))
            try Data(contentsOf: URL(fileURLWithPath: path)).write(to: URL(fileURLWithPath: moved))
            count = (try? await SQLiteRegistry(path: moved).volumes().count) ?? 0
            for suffix in ["", "-wal", "-shm"] { unlink(moved + suffix) }
        }
        #expect(count == 20)
        // As a crash leaves them.
        let files = try ["", "-wal"].map { try Data(contentsOf: URL(fileURLWithPath: path + $0)) }
        try #require(files[1].count > 4096)
        let other = temporary.path + "/other.db"
        for place in [100, 32 + 24 + 2000] {
            var log = files[1]
            log[place] ^= 4
            try files[0].write(to: URL(fileURLWithPath: other))
            try log.write(to: URL(fileURLWithPath: other + "-wal"))
            let found = try await SQLiteRegistry(path: other).volumes().count
            #expect(found == 20, "byte \(place)")
            unlink(other + "-shm")
        }
        _ = registry
    }

    /// It would be moved with sums, over the ends of pages of one that has none.
    @Test func theLogOfARegistryThatIsRefusedIsNotMoved() async throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path + "/site.db"
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        // One of an earlier release that was cut off. Then bit 3 of byte 20 flips.
        process.arguments = [
            "-ec",
            """
            sqlite3 "$0" "PRAGMA journal_mode = WAL; PRAGMA user_version = 1; CREATE TABLE volume(id TEXT PRIMARY KEY,
                name TEXT NOT NULL UNIQUE, revision INTEGER NOT NULL, record BLOB NOT NULL) WITHOUT ROWID"
            sqlite3 -cmd '.dbconfig no_ckpt_on_close on' "$0" "INSERT INTO volume VALUES ('a', 'b', 1, x'00')"
            printf '\\010' | dd of="$0" bs=1 seek=20 conv=notrunc status=none
            """, path,
        ]
        process.standardOutput = nil
        try process.run()
        process.waitUntilExit()
        try #require(process.terminationStatus == 0)
        func contents() throws -> [Data] {
            try [path, path + "-wal"].map { try Data(contentsOf: URL(fileURLWithPath: $0)) }
        }
        let before = try contents()
        try #require(before[0][20] == 8 && before[1].count > 4096)
        #expect(throws: RegistryError.self) { try SQLiteRegistry(path: path) }
        #expect(try contents() == before)
    }

    /// Whoever takes itself for the last to close a database deletes its log, with what others write to it: they know of
    /// each other by locks, which a process loses when it closes any descriptor of the file.
    @Test func whoOpensARegistryThatIsInUseDoesNotLetGoOfItsLocks() async throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path + "/site.db"
        var generator = Generator(seed: 3)
        let registry = try SQLiteRegistry(path: path)
        _ = try await registry.insert(Self.record("first", &generator))
        func inodeNumber() throws -> UInt64 {
            var status = stat()
            try #require(stat(path + "-wal", &status) == 0)
            return UInt64(status.st_ino)
        }
        let log = try inodeNumber()
        #expect(try await SQLiteRegistry(path: path).volumes().count == 1)
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/sqlite3")
        process.arguments = [path, "SELECT count(*) FROM volume"]
        process.standardOutput = nil
        try process.run()
        process.waitUntilExit()
        try #require(process.terminationStatus == 0)
        #expect(try inodeNumber() == log)
        _ = try await registry.insert(Self.record("second", &generator))
        #expect(try await SQLiteRegistry(path: path).volumes().count == 2)
    }
}
