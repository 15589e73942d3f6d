import BlockHashes
import Catalog
import EngineTestSupport
import Glibc
import Hydration
import Testing
import VolumeModel

/// What is known to be damaged, through a real mount with its page cache.
@Suite struct DamageTests {
    private static let size = 3 << 20

    /// A volume with a file whose middle MiB turns out to be damaged, after programs have read it.
    private static func volume() throws -> (volume: MountedVolume, file: InodeNumber) {
        let volume = try MountedVolume()
        #expect(
            try volume.shell("head -c \(size) /dev/urandom > f; sync f; cp f /dev/null; cp f ../before").code
                == 0)
        return (volume, try volume.fileSystem.lookup(Array("f".utf8), in: .root).inode)
    }

    private static func damage(_ volume: MountedVolume, _ file: InodeNumber) throws {
        let data = try volume.storage.catalog.perform { try $0.inode(file)?.data } ?? .none
        let range = ByteRange(1 << 20, 2 << 20)
        try HashDatabase(in: volume.directory + "/head").add(
            DamagedBlock(data: data, range: range, inode: file, expected: [1]))
        for extent in try volume.storage.learnDamage() { volume.mount.invalidate(extent.inode, extent.range) }
    }

    private static func waitUntil(_ condition: () -> Bool) async throws {
        let deadline = ContinuousClock.now + .seconds(60)
        while !condition(), ContinuousClock.now < deadline { try await Task.sleep(for: .milliseconds(10)) }
        #expect(condition())
    }

    @Test func whatProgramsHaveReadBeforeIsNotGivenFromTheCache() async throws {
        let (volume, file) = try Self.volume()
        try Self.damage(volume, file)
        try await Self.waitUntil {
            (try? volume.shell("! dd if=f of=/dev/null bs=4k skip=300 count=1 2>/dev/null").code) == 0
        }
        let result = try volume.shell(
            """
            set -e
            ! cat f > /dev/null 2>&1; ! cp f ../copy 2> /dev/null
            cmp -n 1048576 f ../before; cmp -i 2097152 f ../before
            dd if=f of=/dev/null bs=4k skip=300 count=1 2>&1 | grep -q 'Input/output error'
            # What is written anew is there, and no more than that.
            printf new | dd of=f bs=1 seek=1500000 conv=notrunc status=none
            test "$(dd if=f bs=1 skip=1500000 count=3 iflag=direct status=none)" = new
            ! dd if=f of=/dev/null bs=1 skip=1500003 count=1 iflag=direct 2> /dev/null
            dd if=../before of=f bs=1M skip=1 seek=1 count=1 conv=notrunc,fsync status=none
            cmp f ../before
            """)
        #expect(result.code == 0, "\(result.output)")
        #expect(try HashDatabase.damage(in: volume.directory + "/head") == KnownDamage())
        await volume.end()
    }

    /// A source that answers nobody.
    private struct SilentSource: ByteSource {
        let name = "nowhere"

        func read(_ extents: [Extent], urgency: Urgency, timeout: Duration) async throws -> [Piece] {
            throw HydrationError.storage("nothing comes")
        }
    }

    /// Of a file that is here nothing is given from the cache, whatever else of the volume is still to come.
    @Test func theCacheIsDroppedAlsoWhileOtherFilesArrive() async throws {
        let owner = try TemporaryDirectory()
        let origin = try TestVolume.make(in: try owner.make("owner"))
        let file = try origin.create("f")
        let late = try origin.create("late")
        for inode in [file, late] {
            try origin.write(inode, at: 0, [UInt8](repeating: 3, count: Self.size))
        }
        try origin.storage.settle()
        let volume = try await MountedVolume(
            makeHead: { try await TestVolume.makeHeir(of: origin.storage.catalog, in: $0) },
            source: SilentSource())
        try await origin.close()
        try volume.storage.store(
            Piece(
                inode: file, range: ByteRange(0, UInt64(Self.size)),
                content: .bytes([UInt8](repeating: 3, count: Self.size))))
        #expect(volume.fileSystem.mayFault && volume.fileSystem.mayFault(reading: late))
        #expect(try volume.shell("cp f ../before").code == 0)
        try Self.damage(volume, file)
        try await Self.waitUntil {
            (try? volume.shell("! dd if=f of=/dev/null bs=4k skip=300 count=1 2>/dev/null").code) == 0
        }
        #expect(try volume.shell("cmp -n 1048576 f ../before").code == 0)
        await volume.end()
    }

    @Test func mappingsLoseWhatTheyHaveCached() async throws {
        let (volume, file) = try Self.volume()
        let descriptor = open(volume.mountPoint + "/f", O_RDONLY)
        try #require(descriptor >= 0)
        let map = mmap(nil, Self.size, PROT_READ, MAP_SHARED, descriptor, 0)
        try #require(map != MAP_FAILED && map != nil)
        let bytes = UnsafeRawBufferPointer(start: map, count: Self.size)
        var sum = 0
        for offset in stride(from: 0, to: Self.size, by: 4096) { sum += Int(bytes[offset]) }
        #expect(sum > 0)
        func isCached(_ offset: Int) -> Bool {
            var state: UInt8 = 0
            return mincore(map?.advanced(by: offset), 4096, &state) == 0 && state & 1 == 1
        }
        #expect(isCached(300 << 12) && isCached(0))
        try Self.damage(volume, file)
        // To touch it now would be SIGBUS.
        try await Self.waitUntil { !isCached(300 << 12) }
        #expect(isCached(0))
        munmap(map, Self.size)
        close(descriptor)
        await volume.end()
    }
}
