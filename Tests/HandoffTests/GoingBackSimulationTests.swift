import Testing

@Suite struct GoingBackSimulationTests {
    private static let count: UInt64 = 400

    @Test(arguments: GoingBackSimulation.Return.allCases)
    func noScheduleBreaksAPromise(_ kind: GoingBackSimulation.Return) {
        var (returns, raised, fenced, writes) = (0, 0, 0, 0)
        for seed in 0..<Self.count {
            var simulation = GoingBackSimulation(seed: seed, kind)
            do {
                try simulation.run()
            } catch {
                Issue.record("\(kind), seed \(seed): \(error)")
                return
            }
            returns += simulation.returnCount
            raised += simulation.raisedReturnCount
            fenced += simulation.fencedCount
            writes += simulation.writeCount
        }
        // A simulation in which nothing happens proves nothing.
        print(
            "going back (\(kind)): \(returns) returns, \(raised) of them raised, \(fenced) fenced, \(writes) writes"
        )
        #expect(writes > Int(Self.count) / 2)
        #expect((fenced > Int(Self.count) / 50) == (kind != .never))
        #expect((returns > Int(Self.count) / 2) == (kind != .never))
        #expect((raised > Int(Self.count) / 20) == (kind == .silent))
    }
}
