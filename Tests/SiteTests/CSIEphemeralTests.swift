import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// Volumes that stand in a pod's description, as kubelet publishes them; and what must not be in a log.
    @Suite struct CSIEphemeralTests {
        private static let handle = "csi-" + String(repeating: "5d", count: 32)
        private static let name = "ephemeral-" + handle

        private func publish(_ target: String, _ attributes: [String] = ["size=64Mi"]) -> [String] {
            let all =
                attributes + [
                    "csi.storage.k8s.io/ephemeral=true", "csi.storage.k8s.io/pod.name=web",
                    "csi.storage.k8s.io/pod.namespace=default",
                ]
            return ["node-publish", Self.handle, "--target-path", target]
                + all.flatMap { ["--volume-context", $0] }
        }

        @Test func aPodsOwnVolumeIsMadeMountedAndDeleted() async throws {
            try await withSites { pair, cleanup in
                let site = pair.london
                let target = pair.directory + "/target"
                let other = pair.directory + "/other"
                for path in [target, other] { try cleanup.add(mountAt: path) }
                for _ in 0..<2 {
                    for _ in 0..<2 {
                        try await site.csi(
                            self.publish(target, ["size=64Mi", "inodes=100"]) + ["--mount-flag", "noexec"])
                    }
                    let written = try await shell(
                        "echo x > f; cat f; df -k --output=size . | tail -1; stat -f -c %c .; "
                            + "cp /bin/true t; ./t || echo cannot run", in: target)
                    for text in ["x\n", "65536", "100", "cannot run"] {
                        #expect(written.output.contains(text), "\(written.output)")
                    }
                    let stats = try await site.csi(["node-stats", Self.handle, "--volume-path", target])
                    #expect(stats.contains("67108864"), "\(stats)")
                    // Another size, another place, another way.
                    for (code, call) in [
                        (6, self.publish(target, ["size=1Gi"])),
                        (9, self.publish(other, ["size=64Mi", "inodes=100"])),
                        (6, self.publish(target, ["size=64Mi", "inodes=100"]) + ["--readonly"]),
                    ] as [(Int32, [String])] {
                        let outcome = try await CSIModesTests.outcome(site, call)
                        #expect(outcome.code == code, "\(call): \(outcome)")
                    }
                    #expect(try await site.godwit(["volume", "list"]).contains(Self.name))
                    for _ in 0..<2 {
                        try await site.csi(["node-unpublish", Self.handle, "--target-path", target])
                    }
                    #expect(!FileManager.default.fileExists(atPath: target))
                    #expect(try await !site.godwit(["volume", "list"]).contains(Self.name))
                    let left = try FileManager.default.contentsOfDirectory(
                        atPath: site.stateDirectory + "/volumes")
                    #expect(left.isEmpty, "\(left)")
                }
            }
        }

        @Test func aPodsOwnVolumeIsFoundAndDeletedAfterACrash() async throws {
            try await withSites { pair, cleanup in
                let site = pair.london
                let target = pair.directory + "/target"
                try cleanup.add(mountAt: target)
                let unpublish = ["node-unpublish", Self.handle, "--target-path", target]
                // Killed while it is mounted.
                try await site.csi(self.publish(target))
                try await site.csi(["node-stats", Self.handle, "--volume-path", target])
                await site.kill()
                try await site.start()
                #expect(try await site.godwit(["volume", "list"]).contains(Self.name))
                for _ in 0..<2 { try await site.csi(unpublish) }
                #expect(!FileManager.default.fileExists(atPath: target))
                #expect(try await !site.godwit(["volume", "list"]).contains(Self.name))
                // Made, and never mounted: where the target is to be, a file is in the way.
                try Data("x".utf8).write(to: URL(fileURLWithPath: target))
                #expect(try await CSIModesTests.outcome(site, self.publish(target)).code != 0)
                #expect(try await site.godwit(["volume", "list"]).contains(Self.name))
                await site.kill()
                try FileManager.default.removeItem(atPath: target)
                try await site.start()
                try await site.csi(unpublish)
                #expect(try await !site.godwit(["volume", "list"]).contains(Self.name))
                // Stopped in order, published again, for reading alone.
                try await site.csi(self.publish(target) + ["--readonly"])
                let refused = try await shell("echo x > f || echo refused", in: target)
                #expect(refused.output.contains("refused"), "\(refused.output)")
                await site.stop()
                try await site.start()
                try await site.csi(unpublish)
                let left = try FileManager.default.contentsOfDirectory(
                    atPath: site.stateDirectory + "/volumes")
                #expect(left.isEmpty, "\(left)")
            }
        }

        /// Whatever comes in a secrets field or in a context stays there, also where calls fail.
        @Test func noSecretIsEverLogged() async throws {
            let canary = "canary-5f1e9b"
            try await withSites(options: ["--log-level", "trace"]) { pair, cleanup in
                let site = pair.london
                let id = try await CSIModesTests.make("pvc-1", at: site)
                let staging = pair.directory + "/staging"
                let target = pair.directory + "/target"
                let inline = pair.directory + "/inline"
                for path in [staging, target, inline] { try cleanup.add(mountAt: path) }
                let capability = #"{"mount": {}, "access_mode": {"mode": "SINGLE_NODE_WRITER"}}"#
                let secrets = #""secrets": {"password": "\#(canary)", "\#(canary)-key": "x"}"#
                let volumeContext = #""volume_context": {"token": "\#(canary)", "\#(canary)-key": "x"}"#
                let publishContext = #""publish_context": {"token": "\#(canary)"}"#
                let contexts = "\(volumeContext), \(publishContext)"
                let volume = #""volume_id": "\#(id)", "volume_capability": \#(capability)"#
                let paths = #""staging_target_path": "\#(staging)", "target_path": "\#(target)""#
                let ephemeral = """
                    "volume_id": "\(Self.handle)", "volume_capability": \(capability), "target_path": "\(inline)"
                    """
                let inlineContext = #""volume_context": {"csi.storage.k8s.io/ephemeral": "true""#
                let calls = [
                    "Controller/CreateVolume": [
                        #"{"name": "pvc-2", "volume_capabilities": [\#(capability)], \#(secrets)}"#,
                        // Refused ones: what is told names no value.
                        #"{"name": "pvc-3", "volume_capabilities": [\#(capability)], \#(secrets), "parameters": {"inodes": "\#(canary)"}}"#,
                        #"{"name": "pvc-3", "volume_capabilities": [\#(capability)], \#(secrets), "mutable_parameters": {"pause": "\#(canary)"}}"#,
                        #"{"name": "pvc-3", \#(secrets)}"#,
                    ],
                    "Controller/ControllerPublishVolume": [
                        "{\(volume), \"node_id\": \"london-node\", \(secrets), \(volumeContext)}",
                        "{\(volume), \"node_id\": \"paris-node\", \(secrets), \(volumeContext)}",
                    ],
                    "Controller/ControllerExpandVolume": [
                        #"{"volume_id": "\#(id)", "capacity_range": {"required_bytes": 21474836480}, \#(secrets)}"#
                    ],
                    "Controller/ControllerModifyVolume": [
                        #"{"volume_id": "\#(id)", "mutable_parameters": {"pause": "false"}, \#(secrets)}"#
                    ],
                    "Controller/ValidateVolumeCapabilities": [
                        #"{"volume_id": "\#(id)", "volume_capabilities": [\#(capability)], \#(secrets)}"#
                    ],
                    "Node/NodeStageVolume": [
                        "{\(volume), \(paths.components(separatedBy: ", ")[0]), \(secrets), \(contexts)}",
                        #"{\#(volume), "staging_target_path": "x", \#(secrets), \#(contexts)}"#,
                    ],
                    "Node/NodePublishVolume": [
                        "{\(volume), \(paths), \(secrets), \(contexts)}",
                        #"{\#(volume), "target_path": "x", \#(secrets), \#(contexts)}"#,
                        "{\(ephemeral), \(secrets), \(inlineContext), \"size\": \"1Mi\"}}",
                        "{\(ephemeral), \(secrets), \(inlineContext), \"size\": \"\(canary)\"}}",
                    ],
                    "Controller/ControllerUnpublishVolume": [
                        #"{"volume_id": "\#(id)", "node_id": "london-node", \#(secrets)}"#
                    ],
                    "Controller/DeleteVolume": [#"{"volume_id": "\#(id)", \#(secrets)}"#],
                ]
                let order = [
                    "Controller/CreateVolume", "Controller/ControllerPublishVolume",
                    "Controller/ControllerExpandVolume", "Controller/ControllerModifyVolume",
                    "Controller/ValidateVolumeCapabilities", "Node/NodeStageVolume", "Node/NodePublishVolume",
                ]
                func play(_ method: String) async throws {
                    for (number, json) in try #require(calls[method]).enumerated() {
                        let outcome = try await CSIModesTests.outcome(
                            site, ["call", method, "--json", json])
                        // The first of each is well formed.
                        if number == 0 { #expect(outcome.code == 0, "\(method): \(outcome)") }
                        #expect(!outcome.text.contains(canary), "\(method): \(outcome)")
                    }
                }
                for method in order { try await play(method) }
                #expect(try await shell("echo x > f; cat f", in: target).output == "x\n")
                for path in [target, inline] {
                    try await site.csi([
                        "node-unpublish", path == target ? id : Self.handle, "--target-path", path,
                    ])
                }
                try await site.csi(["unstage", id, "--staging-path", staging])
                for method in ["Controller/ControllerUnpublishVolume", "Controller/DeleteVolume"] {
                    try await play(method)
                }
                let log = try String(contentsOfFile: site.logPath, encoding: .utf8)
                #expect(log.contains("mounted at"), "there is a log")
                #expect(!log.contains(canary), "\(log.split(separator: "\n").filter { $0.contains(canary) })")
                // Nor is it kept.
                let kept = try await shell(
                    "grep -rl \(canary) \(site.stateDirectory) || echo none", in: pair.directory)
                #expect(kept.output == "none\n", "\(kept.output)")
            }
        }
    }
}
