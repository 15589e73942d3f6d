@testable import ByteStore
@testable import Catalog
@testable import Hydration
import EngineTestSupport
import Foundation
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

/// What was cut away never comes to light again, whatever became of the cut.
@Suite struct CutBytesTests {
    private static let size = 20_000
    private static let cut = 5000

    enum Growth: CaseIterable {
        case truncation, writing, allocation, zeroing

        func run(_ inode: InodeNumber, in volume: TestVolume) throws {
            switch self {
            case .truncation: try volume.truncate(inode, to: size)
            case .writing: try volume.write(inode, at: size - 1, [0])
            case .allocation, .zeroing:
                try volume.fileSystem.allocate(
                    inode, handle: FileHandle(inode.number), mode: self == .zeroing ? .zeroRange : .allocate,
                    offset: UInt64(size - 1000), byteCount: 1000)
            }
        }
    }

    enum Between: CaseIterable { case nothing, end, crashAndEnd }

    private static func record(_ inode: InodeNumber, in volume: TestVolume) throws -> InodeRecord {
        try #require(try volume.storage.catalog.perform { try $0.inode(inode) })
    }

    private static func dataFile(of inode: InodeNumber, in volume: TestVolume) throws -> DataFile {
        try volume.storage.bytes.open(try record(inode, in: volume).data)
    }

    /// A file of which the cut was missed: as a failed write or truncation, or a crash, leaves it.
    private static func makeTooLong(in volume: TestVolume) throws -> InodeNumber {
        let inode = try volume.create("file")
        try volume.write(inode, at: 0, [UInt8](repeating: 7, count: size))
        try volume.truncate(inode, to: cut)
        let old = [UInt8](repeating: 7, count: size - cut)
        let file = try dataFile(of: inode, in: volume)
        try old.withUnsafeBytes { try file.write($0, at: UInt64(cut)) }
        // No opening after this has a reason to look at it.
        try volume.storage.settle()
        return inode
    }

    @Test(arguments: Growth.allCases, Between.allCases)
    func aFileThatGrowsOverWhatWasCutShowsZeros(growth: Growth, between: Between) async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("head")
        var volume = try TestVolume.make(in: directory)
        let inode = try Self.makeTooLong(in: volume)
        switch between {
        case .nothing: break
        case .end: try await volume.close()
        case .crashAndEnd:
            volume.storage.catalog.abandon()
            volume.storage.bytes.closeAll()
            // Nobody looks at the file.
            try await TestVolume(opening: directory).close()
        }
        if between != .nothing { volume = try TestVolume(opening: directory) }
        try growth.run(inode, in: volume)
        let expected =
            [UInt8](repeating: 7, count: Self.cut) + [UInt8](repeating: 0, count: Self.size - Self.cut)
        #expect(try await volume.read(inode, 0..<Self.size + 1) == expected)
        try await volume.close()
    }

    /// A power loss might keep the growth, with another file's sync, and forget the cut.
    @Test(arguments: Growth.allCases)
    func aCutIsOnTheDiskBeforeTheFileGrowsAgain(growth: Growth) async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("head")
        let first = try TestVolume.make(in: directory)
        let inode = try first.create("file")
        try first.write(inode, at: 0, [UInt8](repeating: 7, count: Self.size))
        try first.synchronize(inode)
        try first.truncate(inode, to: Self.cut)
        #expect(try Self.dataFile(of: inode, in: first).hasUnsyncedCut)
        try growth.run(inode, in: first)
        #expect(try !Self.dataFile(of: inode, in: first).hasUnsyncedCut)
        // Growing alone is no reason to wait for the disk.
        try first.truncate(inode, to: 2 * Self.size)
        #expect(try Self.dataFile(of: inode, in: first).isChanged)

        try first.truncate(inode, to: Self.cut)
        first.storage.catalog.abandon()
        first.storage.bytes.closeAll()
        // What the process before has cut it had not synced.
        let volume = try TestVolume(opening: directory)
        try growth.run(inode, in: volume)
        #expect(try Self.dataFile(of: inode, in: volume).wasSynced)
        try await volume.close()
    }

    /// However many are cut at once, only so many are open; of those that were let go it is remembered.
    @Test func aFileThatIsLetGoIsKnownToHaveAnUnsyncedCut() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: temporary.path, openFileLimit: 16)
        let inodes = try (0..<100).map { try volume.create("file\($0)") }
        for inode in inodes {
            try volume.write(inode, at: 0, [UInt8](repeating: 7, count: Self.size))
            try volume.truncate(inode, to: Self.cut)
        }
        let bytes = volume.storage.bytes
        #expect(bytes.openFileCount <= 20)
        for inode in inodes { #expect(try Self.dataFile(of: inode, in: volume).hasUnsyncedCut) }
        #expect(bytes.openFileCount <= 20)
        // Opened anew it is no less to be synced.
        bytes.closeAll()
        let first = try Self.dataFile(of: inodes[0], in: volume)
        #expect(first.hasUnsyncedCut && first.isChanged)
        try volume.storage.settle()
        for inode in inodes { #expect(try !Self.dataFile(of: inode, in: volume).hasUnsyncedCut) }
        try await volume.close()
    }

    /// Also one that is made up for by the chore: the last one of it comes before the end.
    @Test func aCutThatIsMadeUpForIsOnTheDiskAtTheEnd() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: temporary.path)
        let inode = try Self.makeTooLong(in: volume)
        volume.storage.uncut.withLock { _ = $0.insert(inode) }
        let file = try Self.dataFile(of: inode, in: volume)
        try volume.storage.settle()
        #expect(try file.extent().size == UInt64(Self.cut) && !file.isChanged)
        #expect(volume.storage.uncut.withLock { $0.isEmpty })
        try await volume.close()
    }

    /// What was written here of it must not be taken for missing, and fetched as it once was at the origin.
    @Test func aCutThatIsRefusedLeavesWhatWasWrittenBeyondIt() async throws {
        let temporary = try TemporaryDirectory()
        var generator = Generator(seed: 9)
        let content = generator.bytes(200_000)
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let inode = try owner.create("file")
        try owner.write(inode, at: 0, content)
        let directory = try temporary.make("heir")
        try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
        try await owner.close()
        let volume = try TestVolume(opening: directory, source: FakeSource { $0 == inode ? content : nil })
        let written = [UInt8](repeating: 7, count: 4096)
        for isRecorded in [false, true] {
            let place = isRecorded ? 160_000 : 150_000
            try volume.write(inode, at: place, written)
            if isRecorded { try volume.synchronize(inode) }
            let missing = try volume.storage.catalog.perform { $0.missingByteCount }
            try volume.storage.catalog.perform {
                $0.syncFailure = .system(call: "fdatasync", path: "the log", .inputOutput)
            }
            for size in [100_000, 0] {
                #expect(throws: FileSystemError.errno(.inputOutput)) { try volume.truncate(inode, to: size) }
            }
            try volume.storage.catalog.perform { $0.syncFailure = nil }
            #expect(try volume.storage.catalog.perform { $0.missingByteCount } == missing)
            #expect(try await volume.read(inode, place..<place + 4096) == written)
        }
        let expected =
            content[..<150_000] + written + content[154_096..<160_000] + written + content[164_096...]
        #expect(try await volume.read(inode, 0..<content.count) == Array(expected))
        try await volume.close()
    }
}
