import Catalog
import EngineTestSupport
import Foundation
import Hydration
import SQLite
import Testing
import VolumeFileSystem
import VolumeModel

/// A volume's files as a bad disk or another program may leave them. Opening refuses, names the file and changes
/// nothing; or it opens, and whatever is then asked gives an answer or an error. Nothing traps or goes on for ever.
@Suite(.serialized, .timeLimit(.minutes(20))) struct CatalogDamageTests {
    private static let rounds = 50 * Mutator.factor
    private static let files = [Catalog.fileName, Catalog.fileName + "-wal"]

    // MARK: sound heads

    private enum Kind: CaseIterable {
        /// Closed in order: everything is in the database.
        case closed
        /// Cut off: most of it is in the log only.
        case cutOff
        /// Its bytes are elsewhere.
        case heir
    }

    private static func make(_ kind: Kind, in temporary: TemporaryDirectory) async throws -> String {
        let directory = try temporary.make("sound")
        let volume = try TestVolume.make(in: directory)
        try fill(volume)
        // A follower: what dies from now on is kept for it.
        _ = try await volume.storage.catalog.sendChanges(to: "tokyo", since: nil) { _ in }
        for number in 0..<20 { try volume.fileSystem.unlink(Array("file \(number)".utf8), in: .root) }
        try volume.storage.catalog.synchronize()
        switch kind {
        case .closed:
            try await volume.close()
            return directory
        case .cutOff:
            let copy = temporary.path + "/cut"
            try TemporaryDirectory.copyHead(from: directory, to: copy)
            try await volume.close()
            return copy
        case .heir:
            let heir = try temporary.make("heir")
            try await TestVolume.makeHeir(of: volume.storage.catalog, in: heir)
            try await volume.close()
            return heir
        }
    }

    private static func fill(_ volume: TestVolume) throws {
        let files = volume.fileSystem
        var generator = Generator(seed: 3)
        for number in 0..<300 {
            let inode = try volume.create("file \(number)")
            if number % 30 == 0 { try volume.write(inode, at: number * 100, generator.bytes(5000)) }
            if number % 7 == 0 {
                try files.setExtendedAttribute(
                    Array("user.note".utf8), of: inode, value: generator.bytes(number), mustCreate: false,
                    mustReplace: false, caller: .root)
            }
        }
        var parent = InodeNumber.root
        for name in ["a", "b", "c"] {
            parent = try files.makeDirectory(
                Array(name.utf8), in: parent, permissions: 0o755, caller: .root
            ).inode
            _ = try files.makeSymbolicLink(
                Array("link".utf8), in: parent, target: Array("../there".utf8), caller: .root)
        }
    }

    // MARK: damage to bytes

    private static func damage(
        _ bytes: inout [UInt8], _ mutator: inout Mutator
    ) {
        let pageSize = 4096
        let pageCount = bytes.count / pageSize
        guard pageCount > 1 else { return }
        func page(_ number: Int) -> Range<Int> { number * pageSize..<(number + 1) * pageSize }
        let one = mutator.generator.next(below: pageCount)
        let other = mutator.generator.next(below: pageCount)
        switch mutator.generator.next(below: 8) {
        case 0, 1:
            for _ in 0...mutator.generator.next(below: 5) {
                bytes[mutator.generator.next(below: bytes.count)] ^=
                    1 << UInt8(mutator.generator.next(below: 8))
            }
        case 2:
            // The beginning of a page says where everything in it is.
            for _ in 0...mutator.generator.next(below: 3) {
                bytes[page(one).lowerBound + mutator.generator.next(below: 64)] = UInt8(
                    truncatingIfNeeded: mutator.generator.next())
            }
        case 3: bytes.replaceSubrange(page(one), with: [UInt8](repeating: 0, count: pageSize))
        case 4: bytes.removeSubrange(mutator.generator.next(below: bytes.count)...)
        case 5: bytes.removeSubrange((one * pageSize)...)
        case 6:
            let (first, second) = (Array(bytes[page(one)]), Array(bytes[page(other)]))
            bytes.replaceSubrange(page(one), with: second)
            bytes.replaceSubrange(page(other), with: first)
        default: bytes.replaceSubrange(page(one), with: mutator.generator.bytes(pageSize))
        }
    }

    @Test func aHeadWithDamagedPagesIsRefusedOrReadWithErrors() async throws {
        var mutator = Mutator(41)
        var outcomes = Outcomes()
        for kind in Kind.allCases {
            let temporary = try TemporaryDirectory()
            let sound = try await Self.make(kind, in: temporary)
            for round in 0..<Self.rounds {
                let copy = try temporary.make("copy")
                try FileManager.default.removeItem(atPath: copy)
                try TemporaryDirectory.copyHead(from: sound, to: copy)
                for _ in 0...mutator.generator.next(below: 2) {
                    let name = copy + "/" + (mutator.generator.element(of: Self.files) ?? "")
                    guard var bytes = Self.bytes(name) else { continue }
                    Self.damage(&bytes, &mutator)
                    // Else the sums would keep nearly all of it from whoever reads rows.
                    if name.hasSuffix(Catalog.fileName), round % 4 > 0 { putPageSums(into: &bytes) }
                    try Data(bytes).write(to: URL(fileURLWithPath: name))
                }
                await Self.use(copy, &mutator, "\(kind), round \(round)", &outcomes)
            }
        }
        #expect(outcomes.refused > 0 && outcomes.opened > 0 && outcomes.found > 0, "\(outcomes)")
    }

    /// The log holds nothing, and each page has a sum: whatever is read is what was written.
    @Test func ofACatalogAtRestWithDamagedPagesNothingElseIsRead() async throws {
        var mutator = Mutator(43)
        let temporary = try TemporaryDirectory()
        let sound = try await Self.make(.closed, in: temporary)
        func image(_ directory: String) throws -> CatalogImage {
            let catalog = try Catalog(opening: directory)
            defer { catalog.abandon() }
            return try CatalogImage(catalog)
        }
        func copy() throws -> String {
            let copy = temporary.path + "/copy"
            try? FileManager.default.removeItem(atPath: copy)
            try TemporaryDirectory.copyHead(from: sound, to: copy)
            return copy
        }
        let expected = try image(try copy())
        var refused = 0
        for round in 0..<2 * Self.rounds {
            let directory = try copy()
            let path = directory + "/" + Catalog.fileName
            var bytes = try #require(Self.bytes(path))
            Self.damage(&bytes, &mutator)
            try Data(bytes).write(to: URL(fileURLWithPath: path))
            let isFound = (try? HeadCheck.run(directory, isInUse: false).isEmpty) != true
            if let found = try? image(directory) {
                let isSame = found == expected
                #expect(isSame, "round \(round): something else was read")
            } else {
                refused += 1
                #expect(isFound, "round \(round): a check finds nothing")
            }
        }
        #expect(refused > Self.rounds, "\(refused)")
    }

    // MARK: damage to rows

    private static let columns: [(table: String, columns: [String])] = [
        ("meta", ["key", "value"]),
        (
            "inode",
            [
                "ino", "died", "born", "mode", "links", "size", "blocks", "atime", "parent", "target", "data",
                "backed", "device",
            ]
        ), ("entry", ["parent", "cookie", "name", "ino", "kind", "born", "died"]),
        ("xattr", ["ino", "name", "died", "born", "value"]), ("garbage", ["data"]),
        ("pin", ["name", "acknowledged", "newest"]),
    ]
    private static let values = [
        "0", "1", "2", "3", "-1", "9223372036854775807", "-9223372036854775808", "4611686018427387904",
        "4294967296", "16384", "32768", "NULL", "1e300", "'text'", "x'00ff2f'", "zeroblob(300)",
    ]

    @Test func aHeadWithDamagedRowsIsRefusedOrReadWithErrors() async throws {
        var mutator = Mutator(42)
        var outcomes = Outcomes()
        for kind in Kind.allCases {
            let temporary = try TemporaryDirectory()
            let sound = try await Self.make(kind, in: temporary)
            for round in 0..<Self.rounds {
                let copy = try temporary.make("copy")
                try FileManager.default.removeItem(atPath: copy)
                try TemporaryDirectory.copyHead(from: sound, to: copy)
                var statements: [String] = []
                for _ in 0...mutator.generator.next(below: 4) {
                    statements.append(Self.damagingStatement(&mutator))
                }
                do {
                    let connection = try Connection(path: copy + "/" + Catalog.fileName, mode: .readWrite)
                    // What a constraint forbids is left out.
                    for statement in statements { try? connection.execute(statement) }
                }
                await Self.use(copy, &mutator, "\(kind), round \(round): \(statements)", &outcomes)
            }
        }
        #expect(outcomes.refused > 0 && outcomes.opened > 0 && outcomes.found > 0, "\(outcomes)")
    }

    private static func damagingStatement(_ mutator: inout Mutator) -> String {
        let (table, columns) = columns[mutator.generator.next(below: columns.count)]
        let column = mutator.generator.element(of: columns) ?? ""
        let value = mutator.generator.element(of: values) ?? ""
        let key = columns[0]
        let row =
            "\(key) = (SELECT \(key) FROM \(table) LIMIT 1 OFFSET \(mutator.generator.next(below: 300)))"
        return switch mutator.generator.next(below: 6) {
        case 0: "DELETE FROM \(table) WHERE \(row)"
        case 1: "UPDATE OR REPLACE \(table) SET \(column) = \(value)"
        case 2: "UPDATE OR REPLACE \(table) SET \(column) = \(value) WHERE \(key) IN (1, 'sequence')"
        default: "UPDATE OR REPLACE \(table) SET \(column) = \(value) WHERE \(row)"
        }
    }

    // MARK: found once

    /// SQLite takes an empty file for a new database, and deletes the log beside it.
    @Test func aCatalogThatWasCutToNothingIsRefusedAndKeepsItsLog() async throws {
        let temporary = try TemporaryDirectory()
        let head = try await Self.make(.cutOff, in: temporary)
        try Data().write(to: URL(fileURLWithPath: head + "/" + Catalog.fileName))
        let before = Self.contents(head)
        #expect(before[1].count > 100_000)
        #expect(throws: CatalogError.self) { _ = try HeadCheck.run(head, isInUse: false) }
        #expect(throws: CatalogError.self) { _ = try HeadCheck.repair(head) }
        #expect(throws: CatalogError.self) { _ = try HeadStorage(opening: head) }
        let isSame = Self.contents(head) == before
        #expect(isSame)
    }

    /// The last one to close a database moves its log into it.
    @Test func aCatalogOfANewerReleaseIsRefusedWithItsLogUntouched() async throws {
        let temporary = try TemporaryDirectory()
        let head = try temporary.make("head")
        let copy = temporary.path + "/copy"
        let volume = try TestVolume.make(in: head)
        do {
            let connection = try Connection(path: head + "/" + Catalog.fileName, mode: .readWrite)
            try connection.execute("UPDATE meta SET value = 1000 WHERE key = 'schema_version'")
            try TemporaryDirectory.copyHead(from: head, to: copy)
        }
        volume.storage.catalog.abandon()
        let before = Self.contents(copy)
        do {
            _ = try HeadStorage(opening: copy)
            Issue.record("it was opened")
        } catch {
            #expect("\(error)".contains("schema version 1000"), "\(error)")
        }
        let isSame = Self.contents(copy) == before
        #expect(isSame)
    }

    /// Numbers that would trap when the next one is taken.
    @Test(arguments: ["sequence", "next_inode", "next_cookie", "next_data", "durable_data", "capacity"])
    func countersThatCannotBeCountedOnFromAreRefused(_ key: String) async throws {
        let temporary = try TemporaryDirectory()
        let head = try await Self.make(.closed, in: temporary)
        for value in ["9223372036854775807", "-1", "4611686018427387904"] {
            do {
                let connection = try Connection(path: head + "/" + Catalog.fileName, mode: .readWrite)
                try connection.execute("INSERT OR REPLACE INTO meta VALUES ('\(key)', \(value))")
            }
            do {
                _ = try HeadStorage(opening: head)
                Issue.record("\(key) = \(value): it was opened")
            } catch {
                #expect("\(error)".contains("counters"), "\(key) = \(value): \(error)")
            }
        }
    }

    @Test func sumsThatAreWrongAndARepairOfTheHighestNumbersDoNotTrap() async throws {
        let temporary = try TemporaryDirectory()
        let head = try await Self.make(.closed, in: temporary)
        do {
            let connection = try Connection(path: head + "/" + Catalog.fileName, mode: .readWrite)
            for key in ["inode_count", "byte_count", "allocated_byte_count", "missing_byte_count"] {
                try connection.execute("INSERT OR REPLACE INTO meta VALUES ('\(key)', -1)")
            }
            try connection.execute("UPDATE inode SET ino = 9223372036854775807 WHERE ino = 50")
            try connection.execute("UPDATE inode SET links = 4294967295 WHERE ino = 1")
        }
        let volume = try TestVolume(opening: head)
        for number in 0..<5 {
            _ = try? volume.create("new \(number)")
            _ = try? volume.fileSystem.makeDirectory(
                Array("directory \(number)".utf8), in: .root, permissions: 0o755, caller: .root)
        }
        try? await volume.close()
        volume.storage.catalog.abandon()
        #expect(try !HeadCheck.run(head, isInUse: false).isEmpty)
        _ = try HeadCheck.repair(head)
        try await TestVolume(opening: head).close()
    }

    @Test func aListOfDeletedFilesThatCannotBeEmptiedEndsInAnError() async throws {
        let temporary = try TemporaryDirectory()
        let head = try await Self.make(.closed, in: temporary)
        let path = head + "/" + Catalog.fileName
        let root: Int
        do {
            let connection = try Connection(path: path, mode: .readWrite)
            try connection.execute(
                """
                WITH RECURSIVE number(n) AS (SELECT 1000 UNION ALL SELECT n + 1 FROM number WHERE n < 4000)
                INSERT INTO garbage SELECT n FROM number
                """)
            try connection.checkpoint(empties: true)
            let found = try connection.prepare("SELECT rootpage FROM sqlite_master WHERE name = 'garbage'")
                .first { Int($0.integer(0)) }
            root = (try #require(found) - 1) * 4096
        }
        var bytes = try #require(Self.bytes(path))
        try #require(bytes[root] == 5, "the root of a table of several pages")
        // Two pages of the table change places: the rows in both are found, and cannot be found by their numbers.
        let cells = [0, 1].map {
            root + (Int(bytes[root + 12 + 2 * $0]) << 8 | Int(bytes[root + 13 + 2 * $0]))
        }
        for offset in 0..<4 { bytes.swapAt(cells[0] + offset, cells[1] + offset) }
        putPageSums(into: &bytes)
        try Data(bytes).write(to: URL(fileURLWithPath: path))
        let storage = try HeadStorage(opening: head)
        #expect(throws: (any Error).self) { try storage.settle() }
        storage.catalog.abandon()
    }

    // MARK: use

    private static func bytes(_ path: String) -> [UInt8]? {
        FileManager.default.contents(atPath: path).map(Array.init)
    }

    /// The files of a catalog; a log that is not there is an empty one.
    private static func contents(_ directory: String) -> [[UInt8]] {
        files.map { bytes(directory + "/" + $0) ?? [] }
    }

    private struct Outcomes {
        var refused = 0
        var opened = 0
        /// Those of which a check told something.
        var found = 0
    }

    /// Checks a head, opens it, asks and changes what an application might, and repairs it.
    private static func use(
        _ directory: String, _ mutator: inout Mutator, _ what: String, _ outcomes: inout Outcomes
    ) async {
        let before = contents(directory)
        if (try? HeadCheck.run(directory, isInUse: false).isEmpty) != true { outcomes.found += 1 }
        let isSame = contents(directory) == before
        #expect(isSame, "\(what): a check has changed it")
        let volume: TestVolume
        do {
            volume = try TestVolume(opening: directory)
        } catch {
            outcomes.refused += 1
            #expect("\(error)".contains(directory), "\(what): \(error) does not name the file")
            let isSame = contents(directory) == before
            #expect(isSame, "\(what): refused (\(error)), but changed")
            return
        }
        outcomes.opened += 1
        ask(volume)
        change(volume, &mutator)
        await volume.stopHydration()
        try? volume.fileSystem.finish()
        try? volume.storage.close()
        volume.storage.catalog.abandon()
        _ = try? HeadCheck.run(directory, isInUse: false)
        if mutator.generator.next(below: 4) == 0 {
            _ = try? HeadCheck.repair(directory)
            if let again = try? TestVolume(opening: directory) {
                ask(again)
                try? again.storage.close()
                again.storage.catalog.abandon()
            }
        }
    }

    private static func ask(_ volume: TestVolume) {
        let files = volume.fileSystem
        var waiting = [InodeNumber.root]
        var seen: Set<InodeNumber> = []
        while let inode = waiting.popLast(), seen.count < 1000 {
            guard seen.insert(inode).inserted else { continue }
            let entries =
                (try? volume.storage.catalog.perform { try $0.entries(of: inode, after: 0, limit: 500) })
            for entry in entries ?? [] {
                _ = try? files.lookup(entry.name, in: inode)
                if entry.kind == .directory { waiting.append(entry.inode) }
                guard let attributes = try? files.attributes(of: entry.inode) else { continue }
                for name in (try? files.extendedAttributeNames(of: entry.inode)) ?? [] {
                    _ = try? files.extendedAttribute(name, of: entry.inode)
                }
                switch attributes.kind {
                case .symbolicLink: _ = try? files.readSymbolicLink(entry.inode)
                case .regular: read(entry.inode, attributes.size, volume)
                default: _ = try? files.parent(ofDirectory: entry.inode)
                }
            }
        }
        _ = try? files.statistics()
        _ = volume.storage.catalog.path(of: InodeNumber(50))
        _ = try? CatalogImage(volume.storage.catalog)
    }

    private static func read(_ inode: InodeNumber, _ size: UInt64, _ volume: TestVolume) {
        guard let handle = try? volume.fileSystem.open(inode, openFlags: 0) else { return }
        for offset in [0, size / 2, size] {
            _ = withUnsafeTemporaryAllocation(byteCount: 8192, alignment: 8) { buffer in
                try? volume.fileSystem.read(inode, handle: handle, offset: offset, into: buffer)
            }
        }
        volume.fileSystem.release(inode, handle: handle)
    }

    private static func change(_ volume: TestVolume, _ mutator: inout Mutator) {
        let files = volume.fileSystem
        for _ in 0..<12 {
            let name = Array("file \(mutator.generator.next(below: 300))".utf8)
            let inode = (try? files.lookup(name, in: .root))?.inode ?? InodeNumber(5)
            switch mutator.generator.next(below: 8) {
            case 0: try? files.unlink(name, in: .root)
            case 1:
                try? files.rename(
                    name, in: .root, to: Array("file 7".utf8), in: .root, rule: .replace)
            case 2: _ = try? volume.write(inode, at: mutator.generator.next(below: 100_000), [1, 2, 3])
            case 3: try? volume.truncate(inode, to: mutator.generator.next(below: 100_000))
            case 4:
                _ = try? files.makeDirectory(
                    Array("new \(mutator.generator.next(below: 99))".utf8), in: .root, permissions: 0o755,
                    caller: .root)
            case 5: _ = try? volume.create("new file \(mutator.generator.next(below: 99))")
            case 6:
                // Out of a directory and into one below it.
                try? files.rename(
                    Array("a".utf8), in: .root, to: Array("d".utf8),
                    in: (try? files.lookup(Array("a".utf8), in: .root))?.inode ?? .root,
                    rule: .replace)
            default: try? volume.synchronize(inode)
            }
        }
        try? volume.storage.settle()
    }
}
