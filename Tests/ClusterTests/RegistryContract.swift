import Cluster
import Foundation
import Handoff
import Hydration
import KubernetesAPI
import Site
import Testing
import VolumeModel

@testable import TestBed

/// What every registry of a site keeps, whatever it stores its records in.
enum RegistryContract {
    static func check(_ registry: any SiteRegistry, reopened: () throws -> any SiteRegistry) async throws {
        try await recordsComeBackAsTheyWere(registry, reopened: reopened)
        try await namesAreUnique(registry)
        try await ofTwoChangesOfOneRevisionOneIsRefused(registry)
        try await changesAtTheSameTimeHaveOneWinner(registry)
        try await whatIsRemovedIsGone(registry)
        try await namesOfAllSortsAreKeptApart(registry)
    }

    static func record(_ name: String) throws -> VolumeRecord {
        var generator = SystemRandomNumberGenerator()
        let site = try #require(SiteID("london"))
        return VolumeRecord(
            id: VolumeID(randomHigh: generator.next(), randomLow: generator.next()), name: name,
            limits: VolumeLimits(byteCount: 1 << 40, inodeCount: 12), parameters: ["inodes": "12"],
            head: HeadRecord(newAt: site), headNumber: 1)
    }

    private static func recordsComeBackAsTheyWere(
        _ registry: any SiteRegistry, reopened: () throws -> any SiteRegistry
    ) async throws {
        var full = try record("everything")
        let sydney = try #require(SiteID("sydney"))
        full.sharedWith = [sydney]
        full.followedFrom = sydney
        full.retainedHeads = [Epoch(3): 4, .highest: 5]
        full.divergentHeads = [Epoch(9): 6]
        full.copies = [Epoch(2): KeptCopy(number: 1, byteCount: 4096, since: 1_700_000_000)]
        full.reading = ReadHead(of: Reign(sydney, Epoch(11)), number: 7)
        full.lastHeadNumber = 7
        full.hydration = HydrationPolicy(isPaused: true, bytesPerSecond: 1 << 33, prefetch: .start)
        full.isGuest = true
        let facts = try ClaimFacts(
            namespace: "shop", name: "data-0", labels: ["app": "db", "empty": ""], storageClass: "",
            requested: "1Gi", capacity: "2Gi", accessModes: ["ReadWriteOnce"], volumeMode: "")
        full.claim = ForeignClaim(
            facts: facts, report: ClaimReport(isMade: false, reason: "ClassMissing", message: "make it"))
        let inserted = try await registry.insert(full)
        #expect(inserted.value == full)
        let again = try reopened()
        let byID = try #require(try await again.volume(full.id))
        #expect(byID.value == full && byID.revision == inserted.revision)
        let byName = try #require(try await again.volume(named: "everything"))
        #expect(byName.value == full)
        #expect(try await again.volumes().map(\.value) == [full])
        // What is no longer there does not come back from an earlier state of the record.
        var changed = byID
        changed.value.retainedHeads = [:]
        changed.value.followedFrom = nil
        changed.value.reading = nil
        changed.value.hydration = HydrationPolicy()
        changed.value.claim = nil
        changed.value.isGuest = false
        let updated = try await again.update(changed)
        #expect(updated.revision != byID.revision)
        #expect(try await registry.volume(full.id)?.value == changed.value)
        #expect(try await registry.volume(full.id)?.revision == updated.revision)
    }

    private static func namesAreUnique(_ registry: any SiteRegistry) async throws {
        let first = try record("unique")
        _ = try await registry.insert(first)
        let second = try record("unique")
        await expect(.nameTaken("unique")) { () async throws(RegistryError) in
            _ = try await registry.insert(second)
        }
        #expect(try await registry.volume(named: "unique")?.value.id == first.id)
        #expect(try await registry.volume(second.id) == nil)
        // Nor is a volume known twice, under two names.
        let twice = VolumeRecord(
            id: first.id, name: "other", limits: first.limits, parameters: [:], head: first.head)
        await expect(.nameTaken("other")) { () async throws(RegistryError) in
            _ = try await registry.insert(twice)
        }
        #expect(try await registry.volume(named: "other") == nil)
    }

    private static func ofTwoChangesOfOneRevisionOneIsRefused(_ registry: any SiteRegistry) async throws {
        let stored = try await registry.insert(try record("changed"))
        var first = stored
        first.value.headNumber = 2
        var second = stored
        second.value.headNumber = 3
        let updated = try await registry.update(first)
        await expect(.conflict(stored.value.id)) { () async throws(RegistryError) in
            _ = try await registry.update(second)
        }
        await expect(.conflict(stored.value.id)) { () async throws(RegistryError) in
            try await registry.remove(stored)
        }
        #expect(try await registry.volume(stored.value.id)?.value.headNumber == 2)
        _ = try await registry.update(updated)
    }

