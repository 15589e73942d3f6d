import Catalog
import EngineTestSupport
import SQLite
import Testing
import VolumeModel

/// A follower that an older release has dropped left no word of it, and has no newer state for that.
@Suite struct DroppedFollowerTests {
    @Test func aFollowerThatAnOlderReleaseDroppedBeginsAnew() async throws {
        let temporary = try TemporaryDirectory()
        try Catalog.create(
            in: temporary.path, limits: VolumeLimits(byteCount: 0), epoch: .first, now: .zero, withRoot: true)
        var owner = try Catalog(opening: temporary.path)
        let head = try #require(try owner.headName())
        let given = try await owner.sendChanges(to: "friend", since: nil) { _ in }.sequence
        try owner.unpin("friend")
        #expect(try owner.isBehind("friend", at: given, of: head), "this release forgets nobody")
        try owner.close()
        let connection = try Connection(
            path: temporary.path + "/" + Catalog.fileName, mode: .readWrite)
        try connection.execute("DELETE FROM meta WHERE key = 'dismissals_since'")

        for _ in 0..<2 {
            owner = try Catalog(opening: temporary.path)
            #expect(try !owner.isBehind("friend", at: given, of: head))
            try owner.perform { try $0.setExtendedAttribute([1], of: .root, value: [2]) }
            try owner.synchronize()
            let later = try owner.perform { $0.committedSequence }
            #expect(try owner.isBehind("friend", at: later, of: head), "that was given by this release")
            try owner.close()
        }
    }
}
