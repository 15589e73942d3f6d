import KubernetesAPI
import Testing

@testable import Cluster

/// What the controller decides for a claim, without a cluster.
@Suite struct ClaimDecisionTests {
    private func decide(
        _ annotations: [String: String], owner: String? = "london", phase: MigrationResource.Phase? = nil,
        presentTarget: String = "sydney"
    ) -> ClaimDecision {
        var present: MigrationResource?
        if let phase {
            var migration = MigrationResource(
                metadata: ObjectMeta(name: "data", namespace: "default"),
                spec: .init(claim: "data", volume: "v", from: "london", to: presentTarget))
            migration.status = .init(phase: phase, message: "")
            present = migration
        }
        return ClaimDecision(
            claim: "data", volumeID: "v", annotations: annotations,
            volume: owner.map { VolumeSituation(id: "v", owner: $0) }, site: "london",
            peers: ["sydney", "tokyo"], present: present)
    }

    private let toSydney = ["godwit.dev/migrate-to": "sydney"]
    private var spec: MigrationResource.Spec {
        .init(claim: "data", volume: "v", from: "london", to: "sydney")
    }

    @Test func aWishIsFollowedUntilItIsDone() {
        for phase in [nil, .preparing, .ready, .failed, .cancelled] as [MigrationResource.Phase?] {
            #expect(decide(toSydney, phase: phase).move == .advance(spec), "\(String(describing: phase))")
        }
        for phase in [.ready, .handedOver, .hydrating] as [MigrationResource.Phase] {
            #expect(decide(toSydney, owner: "sydney", phase: phase).move == .advance(spec))
        }
        #expect(decide(toSydney, owner: "sydney", phase: .done).move == .nothing)
        // It came home, and the annotation is still there: that is a wish, too.
        #expect(decide(toSydney, owner: "london", phase: .done).move == .advance(spec))
    }

    @Test func withoutAWishNothingHappensAndAWithdrawnOneIsCancelled() {
        #expect(decide([:]).move == .nothing)
        for phase in [.preparing, .ready, .failed] as [MigrationResource.Phase] {
            #expect(decide([:], phase: phase).move == .cancel)
        }
        // What was handed over cannot be withdrawn here.
        #expect(decide([:], owner: "sydney", phase: .hydrating).move == .advance(spec))
        #expect(decide([:], phase: .cancelled).move == .nothing)
    }

    @Test(arguments: [
        ("mars", "london" as String?, "UnknownSite"), ("No/Site", "london", "BadValue"),
        ("sydney", nil, "UnknownVolume"), ("sydney", "tokyo", "OwnedElsewhere"),
        ("london", "sydney", "OwnedElsewhere"),
    ])
    func aWishThatCannotBeFollowedSaysWhy(_ target: String, _ owner: String?, _ reason: String) {
        let move = decide(["godwit.dev/migrate-to": target], owner: owner).move
        guard case .fail(_, let told, _) = move else {
            Issue.record("\(move)")
            return
        }
        #expect(told == reason)
    }

    @Test func settingsAreWrittenOnlyWhereTheyDiffer() {
        let wanted = decide(["godwit.dev/rate-limit": "10Mi", "godwit.dev/pause": "true"]).hydration
        #expect(wanted == .init(isPaused: true, bytesPerSecond: 10 << 20))
        #expect(decide(["godwit.dev/rate-limit": "none", "godwit.dev/pause": "false"]).hydration == nil)
        #expect(decide([:]).hydration == nil)
    }

    @Test(arguments: ["fast", "-1", "0", "1.5Mi", "99999999999999999999", "9999999999Ti", " 1", "+5", "Mi"])
    func aRateThatIsNoneIsRefused(_ text: String) {
        let decision = decide(["godwit.dev/rate-limit": text])
        #expect(decision.badValues.count == 1 && decision.hydration == nil)
    }

    @Test func aReportNeverSaysAllBeforeTheLastByte() {
        var progress = MoveProgress(phase: .hydrating)
        progress.totalBytes = 1 << 40
        progress.missingBytes = 1
        let status = MigrationReport.status(
            progress, target: "sydney", earlier: .init(missing: 1 + (10 << 20), seconds: 100),
            now: .init(missing: 1, seconds: 110))
        #expect(status.resident == "99%" && status.rate == "1.0MiB/s" && status.eta == "1s")
        progress.missingBytes = 0
        let whole = MigrationReport.status(
            progress, target: "sydney", earlier: nil, now: .init(missing: 0, seconds: 0))
        #expect(whole.resident == "100%")
        // Rubbish of a peer is not a crash.
        progress.missingBytes = .max
        progress.epoch = .max
        let odd = MigrationReport.status(
            progress, target: "sydney", earlier: nil, now: .init(missing: .max, seconds: 0))
        #expect(odd.resident == "0%")
    }
}
