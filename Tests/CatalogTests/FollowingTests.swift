@testable import Catalog
import EngineTestSupport
import Foundation
import SQLite
import Testing
import VolumeModel

/// An owner that changes at random and its followers.
@Suite struct FollowingTests {
    /// Names and attributes changed at random, through the catalog alone.
    private struct Changer {
        let catalog: Catalog
        var generator: Generator
        var inodes: [InodeNumber] = []

        mutating func change() throws {
            var drawn = generator
            defer { generator = drawn }
            let name = Array("n\(drawn.next(below: 12))".utf8)
            let pick = drawn.element(of: inodes)
            let kind = drawn.next(below: 10)
            let value = drawn.bytes(drawn.next(below: 20))
            let other = Array("n\(drawn.next(below: 12))".utf8)
            try catalog.perform { state in
                switch kind {
                case 0...2:
                    guard try state.entry(name, in: .root) == nil else { return }
                    try state.addFile(name)
                case 3...4:
                    guard let entry = try state.entry(name, in: .root) else { return }
                    try state.removeEntry(name, in: .root)
                    try state.removeInode(entry.inode)
                case 5:
                    // A rename: the entry gets a new cookie, and the old name may come again.
                    guard let entry = try state.entry(name, in: .root),
                        try state.entry(other, in: .root) == nil
                    else { return }
                    _ = try state.inode(entry.inode)
                    try state.removeEntry(name, in: .root)
                    try state.addEntry(other, in: .root, inode: entry.inode, kind: .regular)
                case 6:
                    // The same with the old cookie, or two names that trade places.
                    guard let entry = try state.entry(name, in: .root), name != other else { return }
                    if let second = try state.entry(other, in: .root) {
                        try state.replaceEntry(
                            name, in: .root, by: name, inode: second.inode, kind: .regular)
                        try state.replaceEntry(
                            other, in: .root, by: other, inode: entry.inode, kind: .regular)
                    } else {
                        try state.replaceEntry(name, in: .root, by: other, inode: entry.inode, kind: .regular)
                    }
                case 7:
                    guard let pick, var record = try state.inode(pick) else { return }
                    record.attributes.permissions = UInt32(value.count)
                    record.attributes.modificationTime = FileTime(seconds: Int64(value.count), nanoseconds: 1)
                    try state.update(record, kind: .metadata)
                case 8:
                    guard let pick, try state.inode(pick) != nil else { return }
                    try state.setExtendedAttribute(Array(name.prefix(2)), of: pick, value: value)
                default:
                    guard let pick, try state.inode(pick) != nil else { return }
                    try state.removeExtendedAttribute(Array(name.prefix(2)), of: pick)
                }
            }
            inodes = try catalog.perform { try $0.entries(of: .root, after: 0, limit: 100).map(\.inode) }
            if drawn.next(below: 12) == 0 { try catalog.commit() }
        }
    }

    /// The link that is cut off.
    private struct Cut: Error {}

    private final class Follower {
        let directory: String
        let name: String
        var catalog: Catalog

        init(_ name: String, in directory: String) throws {
            self.name = name
            self.directory = directory
            try Catalog.create(
                in: directory, limits: VolumeLimits(byteCount: 0), epoch: .first, now: .zero, withRoot: false)
            catalog = try Catalog(opening: directory)
        }

        /// - Parameter limit: rows after which the link is cut; nil: never.
        func follow(_ owner: Catalog, cutAfter limit: Int?) async throws {
            let catalog = self.catalog
            let since = try catalog.originSequence()
            var left = limit ?? .max
            let position = try await owner.sendChanges(to: name, since: since) { batch in
                let rows = try CatalogRowCoder.rows(of: batch)
                try catalog.apply(Array(rows.prefix(left)))
                if rows.count >= left { throw Cut() }
                left -= rows.count
            }
            try catalog.finishChanges(at: position)
        }

        func crash() throws {
            catalog.abandon()
            catalog = try Catalog(opening: directory)
        }
    }

