import Catalog
import EngineTestSupport
import Foundation
import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

/// What is said to have changed since a head began must be all that has; a little more does no harm.
@Suite struct ChangedBytesTests {
    private static let sizes = [0, 1, 4096, 65_536, 65_537, 300_000, 1_000_000]

    /// Bytes that differ, and are said not to have changed.
    static func missed(
        _ changes: ChangesSince, _ before: [InodeNumber: [UInt8]], _ after: [InodeNumber: [UInt8]]
    ) -> [String] {
        var missed: [String] = []
        for (inode, bytes) in after where inode < changes.firstNewInode {
            let changed = changes.inodes.first { $0.inode == inode }?.bytes
            let old = before[inode] ?? []
            for offset in bytes.indices where offset >= old.count || old[offset] != bytes[offset] {
                if changed?.contains(UInt64(offset)) != true {
                    missed.append("inode \(inode) byte \(offset)")
                    break
                }
            }
        }
        return missed
    }

    /// An owner's files, and a head that began with their names.
    struct Began {
        let temporary: TemporaryDirectory
        let directory: String
        let contents: [InodeNumber: [UInt8]]
        let source: FakeSource

        init(seed: UInt64) async throws {
            temporary = try TemporaryDirectory()
            let owner = try TestVolume.make(in: try temporary.make("owner"))
            var generator = Generator(seed: seed)
            var contents: [InodeNumber: [UInt8]] = [:]
            for (index, size) in ChangedBytesTests.sizes.enumerated() {
                let inode = try owner.create("f\(index)")
                contents[inode] = generator.bytes(size)
                try owner.write(inode, at: 0, contents[inode] ?? [])
            }
            directory = try temporary.make("heir")
            try await TestVolume.makeHeir(of: owner.storage.catalog, in: directory, epoch: Epoch(2))
            try await owner.close()
            let all = contents
            self.contents = all
            source = FakeSource { all[$0] }
        }
    }

    /// One random change of the volume, made in the model as well.
    static func change(
        _ volume: TestVolume, _ model: inout [InodeNumber: [UInt8]], _ generator: inout Generator
    ) throws {
        let handle = FileHandle(0)
        guard let inode = generator.element(of: model.keys.sorted()), var bytes = model[inode] else { return }
        let offset = generator.next(below: bytes.count + 70_000)
        let count = 1 + generator.next(below: generator.next(below: 3) == 0 ? 150_000 : 3000)
        switch generator.next(below: 10) {
        case 0..<5:
            let new = generator.bytes(count)
            try volume.write(inode, at: offset, new)
            bytes += repeatElement(0, count: max(0, offset + count - bytes.count))
            bytes.replaceSubrange(offset..<offset + count, with: new)
        case 5:
            try volume.truncate(inode, to: offset)
            bytes =
                bytes.count > offset
                ? Array(bytes[..<offset]) : bytes + repeatElement(0, count: offset - bytes.count)
        case 6, 7:
            let grows = generator.next(below: 2) == 0
            try volume.fileSystem.allocate(
                inode, handle: handle, mode: grows ? .zeroRange : .punchHole, offset: UInt64(offset),
                byteCount: UInt64(count))
            if grows { bytes += repeatElement(0, count: max(0, offset + count - bytes.count)) }
            for position in offset..<max(offset, min(bytes.count, offset + count)) { bytes[position] = 0 }
        case 8:
            let made = try volume.create("n\(generator.next())")
            try volume.write(made, at: 0, generator.bytes(count))
            return
        default: try volume.synchronize(inode, dataOnly: generator.next(below: 2) == 0)
        }
        model[inode] = bytes
    }

    static func changes(_ volume: TestVolume, since epoch: Epoch = Epoch(2)) throws -> ChangesSince {
        var all = ChangesSince(kind: .unknown, isComplete: false)
        var after = InodeNumber(0)
        repeat {
            // Small parts, so that there are several.
            let part = try volume.storage.catalog.performCommitting {
                try $0.changes(since: epoch, after: after, byteCount: 40)
            }
            all = ChangesSince(
                kind: part.kind, sinceName: part.sinceName, firstNewInode: part.firstNewInode,
                inodes: all.inodes + part.inodes,
                isComplete: part.isComplete)
            after = part.inodes.last?.inode ?? after
        } while !all.isComplete
        return all
    }

