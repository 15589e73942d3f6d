import EngineTestSupport
import Foundation
import Hydration
import Synchronization
import Testing
import VolumeModel

@testable import ByteStore
@testable import Catalog
@testable import VolumeFileSystem

/// Commits that wait for bytes nobody has synced, and those that do not.
@Suite struct AwaitedBytesTests {
    /// A volume with a file that is synced, and another whose sync is what commits.
    private struct Scene {
        let temporary: TemporaryDirectory
        let volume: TestVolume
        let old: InodeNumber
        private let other: InodeNumber

        init() throws {
            temporary = try TemporaryDirectory()
            volume = try TestVolume.make(in: try temporary.make("head"))
            old = try volume.create("old")
            other = try volume.create("other")
            try volume.write(old, at: 0, [1, 2, 3])
            try volume.storage.settle()
        }

        func made(_ name: String, _ bytes: [UInt8] = [4, 5, 6]) throws -> InodeNumber {
            let inode = try volume.create(name)
            try volume.write(inode, at: 0, bytes)
            return inode
        }

        func rename(_ name: String, to newName: String, _ rule: RenameRule = .replace) throws {
            try volume.fileSystem.rename(
                Array(name.utf8), in: .root, to: Array(newName.utf8), in: .root, rule: rule)
        }

        func syncOther() throws {
            try volume.write(other, at: 0, [7])
            try volume.synchronize(other)
        }

        func data(of inode: InodeNumber) throws -> DataFileNumber {
            try #require(try volume.storage.catalog.perform { try $0.inode(inode) }).data
        }

        /// Whether a power loss may take the bytes.
        func isChanged(_ inode: InodeNumber) throws -> Bool {
            volume.storage.bytes.isChanged(try data(of: inode))
        }

        var awaitedCount: Int { get throws { try volume.storage.catalog.perform { $0.awaited.notes.count } } }
    }

    // MARK: what is waited for

    @Test(arguments: [RenameRule.replace, .exchange])
    func aRenameOntoAFileIsCommittedAfterTheBytes(_ rule: RenameRule) async throws {
        let scene = try Scene()
        let new = try scene.made("new")
        try scene.rename("new", to: "old", rule)
        #expect(try scene.isChanged(new))
        try scene.syncOther()
        #expect(try !scene.isChanged(new) && scene.awaitedCount == 0)
        try await scene.volume.close()
    }

    /// However it comes about: also the chore's commit, and what a follower or an heir is given.
    @Test func everyCommitWaits() async throws {
        let scene = try Scene()
        let catalog = scene.volume.storage.catalog
        func expectWaits(_ commit: () async throws -> Void) async throws {
            let new = try scene.made("new")
            try scene.rename("new", to: "old")
            #expect(try scene.isChanged(new) && scene.awaitedCount == 1)
            try await commit()
            #expect(try !scene.isChanged(new) && scene.awaitedCount == 0)
        }
        try await expectWaits { try catalog.commit() }
        try await expectWaits { try scene.volume.storage.settle() }
        try await expectWaits { _ = try await catalog.sendChanges(to: "follower", since: nil) { _ in } }
        try await expectWaits { _ = try catalog.pin("heir", sealedFor: Epoch(2)) }
        try await expectWaits { try catalog.copy(to: try scene.temporary.make("copy")) }
        // More than may wait for a commit: who has added the last change waits, after it.
        try await expectWaits {
            try catalog.perform { state in
                for _ in 0..<20_000 { try state.setLimits(state.limits) }
            }
        }
        let new = try scene.made("new")
        try scene.rename("new", to: "old")
        let data = try scene.data(of: new)
        try await scene.volume.close()
        #expect(!scene.volume.storage.bytes.isChanged(data))
    }

    /// Whose commit was another's as well has nothing to wait for, and nothing to commit.
    @Test(arguments: [false, true]) func whoComesTooLateToCommitDoesNot(waits: Bool) async throws {
        let scene = try Scene()
        let catalog = scene.volume.storage.catalog
        let new = try scene.made("new")
        let before = catalog.lastSequence
        try catalog.commitAsDue(waits: waits)
        #expect(catalog.lastSequence == before)
        try scene.rename("new", to: "old")
        try catalog.commitAsDue(waits: waits)
        #expect(try catalog.lastSequence == before && scene.isChanged(new) && scene.awaitedCount == 1)
        try catalog.perform { state in
            for _ in 0..<20_000 { try state.setLimits(state.limits) }
        }
        #expect(try catalog.lastSequence > before && !scene.isChanged(new))
        try await scene.volume.close()
    }

