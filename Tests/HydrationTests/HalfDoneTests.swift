import EngineTestSupport
import Foundation
import Hydration
import SQLite
import Testing
import VolumeFileSystem
import VolumeModel

@testable import Catalog

/// Operations that fail half-way, because of the catalog's disk: they leave nothing, and all others go on.
@Suite struct HalfDoneTests {
    static let content = (0..<20_000).map { UInt8($0 % 251) }

    /// A head with an origin, changes that are committed and changes that are not.
    final class Scene {
        let temporary: TemporaryDirectory
        let directory: String
        let volume: TestVolume
        let file: InodeNumber
        let folder: InodeNumber

        init() async throws {
            temporary = try TemporaryDirectory()
            directory = try temporary.make("heir")
            let owner = try TestVolume.make(in: try temporary.make("owner"))
            let file = try owner.create("file")
            self.file = file
            try owner.write(file, at: 0, HalfDoneTests.content)
            try owner.write(try owner.create("old"), at: 0, [1, 2, 3])
            folder = try owner.fileSystem.makeDirectory(
                Array("folder".utf8), in: .root, permissions: 0o755, caller: .root
            ).inode
            try owner.storage.settle()
            try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
            try await owner.close()
            volume = try TestVolume(
                opening: directory, source: FakeSource { $0 == file ? HalfDoneTests.content : nil })
            try volume.write(try volume.create("here"), at: 0, [7])
            try setAttribute("user.a", of: file, [1])
            try volume.storage.settle()
            try volume.write(file, at: 5000, [255])
            try setAttribute("user.b", of: file, [2])
            try volume.write(try volume.create("late"), at: 0, [8])
        }

        func setAttribute(_ name: String, of inode: InodeNumber, _ value: [UInt8]) throws {
            try volume.fileSystem.setExtendedAttribute(
                Array(name.utf8), of: inode, value: value, mustCreate: false, mustReplace: false,
                caller: .root)
        }

        func inode(_ name: String) throws -> InodeNumber {
            try volume.fileSystem.lookup(Array(name.utf8), in: .root).inode
        }

        func rename(_ name: String, to newName: String, in parent: InodeNumber = .root) throws {
            try volume.fileSystem.rename(
                Array(name.utf8), in: .root, to: Array(newName.utf8), in: parent, rule: .replace)
        }

        /// From now on SQLite refuses these, in the midst of what else the statement does.
        func plant(_ failures: [String]) throws {
            let catalog = volume.storage.catalog
            try catalog.commit()
            try catalog.perform { state in
                for (number, failure) in failures.enumerated() {
                    try state.connection.execute(
                        "CREATE TEMP TRIGGER planted\(number) BEFORE \(failure) BEGIN "
                            + "SELECT RAISE(FAIL, 'planted'); END")
                }
            }
        }

        func endFailures(_ count: Int) throws {
            let catalog = volume.storage.catalog
            try catalog.commit()
            try catalog.perform { state in
                for number in 0..<count { try state.connection.execute("DROP TRIGGER planted\(number)") }
            }
        }

        func seen() throws -> Seen { try Seen(volume) }
    }

    /// All that there is to see.
    struct Seen: Equatable {
        let image: CatalogImage
        let missing: [ByteRange]
        let missingByteCount: UInt64
        let dirty: Set<InodeNumber>

        init(_ volume: TestVolume) throws {
            let catalog = volume.storage.catalog
            image = try CatalogImage(catalog)
            (missing, missingByteCount, dirty) = try catalog.perform { state in
                let whole = ByteRange(0, ByteRange.maximumOffset)
                return (
                    try state.missingRanges(of: InodeNumber(2), in: whole), state.missingByteCount,
                    state.dirtyInodes
                )
            }
        }
    }

    struct Case: Sendable, CustomTestStringConvertible {
        let testDescription: String
        /// What SQLite refuses.
        let failure: String
        let run: @Sendable (Scene) throws -> Void
    }

