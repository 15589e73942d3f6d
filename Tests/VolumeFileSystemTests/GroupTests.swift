import Catalog
import EngineTestSupport
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

/// A volume given to a group, which is fsGroup without walking.
@Suite struct GroupTests {
    private func bytes(_ name: String) -> [UInt8] { Array(name.utf8) }

    private func make(files: Int, in volume: TestVolume) throws {
        for number in 0..<files {
            _ = try volume.fileSystem.makeNode(
                bytes("f\(number)"), in: .root, kind: .regular, permissions: 0o600, device: 0,
                caller: Caller(uid: 5, gid: 5))
        }
    }

    /// How many rows of the catalog change when a volume of so many files is given to a group.
    private func changedRows(files: Int) async throws -> Int {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        try make(files: files, in: volume)
        let catalog = volume.storage.catalog
        let before = try await catalog.sendChanges(to: "friend", since: nil) { _ in }.sequence
        try volume.fileSystem.giveToGroup(7)
        let rows = Mutex(0)
        _ = try await catalog.sendChanges(to: "friend", since: before) { batch in
            let count = try CatalogRowCoder.rows(of: batch).count
            rows.withLock { $0 += count }
        }
        try await volume.close()
        return rows.withLock { $0 }
    }

    @Test func asMuchIsWrittenForManyFilesAsForOne() async throws {
        let one = try await changedRows(files: 1)
        #expect(one > 0)
        #expect(try await changedRows(files: 2000) == one)
    }

    @Test func whatIsThereKeepsItsGroupAndWhatIsMadeGetsTheNewOne() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        try make(files: 1, in: volume)
        try volume.fileSystem.giveToGroup(7)
        let old = try volume.fileSystem.lookup(bytes("f0"), in: .root)
        #expect(old.gid == 5 && old.permissions == 0o600)
        let new = try volume.fileSystem.makeNode(
            bytes("new"), in: .root, kind: .regular, permissions: 0o640, device: 0,
            caller: Caller(uid: 5, gid: 5))
        #expect(new.gid == 7)
        // Again it changes nothing.
        let changed = try volume.fileSystem.attributes(of: .root)
        try volume.fileSystem.giveToGroup(7)
        #expect(try volume.fileSystem.attributes(of: .root) == changed)
        try await volume.close()
    }

    @Test func aFileSystemThatMayNotChangeIsNotGivenToAnybody() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        let before = try volume.fileSystem.attributes(of: .root)
        let readOnly = VolumeFileSystem(
            storage: volume.storage, hydrator: nil, access: .readOnly, log: { _ in })
        #expect(throws: FileSystemError.errno(.readOnly)) { try readOnly.giveToGroup(7) }
        #expect(try volume.fileSystem.attributes(of: .root) == before)
        try await volume.close()
    }
}
