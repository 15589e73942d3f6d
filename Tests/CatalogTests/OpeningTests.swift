@testable import Catalog
import EngineTestSupport
import Foundation
import SQLite
import Testing
import VolumeModel

@Suite struct OpeningTests {
    private func make(withRoot: Bool = true) throws -> TemporaryDirectory {
        let temporary = try TemporaryDirectory()
        try Catalog.create(
            in: temporary.path, limits: VolumeLimits(byteCount: 1 << 30), epoch: .first, now: .zero,
            withRoot: withRoot)
        return temporary
    }

    /// The bytes of every file but for the lock, and what SQLite needs to look at all.
    private func contents(_ temporary: TemporaryDirectory) throws -> [String: Data] {
        let names = try FileManager.default.contentsOfDirectory(atPath: temporary.path)
        let all = names.filter { $0 != "lock" && !$0.hasSuffix("-shm") }.map {
            ($0, FileManager.default.contents(atPath: temporary.path + "/" + $0) ?? Data())
        }
        return Dictionary(uniqueKeysWithValues: all.filter { $0.0 == Catalog.fileName || !$0.1.isEmpty })
    }

    /// Everything that opens a catalog which is there says what is wrong with it and what to do, and changes nothing.
    private func expectRefused(
        _ temporary: TemporaryDirectory, _ words: [String], _ location: SourceLocation = #_sourceLocation
    ) throws {
        let before = try contents(temporary)
        let uses: [() throws -> Void] = [
            { _ = try Catalog(opening: temporary.path) }, { _ = try CatalogView(of: temporary.path) },
            { _ = try CatalogCheck(of: temporary.path) }, { try CatalogCheck.repair(temporary.path) },
        ]
        for use in uses {
            do {
                try use()
                Issue.record("it was opened", sourceLocation: location)
            } catch {
                for word in [temporary.path + "/" + Catalog.fileName] + words {
                    #expect("\(error)".contains(word), "\(error)", sourceLocation: location)
                }
            }
            #expect(try contents(temporary) == before, sourceLocation: location)
        }
    }

    private func reason(_ body: () throws -> Void) -> String {
        do {
            try body()
            return "no error"
        } catch CatalogError.unusable(_, let reason) {
            return reason
        } catch {
            return "\(error)"
        }
    }

    @Test func aNewVolumeHasARootAndNothingElse() throws {
        let temporary = try make()
        let catalog = try Catalog(opening: temporary.path)
        let image = try CatalogImage(catalog)
        #expect(image.faults().isEmpty)
        #expect(Array(image.nodes.keys) == [.root])
        #expect(try catalog.perform { try $0.epoch() } == .first)
        #expect(catalog.wasClosedCleanly)
        try catalog.close()
    }

    @Test func aSecondOpenerIsRefusedUntilTheFirstHasClosed() throws {
        let temporary = try make()
        let first = try Catalog(opening: temporary.path)
        #expect(reason { _ = try Catalog(opening: temporary.path) }.contains("another process"))
        try first.close()
        let second = try Catalog(opening: temporary.path)
        #expect(second.wasClosedCleanly)
        #expect(throws: CatalogError.self) { try first.perform { try $0.setEpoch(Epoch(9)) } }
        second.abandon()
        #expect(try !Catalog(opening: temporary.path).wasClosedCleanly)
    }

