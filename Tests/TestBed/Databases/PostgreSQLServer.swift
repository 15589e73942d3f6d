internal import Glibc

/// A PostgreSQL of our own on a data directory anywhere, for instance inside a volume. Speaks through a Unix
/// socket only.
///
/// An actor: starting, stopping and killing follow each other. The data directory may be started elsewhere
/// after `stop` or `kill`; nothing in it names this machine's paths.
package actor PostgreSQLServer {
    package nonisolated let dataDirectory: String
    package nonisolated let socketDirectory: String
    package nonisolated let network: NetworkNamespace?
    package nonisolated let port: Int
    /// Settings for the command line: modest memory, so that reads reach the volume; every commit is
    /// synchronised.
    package nonisolated let settings: [String: String]
    private let programs: String
    private let user: UserIdentity
    private var server: ChildProcess?

    package static let defaultSettings = [
        "listen_addresses": "", "shared_buffers": "64MB", "fsync": "on", "synchronous_commit": "on",
        "full_page_writes": "on", "max_connections": "40", "logging_collector": "off", "autovacuum": "on",
    ]

    /// - Parameters:
    ///   - dataDirectory: A directory below the volume's root, not the root itself. Its parent must be open
    ///     to the user.
    ///   - socketDirectory: On this machine, not in the volume. Made if missing.
    ///   - settings: Added to, or replacing, `defaultSettings`.
    package init(
        dataDirectory: String, socketDirectory: String, network: NetworkNamespace? = nil, port: Int = 5432,
        settings: [String: String] = [:], user: String = "postgres"
    ) throws {
        self.dataDirectory = dataDirectory
        self.socketDirectory = socketDirectory
        self.network = network
        self.port = port
        self.settings = Self.defaultSettings.merging(settings) { _, own in own }
        self.user = try UserIdentity(named: user)
        programs = try Self.findPrograms()
        try DatabaseFiles.checkSocketPath(socketPath)
    }

    package nonisolated var socketPath: String { "\(socketDirectory)/.s.PGSQL.\(port)" }
    package nonisolated var logPath: String { "\(socketDirectory)/postgresql-\(port).log" }
    package var isRunning: Bool { server.map { $0.exit == nil } ?? false }
    package var pid: Int32? { isRunning ? server?.pid : nil }

    /// Makes an empty database cluster with the superuser `postgres`.
    package func initialise() async throws {
        try DatabaseFiles.makeDirectory(dataDirectory, owner: user, mode: 0o700)
        var program = program(
            "initdb",
            [
                "-D", dataDirectory, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C",
                "--data-checksums",
            ])
        program.directory = "/"
        try await ChildProcess.check(program, limit: .seconds(300))
    }

    /// Starts the server and waits until it answered a query.
    ///
    /// - Returns: the time from the start of the program to the first row, the client's own start (10 to 20
    ///   ms) included.
    @discardableResult
    package func start(
        firstQuery: String = "SELECT 1", database: String = "postgres", limit: Duration = .seconds(120)
    ) async throws -> Duration {
        guard !isRunning else { throw LabError.invalid("PostgreSQL on \(dataDirectory) runs already") }
        try DatabaseFiles.makeDirectory(socketDirectory, owner: user, mode: 0o755)
        var program = program("postgres", ["-D", dataDirectory, "-k", socketDirectory, "-p", "\(port)"])
        for (name, value) in settings.sorted(by: { $0.key < $1.key }) {
            program.arguments += ["-c", "\(name)=\(value)"]
        }
        program.output = .file(logPath)
        program.network = network
        // An immediate shutdown: the postmaster takes its children with it.
        program.parentDeathSignal = SIGQUIT
        let start = ContinuousClock.now
        let child = try await ChildProcess.start(program)
        server = child
        do {
            return try await firstAnswer(
                of: child, socket: socketPath, log: logPath, since: start, limit: limit
            ) {
                _ = try await self.query(firstQuery, database: database)
            }
        } catch {
            await killWithChildren(child)
            server = nil
            throw error
        }
    }

    /// Runs SQL, several statements if need be.
    ///
    /// - Returns: rows as lines, columns separated by `|`, without headings.
    @discardableResult
    package nonisolated func query(
        _ sql: String, database: String = "postgres", limit: Duration = .seconds(120)
    ) async throws -> String {
        var program = program(
            "psql", ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"] + client + ["-d", database])
        program.input = Array(sql.utf8)
        return try await ChildProcess.check(program, limit: limit).trimmingFinalNewline()
    }

    /// A client that reads SQL from a shell command for as long as that gives some, and prints rows as they come.
    /// It ends at the first failure, as when the server dies.
    package nonisolated func session(reading command: String, database: String = "postgres") -> Program {
        let psql = ["\(programs)/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"] + client
        var program = Program(
            "/bin/bash", ["-c", "\(command) | stdbuf -oL \(psql.joined(separator: " ")) -d \(database)"])
        program.user = user
        program.directory = "/"
        return program
    }

    /// Runs pgbench with the given arguments (`["-c", "2", "-T", "10"]`) on a database that `load` filled.
    package nonisolated func pgbench(
        _ arguments: [String], database: String = "bench", limit: Duration = .seconds(600)
    ) async throws -> String {
        try await ChildProcess.check(pgbenchProgram(arguments, database: database), limit: limit)
    }

    /// The same, to be started and ended by the caller.
    package nonisolated func pgbenchProgram(_ arguments: [String], database: String = "bench") -> Program {
        program("pgbench", arguments + client + [database])
    }

    /// Fills a new database with pgbench's tables of at least this size, and writes it all to the files.
    ///
    /// - Returns: the size of the database. Its rows compress well; give `incompressible` for a second table
    ///   of random bytes that makes up half of the size.
    @discardableResult
    package nonisolated func load(
        byteCount: UInt64, database: String = "bench", incompressible: Bool = false,
        limit: Duration = .seconds(900)
    ) async throws -> UInt64 {
        try await query("CREATE DATABASE \(database)")
        // A unit of scale is 100,000 accounts: 12.8 MiB of rows and 2.1 MiB of index (measured: 15.6 million
        // bytes).
        let share = incompressible ? byteCount / 2 : byteCount
        let scale = max(1, (share + 15_599_999) / 15_600_000)
        _ = try await pgbench(["-i", "-q", "-s", "\(scale)"], database: database, limit: limit)
        if incompressible { try await loadRandom(share, database: database, limit: limit) }
        try await query("CHECKPOINT", database: database, limit: limit)
        let size = try await query("SELECT pg_database_size('\(database)')", database: database)
        guard let size = UInt64(size) else { throw LabError.invalid("PostgreSQL gave \(size) as a size") }
        return size
    }

    private nonisolated func loadRandom(_ byteCount: UInt64, database: String, limit: Duration) async throws {
        let rowCount = max(1, (byteCount + 1023) / 1024)
        // 64 UUIDs of 122 random bits each; the concatenation depends on the row, so that it is made anew for
        // each.
        try await query(
            """
            CREATE TABLE filler (id bigint PRIMARY KEY, body bytea);
            ALTER TABLE filler ALTER body SET STORAGE EXTERNAL;
            INSERT INTO filler SELECT row, (SELECT string_agg(uuid_send(gen_random_uuid()), ''::bytea)
                FROM generate_series(1, 64) part WHERE row > 0) FROM generate_series(1, \(rowCount)) row;
            """, database: database, limit: limit)
    }

    /// Stops it in order (a fast shutdown, with a checkpoint). Without effect if it does not run.
    package func stop(limit: Duration = .seconds(120)) async throws {
        guard let child = server else { return }
        child.signal(SIGINT)
        let exit = try await child.wait(limit: limit)
        server = nil
        guard exit.isSuccess else {
            throw LabError.programFailed("postgres", exit: exit, output: "see \(logPath)")
        }
    }

    /// Ends all its processes at once, as a power cut would. Without effect if it does not run.
    package func kill() async {
        guard let child = server else { return }
        server = nil
        await killWithChildren(child)
    }

    private nonisolated var client: [String] { ["-h", socketDirectory, "-p", "\(port)", "-U", "postgres"] }

    private nonisolated func program(_ name: String, _ arguments: [String]) -> Program {
        var program = Program("\(programs)/\(name)", arguments)
        program.user = user
        program.directory = "/"
        return program
    }

    /// The newest version installed. Debian's own commands in /usr/bin are wrappers that know its clusters
    /// only, and are slow.
    private static func findPrograms() throws(LabError) -> String {
        let root = "/usr/lib/postgresql"
        guard let listing = opendir(root) else { throw .programMissing("postgres (package postgresql)") }
        defer { closedir(listing) }
        var versions: [Int] = []
        while let entry = readdir(listing) {
            let name = String(
                decoding: entryName(entry).dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
            if let version = Int(name), DatabaseFiles.exists("\(root)/\(version)/bin/postgres") {
                versions.append(version)
            }
        }
        guard let newest = versions.max() else { throw .programMissing("postgres (package postgresql)") }
        return "\(root)/\(newest)/bin"
    }
}

extension String {
    func trimmingFinalNewline() -> String { hasSuffix("\n") ? String(dropLast()) : self }
}
