import Foundation
import Glibc
import Testing

@testable import TestBed

extension SiteTests {
    /// Databases that go back and forth under the load of pgbench and sysbench while processes are killed and the link
    /// is cut: every acknowledged commit is there after each move, and the databases' own checks find nothing.
    ///
    /// Each kind of trouble comes, in an order of its own, before one comes again. GODWIT_ROUND_TRIPS sets how often each
    /// database goes there and back; GODWIT_ENDURANCE_SEED repeats a run.
    @Suite struct EnduranceTests {
        @Test(arguments: EnduranceDatabase.Kind.allCases)
        func everyAcknowledgedCommitSurvivesMovesAndKills(_ kind: EnduranceDatabase.Kind) async throws {
            try await withSites(slowLink(megabits: 200)) { pair, cleanup in
                var run = try EnduranceRun(kind, pair, cleanup)
                do {
                    try await run.begin()
                    for leg in 0..<2 * EnduranceRun.roundTrips { try await run.move(leg) }
                    try await run.end()
                } catch {
                    Issue.record("\(kind), seed \(run.seed): \(run.story.joined(separator: "; "))")
                    throw error
                }
            }
        }
    }
}

/// One database whose directory is in the volume, as a server at either site.
struct EnduranceDatabase: Sendable {
    enum Kind: String, CaseIterable, Sendable { case postgreSQL, mariaDB }

    private enum Server { case postgreSQL(PostgreSQLServer), mariaDB(MariaDBServer) }
    private let server: Server

    init(_ kind: Kind, volume: String, sockets: String) throws {
        switch kind {
        case .postgreSQL:
            server = .postgreSQL(
                try PostgreSQLServer(dataDirectory: volume + "/db", socketDirectory: sockets))
        case .mariaDB:
            server = .mariaDB(try MariaDBServer(dataDirectory: volume + "/db", socketDirectory: sockets))
        }
    }

    func initialise() async throws {
        switch server {
        case .postgreSQL(let server): try await server.initialise()
        case .mariaDB(let server): try await server.initialise()
        }
    }

    func start() async throws {
        switch server {
        case .postgreSQL(let server): try await server.start()
        case .mariaDB(let server): try await server.start()
        }
    }

    func stop() async throws {
        switch server {
        case .postgreSQL(let server): try await server.stop()
        case .mariaDB(let server): try await server.stop()
        }
    }

    func kill() async {
        switch server {
        case .postgreSQL(let server): await server.kill()
        case .mariaDB(let server): await server.kill()
        }
    }

    @discardableResult
    func query(_ sql: String) async throws -> String {
        switch server {
        case .postgreSQL(let server): try await server.query(sql)
        case .mariaDB(let server): try await server.query(sql)
        }
    }

    func makeLedger() async throws {
        switch server {
        case .postgreSQL(let server):
            try await query("create table ledger(id bigint primary key, body text); create extension amcheck")
            try await server.load(byteCount: 1)
            _ = try await server.query("create extension amcheck", database: "bench")
        case .mariaDB(let server):
            try await query(
                "create table ledger(id bigint primary key, body blob) engine=innodb; create database bench")
            try await ChildProcess.check(server.sysbench("prepare", rowCount: Self.benchRowCount))
        }
    }

    private static let benchRowCount = 10_000

    /// Transactions of more than one client, until it is killed or the server is.
    func load() -> Program {
        switch server {
        case .postgreSQL(let server): server.pgbenchProgram(["-n", "-c", "2", "-T", "3600"])
        case .mariaDB(let server): server.sysbench("run", rowCount: Self.benchRowCount)
        }
    }

    /// Each transaction of the load keeps a sum or a number as it is.
    private func loadDamage() async throws -> String? {
        switch server {
        case .postgreSQL(let server):
            let sums = try await server.query(
                """
                select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches),
                    (select sum(tbalance) from pgbench_tellers), (select coalesce(sum(delta), 0) from pgbench_history)
                """, database: "bench")
            return Set(sums.split(separator: "|")).count == 1 ? nil : "pgbench: sums differ: \(sums)"
        case .mariaDB(let server):
            let count = try await server.query("select count(*) from sbtest1", database: "bench")
            let report = try await server.query("check table sbtest1 extended", database: "bench")
            return count == "\(Self.benchRowCount)" && report.hasSuffix("OK")
                ? nil : "sysbench: \(count) rows; \(report)"
        }
    }