    @Test(arguments: 0..<12 as Range<UInt64>)
    func everyByteThatDiffersIsSaidToHaveChanged(seed: UInt64) async throws {
        let began = try await Began(seed: seed)
        var generator = Generator(seed: seed ^ 0xabcd)
        var model = began.contents
        for _ in 0..<4 {
            let volume = try TestVolume(opening: began.directory, source: began.source)
            if generator.next(below: 2) == 0 { volume.startHydration() }
            for _ in 0..<12 {
                try Self.change(volume, &model, &generator)
                if generator.next(below: 5) == 0 { try volume.storage.settle() }
                if generator.next(below: 9) == 0 {
                    // A crash: what is there then, opened elsewhere, may say nothing for sure.
                    let copy = try began.temporary.make("crash\(generator.next())")
                    try FileManager.default.removeItem(atPath: copy)
                    try FileManager.default.copyItem(atPath: began.directory, toPath: copy)
                    let crashed = try TestVolume(opening: copy, source: began.source)
                    #expect(try Self.changes(crashed).kind == .uncertain, "seed \(seed)")
                    try await crashed.close()
                    let again = try TestVolume(opening: copy, source: began.source)
                    #expect(try Self.changes(again).kind == .uncertain, "for good; seed \(seed)")
                    try await again.close()
                    try FileManager.default.removeItem(atPath: copy)
                }
            }
            for (inode, bytes) in model {
                let found = try await volume.read(inode, 0..<bytes.count)
                #expect(found == bytes, "inode \(inode), seed \(seed)")
            }
            let changes = try Self.changes(volume)
            #expect(changes.kind == .exact)
            #expect(Self.missed(changes, began.contents, model) == [], "seed \(seed)")
            try await volume.close()
        }
        let volume = try TestVolume(opening: began.directory, source: began.source)
        #expect(Self.missed(try Self.changes(volume), began.contents, model) == [], "seed \(seed)")
        try await volume.close()
    }

