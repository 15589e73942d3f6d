internal import Foundation
internal import Glibc
internal import TestBed

/// Looks at what a site and this process have used, before and after some work.
///
/// The looks themselves are beside the work's time, and beside what they tell: the site's answer to them is not in it.
struct WorkMeter: Sendable {
    let site: SiteProcess
    let pid: Int32

    /// What a site has to be started with.
    static let siteOptions = ["--monitor-listen", "127.0.0.1:0"]

    /// - Parameter site: one that runs, with `siteOptions`; not to be started anew meanwhile.
    init(_ site: SiteProcess) async throws {
        self.site = site
        pid = try await BenchMachine.pid(of: site)
    }

    /// Runs some work.
    ///
    /// - Parameter countsPrograms: whether this process does it, with programs that end with it.
    /// - Returns: its result, its time, and what it took beside.
    func measure<Result: Sendable>(
        countsPrograms: Bool = true, _ work: @Sendable () async throws -> Result
    ) async throws -> (result: Result, seconds: Double, cost: WorkCost) {
        let told = try await site.metrics()
        let before = try used(countsPrograms)
        let start = ContinuousClock.now
        let result = try await work()
        let seconds = (ContinuousClock.now - start).seconds
        let after = try used(countsPrograms)
        let toldLater = try await site.metrics()
        let cost = (after + Self.counters(toldLater)) - (before + Self.counters(told))
        return (result, seconds, cost)
    }

    /// A trip to the site's file system and back, without the site's own time.
    func bareTrip(in directory: String) async throws -> Double {
        let file = "\(directory)/bare-trip"
        try await DedicatedThread.run("file") { try BenchFiles.write(file, [0]) }
        let (trip, _, cost) = try await measure { try await BareTrip.seconds(at: file) }
        try await DedicatedThread.run("file") { try BenchFiles.check(unlink(file), "unlink", file) }
        return max(0, trip - cost.request.seconds / max(1, cost.request.count))
    }

    private static func counters(_ told: MetricsReading) -> WorkCost {
        var cost = WorkCost()
        let seconds = told.values(of: "godwit_fuse_request_seconds_total", by: "operation")
        for (operation, count) in told.values(of: "godwit_fuse_requests_total", by: "operation") {
            cost.requests[operation] = WorkCost.Tally(count: count, seconds: seconds[operation] ?? 0)
        }
        cost.syncs = WorkCost.Tally(
            count: told.value("godwit_disk_syncs_total"),
            seconds: told.value("godwit_disk_sync_seconds_total"))
        return cost
    }

    private func used(_ countsPrograms: Bool) throws -> WorkCost {
        var cost = WorkCost()
        (cost.siteUserSeconds, cost.siteSystemSeconds) = try BenchMachine.processorTimes(pid)
        cost.writtenByteCount = try BenchMachine.writtenByteCount(pid)
        if countsPrograms {
            cost.programSeconds = Self.processorSeconds(RUSAGE_SELF) + Self.processorSeconds(RUSAGE_CHILDREN)
        }
        return cost
    }

    /// User and system; of programs that have ended, for this process's children.
    private static func processorSeconds(_ who: __rusage_who) -> Double {
        var usage = rusage()
        guard getrusage(__rusage_who_t(who.rawValue), &usage) == 0 else { return 0 }
        let microseconds = usage.ru_utime.tv_usec + usage.ru_stime.tv_usec
        return Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + Double(microseconds) / 1e6
    }
}