    @Test func aCatalogInUseIsNotMadeAnew() throws {
        let temporary = try make()
        // Made but never opened: what a crash left. It may be made again.
        try Catalog.create(
            in: temporary.path, limits: VolumeLimits(byteCount: 1), epoch: .first, now: .zero, withRoot: true)
        try Catalog(opening: temporary.path).close()
        #expect(
            reason {
                try Catalog.create(
                    in: temporary.path, limits: VolumeLimits(byteCount: 1), epoch: .first, now: .zero,
                    withRoot: true)
            } == "there is a catalog already")
    }

    @Test func aNewerSchemaIsRefusedAndNothingIsChanged() throws {
        let temporary = try make()
        let path = temporary.path + "/" + Catalog.fileName
        do {
            let connection = try Connection(path: path, mode: .readWrite)
            try connection.execute("UPDATE meta SET value = 1000 WHERE key = 'schema_version'")
        }
        try expectRefused(temporary, ["schema version 1000", "use the release that wrote it"])
    }

    @Test func rubbishAndMissingFilesAreRefused() throws {
        let temporary = try TemporaryDirectory()
        let remedy = "restore it from another copy, with that copy's log (-wal) or with none"
        try expectRefused(temporary, ["there is no such file", remedy])
        let path = temporary.path + "/" + Catalog.fileName
        var generator = Generator(seed: 1)
        for bytes in [Data(), Data(generator.bytes(10_000)), Data("SQLite format 3\0".utf8)] {
            try bytes.write(to: URL(fileURLWithPath: path))
            try Data(generator.bytes(100)).write(to: URL(fileURLWithPath: path + "-wal"))
            try expectRefused(temporary, ["damaged", remedy])
            unlink(path + "-wal")
        }
        // The header of one, and another database.
        unlink(path)
        do {
            try Connection(path: path, mode: .create).execute(
                "PRAGMA journal_mode = WAL; CREATE TABLE other(x)")
        }
        try expectRefused(temporary, ["it holds no catalog", remedy])
        // Nor does a symbolic link lead to somebody else's.
        let other = try make()
        try FileManager.default.removeItem(atPath: path)
        try FileManager.default.createSymbolicLink(
            atPath: path, withDestinationPath: other.path + "/" + Catalog.fileName)
        try expectRefused(temporary, ["no regular file"])
    }

    @Test func theEndOfAFollowerIsTheEndOfItsOwnersChanges() throws {
        let temporary = try make(withRoot: false)
        let catalog = try Catalog(opening: temporary.path)
        let row = CatalogRow.entry(
            DirectoryEntryRecord(
                parent: .root, cookie: 1, name: [65], inode: InodeNumber(2), kind: .regular))
        try catalog.apply([row])
        try catalog.perform { try $0.setEpoch(Epoch(2)) }
        // What was not finished is gone, and what comes late is refused.
        #expect(try catalog.perform { try $0.entry([65], in: .root) } == nil)
        #expect(reason { try catalog.apply([row]) }.contains("no follower"))
        try catalog.close()
    }

    @Test func anOwnersChangesAreSeenAllTogetherOrNotAtAll() throws {
        let temporary = try make(withRoot: false)
        let first = try Catalog(opening: temporary.path)
        let entry = DirectoryEntryRecord(
            parent: .root, cookie: 1, name: [65], inode: InodeNumber(2), kind: .regular)
        try first.apply([.entry(entry)])
        // The periodic chore goes on meanwhile.
        try first.synchronize()
        try first.checkpoint()
        first.abandon()
        let second = try Catalog(opening: temporary.path)
        #expect(try second.perform { try $0.entry([65], in: .root) } == nil)
        #expect(try second.originSequence() == nil)
        try second.apply([.entry(entry)])
        try second.finishChanges(at: position(4, nextInode: 3, nextCookie: 2))
        second.abandon()
        let third = try Catalog(opening: temporary.path)
        #expect(try third.perform { try $0.entry([65], in: .root) } == entry)
        #expect(try third.originSequence() == SequenceNumber(4))
        try third.close()
    }

    private func position(_ sequence: Int64, nextInode: UInt64, nextCookie: Int64) -> CatalogPosition {
        CatalogPosition(
            sequence: SequenceNumber(sequence),
            counters: CatalogCounters(
                nextInode: InodeNumber(nextInode), nextCookie: nextCookie, inodeCount: 1, byteCount: 0,
                allocatedByteCount: 0), limits: VolumeLimits(byteCount: 1 << 30))
    }

    @Test func countersThatCannotBeCountedOnFromAreRefused() throws {
        let temporary = try make(withRoot: false)
        let catalog = try Catalog(opening: temporary.path)
        let good = position(5, nextInode: 2, nextCookie: 1)
        for change in [
            { (position: inout CatalogPosition) in position.counters.nextInode = InodeNumber(.max) },
            { $0.counters.nextInode = InodeNumber(0) }, { $0.counters.nextCookie = .max },
            { $0.counters.nextCookie = -1 }, { $0.counters.byteCount = .max },
            { $0.counters.inodeCount = .max }, { $0.counters.allocatedByteCount = .max },
            { $0.limits.byteCount = .max }, { $0.limits.inodeCount = .max },
        ] {
            var bad = good
            change(&bad)
            #expect(throws: CatalogError.self) { try catalog.finishChanges(at: bad) }
        }
        try catalog.finishChanges(at: good)
        #expect(try catalog.originSequence() == SequenceNumber(5))
        try catalog.close()
    }

    /// An heir that asks twice is told of the same end, though the pin is itself a change.
    @Test func aPinOfOneNameIsOfOneState() throws {
        let temporary = try make()
        let catalog = try Catalog(opening: temporary.path)
        let first = try catalog.pin("heir at epoch 2")
        #expect(try catalog.pin("heir at epoch 2") == first)
        #expect(try catalog.perform { try $0.isPinned(for: "heir at epoch 2", at: first) })
        #expect(try catalog.pin("heir at epoch 3") > first)
        try catalog.close()
    }

    /// So many changes wait that the next operation begins with a commit; and that one only asks for what is not here.
    @Test func anOperationThatAsksForADirectoryAfterADueCommitIsNotTakenForHalfDone() throws {
        let owner = try make()
        let catalog = try Catalog(opening: owner.path)
        for number in 0..<300 {
            _ = try catalog.perform { try $0.addFile(Array("file \(number)".utf8)) }
        }
        let temporary = try TemporaryDirectory()
        try TestVolume.makeArrivingHeir(of: catalog, in: temporary.path, byteCount: 4096)
        let heir = try Catalog(opening: temporary.path)
        #expect(heir.isArriving)
        try heir.perform { state in
            for number in 0..<21_000 {
                try state.setExtendedAttribute(Array("user.\(number)".utf8), of: .root, value: [1])
            }
        }
        let last = [UInt8]("file 299".utf8)
        do {
            _ = try heir.perform { try $0.entry(last, in: .root) }
            Issue.record("the name is known already")
        } catch CatalogError.missingDirectory(let directory, let name) {
            #expect(directory == .root && name == last)
        }
        #expect(heir.trouble == nil)
        try heir.perform { try $0.setExtendedAttribute(Array("user.a".utf8), of: .root, value: [2]) }
        try heir.close()
        try catalog.close()
    }

    /// Also while nothing is changed: memory is bounded however many inodes are looked at.
    @Test(arguments: [CatalogMemory.smallest, .standard])
    func inodesThatAreOnlyReadDoNotPileUpInMemory(_ memory: CatalogMemory) throws {
        let temporary = try make(withRoot: true)
        let catalog = try Catalog(opening: temporary.path, memory: memory)
        let count = memory.inodeCount + 5000
        for _ in 0..<count {
            _ = try catalog.perform { try $0.addFile() }
        }
        // What is not durable stays in memory, whatever its number.
        #expect(try catalog.perform { $0.inodes.count } >= count)
        try catalog.synchronize()
        for round in 0..<2 {
            for number in 2..<UInt64(count + 2) {
                #expect(try catalog.perform { try $0.inode(InodeNumber(number)) } != nil)
            }
            #expect(try catalog.perform { $0.inodes.count } <= memory.inodeCount, "round \(round)")
        }
        try catalog.close()
    }

    @Test func memoryThatIsTooLittleToWorkWithIsRefused() {
        #expect(CatalogMemory(byteCount: (4 << 20) - 1) == nil)
        #expect(CatalogMemory(byteCount: 4 << 20) == .smallest)
        #expect(CatalogMemory.smallest.inodeCount == 5033)
        #expect(CatalogMemory(byteCount: .max) == nil)
    }
}
