import Catalog
import EngineTestSupport
import Foundation
import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

/// What man pages say about links, times, groups and errors.
@Suite struct PosixTests {
    private func make() throws -> (TemporaryDirectory, TestVolume) {
        let temporary = try TemporaryDirectory()
        return (temporary, try TestVolume.make(in: try temporary.make("head")))
    }

    /// As ext4 with blocks of 4 KiB.
    private let largestFile = (1 << 44) - 4096

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

    @Test func aSetGroupIDDirectoryGivesItsGroupOn() async throws {
        let (temporary, volume) = try make()
        defer { _ = temporary }
        let caller = Caller(uid: 1000, gid: 2000)
        let shared = try volume.fileSystem.makeDirectory(
            bytes("shared"), in: .root, permissions: 0o2775, caller: Caller(uid: 0, gid: 7))
        let file = try volume.fileSystem.makeNode(
            bytes("f"), in: shared.inode, kind: .regular, permissions: 0o644, device: 0, caller: caller)
        let directory = try volume.fileSystem.makeDirectory(
            bytes("d"), in: shared.inode, permissions: 0o755, caller: caller)
        #expect(file.gid == 7 && file.uid == 1000 && file.permissions == 0o644)
        #expect(directory.gid == 7 && directory.permissions == 0o2755)
        let plain = try volume.fileSystem.makeDirectory(
            bytes("plain"), in: .root, permissions: 0o755, caller: caller)
        #expect(plain.gid == 2000 && plain.permissions == 0o755)
        try await volume.close()
    }

    @Test func chownClearsSetIDsButForDirectories() async throws {
        let (temporary, volume) = try make()
        defer { _ = temporary }
        let file = try volume.create("f")
        let directory = try volume.fileSystem.makeDirectory(
            bytes("d"), in: .root, permissions: 0o755, caller: .root
        ).inode
        for inode in [file, directory] {
            var mode = AttributeChanges()
            mode.permissions = 0o6775
            _ = try volume.fileSystem.setAttributes(mode, of: inode, caller: .root)
            var owner = AttributeChanges()
            owner.uid = 5
            let after = try volume.fileSystem.setAttributes(owner, of: inode, caller: .root)
            #expect(after.permissions == (inode == directory ? 0o6775 : 0o775))
        }
        try await volume.close()
    }

    @Test func timesChangeWithWhatTheyTellOf() async throws {
        let (temporary, volume) = try make()
        defer { _ = temporary }
        let fileSystem = volume.fileSystem
        let old = FileTime(seconds: 1000, nanoseconds: 5)
        func age(_ inode: InodeNumber) throws {
            var changes = AttributeChanges()
            (changes.accessTime, changes.modificationTime, changes.changeTime) = (.at(old), .at(old), old)
            _ = try fileSystem.setAttributes(changes, of: inode, caller: .root)
        }
        let file = try volume.create("f")
        let directory = try fileSystem.makeDirectory(
            bytes("d"), in: .root, permissions: 0o755, caller: .root
        ).inode
        func times(_ inode: InodeNumber) throws -> [Bool] {
            let found = try fileSystem.attributes(of: inode)
            return [found.accessTime == old, found.modificationTime == old, found.changeTime == old]
        }
        try age(file)
        #expect(try times(file) == [true, true, true])
        try volume.write(file, at: 0, [1])
        #expect(try times(file) == [true, false, false])
        // relatime: the first read after a change is noted.
        _ = try await volume.read(file, 0..<1)
        #expect(try times(file) == [false, false, false])
        for inode in [file, directory, .root] { try age(inode) }
        try fileSystem.rename(bytes("f"), in: .root, to: bytes("g"), in: directory, rule: .replace)
        #expect(try times(file) == [true, true, false])
        #expect(try times(directory) == [true, false, false])
        #expect(try times(.root) == [true, false, false])
        for inode in [file, directory] { try age(inode) }
        _ = try fileSystem.link(file, as: bytes("h"), in: .root)
        #expect(try times(file) == [true, true, false])
        try age(file)
        try fileSystem.unlink(bytes("h"), in: .root)
        #expect(try times(file) == [true, true, false])
        try age(file)
        try fileSystem.setExtendedAttribute(
            bytes("user.x"), of: file, value: [], mustCreate: false, mustReplace: false, caller: .root)
        #expect(try times(file) == [true, true, false])
        try await volume.close()
    }

