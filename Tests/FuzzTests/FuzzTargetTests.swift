import EngineTestSupport
import Testing

/// Each parser of what comes from outside, with sound inputs and with damages at random. `Tests/fuzz/run` goes on from there.
@Suite struct FuzzTargetTests {
    @Test(arguments: FuzzTarget.all) func whatIsSoundIsTaken(_ target: FuzzTarget) throws {
        for (index, seed) in try target.seeds().enumerated() {
            #expect(target.run(seed) == .taken, "seed \(index): \(seed)")
            #expect(seed.count <= target.byteLimit, "seed \(index)")
        }
    }

    @Test(arguments: FuzzTarget.all)
    func whatIsDamagedIsRefusedOrIsWhatItSays(_ target: FuzzTarget) throws {
        let index = FuzzTarget.all.firstIndex { $0.name == target.name } ?? 0
        var mutator = Mutator(UInt64(100 + index))
        let seeds = try target.seeds()
        for round in 0..<target.rounds * Mutator.factor {
            let input = mutator.damaged(seeds)
            if case .wrong(let what) = target.run(input) {
                Issue.record("round \(round): \(what), of \(input)")
                return
            }
        }
    }
}
