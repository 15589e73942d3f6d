internal import Glibc
internal import TestBed

/// One database in one place.
private protocol Contender: Sendable {
    /// Transactions at a time.
    var width: Int { get }
    func fill() async throws
    func start() async throws
    /// - Returns: transactions a second.
    func measure() async throws -> Double
    func stop() async throws
    func kill() async
}

/// Workload 4: databases whose bytes are all here, beside ext4 and bindfs. (passthrough_hp makes files as root, with
/// which no database starts.) In turns, with the server of one place running at a time.
struct ResidentDatabaseBench: Sendable {
    let plan: BenchPlan

    func run() async throws -> BenchSection {
        try await Cleanup.scope { cleanup in
            let places = try await BenchPlaces.make(plan, peers: [.bindfs], cleanup)
            let scene = Scene(
                places: places, meter: try await WorkMeter(places.site),
                recorder: try await PerfRecorder.find(plan, cleanup))
            var section = BenchSection(4, "Databases, resident: transactions a second here over ext4's")
            section.rows += try await rows("pgbench -s \(plan.pgbenchScale) -c 2", scene, cleanup) {
                place, sockets in
                try PostgreSQL(place, sockets: sockets, plan)
            }
            if access("/usr/bin/sysbench", X_OK) == 0 {
                let title =
                    "sysbench oltp_read_write \(plan.sysbenchTables) x \(BenchText.count(plan.sysbenchRows))"
                section.rows += try await rows(title, scene, cleanup) { place, sockets in
                    try MariaDB(place, sockets: sockets, plan)
                }
            } else {
                plan.note("sysbench is not installed: 'apt-get install sysbench' to have MariaDB measured")
            }
            for journal in SQLite.Journal.allCases {
                section.rows += try await rows(
                    "SQLite, \(journal.title), synchronous = FULL", scene, cleanup
                ) { place, _ in
                    SQLite(path: "\(place.path)/\(journal.rawValue).db", journal: journal, plan: plan)
                }
            }
            return section
        }
    }

    private struct Scene {
        let places: BenchPlaces
        let meter: WorkMeter
        let recorder: PerfRecorder?
    }

    private func rows(
        _ title: String, _ scene: Scene, _ cleanup: Cleanup,
        _ make: (BenchPlace, _ sockets: String) throws -> any Contender
    ) async throws -> [BenchRow] {
        var contenders: [any Contender] = []
        for place in scene.places.all {
            try BenchFiles.check(chmod(place.path, 0o755), "chmod", place.path)
            let contender = try make(place, try cleanup.makeTemporaryDirectory())
            try cleanup.add("database on \(place.kind.rawValue)") { await contender.kill() }
            plan.note("filling a database for \(title) on \(place.kind.rawValue)")
            try await contender.fill()
            contenders.append(contender)
        }
        var rates = contenders.map { _ in [Double]() }
        var (cost, seconds) = (WorkCost(), 0.0)
        var trips: [Double] = []
        for round in 1...plan.fileRoundCount {
            plan.note("\(title), round \(round) of \(plan.fileRoundCount)")
            trips.append(try await scene.meter.bareTrip(in: scene.places.all[1].path))
            for (number, contender) in contenders.enumerated() {
                try await contender.start()
                if number == 1 {
                    let one = try await scene.meter.measure(countsPrograms: false) {
                        try await contender.measure()
                    }
                    rates[number].append(one.result)
                    cost = cost + one.cost
                    seconds += one.seconds
                } else {
                    rates[number].append(try await contender.measure())
                }
                try await contender.stop()
            }
        }
        let rounds = Double(plan.fileRoundCount)
        guard let native = Series(rates[0]), let own = Series(rates[1]), let trip = Series(trips) else {
            return []
        }
        var rows: [BenchRow] = []
        var peers: [TimeProfile.Peer] = []
        for number in 1..<rates.count {
            guard let series = Series(rates[number]), let ratios = Series.ratios(rates[number], to: rates[0])
            else { continue }
            let name = scene.places.all[number].kind.rawValue
            if number > 1 { peers.append(.init(name: name, ratio: ratios.median)) }
            rows.append(
                BenchRow(
                    number == 1 ? title : "  \(name)", "\(fixed(series.median, 0))/s",
                    against: "\(fixed(native.median, 0))/s", ratios: ratios,
                    aim: number == 1 ? .atLeast(0.9, "0.9") : nil))
        }
        guard !rows.isEmpty else { return [] }
        rows[0].siteSeconds = cost.siteSeconds / rounds
        rows[0].profile = TimeProfile(
            unit: "transaction", count: own.median * seconds / rounds, width: Double(contenders[1].width),
            seconds: seconds / rounds,
            nativeSeconds: seconds / rounds * own.median / max(native.median, 1e-9),
            cost: cost / rounds, tripSeconds: trip.median, peers: peers, isTimeOverNative: false)
        if let recorder = scene.recorder, rows[0].isMissed {
            let contender = contenders[1]
            plan.note("\(title), once more with perf")
            try await contender.start()
            let symbols = try await recorder.record(scene.meter.pid) { _ = try await contender.measure() }
            rows[0].add(symbols)
            try await contender.stop()
        }
        return rows
    }

