import Catalog
import EngineTestSupport
import Foundation
import Hydration
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

/// A volume holds what it was made for, and not more.
@Suite struct CapacityTests {
    @Test func theLastBlockCanBeWrittenAndNoneBehindIt() async throws {
        let (temporary, volume) = try SmallVolume.make()
        defer { _ = temporary }
        let file = try volume.create("f")
        var end: UInt64 = 0
        while true {
            // 100,000 does not divide the capacity: the last write is cut short where it ends.
            do { end += UInt64(try volume.write(file, at: end, 100_000)) } catch { break }
        }
        #expect(end == SmallVolume.capacity)
        #expect(try volume.freeByteCount() == 0)
        #expect(try isFull { _ = try volume.write(file, at: end, 1) })
        let other = try volume.create("g")
        #expect(try isFull { _ = try volume.write(other, at: 0, 1) })
        // What is there can be written over.
        #expect(try volume.write(file, at: 5000, 100_000) == 100_000)
        #expect(try volume.fileSystem.attributes(of: file).size == SmallVolume.capacity)
        try await volume.close()
    }

    @Test func whatIsRemovedOrCutMakesRoom() async throws {
        let (temporary, volume) = try SmallVolume.make()
        defer { _ = temporary }
        let file = try volume.create("f")
        #expect(try volume.write(file, at: 0, 1 << 20) == 1 << 20)
        try volume.truncate(file, to: 300_000)
        // 300,000 bytes take 74 blocks.
        #expect(try volume.freeByteCount() == SmallVolume.capacity - 74 * 4096)
        #expect(try volume.write(file, at: 303_104, 1 << 20) == 1_048_576 - 303_104)
        try volume.fileSystem.unlink(Array("f".utf8), in: .root)
        volume.fileSystem.forget(file, count: 1)
        #expect(try volume.freeByteCount() == SmallVolume.capacity)
        try await volume.close()
    }

    @Test func holesCostNothingAndFillingThemDoes() async throws {
        let (temporary, volume) = try SmallVolume.make()
        defer { _ = temporary }
        let file = try volume.create("sparse")
        try volume.truncate(file, to: 1 << 40)
        #expect(try volume.freeByteCount() == SmallVolume.capacity)
        #expect(try volume.write(file, at: 1 << 39, 4096) == 4096)
        #expect(try volume.freeByteCount() == SmallVolume.capacity - 4096)
        for number in 1..<256 as Range<UInt64> {
            #expect(try volume.write(file, at: number << 20, 4096) == 4096)
        }
        #expect(try volume.freeByteCount() == 0)
        #expect(try isFull { _ = try volume.write(file, at: 999 << 20, 1) })
        #expect(try volume.write(file, at: 7 << 20, 4096) == 4096)
        // Half of it is there, half would be new: what fits is written.
        #expect(try volume.write(file, at: 9 << 20, 8192) == 4096)
        try volume.fileSystem.allocate(
            file, handle: FileHandle(file.number), mode: .punchHole, offset: 1 << 20, byteCount: 10 << 20)
        #expect(try volume.freeByteCount() == 10 * 4096)
        try await volume.close()
    }

    @Test func allocatingInAdvanceCountsAndIsRefusedAsAWhole() async throws {
        let (temporary, volume) = try SmallVolume.make()
        defer { _ = temporary }
        let file = try volume.create("f")
        func allocate(_ offset: UInt64, _ count: UInt64) throws {
            try volume.fileSystem.allocate(
                file, handle: FileHandle(file.number), mode: .allocate, offset: offset, byteCount: count)
        }
        #expect(try isFull { try allocate(0, (1 << 20) + 1) })
        #expect(try volume.freeByteCount() == SmallVolume.capacity)
        #expect(try volume.fileSystem.attributes(of: file).size == 0)
        try allocate(0, 1 << 20)
        #expect(try volume.freeByteCount() == 0)
        // Once more is nothing more.
        try allocate(4096, 500_000)
        #expect(try volume.write(file, at: 0, 1 << 20) == 1 << 20)
        try await volume.close()
    }

    @Test func smallFilesTakeABlockEach() async throws {
        let (temporary, volume) = try SmallVolume.make()
        defer { _ = temporary }
        var count = 0
        while true {
            let file = try volume.create("f\(count)")
            do { _ = try volume.write(file, at: 0, 1) } catch { break }
            count += 1
        }
        #expect(count == 256)
        try await volume.close()
    }

    @Test func writersAtTheSameTimeCannotExceedItTogether() async throws {
        let (temporary, volume) = try SmallVolume.make()
        defer { _ = temporary }
        let files = try (0..<8).map { try volume.create("f\($0)") }
        let total = Mutex(0)
        await withTaskGroup(of: Void.self) { group in
            for file in files {
                group.addTask { @Sendable in
                    var end: UInt64 = 0
                    while let count = try? volume.write(file, at: end, 20_480) {
                        end += UInt64(count)
                        total.withLock { $0 += count }
                    }
                }
            }
        }
        #expect(total.withLock { $0 } == 1 << 20)
        #expect(try volume.freeByteCount() == 0)
        try await volume.close()
    }

    @Test func aLimitOfInodesIsOneOfNamesToo() async throws {
        let (temporary, volume) = try SmallVolume.make(inodes: 4)
        defer { _ = temporary }
        for number in 0..<3 { _ = try volume.create("f\(number)") }
        #expect(try isFull { _ = try volume.create("f3") })
        #expect(throws: FileSystemError.errno(.noSpace)) {
            try volume.fileSystem.makeDirectory(
                Array("d".utf8), in: .root, permissions: 0o755, caller: .root)
        }
        let statistics = try volume.fileSystem.statistics()
        #expect(statistics.totalInodes == 4 && statistics.freeInodes == 0)
        try volume.fileSystem.unlink(Array("f0".utf8), in: .root)
        volume.fileSystem.forget(InodeNumber(2), count: 1)
        _ = try volume.create("f3")
        try await volume.close()
    }

    @Test func moreRoomIsThereAtOnceAndStaysAfterReopening() async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("head")
        let limits = VolumeLimits(byteCount: SmallVolume.capacity)
        let volume = try TestVolume.make(in: directory, limits: limits)
        let file = try volume.create("f")
        #expect(try volume.write(file, at: 0, 2 << 20) == 1 << 20)
        try volume.storage.catalog.perform { try $0.setLimits(VolumeLimits(byteCount: 3 << 20)) }
        #expect(try volume.freeByteCount() == 2 << 20)
        #expect(try volume.write(file, at: 1 << 20, 1 << 20) == 1 << 20)
        try await volume.close()
        let again = try TestVolume(opening: directory)
        #expect(try again.freeByteCount() == 1 << 20)
        #expect(try CatalogImage(again.storage.catalog).faults() == [])
        try await again.close()
    }
}
