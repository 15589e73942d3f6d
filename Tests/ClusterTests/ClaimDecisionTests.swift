import ClusterResources
import KubernetesAPI
import Testing

@testable import Cluster

/// What the controller decides for a claim, without a cluster.
@Suite struct ClaimDecisionTests {
    private func decide(
        _ annotations: [String: String], owner: String? = "london", phase: MigrationResource.Phase? = nil,
        presentTarget: String = "sydney", closed: Bool? = nil, isSealed: Bool = false,
        isPaused: Bool = false, rate: UInt64 = 0
    ) -> ClaimDecision {
        var present: MigrationResource?
        if let phase {
            var migration = MigrationResource(
                metadata: ObjectMeta(name: "data", namespace: "default"),
                spec: .init(claim: "data", volume: "v", from: "london", to: presentTarget))
            migration.status = .init(phase: phase, message: "")
            migration.status?.closed = closed
            present = migration
        }
        return ClaimDecision(
            claim: "data", volumeID: "v", annotations: annotations,
            volume: owner.map {
                VolumeSituation(
                    id: "v", owner: $0, isSealed: isSealed, isPaused: isPaused, bytesPerSecond: rate)
            }, site: "london",
            peers: ["sydney", "tokyo"], present: present, arrival: .told(nil))
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
    }

    @Test func aFulfilledWishIsTakenAwayOnceAndALaterOneIsNew() {
        #expect(decide(toSydney, owner: "sydney", phase: .done).move == .close)
        #expect(decide([:], owner: "sydney", phase: .done).move == .close)
        #expect(decide([:], owner: "sydney", phase: .done, closed: true).move == .nothing)
        #expect(decide(toSydney, owner: "sydney", phase: .done, closed: true).move == .nothing)
        // It came home while the old wish was still there; written after that, it is a new one.
        for phase in [.done, .hydrating, .handedOver] as [MigrationResource.Phase] {
            #expect(decide(toSydney, owner: "london", phase: phase).move == .close)
            #expect(decide([:], owner: "london", phase: phase).move == .close)
        }
        for phase in [.done, .cancelled] as [MigrationResource.Phase] {
            #expect(decide(toSydney, owner: "london", phase: phase, closed: true).move == .advance(spec))
        }
        // Another target is another wish.
        let tokyo = ["godwit.dev/migrate-to": "tokyo"]
        let other = MigrationResource.Spec(claim: "data", volume: "v", from: "london", to: "tokyo")
        #expect(decide(tokyo, owner: "london", phase: .done).move == .advance(other))
    }

    /// Sealed at home is not moved: it ends at the target, or at home again, where the wish is followed anew.
    @Test func whatIsBeingHandedOverIsFollowedUntilOneOfTheTwoOwnsIt() {
        #expect(SiteControlSocket.phase(named: "handing-over") == .handingOver)
        for owner in ["london", "sydney"] {
            #expect(decide(toSydney, owner: owner, phase: .handingOver).move == .advance(spec), "\(owner)")
        }
        #expect(decide([:], owner: "sydney", phase: .handingOver).move == .advance(spec))
        #expect(decide([:], owner: "london", phase: .handingOver).move == .cancel)
        var progress = MoveProgress(phase: .handingOver)
        progress.waitingReason = "cut"
        let status = MigrationReport.status(
            progress, target: "sydney", earlier: nil, now: .init(missing: 0, seconds: 0))
        #expect(status.message == "the volume is sealed here, and site sydney does not own it yet: cut")
        let conditions = MigrationReport.conditions(status, reason: "HandingOver", earlier: [], at: "now")
        #expect(conditions.first { $0.type == "HandedOver" }?.status == "False")
        #expect(conditions.first { $0.type == "Ready" }?.status == "True")
        #expect(status.resident == nil)
    }

    /// Claims.md: "What is sealed goes on". Also where nobody has written down yet that it is.
    @Test(arguments: [MigrationResource.Phase.preparing, .ready, .handingOver, .failed])
    func whatIsSealedForATargetGoesThereFirstWhateverIsWishedMeanwhile(_ phase: MigrationResource.Phase) {
        for role in ["sealing", "sealed", "reclaiming"] {
            #expect(SiteControlSocket.isSealed(inRole: role))
        }
        for role in ["owning", "retired", "receiving"] { #expect(!SiteControlSocket.isSealed(inRole: role)) }
        for wish in ["tokyo", "london", "mars", "No/Site", nil] as [String?] {
            let annotations = wish.map { [ClaimWishes.migrateTo: $0] } ?? [:]
            let sealed = decide(annotations, owner: "sydney", phase: phase, isSealed: true)
            #expect(sealed.move == .advance(spec) && sealed.goesFirst == "sydney", "\(wish ?? "none")")
        }
        #expect(decide(toSydney, owner: "sydney", phase: phase, isSealed: true).goesFirst == nil)
        // Home again, the wish of then counts; and where somebody has sealed it for another site than was wished for.
        let tokyo = ["godwit.dev/migrate-to": "tokyo"]
        let other = MigrationResource.Spec(claim: "data", volume: "v", from: "london", to: "tokyo")
        #expect(decide(tokyo, phase: phase).move == .advance(other))
        let elsewhere = decide(
            tokyo, owner: "sydney", phase: phase, presentTarget: "tokyo", isSealed: true)
        guard case .fail(other, "OwnedElsewhere", let message) = elsewhere.move else {
            Issue.record("\(elsewhere.move)")
            return
        }
        #expect(message == "the volume is being handed to site sydney")
    }

    @Test func withoutAWishNothingHappensAndAWithdrawnOneIsCancelled() {
        #expect(decide([:]).move == .nothing)
        for phase in [.preparing, .ready, .failed] as [MigrationResource.Phase] {
            #expect(decide([:], phase: phase).move == .cancel)
        }
        // Taken over before anybody saw that the wish was gone.
        #expect(decide([:], owner: "sydney", phase: .ready).move == .advance(spec))
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

    /// The API counts scalars, of which a character may have any number.
    @Test func aTargetThatIsNoneIsWrittenDownNoLongerThanTheAPITakes() {
        let move = decide(["godwit.dev/migrate-to": "e" + String(repeating: "\u{301}", count: 500)]).move
        guard case .fail(let spec, _, _) = move else {
            Issue.record("\(move)")
            return
        }
        #expect(spec.to.unicodeScalars.count == 253)
    }

    @Test func settingsAreWrittenOnlyWhereTheyDiffer() {
        let wanted = decide(["godwit.dev/rate-limit": "10Mi", "godwit.dev/pause": "true"]).hydration
        #expect(wanted == .init(isPaused: true, bytesPerSecond: 10 << 20))
        #expect(decide(["godwit.dev/rate-limit": "none", "godwit.dev/pause": "false"]).hydration == nil)
        #expect(decide([:]).hydration == nil)
    }

    /// A volume attributes class may have changed what an annotation says: the annotation is followed again.
    @Test func anAnnotationWinsOverAClassAndWithoutOneTheClassHolds() {
        func decided(_ annotations: [String: String]) -> ClaimDecision.Hydration? {
            decide(annotations, isPaused: true, rate: 5 << 20).hydration
        }
        #expect(
            decided(["godwit.dev/rate-limit": "10Mi", "godwit.dev/pause": "false"])
                == .init(isPaused: false, bytesPerSecond: 10 << 20))
        #expect(decided(["godwit.dev/pause": "false"]) == .init(isPaused: false))
        #expect(decided([:]) == nil)
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
