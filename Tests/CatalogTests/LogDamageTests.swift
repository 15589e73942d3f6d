@testable import Catalog
import EngineTestSupport
import Foundation
import SQLite
import Testing
import VolumeModel

/// What a disk makes of a catalog's log, and of its header, while it is in use or after it was.
@Suite struct LogDamageTests {
    /// A catalog in use.
    private struct Scene {
        let temporary: TemporaryDirectory
        let directory: String
        let catalog: Catalog
        var path: String { directory + "/" + Catalog.fileName }

        /// - Parameter wasClosed: whether it has been in use before, so that little is in its log.
        init(wasClosed: Bool = false, in temporary: TemporaryDirectory? = nil) throws {
            self.temporary = try temporary ?? TemporaryDirectory()
            let temporary = self.temporary
            directory = try temporary.make("head")
            try Catalog.create(
                in: directory, limits: VolumeLimits(byteCount: 1 << 30), epoch: .first, now: .zero,
                withRoot: true)
            if wasClosed { try Catalog(opening: directory).close() }
            catalog = try Catalog(opening: directory)
        }

        func add(_ numbers: Range<Int>) throws {
            for number in numbers {
                _ = try catalog.perform { try $0.addFile(Array("file \(number)".utf8)) }
            }
        }

        /// The file of its log.
        func log() throws -> Data { try Data(contentsOf: URL(fileURLWithPath: path + "-wal")) }
    }

    private func flip(_ byte: Int, of path: String) throws {
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
        try file.seek(toOffset: UInt64(byte))
        let value = try #require(try file.read(upToCount: 1)?.first)
        try file.seek(toOffset: UInt64(byte))
        try file.write(contentsOf: Data([value ^ 8]))
        try file.close()
    }

    private func message(_ body: () throws -> Void) -> String {
        do {
            try body()
            return "no error"
        } catch {
            return "\(error)"
        }
    }

    @Test func aLogThatIsDamagedInUseEndsChangesUntilAPersonHasRestoredIt() throws {
        let scene = try Scene()
        let catalog = scene.catalog
        try scene.add(0..<200)
        try catalog.synchronize()
        let image = try CatalogImage(catalog)
        // In the last frame: no other has its page anew.
        let damaged = try scene.log().count - 2000
        try flip(damaged, of: scene.path + "-wal")

        let words = ["in the log", "restore it", "remove \(scene.path)-damaged"]
        let refusal = message { try catalog.checkpoint() }
        for word in words { #expect(refusal.contains(word), "\(refusal)") }
        let trouble = catalog.trouble.map { "\($0)" } ?? ""
        for word in words { #expect(trouble.contains(word), "\(trouble)") }
        // Nothing is said to be durable any more, not even what was.
        let inode = try #require(try catalog.perform { try $0.entry(Array("file 7".utf8), in: .root) }).inode
        let generation = try #require(
            try catalog.perform { $0.generationToSync(inode, dataOnly: false) } as UInt64?)
        #expect(throws: CatalogError.self) { try catalog.synchronize(upTo: generation) }
        #expect(throws: CatalogError.self) { try catalog.synchronize() }
        #expect(throws: CatalogError.self) { try scene.add(200..<201) }
        #expect(throws: CatalogError.self) { try catalog.checkpoint() }
        #expect(try scene.log().count == damaged + 2000)
        // Reading goes on.
        #expect(try CatalogImage(catalog) == image)
        #expect(throws: CatalogError.self) { try catalog.close() }

        let uses: [() throws -> Void] = [
            { _ = try Catalog(opening: scene.directory) }, { _ = try CatalogView(of: scene.directory) },
            { _ = try CatalogCheck(of: scene.directory) }, { try CatalogCheck.repair(scene.directory) },
        ]
        for use in uses {
            let refusal = message(use)
            for word in [scene.path, "damaged while it was in use"] + words.dropFirst() {
                #expect(refusal.contains(word), "\(refusal)")
            }
        }
        // Restored, as by a person.
        try flip(damaged, of: scene.path + "-wal")
        try FileManager.default.removeItem(atPath: scene.path + "-damaged")
        let again = try Catalog(opening: scene.directory)
        #expect(!again.wasClosedCleanly)
        #expect(try CatalogImage(again) == image)
        try again.close()
    }

    @Test func damageThatIsMetOnlyAtTheEndIsRememberedAsWell() throws {
        let scene = try Scene()
        try scene.add(0..<200)
        try scene.catalog.synchronize()
        try flip(try scene.log().count - 2000, of: scene.path + "-wal")
        #expect(throws: CatalogError.self) { try scene.catalog.close() }
        #expect(message { _ = try Catalog(opening: scene.directory) }.contains("damaged while it was in use"))
    }

    private enum Occasion: CaseIterable { case sync, end }

    /// A full disk takes no note.
    @Test(arguments: Occasion.allCases)
    private func damageThatCannotBeRememberedAtOnceIsRememberedLater(_ occasion: Occasion) throws {
        let temporary = try TemporaryDirectory()
        try shell("mount -t tmpfs -o size=64m,nr_inodes=30 tmpfs .", in: temporary.path)
        defer { try? shell("umount -l .", in: temporary.path) }
        let scene = try Scene(in: temporary)
        try scene.add(0..<200)
        try scene.catalog.synchronize()
        try flip(try scene.log().count - 2000, of: scene.path + "-wal")
        try shell(
            "n=0; while touch fill$n; do n=$((n + 1)); done 2> /dev/null; test -e fill9", in: temporary.path)
        #expect(message { try scene.catalog.checkpoint() }.contains("in the log"))
        #expect(!FileManager.default.fileExists(atPath: scene.path + "-damaged"))
        try shell("rm fill*", in: temporary.path)
        switch occasion {
        case .sync:
            #expect(throws: CatalogError.self) { try scene.catalog.synchronize() }
            #expect(FileManager.default.fileExists(atPath: scene.path + "-damaged"))
        case .end: break
        }
        scene.catalog.abandon()
        #expect(message { _ = try Catalog(opening: scene.directory) }.contains("damaged while it was in use"))
    }

    private func shell(_ command: String, in directory: String) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/sh")
        process.arguments = ["-c", command]
        process.currentDirectoryURL = URL(fileURLWithPath: directory)
        try process.run()
        process.waitUntilExit()
        try #require(process.terminationStatus == 0, "\(command)")
    }

