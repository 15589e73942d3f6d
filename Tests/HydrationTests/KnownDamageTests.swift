import BlockHashes
import ByteStore
import Catalog
import EngineTestSupport
import Foundation
import Glibc
import Hydration
import SQLite
import Testing
import VolumeFileSystem
import VolumeModel

/// "From then on these bytes are given to nobody": whatever becomes of the files in which that is noted.
@Suite struct KnownDamageTests {
    private static let size = 3 << 20
    private static let block = ByteRange(1 << 20, 2 << 20)
    private static let written = [UInt8](repeating: 7, count: 4096)

    private static func content() -> [UInt8] {
        var generator = Generator(seed: 1)
        return generator.bytes(size)
    }

    /// A closed head with one file, whose second block is known to be damaged but for its first page.
    private struct Head {
        let temporary: TemporaryDirectory
        let directory: String
        let file: InodeNumber
        let data: DataFileNumber

        var database: String { directory + "/hashes.db" }
        var copy: String { directory + "/damage" }

        init() async throws {
            temporary = try TemporaryDirectory()
            directory = try temporary.make("head")
            let volume = try TestVolume.make(in: directory)
            file = try volume.create("f")
            try volume.write(file, at: 0, KnownDamageTests.content())
            let inode = file
            data = try volume.storage.catalog.perform { try $0.inode(inode)?.data } ?? .none
            try volume.storage.settle()
            let block = Array(KnownDamageTests.content()[1 << 20..<2 << 20])
            try HashDatabase(in: directory).add(
                DamagedBlock(
                    data: data, range: KnownDamageTests.block, inode: file,
                    expected: block.withUnsafeBytes { BlockHash.of($0) }))
            try volume.storage.learnDamage()
            try volume.write(file, at: 1 << 20, KnownDamageTests.written)
            try await volume.close()
        }

        /// - Parameter rubbish: what is in its place; nil: nothing.
        func loseDatabase(_ rubbish: String?) throws {
            for suffix in ["", "-wal", "-shm"] { unlink(database + suffix) }
            if let rubbish { try Data(rubbish.utf8).write(to: URL(fileURLWithPath: database)) }
        }

        /// As of a newer release, with or without changes that are in its log only.
        func makeNewer(withLog: Bool) throws {
            let connection = try Connection(path: database, mode: .readWrite)
            if withLog { connection.leaveLogOnClose() }
            try connection.execute(
                "PRAGMA journal_mode = WAL; UPDATE meta SET value = 2 WHERE key = 'version'")
        }

        /// The bytes of every file but for an index that SQLite makes anew each time.
        func contents() throws -> [String: Data] {
            let names = try FileManager.default.subpathsOfDirectory(atPath: directory)
            return Dictionary(
                uniqueKeysWithValues: names.filter { !$0.hasSuffix("-shm") }.map {
                    ($0, FileManager.default.contents(atPath: directory + "/" + $0) ?? Data())
                })
        }

        func open() throws -> TestVolume { try TestVolume(opening: directory) }
    }

