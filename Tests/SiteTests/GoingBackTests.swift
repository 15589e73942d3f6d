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
    }
}
