import BlockHashes
import ByteStore
import Catalog
import Dispatch
import EngineTestSupport
import Foundation
import Glibc
import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

/// What somebody has put where a head's files are (a backup that was not ours, for example) is neither waited for nor
/// written to, as root would.
@Suite struct PlantedFilesTests {
    enum Plant: CaseIterable {
        case fifo, device, hardLink, symbolicLink

        /// - Parameter victim: a file of somebody else's.
        func put(at path: String, victim: String) throws {
            unlink(path)
            let result =
                switch self {
                case .fifo: mkfifo(path, 0o600)
                // /dev/full: whoever writes there is told ENOSPC.
                case .device: mknod(path, S_IFCHR | 0o600, 1 << 8 | 7)
                case .hardLink: link(victim, path)
                case .symbolicLink: symlink(victim, path)
                }
            try #require(result == 0, "errno \(errno)")
        }
    }

    private static let content = [UInt8](repeating: 5, count: 10_000)

    /// A closed head with one file, which has been looked through, and a copy of one of its files.
    private struct Head {
        let temporary: TemporaryDirectory
        let directory: String
        let file: InodeNumber
        let data: DataFileNumber
        var victim: String { temporary.path + "/victim" }

        init() async throws {
            temporary = try TemporaryDirectory()
            directory = try temporary.make("head")
            let volume = try TestVolume.make(in: directory)
            file = try volume.create("f")
            try volume.write(file, at: 0, PlantedFilesTests.content)
            let inode = file
            data = try volume.storage.catalog.perform { try $0.inode(inode)?.data } ?? .none
            try await volume.close()
            _ = try HeadScrub.run(closed: directory, terms: ScrubTerms())
        }

        func path(_ data: DataFileNumber) -> String { directory + "/data/" + ByteStore.name(of: data) }

        /// Puts something in the place of a file, which becomes the victim.
        func plant(_ plant: Plant, at path: String) throws {
            let bytes = FileManager.default.contents(atPath: path) ?? Data("somebody else's".utf8)
            try bytes.write(to: URL(fileURLWithPath: victim))
            try plant.put(at: path, victim: victim)
        }
    }

    /// Should it wait for somebody at a FIFO, somebody comes.
    private func isAnswered<Result>(_ fifo: String, _ body: () throws -> Result) rethrows -> Result {
        let rescue = DispatchWorkItem {
            let descriptor = Glibc.open(fifo, O_RDWR | O_NONBLOCK | O_NOFOLLOW)
            Issue.record("it waits for \(fifo)")
            sleep(1)
            close(descriptor)
        }
        DispatchQueue.global().asyncAfter(deadline: .now() + .seconds(10), execute: rescue)
        defer { rescue.cancel() }
        return try body()
    }

    @Test(.enabled(if: geteuid() == 0, "device nodes need root"), arguments: Plant.allCases)
    func aDatabaseThatIsNoneOfOursIsRefused(_ plant: Plant) async throws {
        for name in ["catalog.db", "hashes.db", "catalog.db-wal", "hashes.db-wal"] {
            let head = try await Head()
            let path = head.directory + "/" + name
            try head.plant(plant, at: path)
            let before = FileManager.default.contents(atPath: head.victim)
            var uses: [() throws -> Void] = [
                { _ = try HeadStorage(opening: head.directory) },
                { _ = try HeadScrub.run(closed: head.directory, terms: ScrubTerms()) },
            ]
            if name.hasPrefix("catalog") {
                uses.append { _ = try HeadCheck.run(head.directory, isInUse: false) }
                uses.append {
                    try Catalog.create(
                        in: head.directory, limits: VolumeLimits(byteCount: 1), epoch: .first, now: .zero,
                        withRoot: true)
                }
            } else {
                uses.append { _ = try HashDatabase(in: head.directory) }
            }
            for use in uses {
                do {
                    try isAnswered(path, use)
                    Issue.record("\(name): it was used")
                } catch {
                    let words = plant == .hardLink ? "hard link" : "no regular file"
                    #expect("\(error)".contains(path) && "\(error)".contains(words), "\(error)")
                }
            }
            var status = stat()
            #expect(lstat(path, &status) == 0, "\(name) was deleted")
            #expect(FileManager.default.contents(atPath: head.victim) == before)
        }
    }

