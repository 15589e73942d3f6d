import ClusterResources
import Foundation
import KubernetesAPI
import Testing

@testable import Cluster
@testable import TestBed

extension ClusterTests {
    @Suite(.enabled(if: geteuid() == 0, "sites need root")) struct ArrivalTests {
        private static let blob = Data((0..<(2 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 9) })

        /// A pod finds what the pods before it wrote, and writes a file of its own.
        private func runPod(
            _ both: TwoClusters, at end: TwoClusters.End, finds known: Set<String> = [], writes name: String
        ) async throws {
            try await both.withMount(end) { path in
                let found = Set(try FileManager.default.contentsOfDirectory(atPath: path))
                #expect(found.subtracting(["lost+found"]) == known)
                for file in known {
                    let bytes = try Data(contentsOf: URL(fileURLWithPath: "\(path)/\(file)"))
                    #expect(bytes == Self.blob, "\(file) at \(end.name)")
                }
                try Self.blob.write(to: URL(fileURLWithPath: "\(path)/\(name)"))
            }
        }

        /// Claims.md: "that site follows the volume (Preparing, Ready), and the claim appears there".
        @Test func aClaimAppearsAtTheOtherClusterMovesThereAndComesHome() async throws {
            try await TwoClusters.run { both in
                let (london, sydney) = (both.london, both.sydney)
                try await runPod(both, at: london, writes: "first")
                try await both.makeNamespace(sydney)
                try await both.startController(london)
                let controller = try await both.startController(sydney)
                try await both.annotate(london, "godwit.dev/migrate-to=sydney")
                try await both.wait(for: .ready, at: london)
                try await both.wait(forClaim: "Made")
                try await expectTwin(both)
                for end in [london, sydney] { try await both.wait(forNote: "Ready sydney", at: end) }
                // Killed and started again it changes nothing.
                _ = controller.kill()
                try await both.startController(sydney)

                try await runPod(both, at: sydney, finds: ["first"], writes: "second")
                try await both.wait(for: .done, at: london)
                try await eventually("the fulfilled wish is taken away") {
                    try await both.claim(london)?.metadata.annotations?[ClaimWishes.migrateTo] == nil
                }
                for end in [london, sydney] { try await both.wait(forNote: "Done sydney", at: end) }
                try await eventually("the volume is noted as used", limit: .seconds(90)) {
                    try await both.persistentVolumes(sydney).first?.metadata.annotations?[ArrivingClaim.used]
                        != nil
                }
                let objects = (try await both.claim(london), try await both.persistentVolumes(london))

                try await both.annotate(sydney, "godwit.dev/migrate-to=london")
                try await both.wait(for: .ready, at: sydney)
                try await eventually("the claim at home is known to be there") {
                    let conditions = try await both.migration(sydney)?.status?.conditions
                    return conditions?.first { $0.type == "ClaimMade" }?.reason == "Kept"
                }
                try await runPod(both, at: london, finds: ["first", "second"], writes: "third")
                try await both.wait(for: .done, at: sydney)
                for end in [london, sydney] { try await both.wait(forNote: "Done london", at: end) }
                // At home everything is as it was, and nothing twice.
                #expect(
                    try await both.persistentVolumes(london).map(\.metadata.uid)
                        == objects.1.map(\.metadata.uid))
                #expect(try await both.claim(london)?.metadata.uid == objects.0?.metadata.uid)
                #expect(try await both.persistentVolumes(sydney).count == 1)
                // The first wish is not taken up again.
                #expect(try await both.migration(london)?.status?.phase == .done)
                #expect(try await london.site.inspect("pvc-1")["owner"] as? String == "london")
                try await moveAgain(both)
            }
        }

