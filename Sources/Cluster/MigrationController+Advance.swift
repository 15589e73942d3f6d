internal import ClusterResources
internal import Foundation
internal import KubernetesAPI
internal import VolumeModel

/// What a site is being asked for: to prepare a target, or how far that is. A first catalog takes as long as it takes;
/// the claim is looked at meanwhile, and who does not want it any more gives it up.
struct Advance: Sendable {
    struct Wanted: Hashable, Sendable {
        var spec: MigrationResource.Spec
        var facts: ClaimFacts
    }

    let wanted: Wanted
    let task: Task<Void, Never>
}

extension Advance.Wanted {
    /// nil: nothing is to be asked for.
    init?(_ move: ClaimDecision.Move, _ facts: Result<ClaimFacts, ClaimFacts.Refusal>) {
        guard case .advance(let spec) = move, case .success(let facts) = facts else { return nil }
        self.init(spec: spec, facts: facts)
    }
}

extension MigrationController {
    /// Asks the site, and writes down what it says. Only a look at this claim starts it, and only where none is under way.
    func start(
        _ wanted: Advance.Wanted, _ migration: MigrationResource, _ key: Key, _ claim: PersistentVolumeClaim
    ) {
        let task = Task {
            await advance(wanted, migration, key, claim)
            advances[key] = nil
            if written.contains(key) { schedule.noteMoved(key, now: .now) }
        }
        advances[key] = Advance(wanted: wanted, task: task)
    }

    /// Ends what the site is asked for, and waits until nothing is written of it any more.
    func giveUp(_ key: Key) async {
        guard let running = advances[key] else { return }
        running.task.cancel()
        await running.task.value
    }

    private func advance(
        _ wanted: Advance.Wanted, _ migration: MigrationResource, _ key: Key, _ claim: PersistentVolumeClaim
    ) async {
        let spec = wanted.spec
        do throws(SiteControlError) {
            let last = try await site.advance(spec.volume, to: spec.to, claim: wanted.facts)
            let now = MigrationReport.Sample(
                missing: last.missingBytes, seconds: Date().timeIntervalSince1970)
            let status = MigrationReport.status(last, target: spec.to, earlier: samples[key], now: now)
            samples[key] = now
            await writeOrLog(status, reason: last.phase.rawValue, about: last.claim, migration, claim)
        } catch {
            await writeOrLog(
                .init(phase: .failed, message: error.description),
                reason: error.isTransient ? "Unavailable" : "Refused", migration, claim)
        }
    }

    /// What cannot be written now is written at the next look; of what was given up nothing is.
    private func writeOrLog(
        _ status: MigrationResource.Status, reason: String, about made: ClaimReport? = nil,
        _ migration: MigrationResource, _ claim: PersistentVolumeClaim
    ) async {
        guard !Task.isCancelled else { return }
        do {
            try await write(status, reason: reason, about: made, migration, claim)
        } catch {
            log(error)
        }
    }
}
