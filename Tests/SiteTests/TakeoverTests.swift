import Foundation
import Glibc
import Testing

@testable import TestBed

extension SiteTests {
    @Suite struct TakeoverTests {
        /// The target dies amid hydration and the volume goes on where it came from; then the target returns.
        @Test func aVolumeGoesOnFromTheKeptCopyAndTheOverruledOwnerKeepsWhatItWrote() async throws {
            try await withSites(slowLink(megabits: 10), options: ["--fault-timeout", "2"]) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell(
                    "mkdir d; echo one > d/file; echo same > same; echo gone > gone", in: london)
                try writeRandomFile(london + "/big", byteCount: 8 << 20)
                let before = try await TreeDigest.of(london)
                let big = try bytes(london + "/big")
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                _ = try await shell(
                    "echo two > d/file; echo new > 'new file'; rm gone; sync d/file 'new file' .", in: sydney)
                await pair.sydney.kill()
                _ = try await shell("umount -l \(sydney)", in: pair.directory)

                let told = try await pair.london.godwit(["volume", "takeover", "data"])
                #expect(told.contains("sydney at epoch 2") && told.contains("kept"), "\(told)")
                #expect(told.contains("--force --overrule 2"))
                let known =
                    /sydney was given the volume at sequence \d+, \d+ s ago; how far it has come since is unknown/
                #expect(told.contains(known), "\(told)")
                let json = try await pair.london.godwit(["volume", "takeover", "data", "--json"])
                let figures = try #require(
                    try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any])
                let age = try #require(figures["keptAgeSeconds"] as? Double, "\(json)")
                #expect(age >= 0 && age < 120 && figures["ownerSilentSeconds"] as? Double == age, "\(json)")
                #expect(figures["ownerSequence"] as? Int == figures["keptSequence"] as? Int, "\(json)")
                let wrong = try await pair.london.run([
                    "volume", "takeover", "data", "--force", "--overrule", "1",
                ])
                #expect(!wrong.exit.isSuccess && wrong.output.contains("not the one"), "\(wrong.output)")
                try await pair.london.godwit(["volume", "takeover", "data", "--force", "--overrule", "2"])
                try await pair.mount("data", at: pair.london, cleanup)
                #expect(try await TreeDigest.of(london).value == before.value)
                _ = try await shell("echo three > d/file; sync d/file", in: london)

                try await pair.sydney.start()
                try await SiteTests.wait("sydney to hear of it") {
                    try await pair.sydney.inspect("data")["role"] as? String == "retired"
                }
                let refused = try await pair.sydney.run(["volume", "mount", "data", sydney])
                #expect(!refused.exit.isSuccess && refused.output.contains("london"), "\(refused.output)")
                #expect(try await pair.sydney.inspect("data")["divergences"] as? [String] == ["2"])
                let kept = try await pair.sydney.run(["volume", "delete", "data"])
                #expect(!kept.exit.isSuccess && kept.output.contains("divergence"), "\(kept.output)")