    @Test func littleMoreThanWhatChangedIsSaidToHave() async throws {
        let began = try await Began(seed: 1)
        let inodes = began.contents.keys.sorted()
        let volume = try TestVolume(opening: began.directory, source: began.source)
        #expect(try Self.changes(volume).inodes.isEmpty)
        try volume.write(inodes[6], at: 400_000, [1])
        try volume.write(inodes[5], at: 300_000, [1, 2, 3])
        try volume.fileSystem.unlink(Array("f4".utf8), in: .root)
        let changes = try Self.changes(volume)
        #expect(changes.inodes.map(\.inode) == [inodes[5], inodes[6]])
        #expect(
            changes.inodes.last?.bytes.parts(of: ByteRange(0, 1_000_000)).filter(\.isChanged).map(\.range)
                == [ByteRange(393_216, 458_752)])
        #expect(
            changes.inodes.first?.bytes.parts(of: ByteRange(0, 300_003)).filter(\.isChanged).map(\.range)
                == [ByteRange(300_000, 300_003)])
        #expect(try Self.changes(volume, since: Epoch(3)).kind == .unknown)
        try await volume.close()
    }

    /// A head that goes on is no longer what it was handed over as.
    @Test func aSealIsBrokenByTheNextReign() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        let catalog = volume.storage.catalog
        #expect(try catalog.perform { try $0.sealedFor()?.heir } == nil)
        _ = try catalog.pin("heir at epoch 2", sealedFor: Epoch(2))
        #expect(try catalog.perform { try $0.sealedFor()?.heir } == Epoch(2))
        #expect(try catalog.perform { try $0.sealedFor()?.isCertain } == true)
        try catalog.perform { try $0.setEpoch(Epoch(3)) }
        #expect(try catalog.perform { try $0.sealedFor()?.heir } == nil)
        _ = try catalog.pin("heir at epoch 4", sealedFor: Epoch(4))
        try catalog.synchronize()
        catalog.abandon()
        let reopened = try Catalog(opening: temporary.path + "/head")
        #expect(try reopened.perform { try $0.sealedFor()?.isCertain } == false, "after a crash")
        try reopened.close()
    }

    /// What is read after a refused sync may not be what is on the disk, also in the next process.
    @Test func aStateIsNeverCertainOnceTheDiskHasRefusedItsBytes() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        try volume.storage.catalog.perform { try $0.noteSyncFailure() }
        try await volume.close()
        let reopened = try Catalog(opening: temporary.path + "/head")
        _ = try reopened.pin("heir at epoch 2", sealedFor: Epoch(2))
        let seal = try reopened.perform { try $0.sealedFor() }
        #expect(seal?.heir == Epoch(2) && seal?.isCertain == false)
        try reopened.close()
    }

    /// A grant that comes late must not make a head that has gone on into what was granted.
    @Test func aSealThatComesLateIsNone() async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        try volume.storage.catalog.perform { try $0.setEpoch(Epoch(6)) }
        _ = try volume.storage.catalog.pin("heir at epoch 5", sealedFor: Epoch(5))
        #expect(try volume.storage.catalog.perform { try $0.sealedFor()?.heir } == nil)
        try await volume.close()
    }

    /// Of a file that has grown, or was cut, in one of both intervals, so that its granules may be of two sizes.
    @Test(arguments: 0..<40 as Range<UInt64>)
    func theUnionHasWhatEitherHas(seed: UInt64) throws {
        var generator = Generator(seed: seed)
        let size = UInt64(1) << UInt64(10 + generator.next(below: 30)) + UInt64(generator.next(below: 1000))
        var pair = [
            ChangedBytes(unchangedOf: size),
            ChangedBytes(unchangedOf: size << UInt64(generator.next(below: 6))),
        ]
        for index in pair.indices {
            for _ in 0..<generator.next(below: 12) {
                let start = generator.next() % (size * 2)
                _ = pair[index].insert(ByteRange(start, start + 1 + generator.next() % 200_000))
            }
            if generator.next(below: 4) == 0 {
                _ = pair[index].insert(ByteRange(generator.next() % size, ByteRange.maximumOffset))
            }
        }
        var (union, other) = (pair[0], pair[1])
        union.formUnion(pair[1])
        other.formUnion(pair[0])
        #expect(union == other)
        #expect(ChangedBytes(allFrom: union.allFrom, shift: UInt32(union.shift), bits: union.bits) == union)
        var same = union
        same.formUnion(pair[generator.next(below: 2)])
        #expect(same == union)
        let granule = UInt64(1) << UInt64(union.shift)
        for _ in 0..<2000 {
            let offset = generator.next() % (size * 2)
            if pair.contains(where: { $0.contains(offset) }) {
                #expect(union.contains(offset), "seed \(seed), byte \(offset)")
            } else if union.contains(offset) {
                // The rest of a granule that has grown, and no more.
                let start = offset / granule * granule
                let isNear = pair.contains { $0.firstChange(from: start) < start + granule }
                #expect(isNear, "seed \(seed), byte \(offset)")
            }
        }
    }

    @Test(arguments: 0..<20 as Range<UInt64>)
    func granulesHoldWhatIsInserted(seed: UInt64) {
        var generator = Generator(seed: seed)
        let size = UInt64(1) << UInt64(generator.next(below: 46)) + UInt64(generator.next(below: 1000))
        var bytes = ChangedBytes(unchangedOf: size)
        #expect(!bytes.contains(0) || size == 0)
        #expect(bytes.contains(size))
        var ranges: [ByteRange] = []
        for _ in 0..<30 {
            let start = generator.next() % (size * 2)
            let range = ByteRange(start, start + 1 + generator.next() % 200_000)
            ranges.append(range)
            _ = bytes.insert(range)
            let isNews = bytes.insert(range)
            #expect(!isNews, "the same again is no news")
            for range in ranges {
                for part in bytes.parts(of: range) { #expect(part.isChanged, "seed \(seed)") }
            }
        }
        let decoded = ChangedBytes(allFrom: bytes.allFrom, shift: UInt32(bytes.shift), bits: bytes.bits)
        #expect(decoded == bytes)
        // So small granules would be more than are kept.
        #expect(
            ChangedBytes(allFrom: 1 << (16 + UInt64(bytes.shift)), shift: UInt32(bytes.shift), bits: [])
                == nil)
        #expect(bytes.bits.count <= 8192)
        let whole = ByteRange(0, size * 2)
        let parts = bytes.parts(of: whole)
        #expect(parts.reduce(0) { $0 + $1.range.byteCount } == whole.byteCount)
        for (one, next) in zip(parts, parts.dropFirst()) {
            #expect(one.range.end == next.range.start && one.isChanged != next.isChanged)
        }
        _ = bytes.insert(ByteRange(size / 2, ByteRange.maximumOffset))
        #expect(bytes.allFrom <= size / 2 && bytes.firstChange(from: size) == size)
    }
}
