import Foundation
import Glibc
import Testing

@testable import TestBed

extension SiteTests {
    /// reliability: "planted canaries never show up in logs, metrics, argv, environment, events, at any verbosity".
    @Suite struct SecretTests {
        /// Keys that are made, used, renewed and refused.
        @Test func aSitesKeysShowUpNowhereButInTheirFiles() async throws {
            let options = ["--log-level", "trace", "--monitor-listen", "127.0.0.1:0"]
            try await withSites(options: options, withTokyo: true) { pair, cleanup in
                let tokyo = try #require(pair.tokyo)
                var canaries = Canaries()
                func plant() throws {
                    for site in pair.sites { try canaries.add(keysBelow: site.stateDirectory + "/pki") }
                }
                try plant()
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell("echo x > f; sync f", in: london)
                try await pair.unmount("data", at: pair.london)
                var told = ""
                for arguments in [
                    ["migrate", "data", "--to", "sydney", "--detach"], ["pki", "show", "--address", "x:1"],
                    ["pki", "renew"], ["pki", "--help"], ["volume", "inspect", "data", "--json"],
                    ["volume", "list"], ["pki", "trust", "/dev/null"], ["pki", "init", "--site", "london"],
                ] {
                    told += try await pair.london.run(arguments).output
                }
                try plant()
                // A key in place of a trust document, and other keys under a known name: both are refused.
                let key = try FileManager.default.subpathsOfDirectory(atPath: tokyo.stateDirectory + "/pki")
                    .map { tokyo.stateDirectory + "/pki/" + $0 }
                    .first {
                        ((try? String(contentsOfFile: $0, encoding: .utf8)) ?? "").contains("PRIVATE KEY")
                    }
                told += try await pair.london.run(["pki", "trust", try #require(key)]).output
                try await pair.london.godwit(["pki", "distrust", "tokyo"])
                told += try await tokyo.run(["migrate", "data", "--to", "london"]).output
                told += try await pair.sydney.run(["migrate", "data", "--to", "london", "--detach"]).output
                try await pair.mount("data", at: pair.london, cleanup)
                try await pair.unmount("data", at: pair.london)
                try await SiteTests.wait("the renewed keys") {
                    let log = try String(contentsOfFile: pair.london.logPath, encoding: .utf8)
                    return log.contains("key") || log.contains("certificate")
                }
                #expect(canaries.count >= 8)
                let found = try canaries.leaks(below: tokyo.stateDirectory + "/pki") { _ in false }
                #expect(!found.isEmpty, "where they are they are found")
                #expect(try canaries.leaks(in: told, of: "what commands print") == [])
                for site in pair.sites {
                    let log = try String(contentsOfFile: site.logPath, encoding: .utf8)
                    #expect(try canaries.leaks(in: log, of: "the log of \(site.name)") == [])
                    let pid = try #require(await site.pid)
                    #expect(try canaries.leaks(inProcess: pid, site.name) == [])
                    let kept = try canaries.leaks(below: site.stateDirectory) { $0.hasPrefix("pki/") }
                    #expect(kept == [])
                    let line = log.components(separatedBy: "probes are answered at port ").last ?? ""
                    for page in ["metrics", "healthz", "readyz"] {
                        var program = Program(
                            "/usr/bin/curl",
                            ["-s", "-m", "60", "http://127.0.0.1:\(line.prefix { $0.isNumber })/\(page)"])
                        program.network = site === pair.sydney ? pair.link.b.namespace : pair.link.a.namespace
                        let outcome = try await ChildProcess.run(program, limit: .seconds(90))
                        #expect(try canaries.leaks(in: outcome.output, of: "\(page) of \(site.name)") == [])
                    }
                }
            }
        }
    }
}
