internal import Foundation
internal import Glibc
internal import TestBed

/// Workloads 1 to 3: a resident volume beside a directory of the same disk's file system, and beside FUSE file systems
/// that only hand on. In turns, several rounds; the ratio is of each round.
struct FileBench: Sendable {
    let plan: BenchPlan

    func run() async throws -> [BenchSection] {
        try await Cleanup.scope { cleanup in
            let places = try await BenchPlaces.make(plan, peers: [.bindfs, .passthrough], cleanup)
            return try await measure(places.all, places.site)
        }
    }

    private func measure(_ places: [BenchPlace], _ site: SiteProcess) async throws -> [BenchSection] {
        var sections = [
            BenchSection(1, "Data, resident: time on ext4 over time here (1: as quick)"),
            BenchSection(
                2, "Metadata, \(BenchText.count(plan.metadataFileCount)) files: time on ext4 over time here"),
            BenchSection(3, "Trees and programs: time here over time on ext4"),
        ]
        let archive = places[0].path + "/../tree.tar"
        try await TreeWorks.makeArchive(archive, count: plan.treeFileCount)
        let pid = try await BenchMachine.pid(of: site)
        let works =
            DataWorks(plan: plan).all + MetadataWorks(plan: plan).all
            + TreeWorks(plan: plan, archive: archive).all
        var seconds = works.map { _ in places.map { _ in [Double]() } }
        var processor = works.map { _ in 0.0 }
        for round in 1...plan.fileRoundCount {
            plan.note("files, round \(round) of \(plan.fileRoundCount)")
            for (index, work) in works.enumerated() {
                for (number, place) in places.enumerated() where !(work.isDirect && place.kind == .bindfs) {
                    do {
                        let taken = try await measure(work, place, site: pid)
                        seconds[index][number].append(taken.seconds)
                        if number == 1 { processor[index] += taken.processor }
                    } catch {
                        // What a peer cannot do says nothing of us.
                        guard number > 1, !(error is CancellationError) else { throw error }
                        plan.note("\(place.kind.rawValue), \(work.title): \(error)")
                    }
                }
            }
        }
        for (index, work) in works.enumerated() {
            sections[work.workload - 1].rows += rows(work, places, seconds[index], processor[index])
        }
        return sections
    }

    private func measure(
        _ work: FileWork, _ place: BenchPlace, site pid: Int32
    ) async throws -> (seconds: Double, processor: Double) {
        try await work.prepare(place.path)
        if work.isCold { try await BenchMachine.dropCaches() }
        let before = try BenchMachine.processorSeconds(pid)
        let start = ContinuousClock.now
        try await work.run(place.path)
        let seconds = (ContinuousClock.now - start).seconds
        return (seconds, try BenchMachine.processorSeconds(pid) - before)
    }

    private func rows(_ work: FileWork, _ places: [BenchPlace], _ seconds: [[Double]], _ processor: Double)
        -> [BenchRow]
    {
        var rows: [BenchRow] = []
        for number in 1..<places.count where !seconds[number].isEmpty {
            let isTree = work.workload == 3
            let (top, bottom) = isTree ? (seconds[number], seconds[0]) : (seconds[0], seconds[number])
            guard let ratio = Series.ratios(top, to: bottom), let own = Series(seconds[number]),
                let native = Series(seconds[0])
            else { continue }
            let processorText =
                number == 1 ? ", site \(fixed(processor / Double(plan.fileRoundCount), 2)) s CPU" : ""
            rows.append(
                BenchRow(
                    number == 1 ? work.title : "   \(places[number].kind.rawValue)",
                    "\(timeText(own.median))\(processorText)", against: timeText(native.median),
                    ratio: ratio.median, aim: number == 1 ? work.aim : nil))
        }
        return rows
    }
}