    private static func changesAtTheSameTimeHaveOneWinner(_ registry: any SiteRegistry) async throws {
        let stored = try await registry.insert(try record("raced"))
        let winners = await withTaskGroup(of: UInt64?.self) { group in
            for number in 10..<20 as Range<UInt64> {
                group.addTask {
                    var mine = stored
                    mine.value.headNumber = number
                    return try? await registry.update(mine).value.headNumber
                }
            }
            return await group.reduce(into: []) { $0 += $1.map { [$0] } ?? [] }
        }
        #expect(winners.count == 1)
        #expect(try await registry.volume(stored.value.id)?.value.headNumber == winners.first)
        let inserted = await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    guard let record = try? record("born twice") else { return false }
                    return (try? await registry.insert(record)) != nil
                }
            }
            return await group.reduce(into: 0) { $0 += $1 ? 1 : 0 }
        }
        #expect(inserted == 1)
    }

    private static func whatIsRemovedIsGone(_ registry: any SiteRegistry) async throws {
        let stored = try await registry.insert(try record("removed"))
        #expect(try await registry.volume(stored.value.id)?.value == stored.value)
        try await registry.remove(stored)
        #expect(try await registry.volume(stored.value.id) == nil)
        #expect(try await registry.volume(named: "removed") == nil)
        await expect(.conflict(stored.value.id)) { () async throws(RegistryError) in
            try await registry.remove(stored)
        }
        await expect(.conflict(stored.value.id)) { () async throws(RegistryError) in
            _ = try await registry.update(stored)
        }
        // The name is free again, and so is the identifier.
        let second = try await registry.insert(try record("removed"))
        let moved = VolumeRecord(
            id: stored.value.id, name: "removed elsewhere", limits: stored.value.limits, parameters: [:],
            head: stored.value.head)
        _ = try await registry.insert(moved)
        #expect(try await registry.volume(stored.value.id)?.value == moved)
        #expect(try await registry.volume(named: "removed")?.value.id == second.value.id)
    }

    private static func namesOfAllSortsAreKeptApart(_ registry: any SiteRegistry) async throws {
        let long = String(repeating: "ä", count: 63)
        let names = [
            "Data", "data", "x-data", "a b", "..", "ünï", long + "a", long + "b", "-", "x-", "pvc-1.2",
            String(repeating: "z", count: 128), String(repeating: "z", count: 127),
        ]
        var ids: [String: VolumeID] = [:]
        for name in names {
            let record = try record(name)
            ids[name] = record.id
            _ = try await registry.insert(record)
        }
        for name in names {
            let found = try #require(try await registry.volume(named: name))
            #expect(found.value.id == ids[name] && found.value.name == name)
        }
    }

    private static func expect(
        _ expected: RegistryError, _ body: () async throws(RegistryError) -> Void
    ) async {
        do throws(RegistryError) {
            try await body()
            Issue.record("\(expected) was expected")
        } catch {
            #expect(error == expected)
        }
    }
}

@Suite struct SQLiteRegistryTests {
    @Test func theEmbeddedRegistryKeepsTheContract() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let path = try cleanup.makeTemporaryDirectory() + "/registry"
            try await RegistryContract.check(try SQLiteRegistry(path: path)) {
                try SQLiteRegistry(path: path)
            }
        }
    }

    /// Each refusal names the file and what to do, and leaves all bytes as they are.
    @Test func aRegistryThatIsNotWhatItShouldBeIsRefusedAndLeftAsItIs() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let directory = try cleanup.makeTemporaryDirectory()
            let path = directory + "/site.db"
            func contents() throws -> [String: Data] {
                Dictionary(
                    uniqueKeysWithValues: try FileManager.default.contentsOfDirectory(atPath: directory).map {
                        ($0, FileManager.default.contents(atPath: directory + "/" + $0) ?? Data())
                    })
            }
            let rubbish = Data((0..<10_000).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ 1) })
            let header = Data("SQLite format 3\0".utf8) + Data(count: 84)
            for files in [
                ["site.db": rubbish], ["site.db": header + rubbish],
                ["site.db": rubbish, "site.db-wal": rubbish],
                ["site.db": Data(), "site.db-wal": rubbish], ["site.db-wal": rubbish],
            ] {
                for name in try contents().keys {
                    try FileManager.default.removeItem(atPath: directory + "/" + name)
                }
                for (name, bytes) in files {
                    try bytes.write(to: URL(fileURLWithPath: directory + "/" + name))
                }
                do {
                    _ = try SQLiteRegistry(path: path)
                    Issue.record("it was opened: \(files.keys)")
                } catch {
                    for words in [path, "put a backup of it in its place"] {
                        #expect("\(error)".contains(words), "\(error)")
                    }
                }
                #expect(try contents() == files)
            }
        }
    }
}
