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
        var first = BenchSection(
            6, "First query after a move; clean stop, 100 Mbit/s, 20 ms if nothing else is said")
        var bytes = BenchSection(7, "Bytes on the link over bytes received by the volume")
        for kind in plan.databases {
            let (firstRows, bytesRows) = try await Cleanup.scope { cleanup in
                try await measure(kind, byteCount: plan.byteCount(of: kind), cleanup)
            }
            first.rows += firstRows
            bytes.rows += bytesRows
        }
        return [first, bytes]
    }

    private func measure(_ kind: BenchDatabaseKind, byteCount: UInt64, _ cleanup: Cleanup) async throws
        -> ([BenchRow], [BenchRow])
    {
        plan.note("\(kind.name) of \(BenchText.size(byteCount)): building")
        let base = try cleanup.makeTemporaryDirectory()
        let native = try kind.server(at: "\(base)/data", sockets: "\(base)/sockets")
        try cleanup.add("\(kind.name) on ext4") { await native.kill() }
        try await native.build(byteCount: byteCount)
        plan.note("\(kind.name): cold start on ext4")
        var cold: [Double] = []
        var checksum = ""
        for _ in 0..<3 {
            try await BenchMachine.dropCaches()
            cold.append(try await native.firstRow())
            if checksum.isEmpty { checksum = try await native.checksum() }
            try await native.stop()
        }
        guard let cold = Series(cold) else { throw LabError.invalid("no cold start was measured") }
        let name = "\(kind.name) \(BenchText.size(byteCount))"
        plan.note("\(kind.name): full copy")
        let expected = checksum
        // Scopes of their own, within the one that catches signals: nothing is left to disturb the next move.
        let copied = try await Cleanup.scope(catchingSignals: false) { cleanup in
            let link = try await WANLink.open(plan.link)
            try cleanup.add(link)
            return try await fullCopy(kind, from: base, link, expected, cleanup)
        }
        var rows = [BenchRow("\(name): cold start on ext4", "\(cold.summary()) s", value: cold.median)]
        var traffic: [BenchRow] = []
        try await makeKilled(kind, from: base, cleanup)
        for way in ways(kind, cold: cold.median) {
            plan.note("\(kind.name): move, \(way.title)")
            let moved = try await Cleanup.scope(catchingSignals: false) { cleanup in
                try await move(kind, from: base, way, expected, cleanup)
            }
            rows += firstRows(
                "\(name): server start to first row, \(way.title)", moved, cold, copied, way.aim)
            if way.options.contains(Self.onDemand) { traffic = bytesRows(name, moved) }
        }
        return (rows, traffic)
    }

    private static let onDemand = "--no-background-hydration"

    /// In what state the database moves.
    private enum State: Sendable {
        case stopped
        /// Its start was seen once where it was.
        case recorded
        /// kill -9 amid transactions, where it was: so its start was seen there.
        case killed
        /// The same before it came to a volume: no site has seen it start.
        case killedUnseen
    }

    private struct Way: Sendable {
        let title: String
        var state = State.stopped
        var options: [String] = []
        var link: LinkSettings
        /// What has arrived before the server is started.
        var presentPercent: UInt64 = 0
        var aim: BenchAim?
    }

    private func ways(_ kind: BenchDatabaseKind, cold: Double) -> [Way] {
        let fast = plan.fastLink
        let recorded = kind.recordedAim(cold: cold)
        let ways = [
            Way(title: "on demand only", options: [Self.onDemand], link: plan.link, aim: kind.firstRowAim),
            Way(title: "while hydration streams", link: plan.link, aim: kind.firstRowAim),
            Way(title: "with a recorded start", state: .recorded, link: plan.link, aim: recorded),
            Way(title: "10 % present", link: plan.link, presentPercent: 10),
            Way(title: "after kill -9, start recorded", state: .killed, link: plan.link),
            Way(title: "after kill -9, no start recorded", state: .killedUnseen, link: plan.link),
            Way(title: "1 Gbit/s", link: fast, aim: kind.firstRowAim),
            Way(title: "1 Gbit/s, with a recorded start", state: .recorded, link: fast, aim: recorded),
            Way(title: "1 Gbit/s, 10 % present", link: fast, presentPercent: 10),
            Way(title: "1 Gbit/s, after kill -9, start recorded", state: .killed, link: fast),
            Way(title: "1 Gbit/s, after kill -9, no start recorded", state: .killedUnseen, link: fast),
        ]
        return plan.isQuick ? Array(ways.prefix(6)) : ways
    }

    private func firstRows(
        _ title: String, _ moved: Moved, _ cold: Series, _ copied: Double, _ aim: BenchAim?
    ) -> [BenchRow] {
        [
            BenchRow(title, BenchText.seconds(moved.firstRow), value: moved.firstRow, aim: aim),
            BenchRow(
                "  the same, over the cold start", BenchText.seconds(moved.firstRow),
                against: BenchText.seconds(cold.median), ratio: moved.firstRow / cold.median),
            BenchRow(
                "  command to first row, over a full copy (100 Mbit/s)",
                BenchText.seconds(moved.fromCommand), against: BenchText.seconds(copied),
                ratio: moved.fromCommand / copied),
            BenchRow(
                "  fetched ahead and not read since", BenchText.size(moved.unusedByteCount),
                against: BenchText.size(moved.prefetchedByteCount),
                ratio: Double(moved.unusedByteCount) / Double(max(1, moved.prefetchedByteCount))),
        ]
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
        } + [overFetched(name, moved)]
    }

    /// Of what was fetched ahead of a read, the site knows whether it was read since.
    private func overFetched(_ name: String, _ moved: Moved) -> BenchRow {
        let received = moved.atFirstRow.received
        let used = received - min(received, moved.unusedByteCount)
        return BenchRow(
            "\(name): received by the first row, over what was read of it", BenchText.size(received),
            against: BenchText.size(used), ratio: Double(received) / Double(max(1, used)),
            aim: .atMost(1.3, "1.3"))
    }

    /// Copies a stopped database into a volume at london, and unmounts it.
    private func copy(_ data: String, into pair: SitePair, _ cleanup: Cleanup) async throws {
        try await pair.london.godwit(["volume", "create", "db", "--capacity", "20Gi"])
        let path = try await pair.mount("db", at: pair.london, cleanup)
        try await ChildProcess.check(Program("cp", ["-a", data, "\(path)/data"]), limit: .seconds(600))
        try await pair.unmount("db", at: pair.london)
    }

    /// Starts the server where the volume is: once, so that what it reads is known, or to kill it.
    private func start(
        _ kind: BenchDatabaseKind, at pair: SitePair, thenKill: Bool, _ cleanup: Cleanup
    ) async throws {
        let path = try await pair.mount("db", at: pair.london, cleanup)
        let server = try kind.server(at: "\(path)/data", sockets: "\(pair.directory)/first-sockets")
        try cleanup.add("\(kind.name) at london") { await server.kill() }
        _ = try await server.firstRow()
        if thenKill { try await kill(server) } else { try await server.stop() }
        try await pair.unmount("db", at: pair.london)
    }

    /// kill -9 amid transactions.
    private func kill(_ server: any BenchDatabase) async throws {
        // They end with the server: that is what is wanted.
        let load = Task { try? await server.transactions() }
        try await Task.sleep(for: .seconds(1))
        await server.kill()
        await load.value
    }

    /// A copy of the stopped database, beside it, that was started and killed on ext4.
    private func makeKilled(_ kind: BenchDatabaseKind, from base: String, _ cleanup: Cleanup) async throws {
        let copy = "\(base)/killed"
        try await ChildProcess.check(Program("cp", ["-a", "\(base)/data", copy]), limit: .seconds(600))
        let server = try kind.server(at: copy, sockets: "\(base)/killed-sockets")
        try cleanup.add("\(kind.name) that is killed") { await server.kill() }
        _ = try await server.firstRow()
        try await kill(server)
    }

    /// - Returns: seconds from the start of the copy to the first row.
    private func fullCopy(
        _ kind: BenchDatabaseKind, from base: String, _ link: WANLink, _ checksum: String, _ cleanup: Cleanup
    ) async throws -> Double {
        try await BenchMachine.dropCaches()
        let start = ContinuousClock.now
        _ = try await FullCopy(over: link).run(from: "\(base)/data", to: "\(base)/copy")
        let copy = try kind.server(at: "\(base)/copy", sockets: "\(base)/copy-sockets")
        try cleanup.add("\(kind.name) on the copy") { await copy.kill() }
        _ = try await copy.firstRow()
        let elapsed = (ContinuousClock.now - start).seconds
        guard try await copy.checksum() == checksum else { throw LabError.invalid("the full copy differs") }
        try await copy.stop()
        return elapsed
    }

    private func move(
        _ kind: BenchDatabaseKind, from base: String, _ way: Way, _ checksum: String, _ cleanup: Cleanup
    ) async throws -> Moved {
        let pair = try await SitePair.start(
            binary: plan.binary, link: way.link, options: way.options, cleanup)
        do {
            let source = way.state == .killedUnseen ? "\(base)/killed" : "\(base)/data"
            try await copy(source, into: pair, cleanup)
            switch way.state {
            case .stopped, .killedUnseen: break
            case .recorded: try await start(kind, at: pair, thenKill: false, cleanup)
            case .killed: try await start(kind, at: pair, thenKill: true, cleanup)
            }
            return try await measuredMove(kind, pair, way.presentPercent, checksum, cleanup)
        } catch {
            throw LabError.invalid("\(error)\n\(pair.logs)")
        }
    }

    private func measuredMove(
        _ kind: BenchDatabaseKind, _ pair: SitePair, _ presentPercent: UInt64, _ checksum: String,
        _ cleanup: Cleanup
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
        if presentPercent > 0 {
            let total = try await pair.sydney.number("totalBytes", of: "db")
            while try await pair.sydney.number("missingBytes", of: "db") > total * (100 - presentPercent)
                / 100
            {
                try await Task.sleep(for: .milliseconds(50))
            }
        }
        let sockets = "\(pair.directory)/sockets"
        let server = try kind.server(at: "\(pair.mountPoint(of: pair.sydney))/data", sockets: sockets)
        try cleanup.add("\(kind.name) at sydney") { await server.kill() }
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
            throw LabError.invalid("\(kind.name) has other rows than before the move")
        }
        try await server.stop()
        return moved
    }
}