    /// Commits one row after the other and prints the number of each when it is acknowledged.
    func writer(from first: Int) -> Program {
        // The number is asked for by a statement of its own, which the server answers after the commit.
        let statement = "insert into ledger values (%d, repeat(md5('%d'), 8)); select %d;"
        let loop = "n=\(first); while printf \"\(statement)\\n\" $n $n $n; do n=$((n+1)); done"
        return switch server {
        case .postgreSQL(let server): server.session(reading: "(\(loop))")
        case .mariaDB(let server): server.session(reading: "(\(loop))")
        }
    }

    /// What the database's own tools find; nil: nothing.
    func damage() async throws -> String? {
        let body = try await query("select count(*) from ledger where body <> repeat(md5(concat('', id)), 8)")
        guard body == "0" else { return "\(body) rows with another content" }
        if let damage = try await loadDamage() { return damage }
        switch server {
        case .postgreSQL(let server):
            // Of every table and index, the server's own as well. A damaged index is an error of the query.
            for database in ["postgres", "bench"] {
                _ = try await server.query(
                    """
                    select bt_index_parent_check(class.oid, true, true) from pg_index
                        join pg_class class on class.oid = indexrelid
                        join pg_am access on access.oid = relam and amname = 'btree' where indisvalid
                    """, database: database)
                let heap = try await server.query(
                    "select count(*) from pg_class, verify_heapam(pg_class.oid) where relkind in ('r', 't', 'm')",
                    database: database)
                guard heap == "0" else { return "amcheck: \(heap) corruptions in \(database)" }
            }
            return nil
        case .mariaDB:
            let report = try await query("check table ledger extended")
            return report.hasSuffix("OK") ? nil : report
        }
    }
}

/// One run: where the volume is, what was acknowledged, what happened.
struct EnduranceRun {
    private static let environment = ProcessInfo.processInfo.environment
    static let roundTrips = environment["GODWIT_ROUND_TRIPS"].flatMap { Int($0) } ?? 2

    private enum Trouble: CaseIterable {
        case databaseKilled, ownerKilled, linkCut, sourceKilled, targetKilled
    }

    /// The same for all databases: what one does not meet the next one does.
    private static let commonSeed =
        environment["GODWIT_ENDURANCE_SEED"].flatMap { UInt64($0) } ?? .random(in: 0..<1_000_000)
    let seed = Self.commonSeed
    private let troubles: [Trouble]
    private(set) var story: [String] = []
    private let pair: SitePair
    private let cleanup: Cleanup
    private let databases: [EnduranceDatabase]
    private let acknowledgements: String
    private var random: SplitMix
    private var owner = 0
    private var nextID = 1
    private var writers: [ChildProcess] = []

    init(_ kind: EnduranceDatabase.Kind, _ pair: SitePair, _ cleanup: Cleanup) throws {
        random = SplitMix(state: seed)
        let order = Trouble.allCases.shuffled(using: &random)
        let first = EnduranceDatabase.Kind.allCases.firstIndex(of: kind) == 0 ? 0 : 2 * Self.roundTrips
        troubles = (first..<first + 2 * Self.roundTrips).map { order[$0 % order.count] }
        self.pair = pair
        self.cleanup = cleanup
        databases = try [pair.london, pair.sydney].map { site in
            try EnduranceDatabase(
                kind, volume: pair.mountPoint(of: site), sockets: "\(pair.directory)/db-\(site.name)")
        }
        acknowledgements = pair.directory + "/acknowledged"
        for database in databases { try cleanup.add("database") { await database.kill() } }
    }

    private func site(_ index: Int) -> SiteProcess { index == 0 ? pair.london : pair.sydney }
    private var target: Int { 1 - owner }

    mutating func begin() async throws {
        try await site(owner).godwit(["volume", "create", "db", "--capacity", "4Gi"])
        try await pair.mount("db", at: site(owner), cleanup)
        try await databases[owner].initialise()
        try await databases[owner].start()
        try await databases[owner].makeLedger()
        try await write()
    }

    /// Starts to write; whatever was acknowledged before stays in the file.
    private mutating func write() async throws {
        var program = databases[owner].writer(from: nextID)
        program.output = .file(acknowledgements + ".\(nextID)")
        var load = databases[owner].load()
        load.output = .discarded
        for program in [program, load] {
            let started = try await ChildProcess.start(program)
            writers.append(started)
            try cleanup.add("writer") { _ = started.kill() }
        }
        try await Task.sleep(for: .milliseconds(300 + random.below(700)))
    }

    private mutating func stopWriting() async throws {
        guard !writers.isEmpty else { return }
        for writer in writers { _ = writer.kill() }
        for writer in writers { _ = try await writer.wait(limit: .seconds(30)) }
        writers = []
        nextID += 1_000_000
    }