    /// What is changed while a commit waits for gigabytes holds up no thread that the kernel's requests need.
    @Test func nobodyWaitsForSomebodyElsesBytesUntilFarTooMuchIsWaiting() async throws {
        let scene = try Scene()
        let catalog = scene.volume.storage.catalog
        let (hasBegun, isLetGo, hasEnded) = (Flag(), Flag(), Flag())
        catalog.awaitBytes { _ in
            hasBegun.set()
            while !isLetGo.isSet { usleep(1000) }
            return []
        }
        @Sendable func change(_ count: Int) throws {
            try catalog.perform { state in
                for _ in 0..<count { try state.setLimits(state.limits) }
            }
        }
        _ = try scene.made("new")
        try scene.rename("new", to: "old")
        async let first: Void = BlockingThreads.run { try change(20_000) }
        while !hasBegun.isSet { try await Task.sleep(for: .milliseconds(1)) }
        for _ in 0..<100 { try change(10) }
        #expect(try scene.awaitedCount == 1)
        async let last: Void = BlockingThreads.run {
            try change(80_000)
            hasEnded.set()
        }
        while try catalog.perform({ $0.recorder.count }) < 100_000 {
            try await Task.sleep(for: .milliseconds(1))
        }
        try await Task.sleep(for: .milliseconds(50))
        #expect(!hasEnded.isSet)
        isLetGo.set()
        try await first
        try await last
        #expect(try scene.awaitedCount == 0 && catalog.perform { $0.recorder.count } == 0)
        try await scene.volume.close()
    }

    @Test func aFileThatIsCutAndWrittenAnewIsCommittedAfterItsBytes() async throws {
        let scene = try Scene()
        let fileSystem = scene.volume.fileSystem
        let handle = try fileSystem.open(scene.old, openFlags: 1)
        try scene.volume.truncate(scene.old, to: 0)
        for byte in UInt8(0)..<3 {
            try scene.volume.write(scene.old, at: Int(byte), [byte])
            #expect(try scene.isChanged(scene.old))
            try scene.syncOther()
            #expect(try !scene.isChanged(scene.old))
        }
        // Large ones are waited for when they are closed.
        try scene.volume.write(scene.old, at: 5 << 20, [1])
        try scene.syncOther()
        #expect(try scene.isChanged(scene.old))
        fileSystem.release(scene.old, handle: handle)
        try scene.syncOther()
        #expect(try !scene.isChanged(scene.old))
        // From then on it is a file like any other.
        try scene.volume.write(scene.old, at: 3, [3])
        try scene.volume.write(scene.old, at: 6 << 20, [3])
        try scene.syncOther()
        #expect(try scene.isChanged(scene.old))
        #expect(fileSystem.leave() == OpenFiles())
        try await scene.volume.close()
    }