        /// The claim at sydney was deleted meanwhile; its volume stayed, as Kubernetes leaves it then.
        private func moveAgain(_ both: TwoClusters) async throws {
            let (london, sydney) = (both.london, both.sydney)
            let before = try #require(try await both.claim(sydney)?.metadata.uid)
            let volume = try #require(try await both.persistentVolumes(sydney).first?.metadata)
            try await sydney.client.delete(PersistentVolumeClaim.self, "data-0", in: "shop")
            try await both.finishDeletions(sydney)
            _ = try await sydney.client.patch(
                PersistentVolume.self, volume.name ?? "", ["spec": ["claimRef": ["uid": .string(before)]]])
            try await both.annotate(london, "godwit.dev/migrate-to=sydney")
            try await both.wait(for: .ready, at: london)
            try await eventually("the claim is there again", limit: .seconds(90)) {
                try await both.claim(sydney) != nil
            }
            try await expectTwin(both)
            let freed = try #require(try await both.persistentVolumes(sydney).first)
            #expect(freed.metadata.uid == volume.uid && freed.spec.claimRef?.uid == nil)
            // Withdrawn now, what sydney once used stays.
            try await both.annotate(london, "godwit.dev/migrate-to-")
            try await both.wait(for: .cancelled, at: london)
            // What is left to say is that it is at home.
            try await both.wait(forNote: "Done london", at: london)
            try await both.wait(forNote: nil, at: sydney)
            try await Task.sleep(for: .seconds(5))
            #expect(try await both.claim(sydney)?.metadata.deletionTimestamp == nil)
            #expect(try await both.persistentVolumes(sydney).first?.metadata.deletionTimestamp == nil)
            #expect(try await sydney.site.inspect("pvc-1")["role"] as? String == "retired")
            // Deleted at home, it stays as well.
            try await london.client.delete(PersistentVolumeClaim.self, "data-0", in: "shop")
            try await both.finishDeletions(london)
            try await london.site.csi(["delete-volume", both.volume])
            try await Task.sleep(for: .seconds(5))
            #expect(try await both.claim(sydney)?.metadata.deletionTimestamp == nil)
            #expect(try await both.persistentVolumes(sydney).first?.metadata.deletionTimestamp == nil)
            #expect(try await sydney.site.inspect("pvc-1")["role"] as? String == "retired")
        }

