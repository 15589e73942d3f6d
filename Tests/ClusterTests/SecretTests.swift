import Foundation
import Glibc
import Testing

@testable import Cluster
@testable import TestBed

extension ClusterTests {
    /// reliability: "planted canaries never show up in logs, metrics, argv, environment, events, at any verbosity".
    @Suite(.enabled(if: geteuid() == 0, "sites need root")) struct SecretTests {
        /// Keys of sites and nodes, and the tokens of the accounts that sites, controllers and gateways have.
        @Test func keysAndTokensShowUpNowhereButWhereTheyBelong() async throws {
            try await TwoClusters.run(nodes: 2, logLevel: "trace") { both in
                var canaries = Canaries()
                var monitors: [String] = []
                for end in [both.london, both.sydney] {
                    try canaries.add(keysBelow: end.directory + "/keys")
                    for site in end.sites { try canaries.add(keysBelow: site.stateDirectory + "/pki") }
                }
                let keyCount = canaries.count
                #expect(keyCount >= 6, "\(keyCount)")
                try await both.makeNamespace(both.sydney)
                for end in [both.london, both.sydney] {
                    let monitor = "127.0.0.1:\(try freePort())"
                    monitors.append(monitor)
                    try await both.startController(
                        end, ["--log-level", "trace", "--monitor-listen", monitor])
                }
                try await both.withMount(both.london, node: 2) { path in
                    try "kept".write(toFile: path + "/file", atomically: false, encoding: .utf8)
                }
                try await both.annotate(both.london, "godwit.dev/migrate-to=sydney")
                try await both.wait(for: .ready, at: both.london)
                try await both.wait(forClaim: "Made")
                try await both.withMount(both.sydney) { path in
                    let text = try String(contentsOfFile: path + "/file", encoding: .utf8)
                    #expect(text == "kept")
                }
                for end in [both.london, both.sydney] {
                    for name in try FileManager.default.contentsOfDirectory(atPath: end.cluster.directory)
                    where name.hasSuffix(".kubeconfig") {
                        let text = try String(
                            contentsOfFile: end.cluster.directory + "/" + name, encoding: .utf8)
                        let tokens = text.matches(of: /token: (\S+)/).map { String($0.1) }
                        // Its middle: the head of a JWT says only what it is.
                        for token in tokens where token.count > 100 {
                            canaries.add(String(token.suffix(60)), of: name)
                        }
                    }
                }
                #expect(canaries.count >= keyCount + 6)
                for end in [both.london, both.sydney] { try await look(for: canaries, at: end) }
                for monitor in monitors {
                    for page in ["metrics", "healthz"] {
                        let outcome = try await ChildProcess.run(
                            Program("/usr/bin/curl", ["-s", "-m", "60", "http://\(monitor)/\(page)"]),
                            limit: .seconds(90))
                        #expect(try canaries.leaks(in: outcome.output, of: "\(page) of a controller") == [])
                    }
                }
            }
        }

        private func look(for canaries: Canaries, at end: TwoClusters.End) async throws {
            let logs =
                end.sites.map(\.logPath) + ["controller", "gateway"].map { "\(end.directory)/\($0).log" }
            for path in logs {
                let log = try String(contentsOfFile: path, encoding: .utf8)
                #expect(try canaries.leaks(in: log, of: path) == [])
            }
            // All that run for this cluster: they name its kubeconfigs, or its sites' directories.
            var found = 0
            for name in try FileManager.default.contentsOfDirectory(atPath: "/proc") {
                guard let pid = Int32(name),
                    let bytes = FileManager.default.contents(atPath: "/proc/\(pid)/cmdline")
                else { continue }
                let line = String(decoding: bytes, as: UTF8.self)
                guard line.hasPrefix(godwitBinary),
                    line.contains(end.cluster.directory) || line.contains(end.directory)
                else { continue }
                found += 1
                #expect(try canaries.leaks(inProcess: pid, line) == [])
            }
            #expect(found >= end.sites.count + 2, "\(found) processes")
            for site in end.sites {
                let kept = try canaries.leaks(below: site.stateDirectory) { $0.hasPrefix("pki/") }
                #expect(kept == [])
            }
            let objects = try await end.cluster.kubectl([
                "get",
                "events,members.godwit.dev,volumes.godwit.dev,migrations.godwit.dev,pv,pvc,leases,configmaps",
                "-A", "-o", "json",
            ])
            #expect(objects.exit.isSuccess && objects.output.contains("godwit.dev/v1alpha1"))
            #expect(try canaries.leaks(in: objects.output, of: "what is in \(end.name)'s API") == [])
        }
    }
}
