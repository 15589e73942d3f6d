internal import Foundation
internal import TestBed

/// Workload 9: how much of the link the stream of missing bytes uses, and what it costs.
struct HydrationBench: Sendable {
    let plan: BenchPlan
    private static let smallFileByteCount = 16 << 10

    private enum Content: Sendable {
        case large(Int)
        case small(Int)

        var title: String {
            switch self {
            case .large(let size): "\(size >> 20) MiB in one file"
            case .small(let count): "\(BenchText.count(count)) files of \(smallFileByteCount >> 10) KiB"
            }
        }

        var aim: BenchAim {
            switch self {
            case .large: .atLeast(0.93, "0.93")
            case .small: .atLeast(0.90, "0.90")
            }
        }

        var byteCount: Int {
            switch self {
            case .large(let size): size
            case .small(let count): count * smallFileByteCount
            }
        }
    }

    private struct Hydration: Sendable {
        let seconds: Double
        /// Missing when the clock was started.
        let byteCount: UInt64
        let linkByteCount: UInt64
        let processorSeconds: [Double]
        var bytesPerSecond: Double { Double(byteCount) / seconds }
    }

    func run() async throws -> BenchSection {
        var section = BenchSection(9, "Hydration: share of the link (useful bytes), 100 Mbit/s, 20 ms")
        section.rows += try await withSites(over: plan.link) { try await measure($0, $1) }
        for far in plan.farLinks {
            section.rows += try await withSites(over: far.settings) { try await self.far(far, $0, $1) }
        }
        return section
    }

    private func withSites(
        over link: LinkSettings, _ body: @escaping @Sendable (SitePair, Cleanup) async throws -> [BenchRow]
    ) async throws -> [BenchRow] {
        try await Cleanup.scope { cleanup in
            let pair = try await SitePair.start(binary: plan.binary, link: link, cleanup)
            do {
                return try await body(pair, cleanup)
            } catch {
                throw LabError.invalid("\(error)\n\(pair.logs)")
            }
        }
    }

    /// Links that one connection does not fill.
    private func far(_ far: BenchPlan.FarLink, _ pair: SitePair, _ cleanup: Cleanup) async throws
        -> [BenchRow]
    {
        let content = Content.large(plan.hydrationFileByteCount)
        plan.note("hydration over \(far.title)")
        let tree = "\(pair.directory)/tree"
        try BenchFiles.makeDirectory(tree)
        try await fill(tree, content)
        let hydration = try await hydrate(content, like: tree, volume: "far", pair, cleanup)
        let copy = try await FullCopy(over: pair.link).run(from: tree, to: "\(pair.directory)/copy")
        let copyRate = Double(content.byteCount) / copy.duration.seconds
        let rate = Double(far.settings.aToB.bitsPerSecond) / 8
        return [
            BenchRow(
                "\(far.title): useful bytes a second, over the link's",
                "\(fixed(hydration.bytesPerSecond / 1e6, 2)) MB/s", against: "\(fixed(rate / 1e6, 2)) MB/s",
                ratio: hydration.bytesPerSecond / rate),
            BenchRow(
                "  rsync of the same, over the link's", "\(fixed(copyRate / 1e6, 2)) MB/s",
                against: "\(fixed(rate / 1e6, 2)) MB/s", ratio: copyRate / rate),
        ]
    }

