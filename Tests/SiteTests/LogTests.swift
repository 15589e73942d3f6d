import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// What a site says of itself to programs.
    @Suite struct LogTests {
        @Test func everyLineIsAnObjectAndWhatACallCausesNamesTheCall() async throws {
            try await withSites(options: ["--log-format", "json", "--log-level", "debug"]) { pair, cleanup in
                let site = pair.london
                let id = try await CSIModesTests.make("pvc-1", at: site)
                let staging = pair.directory + "/staging"
                try cleanup.add(mountAt: staging)
                try await site.csi(["stage", id, "--staging-path", staging])
                try await site.csi(["unstage", id, "--staging-path", staging])
                await site.stop()
                let text = try String(contentsOfFile: site.logPath, encoding: .utf8)
                let lines = try text.split(separator: "\n").map {
                    try #require(
                        try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: String], "\($0)")
                }
                func line(_ start: String) throws -> [String: String] {
                    try #require(lines.first { $0["message"]?.hasPrefix(start) == true }, "\(start): \(text)")
                }
                for (caused, call) in [
                    ("mounted at", "NodeStageVolume"), ("unmounted \(staging)", "NodeUnstageVolume"),
                ] {
                    let (caused, call) = (try line(caused), try line(call))
                    #expect(caused["volume"] == "pvc-1" && caused["level"] == "info")
                    #expect(caused["volume-id"] == id && call["volume-id"] == id)
                    #expect(call["code"] == "OK" && call["level"] == "debug")
                }
                let calls = ["NodeStageVolume", "NodeUnstageVolume"]
                let numbers = try calls.map { try #require(try line($0)["request"]) }
                #expect(try line("mounted at")["request"] == numbers[0])
                // Whoever waits for the end of the mount, which the first has begun, may see it first.
                #expect(numbers.contains(try line("unmounted")["request"] ?? ""))
                #expect(numbers[0] != numbers[1])
                #expect(try line("site london is ready")["request"] == nil)
            }
        }
    }
}
