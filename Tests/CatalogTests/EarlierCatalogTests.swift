import EngineTestSupport
import Foundation
import SQLite
import Testing
import VolumeModel

@testable import Catalog

/// Catalogs of schema 3, which releases before the sums of pages have made. They stay as they are until a repair gives them sums.
@Suite struct EarlierCatalogTests {
    /// An empty volume's.
    private func make(_ temporary: TemporaryDirectory) throws -> String {
        let directory = try temporary.make("head")
        try Catalog.create(
            in: directory, limits: VolumeLimits(byteCount: 1 << 30), epoch: .first, now: .zero, withRoot: true
        )
        try takePageSums(fromCatalogIn: directory)
        return directory
    }

    private func add(_ numbers: Range<Int>, to catalog: Catalog) throws {
        for number in numbers {
            _ = try catalog.perform { try $0.addFile(Array("file \(number)".utf8)) }
        }
        try catalog.synchronize()
    }

    private func expectEarlier(_ directory: String) throws {
        let path = directory + "/" + Catalog.fileName
        #expect(try Data(contentsOf: URL(fileURLWithPath: path))[20] == 0)
        let connection = try Connection(path: path, mode: .readOnly)
        let version = try connection.prepare("SELECT value FROM meta WHERE key = 'schema_version'")
        #expect(try version.first { $0.integer(0) } == CatalogSchema.versionWithoutSums)
    }

    /// Whatever is in its log, and whatever of that has been moved, by the release that was cut off.
    @Test func oneThatWasCutOffLosesNothingAndCanBeGoneBackFrom() throws {
        let temporary = try TemporaryDirectory()
        let directory = try make(temporary)
        try expectEarlier(directory)
        var states: [(directory: String, image: CatalogImage)] = []
        do {
            let catalog = try Catalog(opening: directory)
            defer { catalog.abandon() }
            func cutOff() throws {
                let copy = temporary.path + "/cut \(states.count)"
                try TemporaryDirectory.copyHead(from: directory, to: copy)
                states.append((copy, try CatalogImage(catalog)))
            }
            try add(0..<150, to: catalog)
            try cutOff()
            try catalog.checkpoint()
            try cutOff()
            try add(150..<200, to: catalog)
            try cutOff()
        }
        for (copy, image) in states {
            #expect(try CatalogCheck(of: copy).findings.map(\.kind) == [.weakness], "\(copy)")
            let catalog = try Catalog(opening: copy)
            #expect(!catalog.wasClosedCleanly)
            #expect(try CatalogImage(catalog) == image, "\(copy)")
            // In use it goes on as it was: an earlier release can take it back at any time.
            try add(200..<260, to: catalog)
            try catalog.checkpoint()
            let later = try CatalogImage(catalog)
            try catalog.close()
            try expectEarlier(copy)
            let again = try Catalog(opening: copy)
            #expect(again.wasClosedCleanly)
            #expect(try CatalogImage(again) == later, "\(copy)")
            try again.close()
        }
    }

    /// A copy of one has sums. What is left of a copy that was cut off before that is settled is not taken for a catalog.
    @Test func aCopyThatWasCutOffIsNoCatalog() throws {
        let temporary = try TemporaryDirectory()
        let directory = try make(temporary)
        let catalog = try Catalog(opening: directory)
        try add(0..<150, to: catalog)
        let copy = try temporary.make("copy")
        do {
            let reader = try catalog.connectAgain()
            try reader.reservePageSums()
            try reader.execute("VACUUM INTO '\(copy)/\(Catalog.fileName)'")
        }
        #expect(throws: CatalogError.self) { _ = try Catalog(opening: copy) }
        // The one that it was made of is as it was.
        let image = try CatalogImage(catalog)
        try catalog.close()
        try expectEarlier(directory)
        let again = try Catalog(opening: directory)
        #expect(try CatalogImage(again) == image)
        try again.close()
    }

    // MARK: the repair

    /// A catalog with something in each table, at rest.
    private func makeFull(_ temporary: TemporaryDirectory) throws -> (directory: String, image: CatalogImage)
    {
        let directory = try make(temporary)
        let catalog = try Catalog(opening: directory)
        try add(0..<300, to: catalog)
        for number in 0..<50 as Range<UInt64> {
            try catalog.perform {
                try $0.setExtendedAttribute(
                    Array("user.a".utf8), of: InodeNumber(2 + number),
                    value: [UInt8](repeating: 7, count: Int(number) * 200))
            }
        }
        let image = try CatalogImage(catalog)
        try catalog.close()
        try changeRows(
            ofCatalogIn: directory,
            """
            INSERT INTO pin VALUES ('sydney', 2, 5);
            INSERT INTO inode SELECT 290, 4, 2, mode, links, uid, gid, device, size, blocks, atime, mtime, ctime, parent,
                target, data, backed FROM inode WHERE ino = 3;
            INSERT INTO xattr(ino, name, died, born, value) VALUES (290, x'41', 4, 2, x'42');
            INSERT INTO entry VALUES (1, 9000, x'41', 290, 32768, 2, 4);
            INSERT INTO changed VALUES (5, 4096, 12, x'0102');
            INSERT INTO gone VALUES (9001);
            INSERT INTO garbage VALUES (9002);
            UPDATE meta SET value = 9003 WHERE key = 'next_cookie';
            UPDATE inode SET backed = 5000, size = 5000 WHERE ino = 6;
            INSERT INTO resident VALUES (6, 0, 5000);
            UPDATE meta SET value = 5000 WHERE key = 'byte_count';
            \(EarlierReign.makeTables)
            INSERT INTO earlier_reign VALUES (1, 7, 20, 64);
            INSERT INTO earlier_change VALUES (5, 1, 4096, 12, x'03');
            INSERT INTO earlier_name VALUES (1, x'0102030405060708090a0b0c0d0e0f10');
            INSERT INTO earlier_keeper VALUES (1, 'sydney')
            """)
        return (directory, image)
    }