    private struct PostgreSQL: Contender {
        let width = 2
        let server: PostgreSQLServer
        let plan: BenchPlan

        init(_ place: BenchPlace, sockets: String, _ plan: BenchPlan) throws {
            self.plan = plan
            server = try PostgreSQLServer(
                dataDirectory: "\(place.path)/postgres", socketDirectory: "\(sockets)/s",
                settings: ["shared_buffers": "256MB"])
        }

        func fill() async throws {
            try await server.initialise()
            try await server.start()
            try await server.query("CREATE DATABASE bench")
            _ = try await server.pgbench(["-i", "-q", "-s", "\(plan.pgbenchScale)"], limit: .seconds(900))
            try await server.stop()
        }

        func start() async throws { try await server.start() }

        func measure() async throws -> Double {
            // All begin with the same log to write.
            try await server.query("CHECKPOINT")
            return try number(
                behind: "tps = ",
                in: try await server.pgbench(["-n", "-c", "2", "-T", "\(plan.databaseSeconds)"]))
        }

        func stop() async throws { try await server.stop() }
        func kill() async { await server.kill() }
    }

    private struct MariaDB: Contender {
        let width = 2
        let server: MariaDBServer
        let plan: BenchPlan

        init(_ place: BenchPlace, sockets: String, _ plan: BenchPlan) throws {
            self.plan = plan
            server = try MariaDBServer(
                dataDirectory: "\(place.path)/mariadb", socketDirectory: "\(sockets)/s")
        }

        func fill() async throws {
            try await server.initialise()
            try await server.start()
            try await server.query("CREATE DATABASE bench")
            _ = try await sysbench("prepare", limit: .seconds(1800))
            try await server.stop()
        }

        func start() async throws { try await server.start() }

        func measure() async throws -> Double {
            let output = try await sysbench("run", limit: .seconds(plan.databaseSeconds + 120))
            return try number(behind: "transactions:", in: output)
                / Double(plan.databaseSeconds)
        }

        private func sysbench(_ command: String, limit: Duration) async throws -> String {
            try await ChildProcess.check(
                Program(
                    "sysbench",
                    [
                        "oltp_read_write", "--db-driver=mysql", "--mysql-socket=\(server.socketPath)",
                        "--mysql-user=root", "--mysql-db=bench", "--tables=\(plan.sysbenchTables)",
                        "--table-size=\(plan.sysbenchRows)", "--threads=2", "--time=\(plan.databaseSeconds)",
                        command,
                    ]), limit: limit)
        }

        func stop() async throws { try await server.stop() }
        func kill() async { await server.kill() }
    }
}

extension ResidentDatabaseBench {
    /// One writer, a transaction for each row.
    private struct SQLite: Contender {
        enum Journal: String, CaseIterable {
            case delete, wal

            var title: String {
                switch self {
                case .delete: "rollback journal"
                case .wal: "write-ahead log"
                }
            }
        }

        let width = 1
        let path: String
        let journal: Journal
        let plan: BenchPlan

        func fill() async throws {
            try await run(
                "PRAGMA journal_mode = \(journal.rawValue); CREATE TABLE t(id INTEGER PRIMARY KEY, content BLOB);\n"
            )
        }

        func measure() async throws -> Double {
            let count = plan.sqliteTransactionCount
            let rows = String(repeating: "INSERT INTO t(content) VALUES(randomblob(200));\n", count: count)
            let start = ContinuousClock.now
            try await run("PRAGMA synchronous = FULL;\n" + rows)
            return Double(count) / (ContinuousClock.now - start).seconds
        }

        private func run(_ statements: String) async throws {
            var program = Program("sqlite3", ["-bail", path])
            program.input = Array(statements.utf8)
            try await ChildProcess.check(program, limit: .seconds(300))
        }

        func start() async throws {}
        func stop() async throws {}
        func kill() async {}
    }
}

/// The number that follows the first `words` in what a program wrote.
private func number(behind words: String, in text: String) throws -> Double {
    let rest = text.split(separator: words, maxSplits: 1).dropFirst().first?.drop { $0 == " " }
    guard let number = rest.flatMap({ Double($0.prefix { $0.isNumber || $0 == "." }) }) else {
        throw LabError.invalid("there is no '\(words)' in: \(text)")
    }
    return number
}