    /// What is damaged is refused, and what was written over it is there.
    private func expectKnown(_ head: Head, _ location: SourceLocation = #_sourceLocation) async throws {
        let volume = try head.open()
        #expect(
            try await volume.read(head.file, 1 << 20..<(1 << 20) + 4096) == Self.written,
            sourceLocation: location)
        for place in [(1 << 20) + 4096, (2 << 20) - 1] {
            await #expect(throws: FileSystemError.errno(.inputOutput), sourceLocation: location) {
                try await volume.read(head.file, place..<place + 1)
            }
        }
        #expect(
            try await volume.read(head.file, 2 << 20..<Self.size) == Array(Self.content()[(2 << 20)...]),
            sourceLocation: location)
        try await volume.close()
    }

    @Test(arguments: ["no database at all", "", nil])
    func damageStaysKnownWhenItsDatabaseIsLost(_ rubbish: String?) async throws {
        let head = try await Head()
        try head.loseDatabase(rubbish)
        let findings = try HeadCheck.run(head.directory, isInUse: false)
        #expect(
            findings.count == 1 && findings[0].text.contains("[\((1 << 20) + 4096), 2097152)"), "\(findings)")
        #expect(try HeadDamage.restorable(head.directory).count == 1)
        try await expectKnown(head)
        // Who looks through it is told as well, and hashes nothing damaged as right.
        try head.loseDatabase(rubbish)
        #expect(try HeadScrub.run(closed: head.directory, terms: ScrubTerms()).newDamageCount == 0)
        try await expectKnown(head)
    }

    /// A crash in which the file was in use: what is surely on the disk is as damaged as before.
    @Test func damageStaysKnownWhenItsDatabaseIsLostInACrash() async throws {
        let head = try await Head()
        let volume = try head.open()
        volume.storage.catalog.abandon()
        try head.loseDatabase("no database at all")
        try await expectKnown(head)
    }

    /// Of an older release there is no copy; it is made when the head is opened.
    @Test func aCopyThatIsMissingOrDamagedIsMadeAnew() async throws {
        let head = try await Head()
        for rubbish in [nil, "", "godwit damage 1\nlife \nsum 00\n"] {
            unlink(head.copy)
            if let rubbish { try Data(rubbish.utf8).write(to: URL(fileURLWithPath: head.copy)) }
            try await expectKnown(head)
            try head.loseDatabase(nil)
            try await expectKnown(head)
        }
    }

    /// What was put right is not damaged again when the database is lost: no older bytes may come over newer ones.
    @Test func whatIsGoodStaysGoodWhenTheDatabaseIsLost() async throws {
        let head = try await Head()
        let volume = try head.open()
        try volume.write(head.file, at: 1 << 20, Array(Self.content()[1 << 20..<2 << 20]))
        try volume.synchronize(head.file)
        volume.storage.catalog.abandon()
        #expect(access(head.copy, F_OK) != 0)
        try head.loseDatabase(nil)
        let again = try head.open()
        #expect(try await again.read(head.file, 0..<Self.size) == Self.content())
        try await again.close()
    }

    @Test func withoutEitherRecordTheHeadIsRefusedUntilAPersonDecides() async throws {
        let head = try await Head()
        try Data("rubbish".utf8).write(to: URL(fileURLWithPath: head.copy))
        try head.loseDatabase("no database at all")
        for _ in 0..<2 {
            do {
                _ = try head.open()
                Issue.record("it was opened")
            } catch {
                for word in [head.database, head.copy, "--accept-damage"] {
                    #expect("\(error)".contains(word), "\(error)")
                }
            }
            #expect(throws: (any Error).self) {
                try HeadScrub.run(closed: head.directory, terms: ScrubTerms())
            }
            #expect(throws: (any Error).self) { try HeadDamage.restorable(head.directory) }
            for findings in [
                try HeadCheck.run(head.directory, isInUse: false), try HeadDamage.findings(head.directory),
            ] {
                #expect(findings.count == 1 && findings[0].text.contains("not known"), "\(findings)")
            }
        }
        try HeadDamage.accept(head.directory)
        #expect(try HeadCheck.run(head.directory, isInUse: false) == [])
        let volume = try head.open()
        #expect(try await volume.read(head.file, 0..<Self.size).count == Self.size)
        try await volume.close()
    }

    @Test(arguments: [false, true])
    func aDatabaseOfANewerReleaseIsRefusedAndNothingIsChanged(withLog: Bool) async throws {
        let head = try await Head()
        try head.makeNewer(withLog: withLog)
        let before = try head.contents()
        #expect(before.keys.contains("hashes.db-wal") == withLog)
        let uses: [() throws -> Void] = [
            { _ = try HashDatabase(in: head.directory) }, { _ = try HashDatabase.damage(in: head.directory) },
            {
                _ = try HashDatabase.beginUse(
                    of: head.directory, life: nil, isClean: false, firstUncertain: .none)
            },
            { try HeadDamage.accept(head.directory) },
            { _ = try HeadScrub.run(closed: head.directory, terms: ScrubTerms()) },
        ]
        for use in uses {
            do {
                try use()
                Issue.record("it was used")
            } catch {
                for word in [head.database, "newer release", "version 2", "use the release that wrote it"] {
                    #expect("\(error)".contains(word), "\(error)")
                }
            }
        }
        let findings = try HeadCheck.run(head.directory, isInUse: false)
        #expect(findings.count == 1 && findings[0].text.contains("newer release"), "\(findings)")
        #expect(try head.contents() == before)
        #expect(throws: (any Error).self) { try head.open() }
        // Only the catalog has noted that somebody tried.
        let after = try head.contents().filter { !$0.key.hasPrefix("catalog.db") && $0.key != "lock" }
        #expect(after == before.filter { !$0.key.hasPrefix("catalog.db") && $0.key != "lock" })
    }

    /// Of a copy of a newer release nothing is taken, and nothing of it is deleted.
    @Test func aCopyOfANewerReleaseIsRefused() async throws {
        let head = try await Head()
        try head.loseDatabase(nil)
        let text = "godwit damage 3\nand more\n"
        try Data(text.utf8).write(to: URL(fileURLWithPath: head.copy))
        let uses: [() throws -> Void] = [
            { _ = try head.open() }, { try HeadDamage.accept(head.directory) },
        ]
        for use in uses {
            do {
                try use()
                Issue.record("it was used")
            } catch {
                for word in [head.copy, "newer release", "use the release that wrote it"] {
                    #expect("\(error)".contains(word), "\(error)")
                }
            }
        }
        #expect(FileManager.default.contents(atPath: head.copy) == Data(text.utf8))
    }

    /// With a byte changed anywhere nothing that it says is believed, and where its first entry is cut. What a crash may
    /// have torn, the last entry, counts as not there.
    @Test func aDamagedCopyIsNotBelieved() async throws {
        let head = try await Head()
        try head.loseDatabase(nil)
        let whole = try #require(FileManager.default.contents(atPath: head.copy))
        let known = try HashDatabase.damage(in: head.directory)
        #expect(known.blocks.count == 1 && known.overwritten.count == 1)
        var before = known
        before.overwritten = [:]
        let first = try #require(whole.range(of: Data("\nsum ".utf8))).upperBound + 33
        try #require(first < whole.count)
        for place in 0..<whole.count {
            var changed = whole
            changed[place] ^= 1
            for (bytes, isTorn) in [(whole.prefix(place), place >= first), (changed, false)] {
                try bytes.write(to: URL(fileURLWithPath: head.copy))
                if isTorn {
                    #expect(try HashDatabase.damage(in: head.directory) == before, "\(place)")
                } else {
                    #expect(throws: (any Error).self, "\(place)") {
                        try HashDatabase.damage(in: head.directory)
                    }
                }
            }
        }
        try whole.write(to: URL(fileURLWithPath: head.copy))
        #expect(try HashDatabase.damage(in: head.directory) == known)
    }

    /// Not even when there is no copy. (Ten seconds, for so long it is waited for.)
    @Test func aDatabaseThatSomebodyElseHoldsIsNotDeleted() async throws {
        let head = try await Head()
        unlink(head.copy)
        do {
            let holder = try Connection(path: head.database, mode: .readWrite)
            try holder.execute("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")
            #expect(throws: (any Error).self) { try head.open() }
            try holder.execute("COMMIT")
        }
        try await expectKnown(head)
    }
}
