import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// Real databases that go on at the other site while their bytes still stream.
    @Suite struct DatabaseTests {
        @Test func postgreSQLMovesThereAndBack() async throws {
            try await withSites(slowLink(megabits: 100)) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "db", "--capacity", "4Gi"])
                let london = try await pair.mount("db", at: pair.london, cleanup)
                let first = try PostgreSQLServer(
                    dataDirectory: london + "/pg", socketDirectory: pair.directory + "/pg-london")
                try await first.initialise()
                try cleanup.add("PostgreSQL at london") { await first.kill() }
                try await first.start()
                try await first.query(
                    "create table t(id int primary key, v text); insert into t select i, md5(i::text) from generate_series(1, 200000) i"
                )
                let sum = try await first.query("select sum(hashtext(v)) from t")
                try await first.stop()
                try await pair.unmount("db", at: pair.london)

                try await pair.london.godwit(["migrate", "db", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("db", at: pair.sydney, cleanup)
                let second = try PostgreSQLServer(
                    dataDirectory: sydney + "/pg", socketDirectory: pair.directory + "/pg-sydney")
                try cleanup.add("PostgreSQL at sydney") { await second.kill() }
                try await second.start()
                #expect(try await second.query("select v from t where id = 150000") != "")
                try await second.query("insert into t values (0, 'written at sydney')")
                #expect(try await second.query("select sum(hashtext(v)) from t where id > 0") == sum)
                try await pair.waitUntilReleased("db", at: pair.sydney)
                try await second.stop()
                try await pair.unmount("db", at: pair.sydney)

                try await pair.sydney.godwit(["migrate", "db", "--to", "london", "--detach"])
                _ = try await pair.mount("db", at: pair.london, cleanup)
                try await first.start()
                #expect(try await first.query("select v from t where id = 0") == "written at sydney")
                #expect(try await first.query("select sum(hashtext(v)) from t where id > 0") == sum)
                try await first.query("create extension amcheck; select bt_index_check('t_pkey', true)")
                try await first.stop()
                try await pair.unmount("db", at: pair.london)
            }
        }

        @Test func mariaDBMovesThereAndBack() async throws {
            try await withSites(slowLink(megabits: 100)) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "db", "--capacity", "4Gi"])
                let london = try await pair.mount("db", at: pair.london, cleanup)
                let first = try MariaDBServer(
                    dataDirectory: london + "/my", socketDirectory: pair.directory + "/my-london")
                try await first.initialise()
                try cleanup.add("MariaDB at london") { await first.kill() }
                try await first.start()
                try await first.query(
                    "create database d; create table d.t(id int primary key, v varchar(64)) engine=innodb; insert into d.t select seq, md5(seq) from seq_1_to_100000"
                )
                let sum = try await first.query("checksum table d.t")
                try await first.stop()
                try await pair.unmount("db", at: pair.london)

                try await pair.london.godwit(["migrate", "db", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("db", at: pair.sydney, cleanup)
                let second = try MariaDBServer(
                    dataDirectory: sydney + "/my", socketDirectory: pair.directory + "/my-sydney")
                try cleanup.add("MariaDB at sydney") { await second.kill() }
                try await second.start()
                #expect(try await second.query("checksum table d.t") == sum)
                try await second.query("create table d.u(a int); insert into d.u values (42)")
                try await pair.waitUntilReleased("db", at: pair.sydney)
                try await second.stop()
                try await pair.unmount("db", at: pair.sydney)

                try await pair.sydney.godwit(["migrate", "db", "--to", "london", "--detach"])
                _ = try await pair.mount("db", at: pair.london, cleanup)
                try await first.start()
                #expect(try await first.query("select a from d.u") == "42")
                #expect(try await first.query("checksum table d.t") == sum)
                #expect(try await first.query("check table d.t").contains("OK"))
                try await first.stop()
                try await pair.unmount("db", at: pair.london)
            }
        }
    }
}
