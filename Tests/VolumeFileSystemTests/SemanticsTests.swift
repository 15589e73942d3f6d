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