    private func acknowledged() throws -> Set<Int> {
        var all: Set<Int> = []
        for first in stride(from: 1, through: nextID, by: 1_000_000) {
            guard let text = try? String(contentsOfFile: acknowledgements + ".\(first)", encoding: .utf8)
            else { continue }
            // The last line may be cut off.
            for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast() {
                if let id = Int(line) { all.insert(id) }
            }
        }
        return all
    }

    private func checkLedger() async throws {
        #expect(try await databases[owner].damage() == nil)
        let rows = try await databases[owner].query("select id from ledger")
        let present = Set(rows.split(separator: "\n").compactMap { Int($0) })
        let promised = try acknowledged()
        try #require(promised.count > 10, "the writer wrote next to nothing: \(promised.count)")
        let lost = promised.subtracting(present)
        try #require(
            lost.isEmpty,
            "\(lost.count) of \(promised.count) acknowledged commits are lost: \(lost.sorted().prefix(5))"
        )
    }

    /// Takes the volume to the other site, with some trouble on the way.
    mutating func move(_ leg: Int) async throws {
        let trouble = troubles[leg]
        story.append("\(site(owner).name) → \(site(target).name): \(trouble)")
        if trouble == .ownerKilled { try await killOwner() }
        if trouble == .databaseKilled {
            await databases[owner].kill()
            try await stopWriting()
        } else {
            try await stopWriting()
            try await databases[owner].stop()
        }
        try await pair.unmount("db", at: site(owner))
        try await handOver(killingTarget: trouble == .targetKilled)
        let source = owner
        owner = target
        let (link, sourceSite) = (pair.link, site(source))
        // While the database starts on bytes that are still at the source.
        let disturbance = Task {
            if trouble == .linkCut {
                try await link.cut(Set(LinkDirection.allCases))
                try await Task.sleep(for: .milliseconds(1500))
                try await link.cut([])
            }
            if trouble == .sourceKilled {
                await sourceSite.kill()
                try await sourceSite.start()
            }
        }
        try await databases[owner].start()
        try await disturbance.value
        try await checkLedger()
        try await write()
    }

    /// kill -9 of the site under a database that writes; it goes on where it was.
    private mutating func killOwner() async throws {
        await site(owner).kill()
        await databases[owner].kill()
        try await stopWriting()
        _ = try await ChildProcess.run(
            Program("umount", ["-l", pair.mountPoint(of: site(owner))]), limit: .seconds(20))
        try await site(owner).start()
        try await pair.mount("db", at: site(owner), cleanup)
        try await databases[owner].start()
        try await checkLedger()
        try await write()
    }

    private mutating func handOver(killingTarget: Bool) async throws {
        let (from, to) = (site(owner), site(target))
        let delay = random.below(400)
        if killingTarget {
            let attempt = Task { _ = try? await from.run(["migrate", "db", "--to", to.name, "--detach"]) }
            try await Task.sleep(for: .milliseconds(delay))
            await to.kill()
            await attempt.value
            try await to.start()
        }
        let deadline = ContinuousClock.now + .seconds(60)
        var last = ""
        while ContinuousClock.now < deadline {
            last = try await from.run(["migrate", "db", "--to", to.name, "--detach"]).output
            let mounted = try await to.run(["volume", "mount", "db", pair.mountPoint(of: to)])
            if mounted.exit.isSuccess {
                try cleanup.add(mountAt: pair.mountPoint(of: to))
                return
            }
            last += mounted.output
            try await Task.sleep(for: .milliseconds(200))
        }
        throw LabError.invalid("the volume did not arrive at \(to.name): \(last)")
    }

    mutating func end() async throws {
        try await stopWriting()
        try await checkLedger()
        try await databases[owner].stop()
        try await pair.waitUntilReleased("db", at: site(owner))
        try await pair.unmount("db", at: site(owner))
        // Every site has let go of what nobody needs: of all the copies on the way one at most is left.
        let id = try #require(try await site(owner).inspect("db")["id"] as? String)
        for index in [owner, target] {
            let heads = "\(site(index).stateDirectory)/volumes/\(id)/heads"
            let deadline = ContinuousClock.now + .seconds(30)
            while try FileManager.default.contentsOfDirectory(atPath: heads).count > 1 {
                try #require(ContinuousClock.now < deadline, "old copies are left in \(heads)")
                try await Task.sleep(for: .milliseconds(200))
            }
            let check = try await site(index).run(["volume", "check"])
            #expect(check.exit.isSuccess, "\(check.output)")
        }
        print("\(try acknowledged().count) acknowledged commits, all there; \(story.joined(separator: "; "))")
    }
}
