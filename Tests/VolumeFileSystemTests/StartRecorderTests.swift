import Catalog
import EngineTestSupport
import Hydration
import Testing
@testable import VolumeFileSystem
import VolumeModel

@Suite struct StartRecorderTests {
    private func extent(_ inode: UInt64, _ start: UInt64, _ end: UInt64) -> Extent {
        Extent(inode: InodeNumber(inode), range: ByteRange(start, end))
    }

    @Test func pagesAreNotedOnceInTheOrderOfTheirFirstRead() {
        let recorder = StartRecorder(duration: .seconds(600))
        recorder.note(InodeNumber(5), offset: 5000, byteCount: 10)
        recorder.note(InodeNumber(2), offset: 0, byteCount: 1)
        recorder.note(InodeNumber(5), offset: 4096, byteCount: 4096)
        recorder.note(InodeNumber(5), offset: 0, byteCount: 20_000)
        recorder.note(InodeNumber(5), offset: 0, byteCount: 0)
        recorder.note(InodeNumber(5), offset: .max - 5, byteCount: 50)
        #expect(recorder.take(isOver: false) == nil)
        #expect(
            recorder.take(isOver: true) == [
                extent(5, 4096, 8192), extent(2, 0, 4096), extent(5, 0, 4096), extent(5, 8192, 20_480),
            ])
        #expect(recorder.take(isOver: true) == nil)
    }

    @Test func readingOnMakesOneLongRange() {
        let recorder = StartRecorder(duration: .seconds(600))
        for page in 0..<1000 as Range<UInt64> {
            recorder.note(InodeNumber(3), offset: page * 4096, byteCount: 4096)
        }
        #expect(recorder.take(isOver: true) == [extent(3, 0, 4_096_000)])
    }

    @Test func theTimeCountsFromTheFirstRead() async throws {
        let recorder = StartRecorder(duration: .zero)
        #expect(recorder.take(isOver: true) == nil)
        recorder.note(InodeNumber(3), offset: 0, byteCount: 1)
        recorder.note(InodeNumber(4), offset: 0, byteCount: 1)
        // No time at all: the first read ended it.
        #expect(recorder.take(isOver: false) == [])
    }

    @Test func aKeptStartIsThereAfterReopeningAndNoProgramSeesIt() async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("head")
        let volume = try TestVolume.make(in: directory)
        let start = [extent(5, 0, 4096), extent(3, 8192, 12_288)]
        try volume.fileSystem.keep(start: start)
        try volume.fileSystem.setExtendedAttribute(
            Array("user.a".utf8), of: .root, value: [1], mustCreate: false, mustReplace: false, caller: .root)
        #expect(try volume.fileSystem.extendedAttributeNames(of: .root) == [Array("user.a".utf8)])
        try await volume.close()
        let storage = try HeadStorage(opening: directory)
        #expect(try storage.catalog.perform { try $0.startProfile() }.extents == start)
        // Damaged, it is none; the next start makes a new one.
        try storage.catalog.perform {
            try $0.setExtendedAttribute(StartProfile.attributeName, of: .root, value: [77, 1, 2])
        }
        #expect(try storage.catalog.perform { try $0.startProfile() }.extents.isEmpty)
        try storage.close()
    }

    @Test func aVolumeThatMayNotBeChangedKeepsNothing() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        volume.fileSystem.fence()
        #expect(throws: FileSystemError.self) { try volume.fileSystem.keep(start: [extent(5, 0, 4096)]) }
        try await volume.close()
    }
}
