import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// A whole site goes back in time, registry and data together, as a machine does whose snapshot is restored.
    @Suite struct GoingBackTests {
        /// Makes a copy of a site's state, as it is when nothing runs on it.
        private func keepState(of site: SiteProcess) async throws {
            await site.stop()
            let state = site.stateDirectory
            let kept = try await shell("cp -a '\(state)' '\(state).before'", in: "/")
            try #require(kept.exit.isSuccess, "\(kept.output)")
            try await site.start()
        }

        private func putBackState(of site: SiteProcess) async throws {
            await site.stop()
            let state = site.stateDirectory
            let put = try await shell("rm -rf '\(state)'; cp -a '\(state).before' '\(state)'", in: "/")
            try #require(put.exit.isSuccess, "\(put.output)")
        }

        /// A follower got further than what its owner is put back to: nothing of that is cut off silently.
        @Test func aReplicaThatIsNewerThanItsOwnerStays() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell("echo one > old; sync old .", in: london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await pair.unmount("data", at: pair.london)
                try await keepState(of: pair.london)
                try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell("echo two > new; sync new .", in: london)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await putBackState(of: pair.london)

                try await pair.london.start()
                let refused = try await pair.london.run([
                    "migrate", "data", "--to", "sydney", "--prepare-only",
                ])
                #expect(!refused.exit.isSuccess && refused.output.contains("newer"), "\(refused.output)")
                let given = try await pair.london.run(["migrate", "data", "--to", "sydney"])
                #expect(!given.exit.isSuccess, "\(given.output)")
                #expect(try await pair.london.inspect("data")["role"] as? String == "owning")
                let trouble = try #require(try await pair.sydney.inspect("data")["trouble"] as? String)
                #expect(trouble.contains("older state") && trouble.contains("takeover"), "\(trouble)")
                // A person decides for the newer one.
                await pair.london.stop()
                try await pair.sydney.godwit(["volume", "takeover", "data", "--force", "--overrule", "1"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                #expect(try await shell("ls", in: sydney).output == "new\nold\n")
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// Of what the replica lacks its owner of the other life gives what neither life has changed.
        @Test func bytesThatNeitherLifeHasChangedComeAfterATakeover() async throws {
            try await withSites(options: ["--fault-timeout", "1"]) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                for name in ["kept", "here", "there"] {
                    try writeRandomFile(london + "/" + name, byteCount: 300_000)
                }
                let kept = try bytes(london + "/kept")
                _ = try await shell("sync kept here there .", in: london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await pair.unmount("data", at: pair.london)
                try await keepState(of: pair.london)
                // One life, of which sydney hears.
                try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell("echo two > new; echo x >> here; sync new here .", in: london)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await putBackState(of: pair.london)
                // And the other.
                try await pair.london.start()
                try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell("echo y | dd of=there conv=notrunc,fsync status=none", in: london)
                try await pair.unmount("data", at: pair.london)
                _ = try await pair.london.run(["migrate", "data", "--to", "sydney", "--prepare-only"])

                // Nothing comes before it is asked for.
                try await pair.sydney.godwit(["volume", "hydrate", "data", "--pause", "--prefetch", "none"])
                try await pair.sydney.godwit(["volume", "takeover", "data", "--force", "--overrule", "1"])
                try await SiteTests.wait("london to hear of it") {
                    try await pair.london.inspect("data")["role"] as? String != "owning"
                }
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                // What is done here is no part of what was followed, and what it leaves still comes.
                let change = """
                    chmod 600 kept && chown 7 kept
                    dd if=/dev/zero of=kept bs=4096 count=1 seek=1 conv=notrunc,fsync status=none
                    """
                #expect(try await shell(change, in: sydney).exit.isSuccess)
                let expected = kept[..<4096] + [UInt8](repeating: 0, count: 4096) + kept[8192...]
                try await SiteTests.wait("what has not changed") {
                    (try? bytes(sydney + "/kept")) == Array(expected)
                }
                for name in ["new", "here", "there"] {
                    let lost = try await shell("cat \(name) 2>&1 > /dev/null || true", in: sydney)
                    #expect(lost.output.contains("Input/output error"), "\(name): \(lost.output)")
                }
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// Makes a volume that london owns in the state that it has gone back to, and not running, and that sydney has now.
        ///
        /// - Returns: where sydney has mounted it.
        private func moveAway(_ pair: SitePair, _ cleanup: Cleanup) async throws -> String {
            try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
            let london = try await pair.mount("data", at: pair.london, cleanup)
            _ = try await shell("echo one > file; sync file .", in: london)
            try await pair.unmount("data", at: pair.london)
            // Whom the volume names may say who owns it.
            try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
            try await keepState(of: pair.london)
            try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
            let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
            try await pair.waitUntilReleased("data", at: pair.sydney)
            _ = try await shell("echo two > file; sync file .", in: sydney)
            try await putBackState(of: pair.london)
            return sydney
        }

        /// Promises.md: "asks, before it serves such a volume, every site that may know it".
        @Test func whatHasMovedAwaySinceIsNotServedByASiteThatWentBack() async throws {
            // An answer takes three round trips: who does not wait for it is found out.
            let line = LineSettings(bitsPerSecond: 1_000_000_000, delay: .milliseconds(60))
            try await withSites(LinkSettings(line)) { pair, cleanup in
                let sydney = try await moveAway(pair, cleanup)
                try await pair.london.start()
                let path = pair.mountPoint(of: pair.london)
                let refused = try await pair.london.run(["volume", "mount", "data", path])
                #expect(!refused.exit.isSuccess && refused.output.contains("sydney"), "\(refused.output)")
                let state = try await pair.london.inspect("data")
                #expect(state["divergences"] as? [String] == ["1"] && state["owner"] as? String == "sydney")
                let log = try String(contentsOfFile: pair.london.logPath, encoding: .utf8)
                #expect(log.contains("went back in time"), "\(log.suffix(2000))")
                // Whoever is right goes on, and gives it back as ever.
                #expect(try await shell("echo more >> file; cat file", in: sydney).output == "two\nmore\n")
                try await pair.unmount("data", at: pair.sydney)
                let london = try await pair.mount("data", at: pair.london, cleanup)
                #expect(try await shell("cat file", in: london).output == "two\nmore\n")
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["volume", "divergence", "mount", "data", "1", path])
                #expect(try await shell("cat file", in: path).output == "one\n")
                try await pair.unmount("data", at: pair.london)
            }
        }

        /// Promises.md: "A site that cannot be reached keeps nobody waiting", and what follows there.
        @Test func aSiteThatWentBackAndHearsOfItLaterStopsThenAndKeepsWhatItWrote() async throws {
            try await withSites { pair, cleanup in
                let sydney = try await moveAway(pair, cleanup)
                try await pair.link.cut(Set(LinkDirection.allCases))
                try await pair.london.start()
                let london = try await pair.mount("data", at: pair.london, cleanup)
                let alone = try await shell("cat file; echo alone > alone; sync alone .", in: london)
                #expect(alone.output == "one\n" && alone.exit.isSuccess, "\(alone.output)")

                try await pair.link.cut([])
                try await SiteTests.wait("london to stop") {
                    try await shell("touch '\(london)/x' 2>&1 | grep -c 'Stale'", in: "/").output == "1\n"
                }
                let trouble = try #require(try await pair.london.inspect("data")["trouble"] as? String)
                #expect(trouble.contains("owned by sydney at epoch 2"), "\(trouble)")
                try await pair.unmount("data", at: pair.london)
                #expect(try await pair.london.inspect("data")["divergences"] as? [String] == ["1"])
                try await pair.london.godwit(["volume", "divergence", "mount", "data", "1", london])
                #expect(try await shell("cat file alone", in: london).output == "one\nalone\n")
                try await pair.unmount("data", at: pair.london)
                #expect(try await shell("ls; cat file", in: sydney).output == "file\ntwo\n")
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// The volume was elsewhere and has returned: the newest state is the one that was lost.
        @Test func aSiteThatHasLostALaterReignOfItsOwnGoesOnWhenAPersonSaysSo() async throws {
            try await withSites { pair, cleanup in
                _ = try await moveAway(pair, cleanup)
                // Back to the state of now: sydney must know of what comes.
                try await pair.unmount("data", at: pair.sydney)
                try await pair.london.start()
                let london = try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell("echo three > file; sync file .", in: london)
                try await pair.unmount("data", at: pair.london)
                try await pair.waitUntilReleased("data", at: pair.london)
                #expect(try await pair.london.number("epoch", of: "data") == 3)
                try await putBackState(of: pair.london)

                try await pair.london.start()
                let refused = try await pair.london.run(["volume", "mount", "data", london])
                #expect(
                    !refused.exit.isSuccess && refused.output.contains("godwit volume takeover data"),
                    "\(refused.output)")
                #expect(try await pair.london.inspect("data")["role"] as? String == "fenced")
                let told = try await pair.london.godwit(["volume", "takeover", "data"])
                #expect(told.contains("--force --overrule 3 --from own"), "\(told)")
                try await pair.london.godwit(["volume", "takeover", "data", "--force", "--overrule", "3"])
                try await pair.mount("data", at: pair.london, cleanup)
                #expect(try await shell("cat file", in: london).output == "one\n")
                try await SiteTests.wait("sydney to hear of it") {
                    try await pair.sydney.number("epoch", of: "data") > 1 << 40
                }
                try await pair.unmount("data", at: pair.london)
            }
        }

        /// Nodes that read come and go while no other site can be reached: the epoch rises, and says nothing of who is right.
        @Test func aSiteThatWentBackAndRaisedItsEpochStopsAndIsOfUseAgain() async throws {
            try await withSites { pair, cleanup in
                let sydney = try await moveAway(pair, cleanup)
                try await pair.link.cut(Set(LinkDirection.allCases))
                try await pair.london.start()
                let id = try #require(try await pair.london.inspect("data")["id"] as? String)
                let reader = [id, "--node", "london-node"]
                for _ in 0..<2 {
                    try await pair.london.csi(
                        ["publish"] + reader + ["--access-mode", "multi-node-reader-only"])
                    try await pair.london.csi(["unpublish"] + reader)
                }
                #expect(try await pair.london.number("epoch", of: "data") == 5)

                try await pair.link.cut([])
                try await SiteTests.wait("london to stop") {
                    try await pair.london.inspect("data")["role"] as? String == "retired"
                }
                let right = try await pair.sydney.inspect("data")
                #expect(right["role"] as? String == "owning" && right["trouble"] as? String == "", "\(right)")
                #expect(try await shell("echo more >> file; cat file", in: sydney).output == "two\nmore\n")
                await pair.london.stop()
                try await pair.london.start()
                let state = try await pair.london.inspect("data")
                #expect(
                    state["divergences"] as? [String] == ["5"] && state["trouble"] as? String == "",
                    "\(state)")
                try await pair.unmount("data", at: pair.sydney)
                let london = try await pair.mount("data", at: pair.london, cleanup)
                #expect(try await shell("cat file", in: london).output == "two\nmore\n")
                try await pair.unmount("data", at: pair.london)
            }
        }

        /// Whom the volume names has given it on, to a site that it does not name.
        @Test func whatTheHeirHasGivenOnIsNotServedEither() async throws {
            try await withSites(withTokyo: true) { pair, cleanup in
                let tokyo = try #require(pair.tokyo)
                _ = try await moveAway(pair, cleanup)
                try await pair.unmount("data", at: pair.sydney)
                try await pair.sydney.godwit(["migrate", "data", "--to", "tokyo", "--detach"])
                let there = try await pair.mount("data", at: tokyo, cleanup)
                try await pair.waitUntilReleased("data", at: tokyo)
                try await pair.london.start()
                let path = pair.mountPoint(of: pair.london)
                let refused = try await pair.london.run(["volume", "mount", "data", path])
                #expect(!refused.exit.isSuccess, "\(refused.output)")
                let state = try await pair.london.inspect("data")
                #expect(state["divergences"] as? [String] == ["1"] && state["owner"] as? String == "tokyo")
                #expect(try await shell("echo more >> file; cat file", in: there).output == "two\nmore\n")
                try await pair.unmount("data", at: tokyo)
            }
        }

        /// What Kubernetes had attached before is not mounted until the others were asked.
        @Test func whatWasAttachedBeforeIsNotMountedByASiteThatWentBack() async throws {
            let line = LineSettings(bitsPerSecond: 1_000_000_000, delay: .milliseconds(60))
            try await withSites(LinkSettings(line)) { pair, cleanup in
                let id = try await CSIModesTests.make("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                let published = try await pair.london.csi(["publish", id, "--node", "london-node"])
                let object = try JSONSerialization.jsonObject(with: Data(published.utf8)) as? [String: Any]
                let epoch = try #require((object?["publish_context"] as? [String: String])?["epoch"])
                try await keepState(of: pair.london)
                try await pair.london.csi(["unpublish", id, "--node", "london-node"])
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                try await pair.mount("data", at: pair.sydney, cleanup)
                try await putBackState(of: pair.london)

                try await pair.london.start()
                let staging = pair.directory + "/staging"
                try cleanup.add(mountAt: staging)
                let refused = try await CSIModesTests.outcome(
                    pair.london,
                    ["stage", id, "--staging-path", staging, "--publish-context", "epoch=\(epoch)"])
                #expect(refused.code != 0 && refused.text.contains("sydney"), "\(refused)")
                #expect(try await pair.london.inspect("data")["role"] as? String == "retired")
                try await pair.unmount("data", at: pair.sydney)
            }
        }
    }
}
