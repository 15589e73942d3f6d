import ByteStore
import Catalog
import EngineTestSupport
import Foundation
import Glibc
import Hydration
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

@testable import TestBed

/// Disks that change what was written, and everything else that must not be taken for that.
///
/// Heads are on an ext4 in a file, which is changed while it is not mounted: nothing but the disk has a hand in it.
@Suite(.serialized, .enabled("no loop device can be mounted here") { await LoopFileSystem.canMount() })
struct ScrubTests {
    /// A disk with a head on it.
    private struct Disk {
        let cleanup: Cleanup
        let image: String
        let mountPoint: String
        var head: String { mountPoint + "/head" }

        init(_ cleanup: Cleanup, inodeByteCount: Int = 256) async throws {
            self.cleanup = cleanup
            let directory = try cleanup.makeTemporaryDirectory()
            (image, mountPoint) = (directory + "/image", directory + "/mount")
            try await LoopFileSystem.makeExt4(image: image, inodeByteCount: inodeByteCount)
            try await mount(cleanup)
            try FileManager.default.createDirectory(atPath: head, withIntermediateDirectories: true)
        }

        private init(_ cleanup: Cleanup, image: String, mountPoint: String) {
            (self.cleanup, self.image, self.mountPoint) = (cleanup, image, mountPoint)
        }

        /// Its journal waits for long, so that what a test syncs is all that is durable.
        private func mount(_ cleanup: Cleanup?) async throws {
            try await LoopFileSystem.mount(image, at: mountPoint, options: "commit=600", cleanup)
        }

        func unmount() async throws { try await LoopFileSystem.unmount(mountPoint) }

        /// What the disk holds if the power fails now, in a machine of its own.
        func afterPowerLoss(_ name: String) async throws -> Disk {
            let copy = Disk(cleanup, image: image + name, mountPoint: mountPoint + name)
            try await ChildProcess.check(Program("cp", ["--sparse=always", image, copy.image]))
            try await copy.mount(cleanup)
            return copy
        }

        /// Flips a bit of a file, without the file system's knowledge. Unmounts and mounts it.
        func flip(_ path: String, at offset: UInt64) async throws {
            var status = stat()
            #expect(stat(path, &status) == 0)
            try await unmount()
            try await LoopFileSystem.flip(image: image, inode: UInt64(status.st_ino), at: offset)
            try await mount(nil)
        }

        func scrub() throws -> ScrubProgress { try HeadScrub.run(closed: head, terms: ScrubTerms()) }

        func findings() throws -> [String] { try HeadCheck.run(head, isInUse: false).map(\.text) }

        /// Afterwards nothing of it is open.
        func makeHead<Result: Sendable>(_ body: (TestVolume) async throws -> Result) async throws -> Result {
            let volume = try TestVolume.make(in: head)
            let result = try await body(volume)
            try await volume.close()
            return result
        }

        func withHead(_ body: (TestVolume) async throws -> Void) async throws {
            let volume = try TestVolume(opening: head)
            try await body(volume)
            try await volume.close()
        }

        /// The data file of an inode.
        func dataFile(of inode: InodeNumber) throws -> String {
            let storage = try HeadStorage(opening: head)
            let number = try storage.catalog.perform { try $0.inode(inode)?.data.number } ?? 0
            try storage.close()
            let digits = String(number, radix: 16)
            let padded = String(repeating: "0", count: 16 - digits.count) + digits
            return "\(head)/data/\(padded.suffix(2))/\(padded)"
        }
    }

    private static func bytes(_ count: Int, seed: UInt64) -> [UInt8] {
        var generator = Generator(seed: seed)
        return generator.bytes(count)
    }

    @Test func whatTheDiskHasChangedIsFoundAndNamedByFileAndRange() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let disk = try await Disk(cleanup)
            let table = try await disk.makeHead { volume in
                let made = try volume.fileSystem.makeDirectory(
                    Array("d".utf8), in: .root, permissions: 0o755, caller: .root)
                let table = try volume.create("table", in: made.inode)
                try volume.write(table, at: 0, Self.bytes(3 << 20, seed: 1))
                let sparse = try volume.create("sparse")
                try volume.write(sparse, at: 700 << 20, [7])
                for number in 0..<40 {
                    try volume.write(try volume.create("s\(number)"), at: 0, [UInt8(number), 1, 2])
                }
                return table
            }
            let first = try disk.scrub()
            #expect(first.hashedByteCount > 3 << 20 && first.verifiedByteCount == 0, "\(first)")
            let second = try disk.scrub()
            #expect(second.verifiedByteCount == first.hashedByteCount, "\(second)")
            #expect(second.hashedByteCount == 0 && second.busyFileCount == 0, "\(second)")

