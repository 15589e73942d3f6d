import Foundation
import Testing
import VolumeModel

@testable import Handoff

@Suite struct HandoffTests {
    private let london = SiteID("london")!
    private let sydney = SiteID("sydney")!

    @Test func thousandsOfSchedulesNeverSeeTwoWritersNorLoseAWrite() throws {
        let count = UInt64(ProcessInfo.processInfo.environment["GODWIT_SIMULATIONS"] ?? "") ?? 10_000
        var handoffs = 0
        for seed in 0..<count {
            var simulation = try HandoffSimulation(seed: seed, siteCount: seed % 2 == 0 ? 2 : 3)
            do {
                try simulation.run(steps: 150)
            } catch {
                Issue.record("seed \(seed): \(error)")
                return
            }
            handoffs += simulation.handoffs
        }
        // A simulation in which nothing happens proves nothing.
        #expect(handoffs > Int(count))
    }

    @Test(arguments: PlantedBug.allCases)
    func theSimulationFindsAPlantedBug(_ bug: PlantedBug) throws {
        for seed in 0..<3000 as Range<UInt64> {
            var simulation = try HandoffSimulation(seed: seed, bug: bug)
            do {
                try simulation.run(steps: 150)
            } catch is HandoffSimulation.Violation {
                return
            }
        }
        Issue.record("\(bug) was not found")
    }

    @Test func theSameSealRequestGetsTheSameAnswer() throws {
        var record = HeadRecord(newAt: london)
        let request = Event.sealRequested(by: sydney, after: .first, wanted: Epoch(2))
        let heir = Reign(sydney, Epoch(2))
        #expect(try record.apply(request) == [.readTail(heir: heir)])
        #expect(!record.mayWrite(under: .first))
        let grant = Grant(heir: heir, finalSequence: SequenceNumber(7))
        #expect(
            try record.apply(.tailRead(heir: heir, finalSequence: SequenceNumber(7)))
                == [.grantSeal(after: .first, grant)])
        let sealed = record
        #expect(try record.apply(request) == [.grantSeal(after: .first, grant)])
        #expect(record == sealed)
        // Nobody else gets it, and nobody gets it twice.
        let paris = SiteID("paris")!
        #expect(throws: HandoffError.sealRefused(.promised(to: heir))) {
            try record.apply(.sealRequested(by: paris, after: .first, wanted: Epoch(2)))
        }
    }

    @Test func aMountedVolumeIsNotGivenAway() throws {
        var record = HeadRecord(newAt: london)
        let holder = Holder(node: "node-1", pod: "db-0")
        _ = try record.apply(.attach(holder))
        #expect(throws: HandoffError.sealRefused(.inUse(holder))) {
            try record.apply(.sealRequested(by: sydney, after: .first, wanted: Epoch(2)))
        }
        #expect(record.mayWrite(under: .first))
    }

    @Test func aDeclinedEpochIsNeverUsedAgain() throws {
        var record = HeadRecord(newAt: london)
        let heir = Reign(sydney, Epoch(2))
        _ = try record.apply(.sealRequested(by: sydney, after: .first, wanted: Epoch(2)))
        _ = try record.apply(.tailRead(heir: heir, finalSequence: .zero))
        _ = try record.apply(.takeOver)
        _ = try record.apply(.declined(by: sydney, wanted: Epoch(2)))
        #expect(record.mayWrite(under: Epoch(3)))
        #expect(!record.mayWrite(under: Epoch(2)))
    }

    @Test func everyRoleSurvivesItsStoredForm() throws {
        let reign = Reign(london, Epoch(4))
        let grant = Grant(heir: Reign(sydney, Epoch(5)), finalSequence: SequenceNumber(9))
        let own = Grant(heir: Reign(sydney, Epoch(5)), finalSequence: SequenceNumber(9))
        let roles: [Role] = [
            .following(reign), .acquiring(from: reign, wanted: Epoch(5)), .receiving(from: reign, grant: own),
            .declining(from: reign, declined: Epoch(5)), .owning(Epoch(5), holder: nil),
            .owning(Epoch(5), holder: Holder(node: "n", pod: "p")), .sealing(Epoch(4), heir: grant.heir),
            .sealed(Epoch(4), grant: grant), .reclaiming(Epoch(4), grant: grant), .retired(reign),
            .fenced(Epoch(4), by: Epoch(6), owner: london), .fenced(Epoch(4), by: Epoch(6), owner: nil),
        ]
        for role in roles {
            let record = HeadRecord(
                site: sydney, role: role, spent: Epoch(6), reigned: Epoch(5),
                sources: [Source(site: london, reign: Epoch(5), phase: .fetching)], retentions: [grant.heir])
            let bytes = try JSONEncoder().encode(record)
            #expect(try JSONDecoder().decode(HeadRecord.self, from: bytes) == record)
            // Cut anywhere, it is refused and does not trap.
            for length in 0..<bytes.count {
                #expect(throws: (any Error).self) {
                    try JSONDecoder().decode(HeadRecord.self, from: bytes.prefix(length))
                }
            }
        }
    }
}
