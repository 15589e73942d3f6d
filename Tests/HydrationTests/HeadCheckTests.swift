import Catalog
import EngineTestSupport
import Foundation
@testable import Hydration
import SQLite
import Testing
import VolumeFileSystem
import VolumeModel

/// What a check tells of a head that somebody has damaged.
@Suite struct HeadCheckTests {
    private struct Head {
        let temporary: TemporaryDirectory
        let directory: String
        let inode: InodeNumber

        /// A closed head with directories, a large file and small ones, hard links and attributes.
        init() async throws {
            temporary = try TemporaryDirectory()
            directory = try temporary.make("head")
            let volume = try TestVolume.make(in: directory)
            let made = try volume.fileSystem.makeDirectory(
                Array("d".utf8), in: .root, permissions: 0o755, caller: .root)
            inode = try volume.create("large")
            try volume.write(inode, at: 0, [UInt8](repeating: 5, count: 300_000))
            for number in 0..<30 {
                let file = try volume.create("f\(number)", in: made.inode)
                try volume.write(file, at: 0, [UInt8(number)])
            }
            _ = try volume.fileSystem.link(inode, as: Array("second".utf8), in: made.inode)
            try volume.fileSystem.setExtendedAttribute(
                Array("user.a".utf8), of: inode, value: [1], mustCreate: false, mustReplace: false,
                caller: .root)
            try await volume.close()
        }

        func execute(_ sql: String) throws {
            let connection = try Connection(path: directory + "/" + Catalog.fileName, mode: .readWrite)
            try connection.execute(sql)
        }

        func dataFiles() throws -> [String] {
            try FileManager.default.subpathsOfDirectory(atPath: directory + "/data")
                .filter { $0.contains("/") }.sorted().map { directory + "/data/" + $0 }
        }

        func check() throws -> [HeadFinding] { try HeadCheck.run(directory, isInUse: false) }
    }

    @Test func aSoundHeadHasNoFindingsAlsoWhileItIsInUse() async throws {
        let head = try await Head()
        #expect(try head.check() == [])
        let volume = try TestVolume(opening: head.directory)
        #expect(try HeadCheck.run(head.directory, isInUse: true) == [])
        // Names without inodes, or the reverse, must never be seen from beside.
        let changing = Task.detached {
            for round in 0..<400 {
                let file = try volume.create("r\(round)")
                try volume.write(file, at: 0, [1, 2, 3])
                if round % 3 == 0 {
                    try volume.fileSystem.unlink(Array("r\(round)".utf8), in: .root)
                    volume.fileSystem.forget(file, count: 1)
                }
                if round % 20 == 0 { try volume.storage.settle() }
            }
        }
        for _ in 0..<10 {
            let findings = try HeadCheck.run(head.directory, isInUse: true)
            #expect(findings == [], "\(findings)")
        }
        try await changing.value
        // Nothing is repaired that somebody uses.
        // A look from outside would tell of changes on their way as contradictions.
        #expect(throws: CatalogError.self) { try HeadCheck.run(head.directory, isInUse: false) }
        #expect(throws: CatalogError.self) { try HeadCheck.repair(head.directory) }
        try await volume.close()
        #expect(try head.check() == [])
    }

