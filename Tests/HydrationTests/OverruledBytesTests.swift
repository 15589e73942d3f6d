import Catalog
import EngineTestSupport
import Foundation
import Hydration
import PeerService
import Testing
import VolumeFileSystem
import VolumeModel

/// A head that has gone on without its follower's knowledge gives that follower no byte that it has written since.
@Suite struct OverruledBytesTests {
    private let temporary: TemporaryDirectory
    private var volume: TestVolume
    private let written: InodeNumber
    private let kept: InodeNumber
    private let old: [UInt8]

    init() throws {
        temporary = try TemporaryDirectory()
        let made = try TestVolume.make(in: temporary.path)
        var generator = Generator(seed: 5)
        let bytes = generator.bytes(10_000)
        let inodes = [try made.create("written"), try made.create("kept")]
        for inode in inodes { try made.write(inode, at: 0, bytes) }
        try made.storage.settle()
        (volume, old, written, kept) = (made, bytes, inodes[0], inodes[1])
    }

    private func setTimes(_ inode: InodeNumber, _ time: FileTime) throws {
        var changes = AttributeChanges()
        (changes.accessTime, changes.modificationTime) = (.at(time), .at(time))
        _ = try volume.fileSystem.setAttributes(changes, of: inode, caller: .root)
    }

    private func given(_ inode: InodeNumber, since position: SequenceNumber) async throws -> [Piece] {
        try await HeadReader(storage: volume.storage, hydrator: nil, seen: .through(position))
            .read([Extent(inode: inode, range: ByteRange(0, 10_000))], maximumByteCount: 1 << 20)
    }

    /// Times that a program sets (utimensat) make a file that it has changed no older one: neither where the catalog knows of
    /// the change, nor where a crash has taken that back and only the data file tells.
    @Test(
        arguments: [false, true],
        [FileTime(seconds: 1, nanoseconds: 0), FileTime(seconds: 1 << 33, nanoseconds: 7), nil])
    func noTimeThatAProgramSetsHidesAChange(crashes: Bool, time: FileTime?) async throws {
        var test = self
        let before = try volume.storage.catalog.perform { try $0.peekInode(written)?.attributes }
        let position = try volume.storage.catalog.pin("follower")
        // Beyond what the kernel's clock for files tells apart.
        try await Task.sleep(for: .milliseconds(30))
        try volume.write(written, at: 4000, [1, 2, 3])
        let same = try #require(before?.modificationTime)
        try setTimes(written, time ?? same)
        if crashes {
            volume.storage.catalog.abandon()
            test.volume = try TestVolume(opening: temporary.path)
        }
        try await test.expect(since: position)
        // Nor does an orderly end make it so.
        try await test.volume.close()
        test.volume = try TestVolume(opening: temporary.path)
        try await test.expect(since: position)
        // Who looks only then has what is there.
        let later = try test.volume.storage.catalog.pin("later follower")
        let pieces = try await test.given(written, since: later)
        #expect(pieces.reduce(0) { $0 + $1.range.byteCount } == 10_000)
        try await test.volume.close()
    }

    private func expect(since position: SequenceNumber) async throws {
        await #expect(throws: PeerError.changed(written)) { _ = try await given(written, since: position) }
        let pieces = try await given(kept, since: position)
        #expect(pieces == [Piece(inode: kept, range: ByteRange(0, 10_000), content: .bytes(old))])
    }

    /// A sealed head that goes on while it is read, as a peer's wait for what it lacks takes long: nothing that was written since is given,
    /// nor anything under a name that it has no longer.
    @Test(arguments: [false, true])
    func whatIsWrittenWhileASealedHeadIsReadIsNotGiven(byName: Bool) async throws {
        let position = try volume.storage.catalog.pin("follower")
        try await Task.sleep(for: .milliseconds(30))
        let unknown = PeerError.unknownVolume(VolumeID(randomHigh: 1, randomLow: 2))
        await #expect(throws: byName ? unknown : PeerError.changed(written)) {
            var looks = 0
            _ = try await HeadReader.read {
                looks += 1
                if looks == 1 { return HeadReader(storage: volume.storage, hydrator: nil) }
                if byName { throw unknown }
                return HeadReader(storage: volume.storage, hydrator: nil, seen: .through(position))
            } _: { reader in
                if looks == 1 { try volume.write(written, at: 4000, [1, 2, 3]) }
                let extent = Extent(inode: written, range: ByteRange(0, 10_000))
                return try await reader.read([extent], maximumByteCount: 1 << 20)
            }
        }
        try await volume.close()
    }

    /// What is asked before a takeover is told of the other files.
    @Test func aDataFileThatIsLostIsNoOthersLoss() async throws {
        let position = try volume.storage.catalog.pin("follower")
        volume.storage.catalog.abandon()
        let crashed = try TestVolume(opening: temporary.path)
        try crashed.storage.bytes.delete(try data(of: written, in: crashed))
        let extents = [written, kept].map { Extent(inode: $0, range: ByteRange(0, 10_000)) }
        let parts = try HeadReader(storage: crashed.storage, hydrator: nil, seen: .through(position))
            .missingParts(of: extents)
        #expect(parts == [nil, []])
        try await crashed.close()
    }

    /// A copy that goes for room while it is read has lost nothing.
    @Test(arguments: [false, true])
    func whatIsGivenUpIsNotDamaged(isGivenUp: Bool) async throws {
        if isGivenUp { volume.storage.giveUp() }
        let record = try #require(try volume.storage.catalog.perform { try $0.inode(written) })
        try volume.storage.bytes.delete(record.data)
        #expect(throws: (any Error).self) { _ = try volume.storage.dataFile(of: record) }
        #expect((volume.storage.firstDamage(of: record.data, from: 0) == nil) == isGivenUp)
        try await volume.close()
    }

    private func data(of inode: InodeNumber, in volume: TestVolume) throws -> DataFileNumber {
        try #require(try volume.storage.catalog.perform { try $0.inode(inode) }).data
    }
}
