internal import ArgumentParser
internal import TestBed

/// The database that moves.
enum DemoDatabase: String, ExpressibleByArgument, CaseIterable, Sendable {
    case postgresql, mariadb

    var title: String { self == .postgresql ? "PostgreSQL" : "MariaDB" }

    /// A server on a volume's mount.
    func server(on mount: String, sockets: String) throws -> any DemoServer {
        switch self {
        case .postgresql: try PostgreSQLServer(dataDirectory: mount + "/pgdata", socketDirectory: sockets)
        case .mariadb: try MariaDBServer(dataDirectory: mount + "/mysql", socketDirectory: sockets)
        }
    }
}

/// What the demonstration asks of a database.
protocol DemoServer: Sendable {
    func initialise() async throws
    /// Starts it and waits for its first answer.
    func begin() async throws
    /// Stops it in order.
    func end() async throws
    func kill() async
    /// Fills it with at least this many bytes.
    func fill(_ byteCount: UInt64) async throws
    /// A row from the middle of the data.
    func readSomeRow() async throws -> String
    /// Writes a row and commits it.
    func writeRow() async throws
    /// Its own check of its data: text that is equal when the data is.
    func check() async throws -> String
}

extension PostgreSQLServer: DemoServer {
    func begin() async throws { try await start(firstQuery: "SELECT 1") }
    func end() async throws { try await stop(limit: .seconds(120)) }

    func fill(_ byteCount: UInt64) async throws {
        _ = try await load(byteCount: byteCount)
        try await query("create table visits(place text)", database: "bench")
    }

    func readSomeRow() async throws -> String {
        try await query(
            "select aid || ' ' || abalance from pgbench_accounts order by aid offset 0 limit 1",
            database: "bench")
    }

    func writeRow() async throws {
        try await query("insert into visits values ('sydney')", database: "bench")
    }

    func check() async throws -> String {
        try await query(
            "select count(*), sum(aid::bigint), sum(abalance::bigint) from pgbench_accounts",
            database: "bench",
            limit: .seconds(600))
    }
}

extension MariaDBServer: DemoServer {
    func begin() async throws { try await start(firstQuery: "SELECT 1") }
    func end() async throws { try await stop(limit: .seconds(120)) }

    func fill(_ byteCount: UInt64) async throws {
        try await load(byteCount: byteCount, .text)
        try await query("create table visits(place varchar(40)) engine=innodb", database: "bench")
    }

    func readSomeRow() async throws -> String {
        try await query("select left(hex(body), 16) from filler limit 1", database: "bench")
    }

    func writeRow() async throws {
        try await query("insert into visits values ('sydney')", database: "bench")
    }

    func check() async throws -> String {
        try await query("checksum table filler", database: "bench", limit: .seconds(600))
    }
}
