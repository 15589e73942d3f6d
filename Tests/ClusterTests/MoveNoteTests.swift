import ClusterResources
import KubernetesAPI
import Testing
import VolumeModel

@testable import Cluster
@testable import TestBed

/// What a claim says of its move, without a cluster.
@Suite struct MoveNoteTests {
    private func migration(
        _ phase: MigrationResource.Phase?, to target: String = "sydney", reason: String = "",
        isClosed: Bool = false
    ) -> MigrationResource {
        var migration = MigrationResource(
            metadata: ObjectMeta(name: "data", namespace: "default"),
            spec: .init(claim: "data", volume: "v", from: "london", to: target))
        guard let phase else { return migration }
        var status = MigrationResource.Status(phase: phase, message: "words with figures: 41%")
        status.closed = isClosed ? true : nil
        status.conditions = MigrationReport.conditions(status, reason: reason, earlier: [], at: "now")
        migration.status = status
        return migration
    }

    private func change(
        _ migration: MigrationResource?, _ arrival: MoveNote.Arrival = .told(nil), owner: String = "london",
        present: String? = nil
    ) -> MoveNote.Change {
        MoveNote.change(migration, arrival, owner: owner, present: present)
    }

    @Test func aMoveIsToldByItsPhaseAndSiteAndAFailureByItsReason() {
        for phase in [.preparing, .ready, .handedOver, .hydrating, .done] as [MigrationResource.Phase] {
            let text = phase.rawValue + " sydney"
            #expect(change(migration(phase)) == .say(text))
            #expect(change(migration(phase), present: text) == .leave)
            #expect(change(migration(phase), present: "Done tokyo") == .say(text))
        }
        let unknown = migration(.failed, to: "mars", reason: "UnknownSite")
        #expect(change(unknown) == .say("Failed mars UnknownSite"))
        // Always three words.
        let bad = migration(.failed, to: "No such/Site", reason: "BadValue")
        #expect(change(bad) == .say("Failed - BadValue"))
        // Nothing is written of it yet, whatever there was of an earlier wish.
        #expect(change(migration(nil), present: "Done tokyo") == .leave)
    }

    @Test func whatIsDoneIsToldWhileTheVolumeIsThereAndOfWhatWasCancelledNothing() {
        let done = migration(.done, isClosed: true)
        #expect(change(done, owner: "sydney", present: "Done sydney") == .leave)
        #expect(change(done, owner: "sydney", present: "Ready sydney") == .say("Done sydney"))
        for owner in ["london", "tokyo"] {
            #expect(change(done, owner: owner, present: "Done sydney") == .say(nil))
        }
        #expect(change(migration(.cancelled), present: "Ready sydney") == .say(nil))
        #expect(change(nil, present: "Ready sydney") == .say(nil))
        #expect(change(nil) == .leave && change(migration(.cancelled)) == .leave)
    }

    @Test func ofSeveralMovesTheOneThatIsUnderWayCounts() {
        let arriving = MoveNote.Arrival.told(MoveNote(.hydrating, to: "london"))
        #expect(change(nil, arriving) == .say("Hydrating london"))
        // From here again, while the last bytes still come.
        #expect(change(migration(.preparing), arriving) == .say("Preparing sydney"))
        #expect(change(migration(.failed, reason: "Refused"), arriving) == .say("Failed sydney Refused"))
        // On its way back, while what went before is remembered.
        let ended = migration(.done, isClosed: true)
        let back = MoveNote.Arrival.told(MoveNote(.ready, to: "london"))
        #expect(change(ended, back, owner: "sydney", present: "Done sydney") == .say("Ready london"))
        #expect(change(migration(.cancelled), arriving) == .say("Hydrating london"))
    }

    /// A controller that has just begun to lead knows of no arrival, and takes nothing away for that.
    @Test func untilTheSiteHasToldOnlyMovesFromHereAreWritten() {
        for migration in [nil, migration(.done, isClosed: true), migration(.cancelled)] {
            #expect(change(migration, .untold, owner: "sydney", present: "Hydrating london") == .leave)
        }
        #expect(change(migration(.ready), .untold, present: "Preparing sydney") == .say("Ready sydney"))
    }