    static let cases: [Case] = [
        Case(testDescription: "create", failure: "INSERT ON entry") { _ = try $0.volume.create("new") },
        Case(testDescription: "make a directory", failure: "INSERT ON entry") {
            _ = try $0.volume.fileSystem.makeDirectory(
                Array("new".utf8), in: $0.folder, permissions: 0o755, caller: .root)
        },
        Case(testDescription: "link", failure: "INSERT ON entry") {
            _ = try $0.volume.fileSystem.link($0.file, as: Array("new".utf8), in: $0.folder)
        },
        Case(testDescription: "replace", failure: "INSERT ON entry") { try $0.rename("late", to: "old") },
        Case(testDescription: "move", failure: "INSERT ON entry") {
            try $0.rename("file", to: "file", in: $0.folder)
        },
        Case(testDescription: "exchange", failure: "INSERT ON entry WHEN NEW.name = CAST('old' AS BLOB)") {
            try $0.volume.fileSystem.rename(
                Array("old".utf8), in: .root, to: Array("folder".utf8), in: .root, rule: .exchange)
        },
        Case(testDescription: "unlink", failure: "DELETE ON entry") {
            try $0.volume.fileSystem.unlink(Array("file".utf8), in: .root)
        },
        Case(testDescription: "set an attribute", failure: "INSERT ON xattr") {
            try $0.setAttribute("user.a", of: $0.file, [3])
        },
        Case(testDescription: "remove an attribute", failure: "DELETE ON xattr") {
            try $0.volume.fileSystem.removeExtendedAttribute(Array("user.b".utf8), of: $0.file)
        },
        Case(testDescription: "cut to nothing", failure: "INSERT ON garbage") {
            try $0.volume.truncate($0.file, to: 0)
        },
        Case(testDescription: "cut", failure: "DELETE ON resident") {
            try $0.volume.truncate($0.file, to: 5000)
        },
        Case(testDescription: "remove", failure: "INSERT ON garbage") { scene in
            try scene.volume.storage.catalog.perform { state in
                try state.removeEntry(Array("file".utf8), in: .root)
                try state.removeInode(scene.file)
            }
        },
    ]

    @Test(arguments: cases) func whatFailsHalfWayLeavesNothing(_ operation: Case) async throws {
        let scene = try await Scene()
        let volume = scene.volume
        if operation.failure.hasSuffix("resident") { try volume.storage.settle() }
        try scene.plant([operation.failure])
        // Before it others that are in no commit, of each kind that is not refused.
        try volume.write(scene.file, at: 9000, [254])
        try volume.truncate(try scene.inode("here"), to: 100)
        var changes = AttributeChanges()
        changes.permissions = 0o600
        _ = try volume.fileSystem.setAttributes(changes, of: scene.folder, caller: .root)
        let before = try scene.seen()
        for _ in 0..<2 {
            #expect(throws: (any Error).self) { try operation.run(scene) }
            #expect(try scene.seen() == before)
            #expect(volume.storage.trouble == nil)
        }
        try volume.synchronize(scene.file)
        #expect(try CatalogImage(volume.storage.catalog) == before.image)
        #expect(before.image.faults() == [])
        // And nothing is in the way of it when the disk is well again.
        try scene.endFailures(1)
        try operation.run(scene)
        let after = try CatalogImage(volume.storage.catalog)
        try await volume.close()
        #expect(try HeadCheck.run(scene.directory, isInUse: false) == [])
        let again = try TestVolume(opening: scene.directory, source: FakeSource { _ in Self.content })
        let found = try CatalogImage(again.storage.catalog)
        #expect(found.entries == after.entries)
        #expect(found.nodes.mapValues(\.xattrs) == after.nodes.mapValues(\.xattrs))
        if let name = found.entries.first(where: { $0.inode == scene.file })?.name,
            name == Array("file".utf8),
            let size = found.nodes[scene.file]?.attributes.size
        {
            var expected = Self.content
            expected[5000] = 255
            expected[9000] = 254
            #expect(try await again.read(scene.file, 0..<20_000) == Array(expected[..<Int(size)]))
        }
        try await again.close()
    }

