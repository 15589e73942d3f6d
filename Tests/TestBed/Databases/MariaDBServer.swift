internal import Glibc

/// A MariaDB of our own on a data directory anywhere, for instance inside a volume. Speaks through a Unix
/// socket only.
///
/// An actor: starting, stopping and killing follow each other. Reads no configuration of the machine.
package actor MariaDBServer {
    package nonisolated let dataDirectory: String
    package nonisolated let socketDirectory: String
    package nonisolated let network: NetworkNamespace?
    /// Options for the command line, without the dashes. All else is the server's default, the buffer pool's
    /// dump and load at stop and start included: that is what users have.
    package nonisolated let settings: [String: String]
    private let user: UserIdentity
    private let userName: String
    private var server: ChildProcess?

    package static let defaultSettings = [
        "skip-networking": "", "innodb-buffer-pool-size": "128M", "innodb-flush-log-at-trx-commit": "1",
        "innodb-doublewrite": "ON", "skip-name-resolve": "", "skip-log-bin": "",
    ]

    /// - Parameters:
    ///   - dataDirectory: A directory below the volume's root, not the root itself. Its parent must be open
    ///     to the user.
    ///   - socketDirectory: On this machine, not in the volume. Made if missing.
    ///   - settings: Added to, or replacing, `defaultSettings`; an empty value is an option without one.
    package init(
        dataDirectory: String, socketDirectory: String, network: NetworkNamespace? = nil,
        settings: [String: String] = [:], user: String = "mysql"
    ) throws {
        self.dataDirectory = dataDirectory
        self.socketDirectory = socketDirectory
        self.network = network
        self.settings = Self.defaultSettings.merging(settings) { _, own in own }
        self.user = try UserIdentity(named: user)
        userName = user
        try DatabaseFiles.checkSocketPath(socketPath)
    }

    package nonisolated var socketPath: String { "\(socketDirectory)/mariadb.sock" }
    package nonisolated var logPath: String { "\(socketDirectory)/mariadb.log" }
    package var isRunning: Bool { server.map { $0.exit == nil } ?? false }
    package var pid: Int32? { isRunning ? server?.pid : nil }

    /// Makes an empty data directory with the superuser `root`, without a password.
    package func initialise() async throws {
        try DatabaseFiles.makeDirectory(dataDirectory, owner: user, mode: 0o700)
        // Started as root it lets go of that by itself; as another user it cannot check its helpers.
        var program = Program(
            "mariadb-install-db",
            [
                "--no-defaults", "--user=\(userName)", "--datadir=\(dataDirectory)", "--skip-test-db",
                "--auth-root-authentication-method=normal", "--skip-name-resolve",
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
        firstQuery: String = "SELECT 1", database: String = "mysql", limit: Duration = .seconds(120)
    ) async throws -> Duration {
        guard !isRunning else { throw LabError.invalid("MariaDB on \(dataDirectory) runs already") }
        try DatabaseFiles.makeDirectory(socketDirectory, owner: user, mode: 0o755)
        var program = Program(
            "mariadbd",
            [
                "--no-defaults", "--datadir=\(dataDirectory)", "--socket=\(socketPath)",
                "--pid-file=\(socketDirectory)/mariadb.pid",
            ])
        program.arguments += settings.sorted { $0.key < $1.key }.map {
            $1.isEmpty ? "--\($0)" : "--\($0)=\($1)"
        }
        program.user = user
        program.directory = "/"
        program.output = .file(logPath)
        program.network = network
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
    /// - Returns: rows as lines, columns separated by tabs, without headings.
    @discardableResult
    package nonisolated func query(
        _ sql: String, database: String = "mysql", limit: Duration = .seconds(120)
    ) async throws -> String {
        var program = Program(
            "mariadb",
            [
                "--no-defaults", "--socket=\(socketPath)", "-u", "root", "--batch", "--skip-column-names",
                database,
            ])
        program.input = Array(sql.utf8)
        return try await ChildProcess.check(program, limit: limit).trimmingFinalNewline()
    }

    /// A client that reads SQL from a shell command for as long as that gives some, and prints rows as they come.
    /// It ends at the first failure, as when the server dies.
    package nonisolated func session(reading command: String, database: String = "mysql") -> Program {
        var program = Program(
            "/bin/bash",
            [
                "-c",
                "\(command) | mariadb --no-defaults --socket=\(socketPath) -u root --batch --skip-column-names "
                    + "--unbuffered --skip-reconnect \(database)",
            ])
        program.user = user
        program.directory = "/"
        return program
    }

    /// sysbench's read-write transactions on a table `bench.sbtest1`: `prepare` makes it, in a database that must be
    /// there, `run` goes on until it is ended or the server is.
    package nonisolated func sysbench(_ command: String, rowCount: Int, seconds: Int = 3600) -> Program {
        Program(
            "sysbench",
            [
                "oltp_read_write", "--db-driver=mysql", "--mysql-socket=\(socketPath)", "--mysql-user=root",
                "--mysql-db=bench", "--tables=1", "--table-size=\(rowCount)", "--threads=2",
                "--time=\(seconds)",
                command,
            ])
    }

    /// What is in a row's body.
    package enum Rows: Sendable {
        /// Random bytes: nothing makes them smaller.
        case random
        /// Groups of random digits with dashes between, as sysbench writes them: about 2 to 1.
        case digits
        /// Text that compresses about 20 to 1.
        case text

        fileprivate var expression: String {
            switch self {
            case .random: "RANDOM_BYTES(1024)"
            case .digits:
                "CONCAT_WS('-', "
                    + Array(repeating: "LPAD(FLOOR(RAND() * 1e11), 11, '0')", count: 85).joined(
                        separator: ", ")
                    + ")"
            case .text: "RPAD(MD5(seq), 1024, MD5(seq))"
            }
        }
    }

    /// Fills `bench.filler` of a new database `bench` until its rows hold at least this many bytes, about.
    ///
    /// - Returns: the size of the table's file.
    @discardableResult
    package nonisolated func load(
        byteCount: UInt64, _ rows: Rows = .random, limit: Duration = .seconds(900)
    ) async throws -> UInt64 {
        let rowCount = max(1, (byteCount + 1023) / 1024)
        let body = rows.expression
        var statements = [
            "CREATE DATABASE bench; USE bench;",
            """
            CREATE TABLE filler (id BIGINT PRIMARY KEY, number INT NOT NULL, body VARBINARY(1024) NOT NULL)
                ENGINE=InnoDB;
            """,
            // One commit for each 16 MiB; they are synchronised once a second here, and all at the end.
            "SET GLOBAL innodb_flush_log_at_trx_commit = 2;",
        ]
        let step: UInt64 = 16_384
        for first in stride(from: 1, through: rowCount, by: Int(step)) {
            let last = min(first + step - 1, rowCount)
            statements.append(
                "INSERT INTO filler SELECT seq, seq % 1000, \(body) FROM seq_\(first)_to_\(last);")
        }
        statements.append("SET GLOBAL innodb_flush_log_at_trx_commit = DEFAULT; FLUSH TABLES filler;")
        try await query(statements.joined(separator: "\n"), limit: limit)
        let value = settings["innodb-flush-log-at-trx-commit"] ?? "1"
        try await query("SET GLOBAL innodb_flush_log_at_trx_commit = \(value)")
        let size = try await query(
            "SELECT FILE_SIZE FROM information_schema.INNODB_SYS_TABLESPACES WHERE NAME = 'bench/filler'")
        guard let size = UInt64(size) else { throw LabError.invalid("MariaDB gave \(size) as a size") }
        return size
    }

    /// Stops it in order. Without effect if it does not run.
    package func stop(limit: Duration = .seconds(120)) async throws {
        guard let child = server else { return }
        child.signal(SIGTERM)
        let exit = try await child.wait(limit: limit)
        server = nil
        guard exit.isSuccess else {
            throw LabError.programFailed("mariadbd", exit: exit, output: "see \(logPath)")
        }
    }

    /// Ends it at once, as a power cut would. Without effect if it does not run.
    package func kill() async {
        guard let child = server else { return }
        server = nil
        await killWithChildren(child)
    }
}
