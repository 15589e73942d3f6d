import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    @Suite struct MigrationTests {
        @Test func aVolumeMovesThereAndBackWithEveryByte() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(london + "/big", byteCount: 20 << 20)
                let made = try await shell(
                    """
                    mkdir -p d/e; for i in $(seq 300); do echo $i > d/e/$i; done; ln -s d/e/1 s; ln d/e/1 h
                    truncate -s 5G sparse; echo end >> sparse; mkfifo p; chown 1000:1000 d/e/2; setfattr -n user.a -v b d || true
                    """, in: london)
                #expect(made.exit.isSuccess, "\(made.output)")
                let before = try await TreeDigest.of(london, withTimes: true, leavingOut: ["sparse"])
                try await pair.unmount("data", at: pair.london)

                try await pair.london.godwit(["migrate", "data", "--to", "sydney"], limit: .seconds(120))
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                let there = try await TreeDigest.of(sydney, withTimes: true, leavingOut: ["sparse"])
                #expect(there.value == before.value, "\(before.differences(to: there).prefix(5))")
                let changed = try await shell(
                    "stat -c %s sparse; tail -c 4 sparse; rm -r d; echo new > n; dd if=n of=big bs=1 seek=1000 conv=notrunc status=none",
                    in: sydney)
                #expect(changed.output == "5368709124\nend\n")
                let after = try await TreeDigest.of(sydney, leavingOut: ["sparse"])
                try await pair.unmount("data", at: pair.sydney)

                try await pair.sydney.godwit(["migrate", "data", "--to", "london"], limit: .seconds(120))
                _ = try await pair.mount("data", at: pair.london, cleanup)
                let back = try await TreeDigest.of(london, leavingOut: ["sparse"])
                #expect(back.value == after.value, "\(after.differences(to: back).prefix(5))")
                try await pair.unmount("data", at: pair.london)
            }
        }

        /// A crash between the record and the directory leaves a copy that nobody names.
        @Test func copiesThatACrashHasLeftAreDeletedAtTheStart() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                for (from, to) in [(pair.london, pair.sydney), (pair.sydney, pair.london)] {
                    try await from.godwit(["migrate", "data", "--to", to.name])
                }
                let id = try #require(try await pair.london.inspect("data")["id"] as? String)
                let heads = "\(pair.london.stateDirectory)/volumes/\(id)/heads"
                let present = try FileManager.default.contentsOfDirectory(atPath: heads)
                #expect(present.count == 1 && present != ["1"])
                await pair.london.stop()
                // One that was deleted in the record, and one that the record, were it an older one, would not know.
                for left in ["1", "99"] {
                    try FileManager.default.createDirectory(
                        atPath: "\(heads)/\(left)/data/00", withIntermediateDirectories: true)
                }
                try await pair.london.start()
                let after = try FileManager.default.contentsOfDirectory(atPath: heads)
                #expect(Set(after) == Set(present + ["99"]))
                try await pair.mount("data", at: pair.london, cleanup)
                try await pair.unmount("data", at: pair.london)
            }
        }

        @Test func aVolumeInUseIsNotGivenAwayAndTheErrorNamesTheHolder() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                let refused = try await pair.london.run(["migrate", "data", "--to", "sydney"])
                #expect(refused.exit == .exited(19), "\(refused.exit) \(refused.output)")
                #expect(refused.output.contains("london-node"), "\(refused.output)")
                // Nothing was lost by asking: it is still mounted here, and writable.
                let written = try await shell("echo x > f; cat f", in: london)
                #expect(written.output == "x\n")
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
            }
        }

        @Test func theTargetIsWritableWhileBytesAreStillElsewhere() async throws {
            try await withSites(slowLink(megabits: 20)) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(london + "/big", byteCount: 24 << 20)
                let before = try await TreeDigest.of(london)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                let written = try await shell("echo at once > new; cat new", in: sydney)
                #expect(written.output == "at once\n")
                #expect(try await pair.sydney.number("missingBytes", of: "data") > 8 << 20)
                // Going on now would take the bytes from a site that lacks them: a chain, which works.
                try await pair.unmount("data", at: pair.sydney)
                try await pair.sydney.godwit(["migrate", "data", "--to", "london", "--detach"])
                _ = try await pair.mount("data", at: pair.london, cleanup)
                let after = try await TreeDigest.of(london, leavingOut: ["new"])
                #expect(after.value == before.value)
                try await pair.waitUntilReleased("data", at: pair.london)
                try await pair.unmount("data", at: pair.london)
            }
        }

        @Test func aTargetKilledDuringHydrationGoesOnAfterItsRestart() async throws {
            try await withSites(slowLink(megabits: 40)) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(london + "/big", byteCount: 40 << 20)
                _ = try await shell("for i in $(seq 200); do echo $i > $i; done", in: london)
                let before = try await TreeDigest.of(london)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                _ = try await shell("echo kept > kept; sync kept", in: sydney)
                while try await pair.sydney.number("missingBytes", of: "data") > 25 << 20 {
                    try await Task.sleep(for: .milliseconds(50))
                }
                await pair.sydney.kill()
                try await pair.sydney.start()
                // Some of it was recorded before the end: it does not start over.
                #expect(try await pair.sydney.number("missingBytes", of: "data") < 40 << 20)
                try await pair.waitUntilReleased("data", at: pair.sydney)
                _ = try await pair.mount("data", at: pair.sydney, cleanup)
                let kept = try await shell("cat kept", in: sydney)
                #expect(kept.output == "kept\n")
                let after = try await TreeDigest.of(sydney, leavingOut: ["kept"])
                #expect(after.value == before.value)
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        @Test func aSourceKilledAndALinkCutDelayHydrationButLoseNothing() async throws {
            try await withSites(slowLink(megabits: 40), options: ["--fault-timeout", "2"]) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(london + "/big", byteCount: 30 << 20)
                let before = try await TreeDigest.of(london)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                try await pair.link.cut(Set(LinkDirection.allCases))
                // Bytes at the end of the file have not come: the read waits, then fails, and says why.
                let failed = try await shell("tail -c 4096 big | wc -c", in: sydney)
                #expect(failed.output.contains("Input/output error"), "\(failed.output)")
                let log = try String(contentsOfFile: pair.sydney.logPath, encoding: .utf8)
                #expect(log.contains("data") && log.contains("site london"), "\(log.suffix(800))")
                try await pair.link.cut([])
                await pair.london.kill()
                try await pair.london.start()
                // A time-out of two seconds is shorter than a reconnect may take: the read is tried again.
                var works = ""
                for _ in 0..<20 where works != "4096\n" {
                    works = try await shell("tail -c 4096 big | wc -c", in: sydney).output
                }
                #expect(works == "4096\n", "\(works)")
                try await pair.waitUntilReleased("data", at: pair.sydney)
                let after = try await TreeDigest.of(sydney)
                #expect(after.value == before.value)
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        @Test func aHundredGigabytesOfHolesMoveAsQuicklyAsNothing() async throws {
            try await withSites(slowLink(megabits: 10)) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "200Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell(
                    "truncate -s 100G sparse; dd if=/dev/zero of=sparse bs=1M count=1 seek=50000 conv=notrunc status=none; echo here | dd of=sparse bs=1 seek=70000000000 conv=notrunc status=none",
                    in: london)
                try await pair.unmount("data", at: pair.london)
                // 100 GiB would take a day over this link.
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"], limit: .seconds(30))
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                let read = try await shell(
                    "stat -c %s sparse; dd if=sparse bs=1 skip=70000000000 count=4 status=none; du -m sparse | cut -f1",
                    in: sydney)
                #expect(read.output.hasPrefix("107374182400\nhere"), "\(read.output)")
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// Sydney's state on a disk of its own, which is too small at first.
        private static func giveSydneyADisk(
            ofMebibytes size: Int, _ directory: String, _ cleanup: Cleanup
        ) async throws {
            let state = directory + "/sydney-state"
            try FileManager.default.createDirectory(atPath: state, withIntermediateDirectories: true)
            let mounted = try await shell("mount -t tmpfs -o size=\(size)m,mode=0700 tmpfs \(state)", in: "/")
            #expect(mounted.exit.isSuccess, "\(mounted.output)")
            try cleanup.add(mountAt: state)
        }

        @Test func aFullDiskAtTheTargetPausesHydrationAndLosesNothing() async throws {
            try await withSites { directory, cleanup in
                try await Self.giveSydneyADisk(ofMebibytes: 100, directory, cleanup)
            } _: { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(london + "/big", byteCount: 60 << 20)
                let before = try await TreeDigest.of(london)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                try await SiteTests.wait("the full disk to be told of") {
                    let reason = try await pair.sydney.inspect("data")["waitingReason"] as? String
                    return reason?.contains("full") ?? false
                }
                let refused = try await shell("head -c 1000000 /dev/urandom > new", in: sydney)
                #expect(refused.output.contains("No space left"), "\(refused.output)")
                // What is here can be read all the same.
                let read = try await shell("head -c 4096 big | wc -c", in: sydney)
                #expect(read.output == "4096\n", "\(read.output)")
                _ = try await shell("mount -o remount,size=400m \(pair.directory)/sydney-state", in: "/")
                try await pair.waitUntilReleased("data", at: pair.sydney)
                let after = try await TreeDigest.of(sydney, leavingOut: ["new"])
                #expect(after.value == before.value)
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        @Test func namesThatFollowLeaveTheDiskItsReserve() async throws {
            try await withSites { directory, cleanup in
                // Smaller than what is kept for changes of volumes that are used.
                try await Self.giveSydneyADisk(ofMebibytes: 50, directory, cleanup)
            } _: { pair, _ in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let prepare = ["migrate", "data", "--to", "sydney", "--prepare-only"]
                let refused = try await pair.london.run(prepare, limit: .seconds(60))
                #expect(
                    !refused.exit.isSuccess && refused.output.contains("the disk of site sydney is full"),
                    "\(refused.output)")
                _ = try await shell("mount -o remount,size=200m \(pair.directory)/sydney-state", in: "/")
                try await pair.london.godwit(prepare)
            }
        }

        @Test func aSiteThatIsNotTrustedGetsNothing() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let mallory = SiteProcess(
                    name: "mallory", binary: godwitBinary, stateDirectory: pair.directory + "/mallory-state",
                    address: pair.link.b.address + ":7999", network: pair.link.b.namespace)
                try await mallory.initialise()
                // Mallory trusts london, london does not trust mallory.
                let document = try await pair.london.godwit(["pki", "show", "--address", pair.london.address])
                try await mallory.godwit(["pki", "trust", "-"], input: document)
                try cleanup.add("mallory") { await mallory.stop() }
                try await mallory.start()
                try await mallory.godwit(["volume", "create", "bait", "--capacity", "1Gi"])
                let refused = try await mallory.run(
                    ["migrate", "bait", "--to", "london"], limit: .seconds(40))
                #expect(!refused.exit.isSuccess)
                let list = try await pair.london.godwit(["volume", "list"])
                #expect(!list.contains("bait"))
            }
        }
    }
}
