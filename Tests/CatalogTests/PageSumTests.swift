@testable import Catalog
import EngineTestSupport
import Foundation
import SQLite
import Testing
import VolumeModel

/// What a disk, or another program, makes of a catalog's pages is not taken for what was written.
@Suite struct PageSumTests {
    // MARK: the sum

    @Test func theProcessorsInstructionAndTheTablesGiveTheSameSum() {
        var generator = Generator(seed: 1)
        for byteCount in [512, 4096, 65536] {
            let page = generator.bytes(byteCount)
            let number = UInt32(truncatingIfNeeded: generator.next())
            #expect(
                Connection.pageSum(of: page, number: number)
                    == Connection.pageSum(of: page, number: number, isPortable: true))
        }
        // A page that was never written is none that fits.
        #expect(Connection.pageSum(of: [UInt8](repeating: 0, count: pageByteCount), number: 1) != 0)
    }

    @Test func everyBitOfAPageAndItsPlaceAreInItsSum() {
        var generator = Generator(seed: 2)
        var page = generator.bytes(pageByteCount)
        let sum = Connection.pageSum(of: page, number: 7)
        for offset in 0..<pageByteCount {
            page[offset] ^= 1 << UInt8(offset % 8)
            let isSame = Connection.pageSum(of: page, number: 7) == sum
            #expect(isSame == (offset >= pageByteCount - 8), "byte \(offset)")
            page[offset] ^= 1 << UInt8(offset % 8)
        }
        #expect(Set((1..<1000).map { Connection.pageSum(of: page, number: $0) }).count == 999)
    }

    // MARK: catalogs at rest

    /// A catalog that was closed: some hundred pages, with values that are longer than one.
    private struct Scene {
        let temporary: TemporaryDirectory
        let bytes: Data
        let image: CatalogImage
        var pageCount: Int { bytes.count / pageByteCount }

        init() throws {
            temporary = try TemporaryDirectory()
            let directory = try temporary.make("sound")
            try Catalog.create(
                in: directory, limits: VolumeLimits(byteCount: 1 << 30), epoch: .first, now: .zero,
                withRoot: true)
            image = try Self.fill(directory)
            bytes = try Data(contentsOf: URL(fileURLWithPath: directory + "/" + Catalog.fileName))
            try #require(pageCount > 60, "\(pageCount) pages")
        }

        private static func fill(_ directory: String) throws -> CatalogImage {
            let catalog = try Catalog(opening: directory)
            var generator = Generator(seed: 3)
            for number in 0..<400 {
                try catalog.perform { state in
                    let inode = try state.addFile(Array("file \(number)".utf8))
                    guard number % 5 == 0 else { return }
                    try state.setExtendedAttribute(
                        Array("user.note".utf8), of: inode, value: generator.bytes(number * 25))
                }
            }
            let image = try CatalogImage(catalog)
            try catalog.close()
            return image
        }

        /// A directory with such a catalog and nothing else.
        func place(_ bytes: Data) throws -> String {
            let directory = temporary.path + "/placed"
            try? FileManager.default.removeItem(atPath: directory)
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            try bytes.write(to: URL(fileURLWithPath: directory + "/" + Catalog.fileName))
            return directory
        }

        enum Outcome { case same, other, refused }

        /// What somebody gets who reads all of it.
        func use(_ directory: String) throws -> Outcome {
            do {
                let catalog = try Catalog(opening: directory)
                defer { catalog.abandon() }
                return try CatalogImage(catalog) == image ? .same : .other
            } catch let error as CatalogError {
                #expect("\(error)".contains(directory), "\(error) does not name the file")
                return .refused
            }
        }

        /// But for that an earlier release's has no sums.
        func isFound(_ directory: String) -> Bool {
            (try? CatalogCheck(of: directory).findings.allSatisfy { $0.kind == .weakness }) != true
        }

        /// Whatever was done to it: it is named, or nothing that anybody reads was changed; and never is anything else read.
        ///
        /// - Returns: whether it is named.
        func expectNoticed(_ bytes: Data, _ what: String, _ location: SourceLocation = #_sourceLocation)
            throws
            -> Bool
        {
            let directory = try place(bytes)
            let isFound = isFound(directory)
            let outcome = try use(directory)
            #expect(outcome != .other, "\(what): it was read", sourceLocation: location)
            #expect(isFound || outcome == .same, "\(what): a check finds nothing", sourceLocation: location)
            return isFound
        }
    }

    @Test func aFlippedBitAnywhereIsNamedAndNothingElseIsReadForIt() throws {
        let scene = try Scene()
        var generator = Generator(seed: 4)
        #expect(try !scene.expectNoticed(scene.bytes, "nothing"))
        var named = 0
        for round in 0..<150 {
            // Those of the header first: it is read by itself as well.
            let offset = round < 100 ? round : generator.next(below: scene.bytes.count)
            var bytes = scene.bytes
            bytes[offset] ^= 1 << UInt8(generator.next(below: 8))
            if try scene.expectNoticed(bytes, "bit of byte \(offset)") { named += 1 }
        }
        // Pages that hold nothing are read by nobody.
        #expect(named > 140, "\(named) of 150")
    }

    @Test func severalFlippedBitsArePagesThatDoNotFit() throws {
        let scene = try Scene()
        var generator = Generator(seed: 5)
        for round in 0..<20 {
            var bytes = scene.bytes
            for _ in 0..<(2 + round) {
                bytes[generator.next(below: bytes.count)] ^= 1 << UInt8(generator.next(below: 8))
            }
            _ = try scene.expectNoticed(bytes, "round \(round)")
        }
    }

    @Test func pagesThatAreSwappedZerosOrGoneAreNamed() throws {
        let scene = try Scene()
        var generator = Generator(seed: 6)
        func range(_ page: Int) -> Range<Int> { page * pageByteCount..<(page + 1) * pageByteCount }
        var named = 0
        for round in 0..<30 {
            var bytes = scene.bytes
            let (one, other) = (
                1 + generator.next(below: scene.pageCount - 1), 1 + generator.next(below: scene.pageCount - 1)
            )
            switch round % 3 {
            case 0:
                bytes.replaceSubrange(range(one), with: scene.bytes[range(other)])
                bytes.replaceSubrange(range(other), with: scene.bytes[range(one)])
            case 1: bytes.resetBytes(in: range(one).suffix(512 * (1 + generator.next(below: 8))))
            default: bytes.removeSubrange(range(one).lowerBound...)
            }
            if try scene.expectNoticed(bytes, "round \(round): pages \(one) and \(other)") { named += 1 }
        }
        #expect(named > 24, "\(named) of 30")
    }

    @Test func aHeaderThatNoLongerTellsOfSumsIsDamage() throws {
        let scene = try Scene()
        for value in [UInt8(0), 9, 12, 0x48] {
            var bytes = scene.bytes
            bytes[20] = value
            let directory = try scene.place(bytes)
            #expect(try scene.use(directory) == .refused, "\(value)")
            #expect(scene.isFound(directory), "\(value)")
        }
    }

    // MARK: other programs, other releases

    private func shell(_ command: String, in directory: String) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments = ["-ec", command]
        process.currentDirectoryURL = URL(fileURLWithPath: directory)
        process.standardOutput = nil
        try process.run()
        process.waitUntilExit()
        try #require(process.terminationStatus == 0, "\(command)")
    }

    @Test func whatAnotherProgramWritesIsNamedAndRefused() throws {
        let scene = try Scene()
        let directory = try scene.place(scene.bytes)
        // Whoever only looks writes nothing: the log is empty.
        try shell("sqlite3 catalog.db 'SELECT count(*) FROM inode'", in: directory)
        #expect(!scene.isFound(directory))
        try shell("sqlite3 catalog.db 'UPDATE inode SET links = 5 WHERE ino = 30'", in: directory)
        let found = try CatalogCheck(of: directory).findings
        #expect(
            found.contains { $0.kind == .damage && $0.text.contains("is not what godwit wrote") }, "\(found)")
        #expect(try scene.use(directory) == .refused)
    }

    /// It is as before: the disk may change it unnoticed. So the other tests here can fail.
    @Test func aCatalogOfAnEarlierReleaseGoesOnAndItsCopyHasSums() throws {
        let scene = try Scene()
        let directory = try scene.place(scene.bytes)
        try shell(
            """
            sqlite3 catalog.db .dump > dump
            rm catalog.db*
            sqlite3 catalog.db < dump
            sqlite3 catalog.db "PRAGMA journal_mode = WAL; UPDATE meta SET value = 3 WHERE key = 'schema_version'"
            """, in: directory)
        let earlier = try Data(contentsOf: URL(fileURLWithPath: directory + "/" + Catalog.fileName))
        try #require(earlier[20] == 0)
        #expect(!scene.isFound(directory))
        #expect(try scene.use(directory) == .same)
        var generator = Generator(seed: 7)
        var unnoticed = 0
        for _ in 0..<20 {
            var bytes = earlier
            bytes[generator.next(below: bytes.count)] ^= 1 << UInt8(generator.next(below: 8))
            let flipped = try scene.place(bytes)
            if !scene.isFound(flipped), try scene.use(flipped) == .other { unnoticed += 1 }
        }
        #expect(unnoticed > 0)

        let copy = try scene.temporary.make("copy")
        do {
            let catalog = try Catalog(opening: try scene.place(earlier))
            try catalog.copy(to: copy)
            try catalog.close()
        }
        #expect(!scene.isFound(copy))
        #expect(try scene.use(copy) == .same)
        #expect(try wrongPages(of: copy + "/" + Catalog.fileName) == [])
        // An earlier release reads this number, and leaves it alone.
        let connection = try Connection(path: copy + "/" + Catalog.fileName, mode: .readWrite)
        let version = try connection.prepare("SELECT value FROM meta WHERE key = 'schema_version'")
        #expect(try version.first({ $0.integer(0) }) == CatalogSchema.version)
        #expect(connection.keepsPageSums)
    }

    // MARK: transactions and logs

    /// The pages of a database's file that do not fit their sums, by their numbers. Without those that were never written.
    private func wrongPages(of path: String) throws -> [Int] {
        let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
        try #require(bytes.count >= pageByteCount && bytes[20] == 8)
        return (1...bytes.count / pageByteCount).filter { number in
            let page = Array(bytes[(number - 1) * pageByteCount..<number * pageByteCount])
            let stored = page.suffix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
            return stored != Connection.pageSum(of: page, number: UInt32(number))
                && page.contains { $0 != 0 }
        }
    }

    private func expectSound(_ path: String, rowCount: Int64) throws {
        do {
            let connection = try Connection(path: path, mode: .readWrite)
            #expect(connection.keepsPageSums)
            #expect(try connection.prepare("PRAGMA integrity_check").first({ $0.text(0) }) == "ok")
            #expect(try connection.prepare("SELECT count(b) FROM t").first({ $0.integer(0) }) == rowCount)
            try connection.checkpoint(empties: true)
        }
        #expect(try wrongPages(of: path) == [])
    }

    private static let rows =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) SELECT i, randomblob(900) FROM n"

    /// Pages are written to the file, or the log, before it is settled what they will hold; in a new one even before page 1.
    @Test(arguments: ["DELETE", "WAL"])
    func pagesThatLeaveMemoryAmidATransactionHaveSumsThatFit(_ mode: String) throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path + "/some.db"
        do {
            let connection = try Connection(path: path, mode: .create)
            try connection.reservePageSums()
            try connection.execute("PRAGMA cache_size = 10")
            if mode == "WAL" { try connection.execute("PRAGMA journal_mode = WAL") }
            try connection.execute(
                """
                BEGIN;
                CREATE TABLE t(a INTEGER PRIMARY KEY, b);
                INSERT INTO t \(Self.rows);
                UPDATE t SET b = randomblob(1500) WHERE a % 3 = 0;
                SAVEPOINT s;
                UPDATE t SET b = randomblob(100) WHERE a % 5 = 0;
                ROLLBACK TO s;
                UPDATE t SET b = randomblob(5000) WHERE a % 7 = 0;
                """)
            #expect(try connection.prepare("SELECT count(b) FROM t").first({ $0.integer(0) }) == 2000)
            try connection.execute("COMMIT")
            #expect(connection.keepsPageSums)
            #expect(try connection.prepare("PRAGMA integrity_check").first({ $0.text(0) }) == "ok")
            try connection.execute("BEGIN; UPDATE t SET b = randomblob(1000); ROLLBACK")
            try connection.execute(
                "DELETE FROM t WHERE a > 1500; INSERT INTO t VALUES (5000, zeroblob(100000))")
        }
        try expectSound(path, rowCount: 1501)
    }

    /// What was written before page 1 is gone with its transaction, and is not looked for.
    @Test func aTransactionThatIsTakenBackLeavesNothingThatNeedsASum() throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path + "/some.db"
        do {
            let connection = try Connection(path: path, mode: .create)
            try connection.reservePageSums()
            try connection.execute("PRAGMA cache_size = 10")
            let make = "BEGIN; CREATE TABLE t(a INTEGER PRIMARY KEY, b); INSERT INTO t \(Self.rows)"
            try connection.execute("\(make); ROLLBACK")
            try connection.execute("BEGIN; CREATE TABLE other(x); COMMIT")
            try connection.execute("\(make); COMMIT")
        }
        try expectSound(path, rowCount: 2000)
    }

    @Test func aLargeCopyHasSumsThatFit() throws {
        let temporary = try TemporaryDirectory()
        let (path, copy) = (temporary.path + "/some.db", temporary.path + "/copy.db")
        do {
            let connection = try Connection(path: path, mode: .create)
            try connection.execute("PRAGMA cache_size = 10; PRAGMA journal_mode = WAL")
            try connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b); INSERT INTO t \(Self.rows)")
            #expect(!connection.keepsPageSums)
            try connection.reservePageSums()
            try connection.execute("VACUUM INTO '\(copy)'")
        }
        try expectSound(copy, rowCount: 2000)
    }

    /// A database of which all is in the log, one page to a row.
    private func makeLog(of path: String) throws -> Connection {
        let writer = try Connection(path: path, mode: .create)
        try writer.reservePageSums()
        try writer.execute("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0")
        try writer.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        for number in 0..<40 { try writer.execute("INSERT INTO t VALUES (\(number), randomblob(3000))") }
        return writer
    }

    /// A log in use, of which the index is in memory: its pages are read where they are.
    @Test func aFlippedBitInTheLogIsNoticedAndGetsNoSum() throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path + "/some.db"
        let writer = try makeLog(of: path)
        func read() throws -> [[UInt8]] {
            var rows: [[UInt8]] = []
            let connection = try Connection(path: path, mode: .readWrite)
            try connection.prepare("SELECT b FROM t ORDER BY a").forEach {
                rows.append($0.bytes(0))
                return true
            }
            return rows
        }
        let sound = try read()
        #expect(sound.count == 40)
        let whole = try Data(contentsOf: URL(fileURLWithPath: path + "-wal"))
        let log = try FileHandle(forUpdating: URL(fileURLWithPath: path + "-wal"))
        var generator = Generator(seed: 8)
        var noticed = 0
        for _ in 0..<60 {
            let offset = 32 + generator.next(below: whole.count - 32)
            try log.seek(toOffset: UInt64(offset))
            try log.write(contentsOf: Data([whole[offset] ^ 1 << UInt8(generator.next(below: 8))]))
            do {
                let isSame = try read() == sound
                #expect(isSame, "byte \(offset)")
            } catch let error as SQLiteError {
                noticed += 1
                #expect(error.isCorruption && error.message.contains("in the log"), "\(error)")
            }
            try log.seek(toOffset: UInt64(offset))
            try log.write(contentsOf: Data([whole[offset]]))
        }
        // The others are in pages that were written again since.
        #expect(noticed > 5, "\(noticed)")

        // Without its header nothing in it can be held against anything.
        for offset in [0, 9, 17, 27] {
            try log.seek(toOffset: UInt64(offset))
            try log.write(contentsOf: Data([whole[offset] ^ 16]))
            #expect(throws: SQLiteError.self, "byte \(offset) of the header") { _ = try read() }
            try log.seek(toOffset: UInt64(offset))
            try log.write(contentsOf: Data([whole[offset]]))
        }

        // In the last frame, which is the newest of its page.
        let offset = whole.count - 2000
        try log.seek(toOffset: UInt64(offset))
        try log.write(contentsOf: Data([whole[offset] ^ 16]))
        #expect(throws: SQLiteError.self) { try writer.checkpoint() }
        try log.seek(toOffset: UInt64(offset))
        try log.write(contentsOf: Data([whole[offset]]))
        try log.close()
        #expect(try writer.checkpoint())
        #expect(try read() == sound)
        #expect(try wrongPages(of: path) == [])
    }

    /// The disk has forgotten two writes: what stands there is of an earlier log, and goes on from what is before it.
    @Test func whatIsLeftOfAnEarlierLogIsNotTakenForThisOne() throws {
        let temporary = try TemporaryDirectory()
        let path = temporary.path + "/some.db"
        let writer = try makeLog(of: path)
        func bytes() throws -> Data { try Data(contentsOf: URL(fileURLWithPath: path + "-wal")) }
        func read(_ number: Int, through connection: Connection? = nil) throws -> [UInt8]? {
            let connection = try connection ?? Connection(path: path, mode: .readWrite)
            try connection.execute("PRAGMA shrink_memory")
            return try connection.prepare("SELECT b FROM t WHERE a = \(number)").first { $0.bytes(0) }
        }
        let earlier = try bytes()
        // Those that were open before know the earlier log.
        let others = try (0..<3).map { _ in try Connection(path: path, mode: .readWrite) }
        for other in others { #expect(try read(20, through: other)?.count == 3000) }
        #expect(try writer.checkpoint())
        writer.watchLog()
        for number in 0..<40 {
            try writer.execute("UPDATE t SET b = randomblob(3000) WHERE a = \(number)")
        }
        let present = try bytes()
        try #require(earlier[16..<24] != present[16..<24], "it was begun anew")
        try #require(writer.logFrameCount == 40, "each row is on a page of its own")
        let log = try FileHandle(forUpdating: URL(fileURLWithPath: path + "-wal"))
        let frameByteCount = 24 + pageByteCount
        var noticed = 0
        for (number, other) in zip([10, 20, 30], others) {
            let range = 32 + (number - 1) * frameByteCount..<32 + (number + 1) * frameByteCount
            try log.seek(toOffset: UInt64(range.lowerBound))
            try log.write(contentsOf: earlier[range])
            // Before anything else that it reads there; the page of this row is the second of them.
            #expect(throws: SQLiteError.self, "frame \(number)") { _ = try read(number, through: other) }
            try log.seek(toOffset: UInt64(range.lowerBound))
            try log.write(contentsOf: present[range])
        }
        for number in 1..<40 {
            let sound = try read(number)
            let range = 32 + (number - 1) * frameByteCount..<32 + (number + 1) * frameByteCount
            try log.seek(toOffset: UInt64(range.lowerBound))
            try log.write(contentsOf: earlier[range])
            do {
                let isSame = try read(number) == sound
                #expect(isSame, "frame \(number)")
            } catch let error as SQLiteError {
                noticed += 1
                #expect(error.isCorruption && error.message.contains("in the log"), "\(error)")
            }
            try log.seek(toOffset: UInt64(range.lowerBound))
            try log.write(contentsOf: present[range])
        }
        try log.close()
        #expect(noticed == 39, "\(noticed)")
    }
}

private let pageByteCount = 4096