    /// It is written and never read.
    @Test func theNoteDecidesNothing() {
        func decide(_ annotations: [String: String]) -> ClaimDecision {
            ClaimDecision(
                claim: "data", volumeID: "v", annotations: annotations,
                volume: VolumeSituation(id: "v", owner: "london"), site: "london", peers: ["sydney"],
                present: migration(.ready), arrival: .told(nil))
        }
        let wish = [ClaimWishes.migrateTo: "sydney"]
        for text in ["Done sydney", "Failed sydney Refused", "rubbish", ""] {
            var one = decide(wish.merging([MoveNote.annotation: text]) { first, _ in first })
            #expect(one.note == .say("Ready sydney"))
            one.note = .leave
            var other = decide(wish)
            other.note = .leave
            #expect(one == other)
        }
    }
}

extension ClusterTests.MigrationControllerTests.Scene {
    func waitForNote(_ text: String?, of claim: String = key.name) async throws {
        try await eventually("the note '\(text ?? "none")' of \(claim)", limit: .seconds(30)) {
            try await client.find(PersistentVolumeClaim.self, claim, in: key.namespace)?.note == text
        }
    }
}

private let key = ClusterTests.MigrationControllerTests.key

extension ClusterTests.MigrationControllerTests {
    /// A client that counts what it sends of one method to one place.
    private func counting(
        _ cluster: TestCluster, _ tally: Tally, _ counts: @escaping @Sendable (String, String) -> Bool
    ) throws -> KubernetesClient {
        var options = KubernetesClient.Options()
        options.witness = { sighting throws(KubernetesError) in
            if !sighting.isAnswered, counts(sighting.method, sighting.target) { tally.add() }
        }
        return try KubernetesClient(.kubeconfig(path: cluster.kubeconfig), options: options)
    }

    /// Claims.md: "written by Godwit and never read".
    @Test func aClaimTellsItsMoveByAnAnnotationWhichNothingIsReadFrom() async throws {
        try await withScene { scene in
            let (patches, requests) = (Tally(), Tally())
            let client = try counting(scene.cluster, patches) { method, target in
                if !target.contains("watch=true") { requests.add() }
                return method == "PATCH" && target.hasSuffix("/persistentvolumeclaims/data")
            }
            try await scene.withController(client) {
                scene.sites.change { $0.isHeld = true }
                try await scene.wish("sydney")
                try await scene.waitForNote("Preparing sydney")
                scene.sites.change { $0.isHeld = false }
                try await scene.waitForNote("Ready sydney")
                try await scene.annotate(MoveNote.annotation, "Done tokyo")
                try await scene.waitForNote("Ready sydney")
                try await scene.annotate(MoveNote.annotation, nil)
                try await scene.waitForNote("Ready sydney")
                scene.sites.startPod(at: "sydney", missing: 500)
                try await scene.waitForNote("Hydrating sydney")
                // How far it is the migration says.
                scene.sites.change { $0.missing = 10 }
                try await eventually("the migration tells how far it is") {
                    try await scene.migration()?.status?.resident == "99%"
                }
                #expect(try await scene.claim()?.note == "Hydrating sydney")
                scene.sites.change { $0.isReleased = true }
                try await scene.waitForNote("Done sydney")
                try await eventually("the wish is closed") {
                    try await scene.migration()?.status?.closed == true
                }
                try await eventually("it is settled") {
                    let before = requests.count
                    try await Task.sleep(for: .milliseconds(400))
                    return requests.count == before
                }
                #expect(scene.sites[\.owner] == "sydney" && scene.sites[\.known] == ["london", "sydney"])
                // Five phases, less HandedOver; two edits put right; the wish taken away. And the edits of others' are not ours.
                #expect(patches.count == 7)
                #expect(try await scene.claim()?.note == "Done sydney")
                // Nobody asks the API anything of a claim that tells what is.
                let settled = requests.count
                try await Task.sleep(for: .seconds(1))
                #expect(requests.count == settled)
                // Written over afterwards, it is put right as well.
                try await scene.annotate(MoveNote.annotation, "Failed")
                try await scene.waitForNote("Done sydney")
            }
            await client.close()
            // Started again there is nothing to write.
            let again = Tally()
            let other = try counting(scene.cluster, again) { method, _ in method != "GET" }
            try await scene.withController(other) { try await Task.sleep(for: .seconds(1)) }
            #expect(again.count == 0)
            await other.close()
        }
    }

