import EngineTestSupport
import Foundation
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

/// What is done again when that has come which it lacked.
@Suite struct RepeatedOperationTests {
    /// Whether a task has looked how full the disk is, each time.
    private final class Looks: Sendable { let areTasks = Mutex<[Bool]>([]) }

    /// It may wait for a commit, and that for a disk; tasks are as few as processors.
    @Test func aChangeThatHasWaitedForNamesIsMadeByNoTask() async throws {
        let temporary = try TemporaryDirectory()
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let directory = try owner.fileSystem.makeDirectory(
            Array("d".utf8), in: .root, permissions: 0o755, caller: .root
        ).inode
        for number in 1...3 { _ = try owner.create("old\(number)", in: directory) }
        let catalog = owner.storage.catalog
        // So little at a time that the change has to wait itself, and so slowly that each try looks at the disk anew.
        let source = FakeSource({ _ in nil }) { state in
            state.catalog = catalog
            state.listingByteCount = 1
            state.delay = .milliseconds(300)
        }
        let looks = Looks()
        let volume = try await MountedVolume(
            makeHead: { try TestVolume.makeArrivingHeir(of: catalog, in: $0, byteCount: 1) },
            source: source, directories: source,
            freeSpace: {
                looks.areTasks.withLock { $0.append(withUnsafeCurrentTask { $0 != nil }) }
                return 1 << 40
            })
        let made = try volume.shell("mkdir d/new; ls d | tr '\\n' ' '")
        #expect(made.code == 0 && made.output == "new old1 old2 old3 ", "\(made.output)")
        // The first time on a thread of the mount.
        let areTasks = looks.areTasks.withLock { $0 }
        #expect(areTasks.count >= 2 && !areTasks.contains(true), "\(areTasks)")
        await volume.end()
        try await owner.close()
    }
}
