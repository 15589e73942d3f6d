import Catalog
import EngineTestSupport
import Hydration
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

/// What of a volume's capacity is taken where st_blocks alone does not tell: room that was allocated and not written to,
/// holes beside it, files that have just come.
@Suite struct AllocatedRoomTests {
    @Test func roomThatWasAllocatedIsThereWhenTheVolumeIsFull() async throws {
        let (temporary, volume) = try SmallVolume.make()
        defer { _ = temporary }
        let file = try volume.create("f")
        try volume.allocate(file, .allocateKeepingSize, 0, 300_000)
        #expect(try volume.fileSystem.attributes(of: file).size == 0)
        try volume.fill()
        #expect(try volume.takenByteCount() == SmallVolume.capacity)
        // 300,000 bytes are 74 blocks, and these are all that there is.
        #expect(try volume.write(file, at: 0, 100_000) == 100_000)
        #expect(try volume.write(file, at: 150_000, 50_000) == 50_000)
        #expect(try volume.write(file, at: 200_000, 200_000) == 74 * 4096 - 200_000)
        #expect(try isFull { try volume.write(file, at: 74 * 4096, 1) })
        #expect(try volume.fileSystem.attributes(of: file).size == 74 * 4096)
        #expect(try volume.takenByteCount() == SmallVolume.capacity)
        try await volume.close()
    }

    @Test func roomThatWasAllocatedInAHoleIsThereWhenTheVolumeIsFull() async throws {
        let (temporary, volume) = try SmallVolume.make()
        defer { _ = temporary }
        let file = try volume.create("f")
        try volume.truncate(file, to: 16 << 20)
        try volume.allocate(file, .allocate, 1 << 20, 65_536)
        try volume.allocate(file, .allocate, 3 << 20, 65_536)
        try volume.fill()
        #expect(try volume.takenByteCount() == SmallVolume.capacity)
        #expect(try volume.write(file, at: 1 << 20, 65_536) == 65_536)
        // From allocated room into a hole: as much as there is.
        #expect(try volume.write(file, at: (3 << 20) + 32_768, 65_536) == 32_768)
        #expect(try isFull { try volume.write(file, at: (1 << 20) - 1, 1) })
        #expect(try isFull { try volume.write(file, at: 2 << 20, 1) })
        #expect(try volume.takenByteCount() == SmallVolume.capacity)
        try await volume.close()
    }

    /// As many blocks as the size needs, and all of them beyond the end.
    @Test(arguments: [false, true])
    func holesCountThoughThereIsAsMuchRoomBeyondTheEnd(isOpenedAnew: Bool) async throws {
        let (temporary, made) = try SmallVolume.make()
        defer { _ = temporary }
        var volume = made
        let file = try volume.create("f")
        try volume.truncate(file, to: 400_000)
        try volume.allocate(file, .allocateKeepingSize, 409_600, 409_600)
        #expect(try volume.takenByteCount() == 409_600)
        if isOpenedAnew {
            try await volume.close()
            volume = try TestVolume(opening: made.directory)
        }
        try volume.write(file, at: 200_000, 1)
        #expect(try volume.takenByteCount() == 409_600 + 4096)
        try volume.write(file, at: 399_999, 1)
        #expect(try volume.takenByteCount() == 409_600 + 8192)
        try volume.write(file, at: 0, 200_000)
        try volume.fill()
        #expect(try volume.takenByteCount() == SmallVolume.capacity)
        // In the hole that is left there is room for nothing, beyond it for what was allocated.
        #expect(try isFull { try volume.write(file, at: 300_000, 1000) })
        #expect(try volume.write(file, at: 409_600, 409_600) == 409_600)
        #expect(try volume.write(file, at: 0, 200_000) == 200_000)
        #expect(try volume.takenByteCount() == SmallVolume.capacity)
        try await volume.close()
    }

    @Test func anEmptyFileGivesItsRoomBackWhenItIsCutAgain() async throws {
        let (temporary, volume) = try SmallVolume.make()
        defer { _ = temporary }
        let file = try volume.create("f")
        try volume.allocate(file, .allocateKeepingSize, 0, 300_000)
        try volume.truncate(file, to: 0)
        #expect(try volume.takenByteCount() == 0)
        #expect(try volume.fileSystem.attributes(of: file).blockCount == 0)
        try await volume.close()
    }

    @Test func aFileGivesBackWhatIsBeyondItsEndWhenItIsCutThere() async throws {
        let (temporary, volume) = try SmallVolume.make()
        defer { _ = temporary }
        let file = try volume.create("f")
        try volume.write(file, at: 0, 5000)
        try volume.allocate(file, .allocateKeepingSize, 0, 300_000)
        #expect(try volume.takenByteCount() == 74 * 4096)
        try volume.truncate(file, to: 5000)
        let attributes = try volume.fileSystem.attributes(of: file)
        #expect(attributes.size == 5000 && attributes.blockCount == 16)
        #expect(try volume.takenByteCount() == 8192)
        // All of it is free for others.
        try volume.fill()
        #expect(try volume.takenByteCount() == SmallVolume.capacity)
        #expect(try isFull { try volume.write(file, at: 8192, 1) })
        #expect(try await volume.read(file, 0..<10_000) == [UInt8](repeating: 7, count: 5000))
        try await volume.close()
    }

    /// Bytes free, as the disk is made to tell.
    private final class Disk: Sendable { let free = Mutex<UInt64>(1 << 40) }

