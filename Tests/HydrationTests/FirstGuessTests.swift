import Catalog
import EngineTestSupport
import Foundation
@testable import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

@Suite struct FirstGuessTests {
    /// A volume with these files below directories that are made for them, and its heir, which has no bytes.
    static func heir(
        of files: [(path: String, bytes: [UInt8])], in temporary: TemporaryDirectory,
        table: PrefetchTable = .standard, namesArrive: Bool = false
    ) async throws -> (heir: TestVolume, source: FakeSource, inodes: [String: InodeNumber]) {
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        var inodes: [String: InodeNumber] = [:]
        var directories: [String: InodeNumber] = ["": .root]
        for (path, bytes) in files {
            var parent = ""
            for part in path.split(separator: "/").dropLast() {
                let next = parent + "/" + part
                if directories[next] == nil {
                    directories[next] =
                        try owner.fileSystem.makeDirectory(
                            Array(part.utf8), in: directories[parent] ?? .root, permissions: 0o755,
                            caller: .root
                        ).inode
                }
                parent = next
            }
            let name = String(path.split(separator: "/").last ?? "")
            let inode = try owner.create(name, in: directories[parent] ?? .root)
            try owner.write(inode, at: 0, bytes)
            inodes[path] = inode
        }
        try owner.storage.settle()
        let contents = Dictionary(
            uniqueKeysWithValues: files.map { (inodes[$0.path] ?? .root, $0.bytes) })
        let source = FakeSource({ contents[$0] })
        let directory = try temporary.make("heir")
        if namesArrive {
            source.set { [catalog = owner.storage.catalog] state in
                state.catalog = catalog
                state.listingByteCount = 100
                state.delay = .milliseconds(10)
            }
            try TestVolume.makeArrivingHeir(of: owner.storage.catalog, in: directory, byteCount: 100)
        } else {
            try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
        }
        var configuration = Hydrator.Configuration()
        configuration.firstGuesses = table
        let heir = try TestVolume(
            opening: directory, source: source, configuration: configuration)
        if !namesArrive { try await owner.close() }
        return (heir, source, inodes)
    }

    private static let large = [UInt8](repeating: 7, count: 900_000)