        /// Claims.md: "When the claim at home is deleted before the hand-over … the claim that was made there goes".
        @Test func aClaimDeletedAtHomeTakesItsTwinAndTheReplicaAway() async throws {
            try await TwoClusters.run { both in
                let (london, sydney) = (both.london, both.sydney)
                try await both.makeNamespace(sydney)
                for end in [london, sydney] { try await both.startController(end) }
                try await both.annotate(london, "godwit.dev/migrate-to=sydney")
                try await both.wait(for: .ready, at: london)
                try await both.wait(forClaim: "Made")
                // While the follower cannot be told, the volume stays, and the reason is said.
                await sydney.site.kill()
                try await london.client.delete(PersistentVolumeClaim.self, "data-0", in: "shop")
                try await both.wait(for: .failed, at: london)
                #expect(
                    try await both.migration(london)?.status?.message.contains("claim is deleted") == true)
                try await both.finishDeletions(london)
                await #expect {
                    try await london.site.csi(["delete-volume", both.volume])
                } throws: {
                    "\($0)".contains("site sydney may follow it")
                        && "\($0)".contains("'godwit volume revoke pvc-1 --site sydney', or 'godwit pki")
                }
                #expect(try await london.site.inspect("pvc-1")["owner"] as? String == "london")
                // With Retain nobody deletes the volume: the end of the claim is enough.
                try await sydney.site.start()
                try await eventually("nothing is left at sydney", limit: .seconds(120)) {
                    try await both.finishDeletions(sydney)
                    let volumes = try await both.persistentVolumes(sydney)
                    let claim = try await both.claim(sydney)
                    return volumes.isEmpty && claim == nil
                }
                let known = try await sydney.site.run(["volume", "inspect", both.volume])
                #expect(!known.exit.isSuccess && known.output.contains("there is no volume"))
                try await eventually("the migration goes with its claim") {
                    try await both.migration(london) == nil
                }
                for _ in 0..<2 { try await london.site.csi(["delete-volume", both.volume]) }
                let gone = try await london.site.run(["volume", "inspect", both.volume])
                #expect(!gone.exit.isSuccess && gone.output.contains("there is no volume"))
            }
        }

        /// The provisioner is faster than the controller, which does not run.
        @Test func aVolumeDeletedAtHomeIsForgottenByItsFollower() async throws {
            try await TwoClusters.run { both in
                let (london, sydney) = (both.london, both.sydney)
                try await both.makeNamespace(sydney)
                let controller = try await both.startController(london)
                try await both.startController(sydney)
                try await both.annotate(london, "godwit.dev/migrate-to=sydney")
                try await both.wait(forClaim: "Made")
                _ = controller.kill()
                try await london.client.delete(PersistentVolumeClaim.self, "data-0", in: "shop")
                try await both.finishDeletions(london)
                try await london.site.csi(["delete-volume", both.volume])
                try await eventually("nothing is left at sydney", limit: .seconds(120)) {
                    try await both.finishDeletions(sydney)
                    let volumes = try await both.persistentVolumes(sydney)
                    let claim = try await both.claim(sydney)
                    return volumes.isEmpty && claim == nil
                }
                let known = try await sydney.site.run(["volume", "inspect", both.volume])
                #expect(!known.exit.isSuccess && known.output.contains("there is no volume"))
            }
        }

        private func expectTwin(_ both: TwoClusters) async throws {
            let claim = try #require(try await both.claim(both.sydney))
            let original = try #require(try await both.claim(both.london))
            #expect(claim.metadata.labels == original.metadata.labels)
            #expect(claim.metadata.annotations?[ClaimWishes.migrateTo] == nil)
            #expect(claim.spec.resources == original.spec.resources)
            #expect(claim.spec.accessModes == original.spec.accessModes)
            #expect(claim.spec.storageClassName == "godwit")
            let volumes = try await both.persistentVolumes(both.sydney)
            let volume = try #require(volumes.first)
            #expect(volumes.count == 1 && claim.spec.volumeName == volume.metadata.name)
            #expect(
                volume.spec.csi?.driver == "csi.godwit.dev" && volume.spec.csi?.volumeHandle == both.volume)
            #expect(volume.spec.claimRef?.namespace == "shop" && volume.spec.claimRef?.name == "data-0")
            #expect(volume.spec.persistentVolumeReclaimPolicy == "Retain")
            #expect(volume.spec.capacity == ["storage": "1Gi"])
            #expect(
                volume.spec.nodeAffinity == .init(label: "topology.godwit.dev/site", value: "sydney"))
        }

        @Test func anAnnotationTakenAwayBeforeTheHandOverTakesTheTwinAway() async throws {
            try await TwoClusters.run { both in
                let (london, sydney) = (both.london, both.sydney)
                try await both.makeNamespace(sydney)
                for end in [london, sydney] { try await both.startController(end) }
                for _ in 0..<2 {
                    try await both.annotate(london, "godwit.dev/migrate-to=sydney")
                    try await both.wait(forClaim: "Made")
                    try await both.annotate(london, "godwit.dev/migrate-to-")
                    try await both.wait(for: .cancelled, at: london)
                    let known = try await sydney.site.run(["volume", "inspect", both.volume])
                    #expect(
                        !known.exit.isSuccess && known.output.contains("there is no volume"),
                        "\(known.output)")
                    try await eventually("nothing is left at sydney", limit: .seconds(90)) {
                        try await both.finishDeletions(sydney)
                        let volumes = try await both.persistentVolumes(sydney)
                        let claim = try await both.claim(sydney)
                        return volumes.isEmpty && claim == nil
                    }
                }
                #expect(try await london.site.inspect("pvc-1")["owner"] as? String == "london")
                #expect(try await both.claim(london)?.metadata.deletionTimestamp == nil)
                try await runPod(both, at: london, writes: "first")
            }
        }

        @Test func whatTheClusterLacksOrRefusesIsToldAtBothSitesAndMadeWhenItCanBe() async throws {
            try await TwoClusters.run { both in
                let (london, sydney) = (both.london, both.sydney)
                let name = ArrivingClaim.volumeName(both.volume)
                _ = try await sydney.client.create(
                    PersistentVolume(
                        metadata: ObjectMeta(name: name),
                        spec: .init(
                            storage: "1Gi", accessModes: ["ReadWriteOnce"],
                            csi: .init(driver: "csi.example.com", volumeHandle: "other"), claim: nil,
                            reclaimPolicy: "Retain", storageClassName: nil)))
                try await both.startController(london)
                let controller = try await both.startController(sydney)
                try await both.annotate(london, "godwit.dev/migrate-to=sydney")
                try await both.wait(forClaim: "VolumeExists")
                try await sydney.client.delete(PersistentVolume.self, name)
                try await both.finishDeletions(sydney)
                try await both.wait(forClaim: "NamespaceMissing")
                #expect(try await both.migration(london)?.status?.message.contains("namespace shop") == true)
                #expect(try await both.persistentVolumes(sydney).isEmpty)
                let described = try await sydney.cluster.kubectl(["describe", "volumes.godwit.dev", "pvc-1"])
                #expect(
                    described.output.contains("ClaimNamespaceMissing"), "\(described.output.suffix(1500))")

                // A namespace that may have no claims, before the controller sees it.
                _ = controller.kill()
                _ = try await controller.wait(limit: .seconds(10))
                try await both.makeNamespace(sydney)
                try await forbidClaims(sydney)
                // Nor are claims of others taken there, until it is labelled.
                try await both.startController(sydney, ["--accept-namespaces", "shop.example/claims=taken"])
                try await both.wait(forClaim: "NamespaceNotAccepted")
                let told = try await sydney.cluster.kubectl(["describe", "volumes.godwit.dev", "pvc-1"])
                #expect(told.output.contains("ClaimNamespaceNotAccepted"), "\(told.output.suffix(1500))")
                _ = try await sydney.cluster.kubectl([
                    "label", "namespace", "shop", "shop.example/claims=taken",
                ])
                try await both.wait(forClaim: "NotAdmitted")
                #expect(try await both.persistentVolumes(sydney).isEmpty)

                // The class is gone, and the API for a while.
                _ = try await sydney.cluster.kubectl(["delete", "storageclass", "godwit"])
                try await both.wait(forClaim: "ClassMissing")
                await sydney.cluster.killServer()
                try await sydney.cluster.startServer()
                try await installManifests(sydney.cluster)
                try await sydney.client.delete(ResourceQuota.self, "none", in: "shop")

                try await both.wait(forClaim: "Made")
                try await expectTwin(both)
            }
        }

        /// As the quota controller would count it.
        private func forbidClaims(_ end: TwoClusters.End) async throws {
            let none = ["persistentvolumeclaims": "0"]
            _ = try await end.client.create(
                ResourceQuota(metadata: ObjectMeta(name: "none", namespace: "shop"), spec: .init(hard: none)))
            _ = try await end.client.patch(
                ResourceQuota.self, "none", in: "shop",
                [
                    "status": [
                        "hard": ["persistentvolumeclaims": "0"], "used": ["persistentvolumeclaims": "0"],
                    ]
                ],
                subresource: "status")
            let any = PersistentVolumeClaim(
                metadata: ObjectMeta(name: "any", namespace: "shop"),
                spec: .init(accessModes: ["ReadWriteOnce"], storage: "1Gi", storageClassName: "godwit"))
            try await eventually("the quota holds") {
                do throws(KubernetesError) {
                    _ = try await end.client.create(any, dryRun: true)
                    return false
                } catch {
                    if case .forbidden = error { return true }
                    throw error
                }
            }
        }

        @Test func aClaimOfAnotherVolumeIsNotTouched() async throws {
            try await TwoClusters.run { both in
                let (london, sydney) = (both.london, both.sydney)
                try await both.makeNamespace(sydney)
                var other = PersistentVolumeClaim(
                    metadata: ObjectMeta(name: "data-0", namespace: "shop"),
                    spec: .init(accessModes: ["ReadWriteOnce"], storage: "5Gi", storageClassName: "godwit"))
                other = try await sydney.client.create(other)
                _ = try await sydney.client.create(
                    StorageClass(metadata: ObjectMeta(name: "fast"), provisioner: MigrationController.driver))
                try await both.startController(london)
                try await both.startController(sydney, ["--map-class", "godwit=fast"])
                try await both.annotate(london, "godwit.dev/migrate-to=sydney")
                try await both.wait(forClaim: "ClaimExists")
                #expect(try await both.persistentVolumes(sydney).isEmpty)
                // Cancelled, it is still there; gone, ours takes its place, of the class that stands for london's.
                try await both.annotate(london, "godwit.dev/migrate-to-")
                try await both.wait(for: .cancelled, at: london)
                #expect(try await both.claim(sydney)?.metadata.uid == other.metadata.uid)
                #expect(try await both.claim(sydney)?.metadata.deletionTimestamp == nil)
                try await both.annotate(london, "godwit.dev/migrate-to=sydney")
                try await both.wait(forClaim: "ClaimExists")
                try await sydney.client.delete(PersistentVolumeClaim.self, "data-0", in: "shop")
                try await both.finishDeletions(sydney)
                try await both.wait(forClaim: "Made")
                #expect(try await both.claim(sydney)?.spec.storageClassName == "fast")
                #expect(try await both.persistentVolumes(sydney).first?.spec.storageClassName == "fast")
            }
        }
    }
}
