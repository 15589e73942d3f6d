import EngineTestSupport
import Foundation
import Hydration
import SQLite
import Testing
import VolumeFileSystem
import VolumeModel

@testable import Catalog

/// Pages of a catalog that the disk has damaged, and what is not on them.
@Suite struct DamagedCatalogTests {
    /// A volume that was closed, with 2000 symbolic links and a directory.
    private final class Scene {
        let temporary: TemporaryDirectory
        let directory: String
        let other: InodeNumber
        private(set) var links: [InodeNumber] = []

        init() async throws {
            temporary = try TemporaryDirectory()
            directory = try temporary.make("head")
            let volume = try TestVolume.make(in: directory)
            other = try volume.fileSystem.makeDirectory(
                Array("other".utf8), in: .root, permissions: 0o755, caller: .root
            ).inode
            for number in 0..<2000 {
                links.append(
                    try volume.fileSystem.makeSymbolicLink(
                        Array("link \(number)".utf8), in: .root, target: Self.target(number), caller: .root
                    ).inode)
            }
            // With bytes that are settled, an opening looks only at what is newer.
            try volume.write(try volume.create("file"), at: 0, [1])
            try volume.storage.settle()
            try await volume.close()
            // All of it was moved into the database.
            for suffix in ["-wal", "-shm"] { try? FileManager.default.removeItem(atPath: path + suffix) }
        }

        var path: String { directory + "/" + Catalog.fileName }

        static func target(_ number: Int) -> [UInt8] { Array("where link \(number) leads to".utf8) }

        /// Overwrites pages.
        func damage(_ isDamaged: (_ page: Int, _ bytes: Data) throws -> Bool) throws {
            var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
            var count = 0
            for start in stride(from: pageByteCount, to: bytes.count, by: pageByteCount) {
                let range = start..<start + pageByteCount
                guard try isDamaged(start / pageByteCount + 1, bytes[range]) else { continue }
                bytes.replaceSubrange(range, with: Data(repeating: 255, count: pageByteCount))
                count += 1
            }
            #expect(count == 1)
            try bytes.write(to: URL(fileURLWithPath: path))
        }

        /// The number of a page with the middle of an index.
        func middlePage(ofIndex name: String) throws -> Int {
            let connection = try Connection(path: path, mode: .readOnly)
            let find = try connection.prepare("SELECT rootpage FROM sqlite_schema WHERE name = ?1")
            find.bind(1, name)
            let root = Int(try #require(try find.first { $0.integer(0) }))
            let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
            let page = Array(bytes[(root - 1) * pageByteCount..<root * pageByteCount])
            // https://www.sqlite.org/fileformat.html#b_tree_pages: an inner page of an index.
            #expect(page[0] == 2)
            func number(at place: Int, byteCount: Int) -> Int {
                page[place..<place + byteCount].reduce(0) { $0 << 8 | Int($1) }
            }
            let middle = number(at: 3, byteCount: 2) / 2
            return number(at: number(at: 12 + 2 * middle, byteCount: 2), byteCount: 4)
        }
    }

    /// Whoever only looks at what is damaged is in nobody's way.
    @Test func damageThatIsOnlyReadIsInNobodysWay() async throws {
        let scene = try await Scene()
        try scene.damage { _, bytes in
            bytes.range(of: Data(Scene.target(1000))) != nil
        }
        var volume = try TestVolume(opening: scene.directory)
        let early = try volume.create("early", in: scene.other)
        #expect(volume.storage.catalog.isInTransaction)
        for round in 0..<3 {
            #expect(throws: FileSystemError.errno(.inputOutput)) {
                _ = try volume.fileSystem.attributes(of: scene.links[1000])
            }
            let late = try volume.create("late\(round)", in: scene.other)
            for file in [early, late] {
                try volume.write(file, at: 0, [UInt8(round)])
                try volume.synchronize(file)
            }
            // Also when nothing is changed before the commit.
            _ = try volume.create("last\(round)", in: scene.other)
            #expect(throws: FileSystemError.errno(.inputOutput)) {
                _ = try volume.fileSystem.attributes(of: scene.links[1000])
            }
            try volume.storage.catalog.commit()
        }
        #expect(volume.storage.trouble == nil)
        try await volume.close()
        volume = try TestVolume(opening: scene.directory)
        for name in ["early", "late0", "late1", "late2", "last0", "last1", "last2"] {
            _ = try volume.fileSystem.lookup(Array(name.utf8), in: scene.other)
        }
        try await volume.close()
    }

    /// What a commit would come upon is come upon before, by who makes the change.
    @Test func aChangeThatCannotBeCommittedIsRefusedAlone() async throws {
        let scene = try await Scene()
        let page = try scene.middlePage(ofIndex: "inode_born")
        try scene.damage { number, _ in number == page }
        var volume = try TestVolume(opening: scene.directory)
        let early = try volume.create("early", in: scene.other)
        var changed: [InodeNumber] = []
        var changes = AttributeChanges()
        changes.uid = 77
        // Few of each page: what SQLite moves from one to the next it would have to read.
        for number in stride(from: 0, to: 2000, by: 40) {
            let link = scene.links[number]
            do {
                _ = try volume.fileSystem.setAttributes(changes, of: link, caller: .root)
                changed.append(link)
            } catch {
                #expect(error == .errno(.inputOutput))
                // It is still read, and its time is not what fails then.
                #expect(try volume.fileSystem.attributes(of: link).uid == 0)
                #expect(try volume.fileSystem.readSymbolicLink(link) == Scene.target(number))
            }
        }
        #expect((25..<50).contains(changed.count), "\(changed.count) of 50")
        try volume.write(early, at: 0, [1])
        try volume.synchronize(early)
        #expect(volume.storage.trouble == nil)
        try await volume.close()
        volume = try TestVolume(opening: scene.directory)
        for link in changed { #expect(try volume.fileSystem.attributes(of: link).uid == 77) }
        try await volume.close()
    }
}

extension Catalog {
    fileprivate var isInTransaction: Bool { state.withLock { $0.connection.isInTransaction } }
}

private let pageByteCount = 4096
