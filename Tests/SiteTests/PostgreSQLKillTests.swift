import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// The site is killed again and again under a PostgreSQL that commits, on a volume of which every byte is here.
    ///
    /// GODWIT_POSTGRES_KILLS sets how often.
    @Suite struct PostgreSQLKillTests {
        private static let rounds =
            ProcessInfo.processInfo.environment["GODWIT_POSTGRES_KILLS"].flatMap { Int($0) } ?? 2
        /// Each round's rows have numbers of their own.
        private static let numbersOfRound = 1_000_000

        @Test func noAcknowledgedCommitIsLostByKillingTheSite() async throws {
            try await withSites { pair, cleanup in
                let site = pair.london
                try await site.godwit(["volume", "create", "db", "--capacity", "4Gi"])
                let mount = try await pair.mount("db", at: site, cleanup)
                let database = try EnduranceDatabase(
                    .postgreSQL, volume: mount, sockets: pair.directory + "/sockets")
                try cleanup.add("database") { await database.kill() }
                try await database.initialise()
                try await database.start()
                try await database.makeLedger()
                var acknowledged: Set<Int> = []
                for round in 0..<Self.rounds {
                    let committed = try await Self.commit(
                        from: round * Self.numbersOfRound + 1, to: database,
                        output: "\(pair.directory)/acknowledged"
                    ) {
                        await site.kill()
                        await database.kill()
                    }
                    acknowledged.formUnion(committed)
                    _ = try await ChildProcess.run(Program("umount", ["-l", mount]), limit: .seconds(20))
                    try await site.start()
                    try await pair.mount("db", at: site, cleanup)
                    try await database.start()
                    #expect(try await database.damage() == nil, "round \(round)")
                    let rows = try await database.query("select id from ledger")
                    let lost = acknowledged.subtracting(rows.split(separator: "\n").compactMap { Int($0) })
                    #expect(
                        lost.isEmpty,
                        "round \(round): \(lost.count) of \(acknowledged.count) are lost: \(lost.sorted().prefix(5))"
                    )
                }
                try await database.stop()
                try await pair.unmount("db", at: site)
                let check = try await site.run(["volume", "check"])
                #expect(check.exit.isSuccess, "\(check.output)")
            }
        }

        /// Commits rows beside other clients until some were acknowledged and, at any moment after that, all is ended.
        ///
        /// - Returns: the numbers of the rows that were acknowledged.
        private static func commit(
            from first: Int, to database: EnduranceDatabase, output: String, end: () async -> Void
        ) async throws -> Set<Int> {
            var programs = [database.writer(from: first), database.load()]
            programs[0].output = .file(output)
            programs[1].output = .discarded
            var clients: [ChildProcess] = []
            defer { for client in clients { _ = client.kill() } }
            for program in programs { clients.append(try await ChildProcess.start(program)) }
            try await SiteTests.wait("some commits") {
                if let exit = clients[0].exit { throw LabError.invalid("the writer ended: \(exit)") }
                return numbers(in: output, from: first).count >= 5
            }
            try await Task.sleep(for: .milliseconds(Int.random(in: 0..<500)))
            await end()
            for client in clients {
                _ = client.kill()
                _ = try await client.wait(limit: .seconds(30))
            }
            return numbers(in: output, from: first)
        }

        /// The last line may be cut off; of what was there before nothing counts.
        private static func numbers(in output: String, from first: Int) -> Set<Int> {
            guard let text = try? String(contentsOfFile: output, encoding: .utf8) else { return [] }
            let lines = text.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
            return Set(lines.compactMap { Int($0) }.filter { $0 >= first })
        }
    }
}
