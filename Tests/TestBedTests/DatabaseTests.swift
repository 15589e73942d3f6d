import Glibc
import Testing

@testable import TestBed

private let hasPostgreSQL = isRoot && exists("/usr/lib/postgresql")
private let hasMariaDB = isRoot && exists("/usr/sbin/mariadbd")

extension TestBedTests {
    @Suite struct DatabaseTests {
        @Test(.enabled(if: hasPostgreSQL)) func postgresqlLivesOnADirectoryOfOurs() async throws {
            try await withTemporaryDirectory { directory in
                let server = try PostgreSQLServer(
                    dataDirectory: "\(directory)/data", socketDirectory: "\(directory)/run")
                try await server.initialise()
                let first = try await server.start()
                #expect(first > .zero && first < .seconds(60))
                await #expect(throws: LabError.self) { try await server.start() }
                #expect(try await server.query("SHOW fsync; SHOW listen_addresses;") == "on\n")
                try await server.query(
                    "CREATE TABLE notes (id int, body text); INSERT INTO notes VALUES (1, 'kept');")
                await #expect(throws: LabError.self) { try await server.query("SELECT nonsense") }
                try await server.stop()
                try await server.stop()
                #expect(await !server.isRunning)
                try await server.start(firstQuery: "SELECT body FROM notes")
                #expect(try await server.query("SELECT body FROM notes") == "kept")

                // As by a power cut: no process left, and what was committed is there again.
                let pid = try #require(await server.pid)
                try await server.query("INSERT INTO notes VALUES (2, 'committed')")
                await server.kill()
                #expect(processStart(pid) == nil)
                #expect(try processesUsing("\(directory)/data").isEmpty)
                try await server.start(firstQuery: "SELECT count(*) FROM notes")
                #expect(
                    try await server.query("SELECT id, body FROM notes ORDER BY id") == "1|kept\n2|committed")
                try await server.stop()
            }
        }

        @Test(.enabled(if: hasPostgreSQL)) func postgresqlLoadsAtLeastWhatWasAskedFor() async throws {
            try await withTemporaryDirectory { directory in
                let server = try PostgreSQLServer(
                    dataDirectory: "\(directory)/data", socketDirectory: "\(directory)/run")
                try await server.initialise()
                try await server.start()
                let size = try await server.load(byteCount: 40 << 20)
                #expect((40 << 20...80 << 20).contains(size))
                #expect(try await server.pgbench(["-t", "20", "-c", "2"]).contains("40/40"))
                let random = try await server.load(
                    byteCount: 32 << 20, database: "other", incompressible: true)
                #expect((32 << 20...64 << 20).contains(random))
                let distinct = try await server.query(
                    "SELECT count(DISTINCT body) = count(*), min(length(body)) FROM filler", database: "other"
                )
                #expect(distinct == "t|1024")
                try await server.stop()
            }
        }

        @Test(.enabled(if: hasMariaDB)) func mariadbLivesOnADirectoryOfOurs() async throws {
            try await withTemporaryDirectory { directory in
                let server = try MariaDBServer(
                    dataDirectory: "\(directory)/data", socketDirectory: "\(directory)/run")
                try await server.initialise()
                let first = try await server.start()
                #expect(first > .zero && first < .seconds(60))
                let size = try await server.load(byteCount: 16 << 20)
                #expect((16 << 20...64 << 20).contains(size))
                #expect(
                    try await server.query("SELECT COUNT(*), COUNT(DISTINCT body) FROM bench.filler")
                        == "16384\t16384")
                #expect(try await server.query("SELECT @@GLOBAL.innodb_flush_log_at_trx_commit") == "1")
                #expect(try await server.query("SELECT @@innodb_buffer_pool_load_at_startup") == "1")
                await #expect(throws: LabError.self) { try await server.query("SELECT nonsense") }
                try await server.stop()
                try await server.stop()
                try await server.start(firstQuery: "SELECT COUNT(*) FROM bench.filler")

                let pid = try #require(await server.pid)
                try await server.query("UPDATE bench.filler SET number = -1 WHERE id = 7")
                await server.kill()
                #expect(processStart(pid) == nil)
                try await server.start()
                #expect(try await server.query("SELECT number FROM bench.filler WHERE id = 7") == "-1")
                try await server.stop()
            }
        }

        @Test(.enabled(if: hasPostgreSQL && hasMariaDB)) func serversRunInTheNamespaceTheyAreGiven()
            async throws
        {
            try await withTemporaryDirectory { directory in
                try await withLink { link in
                    let server = try PostgreSQLServer(
                        dataDirectory: "\(directory)/data", socketDirectory: "\(directory)/run",
                        network: link.b.namespace)
                    try await server.initialise()
                    try await server.start()
                    let pid = try #require(await server.pid)
                    let script = "[ /proc/\(pid)/ns/net -ef \(link.b.namespace.path) ]"
                    try await ChildProcess.check(Program("sh", ["-c", script]))
                    try await server.stop()
                }
            }
        }

        @Test(.enabled(if: hasPostgreSQL && hasMariaDB)) func aServerThatCannotStartSaysWhy() async throws {
            try await withTemporaryDirectory { directory in
                let postgresql = try PostgreSQLServer(
                    dataDirectory: "\(directory)/nothing", socketDirectory: "\(directory)/run")
                do {
                    try await postgresql.start()
                    Issue.record("it started on nothing")
                } catch LabError.programFailed(_, _, let output) {
                    #expect(output.contains("nothing"))
                }
                #expect(await !postgresql.isRunning)
                let mariadb = try MariaDBServer(
                    dataDirectory: "\(directory)/nothing", socketDirectory: "\(directory)/run")
                await #expect(throws: LabError.self) { try await mariadb.start() }
                #expect(await !mariadb.isRunning)
                #expect(throws: LabError.self) {
                    let long = String(repeating: "x", count: 120)
                    _ = try MariaDBServer(dataDirectory: "/d", socketDirectory: "/\(long)")
                }
            }
        }

        /// Processes whose current directory is the given one, as all of PostgreSQL's are.
        private func processesUsing(_ directory: String) throws -> [Int32] {
            guard let listing = opendir("/proc") else { throw LabError.invalid("/proc cannot be read") }
            defer { closedir(listing) }
            var found: [Int32] = []
            while let record = readdir(listing) {
                let name = String(
                    decoding: entryName(record).dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
                guard let pid = Int32(name) else { continue }
                var target = [CChar](repeating: 0, count: 4097)
                let length = readlink("/proc/\(pid)/cwd", &target, 4096)
                let path = String(
                    decoding: target.prefix(max(0, length)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
                if path == directory { found.append(pid) }
            }
            return found
        }
    }
}