    @Test func aPostgreSQLIsFoundByItsNamesAndWhatItReadsComesFirst() async throws {
        let temporary = try TemporaryDirectory()
        let (heir, source, inodes) = try await Self.heir(
            of: [
                ("a/large", Self.large), ("pg/base/16384/20000", Self.large),
                ("pg/base/16384/1259", Self.large), ("pg/base/16384/pg_filenode.map", [1]),
                ("pg/global/pg_control", [2]), ("pg/global/1262", [3]), ("pg/PG_VERSION", [4]),
                // A directory of the right name without the marker in it is none.
                ("other/base/16384/1259", [5]),
            ], in: temporary)
        let guess = try await heir.hydrator?.firstGuess()
        #expect(
            guess == [
                Extent(inode: inodes["pg/PG_VERSION", default: .root], range: ByteRange(0, 1)),
                Extent(inode: inodes["pg/global/pg_control", default: .root], range: ByteRange(0, 1)),
                Extent(inode: inodes["pg/global/1262", default: .root], range: ByteRange(0, 1)),
                Extent(
                    inode: inodes["pg/base/16384/pg_filenode.map", default: .root], range: ByteRange(0, 1)),
                Extent(inode: inodes["pg/base/16384/1259", default: .root], range: ByteRange(0, 512 << 10)),
            ])
        heir.startHydration()
        try await heir.waitForHydration()
        let order = source.requests.flatMap { $0.extents.map(\.inode) }
        let first = order.firstIndex(of: inodes["pg/global/pg_control", default: .root]) ?? .max
        let rest = order.firstIndex(of: inodes["a/large", default: .root]) ?? -1
        #expect(first < rest, "\(order)")
        try await heir.close()
    }

    /// A guess needs names, and bytes wait until these have come.
    @Test func whatIsGuessedComesFirstAlsoWhereNamesAreStillArriving() async throws {
        let temporary = try TemporaryDirectory()
        let many = (0..<200).map { ("a/\($0)", [UInt8](repeating: 1, count: 100)) }
        let (heir, source, inodes) = try await Self.heir(
            of: many + [
                ("a/large", Self.large), ("pg/global/pg_control", [2]), ("pg/global/1262", [3]),
                ("pg/PG_VERSION", [4]), ("pg/base/16384/1259", [5]),
            ], in: temporary, namesArrive: true)
        #expect(heir.storage.catalog.isArriving)
        heir.startHydration()
        try await heir.waitForHydration()
        let order = source.requests.flatMap { $0.extents.map(\.inode) }
        let first = order.firstIndex(of: inodes["pg/global/pg_control", default: .root]) ?? .max
        let rest = order.firstIndex { number in many.contains { inodes[$0.0] == number } } ?? -1
        #expect(first < rest, "\(order)")
        try await heir.close()
    }

    @Test func aFileThatOnlyLooksLikeADatabaseIsNone() async throws {
        let temporary = try TemporaryDirectory()
        let (heir, _, inodes) = try await Self.heir(
            of: [
                ("real.db", Array("SQLite format 3\0".utf8) + Self.large), ("real.db-wal", [1, 2]),
                ("fake.db", Self.large), ("empty.db", []), ("fake.db-wal", [3]),
            ], in: temporary)
        let guess = try await heir.hydrator?.firstGuess()
        #expect(
            guess?.map(\.inode) == [inodes["real.db", default: .root], inodes["real.db-wal", default: .root]])
        try await heir.close()
    }

    @Test func theNewestAreFoundAndTheLastBytes() async throws {
        let temporary = try TemporaryDirectory()
        let table = try PrefetchTable(
            """
            thing   # a comment
                marker a/mark*
                log/*   last 4   newest 1
                none/*  all
            """)
        let (heir, _, inodes) = try await Self.heir(
            of: [("x/a/marker", [1]), ("x/log/2", [1, 2, 3, 4, 5, 6]), ("x/log/1", [1, 2, 3, 4, 5, 6])],
            in: temporary, table: table)
        let guess = try await heir.hydrator?.firstGuess()
        #expect(guess == [Extent(inode: inodes["x/log/1", default: .root], range: ByteRange(2, 6))])
        try await heir.close()
    }

    @Test(arguments: [
        ("  marker a", 1), ("a b\n marker x\n y all", 1), ("a\n marker ../x\n y all", 2), ("a\n y all", 0),
        ("a\n marker x\n y", 3), ("a\n marker x\n y first", 3), ("a\n marker x\n y first 0", 3),
        ("a\n marker x\n y all newest 0", 3), ("a\n marker x\n y some", 3), ("a\n marker x\n /y all", 3),
        ("a\n marker x\n y all\na\n marker x\n y all", 4), ("a\n marker x\n y first 99999999999999Gi", 3),
    ])
    func aTableThatMeansNothingIsRefusedWithItsLine(_ text: String, _ line: Int) {
        let error = #expect(throws: PrefetchTable.Failure.self) { try PrefetchTable(text) }
        #expect(error?.line == line)
    }

    @Test func aTableMayHaveLinesThatEndAsOnWindows() throws {
        let text =
            "# mine\nthing  # yes\n  marker a *.b\n  magic x y\n  . all # all\n  .-wal last 8Ki newest 2\n"
        let table = try PrefetchTable(text)
        #expect(table.applications.count == 1)
        #expect(try PrefetchTable(text.replacing("\n", with: "\r\n")) == table)
    }

    @Test func aUsersTableComesBeforeOursAndReplacesTheSameName() throws {
        let own = try PrefetchTable("redis\n marker mine\n mine all")
        let both = PrefetchTable.standard.extended(by: own)
        #expect(both.applications.count == PrefetchTable.standard.applications.count)
        #expect(both.applications.first?.markers == [["mine"]])
    }
}
