import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// VOLUME_MOUNT_GROUP over the CSI socket of a real site: what a pod's fsGroup gives, and what it leaves alone.
    @Suite struct CSIGroupTests {
        /// What a process without root's rights says and does in a directory.
        private func act(
            _ script: String, as group: Int, user: Int = 1000, in directory: String
        ) async throws -> ChildProcess.Outcome {
            try await shell(
                "exec setpriv --reuid \(user) --regid \(group) --clear-groups --inh-caps=-all bash -ec '\(script)'",
                in: directory)
        }

        private func state(of path: String) async throws -> String {
            try await shell("stat -c '%u:%g %a %z' \(path)", in: "/").output
        }

        /// CSI.md: only the root directory changes; what is in it keeps its group.
        @Test func aGroupGetsTheRootAndWhatIsMadeFromThenOn() async throws {
            try await withSites { pair, cleanup in
                let site = pair.london
                let id = try await CSIModesTests.make("pvc-1", at: site)
                let staging = pair.directory + "/staging"
                try cleanup.add(mountAt: staging)
                // Whoever is not root passes through.
                chmod(pair.directory, 0o755)
                func stage(_ more: [String], _ body: () async throws -> Void) async throws {
                    try await site.csi(["stage", id, "--staging-path", staging] + more)
                    // Again, as kubelet may.
                    try await site.csi(["stage", id, "--staging-path", staging] + more)
                    try await body()
                    try await site.csi(["unstage", id, "--staging-path", staging])
                }
                try await stage([]) {
                    let made = try await shell(
                        "echo root > old; chmod 600 old; mkdir -m 755 dir", in: staging)
                    #expect(made.exit.isSuccess, "\(made.output)")
                    let refused = try await act("echo x > mine", as: 7000, in: staging)
                    #expect(!refused.exit.isSuccess)
                }
                try await stage(["--mount-group", "7000"]) {
                    let done = try await act(
                        "echo x > mine; mkdir sub; echo y > sub/f; stat -c %g mine sub sub/f", as: 7000,
                        in: staging)
                    #expect(done.exit.isSuccess && done.output == "7000\n7000\n7000\n", "\(done.output)")
                    // Another user of the group; and what root made before stays root's.
                    #expect(try await act("echo z > other", as: 7000, user: 1001, in: staging).exit.isSuccess)
                    #expect(try await !act("cat old", as: 7000, in: staging).exit.isSuccess)
                    #expect(try await !act("echo x > dir/f", as: 7000, in: staging).exit.isSuccess)
                    let old = try await shell("stat -c '%u:%g %a' old dir .", in: staging)
                    #expect(old.output == "0:0 600\n0:0 755\n0:7000 2775\n", "\(old.output)")
                    #expect(try await !act("echo x > foreign", as: 7001, in: staging).exit.isSuccess)
                }
                // A pod of another group.
                try await stage(["--mount-group", "7001"]) {
                    #expect(try await act("echo x > second", as: 7001, in: staging).exit.isSuccess)
                    let groups = try await shell("stat -c %g mine second .", in: staging)
                    #expect(groups.output == "7000\n7001\n7001\n", "\(groups.output)")
                    // The first one keeps what it made, and makes no more at the top.
                    #expect(try await act("echo again >> sub/f", as: 7000, in: staging).exit.isSuccess)
                    #expect(try await !act("echo x > third", as: 7000, in: staging).exit.isSuccess)
                }
                var before = ""
                try await stage([]) { before = try await state(of: staging) }
                try await stage(
                    ["--mount-group", "7002", "--access-mode", "single-node-reader-only"]
                ) {
                    let now = try await state(of: staging)
                    #expect(now == before, "a read-only mount changed the volume")
                }
                var after = ""
                try await stage([]) { after = try await state(of: staging) }
                #expect(after == before)
            }
        }
    }
}