            let path = try disk.dataFile(of: table)
            try await disk.flip(path, at: (1 << 20) + 300_001)
            // It cannot be seen but by reading.
            #expect(try disk.findings() == [])
            let found = try disk.scrub()
            #expect(found.newDamageCount == 1, "\(found)")
            #expect(found.verifiedByteCount == first.hashedByteCount - 1 << 20, "\(found)")
            let findings = try disk.findings()
            #expect(findings.count == 1, "\(findings)")
            #expect(findings.first?.hasPrefix("/d/table (inode \(table)): ") == true, "\(findings)")
            #expect(
                findings.first?.contains("[1048576, 2097152) of data file \(path)") == true, "\(findings)")
            // Known damage is not told as new, and does not become what is expected.
            #expect(try disk.scrub().newDamageCount == 0)
            #expect(try disk.findings() == findings)
            try await disk.withHead { volume in
                let data = try #require(try volume.storage.catalog.perform { try $0.inode(table)?.data })
                #expect(volume.storage.firstDamage(of: data, from: 0) == ByteRange(1 << 20, 2 << 20))
                #expect(volume.storage.firstDamage(of: data, from: 2 << 20) == nil)
            }

            // Written elsewhere in the file: still damaged.
            try await disk.withHead { _ = try $0.write(table, at: 100, [1, 2, 3]) }
            #expect(try disk.scrub().newDamageCount == 0)
            #expect(try disk.findings() == findings)

            // The disk gives the right bytes again.
            try await disk.flip(path, at: (1 << 20) + 300_001)
            #expect(try disk.scrub().newDamageCount == 0)
            #expect(try disk.findings() == [])

            // A new copy of the file has nothing to do with the old one.
            try await disk.flip(path, at: (2 << 20) + 1)
            #expect(try disk.scrub().newDamageCount == 1)
            try await disk.withHead { volume in
                try volume.truncate(table, to: 0)
                try volume.write(table, at: 0, Self.bytes(3 << 20, seed: 2))
            }
            #expect(try disk.findings() == [])
            #expect(try disk.scrub().newDamageCount == 0)
            #expect(try disk.findings() == [])
        }
    }

    @Test func whatAPersonAcceptsIsExpectedFromThenOn() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let disk = try await Disk(cleanup)
            let file = try await disk.makeHead { volume in
                let file = try volume.create("f")
                try volume.write(file, at: 0, Self.bytes(100_000, seed: 3))
                return file
            }
            _ = try disk.scrub()
            let path = try disk.dataFile(of: file)
            try await disk.flip(path, at: 50_000)
            #expect(try disk.scrub().newDamageCount == 1)
            try HeadDamage.accept(disk.head)
            #expect(try disk.findings() == [])
            #expect(try disk.scrub().newDamageCount == 0)
            #expect(try disk.findings() == [])
            try await disk.flip(path, at: 50_001)
            #expect(try disk.scrub().newDamageCount == 1)
        }
    }

    /// Times to the second, as on an ext4 with small inodes: the worst case for telling one write from another.
    @Test(arguments: [128, 256])
    func writesAreNeverTakenForDamage(inodeByteCount: Int) async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let disk = try await Disk(cleanup, inodeByteCount: inodeByteCount)
            let volume = try TestVolume.make(in: disk.head)
            let files = try (0..<6).map { try volume.create("f\($0)") }
            for file in files { try volume.write(file, at: 0, Self.bytes(300_000, seed: file.number)) }
            let seed = UInt64.random(in: 0..<1_000_000)
            let isOver = Atomic(false)
            let writing = Task.detached {
                var generator = Generator(seed: seed)
                while !isOver.load(ordering: .acquiring) {
                    try Self.change(files, in: volume, &generator)
                    // Each is left alone for about as long as it takes to be hashed, now and then.
                    try await Task.sleep(for: .milliseconds(Int(generator.next() % 900)))
                }
            }
            let deadline = ContinuousClock.now + .seconds(90)
            var sum = ScrubProgress()
            let start = ContinuousClock.now
            while ContinuousClock.now < deadline {
                let scrub = try HeadScrub(disk.head, isInUse: true, terms: ScrubTerms())
                while try scrub.step() != nil {}
                sum.verifiedByteCount += scrub.progress.verifiedByteCount
                sum.hashedByteCount += scrub.progress.hashedByteCount
                sum.newDamageCount += scrub.progress.newDamageCount
                if sum.verifiedByteCount > 0, sum.hashedByteCount > 2 << 20,
                    start.duration(to: .now) > .seconds(15)
                {
                    break
                }
                try await Task.sleep(for: .milliseconds(20))
            }
            isOver.store(true, ordering: .releasing)
            try await writing.value
            #expect(sum.newDamageCount == 0, "seed \(seed): \(sum)")
            #expect(sum.verifiedByteCount > 0 && sum.hashedByteCount > 2 << 20, "seed \(seed): \(sum)")
            try await volume.close()
            _ = try disk.scrub()
            let findings = try disk.findings()
            #expect(findings == [], "seed \(seed)")
        }
    }

    private static func change(
        _ files: [InodeNumber], in volume: TestVolume, _ generator: inout Generator
    ) throws {
        let file = files[Int(generator.next() % UInt64(files.count))]
        for _ in 0..<generator.next() % 20 + 1 {
            let offset = Int(generator.next() % 2_000_000)
            switch generator.next() % 8 {
            case 0: try volume.truncate(file, to: offset)
            case 1:
                try volume.fileSystem.allocate(
                    file, handle: FileHandle(file.number), mode: .punchHole, offset: 0, byteCount: 5000)
            default:
                let count = Int(generator.next() % 20_000) + 8
                try volume.write(file, at: offset, bytes(count, seed: generator.next()))
            }
        }
    }

    /// Where the kernel tells one mount from another, hashes are of use after the crash of a process, too.
    @Test func aKilledProcessCausesNoFalseAlarm() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let disk = try await Disk(cleanup)
            let volume = try TestVolume.make(in: disk.head)
            let (left, written) = (try volume.create("left"), try volume.create("written"))
            for file in [left, written] { try volume.write(file, at: 0, Self.bytes(200_000, seed: 5)) }
            try await volume.close()
            _ = try disk.scrub()
            let killed = try TestVolume(opening: disk.head)
            try killed.write(written, at: 1000, Self.bytes(50_000, seed: 6))
            killed.storage.catalog.abandon()
            // Before anybody has opened it, and after.
            for _ in 0..<2 {
                let found = try disk.scrub()
                #expect(found.newDamageCount == 0, "\(found)")
                if MountLife.current(of: disk.head) != nil { #expect(found.verifiedByteCount >= 200_000) }
                try HeadStorage(opening: disk.head).close()
            }
            #expect(try disk.findings() == [])
        }
    }

    /// New bytes in a file of an old time: what only the power's loss can leave.
    @Test func aPowerLossCausesNoFalseAlarm() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let disk = try await Disk(cleanup)
            let volume = try TestVolume.make(in: disk.head)
            let file = try volume.create("f")
            try volume.write(file, at: 0, Self.bytes(2 << 20, seed: 7))
            try await volume.close()
            #expect(try disk.scrub().hashedByteCount == 2 << 20)
            let path = try disk.dataFile(of: file)
            try await ChildProcess.check(Program("sync", ["-f", disk.mountPoint]))

            let live = try TestVolume(opening: disk.head)
            try live.write(file, at: 4096, Self.bytes(8192, seed: 8))
            // The bytes alone: fdatasync(2) leaves the times for later.
            try await ChildProcess.check(Program("sync", ["-d", path]))
            let lost = try await disk.afterPowerLoss("-lost")
            let opened = try await disk.afterPowerLoss("-opened")
            let trusting = try await disk.afterPowerLoss("-trusting")
            live.storage.catalog.abandon()

            // Looked at before anybody opens it.
            let found = try lost.scrub()
            #expect(found.newDamageCount == 0 && found.hashedByteCount == 2 << 20, "\(found)")
            // Opened and closed in order first.
            try HeadStorage(opening: opened.head).close()
            let later = try opened.scrub()
            #expect(later.newDamageCount == 0 && later.hashedByteCount == 2 << 20, "\(later)")
            #expect(try opened.findings() == [])
            // And this is what it is about: without forgetting, the write would look like damage.
            let scrub = try HeadScrub(trusting.head, isInUse: true, terms: ScrubTerms())
            while try scrub.step() != nil {}
            #expect(scrub.progress.newDamageCount == 1, "\(scrub.progress)")
        }
    }

    @Test func aPowerLossAfterAnEndInOrderCausesNoFalseAlarmAndLosesNoHashes() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let disk = try await Disk(cleanup)
            let volume = try TestVolume.make(in: disk.head)
            let (left, written) = (try volume.create("left"), try volume.create("written"))
            for file in [left, written] { try volume.write(file, at: 0, Self.bytes(1 << 20, seed: 9)) }
            try await volume.close()
            _ = try disk.scrub()
            let live = try TestVolume(opening: disk.head)
            try live.write(written, at: 4096, Self.bytes(8192, seed: 10))
            try await live.close()
            let lost = try await disk.afterPowerLoss("-lost")
            let found = try lost.scrub()
            #expect(found.newDamageCount == 0, "\(found)")
            #expect(found.verifiedByteCount == 1 << 20 && found.hashedByteCount == 1 << 20, "\(found)")
        }
    }
}
