import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// Keys, trust and rights that change while sites run.
    @Suite struct TrustTests {
        @Test func certificatesRotateWhileBytesAreOnTheirWay() async throws {
            try await withSites(slowLink(megabits: 10)) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(london + "/big", byteCount: 10 << 20)
                let before = try await TreeDigest.of(london)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                let old = try await certificate(at: pair.london, pair.link.a)
                for site in pair.sites { try await site.godwit(["pki", "renew"]) }
                try await SiteTests.wait("london's new certificate") {
                    try await certificate(at: pair.london, pair.link.a) != old
                }
                let fresh = try await certificate(at: pair.london, pair.link.a)
                let leaf = try String(
                    contentsOfFile: pair.london.stateDirectory + "/pki/leaf.pem", encoding: .utf8)
                #expect(!fresh.isEmpty && leaf.contains(fresh))
                #expect(try await pair.sydney.number("missingBytes", of: "data") > 0)
                try await pair.waitUntilReleased("data", at: pair.sydney)
                #expect(try await TreeDigest.of(sydney).value == before.value)
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        @Test func trustThatEndsAndBeginsAgainIsFollowedWithoutARestart() async throws {
            try await withSites(slowLink(megabits: 4), options: ["--fault-timeout", "3"]) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(london + "/big", byteCount: 24 << 20)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                try await pair.london.godwit(["pki", "distrust", "sydney"])
                try await SiteTests.wait("the end of the trust") {
                    try await shell("tail -c 4096 big 2>&1 | wc -c", in: sydney).output != "4096\n"
                }
                let received = try await pair.sydney.number("receivedBytes", of: "data")
                try await Task.sleep(for: .seconds(1))
                #expect(try await pair.sydney.number("receivedBytes", of: "data") == received)
                let document = try await pair.sydney.godwit(["pki", "show", "--address", pair.sydney.address])
                try await pair.london.godwit(["pki", "trust", "-"], input: document)
                try await SiteTests.wait("the bytes") {
                    try await shell("tail -c 4096 big 2>&1 | wc -c", in: sydney).output == "4096\n"
                }
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        @Test func aSiteWhoseRightIsTakenBackGetsNothingMore() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                #expect(try await pair.london.inspect("data")["sharedWith"] as? [String] == ["sydney"])
                try await pair.london.godwit(["volume", "revoke", "data", "--site", "sydney"])
                #expect(try await pair.london.inspect("data")["sharedWith"] as? [String] == [])
                let mount = pair.mountPoint(of: pair.sydney)
                let refused = try await pair.sydney.run(["volume", "mount", "data", mount])
                #expect(!refused.exit.isSuccess && refused.output.contains("not known"), "\(refused.output)")
                #expect(try await pair.london.inspect("data")["role"] as? String == "owning")
                // Whoever is offered it again has it again; and who owns it cannot be shut out.
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let late = try await pair.london.run(["volume", "revoke", "data", "--site", "sydney"])
                #expect(!late.exit.isSuccess && late.output.contains("at site sydney"), "\(late.output)")
                try await pair.mount("data", at: pair.sydney, cleanup)
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// What a site shows to whoever connects.
        private func certificate(at site: SiteProcess, _ end: WANLink.End) async throws -> String {
            var program = Program("openssl", ["s_client", "-connect", site.address])
            program.network = end.namespace
            let output = try await ChildProcess.run(program, limit: .seconds(10)).output
            guard let start = output.range(of: "-----BEGIN CERTIFICATE-----"),
                let end = output.range(of: "-----END CERTIFICATE-----")
            else { return "" }
            return String(output[start.lowerBound..<end.upperBound])
        }
    }

    /// Asks again until it is so, or a minute is over.
    static func wait(_ what: String, until holds: () async throws -> Bool) async throws {
        let deadline = ContinuousClock.now + .seconds(60)
        while try await !holds() {
            guard ContinuousClock.now < deadline else {
                throw LabError.invalid("waited in vain for \(what)")
            }
            try await Task.sleep(for: .milliseconds(200))
        }
    }
}