    private func measure(_ pair: SitePair, _ cleanup: Cleanup) async throws -> [BenchRow] {
        var rows: [BenchRow] = []
        let rate = Double(plan.link.aToB.bitsPerSecond) / 8
        let contents: [Content] = [.large(plan.hydrationFileByteCount), .small(plan.hydrationFileCount)]
        for (number, content) in contents.enumerated() {
            plan.note("hydration of \(content.title)")
            let tree = "\(pair.directory)/tree\(number)"
            try BenchFiles.makeDirectory(tree)
            try await fill(tree, content)
            let hydration = try await hydrate(content, like: tree, volume: "h\(number)", pair, cleanup)
            let back = try await goBack("h\(number)", content, pair, cleanup)
            let copy = try await FullCopy(over: pair.link).run(
                from: tree, to: "\(pair.directory)/copy\(number)")
            let copyRate = Double(content.byteCount) / copy.duration.seconds
            let gibibytes = Double(hydration.byteCount) / 0x1p30
            rows += [
                BenchRow(
                    "\(content.title): useful bytes a second, over the link's",
                    "\(fixed(hydration.bytesPerSecond / 1e6, 2)) MB/s",
                    against: "\(fixed(rate / 1e6, 2)) MB/s",
                    ratio: hydration.bytesPerSecond / rate, aim: content.aim),
                BenchRow(
                    "  rsync of the same, over the link's", "\(fixed(copyRate / 1e6, 2)) MB/s",
                    against: "\(fixed(rate / 1e6, 2)) MB/s", ratio: copyRate / rate),
                BenchRow(
                    "  bytes on the link, over useful bytes", BenchText.size(hydration.linkByteCount),
                    against: BenchText.size(hydration.byteCount),
                    ratio: Double(hydration.linkByteCount) / Double(max(1, hydration.byteCount))),
            ]
            for (site, seconds) in zip(["source", "target"], hydration.processorSeconds) {
                rows.append(
                    BenchRow(
                        "  processor seconds a GiB at the \(site)", "\(fixed(seconds / gibibytes, 2)) s",
                        value: seconds / gibibytes))
            }
            rows += back
        }
        plan.note("hydration beside a database")
        rows += try await foreground(pair, cleanup)
        return rows
    }

    /// The way back, after a megabyte was changed at the target.
    private func goBack(
        _ volume: String, _ content: Content, _ pair: SitePair, _ cleanup: Cleanup
    ) async throws -> [BenchRow] {
        let there = try await pair.mount(volume, at: pair.sydney, cleanup)
        try await DedicatedThread.run("write") {
            try BenchFiles.writePages("\(there)/new", byteCount: 1 << 20, seed: 10)
        }
        let digest = try await TreeDigest.of(there)
        try await pair.unmount(volume, at: pair.sydney)
        // The old copy is released, and then kept, only once all is there.
        try await pair.waitUntilReleased(volume, at: pair.sydney)
        try await BenchMachine.dropCaches()
        let counters = pair.link.counters
        let start = ContinuousClock.now
        try await pair.sydney.godwit(["migrate", volume, "--to", "london"], limit: .seconds(600))
        let elapsed = (ContinuousClock.now - start).seconds
        let moved = (pair.link.counters - counters).deliveredByteCount
        let home = try await pair.mount(volume, at: pair.london, cleanup)
        let back = try await TreeDigest.of(home)
        guard back.value == digest.value else {
            let difference = digest.differences(to: back).first.map(\.description) ?? "nothing visible"
            throw LabError.invalid("\(volume) differs after the way back: \(difference)")
        }
        try await pair.unmount(volume, at: pair.london)
        return [
            BenchRow(
                "  back with 1 MiB that is new: bytes on the link, over all", BenchText.size(moved),
                against: BenchText.size(UInt64(content.byteCount)),
                ratio: Double(moved) / Double(content.byteCount)),
            BenchRow(
                "  back: from the command until every byte is there", "\(fixed(elapsed, 2)) s",
                value: elapsed),
        ]
    }

    /// What a resident database loses while another volume of the site fills the link, and while rsync does. The link's
    /// emulator and both sites share its processors, as two clusters would not.
    private func foreground(_ pair: SitePair, _ cleanup: Cleanup) async throws -> [BenchRow] {
        let path = "\(pair.directory)/foreground"
        try BenchFiles.makeDirectory(path)
        try await pair.sydney.godwit(["volume", "create", "foreground", "--capacity", "4Gi"])
        try await pair.sydney.godwit(["volume", "mount", "foreground", path])
        try cleanup.add(mountAt: path)
        let server = try PostgreSQLServer(
            dataDirectory: "\(path)/data", socketDirectory: "\(pair.directory)/foreground-sockets")
        try cleanup.add("PostgreSQL in the foreground") { await server.kill() }
        try await server.initialise()
        try await server.start()
        try await server.load(byteCount: 64 << 20)
        let idle = try await transactionRate(server)
        try await pair.london.godwit(["volume", "create", "beside", "--capacity", "4Gi"])
        let source = try await pair.mount("beside", at: pair.london, cleanup)
        try await fill(source, .large(128 << 20))
        try await pair.unmount("beside", at: pair.london)
        try await pair.london.godwit(["migrate", "beside", "--to", "sydney", "--detach"])
        let busy = try await transactionRate(server)
        guard try await pair.sydney.number("missingBytes", of: "beside") > 0 else {
            throw LabError.invalid("the hydration was over before the transactions were")
        }
        try await pair.sydney.godwit(["volume", "hydrate", "beside", "--pause"])
        let besideCopy = try await transactionRate(server, besideCopyOf: 128 << 20, pair)
        try await server.stop()
        return [
            BenchRow(
                "pgbench in the foreground, over pgbench alone", "\(fixed(busy, 0)) tps",
                against: "\(fixed(idle, 0)) tps", ratio: busy / idle, aim: .atLeast(0.95, "0.95")),
            BenchRow(
                "  the same beside rsync, over pgbench alone", "\(fixed(besideCopy, 0)) tps",
                against: "\(fixed(idle, 0)) tps", ratio: besideCopy / idle),
        ]
    }

