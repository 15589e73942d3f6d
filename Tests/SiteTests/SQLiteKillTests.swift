import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// The site is killed again and again under an SQLite that writes, with each kind of journal.
    ///
    /// What SQLite promises to survive a power loss is to survive the end of the site: so synchronous=FULL, but EXTRA
    /// where a commit is the removal of a journal, for only then the directory is synced.
    ///
    /// GODWIT_SQLITE_KILLS sets how often.
    @Suite struct SQLiteKillTests {
        private static let rounds =
            ProcessInfo.processInfo.environment["GODWIT_SQLITE_KILLS"].flatMap { Int($0) } ?? 5

        private static let journals = [
            "journal_mode=wal; pragma synchronous=full", "journal_mode=truncate; pragma synchronous=full",
            "journal_mode=delete; pragma synchronous=extra",
        ]

        @Test func noAcknowledgedRowIsLostByKillingTheSite() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "db", "--capacity", "1Gi"])
                let mount = try await pair.mount("db", at: pair.london, cleanup)
                _ = try await self.ask("create table ledger(id integer primary key, body text)", in: mount)
                var acknowledged = 0
                for round in 0..<Self.rounds {
                    let journal = Self.journals[round % Self.journals.count]
                    let output = "\(pair.directory)/acknowledged"
                    let writer = try await self.write(from: acknowledged + 1, journal, to: output, in: mount)
                    defer { _ = writer.kill() }
                    let first = acknowledged
                    try await SiteTests.wait("some rows") {
                        if let exit = writer.exit { throw LabError.invalid("sqlite3 ended: \(exit)") }
                        acknowledged = max(acknowledged, try Self.last(of: output))
                        return acknowledged >= first + 5
                    }
                    try await Task.sleep(for: .milliseconds(Int.random(in: 0..<300)))
                    await pair.london.kill()
                    _ = writer.kill()
                    _ = try await writer.wait(limit: .seconds(20))
                    acknowledged = max(acknowledged, try Self.last(of: output))
                    _ = try await shell("umount -l '\(mount)' || true", in: pair.directory)
                    try await pair.london.start()
                    try await pair.mount("db", at: pair.london, cleanup)
                    #expect(try await self.ask("pragma integrity_check", in: mount) == "ok\n")
                    let rows = "select count(*) from ledger where id <= \(acknowledged)"
                    let present = try await self.ask(rows, in: mount)
                    #expect(present == "\(acknowledged)\n", "round \(round), \(journal)")
                }
                try await pair.unmount("db", at: pair.london)
                let check = try await pair.london.run(["volume", "check"])
                #expect(check.exit.isSuccess, "\(check.output)")
            }
        }

        private func ask(_ sql: String, in mount: String) async throws -> String {
            try await ChildProcess.check(Program("sqlite3", ["-bail", mount + "/ledger.db", sql]))
        }

        /// Commits a row, says its number, and so on.
        private func write(
            from first: Int, _ journal: String, to output: String, in mount: String
        ) async throws -> ChildProcess {
            let statement = "insert or ignore into ledger values (%d, hex(randomblob(500))); select %d;"
            let script = """
                (echo "pragma \(journal);"
                 n=\(first); while printf "\(statement)\\n" $n $n; do n=$((n+1)); done) |
                    stdbuf -oL sqlite3 -bail '\(mount)/ledger.db'
                """
            var program = Program("/bin/bash", ["-c", script])
            program.output = .file(output)
            return try await ChildProcess.start(program)
        }

        private static func last(of output: String) throws -> Int {
            guard let text = try? String(contentsOfFile: output, encoding: .utf8) else { return 0 }
            // The last line may be cut off; names of journals are no numbers.
            let lines = text.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
            return lines.reversed().lazy.compactMap { Int($0) }.first ?? 0
        }
    }
}