    /// Each damage, and whether it can be repaired.
    @Test(arguments: [
        ("DELETE FROM inode WHERE ino = 7", "names inode 7", HeadFinding.Kind.damage, false),
        ("UPDATE inode SET links = 7 WHERE ino = 3", "7 links", .contradiction, true),
        ("UPDATE inode SET links = 9 WHERE ino = 2", "9 links", .contradiction, true),
        ("DELETE FROM entry WHERE parent = 2 AND name = CAST('f3' AS BLOB)", "no name leads", .damage, false),
        ("UPDATE entry SET kind = 16384 WHERE ino = 7", "another kind", .contradiction, false),
        ("UPDATE entry SET name = x'2e2e' WHERE ino = 7", "no file can have", .damage, false),
        ("UPDATE inode SET parent = 2 WHERE ino = 2", "says that it is in", .contradiction, false),
        ("UPDATE meta SET value = 3 WHERE key = 'inode_count'", "inodes", .contradiction, true),
        ("UPDATE meta SET value = 3 WHERE key = 'byte_count'", "bytes", .contradiction, true),
        ("UPDATE meta SET value = 3 WHERE key = 'allocated_byte_count'", "taken", .contradiction, true),
        ("UPDATE meta SET value = 3 WHERE key = 'next_inode'", "the next", .contradiction, true),
        ("UPDATE meta SET value = 1 WHERE key = 'next_data'", "the next", .contradiction, true),
        ("INSERT INTO resident VALUES (3, 0, 4096)", "beyond", .contradiction, false),
        ("UPDATE inode SET data = 1 WHERE ino = 5", "belongs to 2", .contradiction, false),
        (
            "INSERT INTO xattr(ino, name, died, born, value) VALUES (99, x'41', 0, 1, x'42')",
            "attributes of inode 99", .leftover, true
        ),
        (
            "INSERT INTO inode SELECT 77, 5, 2, mode, links, uid, gid, device, size, blocks, atime, mtime, ctime, "
                + "parent, target, data, backed FROM inode WHERE ino = 3",
            "nobody will ask", .leftover, true
        ),
    ])
    func whatContradictsIsNamedAndRepairedWhereNothingIsLost(
        _ sql: String, _ text: String, _ kind: HeadFinding.Kind, _ isRepairable: Bool
    ) async throws {
        let head = try await Head()
        try head.execute(sql)
        let findings = try head.check()
        let found = findings.filter { $0.kind == kind && $0.text.contains(text) }
        #expect(found.count == 1 && found[0].isRepairable == isRepairable, "\(findings)")
        guard isRepairable else { return }
        #expect(try HeadCheck.repair(head.directory) == [])
        #expect(try head.check() == [])
        let volume = try TestVolume(opening: head.directory)
        #expect(try CatalogImage(volume.storage.catalog).faults() == [])
        #expect(try await volume.read(head.inode, 0..<300_000) == [UInt8](repeating: 5, count: 300_000))
        try await volume.close()
    }

    @Test func aCatalogOfAnEarlierReleaseIsGivenSumsAmongWhatElseIsRepaired() async throws {
        let head = try await Head()
        try head.execute("UPDATE inode SET links = 7 WHERE ino = 3")
        try takePageSums(fromCatalogIn: head.directory)
        let stray = head.directory + "/data/ff/00000000000000ff"
        try FileManager.default.createDirectory(
            atPath: head.directory + "/data/ff", withIntermediateDirectories: true)
        try Data([1]).write(to: URL(fileURLWithPath: stray))
        let findings = try head.check()
        #expect(Set(findings.map(\.kind)) == [.contradiction, .leftover, .weakness], "\(findings)")
        #expect(findings.allSatisfy { $0.isRepairable }, "\(findings)")
        #expect(try HeadCheck.repair(head.directory) == [])
        #expect(try head.check() == [])
        let volume = try TestVolume(opening: head.directory)
        #expect(try CatalogImage(volume.storage.catalog).faults() == [])
        #expect(try await volume.read(head.inode, 0..<300_000) == [UInt8](repeating: 5, count: 300_000))
        // In use it says what it says at rest.
        #expect(try HeadCheck.run(head.directory, isInUse: true) == [])
        try await volume.close()
    }

