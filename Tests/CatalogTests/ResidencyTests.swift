import Catalog
import EngineTestSupport
import Testing
import VolumeModel

@Suite struct ResidencyTests {
    private struct Failure: Error {}

    private static let size: UInt64 = 4000

    /// A follower's head with one file that has all its bytes elsewhere.
    private func make(_ directory: String) throws -> (Catalog, InodeNumber) {
        try Catalog.create(
            in: directory, limits: VolumeLimits(byteCount: 0), epoch: .first, now: .zero, withRoot: false)
        let catalog = try Catalog(opening: directory)
        let inode = InodeNumber(2)
        func attributes(_ number: InodeNumber, _ kind: FileKind, _ links: UInt32) -> FileAttributes {
            FileAttributes(
                inode: number, kind: kind, permissions: 0o755, linkCount: links, uid: 0, gid: 0,
                size: kind == .regular ? Self.size : 0, accessTime: .zero, modificationTime: .zero,
                changeTime: .zero)
        }
        try catalog.apply([
            .inode(InodeRecord(attributes: attributes(.root, .directory, 2))),
            .inode(InodeRecord(attributes: attributes(inode, .regular, 1), backedByteCount: Self.size)),
            .entry(DirectoryEntryRecord(parent: .root, cookie: 1, name: [65], inode: inode, kind: .regular)),
        ])
        try catalog.finishChanges(
            at: CatalogPosition(
                sequence: SequenceNumber(3),
                counters: CatalogCounters(
                    nextInode: InodeNumber(3), nextCookie: 2, inodeCount: 2, byteCount: Self.size,
                    allocatedByteCount: 0), limits: VolumeLimits(byteCount: 0)))
        try catalog.perform { try $0.setEpoch(Epoch(2)) }
        return (catalog, inode)
    }