    @Test func whatIsAllocatedAlreadyNeedsNoRoomOnTheDisk() async throws {
        let (temporary, made) = try SmallVolume.make()
        defer { _ = temporary }
        try await made.close()
        let disk = Disk()
        let volume = try TestVolume(opening: made.directory, freeSpace: { disk.free.withLock { $0 } })
        let file = try volume.create("f")
        try volume.allocate(file, .allocate, 0, 409_600)
        disk.free.withLock { $0 = (64 << 20) + 40_960 }
        try volume.allocate(file, .allocate, 4096, 405_504)
        #expect(try isFull { try volume.allocate(file, .allocate, 0, 409_600 + 45_056) })
        #expect(try volume.fileSystem.attributes(of: file).size == 409_600)
        try volume.allocate(file, .allocate, 0, 409_600 + 36_864)
        try await volume.close()
    }

    /// Below the reserve nothing is asked about what it would take.
    @Test func aDiskThatIsFullButForAReserveTakesOnlyWhatMakesRoom() async throws {
        let (temporary, made) = try SmallVolume.make()
        defer { _ = temporary }
        let file = try made.create("f")
        try made.write(file, at: 0, 100_000)
        func bytes(_ name: String) -> [UInt8] { Array(name.utf8) }
        func set(_ name: String, _ volume: TestVolume) throws {
            try volume.fileSystem.setExtendedAttribute(
                bytes(name), of: file, value: [1], mustCreate: false, mustReplace: false, caller: .root)
        }
        try set("user.a", made)
        let directory = try made.fileSystem.makeDirectory(
            bytes("d"), in: .root, permissions: 0o755, caller: .root
        ).inode
        try await made.close()
        let volume = try TestVolume(opening: made.directory, freeSpace: { 64 << 20 })
        let system = volume.fileSystem
        #expect(try isFull { try volume.write(file, at: 0, 10) })
        #expect(try isFull { try volume.allocate(file, .allocate, 0, 100_000) })
        #expect(try isFull { try volume.allocate(file, .zeroRange, 0, 10) })
        #expect(try isFull { _ = try volume.create("g") })
        #expect(
            try isFull {
                _ = try system.makeDirectory(bytes("e"), in: .root, permissions: 0o755, caller: .root)
            })
        #expect(
            try isFull {
                _ = try system.makeSymbolicLink(bytes("l"), in: .root, target: [65], caller: .root)
            })
        #expect(try isFull { _ = try system.link(file, as: bytes("g"), in: .root) })
        #expect(
            try isFull {
                try system.rename(bytes("f"), in: .root, to: bytes("g"), in: directory, rule: .replace)
            })
        #expect(try isFull { try set("user.a", volume) })
        #expect(try await volume.read(file, 99_999..<100_005) == [7])
        try volume.synchronize(file)
        var changes = AttributeChanges()
        changes.permissions = 0o600
        changes.uid = 5
        changes.modificationTime = .now
        _ = try system.setAttributes(changes, of: file, caller: .root)
        try system.removeExtendedAttribute(bytes("user.a"), of: file)
        try volume.allocate(file, .punchHole, 0, 8192)
        try volume.truncate(file, to: 50_000)
        try volume.truncate(file, to: 60_000)
        #expect(try volume.takenByteCount() == 11 * 4096)
        try system.unlink(bytes("f"), in: .root)
        try system.removeDirectory(bytes("d"), in: .root)
        try await volume.close()
    }

    /// What an origin said of a file that has no bytes in its holes, and of one that is full of zeros, is wrong here.
    @Test(arguments: [false, true])
    func whatFillsHolesOfAnArrivingFileCountsWhenItHasCome(isSynced: Bool) async throws {
        let temporary = try TemporaryDirectory()
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let sparse = try owner.create("sparse")
        try owner.truncate(sparse, to: 1 << 20)
        try owner.write(sparse, at: 0, 4096)
        let zeros = try owner.create("zeros")
        try owner.write(zeros, at: 0, [UInt8](repeating: 0, count: 65_536))
        #expect(try owner.takenByteCount() == 4096 + 65_536)
        let directory = try temporary.make("heir")
        try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
        let contents = [
            sparse: [UInt8](repeating: 7, count: 4096) + [UInt8](repeating: 0, count: (1 << 20) - 4096),
            zeros: [UInt8](repeating: 0, count: 65_536),
        ]
        let source = FakeSource { contents[$0] }
        let heir = try TestVolume(opening: directory, source: source)
        try heir.write(sparse, at: 524_288, 100_000)
        try heir.allocate(sparse, .allocate, 1 << 20, 4096)
        // What it has grown by counts at once.
        #expect(try heir.takenByteCount() == 4096 + 65_536 + 4096)
        if isSynced {
            _ = try await heir.read(sparse, 0..<1 << 20)
            _ = try await heir.read(zeros, 0..<65_536)
            for file in [sparse, zeros] { try heir.synchronize(file) }
        } else {
            heir.startHydration()
            try await heir.waitForHydration()
            try heir.storage.settle()
        }
        let backed = try heir.storage.catalog.perform { try $0.backedInodes(after: InodeNumber(0), limit: 1) }
        #expect(backed == [])
        #expect(try heir.takenByteCount() == 4096 + 25 * 4096 + 4096)
        #expect(try heir.fileSystem.attributes(of: zeros).blockCount == 0)
        #expect(try CatalogImage(heir.storage.catalog).faults() == [])
        try await heir.close()
        try await owner.close()
    }
}
