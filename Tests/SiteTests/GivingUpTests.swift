import Foundation
import Glibc
import Testing

@testable import TestBed

extension SiteTests {
    /// Whoever wanted a volume was told that it does not come: then it does not come later either.
    @Suite struct GivingUpTests {
        private func prepare(_ volume: String, _ pair: SitePair, _ cleanup: Cleanup) async throws {
            try await pair.london.godwit(["volume", "create", volume, "--capacity", "1Gi"])
            let london = try await pair.mount(volume, at: pair.london, cleanup)
            _ = try await shell("echo before > f; sync f", in: london)
            try await pair.unmount(volume, at: pair.london)
            try await pair.london.godwit(["migrate", volume, "--to", "sydney", "--prepare-only"])
        }

        private func expectUsableAtLondon(
            _ volume: String, _ pair: SitePair, _ cleanup: Cleanup
        ) async throws {
            try await SiteTests.wait("volume \(volume) to stay at london") {
                let roles = try await [
                    pair.london.inspect(volume)["role"] as? String,
                    pair.sydney.inspect(volume)["role"] as? String,
                ]
                return roles == ["owning", "following"]
            }
            let london = try await pair.mount(volume, at: pair.london, cleanup)
            let used = try await shell("cat f; echo more >> f; sync f", in: london)
            #expect(used.output == "before\n" && used.exit.isSuccess, "\(used.output)")
            try await pair.unmount(volume, at: pair.london)
            // And it may go whenever somebody wants it.
            let sydney = try await pair.mount(volume, at: pair.sydney, cleanup)
            let there = try await shell("cat f; echo most >> f; sync f", in: sydney)
            #expect(there.output == "before\nmore\n" && there.exit.isSuccess, "\(there.output)")
            try await pair.unmount(volume, at: pair.sydney)
        }

        /// The source has sealed, and its answer does not come.
        @Test func aTakeoverThatFailedForWantOfALinkLeavesTheVolumeWhereItWas() async throws {
            try await withSites { pair, cleanup in
                try await prepare("data", pair, cleanup)
                try pair.london.arm(SIGSTOP, at: "received sealRequested")
                defer { pair.london.disarm() }
                let failed = Task {
                    try await pair.sydney.run([
                        "volume", "mount", "data", pair.mountPoint(of: pair.sydney),
                    ])
                }
                try await SiteTests.wait("london to be asked") { await pair.london.isStopped }
                try await pair.link.cut([.aToB])
                await pair.london.signal(SIGCONT)
                // Nor is it served where it was, as long as the other site may have the answer.
                let back = try await pair.london.run([
                    "volume", "mount", "data", pair.mountPoint(of: pair.london),
                ])
                #expect(!back.exit.isSuccess, "\(back.output)")
                #expect(try await !failed.value.exit.isSuccess)
                #expect(try await pair.london.inspect("data")["role"] as? String == "sealed")
                let told = try await pair.london.godwit(["volume", "takeover", "data"])
                #expect(told.contains("--force --overrule 2") && told.contains("kept"), "\(told)")
                #expect(try await pair.sydney.inspect("data")["role"] as? String == "declining")
                try await pair.link.cut([])
                try await expectUsableAtLondon("data", pair, cleanup)
            }
        }

        @Test func aTakeoverThatACrashCutOffLeavesTheVolumeWhereItWas() async throws {
            try await withSites { pair, cleanup in
                try await prepare("data", pair, cleanup)
                try pair.sydney.arm(SIGKILL, at: "after acquiring")
                defer { pair.sydney.disarm() }
                let failed = try await pair.sydney.run([
                    "volume", "mount", "data", pair.mountPoint(of: pair.sydney),
                ])
                #expect(!failed.exit.isSuccess && !pair.sydney.isArmed)
                await pair.sydney.kill()
                try await pair.sydney.start()
                try await expectUsableAtLondon("data", pair, cleanup)
            }
        }
    }
}