    /// Whoever looks at a catalog while it ends in order is waited for: at rest nothing is in its log.
    @Test func anEndInOrderEmptiesTheLogAlsoWhereSomebodyReadsForAMoment() throws {
        let scene = try Scene()
        try scene.add(0..<200)
        try scene.catalog.synchronize()
        let reader = try Connection(path: scene.path, mode: .readWrite)
        try reader.execute("BEGIN")
        #expect(try reader.prepare("SELECT count(*) FROM entry").first { $0.integer(0) } == 200)
        // Held up by nothing but the reader.
        let ending = DispatchQueue(label: "end")
        let (ended, catalog) = (DispatchSemaphore(value: 0), scene.catalog)
        ending.async {
            try? catalog.close()
            ended.signal()
        }
        try #require(ended.wait(timeout: .now() + .milliseconds(200)) == .timedOut, "it waits for nobody")
        try reader.execute("COMMIT")
        ended.wait()
        #expect(try scene.log().isEmpty)
    }

    // MARK: between a disorderly end and the next opening

    private enum Outcome: Hashable {
        case same, earlier, other
        /// Because the log ends before what was moved out of it.
        case refused
        /// Because the mixture of both is no database.
        case malformed
    }

    /// What becomes of a head that was cut off, if a byte of its log has flipped since.
    private func outcome(
        _ files: (file: Data, log: Data), flipping byte: Int?, at directory: String, _ states: [CatalogImage]
    ) throws -> Outcome {
        try? FileManager.default.removeItem(atPath: directory)
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        let path = directory + "/" + Catalog.fileName
        try files.file.write(to: URL(fileURLWithPath: path))
        try files.log.write(to: URL(fileURLWithPath: path + "-wal"))
        if let byte { try flip(byte, of: path + "-wal") }
        let words = message { _ = try CatalogCheck(of: directory) }
        if let byte, byte < 32 {
            // There is no sound log with such a beginning.
            for text in [words, message { _ = try Catalog(opening: directory) }] {
                #expect(text.contains("its log is damaged"), "byte \(byte): \(text)")
            }
            return .refused
        }
        do {
            let catalog = try Catalog(opening: directory)
            defer { catalog.abandon() }
            #expect(words == "no error", "byte \(byte ?? -1)")
            let image = try CatalogImage(catalog)
            return image == states.last ? .same : states.contains(image) ? .earlier : .other
        } catch {
            for text in ["\(error)", words] {
                #expect(text.contains("restore it from another copy"), "\(text)")
            }
            return "\(error)".contains("ends before changes") ? .refused : .malformed
        }
    }

