internal import Foundation
internal import TestBed

/// Workloads 6 and 7: the first row of a database at the site that it has just moved to, and what that cost
/// on the link.
struct DatabaseBench: Sendable {
    let plan: BenchPlan

    private struct Moved: Sendable {
        /// From the start of the server.
        var firstRow = 0.0
        /// From the command to move.
        var fromCommand = 0.0
        var atFirstRow = Traffic()
        var afterTransactions = Traffic()
        var transactionSeconds = 0.0
        var prefetchedByteCount: UInt64 = 0
        var unusedByteCount: UInt64 = 0
    }

    private struct Traffic: Sendable {
        var link: UInt64 = 0
        var received: UInt64 = 0
    }

    func run() async throws -> [BenchSection] {
        var first = BenchSection(6, "First query after a move (clean stop, no profile), 100 Mbit/s, 20 ms")
        var bytes = BenchSection(7, "Bytes on the link over bytes received by the volume")
        var kinds: [(BenchDatabaseKind, UInt64)] = [(.postgreSQL, plan.postgreSQLByteCount)]
        if let size = plan.mariaDBByteCount { kinds.append((.mariaDB, size)) }
        for (kind, size) in kinds {
            let (firstRows, bytesRows) = try await Cleanup.scope { cleanup in
                try await measure(kind, byteCount: size, cleanup)
            }
            first.rows += firstRows
            bytes.rows += bytesRows
        }
        return [first, bytes]
    }

    private func measure(_ kind: BenchDatabaseKind, byteCount: UInt64, _ cleanup: Cleanup) async throws
        -> ([BenchRow], [BenchRow])
    {
        plan.note("\(kind.rawValue) of \(BenchText.size(byteCount)): building")
        let base = try cleanup.makeTemporaryDirectory()
        let native = try kind.server(at: "\(base)/data", sockets: "\(base)/sockets")
        try cleanup.add("\(kind.rawValue) on ext4") { await native.kill() }
        try await native.build(byteCount: byteCount)
        let onDemand = try await SitePair.start(
            binary: plan.binary, link: plan.link, options: ["--no-background-hydration"], cleanup)
        try await copy("\(base)/data", into: onDemand, cleanup)
        let streaming = try await SitePair.start(binary: plan.binary, link: plan.link, cleanup)
        try await copy("\(base)/data", into: streaming, cleanup)
        let recorded = try await SitePair.start(binary: plan.binary, link: plan.link, cleanup)
        try await copy("\(base)/data", into: recorded, cleanup)

        plan.note("\(kind.rawValue): cold start on ext4, full copy")
        var cold: [Double] = []
        var checksum = ""
        for _ in 0..<3 {
            try await BenchMachine.dropCaches()
            cold.append(try await native.firstRow())
            if checksum.isEmpty { checksum = try await native.checksum() }
            try await native.stop()
        }
        guard let cold = Series(cold) else { throw LabError.invalid("no cold start was measured") }
        let copied = try await fullCopy(kind, from: base, onDemand.link, checksum, cleanup)
        let pulled = try await move(kind, onDemand, checksum, cleanup)
        let streamed = try await move(kind, streaming, checksum, cleanup)
        try await recordStart(kind, recorded, cleanup)
        let profiled = try await move(kind, recorded, checksum, cleanup)
        let name = "\(kind.rawValue) \(BenchText.size(byteCount))"
        return (
            firstRows(
                name, cold: cold, copied: copied,
                [
                    ("on demand only", pulled, kind.firstRowAim),
                    ("while hydration streams", streamed, kind.firstRowAim),
                    ("with a recorded profile", profiled, kind.recordedAim(cold: cold.median)),
                ]),
            bytesRows(name, pulled)
        )
    }

    private func firstRows(
        _ name: String, cold: Series, copied: Double, _ moves: [(String, Moved, BenchAim)]
    ) -> [BenchRow] {
        let native = BenchText.seconds(cold.median)
        var rows = [BenchRow("\(name): cold start on ext4", "\(cold.summary()) s", value: cold.median)]
        for (how, moved, aim) in moves {
            rows += [
                BenchRow(
                    "\(name): server start to first row, \(how)", BenchText.seconds(moved.firstRow),
                    value: moved.firstRow, aim: aim),
                BenchRow(
                    "   the same, over the cold start", BenchText.seconds(moved.firstRow), against: native,
                    ratio: moved.firstRow / cold.median),
                BenchRow(
                    "   command to first row, over a full copy", BenchText.seconds(moved.fromCommand),
                    against: BenchText.seconds(copied), ratio: moved.fromCommand / copied),
                BenchRow(
                    "   fetched ahead and not read since", BenchText.size(moved.unusedByteCount),
                    against: BenchText.size(moved.prefetchedByteCount),
                    ratio: Double(moved.unusedByteCount) / Double(max(1, moved.prefetchedByteCount))),
            ]
        }
        return rows
    }