    /// Bytes that came are there all the same, and are counted once.
    @Test func whatArrivesInAnOperationThatFailsIsCountedOnce() async throws {
        let scene = try await Scene()
        let catalog = scene.volume.storage.catalog
        let whole = ByteRange(0, ByteRange.maximumOffset)
        func sums() throws -> (missing: UInt64, counted: UInt64, unrecorded: UInt64) {
            try catalog.perform { state in
                let missing = try state.missingRanges(of: scene.file, in: whole)
                return (
                    missing.reduce(0) { $0 + $1.byteCount }, state.missingByteCount, state.unrecordedByteCount
                )
            }
        }
        let before = try sums()
        #expect(throws: Errno.inputOutput) {
            try catalog.perform { state in
                try state.setExtendedAttribute(Array("user.c".utf8), of: scene.file, value: [3])
                try state.markValid(ByteRange(12_000, 16_000), of: scene.file)
                try state.markValid(ByteRange(11_000, 13_000), of: scene.file)
                throw Errno.inputOutput
            }
        }
        let after = try sums()
        #expect(after.missing == before.missing - 5000)
        #expect(after.counted == before.counted - 5000)
        #expect(after.unrecorded == before.unrecorded + 5000)
        try await scene.volume.close()
    }

    /// Failing as often as it likes, an operation makes little again.
    @Test func whatIsTakenBackIsCommittedWhenItIsMuch() async throws {
        let scene = try await Scene()
        let catalog = scene.volume.storage.catalog
        try scene.plant(["INSERT ON entry"])
        for number in 0..<1200 { try scene.setAttribute("user.\(number % 20)", of: scene.file, [1]) }
        let before = catalog.lastSequence
        #expect(throws: (any Error).self) { _ = try scene.volume.create("new") }
        #expect(catalog.lastSequence > before)
        #expect(try catalog.perform { $0.recorder.count } == 0)
        try scene.endFailures(1)
        try await scene.volume.close()
    }

    /// A page of the catalog that the disk has damaged: what is on it fails, and nothing else.
    @Test func aDamagedPageFailsWhatIsOnItAlone() async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("head")
        func name(_ number: Int) -> [UInt8] { Array("\(number * 7919 % 10_007)-in-a-large-directory".utf8) }
        var volume = try TestVolume.make(in: directory)
        func makeDirectory(_ name: String) throws -> InodeNumber {
            try volume.fileSystem.makeDirectory(
                Array(name.utf8), in: .root, permissions: 0o755, caller: .root
            ).inode
        }
        let (other, large) = (try makeDirectory("other"), try makeDirectory("large"))
        for number in 0..<2000 {
            let made = try volume.fileSystem.create(
                name(number), in: large, permissions: 0o644, openFlags: 2, caller: .root)
            volume.fileSystem.release(made.0.inode, handle: made.1)
        }
        let synced = try volume.create("synced", in: other)
        try await volume.close()
        // All of it was moved into the database.
        for suffix in ["-wal", "-shm"] {
            try? FileManager.default.removeItem(atPath: "\(directory)/\(Catalog.fileName)\(suffix)")
        }
        // The one with the last entries, in the order in which they were made.
        let path = directory + "/" + Catalog.fileName
        var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        let pages = stride(from: 4096, to: bytes.count, by: 4096).filter { start in
            let page = bytes[start..<start + 4096]
            return [1998, 1999].allSatisfy { page.range(of: Data(name($0))) != nil }
        }
        #expect(pages.count == 1)
        for start in pages {
            bytes.replaceSubrange(start..<start + 4096, with: Data(repeating: 255, count: 4096))
        }
        try bytes.write(to: URL(fileURLWithPath: path))

        volume = try TestVolume(opening: directory)
        let early = try volume.create("early", in: other)
        try volume.write(early, at: 0, [1])
        let before = try volume.storage.catalog.perform { $0.counters }
        for number in 0..<3 {
            #expect(throws: FileSystemError.errno(.inputOutput)) {
                _ = try volume.create("new\(number)", in: large)
            }
            #expect(throws: FileSystemError.errno(.inputOutput)) {
                try volume.fileSystem.rename(
                    Array("early".utf8), in: other, to: Array("new".utf8), in: large, rule: .replace)
            }
        }
        #expect(try volume.storage.catalog.perform { $0.counters } == before)
        #expect(volume.storage.trouble == nil)
        let late = try volume.create("late", in: other)
        for (file, byte) in [(early, UInt8(2)), (late, 3), (synced, 4)] {
            try volume.write(file, at: 0, [byte])
            try volume.synchronize(file)
        }
        try volume.storage.settle()
        try await volume.close()
        volume = try TestVolume(opening: directory)
        for (file, byte) in [("early", UInt8(2)), ("late", 3), ("synced", 4)] {
            let found = try volume.fileSystem.lookup(Array(file.utf8), in: other).inode
            #expect(try await volume.read(found, 0..<10) == [byte])
        }
        #expect(try volume.fileSystem.lookup(name(0), in: large).kind == .regular)
        try await volume.close()
    }
}
