import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// The CSI socket of a real site, driven as Kubernetes would.
    @Suite struct CSITests {
        @Test func aVolumeGoesThroughItsWholeLife() async throws {
            try await withSites { pair, cleanup in
                let site = pair.london
                let created = try await site.csi(["create-volume", "pvc-1", "--required-bytes", "1Gi"])
                let id = try #require(try self.volumeID(created))
                let again = try await site.csi(["create-volume", "pvc-1", "--required-bytes", "1Gi"])
                #expect(try self.volumeID(again) == id)
                try await site.csi(["publish", id, "--node", "london-node"])
                let staging = pair.directory + "/staging"
                let target = pair.directory + "/target"
                try cleanup.add(mountAt: staging)
                try cleanup.add(mountAt: target)
                for _ in 0..<2 {
                    try await site.csi(["stage", id, "--staging-path", staging])
                    try await site.csi(
                        ["node-publish", id, "--staging-path", staging, "--target-path", target])
                }
                let written = try await shell("echo data > f; df -k --output=size . | tail -1", in: target)
                #expect(written.output.contains("1048576"), "\(written.output)")
                let stats = try await site.csi(["node-stats", id, "--volume-path", target])
                #expect(stats.contains("BYTES") && stats.contains("1073741824"), "\(stats)")
                for _ in 0..<2 {
                    try await site.csi(["node-unpublish", id, "--target-path", target])
                    try await site.csi(["unstage", id, "--staging-path", staging])
                    try await site.csi(["unpublish", id, "--node", "london-node"])
                }
                #expect(!FileManager.default.fileExists(atPath: target))
                for _ in 0..<2 { try await site.csi(["delete-volume", id]) }
                #expect(try await !site.csi(["list-volumes"]).contains(id))
            }
        }

        @Test func ownershipFollowsThePod() async throws {
            try await withSites { pair, cleanup in
                let created = try await pair.london.csi(["create-volume", "pvc-1"])
                let id = try #require(try self.volumeID(created))
                try await pair.london.csi(["publish", id, "--node", "london-node"])
                try await pair.london.godwit(["migrate", "pvc-1", "--to", "sydney", "--prepare-only"])
                // A replica lacks everything that its owner has, however little it knows of it.
                #expect(try await pair.sydney.inspect("pvc-1")["released"] as? Bool == false)
                // The pod still runs at london: sydney is told who has it.
                let early = try await self.refusal {
                    try await pair.sydney.csi(["publish", id, "--node", "sydney-node"])
                }
                #expect(early.contains("london-node"), "\(early)")
                try await pair.london.csi(["unpublish", id, "--node", "london-node"])
                try await pair.sydney.csi(["publish", id, "--node", "sydney-node"])
                let staging = pair.directory + "/staging"
                try cleanup.add(mountAt: staging)
                try await pair.sydney.csi(["stage", id, "--staging-path", staging])
                #expect(try await shell("echo x > f; cat f", in: staging).output == "x\n")
                // And london is fenced: it cannot have it back while sydney uses it.
                let late = try await self.refusal {
                    try await pair.london.csi(["publish", id, "--node", "london-node"])
                }
                #expect(late.contains("sydney"), "\(late)")
                try await pair.sydney.csi(["unstage", id, "--staging-path", staging])
            }
        }

        private func volumeID(_ json: String) throws -> String? {
            let object = try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any]
            return (object?["volume"] as? [String: Any])?["volume_id"] as? String
        }

        private func refusal(_ body: () async throws -> Void) async throws -> String {
            do {
                try await body()
            } catch {
                return "\(error)"
            }
            Issue.record("it was not refused")
            return ""
        }
    }
}