    @Test func aFailureIsToldWithItsReasonAndWhatIsCancelledNoLonger() async throws {
        try await withScene { scene in
            try await scene.withController {
                try await scene.wish("mars")
                try await scene.waitForNote("Failed mars UnknownSite")
                try await scene.wish("No/Site")
                try await scene.waitForNote("Failed - BadValue")
                try await scene.wish("sydney")
                try await scene.waitForNote("Ready sydney")
                try await scene.wish(nil)
                try await scene.wait(for: .cancelled)
                try await scene.waitForNote(nil)
                // Somebody's invention, of a claim of which nothing is asked.
                try await scene.annotate(MoveNote.annotation, "Hydrating sydney")
                try await scene.waitForNote(nil)
            }
        }
    }

    /// The same at the target, from when the claim is there.
    @Test func aClaimThatComesTellsHowFarItIsAndThatItHasGoneOn() async throws {
        let (cluster, client) = try await Self.emptyCluster()
        let scene = Scene(cluster: cluster, client: client)
        let facts = try ClaimFacts(
            namespace: "default", name: "twin", labels: [:], storageClass: "godwit", requested: "1Gi",
            capacity: "1Gi", accessModes: ["ReadWriteOnce"], volumeMode: "")
        scene.sites.change { state in
            state.known.insert("sydney")
            state.following = ["sydney"]
            state.claims["sydney"] = ForeignClaim(facts: facts)
        }
        try await scene.withController(at: "sydney") {
            try await scene.waitForNote("Ready sydney", of: "twin")
            scene.sites.startPod(at: "sydney", missing: 10)
            try await scene.waitForNote("Hydrating sydney", of: "twin")
            scene.sites.change { $0.isReleased = true }
            try await scene.waitForNote("Done sydney", of: "twin")
        }
        let patches = Tally()
        let counted = try counting(cluster, patches) { method, target in
            method == "PATCH" && target.hasSuffix("/persistentvolumeclaims/twin")
        }
        try await scene.withController(counted, at: "sydney") {
            try await Task.sleep(for: .seconds(1))
            // One that begins to lead takes nothing back and writes nothing twice.
            #expect(patches.count == 0)
            _ = try await client.patch(
                PersistentVolumeClaim.self, "twin", in: "default",
                ["metadata": ["annotations": .object([ClaimWishes.migrateTo: "london"])]])
            try await scene.waitForNote("Ready london", of: "twin")
            scene.sites.startPod(at: "london")
            try await scene.waitForNote("Done london", of: "twin")
        }
        await counted.close()
    }

    /// Whoever may change claims may be somebody else's to decide.
    @Test func aNoteThatIsNotAdmittedIsNoReasonNotToMove() async throws {
        try await withScene { scene in
            var options = KubernetesClient.Options()
            options.witness = { sighting throws(KubernetesError) in
                let isNote = sighting.method == "PATCH" && sighting.target.hasSuffix("claims/data")
                if isNote { throw .forbidden("claims are not to be touched") }
            }
            let client = try KubernetesClient(.kubeconfig(path: scene.cluster.kubeconfig), options: options)
            try await scene.withController(client) {
                try await scene.wish("sydney")
                try await scene.wait(for: .ready)
                scene.sites.startPod(at: "sydney")
                try await scene.wait(for: .done)
            }
            #expect(try await scene.claim()?.note == nil)
            await client.close()
        }
    }
}