    private func bytesRows(_ name: String, _ moved: Moved) -> [BenchRow] {
        [
            ("at the first row", moved.atFirstRow),
            (
                "after 400 transactions (\(BenchText.seconds(moved.transactionSeconds)))",
                moved.afterTransactions
            ),
        ].map { when, traffic in
            BenchRow(
                "\(name): \(when)", BenchText.size(traffic.link), against: BenchText.size(traffic.received),
                ratio: Double(traffic.link) / Double(max(1, traffic.received)), aim: .atMost(0.5, "0.5"))
        }
    }

    /// Copies a stopped database into a volume at london, and unmounts it.
    private func copy(_ data: String, into pair: SitePair, _ cleanup: Cleanup) async throws {
        try await pair.london.godwit(["volume", "create", "db", "--capacity", "20Gi"])
        let path = try await pair.mount("db", at: pair.london, cleanup)
        try await ChildProcess.check(Program("cp", ["-a", data, "\(path)/data"]), limit: .seconds(600))
        try await pair.unmount("db", at: pair.london)
    }

    /// Starts the server once where the volume is, so that what it reads is known.
    private func recordStart(_ kind: BenchDatabaseKind, _ pair: SitePair, _ cleanup: Cleanup) async throws {
        let path = try await pair.mount("db", at: pair.london, cleanup)
        let server = try kind.server(at: "\(path)/data", sockets: "\(pair.directory)/first-sockets")
        try cleanup.add("\(kind.rawValue) at london") { await server.kill() }
        _ = try await server.firstRow()
        try await server.stop()
        try await pair.unmount("db", at: pair.london)
    }

    /// - Returns: seconds from the start of the copy to the first row.
    private func fullCopy(
        _ kind: BenchDatabaseKind, from base: String, _ link: WANLink, _ checksum: String, _ cleanup: Cleanup
    ) async throws -> Double {
        try await BenchMachine.dropCaches()
        let start = ContinuousClock.now
        _ = try await FullCopy(over: link).run(from: "\(base)/data", to: "\(base)/copy")
        let copy = try kind.server(at: "\(base)/copy", sockets: "\(base)/copy-sockets")
        try cleanup.add("\(kind.rawValue) on the copy") { await copy.kill() }
        _ = try await copy.firstRow()
        let elapsed = (ContinuousClock.now - start).seconds
        guard try await copy.checksum() == checksum else { throw LabError.invalid("the full copy differs") }
        try await copy.stop()
        return elapsed
    }

    private func move(_ kind: BenchDatabaseKind, _ pair: SitePair, _ checksum: String, _ cleanup: Cleanup)
        async throws -> Moved
    {
        plan.note("\(kind.rawValue): move")
        do {
            return try await measuredMove(kind, pair, checksum, cleanup)
        } catch {
            throw LabError.invalid("\(error)\n\(pair.logs)")
        }
    }

    private func measuredMove(
        _ kind: BenchDatabaseKind, _ pair: SitePair, _ checksum: String, _ cleanup: Cleanup
    ) async throws -> Moved {
        try await pair.london.godwit(["migrate", "db", "--to", "sydney", "--prepare-only"])
        try await BenchMachine.dropCaches()
        var moved = Moved()
        let before = pair.link.counters
        func traffic() async throws -> Traffic {
            let link = (pair.link.counters - before).deliveredByteCount
            return Traffic(link: link, received: try await pair.sydney.number("receivedBytes", of: "db"))
        }
        let start = ContinuousClock.now
        _ = try await pair.move("db", from: pair.london, writing: "moved", cleanup)
        let sockets = "\(pair.directory)/sockets"
        let server = try kind.server(at: "\(pair.mountPoint(of: pair.sydney))/data", sockets: sockets)
        try cleanup.add("\(kind.rawValue) at sydney") { await server.kill() }
        moved.firstRow = try await server.firstRow()
        moved.fromCommand = (ContinuousClock.now - start).seconds
        moved.atFirstRow = try await traffic()
        moved.prefetchedByteCount = try await pair.sydney.number("prefetchedBytes", of: "db")
        moved.unusedByteCount = try await pair.sydney.number("prefetchedUnreadBytes", of: "db")
        let begin = ContinuousClock.now
        try await server.transactions()
        moved.transactionSeconds = (ContinuousClock.now - begin).seconds
        moved.afterTransactions = try await traffic()
        guard try await server.checksum() == checksum else {
            throw LabError.invalid("\(kind.rawValue) has other rows than before the move")
        }
        try await server.stop()
        return moved
    }
}
