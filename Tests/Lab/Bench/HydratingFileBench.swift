internal import Glibc
internal import TestBed

/// Workload 1 on a file of which the second half is still at another site: the first half is as quick as if all were here.
struct HydratingFileBench: Sendable {
    let plan: BenchPlan

    // open(2); a macro that Swift does not see.
    private static let O_DIRECT: Int32 = 0o40000
    private static let seed: UInt64 = 1

    private enum Reading: CaseIterable {
        case sequential, random

        func title(_ plan: BenchPlan) -> String {
            switch self {
            case .sequential: "sequential read of its resident \(plan.hydrationFileByteCount >> 21) MiB, cold"
            case .random: "\(plan.randomOperationCount) random reads of 4 KiB there, O_DIRECT"
            }
        }
    }

    func run() async throws -> BenchSection {
        try await Cleanup.scope { cleanup in
            let pair = try await SitePair.start(
                binary: plan.binary, link: plan.link,
                options: ["--no-background-hydration"] + WorkMeter.siteOptions, cleanup)
            do {
                return try await measure(pair, try await PerfRecorder.find(plan, cleanup), cleanup)
            } catch {
                throw LabError.invalid("\(error)\n\(pair.logs)")
            }
        }
    }

    private func measure(
        _ pair: SitePair, _ recorder: PerfRecorder?, _ cleanup: Cleanup
    ) async throws -> BenchSection {
        plan.note("a file that is half here")
        let half = plan.hydrationFileByteCount / 2
        try await pair.london.godwit(["volume", "create", "data", "--capacity", "2Gi"])
        let source = try await pair.mount("data", at: pair.london, cleanup)
        let plain = "\(pair.directory)/plain"
        try await FileWork.threaded { path in
            try BenchFiles.writePages("\(path)/file", byteCount: 2 * half, seed: Self.seed)
            try BenchFiles.writePages(plain, byteCount: half, seed: Self.seed)
        }(source)
        try await pair.unmount("data", at: pair.london)
        _ = try await pair.move("data", from: pair.london, writing: "moved", cleanup)
        let arriving = "\(pair.mountPoint(of: pair.sydney))/file"
        try await FileWork.threaded { try Self.read(.sequential, $0, half, 0) }(arriving)
        let missing = try await pair.sydney.number("missingBytes", of: "data")
        guard missing > 0 else { throw LabError.invalid("nothing is missing any more") }
        var section = BenchSection(1, "Data, resident ranges of a file that is still arriving: as above")
        let meter = try await WorkMeter(pair.sydney)
        let trip = try await meter.bareTrip(in: pair.mountPoint(of: pair.sydney))
        for reading in Reading.allCases {
            let read: @Sendable (String) async throws -> Void = FileWork.threaded {
                try Self.read(reading, $0, half, plan.randomOperationCount)
            }
            var cost = WorkCost()
            var seconds: [[Double]] = [[], []]
            for _ in 1...plan.fileRoundCount {
                try await BenchMachine.dropCaches()
                let start = ContinuousClock.now
                try await read(plain)
                seconds[0].append((ContinuousClock.now - start).seconds)
                try await BenchMachine.dropCaches()
                let one = try await meter.measure { try await read(arriving) }
                seconds[1].append(one.seconds)
                cost = cost + one.cost
            }
            guard let ratios = Series.ratios(seconds[0], to: seconds[1]), let own = Series(seconds[1]),
                let native = Series(seconds[0])
            else { continue }
            var row = BenchRow(
                reading.title(plan), timeText(own.median), against: timeText(native.median), ratios: ratios,
                aim: .atLeast(0.8, "0.8"))
            cost = cost / Double(plan.fileRoundCount)
            row.siteSeconds = cost.siteSeconds
            row.profile = TimeProfile(
                unit: reading == .random ? "read" : "MiB",
                count: Double(reading == .random ? plan.randomOperationCount : half >> 20),
                seconds: own.median,
                nativeSeconds: native.median, cost: cost, tripSeconds: trip, peers: [],
                isTimeOverNative: false)
            if let recorder, row.isMissed {
                try await BenchMachine.dropCaches()
                let symbols = try await recorder.record(meter.pid) { try await read(arriving) }
                row.add(symbols)
            }
            section.rows.append(row)
        }
        return section
    }

    private static func read(_ reading: Reading, _ path: String, _ byteCount: Int, _ count: Int) throws {
        let file = try BenchFiles.open(path, reading == .random ? O_RDONLY | O_DIRECT : O_RDONLY)
        defer { close(file) }
        let blockByteCount = reading == .random ? BenchFiles.pageByteCount : 1 << 20
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: blockByteCount, alignment: 4096)
        defer { buffer.deallocate() }
        let blockCount = byteCount / blockByteCount
        for number in 0..<(reading == .random ? count : blockCount) {
            let block = reading == .random ? Int.random(in: 0..<blockCount) : number
            let length = pread(file, buffer.baseAddress, blockByteCount, off_t(block * blockByteCount))
            try BenchFiles.check(length, "pread", path)
            let page = block * (blockByteCount / BenchFiles.pageByteCount)
            guard buffer.prefix(BenchFiles.pageByteCount).elementsEqual(BenchFiles.page(page, seed: seed))
            else {
                throw LabError.invalid("page \(page) of \(path) has other bytes than before the move")
            }
        }
    }
}