    /// Three commits of a catalog in use; its file and its log as a crash leaves them.
    ///
    /// - Parameter isMoved: whether the log had been moved into the file.
    /// - Returns: also what there was after each commit.
    private func cutOff(
        isMoved: Bool
    ) throws -> (files: (file: Data, log: Data), states: [CatalogImage], TemporaryDirectory) {
        let scene = try Scene()
        var states = [try CatalogImage(scene.catalog)]
        for round in 0..<3 {
            try scene.add(round * 100..<round * 100 + 100)
            try scene.catalog.synchronize()
            states.append(try CatalogImage(scene.catalog))
        }
        if isMoved { try scene.catalog.checkpoint() }
        let copy = scene.temporary.path + "/copy"
        try TemporaryDirectory.copyHead(from: scene.directory, to: copy)
        scene.catalog.abandon()
        let path = copy + "/" + Catalog.fileName
        let files = (
            file: try Data(contentsOf: URL(fileURLWithPath: path)),
            log: try Data(contentsOf: URL(fileURLWithPath: path + "-wal"))
        )
        return (files, states, scene.temporary)
    }

    /// One byte of the header's fields, and of each frame.
    private func bytesToFlip(_ log: Data) -> [Int] {
        [1, 17, 29] + stride(from: 32, to: log.count - 4000, by: 24 + 4096).flatMap { [$0 + 9, $0 + 3000] }
    }

    @Test func aLogThatHasLostWhatWasMovedOutOfItIsRefused() throws {
        let (files, states, temporary) = try cutOff(isMoved: true)
        let directory = temporary.path + "/placed"
        #expect(try outcome(files, flipping: nil, at: directory, states) == .same)
        var count: [Outcome: Int] = [:]
        for byte in bytesToFlip(files.log) {
            let found = try outcome(files, flipping: byte, at: directory, states)
            #expect([.same, .refused, .malformed].contains(found), "byte \(byte): \(found)")
            count[found, default: 0] += 1
        }
        // Of a log that does not even have its first commit nothing hides the file.
        #expect(count[.refused, default: 0] > 10 && count[.same, default: 0] >= 2, "\(count)")
    }

    /// Moving goes from page to page, and the first one tells of a longer file than there is as yet.
    @Test func aLogThatHasLostWhatWasPartlyMovedOutOfItIsRefused() throws {
        let scene = try Scene(wasClosed: true)
        var states = [try CatalogImage(scene.catalog)]
        var firstCommitEnd = 0
        for round in 0..<3 {
            try scene.add(round * 500..<round * 500 + 500)
            try scene.catalog.synchronize()
            states.append(try CatalogImage(scene.catalog))
            if round == 0 { firstCommitEnd = try scene.log().count }
        }
        func file() throws -> Data { try Data(contentsOf: URL(fileURLWithPath: scene.path)) }
        let (before, log) = (try file(), try scene.log())
        try scene.catalog.checkpoint()
        let after = try file()
        scene.catalog.abandon()
        try #require(after.count > before.count + 10 * 4096)
        let directory = scene.temporary.path + "/placed"
        var count: [Outcome: Int] = [:]
        for moved in stride(from: 4096, to: after.count, by: 4 * 4096) {
            let files = (file: after.prefix(moved) + before.dropFirst(moved), log: log)
            #expect(try outcome(files, flipping: nil, at: directory, states) == .same, "\(moved) bytes moved")
            for place in 0..<4 {
                let byte = firstCommitEnd + (log.count - firstCommitEnd) * place / 4 + 2000
                let found = try outcome(files, flipping: byte, at: directory, states)
                #expect(found != .other, "\(moved) bytes moved, byte \(byte): a mixture is read")
                count[found, default: 0] += 1
            }
        }
        #expect(count[.refused, default: 0] > 10, "\(count)")
    }

    /// Then nothing tells that there was more: it is as after a power loss.
    @Test func aLogThatWasNotMovedEndsBeforeItsDamage() throws {
        let (files, states, temporary) = try cutOff(isMoved: false)
        let directory = temporary.path + "/placed"
        #expect(try outcome(files, flipping: nil, at: directory, states) == .same)
        for byte in bytesToFlip(files.log) {
            let found = try outcome(files, flipping: byte, at: directory, states)
            #expect(found == (byte < 32 ? .refused : .earlier), "byte \(byte): \(found)")
        }
    }

    // MARK: the header

    /// Byte 20 tells whether pages have sums. Who opens the file by then would neither look at them nor write any.
    @Test func aHeaderThatChangesInUseStopsWhoeverOpensTheFileOnceMore() throws {
        let scene = try Scene(wasClosed: true)
        try flip(20, of: scene.path)
        let before = try Data(contentsOf: URL(fileURLWithPath: scene.path))
        try #require(before[20] == 0)
        let copy = try scene.temporary.make("copy")
        #expect(message { try scene.catalog.copy(to: copy) }.contains("no longer says"))
        #expect(message { _ = try CatalogNames(scene.catalog) }.contains("no longer says"))
        #expect(message { try scene.catalog.checkpoint() }.contains("no longer says"))
        #expect(try Data(contentsOf: URL(fileURLWithPath: scene.path)) == before)
        scene.catalog.abandon()
    }
}
