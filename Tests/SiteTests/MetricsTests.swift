import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// The figures that a site tells over HTTP, while a volume's bytes arrive.
    @Suite struct MetricsTests {
        private struct Scrape {
            /// By the whole left side of a line: name and labels.
            var samples: [String: Double] = [:]
            var kinds: [String: String] = [:]

            /// Reads the text format, strictly: each family is declared once, before its samples, all of them together.
            init(_ text: String) throws {
                var family = ""
                for line in text.split(separator: "\n") {
                    let words = line.split(separator: " ", maxSplits: 3).map(String.init)
                    if line.hasPrefix("# TYPE ") {
                        #expect(words.count == 4 && kinds[words[2]] == nil && family == words[2], "\(line)")
                        kinds[words[2]] = words[3]
                        continue
                    }
                    if line.hasPrefix("# HELP ") {
                        #expect(words.count == 4 && !words[3].isEmpty, "\(line)")
                        family = words[2]
                        continue
                    }
                    let cut = try #require(line.lastIndex(of: " "), "\(line)")
                    let name = String(line[..<cut])
                    let bare = name.prefix { $0 != "{" }
                    let suffixes = kinds[family] == "histogram" ? ["_bucket", "_sum", "_count"] : [""]
                    #expect(suffixes.contains { family + $0 == bare }, "\(line) in family \(family)")
                    #expect(samples[name] == nil, "\(line)")
                    let value: Double = try #require(Double(line[line.index(after: cut)...]), "\(line)")
                    samples[name] = value
                }
            }

            func value(_ name: String) throws -> Double { try #require(samples[name], "\(name)") }
        }

        private func scrape(_ network: NetworkNamespace, log: String) async throws -> Scrape {
            let deadline = ContinuousClock.now + .seconds(60)
            while true {
                let text = try String(contentsOfFile: log, encoding: .utf8)
                let line = text.components(separatedBy: "probes are answered at port ").last ?? ""
                var program = Program(
                    "/usr/bin/curl",
                    ["-sf", "-m", "60", "http://127.0.0.1:\(line.prefix { $0.isNumber })/metrics"])
                program.network = network
                let outcome = try await ChildProcess.run(program, limit: .seconds(90))
                if outcome.exit.isSuccess { return try Scrape(outcome.output) }
                // One that was just started tells its port a moment after it answers.
                try #require(ContinuousClock.now < deadline, "\(outcome.exit): \(outcome.output)")
                try await Task.sleep(for: .milliseconds(100))
            }
        }

        /// Metrics.md: its tables.
        @Test func figuresFollowAVolumeWhoseBytesArrive() async throws {
            try await withSites(
                slowLink(megabits: 20),
                options: ["--monitor-listen", "127.0.0.1:0", "--monitor-volumes", "2"]
            ) { pair, cleanup in
                let byteCount = 16 << 20
                for name in ["data", "a-1", "a-2"] {
                    try await pair.london.godwit(["volume", "create", name, "--capacity", "1Gi"])
                }
                let source = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(source + "/f", byteCount: byteCount)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await pair.sydney.godwit(["volume", "hydrate", "data", "--pause"])
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let target = try await pair.mount("data", at: pair.sydney, cleanup)
                _ = try await shell("tail -c 100000 f | wc -c", in: target)
                try await pair.sydney.csi(["probe"])
                _ = try? await pair.sydney.csi(["get-volume", "11111111-1111-4111-8111-111111111111"])

                let (sydney, log) = (pair.link.b.namespace, pair.sydney.logPath)
                let half = try await self.scrape(sydney, log: log)
                let ratio = try half.value(#"godwit_volume_resident_ratio{volume="data"}"#)
                let missing = try half.value(#"godwit_volume_missing_bytes{volume="data"}"#)
                #expect(ratio > 0 && ratio < 1 && missing > 0, "\(ratio) \(missing)")
                let total = try half.value(#"godwit_volume_data_bytes{volume="data"}"#)
                #expect(total >= Double(byteCount) && missing < total)
                let received = try half.value("godwit_hydration_received_bytes_total")
                #expect(received >= 100_000)
                #expect(try half.value("godwit_fault_seconds_count") >= 1)
                #expect(try half.value("godwit_fault_seconds_sum") > 0)
                #expect(try half.value(#"godwit_volume_faults_total{volume="data"}"#) >= 1)
                #expect(try half.value("godwit_fault_failures_total") == 0)
                for operation in ["lookup", "open", "read"] {
                    let labels = #"{operation="\#(operation)"}"#
                    #expect(try half.value("godwit_fuse_requests_total" + labels) >= 1)
                    let seconds = try half.value("godwit_fuse_request_seconds_total" + labels)
                    #expect(seconds > 0 && seconds < 60, "\(operation): \(seconds)")
                }
                #expect(try half.value("godwit_disk_syncs_total") >= 1)
                #expect(try half.value("godwit_disk_sync_seconds_total") > 0)
                #expect(try half.value("godwit_handoff_seconds_count") == 1)
                #expect(try half.value(#"godwit_volumes{role="owning"}"#) == 1)
                #expect(try half.value(#"godwit_volume_owned{volume="data"}"#) == 1)
                #expect(try half.value(#"godwit_volume_mounts{volume="data"}"#) == 1)
                #expect(try half.value(#"godwit_volume_trouble{volume="data"}"#) == 0)
                #expect(try half.value(#"godwit_volume_names_arriving{volume="data"}"#) == 0)
                let operation = #"csi_plugin_operations_seconds_count{driver_name="csi.godwit.dev","#
                let probes = #"method_name="/csi.v1.Identity/Probe",grpc_status_code="OK"}"#
                #expect(try half.value(operation + probes) >= 1)
                let unknown =
                    #"method_name="/csi.v1.Controller/ControllerGetVolume",grpc_status_code="NotFound"}"#
                #expect(try half.value(operation + unknown) == 1)

                try await pair.sydney.godwit(["volume", "hydrate", "data", "--no-pause"])
                try await pair.waitUntilReleased("data", at: pair.sydney)
                let whole = try await self.scrape(sydney, log: log)
                #expect(try whole.value(#"godwit_volume_resident_ratio{volume="data"}"#) == 1)
                #expect(try whole.value(#"godwit_volume_missing_bytes{volume="data"}"#) == 0)
                #expect(try whole.value("godwit_hydration_received_bytes_total") >= Double(byteCount))

                // Of more volumes than asked for only the first have figures; all are counted.
                let london = try await self.scrape(pair.link.a.namespace, log: pair.london.logPath)
                #expect(try london.value("godwit_volumes_unlisted") == 1)
                #expect(london.samples.keys.filter { $0.hasPrefix("godwit_volume_owned{") }.count == 2)
                try self.checkGuide(whole)
            }
        }

        /// Metrics.md: "the mount holder answers".
        @Test func whetherTheMountHolderAnswersIsTold() async throws {
            let path = "/tmp/godwit-holder-" + UUID().uuidString.lowercased() + ".sock"
            try await withSites(options: ["--monitor-listen", "127.0.0.1:0", "--mount-holder", path]) {
                pair, cleanup in
                try cleanup.add("socket") { _ = unlink(path) }
                func isUp() async throws -> Double {
                    try await self.scrape(pair.link.a.namespace, log: pair.london.logPath)
                        .value("godwit_mount_holder_up")
                }
                #expect(try await isUp() == 0)
                let holder = try await ChildProcess.start(
                    Program(godwitBinary, ["hold", "--socket", path]))
                try cleanup.add("holder") { _ = await holder.end() }
                try await SiteTests.wait("the holder to be noticed") { try await isUp() == 1 }
                _ = await holder.end()
                try await SiteTests.wait("its end to be noticed") { try await isUp() == 0 }
            }
        }

        /// Metrics.md: "volumes whose data are in the state directory though the registry does not name them".
        @Test func aVolumeThatTheRegistryDoesNotNameIsToldOfAndLeftAsItIs() async throws {
            try await withSites(options: ["--monitor-listen", "127.0.0.1:0"]) { pair, _ in
                let site = pair.london
                func count() async throws -> Double {
                    try await self.scrape(pair.link.a.namespace, log: site.logPath)
                        .value("godwit_volumes_unregistered")
                }
                func log() throws -> [Substring] {
                    try String(contentsOfFile: site.logPath, encoding: .utf8).split(separator: "\n")
                }
                let state = site.stateDirectory
                try await site.godwit(["volume", "create", "old", "--capacity", "1Gi"])
                await site.stop()
                _ = try await shell("mkdir ../backup; cp -a site.db* ../backup/", in: state)
                try await site.start()
                try await site.godwit(["volume", "create", "young", "--capacity", "1Gi"])
                let id = try #require(try await site.inspect("young")["id"] as? String)
                let directory = "\(state)/volumes/\(id)"
                #expect(try await count() == 0)
                await site.stop()
                // Nothing is in these: a crash amid a creation, and what is none of ours.
                let empty = "00000000-0000-4000-8000-000000000000"
                _ = try await shell("mkdir -p volumes/\(empty)/heads volumes/lost+found", in: state)
                try await site.start()
                #expect(try await count() == 0)
                #expect(try !log().contains { $0.contains(directory) })
                await site.stop()
                _ = try await shell("rm site.db*; cp -a ../backup/site.db* .", in: state)
                try await site.start()
                #expect(try await count() == 1)
                let told = try log().filter { $0.contains(directory) && $0.contains(" error ") }
                #expect(told.count == 1, "\(told)")
                #expect(try !log().contains { $0.contains(empty) })
                #expect(try await site.inspect("old")["role"] as? String == "owning")
                #expect(FileManager.default.fileExists(atPath: directory + "/heads/1/catalog.db"))
                await site.stop()
                _ = try await shell("rm -r \(directory)", in: state)
                try await site.start()
                #expect(try await count() == 0)
            }
        }

        /// Every metric of our own stands in a table of the guide, and nothing else does.
        private func checkGuide(_ scrape: Scrape) throws {
            let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
                .deletingLastPathComponent().deletingLastPathComponent()
            let guide = root.appendingPathComponent("Sources/Monitoring/Metrics.md")
            let rows = try String(contentsOf: guide, encoding: .utf8).split(separator: "\n").filter {
                $0.hasPrefix("| `godwit_") || $0.hasPrefix("| `csi_")
            }
            let named = Set(rows.compactMap { $0.split(separator: "`").dropFirst().first }.map(String.init))
            // Told only where there is a kubelet or a holder, while bytes are on their way, or of a peer that misbehaves.
            let sometimes: Set = [
                "godwit_kubelet_registered", "godwit_volume_hydration_received_bytes_total",
                "godwit_volume_faults_total", "godwit_mount_holder_up", "godwit_peer_refused_messages_total",
            ]
            let told = Set(scrape.kinds.keys.filter { !$0.hasPrefix("process_") })
            #expect(named.subtracting(told).isSubset(of: sometimes), "\(named.subtracting(told))")
            #expect(told.isSubset(of: named), "\(told.subtracting(named))")
        }
    }
}