    private func names(in directory: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: directory).sorted()
    }

    @Test func aRepairGivesItSumsAndChangesNothingElse() throws {
        let temporary = try TemporaryDirectory()
        let directory = try makeFull(temporary).directory
        let before = try rows(ofCatalogIn: directory)
        for table in ["pin", "changed", "gone", "garbage", "resident", "earlier_reign", "earlier_keeper"] {
            #expect(before.contains { $0.hasPrefix("\(table) ") }, "\(table)")
        }
        let found = try CatalogCheck(of: directory).findings
        #expect(found.map(\.kind) == [.weakness] && found.allSatisfy(\.isRepairable), "\(found)")
        // What a repair before it has left is none of its own.
        for name in ["catalog.db-new", "catalog.db-new-wal", "catalog.db-new-journal"] {
            try Data(repeating: 1, count: 5000).write(to: URL(fileURLWithPath: directory + "/" + name))
        }

        try CatalogCheck.givePageSums(directory)
        #expect(try rows(ofCatalogIn: directory) == before)
        #expect(try CatalogCheck(of: directory).findings == [])
        #expect(try names(in: directory).filter { !$0.hasPrefix("catalog.db-") } == ["catalog.db", "lock"])
        let path = directory + "/" + Catalog.fileName
        let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
        #expect(mode == 0o600)
        let given = try Data(contentsOf: URL(fileURLWithPath: path))
        #expect(given[20] == 8)
        // There is nothing left to do.
        try CatalogCheck.givePageSums(directory)
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == given)

        var generator = Generator(seed: 5)
        for _ in 0..<30 {
            var bytes = given
            bytes[generator.next(below: bytes.count)] ^= 1 << UInt8(generator.next(below: 8))
            let damaged = temporary.path + "/damaged"
            try? FileManager.default.removeItem(atPath: damaged)
            try FileManager.default.createDirectory(atPath: damaged, withIntermediateDirectories: true)
            try bytes.write(to: URL(fileURLWithPath: damaged + "/" + Catalog.fileName))
            if (try? CatalogCheck(of: damaged).findings.isEmpty) != true { continue }
            // A page that nothing stands on is not read.
            #expect(try rows(ofCatalogIn: damaged) == before)
        }
    }

    /// What is only in its log comes along, and no log is left that would be taken for the new file's.
    @Test func aRepairOfOneThatWasCutOffLosesNothing() throws {
        let temporary = try TemporaryDirectory()
        let directory = try make(temporary)
        let catalog = try Catalog(opening: directory)
        defer { catalog.abandon() }
        try add(0..<100, to: catalog)
        try catalog.checkpoint()
        try add(100..<200, to: catalog)
        let copy = temporary.path + "/copy"
        try TemporaryDirectory.copyHead(from: directory, to: copy)
        let image = try CatalogImage(catalog)
        let before = try rows(ofCatalogIn: copy)
        try CatalogCheck.givePageSums(copy)
        #expect(try names(in: copy) == ["catalog.db", "lock"])
        #expect(try rows(ofCatalogIn: copy) == before)
        let given = try Catalog(opening: copy)
        #expect(!given.wasClosedCleanly)
        #expect(try CatalogImage(given) == image)
        try given.close()
        #expect(try CatalogCheck(of: copy).findings == [])
    }

    @Test func oneThatIsInUseIsNotRepaired() throws {
        let temporary = try TemporaryDirectory()
        let (directory, image) = try makeFull(temporary)
        let catalog = try Catalog(opening: directory)
        let found = try CatalogCheck(of: directory).findings
        #expect(found.map(\.kind) == [.weakness] && found.allSatisfy(\.isRepairable), "\(found)")
        #expect(throws: CatalogError.self) { try CatalogCheck.givePageSums(directory) }
        #expect(try CatalogImage(catalog).nodes.keys == image.nodes.keys)
        try catalog.close()
        try expectEarlier(directory)
    }

    /// Whatever it is: the file may be what a person finds the rest in.
    @Test func oneThatSomethingElseIsWrongWithIsNotRepaired() throws {
        let temporary = try TemporaryDirectory()
        let directory = try makeFull(temporary).directory
        try changeRows(ofCatalogIn: directory, "UPDATE entry SET kind = 16384 WHERE ino = 7")
        let found = try CatalogCheck(of: directory).findings
        #expect(
            found.count > 1 && found.last?.kind == .weakness && found.last?.isRepairable == false, "\(found)")
        let path = directory + "/" + Catalog.fileName
        let before = try Data(contentsOf: URL(fileURLWithPath: path))
        try CatalogCheck.givePageSums(directory)
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == before)
        #expect(access(path + "-new", F_OK) != 0)
    }
}
