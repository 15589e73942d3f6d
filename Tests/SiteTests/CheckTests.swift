import EngineTestSupport
import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    @Suite struct CheckTests {
        @Test func aVolumeIsCheckedInUseAndOutOfUseAndRepairedOutOfUse() async throws {
            try await withSites { pair, cleanup in
                let site = pair.london
                try await site.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let path = try await pair.mount("data", at: site, cleanup)
                _ = try await shell("mkdir d; for i in $(seq 50); do echo $i > d/$i; done", in: path)
                let inUse = try await site.run(["volume", "check", "data"])
                #expect(inUse.exit == .exited(0) && inUse.output == "nothing is wrong\n", "\(inUse.output)")
                let sane = try await site.run(["volume", "check", "data", "--repair"])
                #expect(sane.exit == .exited(0) && sane.output == "nothing is wrong\n", "\(sane.output)")
                try await pair.unmount("data", at: site)
                let id = try #require(try await site.inspect("data")["id"] as? String)
                await site.stop()

                // What a crash amid a creation leaves is told of and never deleted.
                let nameless = "\(site.stateDirectory)/volumes/00000000-0000-4000-8000-000000000000"
                try FileManager.default.createDirectory(atPath: nameless, withIntermediateDirectories: true)
                let leftover = try await site.run(["volume", "check", "--repair"])
                #expect(
                    leftover.exit == .exited(4) && leftover.output.contains(nameless), "\(leftover.output)")
                try FileManager.default.removeItem(atPath: nameless)

                let sound = try await site.run(["volume", "check"])
                #expect(sound.exit == .exited(0), "\(sound.output)")
                let head = "\(site.stateDirectory)/volumes/\(id)/heads/1"
                try changeRows(ofCatalogIn: head, "UPDATE inode SET links = 5 WHERE ino = 3")
                let found = try await site.run(["volume", "check", "data", "--json"])
                #expect(found.exit == .exited(4), "\(found.output)")
                #expect(found.output.contains("\"repairable\": true"), "\(found.output)")
                let repaired = try await site.run(["volume", "check", "data", "--repair"])
                #expect(repaired.exit == .exited(1) && repaired.output.contains("(repaired)"))
                #expect(try await site.run(["volume", "check"]).exit == .exited(0))

                // A data file that is gone can only be named; the rest of the volume is as good as it was.
                _ = try await shell("rm $(find data -type f | sort | head -1)", in: head)
                let damaged = try await site.run(["volume", "check", "--repair"])
                #expect(damaged.exit == .exited(4) && damaged.output.contains("damage"), "\(damaged.output)")
                let unknown = try await site.run(["volume", "check", "nothing"])
                #expect(!unknown.exit.isSuccess && unknown.output.contains("no volume 'nothing'"))
                try await site.start()
                _ = try await pair.mount("data", at: site, cleanup)
                let read = try await shell(
                    "for i in $(seq 50); do cat d/$i || true; done 2>/dev/null | wc -l; cat d/* 2>&1 | grep -c 'Input/output'",
                    in: path)
                #expect(read.output == "49\n1\n", "\(read.output)")
                try await pair.unmount("data", at: site)
            }
        }

        /// As at a site whose registry is in its cluster.
        @Test func withoutTheRegistryEveryHeadIsCheckedAndRepairedAllTheSame() async throws {
            try await withSites { pair, cleanup in
                let site = pair.london
                for name in ["data", "other"] {
                    try await site.godwit(["volume", "create", name, "--capacity", "1Gi"])
                    let path = try await pair.mount(name, at: site, cleanup)
                    _ = try await shell("mkdir d; for i in $(seq 50); do echo $i > d/$i; done", in: path)
                    try await pair.unmount(name, at: site)
                }
                let id = try #require(try await site.inspect("data")["id"] as? String)
                await site.stop()
                let state = site.stateDirectory
                _ = try await shell("mkdir ../away; mv site.db* ../away/", in: state)
                let notCompared = "the registry was not compared"
                // But for what readers of a database share, which says nothing.
                func contents() async throws -> String {
                    try await shell(
                        "find . | sort; find . -type f -not -name '*-shm' | sort | xargs sha256sum", in: state
                    ).output
                }
                let before = try await contents()
                let sound = try await site.run(["volume", "check"])
                #expect(
                    sound.exit == .exited(0) && sound.output.contains(notCompared)
                        && sound.output.contains("nothing is wrong"), "\(sound.output)")
                let after = try await contents()
                #expect(after == before)

                let head = "\(state)/volumes/\(id)/heads/1"
                try changeRows(ofCatalogIn: head, "UPDATE inode SET links = 5 WHERE ino = 3")
                let found = try await site.run(["volume", "check", id])
                #expect(
                    found.exit == .exited(4) && found.output.contains("repairable")
                        && found.output.contains(id) && found.output.contains(notCompared), "\(found.output)")
                let named = try await site.run(["volume", "check", "data"])
                #expect(
                    !named.exit.isSuccess && named.output.contains("in the cluster's registry alone"),
                    "\(named.output)")
                let repaired = try await site.run(["volume", "check", "--repair", "--scrub"])
                #expect(
                    repaired.exit == .exited(1) && repaired.output.contains("(repaired)")
                        && repaired.output.contains(notCompared), "\(repaired.output)")
                #expect(try await site.run(["volume", "check"]).exit == .exited(0))
                #expect(!FileManager.default.fileExists(atPath: state + "/site.db"))

                let nowhere = try await ChildProcess.run(
                    Program(godwitBinary, ["volume", "check", "--state-dir", pair.directory + "/away"]))
                #expect(!nowhere.exit.isSuccess, "\(nowhere.output)")
                _ = try await shell("mv ../away/site.db* .", in: state)
                try await site.start()
                let path = try await pair.mount("data", at: site, cleanup)
                #expect(try await shell("cat d/* | wc -l", in: path).output == "50\n")
                try await pair.unmount("data", at: site)
            }
        }

        @Test(arguments: ["delete", "wal"])
        func aRegistryOfANewerReleaseIsRefusedAndLeftAsItIs(mode: String) async throws {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let directory = try cleanup.makeTemporaryDirectory()
                let site = SiteProcess(
                    name: "london", binary: godwitBinary, stateDirectory: directory + "/state",
                    address: "127.0.0.1:\(try freePort())")
                try await site.initialise()
                try cleanup.add("site london", limit: .seconds(40)) { await site.stop() }
                _ = try await shell(
                    "mkdir volumes; sqlite3 site.db 'PRAGMA journal_mode = \(mode); CREATE TABLE later(x); PRAGMA user_version = 3'",
                    in: site.stateDirectory)
                func contents() async throws -> String {
                    try await shell(
                        "find . -type f ! -name '*lock' | sort | xargs sha256sum", in: site.stateDirectory
                    ).output
                }
                let before = try await contents()
                await #expect(throws: (any Error).self) { try await site.start() }
                let log = try String(contentsOfFile: site.logPath, encoding: .utf8)
                let checked = try await site.run(["volume", "check", "--repair"])
                #expect(!checked.exit.isSuccess)
                for words in [
                    site.stateDirectory + "/site.db is of a newer release (schema 3",
                    "use the release that wrote it",
                ] {
                    #expect(log.contains(words), "\(log)")
                    #expect(checked.output.contains(words), "\(checked.output)")
                }
                #expect(try await contents() == before)
            }
        }
    }
}
