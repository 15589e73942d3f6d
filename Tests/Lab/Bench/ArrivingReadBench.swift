internal import Glibc
internal import TestBed

/// Workload 9, its end that applications see: a file of which nothing is here, read from its beginning to its end.
struct ArrivingReadBench: Sendable {
    let plan: BenchPlan
    private static let seed: UInt64 = 6

    func run() async throws -> BenchSection {
        var section = BenchSection(
            9, "Sequential read of a file of which nothing is here: share of the link (useful bytes), 20 ms")
        for (name, link) in [("100 Mbit/s", plan.link), ("1 Gbit/s", plan.fastLink)] {
            for (way, options) in [
                ("while hydration streams", []), ("on demand only", ["--no-background-hydration"]),
            ] as [(String, [String])] {
                plan.note("sequential read over \(name), \(way)")
                section.rows += try await Cleanup.scope { cleanup in
                    let pair = try await SitePair.start(
                        binary: plan.binary, link: link, options: options, cleanup)
                    do {
                        return try await measure("\(name), \(way)", options.isEmpty, pair, link, cleanup)
                    } catch {
                        throw LabError.invalid("\(error)\n\(pair.logs)")
                    }
                }
            }
        }
        return section
    }

    /// - Parameter comparesOthers: whether the link is also measured with rsync and a bare connection.
    private func measure(
        _ title: String, _ comparesOthers: Bool, _ pair: SitePair, _ link: LinkSettings, _ cleanup: Cleanup
    ) async throws -> [BenchRow] {
        let byteCount = plan.missingFileByteCount(link)
        let rate = Double(link.aToB.bitsPerSecond) / 8
        try await pair.london.godwit(["volume", "create", "data", "--capacity", "4Gi"])
        let source = try await pair.mount("data", at: pair.london, cleanup)
        let tree = "\(pair.directory)/tree"
        try BenchFiles.makeDirectory(tree)
        try await DedicatedThread.run("write") {
            try BenchFiles.writePages("\(source)/file", byteCount: byteCount, seed: Self.seed)
            if comparesOthers {
                try BenchFiles.writePages("\(tree)/file", byteCount: byteCount, seed: Self.seed)
            }
        }
        try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
        try await pair.unmount("data", at: pair.london)
        try await BenchMachine.dropCaches()
        // The read begins at once: nearly nothing has come by itself before.
        _ = try await pair.move("data", from: pair.london, writing: "moved", cleanup)
        let seconds = try await read("\(pair.mountPoint(of: pair.sydney))/file", byteCount)
        try await pair.unmount("data", at: pair.sydney)
        var rows = [
            row(
                "\(title): \(BenchText.size(UInt64(byteCount))), useful bytes a second", byteCount, seconds,
                rate)
        ]
        guard comparesOthers else { return rows }
        try await BenchMachine.dropCaches()
        let copy = try await FullCopy(over: pair.link).run(from: tree, to: "\(pair.directory)/copy")
        rows.append(row("  rsync of the same", byteCount, copy.duration.seconds, rate))
        let bare = try await LinkProbe(pair.link).throughput(byteCount, timeLimit: .seconds(300)) / 8
        rows.append(
            row("  one TCP connection, nothing read or written", byteCount, Double(byteCount) / bare, rate))
        return rows
    }

    private func row(_ title: String, _ byteCount: Int, _ seconds: Double, _ rate: Double) -> BenchRow {
        let own = Double(byteCount) / max(seconds, 1e-9)
        return BenchRow(
            title, "\(fixed(own / 1e6, 2)) MB/s", against: "\(fixed(rate / 1e6, 2)) MB/s", ratio: own / rate)
    }

    /// - Returns: its seconds. Afterwards each page is read once more, from the cache, and checked.
    private func read(_ path: String, _ byteCount: Int) async throws -> Double {
        try await DedicatedThread.run("reader") {
            let file = try BenchFiles.open(path, O_RDONLY)
            defer { close(file) }
            var block = [UInt8](repeating: 0, count: 1 << 20)
            let start = ContinuousClock.now
            var position = 0
            while position < byteCount {
                let count = pread(file, &block, block.count, off_t(position))
                try BenchFiles.check(count, "pread", path)
                guard count > 0 else { throw LabError.invalid("\(path) ends at \(position)") }
                position += count
            }
            let seconds = (ContinuousClock.now - start).seconds
            for number in 0..<byteCount / BenchFiles.pageByteCount {
                let page = try BenchFiles.readPage(file, at: UInt64(number * BenchFiles.pageByteCount), path)
                guard page == BenchFiles.page(number, seed: Self.seed) else {
                    throw LabError.invalid("page \(number) of \(path) has other bytes than before the move")
                }
            }
            return seconds
        }
    }
}
