import Foundation
import Glibc
import Testing

@testable import TestBed

extension SiteTests {
    /// Promises.md: "What was begun and does not end can be given up."
    @Suite struct GivingUpTests {
        private func role(_ site: SiteProcess) async -> String? {
            (try? await site.inspect("data"))?["role"] as? String
        }

        /// london seals for sydney and dies before it says so; while it is away sydney gives up. Then either is killed in
        /// the middle of that.
        @Test func aMoveThatBrokeIsGivenUpForGoodAndMadeAnew() async throws {
            try await withSites { pair, cleanup in
                let (london, sydney) = (pair.london, pair.sydney)
                try await london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let records = Records("records", acknowledgedIn: pair.directory)
                for (victim, step) in [(sydney, "after declining"), (london, "before owning")] {
                    let mount = try await pair.mount("data", at: london, cleanup)
                    if records.acknowledged > 0 { #expect(try records.damage(in: mount) == nil) }
                    try await records.writeSome(in: mount)
                    try await pair.unmount("data", at: london)
                    let owned = try await london.run(["volume", "give-up", "data"])
                    #expect(!owned.exit.isSuccess && owned.output.contains("owned here"), "\(owned.output)")
                    try await london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                    try london.arm(SIGKILL, at: "after sealed")
                    let moved = try await london.run(["migrate", "data", "--to", "sydney", "--detach"])
                    #expect(!moved.exit.isSuccess, "\(moved.output)")
                    await london.kill()
                    #expect(await role(sydney) == "acquiring")

                    try victim.arm(SIGKILL, at: step)
                    if victim.name == sydney.name {
                        _ = try await sydney.run(["volume", "give-up", "data"])
                        await sydney.kill()
                        try await sydney.start()
                        #expect(await role(sydney) == "declining")
                    }
                    let given = try await sydney.run(["volume", "give-up", "data"])
                    #expect(given.exit.isSuccess && given.output.contains("given up"), "\(given.output)")
                    if victim.name == london.name {
                        // It may die before it is up.
                        _ = try? await london.start()
                        try await SiteTests.wait("'\(step)'") { !victim.isArmed }
                        await london.kill()
                    }
                    try await london.start()
                    try await SiteTests.wait("london to have it back") {
                        let roles = await [role(london), role(sydney)]
                        try #require(roles != ["owning", "owning"])
                        return roles == ["owning", "following"]
                    }
                }
                try await london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let there = try await pair.mount("data", at: sydney, cleanup)
                #expect(try records.damage(in: there) == nil)
                try await pair.unmount("data", at: sydney)
            }
        }
    }
}
