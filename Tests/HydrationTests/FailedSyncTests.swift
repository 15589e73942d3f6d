@testable import ByteStore
import Catalog
import EngineTestSupport
import Foundation
import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

/// What follows a sync that the disk has refused once: told to everybody who has the file open, and no longer.
@Suite struct FailedSyncTests {
    private static let failure = ByteStoreError(call: "fdatasync", path: "a data file", errno: .inputOutput)

    private static func dataFile(of inode: InodeNumber, in volume: TestVolume) throws -> DataFile {
        let record = try #require(try volume.storage.catalog.perform { try $0.inode(inode) })
        return try #require(volume.storage.bytes.kept(record.data))
    }

    /// Opens a file, has its sync fail once, and looks at each way to sync it until nobody has it open.
    private static func failOnce(_ inode: InodeNumber, in volume: TestVolume) throws {
        let fileSystem = volume.fileSystem
        let first = try fileSystem.open(inode, openFlags: 2)
        try dataFile(of: inode, in: volume).fail(failure)
        for dataOnly in [false, true] {
            #expect(throws: FileSystemError.errno(.inputOutput)) {
                try fileSystem.synchronize(inode, handle: first, dataOnly: dataOnly)
            }
        }
        let second = try fileSystem.open(inode, openFlags: 2)
        #expect(throws: FileSystemError.errno(.inputOutput)) {
            try fileSystem.synchronize(inode, handle: second, dataOnly: false)
        }
        // Not even by itself once the disk works again: what was lost is lost.
        #expect(throws: (any Error).self) { try volume.storage.settle() }
        fileSystem.release(inode, handle: first)
        #expect(throws: FileSystemError.errno(.inputOutput)) {
            try fileSystem.synchronize(inode, handle: second, dataOnly: false)
        }
        fileSystem.release(inode, handle: second)
    }

    private static func expectSyncs(_ inode: InodeNumber, in volume: TestVolume) throws {
        let handle = try volume.fileSystem.open(inode, openFlags: 2)
        try volume.fileSystem.synchronize(inode, handle: handle, dataOnly: false)
        volume.fileSystem.release(inode, handle: handle)
        try volume.storage.settle()
        #expect(volume.storage.trouble == nil)
    }

    @Test func aFailedSyncIsToldUntilEveryHandleIsClosed() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: temporary.path)
        let inode = try volume.create("file")
        try volume.write(inode, at: 0, [UInt8](repeating: 1, count: 5000))
        try Self.failOnce(inode, in: volume)
        try Self.expectSyncs(inode, in: volume)
        #expect(try await volume.read(inode, 0..<5000) == [UInt8](repeating: 1, count: 5000))
        try await volume.close()
    }

    /// Not by a lookup, a read or a settle: by each of the handles, for that is who was told that a write is done.
    @Test func aSyncThatNobodyAskedForIsToldToTheNextOne() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: temporary.path)
        let inode = try volume.create("file")
        try volume.write(inode, at: 0, [1, 2, 3])
        try Self.dataFile(of: inode, in: volume).fail(Self.failure)
        #expect(throws: (any Error).self) { try volume.storage.settle() }
        // Opened only now, and closed without a question: as on ext4, the next one is told even so.
        let silent = try volume.fileSystem.open(inode, openFlags: 0)
        volume.fileSystem.release(inode, handle: silent)
        let handle = try volume.fileSystem.open(inode, openFlags: 2)
        #expect(throws: FileSystemError.errno(.inputOutput)) {
            try volume.fileSystem.synchronize(inode, handle: handle, dataOnly: false)
        }
        volume.fileSystem.release(inode, handle: handle)
        try Self.expectSyncs(inode, in: volume)
        try await volume.close()
    }

    /// What came from the origin and could not be synced is nobody's to write again: it is fetched again.
    @Test func whatHadArrivedBeforeAFailedSyncIsFetchedAgain() async throws {
        let temporary = try TemporaryDirectory()
        var generator = Generator(seed: 5)
        let content = generator.bytes(200_000)
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let inode = try owner.create("file")
        try owner.write(inode, at: 0, content)
        let directory = try temporary.make("heir")
        try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
        try await owner.close()
        let source = FakeSource { $0 == inode ? content : nil }
        var configuration = Hydrator.Configuration()
        configuration.streamsInBackground = false
        let volume = try TestVolume(opening: directory, source: source, configuration: configuration)
        // Synced before: stays. The next: has come and been written, and is lost with the sync.
        #expect(try await volume.read(inode, 0..<8192) == Array(content[..<8192]))
        try Self.expectSyncs(inode, in: volume)
        _ = try await volume.read(inode, 100_000..<110_000)
        try volume.write(inode, at: 150_000, [UInt8](repeating: 7, count: 4096))
        let file = try Self.dataFile(of: inode, in: volume)
        try Self.failOnce(inode, in: volume)
        // What the disk has not taken, the kernel forgets: here at once.
        try file.punchHole(ByteRange(98_304, 200_000))
        let whole = ByteRange(0, UInt64(content.count))
        let missing = try volume.storage.catalog.perform { try $0.missingRanges(of: inode, in: whole) }
        #expect(missing.last?.end == whole.end)
        #expect(missing.contains { $0.contains(ByteRange(150_000, 154_096)) })
        #expect(!missing.contains { $0.intersection(ByteRange(0, 8192)) != nil })
        #expect(try await volume.read(inode, 0..<content.count) == content)
        // Written again by whoever was told, and synced: it can be, and holds.
        try volume.write(inode, at: 150_000, [UInt8](repeating: 8, count: 4096))
        try Self.expectSyncs(inode, in: volume)
        volume.storage.catalog.abandon()
        volume.storage.bytes.closeAll()

        let reopened = try TestVolume(opening: directory, source: source, configuration: configuration)
        let expected = content[..<150_000] + [UInt8](repeating: 8, count: 4096) + content[154_096...]
        #expect(try await reopened.read(inode, 0..<content.count) == Array(expected))
        try await reopened.close()
    }
}
