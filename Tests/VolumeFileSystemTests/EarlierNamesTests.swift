import Catalog
import EngineTestSupport
import Foundation
import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

/// A head that was handed over and goes on by force still tells its names as they were, to whoever had not all of them.
@Suite struct EarlierNamesTests {
    /// Everything, as an heir asks for it.
    private static func list(
        _ catalog: Catalog, asOf position: SequenceNumber?, byteCount: Int
    ) throws -> [CatalogRow] {
        var rows = try catalog.list(
            ListingRequest(places: [], inodes: [.root], byteCount: byteCount), asOf: position
        ).asSent().singles
        var places = [ListingPlace(directory: .root, after: 0)]
        while !places.isEmpty {
            let request = ListingRequest(places: places, descends: false, byteCount: byteCount)
            let answer = try catalog.list(request, asOf: position).asSent()
            for part in answer.parts {
                places.removeAll { $0.directory == part.directory }
                if !part.isComplete {
                    places.append(ListingPlace(directory: part.directory, after: part.last))
                }
            }
            for case .inode(let record) in answer.rows where record.attributes.kind == .directory {
                places.append(ListingPlace(directory: record.attributes.inode, after: 0))
            }
            rows += answer.rows
        }
        return rows
    }

    @Test(arguments: 31...36 as ClosedRange<UInt64>)
    func namesAreListedAsTheyWereWhenTheHeadWasSealed(_ seed: UInt64) async throws {
        let temporary = try TemporaryDirectory()
        let volume = try TestVolume.make(in: try temporary.make("head"))
        let run = ModelRun(
            EngineDriver(volume, seed: seed), Model(), source: nil, configuration: Hydrator.Configuration(),
            temporary: temporary, seed: seed)
        try await run.run(steps: 250, crashes: nil)
        try run.volume.storage.settle()
        let sealed = try run.volume.storage.catalog.pin("heir at epoch 2", sealedFor: Epoch(2))
        let before = try Self.list(run.volume.storage.catalog, asOf: nil, byteCount: 1 << 20)
        #expect(before.count >= 10)
        for round in 0..<4 {
            try await run.run(steps: 100, crashes: nil)
            let catalog = run.volume.storage.catalog
            // Others may look at what comes later.
            if round == 1 { _ = try catalog.pin("follower") }
            for byteCount in [1, 500, 1 << 20] {
                let now = try Self.list(catalog, asOf: sealed, byteCount: byteCount)
                #expect(Set(now) == Set(before) && now.count == before.count, "seed \(seed), round \(round)")
            }
            for row in before {
                guard case .entry(let entry) = row else { continue }
                let request = ListingRequest(
                    places: [], name: ListingRequest.Name(directory: entry.parent, name: entry.name),
                    byteCount: 1)
                let found = try catalog.list(request, asOf: sealed).asSent().singles
                #expect(found.contains(row) && Set(before).isSuperset(of: found), "\(entry)")
            }
            let none = ListingRequest(
                places: [], name: ListingRequest.Name(directory: .root, name: Array("none".utf8)),
                byteCount: 1)
            #expect(try catalog.list(none, asOf: sealed).singles.isEmpty)
        }
        let present = try Self.list(run.volume.storage.catalog, asOf: nil, byteCount: 1 << 20)
        #expect(Set(present) != Set(before), "nothing has changed: the test proves nothing")
        try await run.volume.close()
    }
}
