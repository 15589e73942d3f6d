import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// What a pod finds at its directory: the volume or an error, and never the node's own disk.
    @Suite struct CSITargetTests {
        private static let failedPrecondition: Int32 = 9
        private static let dead = "Transport endpoint is not connected"

        /// A volume that is staged and published at a site.
        private struct Published: Sendable {
            let site: SiteProcess
            let id: String
            let epoch: String
            let staging: String
            let target: String

            init(_ pair: SitePair, _ cleanup: Cleanup) async throws {
                site = pair.london
                id = try await CSIModesTests.make("pvc-1", at: site)
                let answer = try await site.csi(["publish", id, "--node", "london-node"])
                let object = try JSONSerialization.jsonObject(with: Data(answer.utf8)) as? [String: Any]
                epoch = try #require((object?["publish_context"] as? [String: String])?["epoch"])
                staging = pair.directory + "/staging"
                target = pair.directory + "/target"
                for path in [staging, target] { try cleanup.add(mountAt: path) }
                try await site.csi([
                    "stage", id, "--staging-path", staging, "--publish-context", "epoch=\(epoch)",
                ])
                try await publish(target)
            }

            func publish(_ target: String) async throws {
                try await site.csi([
                    "node-publish", id, "--staging-path", staging, "--target-path", target,
                    "--publish-context", "epoch=\(epoch)",
                ])
            }

            func restart() async throws {
                await site.kill()
                try await site.start()
            }

            func takeDown() async throws {
                for _ in 0..<2 {
                    try await site.csi(["node-unpublish", id, "--target-path", target])
                    try await site.csi(["unstage", id, "--staging-path", staging])
                }
                #expect(!FileManager.default.fileExists(atPath: target))
                let mounts = try TestBed.mountPoints()
                #expect(!mounts.contains(target) && !mounts.contains(staging))
            }
        }

        /// As a container that is started anew: whatever comes of it is no file on the node's disk.
        private func expectDead(_ path: String, _ comment: Comment? = nil) async throws {
            for command in ["echo x > '\(path)/f'", "mkdir '\(path)/d'", "ls '\(path)'"] {
                let outcome = try await ChildProcess.run(
                    Program("/bin/sh", ["-c", command]), limit: .seconds(30))
                #expect(!outcome.exit.isSuccess && outcome.output.contains(Self.dead), "\(outcome.output)")
            }
        }

        private func stats(_ volume: Published) async throws -> String {
            try await volume.site.csi(["node-stats", volume.id, "--volume-path", volume.target])
        }

        @Test func aTargetWhoseServerWasKilledFailsUntilItIsPublishedAnew() async throws {
            try await withSites { pair, cleanup in
                let volume = try await Published(pair, cleanup)
                _ = try await shell("echo kept > f; sync f .", in: volume.target)
                await volume.site.kill()
                try await self.expectDead(volume.target)
                try await volume.site.start()
                try await self.expectDead(volume.target)
                try await self.expectDead(volume.staging)
                let stats = try await self.stats(volume)
                #expect(stats.contains("started anew") && stats.contains("\"abnormal\":true"), "\(stats)")
                // By hand, too, a pod's directory is not laid bare.
                try await volume.site.godwit(["volume", "unmount", "pvc-1"])
                try await self.expectDead(volume.target)
                try await volume.site.csi([
                    "stage", volume.id, "--staging-path", volume.staging, "--publish-context",
                    "epoch=\(volume.epoch)",
                ])

                for _ in 0..<2 { try await volume.publish(volume.target) }
                #expect(
                    try await shell("cat f; echo new > g; sync g .; cat g", in: volume.target).output
                        == "kept\nnew\n")
                #expect(try await !self.stats(volume).contains("\"abnormal\":true"))
                // Kubelet believes that it is staged: without another call it is, for a pod that comes later.
                try await volume.restart()
                let later = pair.directory + "/later"
                try cleanup.add(mountAt: later)
                try await volume.site.csi(["node-unpublish", volume.id, "--target-path", volume.target])
                try await volume.publish(later)
                #expect(try await shell("cat f g", in: later).output == "kept\nnew\n")
                try await volume.site.csi(["node-unpublish", volume.id, "--target-path", later])
                // And what is dead is taken away like anything else.
                try await volume.publish(volume.target)
                try await volume.restart()
                try await volume.takeDown()
            }
        }

        /// Where a mount was taken away behind our back, nobody writes below it who is not root.
        @Test func belowTheMountsNothingCanBeWritten() async throws {
            try await withSites { pair, cleanup in
                let volume = try await Published(pair, cleanup)
                for path in [volume.target, volume.staging] {
                    _ = try await shell("umount -l '\(path)'; chmod a+rx .", in: pair.directory)
                    let bare = try await shell(
                        "stat -c %a '\(path)'; setpriv --reuid 65534 --clear-groups touch '\(path)/f' || echo refused",
                        in: pair.directory)
                    #expect(
                        bare.output.hasPrefix("0\n") && bare.output.hasSuffix("refused\n"), "\(bare.output)")
                }
                let refused = try await CSIModesTests.outcome(
                    volume.site,
                    [
                        "node-publish", volume.id, "--staging-path", volume.staging, "--target-path",
                        volume.target,
                    ])
                #expect(refused.code == Self.failedPrecondition, "\(refused)")
                try await volume.takeDown()
            }
        }

        @Test func aPodsOwnVolumeIsDeadAfterAKillAndPublishedAnew() async throws {
            try await withSites { pair, cleanup in
                let site = pair.london
                let target = pair.directory + "/target"
                try cleanup.add(mountAt: target)
                let handle = "csi-" + String(repeating: "5d", count: 32)
                let publish = [
                    "node-publish", handle, "--target-path", target, "--volume-context", "size=64Mi",
                    "--volume-context", "csi.storage.k8s.io/ephemeral=true",
                ]
                try await site.csi(publish)
                _ = try await shell("echo kept > f; sync f .", in: target)
                await site.kill()
                try await site.start()
                try await self.expectDead(target)
                for _ in 0..<2 { try await site.csi(publish) }
                #expect(try await shell("cat f", in: target).output == "kept\n")
                try await site.csi(["node-unpublish", handle, "--target-path", target])
                #expect(!FileManager.default.fileExists(atPath: target))
            }
        }

        /// Kubelet's directory is a symbolic link here, as administrators make them.
        @Test func aLinkThatIsSwappedInBelowKubeletsDirectoryIsRefused() async throws {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let directory = try cleanup.makeTemporaryDirectory()
                let files = FileManager.default
                try files.createDirectory(atPath: directory + "/disk", withIntermediateDirectories: true)
                try files.createSymbolicLink(
                    atPath: directory + "/kubelet", withDestinationPath: directory + "/disk")
                let kubelet = try FakeKubelet(directory: directory + "/kubelet")
                let site = SiteProcess(
                    name: "london", binary: godwitBinary, stateDirectory: directory + "/state",
                    address: "127.0.0.1:\(try freePort())", kubeletDirectory: kubelet.directory)
                try await site.initialise()
                try cleanup.add("site london", limit: .seconds(40)) { await site.stop() }
                try await site.start()
                let staging = directory + "/kubelet/plugins/staging"
                let volumes = directory + "/kubelet/pods/one/volumes"
                let target = volumes + "/pvc/mount"
                try files.createDirectory(atPath: volumes + "/pvc", withIntermediateDirectories: true)
                for path in [staging, target] {
                    try cleanup.add(mountAt: path.replacingOccurrences(of: "/kubelet/", with: "/disk/"))
                }
                let id = try await CSIModesTests.make("pvc-1", at: site)
                let publish = ["node-publish", id, "--staging-path", staging, "--target-path", target]
                let unpublish = ["node-unpublish", id, "--target-path", target]
                for _ in 0..<2 {
                    try await site.csi(["stage", id, "--staging-path", staging])
                    try await site.csi(publish)
                }
                _ = try await shell("echo kept > f", in: target)
                #expect(try await site.csi(["node-stats", id, "--volume-path", target]).contains("BYTES"))
                for _ in 0..<2 { try await site.csi(unpublish) }
                #expect(!files.fileExists(atPath: target))

                let elsewhere = directory + "/elsewhere"
                try files.createDirectory(atPath: elsewhere, withIntermediateDirectories: true)
                for swapped in [target, volumes + "/pvc", volumes] {
                    _ = try await shell(
                        "if [ -e '\(swapped)' ]; then mv '\(swapped)' '\(swapped).kept'; fi; ln -s '\(elsewhere)' '\(swapped)'",
                        in: directory)
                    for call in [publish, unpublish] {
                        let refused = try await CSIModesTests.outcome(site, call)
                        #expect(refused.code > 0, "\(swapped): \(refused)")
                    }
                    #expect(try files.contentsOfDirectory(atPath: elsewhere).isEmpty, "\(swapped)")
                    #expect(try !TestBed.mountPoints().contains { $0.hasPrefix(elsewhere) }, "\(swapped)")
                    _ = try await shell(
                        "rm '\(swapped)'; if [ -e '\(swapped).kept' ]; then mv '\(swapped).kept' '\(swapped)'; fi",
                        in: directory)
                }
                try await site.csi(publish)
                #expect(try await shell("cat f", in: target).output == "kept\n")
                try await site.csi(unpublish)
                try await site.csi(["unstage", id, "--staging-path", staging])
            }
        }

        /// Kubernetes gives a node up that has not said for six minutes that it let go of a pod that there is no more.
        @Test func aDetachmentByForceEndsTheMountAndLosesNothing() async throws {
            try await withSites { pair, cleanup in
                let (london, sydney) = (pair.london, pair.sydney)
                let volume = try await Published(pair, cleanup)
                try await london.godwit(["migrate", "pvc-1", "--to", "sydney", "--prepare-only"])
                // A pod that nobody has told: it writes, and notes what was acknowledged, until it gets an error.
                let log = pair.directory + "/acknowledged"
                var program = Program(
                    "/bin/bash",
                    [
                        "-c",
                        "i=0; while echo $i >> f && sync f; do echo $i > '\(log)'; i=$((i+1)); done; exit 0",
                    ])
                program.directory = volume.target
                let pod = try await ChildProcess.start(program)
                try cleanup.add(pod, with: SIGKILL)
                try await SiteTests.wait("the pod to write") {
                    ((try? String(contentsOfFile: log, encoding: .utf8)) ?? "0\n") > "3\n"
                }
                for _ in 0..<2 { try await london.csi(["unpublish", volume.id, "--node", "london-node"]) }
                #expect(try await pod.wait(limit: .seconds(30)).isSuccess)
                try await self.expectDead(volume.target)
                // It is attached anew; what was attached before counts no more.
                try await sydney.csi(["publish", volume.id, "--node", "sydney-node"])
                let late = try await CSIModesTests.outcome(
                    london,
                    [
                        "stage", volume.id, "--staging-path", volume.staging, "--publish-context",
                        "epoch=\(volume.epoch)",
                    ])
                #expect(late.code == Self.failedPrecondition, "\(late)")
                let there = pair.directory + "/there"
                try cleanup.add(mountAt: there)
                try await sydney.csi(["stage", volume.id, "--staging-path", there])
                let last = try String(contentsOfFile: log, encoding: .utf8)
                let found = try await shell("grep -cx '\(last.dropLast())' f; echo more >> f", in: there)
                #expect(found.output == "1\n", "\(last): \(found.output)")
                try await self.expectDead(volume.target)
                try await volume.takeDown()
                try await sydney.csi(["unstage", volume.id, "--staging-path", there])
            }
        }

        @Test func afterADetachmentByForceTheSameNodeMayUseItAgain() async throws {
            try await withSites { pair, cleanup in
                let volume = try await Published(pair, cleanup)
                _ = try await shell("echo kept > f", in: volume.target)
                try await volume.site.csi(["unpublish", volume.id, "--node", "london-node"])
                let answer = try await volume.site.csi(["publish", volume.id, "--node", "london-node"])
                #expect(!answer.contains("\"\(volume.epoch)\""), "\(answer)")
                // Kubelet believes that it is staged, and its pod there is gone only now.
                try await self.expectDead(volume.target)
                let old = try await CSIModesTests.outcome(
                    volume.site,
                    [
                        "node-publish", volume.id, "--staging-path", volume.staging, "--target-path",
                        volume.target, "--publish-context", "epoch=\(volume.epoch)",
                    ])
                #expect(old.code == Self.failedPrecondition, "\(old)")
                try await volume.site.csi([
                    "node-publish", volume.id, "--staging-path", volume.staging, "--target-path",
                    volume.target,
                ])
                #expect(try await shell("cat f", in: volume.target).output == "kept\n")
                try await volume.takeDown()
            }
        }

        /// What a process that was killed has left mounted is gone with the attachment, too.
        @Test func aDetachmentByForceCountsWhatIsDead() async throws {
            try await withSites { pair, cleanup in
                let volume = try await Published(pair, cleanup)
                try await volume.restart()
                try await volume.site.csi(["unpublish", volume.id, "--node", "london-node"])
                let late = try await CSIModesTests.outcome(
                    volume.site,
                    [
                        "stage", volume.id, "--staging-path", volume.staging, "--publish-context",
                        "epoch=\(volume.epoch)",
                    ])
                #expect(late.code == Self.failedPrecondition, "\(late)")
                try await self.expectDead(volume.target)
                try await volume.takeDown()
            }
        }

        /// A container that sees the host's directories in a mount namespace of its own has a copy of what was mounted.
        @Test func aCopyOfTheMountElsewhereKeepsTheVolumeFromNobody() async throws {
            try await withSites { pair, cleanup in
                let volume = try await Published(pair, cleanup)
                _ = try await shell("echo kept > f", in: volume.target)
                let inside = pair.directory + "/inside"
                let other = try await ChildProcess.start(
                    Program(
                        "unshare",
                        [
                            "-m", "--propagation", "private", "/bin/sh", "-c",
                            "cat '\(volume.target)/f' > '\(inside)'; exec sleep 300",
                        ]))
                try cleanup.add(other, with: SIGKILL)
                try await SiteTests.wait("the copy to be used") {
                    (try? String(contentsOfFile: inside, encoding: .utf8)) == "kept\n"
                }
                try await volume.takeDown()
                try await volume.site.csi(["unpublish", volume.id, "--node", "london-node"])
                let there = pair.directory + "/there"
                try cleanup.add(mountAt: there)
                try await volume.site.godwit(["migrate", "pvc-1", "--to", "sydney", "--prepare-only"])
                try await pair.sydney.csi(["publish", volume.id, "--node", "sydney-node"])
                try await pair.sydney.csi(["stage", volume.id, "--staging-path", there])
                #expect(try await shell("cat f", in: there).output == "kept\n")
                try await pair.sydney.csi(["unstage", volume.id, "--staging-path", there])
            }
        }
    }
}