    @Test(.enabled(if: geteuid() == 0, "device nodes need root"), arguments: Plant.allCases)
    func aCopyOfWhatIsDamagedThatIsNoneOfOursIsRefused(_ plant: Plant) async throws {
        let head = try await Head()
        for suffix in ["", "-wal", "-shm"] { unlink(head.directory + "/hashes.db" + suffix) }
        try head.plant(plant, at: head.directory + "/damage")
        #expect(throws: (any Error).self) {
            try isAnswered(head.directory + "/damage") { try HeadStorage(opening: head.directory) }
        }
    }

    @Test(.enabled(if: geteuid() == 0, "device nodes need root"), arguments: Plant.allCases)
    func aDataFileThatIsNoneOfOursIsNeitherReadNorWritten(_ plant: Plant) async throws {
        let head = try await Head()
        let path = head.path(head.data)
        try head.plant(plant, at: path)
        let volume = try TestVolume(opening: head.directory)
        let before = FileManager.default.contents(atPath: head.victim)
        await #expect(throws: FileSystemError.self) { try await volume.read(head.file, 0..<10) }
        #expect(throws: (any Error).self) { try volume.write(head.file, at: 100, [1, 2, 3]) }
        #expect(throws: (any Error).self) { try volume.truncate(head.file, to: 100) }
        #expect(FileManager.default.contents(atPath: head.victim) == before)
        do {
            _ = try volume.storage.bytes.open(head.data)
            Issue.record("it was opened")
        } catch {
            let words = plant == .symbolicLink ? path : "no regular file"
            #expect("\(error)".contains(path) && "\(error)".contains(words), "\(error)")
        }
        volume.storage.catalog.abandon()
        // A look from beside waits for nobody either.
        let findings = VolumeLook.findings { try HeadCheck.run(head.directory, isInUse: false) }
        #expect(findings.contains { $0.contains(path) }, "\(findings)")
        if plant != .hardLink {
            #expect(throws: (any Error).self) {
                try isAnswered(path) { try StillFile(head.data, in: head.directory + "/data") }
            }
        }
        // Put right, all is well: nothing was noted.
        unlink(path)
        try FileManager.default.copyItem(atPath: head.victim, toPath: path)
        unlink(head.victim)
        let again = try TestVolume(opening: head.directory)
        #expect(try await again.read(head.file, 0..<Self.content.count) == Self.content)
        try await again.close()
    }

    /// Where the next file is to be made.
    @Test(.enabled(if: geteuid() == 0, "device nodes need root"), arguments: Plant.allCases)
    func whatIsInTheWayOfANewFileIsReplacedAndNotWrittenTo(_ plant: Plant) async throws {
        let head = try await Head()
        let volume = try TestVolume(opening: head.directory)
        let next = try volume.storage.catalog.perform { $0.nextDataFile }
        let path = head.path(next)
        try FileManager.default.createDirectory(
            atPath: String(path.dropLast(17)), withIntermediateDirectories: true)
        try head.plant(plant, at: path)
        let file = try volume.create("g")
        try isAnswered(path) { _ = try volume.write(file, at: 0, Self.content) }
        #expect(try await volume.read(file, 0..<Self.content.count) == Self.content)
        #expect(try volume.storage.catalog.perform { try $0.inode(file)?.data } == next)
        try await volume.close()
        #expect(FileManager.default.contents(atPath: path) == Data(Self.content))
        #expect(FileManager.default.contents(atPath: head.victim) == Data("somebody else's".utf8))
        #expect(try HeadCheck.run(head.directory, isInUse: false) == [])
    }

    private enum VolumeLook {
        /// As `volume check` tells them.
        static func findings(_ look: () throws -> [HeadFinding]) -> [String] {
            do { return try look().map(\.text) } catch { return ["\(error)"] }
        }
    }
}
