import Catalog
import EngineTestSupport
import Testing
import VolumeFileSystem
import VolumeModel

/// Sentences of the guide `Semantics.md` that are quicker or only to be tested below a mount.
@Suite struct SemanticsTests {
    private func bytes(_ name: String) -> [UInt8] { Array(name.utf8) }

    private func errno(_ body: () throws -> Void) -> Errno? {
        do {
            try body()
            return nil
        } catch FileSystemError.errno(let errno) {
            return errno
        } catch {
            return .tryAgain
        }
    }

    /// Says that an inode has so many links already.
    private func setLinkCount(of inode: InodeNumber, to count: UInt32, _ volume: TestVolume) throws {
        try volume.storage.catalog.perform { state in
            guard var record = try state.inode(inode) else { throw Errno.noSuchEntry }
            record.attributes.linkCount = count
            try state.update(record, kind: .structural)
        }
    }

    @Test func anInodeHas65000NamesAtMost() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        let file = try volume.create("f")
        try setLinkCount(of: file, to: 64_999, volume)
        #expect(try volume.fileSystem.link(file, as: bytes("g"), in: .root).linkCount == 65_000)
        #expect(errno { _ = try volume.fileSystem.link(file, as: bytes("h"), in: .root) } == .tooManyLinks)
        try volume.fileSystem.unlink(bytes("g"), in: .root)
        #expect(try volume.fileSystem.link(file, as: bytes("h"), in: .root).linkCount == 65_000)
        try await volume.close()
    }

    @Test func aDirectoryHoldsAnyNumberOfDirectories() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        try setLinkCount(of: .root, to: 65_000, volume)
        for name in ["d", "e"] {
            _ = try volume.fileSystem.makeDirectory(
                bytes(name), in: .root, permissions: 0o755, caller: .root)
        }
        #expect(try volume.fileSystem.attributes(of: .root).linkCount == 65_002)
        let inner = try volume.fileSystem.lookup(bytes("d"), in: .root).inode
        try volume.fileSystem.rename(bytes("e"), in: .root, to: bytes("e"), in: inner, rule: .replace)
        try volume.fileSystem.rename(bytes("e"), in: inner, to: bytes("f"), in: .root, rule: .replace)
        #expect(try volume.fileSystem.attributes(of: .root).linkCount == 65_002)
        try await volume.close()
    }

    @Test func missingRangesArePunchedWithoutFetching() async throws {
        let temporary = try TemporaryDirectory()
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let content = (0..<200_000).map { UInt8($0 % 251) }
        let file = try owner.create("f")
        try owner.write(file, at: 0, content)
        let directory = try temporary.make("heir")
        try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
        let source = FakeSource { $0 == file ? content : nil }
        let heir = try TestVolume(opening: directory, source: source)
        let handle = try heir.fileSystem.open(file, openFlags: 2)
        func allocate(_ mode: AllocationMode, _ offset: UInt64, _ byteCount: UInt64) throws {
            try heir.fileSystem.allocate(
                file, handle: handle, mode: mode, offset: offset, byteCount: byteCount)
        }
        try heir.write(file, at: 10, [1, 2, 3])
        try allocate(.punchHole, 5000, 10_000)
        try allocate(.zeroRange, 50_001, 100)
        try allocate(.zeroRangeKeepingSize, 199_990, 5000)
        try allocate(.allocate, 60_000, 20_000)
        try allocate(.allocateKeepingSize, 100_000, 300_000)
        try heir.truncate(file, to: 199_995)
        try heir.truncate(file, to: 199_999)
        #expect(source.requests.isEmpty)
        var expected = Array(content[0..<199_999])
        expected.replaceSubrange(10..<13, with: [1, 2, 3])
        for range in [5000..<15_000, 50_001..<50_101, 199_990..<199_999] {
            for index in range { expected[index] = 0 }
        }
        #expect(try await heir.read(file, 0..<300_000) == expected)
        #expect(!source.requests.isEmpty)
        try await heir.close()
        try await owner.close()
    }

    /// A file, a directory and a symbolic link, each with what reads it.
    private func readers(_ volume: TestVolume) throws -> [(inode: InodeNumber, read: () async throws -> Void)]
    {
        let files = volume.fileSystem
        let file = try volume.create("f")
        try volume.write(file, at: 0, [1, 2, 3])
        let directory = try files.makeDirectory(bytes("d"), in: .root, permissions: 0o755, caller: .root)
            .inode
        let link = try files.makeSymbolicLink(bytes("l"), in: .root, target: bytes("f"), caller: .root).inode
        return [
            (file, { _ = try await volume.read(file, 0..<9) }),
            (directory, { _ = try files.readDirectory(directory, offset: 0, limit: 9) }),
            (link, { _ = try files.readSymbolicLink(link) }),
        ]
    }

    /// No program can do that: it sets the change time to now.
    private func setTimes(of inode: InodeNumber, access: Int64, change: Int64, _ volume: TestVolume) throws {
        let now = VolumeFileSystem.now().seconds
        let times = [access, change].map { FileTime(seconds: now + $0, nanoseconds: 1) }
        var changes = AttributeChanges()
        (changes.accessTime, changes.modificationTime) = (.at(times[0]), .at(times[1]))
        changes.changeTime = times[1]
        _ = try volume.fileSystem.setAttributes(changes, of: inode, caller: .root)
    }

    @Test func anAccessTimeMovesOnceADay() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        let day: Int64 = 86_400
        for (inode, read) in try readers(volume) {
            for (age, moves) in [(2 * day, true), (day - 60, false), (4 * day, true), (60, false)] {
                // The last change was three days ago.
                try setTimes(of: inode, access: -age, change: -3 * day, volume)
                let before = try volume.fileSystem.attributes(of: inode)
                try await read()
                let after = try volume.fileSystem.attributes(of: inode)
                #expect((after.accessTime != before.accessTime) == moves, "\(before.kind), \(age) s")
                #expect(after.changeTime == before.changeTime)
            }
        }
        try await volume.close()
    }

    /// What is only read has nothing that a sync would have to wait for, and nothing moves where nothing may be changed.
    @Test func readingMakesNobodyWaitAndChangesNothingBehindAFence() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        let all = try readers(volume)
        func generation(_ inode: InodeNumber) throws -> UInt64? {
            try volume.storage.catalog.perform { $0.generationToSync(inode, dataOnly: false) }
        }
        for (inode, read) in all {
            try volume.synchronize(inode)
            let (before, changes) = (try volume.fileSystem.attributes(of: inode), try generation(inode))
            try await read()
            #expect(try volume.fileSystem.attributes(of: inode).accessTime != before.accessTime)
            #expect(try generation(inode) == changes, "\(before.kind)")
            try setTimes(of: inode, access: -9, change: -1, volume)
        }
        volume.fileSystem.fence()
        for (inode, read) in all {
            let before = try volume.storage.catalog.perform { try $0.inode(inode)?.attributes }
            await #expect(throws: FileSystemError.errno(.stale)) { try await read() }
            #expect(try volume.storage.catalog.perform { try $0.inode(inode)?.attributes } == before)
        }
        try await volume.close()
    }

    @Test func timesAreHeldBetween1697And2242() async throws {
        let temporary = try TemporaryDirectory()
        let head = try temporary.make("head")
        let first = try TestVolume.make(in: head)
        let inode = try first.create("f")
        try await first.close()
        let ends: [(FileTime, FileTime)] = [
            (.earliest, .earliest), (.latest, .latest),
            (FileTime(seconds: -(1 << 33) - 1, nanoseconds: 5), .earliest),
            (FileTime(seconds: .min, nanoseconds: 5), .earliest),
            (FileTime(seconds: (1 << 33) - 1, nanoseconds: 5), .latest),
            (FileTime(seconds: .max, nanoseconds: 999_999_999), .latest),
        ]
        for (time, held) in ends {
            let volume = try TestVolume(opening: head)
            var changes = AttributeChanges()
            (changes.accessTime, changes.modificationTime, changes.changeTime) = (.at(time), .at(time), time)
            let told = try volume.fileSystem.setAttributes(changes, of: inode, caller: .root)
            #expect([told.accessTime, told.modificationTime, told.changeTime] == [held, held, held])
            try await volume.close()
            let again = try TestVolume(opening: head)
            #expect(try again.fileSystem.attributes(of: inode) == told)
            try await again.close()
        }
    }

    /// user::rwx, user:10:rwx, group::r-x, a mask, other::---
    private func list(mask: UInt8) -> [UInt8] {
        let entries: [(UInt8, UInt8, UInt8)] = [
            (1, 7, 255), (2, 7, 10), (4, 5, 255), (16, mask, 255), (32, 0, 255),
        ]
        return entries.reduce(into: [2, 0, 0, 0]) { list, entry in
            let rest: UInt8 = entry.2 == 255 ? 255 : 0
            list += [entry.0, 0, entry.1, 0, entry.2, rest, rest, rest]
        }
    }

    @Test func givingTheRootToAGroupKeepsItsListAndModeInStep() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        let name = bytes("system.posix_acl_access")
        try volume.fileSystem.setExtendedAttribute(
            name, of: .root, value: list(mask: 1), mustCreate: false, mustReplace: false, caller: .root)
        #expect(try volume.fileSystem.attributes(of: .root).permissions == 0o710)
        try volume.fileSystem.giveToGroup(7)
        #expect(try volume.fileSystem.attributes(of: .root).permissions == 0o2770)
        #expect(try volume.fileSystem.extendedAttribute(name, of: .root) == list(mask: 7))
        try await volume.close()
    }

    @Test func listsComeWithTheVolumeToItsNextSite() async throws {
        let temporary = try TemporaryDirectory()
        let owner = try TestVolume.make(in: try temporary.make("owner"))
        let list = list(mask: 7)
        try owner.fileSystem.setExtendedAttribute(
            bytes("system.posix_acl_default"), of: .root, value: list, mustCreate: false, mustReplace: false,
            caller: .root)
        let directory = try temporary.make("heir")
        try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory)
        let heir = try TestVolume(opening: directory)
        let made = try heir.fileSystem.makeNode(
            bytes("f"), in: .root, kind: .regular, permissions: 0o666, device: 0,
            caller: Caller(uid: 5, gid: 5, umask: 0o077))
        #expect(made.permissions == 0o660)
        #expect(
            try heir.fileSystem.extendedAttributeNames(of: made.inode)
                == [bytes("system.posix_acl_access")])
        try await heir.close()
        try await owner.close()
    }
}
