internal import Foundation
internal import Glibc
internal import TestBed

/// Workloads 1 to 3: a resident volume beside a directory of the same disk's file system, and beside FUSE file systems
/// that only hand on. In turns, several rounds; the ratio is of each round.
struct FileBench: Sendable {
    let plan: BenchPlan
    /// Those of the three that are wanted: none needs what another one leaves.
    let workloads: Set<Int>

    /// What one work took, in each place and each round.
    private struct Taken {
        var seconds: [[Double]]
        /// Of the volume, over all rounds.
        var cost = WorkCost()
    }

    func run() async throws -> [BenchSection] {
        try await Cleanup.scope { cleanup in
            let places = try await BenchPlaces.make(plan, peers: [.bindfs, .passthrough], cleanup)
            let recorder = try await PerfRecorder.find(plan, cleanup)
            return try await measure(places.all, try await WorkMeter(places.site), recorder)
        }
    }

    private func measure(
        _ places: [BenchPlace], _ meter: WorkMeter, _ recorder: PerfRecorder?
    ) async throws -> [BenchSection] {
        var sections = [
            BenchSection(1, "Data, resident: time on ext4 over time here (1: as quick)"),
            BenchSection(
                2, "Metadata, \(BenchText.count(plan.metadataFileCount)) files: time on ext4 over time here"),
            BenchSection(3, "Trees and programs: time here over time on ext4"),
        ]
        let archive = places[0].path + "/../tree.tar"
        try await TreeWorks.makeArchive(archive, count: plan.treeFileCount)
        let works =
            (DataWorks(plan: plan).all + MetadataWorks(plan: plan).all
            + TreeWorks(plan: plan, archive: archive).all).filter { workloads.contains($0.workload) }
        var taken = works.map { _ in Taken(seconds: places.map { _ in [] }) }
        var trips: [Double] = []
        for round in 1...plan.fileRoundCount {
            plan.note("files, round \(round) of \(plan.fileRoundCount)")
            trips.append(try await meter.bareTrip(in: places[1].path))
            for (index, work) in works.enumerated() {
                for (number, place) in places.enumerated() where !(work.isDirect && place.kind == .bindfs) {
                    do {
                        try await prepare(work, place)
                        if number == 1 {
                            let (_, seconds, cost) = try await meter.measure {
                                try await work.run(place.path)
                            }
                            taken[index].seconds[number].append(seconds)
                            taken[index].cost = taken[index].cost + cost
                        } else {
                            let start = ContinuousClock.now
                            try await work.run(place.path)
                            taken[index].seconds[number].append((ContinuousClock.now - start).seconds)
                        }
                    } catch {
                        // What a peer cannot do says nothing of us.
                        guard number > 1, !(error is CancellationError) else { throw error }
                        plan.note("\(place.kind.rawValue), \(work.title): \(error)")
                    }
                }
            }
        }
        guard let trip = Series(trips)?.median else { return sections }
        var rows = works.indices.map { self.rows(works[$0], places, taken[$0], trip: trip) }
        if let recorder {
            plan.note("files, once more with perf")
            for (index, work) in works.enumerated() {
                try await prepare(work, places[1])
                guard rows[index].first?.isMissed == true else {
                    try await work.run(places[1].path)
                    continue
                }
                let symbols = try await recorder.record(meter.pid) { try await work.run(places[1].path) }
                rows[index][0].add(symbols)
            }
        }
        for (work, rows) in zip(works, rows) { sections[work.workload - 1].rows += rows }
        return sections
    }

    private func prepare(_ work: FileWork, _ place: BenchPlace) async throws {
        try await work.prepare(place.path)
        if work.isCold { try await BenchMachine.dropCaches() }
    }

    private func rows(_ work: FileWork, _ places: [BenchPlace], _ taken: Taken, trip: Double) -> [BenchRow] {
        let isTree = work.workload == 3
        guard let native = Series(taken.seconds[0]) else { return [] }
        var rows: [BenchRow] = []
        var peers: [TimeProfile.Peer] = []
        for number in 1..<places.count where !taken.seconds[number].isEmpty {
            let (own, ext4) = (taken.seconds[number], taken.seconds[0])
            // A peer may have failed in a round.
            guard let ratios = isTree ? Series.ratios(own, to: ext4) : Series.ratios(ext4, to: own),
                let series = Series(own)
            else { continue }
            if number > 1 { peers.append(.init(name: places[number].kind.rawValue, ratio: ratios.median)) }
            rows.append(
                BenchRow(
                    number == 1 ? work.title : "  \(places[number].kind.rawValue)", timeText(series.median),
                    against: timeText(native.median), ratios: ratios, aim: number == 1 ? work.aim : nil))
        }
        guard !rows.isEmpty, let own = Series(taken.seconds[1]) else { return rows }
        let cost = taken.cost / Double(plan.fileRoundCount)
        rows[0].siteSeconds = cost.siteSeconds
        rows[0].profile = TimeProfile(
            unit: work.unit, count: Double(work.count), width: Double(work.width), seconds: own.median,
            nativeSeconds: native.median, cost: cost, tripSeconds: trip, peers: peers,
            isTimeOverNative: isTree)
        return rows
    }
}
