import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// A hand-over that waits until the volume is let go.
    @Suite struct WaitingTests {
        @Test func aWaitingTargetTakesOverAtOnceAndNothingOfADyingProgramIsLost() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let records = Records("records", acknowledgedIn: pair.directory)
                for (from, to) in [(pair.london, pair.sydney), (pair.sydney, pair.london)] {
                    let mount = try await pair.mount("data", at: from, cleanup)
                    let writer = try await records.write(in: mount)
                    try cleanup.add("writer") { _ = writer.kill() }
                    try await records.waitUntil(records.acknowledged + 5, writer)
                    let waiting = Task {
                        try await from.run(
                            ["migrate", "data", "--to", to.name, "--detach", "--wait", "60"],
                            limit: .seconds(90))
                    }
                    // Once for longer than the owner is asked to wait at a time.
                    try await Task.sleep(for: from.name == "london" ? .seconds(6) : .milliseconds(500))
                    try await records.waitUntil(records.acknowledged + 5, writer)
                    _ = writer.kill()
                    _ = try await writer.wait(limit: .seconds(20))
                    try await pair.unmount("data", at: from)
                    let moved = try await waiting.value
                    #expect(moved.exit.isSuccess, "\(moved.output)")
                    let arrived = try await pair.mount("data", at: to, cleanup)
                    #expect(try records.damage(in: arrived) == nil)
                    try await pair.unmount("data", at: to)
                    // It waited, and did not try again and again.
                    let log = try String(contentsOfFile: to.logPath, encoding: .utf8)
                    let attempts = log.components(separatedBy: "→ asking").count - 1
                    #expect(1...5 ~= attempts, "\(attempts) attempts")
                }
            }
        }

        @Test func whoWaitsInVainIsToldWhoHoldsTheVolume() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let mount = try await pair.mount("data", at: pair.london, cleanup)
                let asked = ContinuousClock.now
                let refused = try await pair.london.run([
                    "migrate", "data", "--to", "sydney", "--wait", "2",
                ])
                #expect(refused.exit == .exited(19), "\(refused.exit) \(refused.output)")
                #expect(refused.output.contains("london-node"), "\(refused.output)")
                #expect(ContinuousClock.now - asked >= .seconds(2))
                #expect(try await shell("echo x > f; cat f", in: mount).output == "x\n")
                let unheardOf = try await pair.london.run([
                    "migrate", "data", "--to", "sydney", "--wait", "86401",
                ])
                #expect(!unheardOf.exit.isSuccess && unheardOf.output.contains("86400"))
                try await pair.unmount("data", at: pair.london)
            }
        }
    }
}
