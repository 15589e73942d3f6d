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
    }
}
