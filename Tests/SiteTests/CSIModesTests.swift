import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// Access modes, epochs, changes and codes over the CSI socket of real sites.
    @Suite struct CSIModesTests {
        /// A volume's id, made.
        static func make(_ name: String, at site: SiteProcess, _ options: [String] = []) async throws
            -> String
        {
            let answer = try await site.csi(["create-volume", name] + options)
            let object = try JSONSerialization.jsonObject(with: Data(answer.utf8)) as? [String: Any]
            return try #require((object?["volume"] as? [String: Any])?["volume_id"] as? String)
        }

        /// The gRPC code that a call ends with, and what is said.
        static func outcome(
            _ site: SiteProcess, _ arguments: [String]
        ) async throws -> (code: Int32, text: String) {
            let outcome = try await ChildProcess.run(
                Program(site.binary, ["csi"] + arguments + ["--endpoint", site.csiEndpoint]),
                limit: .seconds(60))
            guard case .exited(let status) = outcome.exit else { return (-1, outcome.output) }
            return (status == 0 ? 0 : status - 10, outcome.output)
        }

        private static let invalidArgument: Int32 = 3
        private static let notFound: Int32 = 5
        private static let alreadyExists: Int32 = 6
        private static let failedPrecondition: Int32 = 9
        private static let outOfRange: Int32 = 11

        @Test func theAccessModeSaysHowManyPodsOfANodeUseAVolume() async throws {
            try await withSites { pair, cleanup in
                let site = pair.london
                let id = try await Self.make("pvc-1", at: site)
                let staging = pair.directory + "/staging"
                let targets = (0..<3).map { pair.directory + "/target-\($0)" }
                for path in [staging] + targets { try cleanup.add(mountAt: path) }
                func publish(_ target: Int, _ mode: String, _ more: [String] = []) async throws -> Int32 {
                    try await Self.outcome(
                        site,
                        [
                            "node-publish", id, "--staging-path", staging, "--target-path", targets[target],
                            "--access-mode", mode,
                        ] + more
                    ).code
                }
                for mode in ["single-node-single-writer", "single-node-writer"] {
                    try await site.csi(["stage", id, "--staging-path", staging, "--access-mode", mode])
                    #expect(try await publish(0, mode) == 0)
                    #expect(try await publish(0, mode) == 0)
                    // The same path with other arguments, and another path.
                    #expect(try await publish(0, mode, ["--readonly"]) == Self.alreadyExists)
                    #expect(try await publish(0, mode, ["--mount-flag", "noexec"]) == Self.alreadyExists)
                    let second = try await Self.outcome(
                        site,
                        [
                            "node-publish", id, "--staging-path", staging, "--target-path", targets[1],
                            "--access-mode", mode,
                        ])
                    #expect(second.code == Self.failedPrecondition && second.text.contains(targets[0]))
                    #expect(try await publish(1, mode, ["--readonly"]) == Self.failedPrecondition)
                    try await site.csi(["node-unpublish", id, "--target-path", targets[0]])
                    // Nobody uses it any more.
                    #expect(try await publish(1, mode) == 0)
                    try await site.csi(["node-unpublish", id, "--target-path", targets[1]])
                    try await site.csi(["unstage", id, "--staging-path", staging])
                }
                let many = "single-node-multi-writer"
                try await site.csi(["stage", id, "--staging-path", staging, "--access-mode", many])
                for target in 0..<2 { #expect(try await publish(target, many) == 0) }
                #expect(try await publish(2, many, ["--readonly"]) == 0)
                _ = try await shell("echo one > f", in: targets[0])
                _ = try await shell("echo two >> f", in: targets[1])
                #expect(try await shell("cat f", in: targets[2]).output == "one\ntwo\n")
                let written = try await shell("echo three >> f || echo refused", in: targets[2])
                #expect(written.output.contains("refused"), "\(written.output)")
                #expect(try await publish(2, many) == Self.alreadyExists)
                for target in targets { try await site.csi(["node-unpublish", id, "--target-path", target]) }
                try await site.csi(["unstage", id, "--staging-path", staging])
                // Staged for reading alone.
                let reading = ["--access-mode", "single-node-reader-only"]
                try await site.csi(["stage", id, "--staging-path", staging] + reading)
                let other = try await Self.outcome(site, ["stage", id, "--staging-path", staging])
                #expect(other.code == Self.alreadyExists, "\(other)")
                #expect(try await publish(0, reading[1]) == 0)
                let kept = try await shell("cat f; echo x > g || echo refused", in: targets[0])
                #expect(kept.output.contains("two") && kept.output.contains("refused"), "\(kept.output)")
                try await site.csi(["node-unpublish", id, "--target-path", targets[0]])
                try await site.csi(["unstage", id, "--staging-path", staging])
            }
        }

        @Test func anAttachmentFromBeforeTheVolumeWasElsewhereIsRefused() async throws {
            try await withSites { pair, cleanup in
                let (london, sydney) = (pair.london, pair.sydney)
                let id = try await Self.make("pvc-1", at: london)
                let first = try await self.attach(id, at: london)
                #expect(try await self.attach(id, at: london) == first)
                try await london.godwit(["migrate", "pvc-1", "--to", "sydney", "--prepare-only"])
                try await london.csi(["unpublish", id, "--node", "london-node"])
                let second = try await self.attach(id, at: sydney)
                #expect(second != first)
                for site in pair.sites { try cleanup.add(mountAt: pair.directory + "/staging-\(site.name)") }
                func stage(_ site: SiteProcess, _ epoch: String?) async throws -> (code: Int32, text: String)
                {
                    try await Self.outcome(
                        site,
                        ["stage", id, "--staging-path", pair.directory + "/staging-\(site.name)"]
                            + (epoch.map { ["--publish-context", "epoch=\($0)"] } ?? []))
                }
                func unstage(_ site: SiteProcess) async throws {
                    try await site.csi([
                        "unstage", id, "--staging-path", pair.directory + "/staging-\(site.name)",
                    ])
                }
                // London's attachment counts no more, and does not take the volume away from sydney.
                let old = try await stage(london, first)
                #expect(old.code == Self.failedPrecondition && old.text.contains("epoch \(first)"), "\(old)")
                #expect(try await sydney.inspect("pvc-1")["role"] as? String == "owning")
                #expect(try await stage(sydney, second).code == 0)
                #expect(try await stage(sydney, second).code == 0)
                try await unstage(sydney)
                try await sydney.csi(["unpublish", id, "--node", "sydney-node"])
                let third = try await self.attach(id, at: london)
                let older = try await stage(london, first)
                #expect(
                    older.code == Self.failedPrecondition && older.text.contains("epoch \(third)"), "\(older)"
                )
                #expect(try await stage(london, third).code == 0)
                try await unstage(london)
                try await london.csi(["unpublish", id, "--node", "london-node"])
                // Where nothing is attached beforehand (attachRequired: false), staging acquires it.
                #expect(try await stage(sydney, nil).code == 0)
                #expect(try await sydney.inspect("pvc-1")["role"] as? String == "owning")
                let refused = try await stage(london, nil)
                #expect(
                    refused.code == Self.failedPrecondition && refused.text.contains("sydney"), "\(refused)")
                try await unstage(sydney)
            }
        }

        /// The epoch that ControllerPublishVolume tells.
        private func attach(_ id: String, at site: SiteProcess) async throws -> String {
            let answer = try await site.csi(["publish", id, "--node", "\(site.name)-node"])
            let object = try JSONSerialization.jsonObject(with: Data(answer.utf8)) as? [String: Any]
            return try #require((object?["publish_context"] as? [String: String])?["epoch"])
        }

        @Test func mutableParametersAreFollowedAndSurviveARestart() async throws {
            try await withSites { pair, _ in
                let site = pair.london
                let options = ["--mutable-parameter", "rateLimit=10Mi"]
                let id = try await Self.make("pvc-1", at: site, options)
                #expect(try await site.number("hydrationBytesPerSecond", of: "pvc-1") == 10 << 20)
                try await site.csi([
                    "modify-volume", id, "--mutable-parameter", "rateLimit=2Mi", "--mutable-parameter",
                    "pause=true", "--mutable-parameter", "prefetch=start",
                ])
                // A late repetition of the creation sets nothing back.
                #expect(try await Self.make("pvc-1", at: site, options) == id)
                await site.kill()
                try await site.start()
                #expect(try await site.number("hydrationBytesPerSecond", of: "pvc-1") == 2 << 20)
                #expect(try await site.inspect("pvc-1")["hydrationPaused"] as? Bool == true)
                #expect(try await site.inspect("pvc-1")["hydrationPrefetch"] as? String == "start")
                let worse = try await Self.outcome(
                    site, ["modify-volume", id, "--mutable-parameter", "prefetch=some"])
                #expect(worse.code == Self.invalidArgument && worse.text.contains("'start'"), "\(worse)")
                let bad = try await Self.outcome(
                    site,
                    [
                        "modify-volume", id, "--mutable-parameter", "pause=false", "--mutable-parameter",
                        "colour=red",
                    ])
                #expect(bad.code == Self.invalidArgument && bad.text.contains("colour"), "\(bad)")
                #expect(try await site.inspect("pvc-1")["hydrationPaused"] as? Bool == true)
                try await site.csi([
                    "modify-volume", id, "--mutable-parameter", "rateLimit=none", "--mutable-parameter",
                    "pause=false",
                ])
                #expect(try await site.number("hydrationBytesPerSecond", of: "pvc-1") == 0)
                #expect(try await site.inspect("pvc-1")["hydrationPaused"] as? Bool == false)
                try await site.godwit(["volume", "hydrate", "pvc-1", "--prefetch", "none"])
                #expect(try await site.inspect("pvc-1")["hydrationPrefetch"] as? String == "none")
            }
        }

        @Test func whatCannotBeIsRefusedWithTheSpecificationsCode() async throws {
            try await withSites { pair, _ in
                let site = pair.london
                let id = try await Self.make("pvc-1", at: site, ["--required-bytes", "1Gi"])
                let unknown = "00000000-0000-4000-8000-000000000000"
                let staging = pair.directory + "/staging"
                let calls: [(Int32, [String])] = [
                    (Self.alreadyExists, ["create-volume", "pvc-1", "--required-bytes", "2Gi"]),
                    (
                        Self.alreadyExists,
                        ["create-volume", "pvc-1", "--required-bytes", "1Gi", "--parameter", "inodes=9"]
                    ),
                    (
                        Self.outOfRange,
                        ["create-volume", "pvc-2", "--required-bytes", "2Gi", "--limit-bytes", "1Gi"]
                    ),
                    (Self.outOfRange, ["create-volume", "pvc-2", "--required-bytes", "2048Ti"]),
                    (Self.invalidArgument, ["create-volume", "pvc-2", "--block"]),
                    (
                        Self.invalidArgument,
                        ["create-volume", "pvc-2", "--access-mode", "multi-node-multi-writer"]
                    ),
                    (Self.invalidArgument, ["create-volume", "pvc-2", "--parameter", "inodes=many"]),
                    (Self.invalidArgument, ["create-volume", "pvc-2", "--mutable-parameter", "colour=red"]),
                    (Self.outOfRange, ["expand-volume", id, "--required-bytes", "2048Ti"]),
                    (Self.notFound, ["expand-volume", unknown, "--required-bytes", "2Gi"]),
                    (Self.notFound, ["get-volume", unknown]),
                    (Self.notFound, ["validate", unknown]),
                    (Self.notFound, ["publish", unknown, "--node", "london-node"]),
                    (Self.notFound, ["publish", id, "--node", "paris-node"]),
                    (Self.invalidArgument, ["publish", id, "--node", "london-node", "--block"]),
                    (Self.notFound, ["stage", unknown, "--staging-path", staging]),
                    (Self.invalidArgument, ["stage", id, "--staging-path", staging, "--block"]),
                    (
                        Self.failedPrecondition,
                        ["node-publish", id, "--target-path", pair.directory + "/target"]
                    ),
                    (Self.notFound, ["node-stats", id, "--volume-path", "/tmp"]),
                    (10, ["list-volumes", "--starting-token", "rubbish"]),
                    (Self.invalidArgument, ["list-volumes", "--max-entries=-1"]),
                ]
                for (code, arguments) in calls {
                    let outcome = try await Self.outcome(site, arguments)
                    #expect(outcome.code == code && !outcome.text.isEmpty, "\(arguments): \(outcome)")
                }
                #expect(try await !site.csi(["list-volumes"]).contains("pvc-2"))
                // In use: deleted only after it is let go.
                try await site.csi(["publish", id, "--node", "london-node"])
                #expect(try await site.csi(["get-volume", id]).contains("london-node"))
                let used = try await Self.outcome(site, ["delete-volume", id])
                #expect(used.code == Self.failedPrecondition && used.text.contains("london-node"), "\(used)")
                try await site.csi(["unpublish", id])
                #expect(try await !site.csi(["get-volume", id]).contains("london-node"))
                try await site.csi(["delete-volume", id])
                #expect(try await Self.outcome(site, ["get-volume", id]).code == Self.notFound)
            }
        }
    }
}