    /// Nobody syncs more than he asked for.
    @Test func whatReplacesNothingIsNotWaitedFor() async throws {
        let scene = try Scene()
        // Cut, but not to nothing; written in place; longer than before; made with O_TRUNC, and empty.
        let settled = try scene.made("settled", Array(repeating: 1, count: 10_000))
        try scene.volume.storage.settle()
        var files = try (0..<20).map { try scene.made("f\($0)") }
        try scene.rename("f0", to: "g0")
        try scene.rename("f1", to: "g1", .refuseToReplace)
        try scene.volume.truncate(settled, to: 5000)
        try scene.volume.write(settled, at: 2000, [2])
        try scene.volume.write(settled, at: 20_000, [3])
        files.append(settled)
        let empty = try scene.volume.create("empty")
        let handle = try scene.volume.fileSystem.open(empty, openFlags: 1)
        try scene.volume.truncate(empty, to: 0)
        try scene.volume.write(empty, at: 0, [1])
        scene.volume.fileSystem.release(empty, handle: handle)
        files.append(empty)
        // Written, synced, renamed: what programs do that sync.
        let synced = try scene.made("synced")
        try scene.volume.synchronize(synced)
        try scene.rename("synced", to: "old")
        #expect(try scene.awaitedCount == 0)
        try scene.syncOther()
        for file in files { #expect(try scene.isChanged(file)) }
        // What is replaced itself before a commit is not waited for.
        let short = try scene.made("short")
        try scene.rename("short", to: "old")
        _ = try scene.made("last")
        try scene.rename("last", to: "old")
        scene.volume.fileSystem.forget(short, count: 1)
        #expect(try scene.awaitedCount == 1)
        try await scene.volume.close()
    }

    /// What was written in the place of an origin's bytes, and the origin's are asked for again where that is not recorded.
    @Test(arguments: [RenameRule.replace, .exchange])
    func whatTookThePlaceOfTheOriginsBytesStaysInAFileThatReplacesAnother(_ rule: RenameRule) async throws {
        let temporary = try TemporaryDirectory()
        let heir = try temporary.make("heir")
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let content = (0..<20_000).map { UInt8($0 % 251) }
        let names = ["new", "old", "other"]
        let files = try names.map { try owner.create($0) }
        for file in files { try owner.write(file, at: 0, content) }
        try owner.storage.settle()
        try await TestVolume.makeHeir(of: owner.storage.catalog, in: heir)
        try await owner.close()
        let source = FakeSource { _ in content }
        let volume = try TestVolume(opening: heir, source: source)
        try volume.write(files[0], at: 5000, [UInt8](repeating: 255, count: 3000))
        // Also when its bytes are on the disk, and only the record is not.
        if rule == .exchange { #expect(volume.storage.bytes.synchronizeAll().isEmpty) }
        try volume.fileSystem.rename(
            Array("new".utf8), in: .root, to: Array("old".utf8), in: .root, rule: rule)
        try volume.write(files[2], at: 0, [1])
        try volume.synchronize(files[2])
        let copy = temporary.path + "/copy"
        try TemporaryDirectory.copyHead(from: heir, to: copy)
        try await volume.close()
        let again = try TestVolume(opening: copy, source: source)
        let found = try again.fileSystem.lookup(Array("old".utf8), in: .root)
        #expect(found.inode == files[0])
        var expected = content
        expected.replaceSubrange(5000..<8000, with: [UInt8](repeating: 255, count: 3000))
        #expect(try await again.read(found.inode, 0..<20_000) == expected)
        try await again.close()
    }

    /// A daemon whose log was cut goes on writing for ever, and nobody else's syncs wait for that.
    @Test func aFileThatIsWrittenForLongAfterACutIsWaitedForWhenItIsClosed() async throws {
        let scene = try Scene()
        let fileSystem = scene.volume.fileSystem
        let handle = try fileSystem.open(scene.old, openFlags: 1)
        try scene.volume.truncate(scene.old, to: 0)
        try scene.volume.write(scene.old, at: 0, [1])
        try scene.syncOther()
        #expect(try !scene.isChanged(scene.old))
        // As if it had been cut long ago.
        fileSystem.rewriting.withLock { $0[scene.old] = ContinuousClock.now - .milliseconds(1) }
        for byte in 1...3 {
            try scene.volume.write(scene.old, at: byte, [1])
            try scene.syncOther()
            #expect(try scene.isChanged(scene.old))
        }
        #expect(fileSystem.rewriting.withLock { $0.isEmpty })
        fileSystem.release(scene.old, handle: handle)
        try scene.syncOther()
        #expect(try !scene.isChanged(scene.old))
        // Cut anew, it is waited for anew.
        let second = try fileSystem.open(scene.old, openFlags: 1)
        try scene.volume.truncate(scene.old, to: 0)
        try scene.volume.write(scene.old, at: 0, [1])
        try scene.syncOther()
        #expect(try !scene.isChanged(scene.old))
        fileSystem.release(scene.old, handle: second)
        #expect(fileSystem.rewriting.withLock { $0.isEmpty } && fileSystem.leave() == OpenFiles())
        try await scene.volume.close()
    }

    // MARK: while it is waited

    /// Syncs of awaited files that end when they are told to.
    private final class SlowDisk: Sendable {
        private struct State {
            var calls: [[DataFileNumber]] = []
            var mayEnd = 0
        }

        private let state = Mutex(State())
        var calls: [[DataFileNumber]] { state.withLock { $0.calls } }

        func synchronize(_ files: [DataFileNumber]) -> Set<DataFileNumber> {
            let number = state.withLock { state in
                state.calls.append(files)
                return state.calls.count
            }
            while state.withLock({ $0.mayEnd < number }) { usleep(500) }
            return []
        }

        func endCall() { state.withLock { $0.mayEnd += 1 } }

        func waitForCall(_ number: Int) async throws {
            while calls.count < number { try await Task.sleep(for: .milliseconds(1)) }
        }
    }

    /// What blocks must not take a thread that tasks need.
    private static func onThread(_ body: @escaping @Sendable () throws -> Void) -> Task<Void, any Error> {
        Task {
            try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
                Thread.detachNewThread { done.resume(with: Result { try body() }) }
            }
        }
    }

    @Test(.timeLimit(.minutes(1))) func operationsGoOnWhileACommitWaits() async throws {
        let scene = try Scene()
        let catalog = scene.volume.storage.catalog
        let disk = SlowDisk()
        catalog.awaitBytes { disk.synchronize($0) }
        let first = try scene.data(of: try scene.made("first"))
        try scene.rename("first", to: "old")
        let before = catalog.lastSequence
        let syncing = Self.onThread { try scene.syncOther() }
        try await disk.waitForCall(1)
        var awaited = [first]
        // Nothing of this waits; and as it belongs to the same commit, that waits for it as well.
        for call in 2...3 {
            awaited.append(try scene.data(of: try scene.made("next")))
            try scene.rename("next", to: "old")
            disk.endCall()
            try await disk.waitForCall(call)
        }
        #expect(catalog.lastSequence == before)
        // But not for ever: who comes now waits himself.
        let last = try scene.made("last")
        let renaming = Self.onThread { try scene.rename("last", to: "old") }
        try await Task.sleep(for: .milliseconds(50))
        #expect(try scene.awaitedCount == 1)
        disk.endCall()
        try await syncing.value
        try await renaming.value
        #expect(disk.calls == awaited.map { [$0] } && catalog.lastSequence > before)
        disk.endCall()
        try scene.syncOther()
        #expect(try disk.calls.last == [scene.data(of: last)] && scene.awaitedCount == 0)
        try await scene.volume.close()
    }

    private final class Flag: Sendable {
        private let value = Atomic(false)
        var isSet: Bool { value.load(ordering: .acquiring) }
        func set() { value.store(true, ordering: .releasing) }
    }

    /// A few tasks that wait for a disk would hold up all tasks of the process.
    @Test(.timeLimit(.minutes(1))) func whatWaitsForBytesHoldsUpNoTask() async throws {
        let scene = try Scene()
        let catalog = scene.volume.storage.catalog
        let disk = SlowDisk()
        catalog.awaitBytes { disk.synchronize($0) }
        _ = try scene.made("new")
        try scene.rename("new", to: "old")
        let isOver = Flag()
        Thread.detachNewThread {
            // Also when nobody comes to say so: then this has failed, and ends.
            for _ in 0..<500 where !isOver.isSet { usleep(10_000) }
            isOver.set()
            disk.endCall()
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<4 * ProcessInfo.processInfo.activeProcessorCount {
                group.addTask {
                    _ = try await catalog.sendChanges(to: "follower\(number)", since: nil) { _ in }
                }
            }
            try await disk.waitForCall(1)
            for _ in 0..<30 { try await Task.sleep(for: .milliseconds(1)) }
            #expect(!isOver.isSet)
            isOver.set()
            try await group.waitForAll()
        }
        try await scene.volume.close()
    }

    /// However many files are replaced all the time, a sync of another one ends.
    @Test(.timeLimit(.minutes(1))) func aSyncComesToItsTurn() async throws {
        let scene = try Scene()
        let isOver = Flag()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<3 {
                group.addTask {
                    while !isOver.isSet {
                        _ = try scene.made("new\(number)")
                        try scene.rename("new\(number)", to: "old\(number)")
                        await Task.yield()
                    }
                }
            }
            group.addTask {
                defer { isOver.set() }
                for _ in 0..<10 { try scene.syncOther() }
            }
            try await group.waitForAll()
        }
        try await scene.volume.close()
    }