                try await pair.sydney.godwit(["volume", "divergence", "mount", "data", "2", sydney])
                try cleanup.add(mountAt: sydney)
                let read = try await shell(
                    "cat d/file 'new file' same; ls; touch x 2>&1 | grep -o Read-only", in: sydney)
                #expect(
                    read.output == "two\nnew\nsame\nbig\nd\nnew file\nsame\nRead-only\n", "\(read.output)")
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                let diff = try await pair.sydney.godwit(["volume", "diff", "data", "2"])
                #expect(diff == "A /new file\nD /gone\nM /d/file\n", "\(diff)")
                try await pair.unmount("data", at: pair.sydney)

                // A volume of its own can be made of it, once all its bytes are here.
                var restored = ""
                try await SiteTests.wait("the divergence to be whole") {
                    let attempt = try await pair.sydney.run([
                        "volume", "divergence", "restore", "data", "2", "--as", "before",
                    ])
                    restored = attempt.output
                    return attempt.exit.isSuccess
                }
                try await pair.mount("before", at: pair.sydney, cleanup)
                let own = try await shell(
                    "cat d/file 'new file' same; echo more >> same; ls gone 2>&1", in: sydney)
                #expect(
                    own.output.hasPrefix("two\nnew\nsame\nls: cannot access"), "\(own.output) \(restored)")
                let size = try bytes(sydney + "/big") == big
                #expect(size)
                try await pair.unmount("before", at: pair.sydney)
                let sound = try await pair.sydney.run(["volume", "check", "before"])
                #expect(sound.exit.isSuccess, "\(sound.output)")

                // And there it may go again, as ever.
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                try await pair.mount("data", at: pair.sydney, cleanup)
                let again = try await shell("cat d/file gone", in: sydney)
                #expect(again.output == "three\ngone\n", "\(again.output)")
                let unsure = try await pair.sydney.run(["volume", "divergence", "delete", "data", "2"])
                #expect(!unsure.exit.isSuccess && unsure.output.contains("--yes"))
                try await pair.sydney.godwit(["volume", "divergence", "delete", "data", "2", "--yes"])
                #expect(try await pair.sydney.inspect("data")["divergences"] as? [String] == [])
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// The target is overruled before it has all names; they come all the same, as they were at the hand-over,
        /// although the volume has gone on where it came from.
        @Test func anOverruledOwnerGetsTheNamesThatItHadNotYet() async throws {
            try await withSites(slowLink(megabits: 1)) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                let tree = """
                    for d in $(seq 40); do mkdir -p t/$d/x; seq -f "t/$d/x/%g" 50 | xargs touch; done
                    mkdir many; head -c 200000 /dev/urandom | od -An -v -tx1 -w20 | tr -d ' ' | sed 's|^|many/|' | xargs touch
                    ln t/1/x/1 t/40/x/link; setfattr -n user.a -v b t/30/x; chmod 700 t/31
                    """
                let made = try await shell(tree, in: london)
                #expect(made.exit.isSuccess, "\(made.output)")
                let copy = pair.directory + "/copy"
                _ = try await shell("cp -a '\(london)' '\(copy)'", in: pair.directory)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                for place in [sydney, copy] {
                    _ = try await shell("mkdir own; echo two > own/file; sync own/file own .", in: place)
                }
                #expect(try await pair.sydney.inspect("data")["namesArriving"] as? Bool == true)
                await pair.sydney.kill()
                _ = try await shell("umount -l \(sydney)", in: pair.directory)

                try await pair.london.godwit(["volume", "takeover", "data", "--force", "--overrule", "2"])
                try await pair.mount("data", at: pair.london, cleanup)
                let changes = """
                    rm -r t/2 many; mv t/1 u; mv t/40/x/link linked; setfattr -x user.a t/30/x; chmod 755 t/31
                    mkdir many; touch many/other t/3/x/51; mv t/4/x t/5/y; rmdir t/4; sync .
                    """
                let changed = try await shell(changes, in: london)
                #expect(changed.exit.isSuccess, "\(changed.output)")
                try await pair.unmount("data", at: pair.london)

                try await pair.sydney.start()
                try await SiteTests.wait("sydney to hear of it") {
                    try await pair.sydney.inspect("data")["role"] as? String == "retired"
                }
                try await pair.sydney.godwit(["volume", "divergence", "mount", "data", "2", sydney])
                try cleanup.add(mountAt: sydney)
                let there = try await TreeDigest.of(sydney, withTimes: false)
                let expected = try await TreeDigest.of(copy, withTimes: false)
                #expect(there.value == expected.value, "\(expected.differences(to: there).prefix(5))")
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                var diff = ChildProcess.Outcome?.none
                try await SiteTests.wait("all names") {
                    let outcome = try await pair.sydney.run(["volume", "diff", "data", "2"])
                    if outcome.exit.isSuccess { diff = outcome }
                    return outcome.exit.isSuccess || !outcome.output.contains("not all names")
                }
                let lines = try #require(diff).output.split(separator: "\n")
                for line in [
                    "A /own", "A /t/1", "A /t/2", "A /t/4", "D /u", "D /linked", "D /t/5/y", "M /t/31",
                ] {
                    #expect(lines.contains { $0 == line }, "\(line) in \(lines.prefix(20))")
                }
                #expect(lines.filter { $0.hasPrefix("A /many/") }.count == 10_000)
                try await pair.unmount("data", at: pair.sydney)
                let sound = try await pair.sydney.run(["volume", "check", "data"])
                #expect(sound.exit.isSuccess, "\(sound.output)")
            }
        }

        /// No fsync of it succeeds any more: all of it is safe before anything else is done.
        @Test func whatAnOverruledOwnerHasAcceptedIsDurableBeforeItGoesOn() async throws {
            try await withSites(options: ["--fault-timeout", "2"]) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await pair.link.cut(Set(LinkDirection.allCases))
                try await pair.sydney.godwit(["volume", "takeover", "data", "--force", "--overrule", "1"])
                // Writes until it is told no, and syncs nothing.
                let file = london + "/log"
                async let writing = shell(
                    """
                    exec 5>> '\(file)'; count=0; exec 2> /dev/null
                    while printf 0123456789 >&5; do count=$((count + 1)); done
                    echo $count
                    """, in: "/")
                try await SiteTests.wait("writing to begin") {
                    ((try? FileManager.default.attributesOfItem(atPath: file))?[.size] as? Int ?? 0) > 1000
                }
                try pair.london.arm(SIGKILL, at: "before retired")
                try await pair.link.cut([])
                let output = try await writing.output
                let accepted = try #require(Int(output.split(separator: "\n").last ?? ""), "\(output)")
                try await SiteTests.wait("london to end") { !pair.london.isArmed }
                await pair.london.kill()
                _ = try await shell("umount -l '\(london)'", in: "/")

                try await pair.london.start()
                try await SiteTests.wait("london to keep it") {
                    try await pair.london.inspect("data")["divergences"] as? [String] == ["1"]
                }
                try await pair.london.godwit(["volume", "divergence", "mount", "data", "1", london])
                let kept = try await shell("tr -d '\\0' < log | wc -c", in: london)
                let count = try #require(Int(kept.output.split(separator: "\n").first ?? ""))
                #expect(accepted > 100 && count >= accepted * 10, "\(count) bytes of \(accepted) times 10")
                try await pair.unmount("data", at: pair.london)
            }
        }

        private final class OpenFile: Sendable {
            private let descriptor: Int32

            init(_ path: String) { descriptor = open(path, O_RDWR | O_CLOEXEC) }

            func end() { close(descriptor) }

            /// Of reading the first byte; nil: none.
            var readError: Int32? {
                var byte: UInt8 = 0
                return pread(descriptor, &byte, 1, 0) == 1 ? nil : errno
            }

            var syncError: Int32? { fsync(descriptor) == 0 ? nil : errno }
        }

        /// An old epoch says so in the log, in the volume's condition and to the application.
        private func expectOverruled(
            _ volume: String, at site: SiteProcess, mountedAt path: String
        ) async throws {
            // Not in the directory itself: who is told nothing of it cannot go there.
            for use in ["touch x", "cat changing", "cat unlisted/steady", "ls unlisted", "sync more"] {
                let words = use.split(separator: " ")
                let used = try await shell(
                    "LC_ALL=C \(words[0]) '\(path)/\(words[1])' 2>&1 | grep -c 'Stale'", in: "/")
                #expect(used.output == "1\n", "\(use): \(used.output)")
            }
            let log = try String(contentsOfFile: site.logPath, encoding: .utf8)
            #expect(log.contains("was overruled by sydney at epoch"), "\(log.suffix(2000))")
            let trouble = try #require(try await site.inspect(volume)["trouble"] as? String)
            #expect(trouble.contains(path) && trouble.contains("owned by sydney"), "\(trouble)")
            for options in [[], ["--json"]] {
                let listed = try await site.godwit(["volume", "list"] + options)
                #expect(listed.contains("overruled: the volume is mounted at"), "\(listed)")
            }
            let id = try #require(try await site.inspect(volume)["id"] as? String)
            for answer in [
                try await site.csi(["node-stats", id, "--volume-path", path]),
                try await site.csi(["get-volume", id]),
            ] {
                let object = try JSONSerialization.jsonObject(with: Data(answer.utf8)) as? [String: Any]
                let status = object?["status"] as? [String: Any] ?? object
                let condition = try #require(status?["volume_condition"] as? [String: Any], "\(answer)")
                #expect(condition["abnormal"] as? Bool == true, "\(answer)")
                #expect((condition["message"] as? String)?.contains("overruled") == true, "\(answer)")
            }
        }

        /// The owner is gone and only its replica's names are here; its bytes come when it returns, but for what
        /// it has changed since.
        @Test func aReplicaTakesOverAndClaimsTheBytesThatItHasSeen() async throws {
            try await withSites(options: ["--fault-timeout", "2"]) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell(
                    "echo steady > steady; echo old > changing; mkdir unlisted; ln steady unlisted/steady",
                    in: london)
                let nothing = try await pair.sydney.run(["volume", "takeover", "data"])
                #expect(!nothing.exit.isSuccess && nothing.output.contains("no volume"), "\(nothing.output)")
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await pair.link.cut(Set(LinkDirection.allCases))
                _ = try await shell("echo newer > changing; echo unseen > unseen", in: london)

                let told = try await pair.sydney.godwit(["volume", "takeover", "data"])
                #expect(told.contains("how far it has come since is unknown"), "\(told)")
                let json = try await pair.sydney.godwit(["volume", "takeover", "data", "--json"])
                let known = try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any]
                let position = try #require(known?["ownerSequence"] as? Int)
                #expect(
                    position > 0 && told.contains("london was at sequence \(position)"), "\(json) \(told)")
                #expect(known?["followedSequence"] as? Int == position && known?["ownerSilentSeconds"] != nil)
                try await pair.sydney.godwit(["volume", "takeover", "data", "--force", "--overrule", "1"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                let alone = try await shell(
                    "ls; cat steady 2>&1 | grep -o 'Input/output'; echo mine > mine", in: sydney)
                #expect(alone.output == "changing\nsteady\nunlisted\nInput/output\n", "\(alone.output)")
                // Two owners, as long as they do not hear of each other: that is what force means.
                _ = try await shell("echo more > more", in: london)
                // A program that has what it needs open, and in the kernel's cache.
                let file = OpenFile(london + "/steady")
                #expect(file.readError == nil && file.syncError == nil)

                try await pair.link.cut([])
                try await SiteTests.wait("london to stop") {
                    try await shell("touch '\(london)/x' 2>&1 | grep -c 'Stale'", in: "/").output == "1\n"
                }
                #expect(file.syncError == ESTALE)
                try await SiteTests.wait("the cache to be dropped") { file.readError == ESTALE }
                file.end()
                try await SiteTests.wait("the bytes to come") {
                    try await shell("cat steady mine", in: sydney).output == "steady\nmine\n"
                }
                let lost = try await shell("cat changing 2>&1 | grep -o 'Input/output'", in: sydney)
                #expect(lost.output == "Input/output\n", "\(lost.output)")
                try await expectOverruled("data", at: pair.london, mountedAt: london)
                try await pair.unmount("data", at: pair.london)
                #expect(try await pair.london.inspect("data")["trouble"] as? String == "")
                #expect(try await pair.london.inspect("data")["divergences"] as? [String] == ["1"])
                try await pair.london.godwit(["volume", "divergence", "mount", "data", "1", london])
                let kept = try await shell("cat changing unseen more", in: london)
                #expect(kept.output == "newer\nunseen\nmore\n", "\(kept.output)")
                try await pair.unmount("data", at: pair.london)
                try await pair.unmount("data", at: pair.sydney)
            }
        }
    }
}