    @Test(arguments: 1...8 as ClosedRange<UInt64>)
    func aFollowerIsWhatItsOwnerIs(_ seed: UInt64) async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("owner")
        try Catalog.create(
            in: directory, limits: VolumeLimits(byteCount: 0), epoch: .first, now: .zero, withRoot: true)
        let owner = try Catalog(opening: directory)
        var changer = Changer(catalog: owner, generator: Generator(seed: seed))
        let followers = [
            try Follower("near", in: try temporary.make("near")),
            try Follower("far", in: try temporary.make("far")),
        ]
        var draw = Generator(seed: seed + 100)
        for round in 0..<120 {
            for _ in 0..<draw.next(below: 25) { try changer.change() }
            await Task.yield()
            guard let follower = draw.element(of: followers) else { continue }
            do {
                // Cut off at times, before anything came or in the midst of it; then asked again.
                let limit = draw.next(below: 3) == 0 ? draw.next(below: 40) : nil
                try await follower.follow(owner, cutAfter: limit)
                let expected = try CatalogImage(owner)
                let found = try CatalogImage(follower.catalog)
                #expect(expected.faults().isEmpty, "seed \(seed), round \(round)")
                #expect(found.faults().isEmpty, "seed \(seed), round \(round)")
                #expect(found == expected, "seed \(seed), round \(round)")
                let rows = try Self.rows(follower)
                #expect(rows.entries == expected.entries.count, "seed \(seed), round \(round)")
                #expect(rows.inodes == expected.nodes.count, "seed \(seed), round \(round)")
                #expect(rows.xattrs == expected.nodes.values.reduce(0) { $0 + $1.xattrs.count })
            } catch is Cut {
                if draw.next(below: 3) == 0 { try follower.crash() }
            }
        }
        // Nobody looks any more: the rows that were kept for them go.
        for follower in followers { try owner.unpin(follower.name) }
        let left = try Self.deadRows(directory)
        #expect(left == 0)
        for follower in followers { try follower.catalog.close() }
        try owner.close()
    }

    private static func rows(_ follower: Follower) throws -> (inodes: Int, entries: Int, xattrs: Int) {
        let connection = try Connection(path: follower.directory + "/catalog.db", mode: .readWrite)
        func count(_ table: String) throws -> Int {
            Int(try connection.prepare("SELECT count(*) FROM \(table)").first { $0.integer(0) } ?? -1)
        }
        return (try count("inode"), try count("entry"), try count("xattr"))
    }

    private static func deadRows(_ directory: String) throws -> Int {
        let connection = try Connection(path: directory + "/catalog.db", mode: .readWrite)
        return try ["inode", "entry", "xattr"].reduce(0) { sum, table in
            sum
                + Int(
                    try connection.prepare("SELECT count(*) FROM \(table) WHERE died > 0").first {
                        $0.integer(0)
                    } ?? -1)
        }
    }

    @Test func changesSinceAStateThatWasNeverGivenAreRefused() async throws {
        let temporary = try TemporaryDirectory()
        try Catalog.create(
            in: temporary.path, limits: VolumeLimits(byteCount: 0), epoch: .first, now: .zero, withRoot: true)
        let owner = try Catalog(opening: temporary.path)
        await #expect(throws: CatalogError.self) {
            _ = try await owner.sendChanges(to: "stranger", since: SequenceNumber(1)) { _ in }
        }
        let first = try await owner.sendChanges(to: "friend", since: nil) { _ in }.sequence
        try owner.perform { try $0.setExtendedAttribute([1], of: .root, value: [2]) }
        let second = try await owner.sendChanges(to: "friend", since: first) { _ in }.sequence
        _ = try await owner.sendChanges(to: "friend", since: second) { _ in }
        // Acknowledged and gone by, or from the future.
        for since in [first, SequenceNumber(second.number + 1000), SequenceNumber(-1)] {
            // Also while changes wait for a commit: whoever asks wrongly must not stop the owner.
            try owner.perform { try $0.setExtendedAttribute([4], of: .root, value: [5]) }
            await #expect(throws: CatalogError.self) {
                _ = try await owner.sendChanges(to: "friend", since: since) { _ in }
            }
        }
        // The refusals have broken nothing.
        try owner.perform { try $0.setExtendedAttribute([1], of: .root, value: [3]) }
        try owner.synchronize()
        try owner.close()
    }

    /// Of a follower that this very head knows nothing of, it is an older state; of one that was dropped it is not.
    @Test func aFollowerThatWasNeverHeardOfIsNewerAndOneThatWasDroppedIsNot() async throws {
        let temporary = try TemporaryDirectory()
        try Catalog.create(
            in: temporary.path, limits: VolumeLimits(byteCount: 0), epoch: .first, now: .zero, withRoot: true)
        var owner = try Catalog(opening: temporary.path)
        let head = try #require(try owner.headName())
        func isBehind(_ follower: String, at number: Int64) throws -> Bool {
            try owner.isBehind(follower, at: SequenceNumber(number), of: head)
        }
        let given = try await owner.sendChanges(to: "friend", since: nil) { _ in }.sequence.number
        try owner.perform { try $0.setExtendedAttribute([1], of: .root, value: [2]) }
        #expect(try !isBehind("friend", at: given))
        #expect(try isBehind("friend", at: given + 1))
        // In the life that was put back there was none of that name, however far this one has got by now.
        #expect(try isBehind("stranger", at: given))
        #expect(try !owner.isBehind("stranger", at: SequenceNumber(given), of: nil), "of another head")
        try owner.dismiss("friend")
        try owner.close()
        owner = try Catalog(opening: temporary.path)
        #expect(try !isBehind("friend", at: given))
        let last = try owner.perform { $0.committedSequence.number }
        #expect(try isBehind("friend", at: last + 1), "it has more than was ever given")
        // It begins anew, and is known again.
        let anew = try await owner.sendChanges(to: "friend", since: nil) { _ in }.sequence.number
        #expect(try !isBehind("friend", at: anew))
        try owner.unpin("friend")
        #expect(try isBehind("friend", at: anew))
        try owner.close()
    }

    @Test func whatAFollowerWasGivenSurvivesThePowerLossOfItsOwner() async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("owner")
        try Catalog.create(
            in: directory, limits: VolumeLimits(byteCount: 0), epoch: .first, now: .zero, withRoot: true)
        let owner = try Catalog(opening: directory)
        try owner.perform { try $0.setExtendedAttribute([7], of: .root, value: [8]) }
        let position = try await owner.sendChanges(to: "friend", since: nil) { _ in
            #expect(!owner.hasUnsynchronizedCommits)
        }
        let copy = temporary.path + "/copy"
        try TemporaryDirectory.copyHead(from: directory, to: copy)
        let crashed = try Catalog(opening: copy)
        #expect(try crashed.perform { $0.committedSequence } >= position.sequence)
        #expect(try crashed.perform { try $0.extendedAttribute([7], of: .root) } == [8])
        try crashed.close()
        try owner.close()
    }

    @Test func aCrashLosesNothingThatWasSynchronizedAndHalvesNoOperation() async throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("owner")
        try Catalog.create(
            in: directory, limits: VolumeLimits(byteCount: 0), epoch: .first, now: .zero, withRoot: true)
        let owner = try Catalog(opening: directory)
        var changer = Changer(catalog: owner, generator: Generator(seed: 77))
        var draw = Generator(seed: 78)
        var synchronized = try CatalogImage(owner)
        for round in 0..<60 {
            for _ in 0..<draw.next(below: 30) { try changer.change() }
            await Task.yield()
            if draw.next(below: 2) == 0 {
                try owner.synchronize()
                synchronized = try CatalogImage(owner)
            } else if draw.next(below: 3) == 0 {
                try owner.checkpoint()
            }
            let copy = temporary.path + "/copy"
            try TemporaryDirectory.copyHead(from: directory, to: copy)
            let crashed = try Catalog(opening: copy)
            let image = try CatalogImage(crashed)
            #expect(image.faults().isEmpty, "round \(round): \(image.faults())")
            // The counter of names only grows: at least as new as the last synchronized state.
            #expect(image.counters.nextCookie >= synchronized.counters.nextCookie, "round \(round)")
            try crashed.close()
            try FileManager.default.removeItem(atPath: copy)
        }
        try owner.close()
    }

    /// A hand-over of a million files must not look at all of them.
    @Test func askingForChangesUsesAnIndexForEach() throws {
        let temporary = try TemporaryDirectory()
        let directory = try temporary.make("owner")
        try Catalog.create(
            in: directory, limits: VolumeLimits(byteCount: 0), epoch: .first, now: .zero, withRoot: true)
        let connection = try Connection(path: directory + "/" + Catalog.fileName, mode: .readWrite)
        let since = SequenceNumber(17)
        for query in [
            ChangeQueries.inodes(since: since), ChangeQueries.entries(since: since),
            ChangeQueries.attributes(since: since), ChangeQueries.removedInodes(since: since),
            ChangeQueries.removedEntries(since: since), ChangeQueries.removedAttributes(since: since),
        ] {
            var plan: [String] = []
            try connection.prepare("EXPLAIN QUERY PLAN " + query).forEach {
                plan.append($0.text(3))
                return true
            }
            #expect(!plan.isEmpty && !plan.contains { $0.hasPrefix("SCAN") }, "\(query): \(plan)")
        }
    }
}
