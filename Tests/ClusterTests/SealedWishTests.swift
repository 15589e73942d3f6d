import ClusterResources
import KubernetesAPI
import Testing

@testable import Cluster
@testable import TestBed

/// What becomes of a wish that is changed, or of a claim that is deleted, while the volume is sealed and not owned by its
/// target yet (Claims.md, "While it is handed over").
extension ClusterTests.MigrationControllerTests {
    /// A move to sydney whose last answer is lost.
    private func seal(_ scene: Scene) async throws {
        try await scene.wish("sydney")
        try await scene.wait(for: .ready)
        scene.sites.change { $0.heir = "sydney" }
        try await scene.wait(for: .handingOver)
    }

    /// Nobody waits at sydney for a volume that is to go to tokyo.
    private func sydneyHasForgotten(_ scene: Scene) -> Bool {
        !scene.sites[\.following].contains("sydney") && scene.sites[\.claims]["sydney"] == nil
    }

    @Test func anotherTargetIsTakenUpOnceTheVolumeIsHomeAgain() async throws {
        try await withScene { scene in
            try await scene.withController {
                try await seal(scene)
                try await scene.wish("tokyo")
                try await eventually("it is said what comes first") {
                    try await scene.followed()?.reason == "HandingOver"
                }
                let asked = scene.sites[\.calls].count { $0 == "advance" }
                try await eventually("sydney is asked again") {
                    scene.sites[\.calls].count { $0 == "advance" } > asked
                }
                let sealed = try #require(try await scene.migration())
                #expect(sealed.spec.to == "sydney" && sealed.status?.phase == .handingOver)
                #expect(!scene.sites[\.calls].contains("withdraw"))
                // It was given up at sydney, or wanted back.
                scene.sites.change { $0.heir = nil }
                try await eventually("tokyo is ready") {
                    let migration = try await scene.migration()
                    return migration?.spec.to == "tokyo" && migration?.status?.phase == .ready
                }
                #expect(try await scene.migration()?.spec.from == "london")
                #expect(sydneyHasForgotten(scene))
                try await eventually("nothing is in the way") { try await scene.followed()?.status == "True" }
            }
        }
    }

    @Test func anotherTargetIsToldWhereToAskOnceTheFirstOwnsTheVolume() async throws {
        try await withScene { scene in
            try await scene.withController {
                try await seal(scene)
                try await scene.wish("tokyo")
                try await eventually("it is said what comes first") {
                    try await scene.followed()?.reason == "HandingOver"
                }
                scene.sites.startPod(at: "sydney")
                try await scene.wait(for: .failed)
                let migration = try #require(try await scene.migration())
                #expect(migration.spec.to == "tokyo" && migration.spec.from == "sydney")
                #expect(migration.status?.message.contains("annotate the claim there") == true)
                // Its claim there stays, and nothing is said that would look like a fault.
                #expect(scene.sites[\.claims]["sydney"] != nil)
                #expect(try await scene.events("NotWithdrawn").isEmpty)
            }
        }
    }

    /// Also when the migration is deleted meanwhile: sydney may have to be told yet.
    @Test func aWishTakenAwayIsCancelledOnceTheVolumeIsHomeAgain() async throws {
        try await withScene { scene in
            try await scene.withController {
                try await seal(scene)
                try await scene.wish(nil)
                try await eventually("it is said what comes first") {
                    try await scene.followed()?.reason == "HandingOver"
                }
                try await scene.client.delete(MigrationResource.self, Self.key.name, in: Self.key.namespace)
                let asked = scene.sites[\.calls].count { $0 == "advance" }
                try await eventually("sydney is asked again") {
                    scene.sites[\.calls].count { $0 == "advance" } > asked + 1
                }
                #expect(try await scene.migration()?.isKept == true)
                scene.sites.change { $0.heir = nil }
                try await eventually("it is over") { try await scene.migration() == nil }
                #expect(sydneyHasForgotten(scene))
            }
        }
    }

    @Test(arguments: ["london", "sydney"])
    func aDeletedClaimWaitsForTheEndOfTheHandOver(_ end: String) async throws {
        try await withScene { scene in
            try await scene.withController {
                try await seal(scene)
                try await scene.deleteClaim()
                try await eventually("it is said what is waited for") {
                    try await scene.migration()?.status?.message.contains("the claim is deleted") == true
                }
                #expect(try await scene.migration()?.status?.phase == .handingOver)
                #expect(!scene.sites[\.calls].contains("withdraw"))
                if end == "london" {
                    scene.sites.change { $0.heir = nil }
                } else {
                    scene.sites.startPod(at: "sydney")
                }
                try await eventually("the migration goes") { try await scene.migration() == nil }
                if end == "london" { #expect(sydneyHasForgotten(scene)) }
                #expect((scene.sites[\.claims]["sydney"] != nil) == (end == "sydney"))
            }
        }
    }
}