    // MARK: a disk that refuses

    @Test func aFileThatCannotBeSyncedHoldsUpNoCommitAndItsOwnSyncSaysSo() async throws {
        let scene = try Scene()
        let new = try scene.made("new")
        let file = try scene.volume.storage.bytes.open(try scene.data(of: new))
        file.fail(ByteStoreError(call: "fdatasync", path: "a data file", errno: .inputOutput))
        try scene.rename("new", to: "old")
        for _ in 0..<2 { try scene.syncOther() }
        #expect(try scene.awaitedCount == 0)
        // Nobody was told yet.
        let handle = try scene.volume.fileSystem.open(new, openFlags: 1)
        for _ in 0..<2 {
            #expect(throws: FileSystemError.errno(.inputOutput)) {
                try scene.volume.fileSystem.synchronize(new, handle: handle, dataOnly: true)
            }
        }
        scene.volume.fileSystem.release(new, handle: handle)
        try scene.volume.write(new, at: 0, [8])
        try scene.volume.synchronize(new)
        try scene.volume.storage.settle()
        #expect(scene.volume.storage.trouble == nil)
        try await scene.volume.close()
    }

    // MARK: where files end after a power loss

    private static func cutAllDataFiles(of head: String, to size: Int) throws {
        for name in try FileManager.default.subpathsOfDirectory(atPath: head + "/data")
        where name.contains("/") && truncate("\(head)/data/\(name)", size) != 0 {
            Issue.record("cannot cut \(name)")
        }
    }

    /// Of what was written last the disk has a part.
    @Test func whatWasNeverSyncedEndsWhereItsBytesDo() async throws {
        let scene = try Scene()
        let late = try scene.made("late", Array(repeating: 1, count: 9000))
        try scene.syncOther()
        let copy = scene.temporary.path + "/copy"
        try TemporaryDirectory.copyHead(from: scene.volume.directory, to: copy)
        let data = ByteStore.name(of: try scene.data(of: late))
        try await scene.volume.close()
        for size in [5000, 0, nil] {
            let head = scene.temporary.path + "/head\(size ?? -1)"
            try FileManager.default.copyItem(atPath: copy, toPath: head)
            let path = "\(head)/data/\(data)"
            if let size { #expect(truncate(path, size) == 0) } else { #expect(unlink(path) == 0) }
            for _ in 0..<2 {
                let volume = try TestVolume(opening: head)
                #expect(
                    try await volume.read(late, 0..<10_000) == [UInt8](repeating: 1, count: size ?? 0))
                #expect(try volume.fileSystem.attributes(of: late).size == UInt64(size ?? 0))
                #expect(try await volume.read(scene.old, 0..<10) == [1, 2, 3])
                try await volume.close()
            }
            #expect(try HeadCheck.run(head, isInUse: false).filter { $0.kind != .leftover } == [])
        }
    }

    /// A size that was synced without any bytes lasts, also when the first bytes come.
    @Test func aSizeThatWasSyncedOutlastsTheFirstBytes() async throws {
        let scene = try Scene()
        let (synced, never) = (try scene.volume.create("synced"), try scene.volume.create("never"))
        try scene.volume.truncate(synced, to: 1 << 20)
        try scene.volume.synchronize(synced)
        try scene.volume.truncate(never, to: 1 << 20)
        for file in [synced, never] { try scene.volume.write(file, at: 5, [1]) }
        try scene.syncOther()
        // The one is on the disk before its catalog is; of the other nobody has asked for anything.
        #expect(try !scene.isChanged(synced))
        try await scene.volume.close()
    }

    /// What is still at the origin is there, whatever the disk has.
    @Test func whatIsStillElsewhereIsNotCutOff() async throws {
        let temporary = try TemporaryDirectory()
        let heir = try temporary.make("heir")
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let content = (0..<20_000).map { UInt8($0 % 251) }
        let file = try owner.create("f")
        try owner.write(file, at: 0, content)
        try owner.storage.settle()
        try await TestVolume.makeHeir(of: owner.storage.catalog, in: heir)
        try await owner.close()
        let source = FakeSource { _ in content }
        let volume = try TestVolume(opening: heir, source: source)
        try volume.write(file, at: 4096, [9])
        try volume.write(file, at: 30_000, [9])
        try volume.storage.catalog.synchronize()
        let copy = temporary.path + "/copy"
        try TemporaryDirectory.copyHead(from: heir, to: copy)
        try await volume.close()
        try Self.cutAllDataFiles(of: copy, to: 0)
        let again = try TestVolume(opening: copy, source: source)
        #expect(try await again.read(file, 0..<40_000) == content)
        try await again.close()
        #expect(try HeadCheck.run(copy, isInUse: false).filter { $0.kind != .leftover } == [])
    }
}
