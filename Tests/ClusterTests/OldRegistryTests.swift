import ClusterResources
import Foundation
import KubernetesAPI
import Testing

@testable import Cluster
@testable import TestBed

extension ClusterTests {
    @Suite(.enabled(if: geteuid() == 0, "sites need root")) struct OldRegistryTests {
        /// Promises.md, "Older backup": "It is noticed at the site's start by the epochs kept with the data."
        @Test func aVolumeWhoseRecordIsOlderThanItsDataIsNotServedAndSaysSo() async throws {
            try await TwoClusters.run { both in
                let (london, sydney) = (both.london, both.sydney)
                try await both.withMount(london) { path in
                    try Data((0..<(4 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 7) })
                        .write(to: URL(fileURLWithPath: path + "/first"))
                }
                let backup = try await record(london)
                // sydney owns it since, and its bytes are still at london.
                try await london.site.godwit(["migrate", "pvc-1", "--to", "sydney", "--prepare-only"])
                try await sydney.site.godwit(["volume", "hydrate", "pvc-1", "--pause"])
                try await london.site.godwit(["migrate", "pvc-1", "--to", "sydney", "--detach"])
                let newest = try await record(london)
                await sydney.site.stop()
                await london.site.stop()

                try await restore(backup, at: london)
                try await london.site.start()
                try await eventually("the condition") { try await served(london)?.status == "False" }
                let told = try #require(try await served(london)?.message)
                #expect(told.contains("older than the data"), "\(told)")
                for command in [
                    ["volume", "mount", "pvc-1", london.directory], ["volume", "delete", "pvc-1"],
                    ["migrate", "pvc-1", "--to", "sydney", "--prepare-only"],
                ] {
                    let refused = try await london.site.run(command)
                    #expect(!refused.exit.isSuccess && refused.output.contains("older"), "\(refused.output)")
                }
                await #expect(throws: (any Error).self) {
                    try await london.site.csi(["publish", both.volume, "--node", "london-node"])
                }
                // Who owns it is not told anything on the word of an old record, and keeps what it has.
                try await sydney.site.start()
                try await Task.sleep(for: .seconds(5))
                #expect(try await record(london) == backup)
                #expect(try await sydney.site.inspect("pvc-1")["owner"] as? String == "sydney")
                let described = try await london.cluster.kubectl(["describe", "volumes.godwit.dev", "pvc-1"])
                #expect(described.output.contains("NotServed"), "\(described.output.suffix(1500))")
                let doctor = try await ChildProcess.run(
                    Program(kubectlGodwitBinary, ["doctor", "--kubeconfig", london.cluster.kubeconfig]),
                    limit: .seconds(60))
                #expect(!doctor.exit.isSuccess)
                #expect(doctor.output.contains("FAIL  volume pvc-1 is not served"), "\(doctor.output)")

                // A newer one restored, it goes on, and sydney gets its bytes.
                await london.site.stop()
                try await restore(newest, at: london)
                try await london.site.start()
                try await eventually("the condition is taken back") {
                    try await served(london)?.status == "True"
                }
                #expect(try await london.site.inspect("pvc-1")["owner"] as? String == "sydney")
                try await sydney.site.godwit(["volume", "hydrate", "pvc-1", "--no-pause"])
                try await eventually("every byte is at sydney", limit: .seconds(120)) {
                    try await sydney.site.inspect("pvc-1")["released"] as? Bool == true
                }
            }
        }

        private func record(_ end: TwoClusters.End) async throws -> VolumeResource.Spec {
            try await end.client.get(VolumeResource.self, "pvc-1").spec
        }

        /// What etcd restored from a snapshot would hold, of this object.
        private func restore(_ spec: VolumeResource.Spec, at end: TwoClusters.End) async throws {
            var object = try await end.client.get(VolumeResource.self, "pvc-1")
            object.spec = spec
            _ = try await end.client.update(object)
        }

        private func served(_ end: TwoClusters.End) async throws -> Condition? {
            try await end.client.get(VolumeResource.self, "pvc-1").status?.conditions?
                .first { $0.type == ClusterNames.served }
        }
    }
}
