import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// Where a volume is published, over the CSI socket of real sites.
    @Suite struct CSIAttachmentTests {
        private static let alreadyExists: Int32 = 6
        private static let failedPrecondition: Int32 = 9

        /// What ListVolumes tells of the one volume that there is.
        private func publishedNodes(_ id: String, at site: SiteProcess) async throws -> [String] {
            let answer = try await site.csi(["list-volumes"])
            let list = try JSONSerialization.jsonObject(with: Data(answer.utf8)) as? [String: Any]
            let entries = try #require(list?["entries"] as? [[String: Any]])
            let entry = try #require(
                entries.first { ($0["volume"] as? [String: Any])?["volume_id"] as? String == id })
            return (entry["status"] as? [String: Any])?["published_node_ids"] as? [String] ?? []
        }

        @Test func whatIsPublishedStaysSoUntilItIsUnpublished() async throws {
            try await withSites { pair, cleanup in
                let (london, sydney) = (pair.london, pair.sydney)
                let id = try await CSIModesTests.make("pvc-1", at: london)
                try await london.godwit(["migrate", "pvc-1", "--to", "sydney", "--prepare-only"])
                #expect(try await self.publishedNodes(id, at: london) == [])
                try await london.csi(["publish", id, "--node", "london-node"])
                #expect(try await self.publishedNodes(id, at: london) == ["london-node"])
                let staging = pair.directory + "/staging"
                try cleanup.add(mountAt: staging)
                try await london.csi(["stage", id, "--staging-path", staging])
                #expect(try await self.publishedNodes(id, at: london) == ["london-node"])
                try await london.csi(["unstage", id, "--staging-path", staging])
                // Nothing is mounted any more; nor after a restart, nor after a crash while it was.
                #expect(try await self.publishedNodes(id, at: london) == ["london-node"])
                await london.stop()
                try await london.start()
                #expect(try await self.publishedNodes(id, at: london) == ["london-node"])
                try await london.csi(["stage", id, "--staging-path", staging])
                await london.kill()
                try await london.start()
                #expect(try await self.publishedNodes(id, at: london) == ["london-node"])
                // Nobody else gets it, and whoever asks is told who has it.
                let elsewhere = try await CSIModesTests.outcome(
                    sydney, ["publish", id, "--node", "sydney-node"])
                #expect(
                    elsewhere.code == Self.failedPrecondition && elsewhere.text.contains("london-node")
                        && elsewhere.text.contains("detach"), "\(elsewhere)")
                let deletion = try await CSIModesTests.outcome(london, ["delete-volume", id])
                #expect(
                    deletion.code == Self.failedPrecondition && deletion.text.contains("london-node"),
                    "\(deletion)")
                let byHand = try await london.run(["volume", "delete", "pvc-1"])
                #expect(!byHand.exit.isSuccess && byHand.output.contains("london-node"), "\(byHand.output)")
                for _ in 0..<2 { try await london.csi(["unpublish", id, "--node", "london-node"]) }
                #expect(try await self.publishedNodes(id, at: london) == [])
                try await sydney.csi(["publish", id, "--node", "sydney-node"])
            }
        }

        /// Claims.md: "an Event (`FailedAttachVolume`) that names the pods and the node that hold the volume": the attacher
        /// tells what it is answered.
        @Test func whoeverIsRefusedIsToldWhichPodsAreInTheWay() async throws {
            try await withSites { pair, cleanup in
                let (london, sydney) = (pair.london, pair.sydney)
                let id = try await CSIModesTests.make("pvc-1", at: london)
                try await london.godwit(["migrate", "pvc-1", "--to", "sydney", "--prepare-only"])
                let staging = pair.directory + "/staging"
                let targets = (0..<2).map { pair.directory + "/target-\($0)" }
                for path in [staging] + targets { try cleanup.add(mountAt: path) }
                let mode = ["--access-mode", "single-node-multi-writer"]
                try await london.csi(["publish", id, "--node", "london-node"] + mode)
                try await london.csi(["stage", id, "--staging-path", staging] + mode)
                func refusal() async throws -> String {
                    let outcome = try await CSIModesTests.outcome(
                        sydney, ["publish", id, "--node", "sydney-node"])
                    #expect(outcome.code == Self.failedPrecondition)
                    return outcome.text
                }
                func show(_ pod: String, at target: Int) async throws {
                    try await london.csi(
                        [
                            "node-publish", id, "--staging-path", staging, "--target-path", targets[target],
                            "--volume-context", "csi.storage.k8s.io/pod.namespace=shop", "--volume-context",
                            "csi.storage.k8s.io/pod.name=\(pod)",
                        ] + mode)
                }
                #expect(try await !refusal().contains("pod"))
                try await show("db-0", at: 0)
                var told = try await refusal()
                #expect(told.contains("stop pod shop/db-0 on node london-node"), "\(told)")
                try await show("db-1", at: 1)
                // Repeated, attaching forgets nobody.
                try await london.csi(["publish", id, "--node", "london-node"] + mode)
                told = try await refusal()
                #expect(told.contains("stop pod shop/db-0, shop/db-1 on node london-node"), "\(told)")
                try await london.csi(["node-unpublish", id, "--target-path", targets[0]])
                told = try await refusal()
                #expect(told.contains("stop pod shop/db-1 on node london-node"), "\(told)")
                try await london.csi(["node-unpublish", id, "--target-path", targets[1]])
                #expect(try await !refusal().contains("pod"))
                try await london.csi(["unstage", id, "--staging-path", staging])
                try await london.csi(["unpublish", id, "--node", "london-node"])
                try await sydney.csi(["publish", id, "--node", "sydney-node"])
            }
        }

        @Test func whatIsMountedWithoutBeingPublishedIsLetGoWithItsMount() async throws {
            try await withSites { pair, cleanup in
                let london = pair.london
                let id = try await CSIModesTests.make("pvc-1", at: london)
                let staging = pair.directory + "/staging"
                try cleanup.add(mountAt: staging)
                try await london.csi(["stage", id, "--staging-path", staging])
                #expect(try await self.publishedNodes(id, at: london) == ["london-node"])
                try await london.csi(["unstage", id, "--staging-path", staging])
                #expect(try await self.publishedNodes(id, at: london) == [])
                // Whoever mounted it was killed, and takes nothing back.
                let mount = try await pair.mount("pvc-1", at: london, cleanup)
                let early = try await CSIModesTests.outcome(
                    london, ["unpublish", id, "--node", "london-node"])
                #expect(early.code == Self.failedPrecondition && early.text.contains(mount), "\(early)")
                #expect(try await shell("echo x > f; cat f", in: mount).output == "x\n")
                #expect(try await self.publishedNodes(id, at: london) == ["london-node"])
                await london.kill()
                try await london.start()
                #expect(try await self.publishedNodes(id, at: london) == [])
            }
        }

        @Test func whatManyMayReadIsWrittenToByNobodyMeanwhile() async throws {
            try await withSites { pair, cleanup in
                let (london, sydney) = (pair.london, pair.sydney)
                let mode = ["--access-mode", "multi-node-reader-only"]
                let id = try await CSIModesTests.make("pvc-1", at: london, mode)
                try await london.godwit(["migrate", "pvc-1", "--to", "sydney", "--prepare-only"])
                let staging = pair.directory + "/staging"
                let targets = (0..<2).map { pair.directory + "/target-\($0)" }
                for path in [staging] + targets { try cleanup.add(mountAt: path) }
                // Filled by a writer.
                try await london.csi(["publish", id, "--node", "london-node"])
                let early = try await CSIModesTests.outcome(
                    london, ["publish", id, "--node", "london-node"] + mode)
                #expect(early.code == Self.alreadyExists, "\(early)")
                try await london.csi(["stage", id, "--staging-path", staging])
                _ = try await shell("echo kept > f", in: staging)
                try await london.csi(["unstage", id, "--staging-path", staging])
                try await london.csi(["unpublish", id, "--node", "london-node"])

                func publish() async throws -> String {
                    let answer = try await london.csi(["publish", id, "--node", "london-node"] + mode)
                    let object = try JSONSerialization.jsonObject(with: Data(answer.utf8)) as? [String: Any]
                    return try #require((object?["publish_context"] as? [String: String])?["epoch"])
                }
                let epoch = try await publish()
                #expect(try await publish() == epoch)
                #expect(try await self.publishedNodes(id, at: london) == ["london-node"])
                let context = ["--publish-context", "epoch=\(epoch)"] + mode
                let unattached = try await CSIModesTests.outcome(
                    london, ["stage", id, "--staging-path", staging] + mode)
                #expect(unattached.code == Self.failedPrecondition, "\(unattached)")
                try await london.csi(["stage", id, "--staging-path", staging] + context)
                for target in targets {
                    try await london.csi(
                        ["node-publish", id, "--staging-path", staging, "--target-path", target] + context)
                }
                for path in [staging] + targets {
                    #expect(try await shell("cat f", in: path).output == "kept\n")
                    let written = try await shell("touch g", in: path)
                    #expect(
                        !written.exit.isSuccess && written.output.contains("Read-only"), "\(written.output)")
                }
                func refusals() async throws {
                    let writer = try await CSIModesTests.outcome(
                        london, ["publish", id, "--node", "london-node"])
                    #expect(writer.code == Self.alreadyExists, "\(writer)")
                    let elsewhere = try await CSIModesTests.outcome(
                        sydney, ["publish", id, "--node", "sydney-node"])
                    #expect(
                        elsewhere.code == Self.failedPrecondition && elsewhere.text.contains("london-node"),
                        "\(elsewhere)")
                    let byHand = try await london.run([
                        "volume", "mount", "pvc-1", pair.directory + "/by-hand",
                    ])
                    #expect(!byHand.exit.isSuccess, "\(byHand.output)")
                    #expect(
                        ["mounted at", "london-node"].contains { byHand.output.contains($0) },
                        "\(byHand.output)")
                    let deletion = try await CSIModesTests.outcome(london, ["delete-volume", id])
                    #expect(deletion.code == Self.failedPrecondition, "\(deletion)")
                }
                try await refusals()
                await london.kill()
                try await london.start()
                #expect(try await publish() == epoch)
                try await refusals()
                // The node's next pod finds it again.
                try await london.csi(
                    ["node-publish", id, "--staging-path", staging, "--target-path", targets[0]] + context)
                #expect(try await shell("cat f", in: targets[0]).output == "kept\n")
                for target in targets {
                    try await london.csi(["node-unpublish", id, "--target-path", target])
                }
                try await london.csi(["unstage", id, "--staging-path", staging])
                for _ in 0..<2 { try await london.csi(["unpublish", id, "--node", "london-node"]) }
                #expect(try await self.publishedNodes(id, at: london) == [])
                try await sydney.csi(["publish", id, "--node", "sydney-node"])
            }
        }

        @Test func aVolumeIsPublishedInOneAccessModeAtATime() async throws {
            try await withSites { pair, _ in
                let london = pair.london
                let id = try await CSIModesTests.make("pvc-1", at: london)
                func publish(_ mode: String) async throws -> (code: Int32, text: String) {
                    try await CSIModesTests.outcome(
                        london, ["publish", id, "--node", "london-node", "--access-mode", mode])
                }
                for _ in 0..<2 { #expect(try await publish("single-node-multi-writer").code == 0) }
                for isRestarted in [false, true] {
                    if isRestarted {
                        await london.kill()
                        try await london.start()
                    }
                    let other = try await publish("single-node-single-writer")
                    #expect(
                        other.code == Self.alreadyExists && other.text.contains("SINGLE_NODE_MULTI_WRITER"),
                        "\(other)")
                    #expect(try await publish("single-node-multi-writer").code == 0)
                }
                try await london.csi(["unpublish", id, "--node", "london-node"])
                #expect(try await publish("single-node-single-writer").code == 0)
            }
        }
    }
}