    @Test func namesHaveTheirLimits() async throws {
        let (temporary, volume) = try make()
        defer { _ = temporary }
        let longest = String(repeating: "x", count: 255)
        let inode = try volume.create(longest)
        #expect(try volume.fileSystem.lookup(bytes(longest), in: .root).inode == inode)
        #expect(errno { _ = try volume.create(longest + "x") } == .nameTooLong)
        #expect(
            errno {
                _ = try volume.fileSystem.lookup(bytes(longest + "x"), in: .root)
            } == .nameTooLong)
        for name in ["", ".", "..", "a/b", "a\0b"] {
            #expect(
                errno { _ = try volume.create(name) } == .invalidArgument, "\(name)")
        }
        // Any other bytes are a name.
        let (odd, _) = try volume.fileSystem.create(
            [0xff, 0x0a, 0x80], in: .root, permissions: 0o600, openFlags: 0, caller: .root)
        #expect(try volume.fileSystem.lookup([0xff, 0x0a, 0x80], in: .root).inode == odd.inode)
        #expect(
            errno {
                _ = try volume.fileSystem.lookup(bytes("x"), in: inode)
            } == .notDirectory)
        let far = largestFile - 1
        #expect(errno { try volume.write(inode, at: far + 1, [1]) } == .fileTooBig)
        #expect(errno { try volume.write(inode, at: .max, [1]) } == .fileTooBig)
        #expect(errno { try volume.write(inode, at: .max, []) } == nil)
        try volume.write(inode, at: far, [1])
        #expect(try await volume.read(inode, far..<far + 100) == [1])
        try await volume.close()
    }

    @Test func aRemovedDirectoryTakesNothingAndGoesWhenForgotten() async throws {
        let (temporary, volume) = try make()
        defer { _ = temporary }
        let directory = try volume.fileSystem.makeDirectory(
            bytes("d"), in: .root, permissions: 0o755, caller: .root
        ).inode
        try volume.fileSystem.removeDirectory(bytes("d"), in: .root)
        #expect(errno { _ = try volume.create("f", in: directory) } == .noSuchEntry)
        #expect(
            errno {
                _ = try volume.fileSystem.createUnnamed(
                    in: directory, permissions: 0o600, openFlags: 2, caller: .root)
            } == .noSuchEntry)
        let other = try volume.create("f")
        #expect(
            errno {
                try volume.fileSystem.rename(
                    bytes("f"), in: .root, to: bytes("g"), in: directory, rule: .replace)
            } == .noSuchEntry)
        #expect(
            errno {
                _ = try volume.fileSystem.link(other, as: bytes("g"), in: directory)
            } == .noSuchEntry)
        volume.fileSystem.forget(directory, count: 1)
        #expect(errno { _ = try volume.fileSystem.attributes(of: directory) } == .stale)
        try await volume.close()
    }

    /// What changes a volume with a file `f`.
    private func changes(
        _ fileSystem: VolumeFileSystem, _ inode: InodeNumber
    ) -> [() throws -> Void] {
        [
            { _ = try fileSystem.create([65], in: .root, permissions: 0, openFlags: 0, caller: .root) },
            { try fileSystem.unlink(self.bytes("f"), in: .root) },
            { _ = try fileSystem.open(inode, openFlags: 1) },
            {
                _ = try fileSystem.write(
                    inode, handle: FileHandle(0), offset: 0,
                    bytes: UnsafeRawBufferPointer(start: nil, count: 0))
            },
            {
                var changes = AttributeChanges()
                changes.size = 0
                _ = try fileSystem.setAttributes(changes, of: inode, caller: .root)
            },
            {
                try fileSystem.allocate(
                    inode, handle: FileHandle(0), mode: .punchHole, offset: 0, byteCount: 1)
            },
        ]
    }

    /// What only looks at it.
    private func looks(_ fileSystem: VolumeFileSystem, _ inode: InodeNumber) -> [() throws -> Void] {
        [
            { _ = try fileSystem.open(inode, openFlags: 0) },
            {
                var buffer = [UInt8](repeating: 0, count: 3)
                _ = try buffer.withUnsafeMutableBytes {
                    try fileSystem.read(inode, handle: FileHandle(0), offset: 0, into: $0)
                }
            },
            { _ = try fileSystem.seek(inode, handle: FileHandle(0), offset: 0, toHole: true) },
            { _ = try fileSystem.lookup(self.bytes("f"), in: .root) },
            { _ = try fileSystem.lookup(itself: inode) },
            { _ = try fileSystem.attributes(of: inode) },
            { _ = try fileSystem.readDirectory(.root, offset: 0, limit: 10) },
            { _ = try fileSystem.parent(ofDirectory: .root) },
            { _ = try fileSystem.extendedAttributeNames(of: inode) },
            { try fileSystem.synchronize(inode, handle: FileHandle(0), dataOnly: true) },
        ]
    }

    @Test func readOnlyRefusesEveryChangeAndReadsChangeNothing() async throws {
        let (temporary, volume) = try make()
        defer { _ = temporary }
        let inode = try volume.create("f")
        try volume.write(inode, at: 0, [1, 2, 3])
        try volume.storage.settle()
        let fileSystem = VolumeFileSystem(storage: volume.storage, hydrator: nil, access: .readOnly) { _ in }
        let before = try volume.storage.catalog.perform { $0.committedSequence }
        for operation in changes(fileSystem, inode) { #expect(errno(operation) == .readOnly) }
        for operation in looks(fileSystem, inode) { #expect(errno(operation) == nil) }
        try volume.storage.settle()
        #expect(try volume.storage.catalog.perform { $0.committedSequence } == before)
        try await volume.close()
    }

    @Test func whatIsFencedRefusesEveryUseButForClosing() async throws {
        let (temporary, volume) = try make()
        defer { _ = temporary }
        let inode = try volume.create("f")
        try volume.write(inode, at: 0, [1, 2, 3])
        let fileSystem = volume.fileSystem
        let handle = try fileSystem.open(inode, openFlags: 2)
        let (unnamed, last) = try fileSystem.createUnnamed(
            in: .root, permissions: 0o600, openFlags: 2, caller: .root)
        for operation in looks(fileSystem, inode) { #expect(errno(operation) == nil) }
        #expect(fileSystem.fence())
        #expect(!fileSystem.fence())
        try volume.storage.settle()
        let before = try volume.storage.catalog.perform { $0.committedSequence }
        for operation in changes(fileSystem, inode) + looks(fileSystem, inode) {
            #expect(errno(operation) == .stale)
        }
        #expect(throws: Never.self) { try fileSystem.statistics() }
        try volume.storage.settle()
        #expect(try volume.storage.catalog.perform { $0.committedSequence } == before)
        fileSystem.release(inode, handle: handle)
        fileSystem.release(unnamed.inode, handle: last)
        fileSystem.forget(unnamed.inode, count: 1)
        // Of another file system on the same head, such as a divergence's, nothing is refused.
        let other = VolumeFileSystem(storage: volume.storage, hydrator: nil, access: .readOnly) { _ in }
        for operation in looks(other, inode) { #expect(errno(operation) == nil) }
        try await volume.close()
    }

    @Test func holesAndDataAreFound() async throws {
        let (temporary, volume) = try make()
        defer { _ = temporary }
        let inode = try volume.create("f")
        let handle = FileHandle(inode.number)
        func seek(_ offset: Int, toHole: Bool) -> UInt64? {
            try? volume.fileSystem.seek(inode, handle: handle, offset: UInt64(offset), toHole: toHole)
        }
        try volume.truncate(inode, to: 1 << 20)
        #expect(seek(0, toHole: false) == nil && seek(5, toHole: true) == 5)
        try volume.write(inode, at: 256 << 10, [UInt8](repeating: 1, count: 64 << 10))
        #expect(seek(0, toHole: false) == 256 << 10)
        #expect(seek(256 << 10, toHole: true) == 320 << 10)
        #expect(seek(400 << 10, toHole: false) == nil)
        #expect(seek(400 << 10, toHole: true) == 400 << 10)
        #expect(
            errno {
                _ = try volume.fileSystem.seek(inode, handle: handle, offset: 1 << 20, toHole: true)
            } == .noSuchDevice)
        try await volume.close()
    }

    @Test func statisticsTellTheVolumesCapacityAndWhatIsUsed() async throws {
        let temporary = try TemporaryDirectory()
        let head = try temporary.make("head")
        try Catalog.create(
            in: head, limits: VolumeLimits(byteCount: 1 << 30), epoch: .first, now: .zero, withRoot: true)
        let volume = try TestVolume(opening: head)
        let empty = try volume.fileSystem.statistics()
        #expect(
            empty.totalBlocks * UInt64(empty.blockSize) == 1 << 30 && empty.freeBlocks == empty.totalBlocks)
        let inode = try volume.create("f")
        try volume.write(inode, at: 0, [UInt8](repeating: 1, count: 1 << 20))
        let used = try volume.fileSystem.statistics()
        #expect((empty.freeBlocks - used.freeBlocks) * UInt64(used.blockSize) == 1 << 20)
        #expect(used.freeInodes == empty.freeInodes - 1)
        try volume.truncate(inode, to: 0)
        #expect(try volume.fileSystem.statistics().freeBlocks == empty.freeBlocks)
        try await volume.close()
    }
}