    /// Arrivals, records, cuts and crashes at random, compared with one flag a byte.
    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func whatIsMissingIsWhatHasNotComeAndACrashForgetsOnlyWhatWasNotRecorded(_ seed: UInt64) throws {
        let temporary = try TemporaryDirectory()
        var (catalog, inode) = try make(temporary.path)
        var generator = Generator(seed: seed)
        var valid = Set<Int>()
        var recorded = Set<Int>()
        var size = Int(Self.size)
        for step in 0..<250 {
            let start = generator.next(below: size)
            let range = ByteRange(UInt64(start), UInt64(start + 1 + generator.next(below: 300)))
            switch generator.next(below: 20) {
            case 0...12:
                try catalog.perform { try $0.markValid(range, of: inode) }
                valid.formUnion((start..<Int(range.end)).filter { $0 < size })
            case 13...16:
                let unrecorded = try catalog.perform { $0.unrecordedResidency() }
                try catalog.perform { state in
                    for item in unrecorded { try state.record(item, blockCount: 8) }
                }
                if !unrecorded.isEmpty { recorded = valid }
                try catalog.synchronize()
            case 17 where size > 600 && generator.next(below: 3) == 0:
                let newSize = size - generator.next(below: 300)
                try catalog.perform { state in
                    guard var record = try state.inode(inode) else { return }
                    try state.cutBacking(of: &record, to: UInt64(newSize))
                    record.attributes.size = UInt64(newSize)
                    try state.update(record, kind: .structural)
                }
                size = newSize
                valid = valid.filter { $0 < size }
                recorded = recorded.filter { $0 < size }
            case 17:
                // What fails half-way is as if it had not been, but for bytes that have come all the same.
                let unrecorded = try catalog.perform { $0.unrecordedResidency() }
                let newSize = UInt64(generator.next(below: size))
                #expect(throws: Failure.self) {
                    try catalog.perform { state in
                        for item in unrecorded { try state.record(item, blockCount: 8) }
                        try state.markValid(range, of: inode)
                        guard var record = try state.inode(inode) else { return }
                        try state.cutBacking(of: &record, to: newSize)
                        record.attributes.size = newSize
                        try state.update(record, kind: .structural)
                        throw Failure()
                    }
                }
                #expect(try catalog.perform { try $0.inode(inode) }?.attributes.size == UInt64(size))
                valid.formUnion((start..<Int(range.end)).filter { $0 < size })
            case 18...19:
                // A crash keeps what was committed.
                try catalog.commit()
                catalog.abandon()
                catalog = try Catalog(opening: temporary.path)
                valid = recorded
            default: break
            }
            let missing = try catalog.perform {
                try $0.missingRanges(of: inode, in: ByteRange(0, Self.size * 2))
            }
            let expected = (0..<size).filter { !valid.contains($0) }
            #expect(
                missing.flatMap { Array(Int($0.start)..<Int($0.end)) } == expected,
                "seed \(seed), step \(step)")
            let counts = try catalog.perform { ($0.missingByteCount, $0.counters.byteCount) }
            #expect(counts.0 == UInt64(expected.count), "seed \(seed), step \(step)")
            if !expected.isEmpty { #expect(counts.1 == UInt64(size), "seed \(seed), step \(step)") }
        }
        try catalog.close()
    }

    @Test func aFileThatIsAllHereHasNoOriginAnyMore() throws {
        let temporary = try TemporaryDirectory()
        let (catalog, inode) = try make(temporary.path)
        try catalog.perform { try $0.markValid(ByteRange(0, 3000), of: inode) }
        // What is missing is cut away: then all of it is here, though nothing more ever arrives.
        try catalog.perform { state in
            guard var record = try state.inode(inode) else { return }
            try state.cutBacking(of: &record, to: 3000)
            record.attributes.size = 3000
            try state.update(record, kind: .structural)
        }
        let unrecorded = try catalog.perform { $0.unrecordedResidency() }
        #expect(try catalog.perform { try $0.backedInodes(after: InodeNumber(0), limit: 9) } == [inode])
        try catalog.perform { state in
            for item in unrecorded { try state.record(item, blockCount: 8) }
        }
        try catalog.commit()
        #expect(try catalog.perform { try $0.backedInodes(after: InodeNumber(0), limit: 9) } == [])
        #expect(try catalog.perform { $0.missingByteCount } == 0)
        try catalog.close()
    }

    @Test func whatAFileTakesCountsOnceItIsAllHereAndSomebodyHasLooked() throws {
        let temporary = try TemporaryDirectory()
        let (catalog, inode) = try make(temporary.path)
        func backed() throws -> [InodeNumber] {
            try catalog.commit()
            return try catalog.perform { try $0.backedInodes(after: InodeNumber(0), limit: 9) }
        }
        func record(_ blockCount: UInt64?, fails: Bool = false) throws {
            try catalog.perform { state in
                let unrecorded = state.unrecordedResidency()
                #expect(unrecorded.count == 1)
                for item in unrecorded { try state.record(item, blockCount: blockCount) }
                if fails { throw Failure() }
            }
        }
        try catalog.perform { try $0.markValid(ByteRange(0, Self.size), of: inode) }
        try record(nil)
        #expect(try backed() == [inode])
        // It is not forgotten, nor by what is taken back.
        try record(nil)
        #expect(throws: Failure.self) { try record(24, fails: true) }
        #expect(try backed() == [inode])
        try record(16)
        #expect(try backed() == [])
        let blockCount = try catalog.perform { try $0.inode(inode)?.attributes.blockCount }
        #expect(blockCount == 16)
        #expect(try catalog.perform { $0.counters.allocatedByteCount } == 8192)
        #expect(try catalog.perform { $0.unrecordedResidency().isEmpty })
        try catalog.close()
    }

    /// What a write brought into a file that is partly elsewhere is only safe once it is said to be here.
    @Test(arguments: [false, true])
    func aSyncWaitsUntilItIsRecordedWhatIsHereHoweverLongAgoTheInodeWasSynced(dataOnly: Bool) throws {
        let temporary = try TemporaryDirectory()
        let (catalog, inode) = try make(temporary.path)
        try catalog.perform { state in
            try state.markValid(ByteRange(0, 100), of: inode)
            if let record = try state.inode(inode) { try state.update(record, kind: .structural) }
        }
        // Somebody else's sync.
        try catalog.synchronize()
        try catalog.perform { state in
            for item in state.unrecordedResidency() {
                try state.record(item, blockCount: 8)
            }
        }
        let generation = try catalog.perform { $0.generationToSync(inode, dataOnly: dataOnly) }
        if let generation { try catalog.synchronize(upTo: generation) }
        // What is left after a crash.
        catalog.abandon()
        let after = try Catalog(opening: temporary.path)
        #expect(
            try after.perform { try $0.missingRanges(of: inode, in: ByteRange(0, Self.size)) }
                == [ByteRange(100, Self.size)])
        try after.close()
    }

    @Test func rangesOfADataFileThatWasLeftBehindAreNotRecorded() throws {
        let temporary = try TemporaryDirectory()
        let (catalog, inode) = try make(temporary.path)
        try catalog.perform { try $0.markValid(ByteRange(0, 100), of: inode) }
        let item = try #require(try catalog.perform { $0.unrecordedResidency(of: inode) })
        try catalog.perform { state in
            guard var record = try state.inode(inode) else { return }
            record.data = try state.takeDataFile()
            try state.update(record, kind: .structural)
            try state.record(item, blockCount: 8)
        }
        try catalog.commit()
        catalog.abandon()
        let reopened = try Catalog(opening: temporary.path)
        #expect(
            try reopened.perform { try $0.missingRanges(of: inode, in: ByteRange(0, 200)) } == [
                ByteRange(0, 200)
            ])
        try reopened.close()
    }

    /// A sync that began before a loss and ends after it says nothing of what has come since.
    @Test func whatWasLostWhileItWasSyncedIsNotRecorded() throws {
        let temporary = try TemporaryDirectory()
        let (catalog, inode) = try make(temporary.path)
        try catalog.perform { try $0.markValid(ByteRange(0, 100), of: inode) }
        let before = try catalog.perform { $0.unrecordedResidency() }
        #expect(before.count == 1)
        try catalog.perform { try $0.loseUnrecorded(of: inode) }
        let whole = ByteRange(0, Self.size)
        #expect(try catalog.perform { try $0.missingRanges(of: inode, in: whole) } == [whole])
        #expect(try catalog.perform { $0.missingByteCount } == Self.size)
        // It comes again, and is not durable yet.
        try catalog.perform { try $0.markValid(ByteRange(50, 150), of: inode) }
        try catalog.perform { state in for item in before { try state.record(item, blockCount: 8) } }
        try catalog.synchronize()
        catalog.abandon()
        let reopened = try Catalog(opening: temporary.path)
        #expect(try reopened.perform { try $0.missingRanges(of: inode, in: whole) } == [whole])
        #expect(try reopened.perform { $0.missingByteCount } == Self.size)
        try reopened.close()
    }

    @Test func garbageThatComesWhileGarbageIsCollectedIsNotForgotten() throws {
        let temporary = try TemporaryDirectory()
        try Catalog.create(
            in: temporary.path, limits: VolumeLimits(byteCount: 0), epoch: .first, now: .zero, withRoot: true)
        let catalog = try Catalog(opening: temporary.path)
        try catalog.perform { state in
            for _ in 0..<10 { _ = try state.takeDataFile() }
            try state.discardData(DataFileNumber(3))
            try state.discardData(DataFileNumber(9))
        }
        var deleted: [UInt64] = []
        try catalog.collectGarbage { data in
            deleted.append(data.number)
            if data.number == 9 { try catalog.perform { try $0.discardData(DataFileNumber(5)) } }
        }
        try catalog.collectGarbage { deleted.append($0.number) }
        #expect(deleted.sorted() == [3, 5, 9])
        try catalog.close()
    }
}
