import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// Volumes that nobody uses keep no files open, and are there at once when somebody does.
    @Suite struct RestTests {
        /// The files of volumes that a site has open.
        private static func openFiles(_ site: SiteProcess) async throws -> [String] {
            let pid = try #require(await site.pid)
            let directory = "/proc/\(pid)/fd"
            return try FileManager.default.contentsOfDirectory(atPath: directory).compactMap {
                try? FileManager.default.destinationOfSymbolicLink(atPath: "\(directory)/\($0)")
            }.filter { $0.hasPrefix(site.stateDirectory + "/volumes/") }
        }

        @Test func whatIsNotUsedIsClosedAndToldOfAllTheSame() async throws {
            try await withSites(options: ["--rest-after", "1"]) { pair, cleanup in
                let site = pair.london
                for name in ["data", "idle"] {
                    try await site.godwit(["volume", "create", name, "--capacity", "1Gi"])
                }
                let path = try await pair.mount("data", at: site, cleanup)
                try writeRandomFile(path + "/file", byteCount: 3 << 20)
                let content = try bytes(path + "/file")
                try await SiteTests.wait("the rest of what is not mounted") {
                    let open = try await Self.openFiles(site)
                    let idle = try #require(try await site.inspect("idle")["id"] as? String)
                    return !open.isEmpty && !open.contains { $0.contains(idle) }
                }
                try await pair.unmount("data", at: site)
                try await SiteTests.wait("rest") { try await Self.openFiles(site).isEmpty }
                // To be asked about opens nothing.
                #expect(try await site.number("totalBytes", of: "data") == 3 << 20)
                try await site.godwit(["volume", "list"])
                #expect(try await Self.openFiles(site).isEmpty)
                for _ in 0..<3 {
                    try await pair.mount("data", at: site, cleanup)
                    #expect(try bytes(path + "/file") == content)
                    try await pair.unmount("data", at: site)
                    try await SiteTests.wait("rest again") { try await Self.openFiles(site).isEmpty }
                }
                // A crash while it rests is a crash in which nothing was in use.
                await site.kill()
                try await site.start()
                #expect(try await site.run(["volume", "check"]).exit.isSuccess)
                try await SiteTests.wait("rest after the start") { try await Self.openFiles(site).isEmpty }
                try await site.godwit(["migrate", "data", "--to", "sydney"])
                let there = try await pair.mount("data", at: pair.sydney, cleanup)
                #expect(try bytes(there + "/file") == content)
                try await pair.unmount("data", at: pair.sydney)
                try await SiteTests.wait("rest there") { try await Self.openFiles(pair.sydney).isEmpty }
                #expect(try await pair.sydney.number("receivedBytes", of: "data") >= 3 << 20)
                // And home, to which it is known that nothing has changed.
                try await pair.sydney.godwit(["migrate", "data", "--to", "london"])
                try await pair.mount("data", at: site, cleanup)
                #expect(try bytes(path + "/file") == content)
                #expect(try await site.number("receivedBytes", of: "data") == 0)
                try await pair.unmount("data", at: site)
                try await site.godwit(["volume", "delete", "idle"])
            }
        }

        /// A site starts with a thousand volumes as quickly as with the few that are in use.
        @Test func aStartOpensOnlyWhatItHasTo() async throws {
            try await withSites { pair, cleanup in
                let site = pair.london
                for name in ["data", "idle", "empty"] {
                    try await site.godwit(["volume", "create", name, "--capacity", "1Gi"])
                }
                let path = try await pair.mount("idle", at: site, cleanup)
                try writeRandomFile(path + "/file", byteCount: 3 << 20)
                let content = try bytes(path + "/file")
                try await pair.unmount("idle", at: site)
                await site.stop()
                try await site.start()
                #expect(try await Self.openFiles(site).isEmpty)
                #expect(try await site.number("totalBytes", of: "idle") == 3 << 20)
                #expect(try await site.number("inodes", of: "idle") == 2)
                #expect(try await Self.openFiles(site).isEmpty, "to be asked about opens nothing")

                // What was in use when the process was killed is looked at, and nothing else.
                let data = try await pair.mount("data", at: site, cleanup)
                try writeRandomFile(data + "/file", byteCount: 1 << 20)
                await site.kill()
                try await site.start()
                let used = try #require(try await site.inspect("data")["id"] as? String)
                let open = try await Self.openFiles(site)
                #expect(!open.isEmpty && open.allSatisfy { $0.contains(used) })

                try await site.godwit(["migrate", "idle", "--to", "sydney"])
                let there = try await pair.mount("idle", at: pair.sydney, cleanup)
                #expect(try bytes(there + "/file") == content)
                try await pair.unmount("idle", at: pair.sydney)
                #expect(try await site.run(["volume", "check"]).exit.isSuccess)
            }
        }

        /// Somebody always comes at the wrong moment.
        @Test func operationsAndRestDoNotMeet() async throws {
            try await withSites(options: ["--rest-after", "1"]) { pair, _ in
                let site = pair.london
                for index in 0..<8 {
                    try await site.godwit(["volume", "create", "v\(index)", "--capacity", "1Gi"])
                }
                let deadline = ContinuousClock.now + .seconds(12)
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for index in 0..<8 {
                        group.addTask {
                            var size = 2
                            while ContinuousClock.now < deadline {
                                // Seldom enough that it rests in between.
                                try await Task.sleep(for: .milliseconds(Int.random(in: 900...2500)))
                                try await site.godwit([
                                    "volume", "expand", "v\(index)", "\(size)Gi",
                                ])
                                size += 1
                            }
                            #expect(
                                try await site.number("capacity", of: "v\(index)") == UInt64(size - 1) << 30)
                        }
                    }
                    try await group.waitForAll()
                }
                #expect(try await site.run(["volume", "check"]).exit.isSuccess)
                let log = try String(contentsOfFile: site.logPath, encoding: .utf8)
                #expect(!log.contains(" error ") && !log.contains(" warning "), "\(log.suffix(2000))")
            }
        }
    }
}
