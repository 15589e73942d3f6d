import EngineTestSupport
import Foundation
import Glibc
import Hydration
import SQLite
import Testing
import VolumeFileSystem
import VolumeModel

@testable import Catalog
@testable import TestBed

/// Bugs that no disk can stand for: each is done by hand where the engine would do the right thing, and the check that
/// finds nothing without it finds it. (`PowerLossTests` plants the others.)
@Suite struct PlantedBugTests {
    /// What a program may find after a crash, of the only file that there is.
    private static func fault(
        in head: String, _ name: String, _ worlds: [Thing]
    ) async throws -> [String] {
        let volume = try TestVolume(opening: head)
        let promise = TreePromise(moment: 0, worlds: worlds.map { [name: $0] })
        var faults = await TreePromise.broken([name: [promise]], at: 0, in: volume)
        try await volume.close()
        faults += try HeadCheck.run(head, isInUse: false).filter { $0.kind != .leftover }.map(\.text)
        return faults
    }

    private static func bytes(_ count: Int, seed: UInt64) -> [UInt8] {
        var generator = Generator(seed: seed)
        return generator.bytes(count)
    }

    /// A data file is deleted as soon as nobody needs it, not when that is durable.
    @Test(arguments: [false, true])
    func aDataFileThatIsDeletedBeforeTheCommitIsMissed(isPlanted: Bool) async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        let content = Self.bytes(10_000, seed: 1)
        let inode = try volume.create("file")
        try volume.write(inode, at: 0, content)
        try volume.synchronize(inode)
        try volume.storage.settle()
        try volume.fileSystem.unlink(Array("file".utf8), in: .root)
        volume.fileSystem.forget(inode, count: 1)
        if isPlanted {
            let discarded = try volume.storage.catalog.perform { try $0.garbage() }
            #expect(!discarded.isEmpty)
            for data in discarded { try volume.storage.bytes.delete(data) }
        }
        let copy = temporary.path + "/copy"
        try TemporaryDirectory.copyHead(from: volume.directory, to: copy)
        volume.storage.catalog.abandon()
        let faults = try await Self.fault(in: copy, "file", [.absent, .file(PossibleBytes(content))])
        #expect(faults.isEmpty != isPlanted, "\(faults)")
    }

    /// What was written over damage is on the disk, and that it is good is not.
    @Test(arguments: [false, true])
    func damageThatIsNotNotedAsWrittenOverIsMissed(isPlanted: Bool) async throws {
        let temporary = try TemporaryDirectory()
        let head = try temporary.make("head")
        let first = try TestVolume.make(in: head)
        var content = Self.bytes(200_000, seed: 2)
        let inode = try first.create("file")
        try first.write(inode, at: 0, content)
        try await first.close()
        // The disk loses the end of the only data file.
        let (name, _) = try #require(UndoneRecovery.sizes(of: head).max { $0.value < $1.value })
        #expect(truncate("\(head)/data/\(name)", 100_000) == 0)

        let volume = try TestVolume(opening: head)
        await #expect(throws: FileSystemError.errno(.inputOutput)) {
            _ = try await volume.read(inode, 0..<content.count)
        }
        let noted = try FileManager.default.contentsOfDirectory(atPath: head).filter {
            $0.hasPrefix("hashes.db")
        }
        #expect(!noted.isEmpty)
        let before = try temporary.make("before")
        for file in noted {
            try FileManager.default.copyItem(atPath: "\(head)/\(file)", toPath: "\(before)/\(file)")
        }
        let end = Self.bytes(100_000, seed: 3)
        content.replaceSubrange(100_000..., with: end)
        try volume.write(inode, at: 100_000, end)
        try volume.synchronize(inode)
        let copy = temporary.path + "/copy"
        try TemporaryDirectory.copyHead(from: head, to: copy)
        for file in noted {
            try FileManager.default.copyItem(
                atPath: "\(isPlanted ? before : head)/\(file)", toPath: "\(copy)/\(file)")
        }
        volume.storage.catalog.abandon()
        let faults = try await Self.fault(in: copy, "file", [.file(PossibleBytes(content))])
        #expect(faults.isEmpty != isPlanted, "\(faults)")
    }

    /// SQLite takes a failed commit back, and what it held is not put in again.
    @Test(.enabled(if: geteuid() == 0, "mounts need root"), arguments: [false, true])
    func aGroupThatIsNotRepeatedAfterAFailedCommitIsMissed(isPlanted: Bool) async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let directory = try cleanup.makeTemporaryDirectory()
            let disk = directory + "/disk"
            try FileManager.default.createDirectory(atPath: disk, withIntermediateDirectories: true)
            try await ChildProcess.check(
                Program("mount", ["-t", "tmpfs", "-o", "size=16m", "tmpfs", disk]), limit: .seconds(20))
            try cleanup.add(mountAt: disk)
            let head = disk + "/head"
            try FileManager.default.createDirectory(atPath: head, withIntermediateDirectories: true)
            try Catalog.create(
                in: head, limits: VolumeLimits(byteCount: 1 << 30), epoch: .first,
                now: VolumeFileSystem.now(),
                withRoot: true)
            let volume = try TestVolume(opening: head, freeSpace: { 1 << 30 })
            // More than the log has room set aside for.
            let values = (0..<60).map { Self.bytes(60_000, seed: $0) }
            for (number, value) in values.enumerated() {
                let inode = try volume.create("f\(number)")
                try volume.fileSystem.setExtendedAttribute(
                    Array("user.large".utf8), of: inode, value: value, mustCreate: false, mustReplace: false,
                    caller: .root)
            }
            _ = try await ChildProcess.run(
                Program("dd", ["if=/dev/zero", "of=\(disk)/filler", "bs=64k", "status=none"]),
                limit: .seconds(20))
            #expect(throws: (any Error).self) { try volume.storage.catalog.synchronize() }
            #expect(volume.storage.trouble != nil)
            if isPlanted {
                // Whoever asks has it repeated first.
                try volume.storage.catalog.perform { state in
                    try state.connection.execute("ROLLBACK")
                    try state.beginTransaction()
                    state.recorder.forget()
                }
            }
            #expect(unlink(disk + "/filler") == 0)
            // Where nothing is left of the group, not even this need be possible.
            try? volume.storage.catalog.synchronize()
            let copy = directory + "/copy"
            try TemporaryDirectory.copyHead(from: head, to: copy)
            volume.storage.catalog.abandon()
            let faults = try await Self.lost(of: values, in: copy)
            #expect(faults.isEmpty != isPlanted, "\(faults)")
        }
    }

    private static func lost(of values: [[UInt8]], in head: String) async throws -> [String] {
        let volume = try TestVolume(opening: head)
        var faults: [String] = []
        for (number, value) in values.enumerated() {
            guard let found = try await TreePromise.look("f\(number)", in: volume) else {
                faults.append("f\(number) is gone")
                continue
            }
            let present = try? volume.fileSystem.extendedAttribute(
                Array("user.large".utf8), of: found.inode)
            if present != value { faults.append("f\(number) has another attribute") }
        }
        try await volume.close()
        return faults
    }
}