    @Test func dataFilesAreHeldAgainstTheCatalog() async throws {
        let head = try await Head()
        let files = try head.dataFiles()
        let large = try #require(
            files.max {
                let sizes = [$0, $1].map {
                    (try? FileManager.default.attributesOfItem(atPath: $0)[.size] as? Int) ?? 0
                }
                return sizes[0] < sizes[1]
            })
        #expect(truncate(large, 100_000) == 0)
        let cut = try head.check()
        #expect(
            cut.count == 1 && cut[0].kind == .damage && cut[0].text.contains("bytes [100000, 300000) of"),
            "\(cut)")
        // As long as it was, and most of it a hole.
        #expect(truncate(large, 300_000) == 0)
        let holed = try head.check()
        #expect(holed.count == 1 && holed[0].text.contains("part of it may be lost"), "\(holed)")
        try FileManager.default.removeItem(atPath: large)
        let gone = try head.check()
        #expect(gone.count == 1 && gone[0].text.contains("inode \(head.inode)") && !gone[0].isRepairable)
    }

    @Test func filesThatNothingNamesAreMovedAsideAndNotDeleted() async throws {
        let head = try await Head()
        let stray = head.directory + "/data/ff/00000000000000ff"
        try FileManager.default.createDirectory(
            atPath: head.directory + "/data/ff", withIntermediateDirectories: true)
        try Data([1, 2, 3]).write(to: URL(fileURLWithPath: stray))
        let findings = try head.check()
        #expect(findings.count == 1 && findings[0].kind == .leftover && findings[0].isRepairable)
        #expect(try HeadCheck.repair(head.directory) == [])
        #expect(FileManager.default.contents(atPath: head.directory + "/lost/00000000000000ff")?.count == 3)
        // What is no data file at all is only named.
        try Data([1]).write(to: URL(fileURLWithPath: head.directory + "/data/ff/readme"))
        let other = try HeadCheck.repair(head.directory)
        #expect(other.count == 1 && other[0].text.hasSuffix("ff/readme is none of the volume's files"))
    }

    @Test func damagedPagesAreNamedAndNothingTraps() async throws {
        let head = try await Head()
        let path = head.directory + "/" + Catalog.fileName
        let whole = try Data(contentsOf: URL(fileURLWithPath: path))
        var generator = Generator(seed: 5)
        var named = 0
        for _ in 0..<60 {
            var damaged = whole
            var start = 0
            // Where something is: a small catalog's pages are mostly empty.
            repeat {
                start = 4096 + generator.next(below: whole.count - 4096 - 600)
            } while whole[start..<start + 500].count(where: { $0 != 0 }) < 300
            for index in start..<start + 500 { damaged[index] = UInt8(generator.next(below: 256)) }
            try damaged.write(to: URL(fileURLWithPath: path))
            do {
                if try !head.check().isEmpty { named += 1 }
            } catch is CatalogError {
                named += 1
            }
        }
        // What falls on times or owners alone leaves a catalog that is another one, and as good.
        #expect(named > 40, "\(named)")
    }

    /// What was never synced may go with the power; it is then empty, and stays so after the next start.
    @Test func aLookChangesNothingNotEvenTheLogThatACrashLeft() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        for number in 0..<50 { _ = try volume.create("f\(number)") }
        try volume.storage.catalog.synchronize()
        let after = temporary.path + "/after"
        try TemporaryDirectory.copyHead(from: volume.directory, to: after)
        try await volume.close()
        func contents() throws -> [Data] {
            try ["/catalog.db", "/catalog.db-wal"].map {
                try Data(contentsOf: URL(fileURLWithPath: after + $0))
            }
        }
        let before = try contents()
        try #require(before[1].count > 4096, "the log holds what is not in the database")
        #expect(try HeadCheck.run(after, isInUse: false) == [])
        #expect(try contents() == before)
    }

    @Test func aFileThatAPowerLossTookIsEmptyAndNoError() async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("head")
        let volume = try TestVolume.make(in: directory)
        let file = try volume.create("f")
        try volume.write(file, at: 0, [UInt8](repeating: 9, count: 5000))
        // The names are synced by somebody else's sync, the bytes are not.
        try volume.storage.catalog.synchronize()
        let after = temporary.path + "/after"
        try TemporaryDirectory.copyHead(from: directory, to: after)
        try await volume.close()
        for path in try FileManager.default.subpathsOfDirectory(atPath: after + "/data")
        where path.contains("/") {
            try FileManager.default.removeItem(atPath: after + "/data/" + path)
        }
        for _ in 0..<2 {
            let again = try TestVolume(opening: after)
            try await again.close()
            #expect(try HeadCheck.run(after, isInUse: false) == [])
        }
        let last = try TestVolume(opening: after)
        #expect(try await last.read(file, 0..<5000).isEmpty)
        try await last.close()
    }

    /// Each data file is looked at once after a crash; a head that goes on for months makes any number of others.
    @Test func afterACrashOnlyFilesFromBeforeItAreRemembered() async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("head")
        let volume = try TestVolume.make(in: directory)
        let old = try (0..<10).map { try volume.create("old\($0)") }
        for file in old { try volume.write(file, at: 0, [1, 2, 3]) }
        try volume.storage.catalog.synchronize()
        let after = temporary.path + "/after"
        try TemporaryDirectory.copyHead(from: directory, to: after)
        try await volume.close()
        let again = try TestVolume(opening: after)
        for number in 0..<200 {
            let file = try again.create("new\(number)")
            try again.write(file, at: 0, [4, 5, 6])
            #expect(try await again.read(file, 0..<3) == [4, 5, 6])
        }
        for file in old { #expect(try await again.read(file, 0..<3) == [1, 2, 3]) }
        #expect(again.storage.recoveredFileCount == old.count)
        try await again.close()
        let last = try TestVolume(opening: after)
        #expect(last.storage.recoveredFileCount == 0)
        try await last.close()
    }
}
