internal import ArgumentParser
internal import TestBed

/// What the workloads need of a database server.
protocol BenchDatabase: Sendable {
    /// Makes and fills a new data directory, and stops.
    func build(byteCount: UInt64) async throws
    /// - Returns: seconds from the start of the program to the first row of the large table.
    func firstRow() async throws -> Double
    /// 400 short transactions at random rows.
    func transactions() async throws
    /// A hash over what the transactions do not change.
    func checksum() async throws -> String
    func stop() async throws
    func kill() async
}

enum BenchDatabaseKind: String, CaseIterable, ExpressibleByArgument, Sendable {
    case postgreSQL = "postgresql"
    case mariaDB = "mariadb"

    /// As its makers write it.
    var name: String { self == .postgreSQL ? "PostgreSQL" : "MariaDB" }

    func server(at data: String, sockets: String) throws -> any BenchDatabase {
        switch self {
        case .postgreSQL:
            BenchPostgreSQL(
                server: try PostgreSQLServer(
                    dataDirectory: data, socketDirectory: sockets,
                    // Little old log in the directory: it would only make the full copy slower.
                    settings: ["max_wal_size": "64MB", "min_wal_size": "32MB"]))
        case .mariaDB:
            BenchMariaDB(server: try MariaDBServer(dataDirectory: data, socketDirectory: sockets))
        }
    }

    /// First ever, without a recorded profile.
    var firstRowAim: BenchAim { self == .postgreSQL ? .atMost(2, "2 s") : .atMost(4, "4 s") }

    /// With a recorded profile.
    ///
    /// - Parameter cold: seconds of a cold start on ext4.
    func recordedAim(cold: Double) -> BenchAim {
        self == .postgreSQL ? .atMost(0.6, "0.6 s") : .atMost(cold + 0.6, "native + 0.6 s")
    }
}

private struct BenchPostgreSQL: BenchDatabase {
    let server: PostgreSQLServer

    func build(byteCount: UInt64) async throws {
        try await server.initialise()
        try await server.start()
        try await server.load(byteCount: byteCount)
        try await server.stop()
    }

    func firstRow() async throws -> Double {
        let query = "SELECT abalance FROM pgbench_accounts WHERE aid = 54321"
        return try await server.start(firstQuery: query, database: "bench").seconds
    }

    func transactions() async throws { _ = try await server.pgbench(["-n", "-N", "-c", "4", "-t", "100"]) }

    func checksum() async throws -> String {
        let text = try await server.query(
            "SELECT count(*), sum(hashtext(aid || ' ' || bid || filler)) FROM pgbench_accounts",
            database: "bench", limit: .seconds(900))
        guard !text.isEmpty else { throw LabError.invalid("PostgreSQL gave no checksum") }
        return text
    }

    func stop() async throws { try await server.stop() }
    func kill() async { await server.kill() }
}

private struct BenchMariaDB: BenchDatabase {
    let server: MariaDBServer

    func build(byteCount: UInt64) async throws {
        try await server.initialise()
        try await server.start()
        // As sysbench's: the aims were found with those.
        try await server.load(byteCount: byteCount, .digits)
        try await server.stop()
    }

    func firstRow() async throws -> Double {
        try await server.start(firstQuery: "SELECT number FROM filler WHERE id = 54321", database: "bench")
            .seconds
    }

    func transactions() async throws {
        let count = try await server.query("SELECT MAX(id) FROM filler", database: "bench")
        guard let count = Int(count), count > 0 else { throw LabError.invalid("MariaDB gave \(count) rows") }
        let statements = (0..<400).map { _ in
            "UPDATE filler SET number = number + 1 WHERE id = \(Int.random(in: 1...count));"
        }
        try await server.query(statements.joined(separator: "\n"), database: "bench", limit: .seconds(600))
    }

    func checksum() async throws -> String {
        let text = try await server.query(
            "SELECT COUNT(*), BIT_XOR(CRC32(CONCAT(id, body))) FROM filler", database: "bench",
            limit: .seconds(900))
        guard !text.isEmpty else { throw LabError.invalid("MariaDB gave no checksum") }
        return text
    }

    func stop() async throws { try await server.stop() }
    func kill() async { await server.kill() }
}