    private func transactionRate(
        _ server: PostgreSQLServer, besideCopyOf byteCount: Int, _ pair: SitePair
    ) async throws -> Double {
        let tree = "\(pair.directory)/beside-tree"
        try BenchFiles.makeDirectory(tree)
        try await fill(tree, .large(byteCount))
        let link = pair.link
        let begun = ContinuousClock.now
        let copy = Task { try await FullCopy(over: link).run(from: tree, to: tree + "-copy") }
        let rate = try await transactionRate(server)
        let elapsed = ContinuousClock.now - begun
        guard try await copy.value.duration > elapsed else {
            throw LabError.invalid("the copy was over before the transactions were")
        }
        return rate
    }

    /// Transactions a second, over five seconds.
    private func transactionRate(_ server: PostgreSQLServer) async throws -> Double {
        let output = try await server.pgbench(["-n", "-c", "2", "-T", "5"])
        let line = output.split(separator: "\n").first { $0.hasPrefix("tps = ") }
        guard let text = line?.dropFirst(6).split(separator: " ").first, let rate = Double(text), rate > 0
        else {
            throw LabError.invalid("pgbench told no rate: \(output)")
        }
        return rate
    }

    private func fill(_ path: String, _ content: Content) async throws {
        switch content {
        case .large(let size):
            try await DedicatedThread.run("write") {
                try BenchFiles.writePages("\(path)/file", byteCount: size, seed: 9)
            }
        case .small(let count):
            try await BenchFiles.writeMany(path, count: count, byteCount: Self.smallFileByteCount)
        }
    }

    /// Moves a volume with the same content as `tree`, and watches until nothing is missing.
    private func hydrate(
        _ content: Content, like tree: String, volume: String, _ pair: SitePair, _ cleanup: Cleanup
    ) async throws -> Hydration {
        try await pair.london.godwit(["volume", "create", volume, "--capacity", "4Gi"])
        let path = try await pair.mount(volume, at: pair.london, cleanup)
        try await fill(path, content)
        try await pair.london.godwit(["migrate", volume, "--to", "sydney", "--prepare-only"])
        try await pair.unmount(volume, at: pair.london)
        try await BenchMachine.dropCaches()
        let pids = [try await BenchMachine.pid(of: pair.london), try await BenchMachine.pid(of: pair.sydney)]
        try await pair.london.godwit(["migrate", volume, "--to", "sydney", "--detach"])
        let missing = try await pair.sydney.number("missingBytes", of: volume)
        let start = ContinuousClock.now
        let counters = pair.link.counters
        let before = try pids.map(BenchMachine.processorSeconds)
        let deadline = start + .seconds(600)
        while try await pair.sydney.number("missingBytes", of: volume) > 0 {
            guard ContinuousClock.now < deadline else {
                throw LabError.tooSlow("hydration of \(volume)", limit: .seconds(600))
            }
            // Seldom: each look starts a program, on the processors that are being measured.
            try await Task.sleep(for: .milliseconds(200))
        }
        let elapsed = (ContinuousClock.now - start).seconds
        let after = try pids.map(BenchMachine.processorSeconds)
        let moved = (pair.link.counters - counters).deliveredByteCount
        let target = try await pair.mount(volume, at: pair.sydney, cleanup)
        let (here, there) = (try await TreeDigest.of(tree), try await TreeDigest.of(target))
        guard here.value == there.value else {
            let difference = here.differences(to: there).first.map(\.description) ?? "nothing visible"
            throw LabError.invalid("\(volume) differs after the move: \(difference)")
        }
        try await pair.unmount(volume, at: pair.sydney)
        return Hydration(
            seconds: elapsed, byteCount: missing, linkByteCount: moved,
            processorSeconds: zip(after, before).map { $0 - $1 })
    }
}
