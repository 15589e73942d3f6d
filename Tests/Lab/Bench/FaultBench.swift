internal import Glibc
internal import TestBed

/// Workload 8: random reads of bytes that are still at the other site.
struct FaultBench: Sendable {
    let plan: BenchPlan
    private static let seed: UInt64 = 8

    private struct Latencies: Sendable {
        let faults: Series
        /// Reads that were too fast to have crossed the link: the page had arrived before.
        let residentCount: Int
        /// Of echoes beside the reads.
        let roundTrips: Series
    }

    func run() async throws -> BenchSection {
        var section = BenchSection(
            8,
            "Fault latency: \(plan.faultCount) random reads of 4 KiB over the round trip, 100 Mbit/s, 20 ms")
        for (name, options, limits) in [
            (
                "idle", ["--no-background-hydration"],
                (BenchAim.atMost(1.1, "1.1"), BenchAim.atMost(1.5, "1.5"))
            ),
            ("under hydration", [], (BenchAim?.none, BenchAim.atMost(2.5, "2.5"))),
        ] as [(String, [String], (BenchAim?, BenchAim?))] {
            plan.note("fault latency, \(name)")
            section.rows += try await Cleanup.scope { cleanup in
                let pair = try await SitePair.start(
                    binary: plan.binary, link: plan.link, options: options, cleanup)
                do {
                    return try await measure(name, limits, pair, cleanup)
                } catch {
                    throw LabError.invalid("\(error)\n\(pair.logs)")
                }
            }
        }
        return section
    }

    private func measure(
        _ name: String, _ limits: (p50: BenchAim?, p99: BenchAim?), _ pair: SitePair, _ cleanup: Cleanup
    ) async throws -> [BenchRow] {
        try await pair.london.godwit(["volume", "create", "data", "--capacity", "2Gi"])
        let path = try await pair.mount("data", at: pair.london, cleanup)
        let byteCount = plan.faultFileByteCount
        try await DedicatedThread.run("write") {
            try BenchFiles.writePages("\(path)/file", byteCount: byteCount, seed: Self.seed)
        }
        try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
        try await pair.unmount("data", at: pair.london)
        guard let trip = Series(try await LinkProbe(pair.link).roundTrips(50)) else {
            throw LabError.invalid("the link carries no echo")
        }
        _ = try await pair.move("data", from: pair.london, writing: "moved", cleanup)
        let result = try await read("\(pair.mountPoint(of: pair.sydney))/file", trip.median, pair.link)
        let pings = BenchText.milliseconds(trip.median)
        return [
            BenchRow(
                "\(name): p50 of \(result.faults.count) faults (\(result.residentCount) had arrived)",
                BenchText.milliseconds(result.faults.median), against: pings,
                ratio: result.faults.median / trip.median, aim: limits.p50),
            BenchRow(
                "\(name): p99", BenchText.milliseconds(result.faults.percentile(99)), against: pings,
                ratio: result.faults.percentile(99) / trip.median, aim: limits.p99),
            BenchRow(
                "\(name): p99 of echoes beside the reads",
                BenchText.milliseconds(result.roundTrips.percentile(99)), against: pings,
                ratio: result.roundTrips.percentile(99) / trip.median),
        ]
    }

    private func read(_ path: String, _ trip: Double, _ link: WANLink) async throws -> Latencies {
        let (count, pageCount) = (plan.faultCount, plan.faultFileByteCount / BenchFiles.pageByteCount)
        async let echoes = LinkProbe(link).roundTrips(100, interval: .milliseconds(50))
        let times = try await DedicatedThread.run("reader") { () throws -> [Double] in
            let file = try BenchFiles.open(path, O_RDONLY)
            defer { close(file) }
            var chosen = Set<Int>()
            var times: [Double] = []
            while times.count < count {
                let number = Int.random(in: 0..<pageCount)
                guard chosen.insert(number).inserted else { continue }
                let start = ContinuousClock.now
                let page = try BenchFiles.readPage(file, at: UInt64(number * BenchFiles.pageByteCount), path)
                times.append((ContinuousClock.now - start).seconds)
                guard page == BenchFiles.page(number, seed: Self.seed) else {
                    throw LabError.invalid("page \(number) has other bytes than before the move")
                }
            }
            return times
        }
        // Nothing crosses the link and comes back in half of a round trip.
        let faults = times.filter { $0 > trip / 2 }
        guard let series = Series(faults), let roundTrips = Series(try await echoes) else {
            throw LabError.invalid("no read was a fault")
        }
        return Latencies(faults: series, residentCount: times.count - faults.count, roundTrips: roundTrips)
    }
}
