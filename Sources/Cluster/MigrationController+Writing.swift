internal import ClusterResources
internal import Foundation
internal import KubernetesAPI
internal import VolumeModel

/// What is written of a migration: the object, its status, and Events where something is new.
extension MigrationController {
    /// Tells of the claim, or of the migration where that is gone. Where nothing may be told, as in a namespace that is being
    /// deleted, that is no reason to do nothing.
    private func record(
        _ reason: String, _ message: String, _ claim: PersistentVolumeClaim?, _ migration: MigrationResource,
        isWarning: Bool
    ) async throws(KubernetesError) {
        do {
            if let claim {
                try await events.record(reason, message, about: claim, isWarning: isWarning)
            } else {
                try await events.record(reason, message, about: migration, isWarning: isWarning)
            }
        } catch {
            switch error {
            case .forbidden, .notFound, .invalid: log(error)
            default: throw error
            }
        }
    }

    /// The migration of this claim with this wish, made or changed if it is another; the target of that one is told.
    ///
    /// - Returns: nil where somebody deletes it though the wish stands: when it is gone, it is made anew. Nil as well where the
    ///   volume was sealed for an earlier target meanwhile: the next look sees it.
    func ensure(
        _ spec: MigrationResource.Spec, _ key: Key, _ claim: PersistentVolumeClaim,
        _ present: MigrationResource?, _ peers: Set<String>
    ) async throws -> MigrationResource? {
        if var present {
            if present.metadata.deletionTimestamp != nil {
                // One that goes on for what is sealed, though the wish is gone, would not be made anew.
                let wish = claim.metadata.annotations?[ClaimWishes.migrateTo]
                if present.spec == spec, wish != spec.to { return present }
                _ = try await letGo(present)
                return nil
            }
            guard try await withdrawEarlier(present, for: spec, claim, peers) else { return nil }
            let isSame = present.spec == spec
            if isSame, present.isKept || !(present.concernsTarget || present.hasEnded) { return present }
            present.spec = spec
            present.keep()
            var changed = try await client.update(present)
            if isSame { return changed }
            // What was said of the earlier wish does not hold for this one.
            changed.status = nil
            samples[key] = nil
            return changed
        }
        var metadata = ObjectMeta(name: key.name, namespace: key.namespace)
        metadata.finalizers = [MigrationResource.finalizer]
        if let uid = claim.metadata.uid {
            metadata.ownerReferences = [
                OwnerReference(apiVersion: "v1", kind: "PersistentVolumeClaim", name: key.name, uid: uid)
            ]
        }
        return try await client.create(MigrationResource(metadata: metadata, spec: spec))
    }

    /// A wish that nothing was said of yet is written down before the target hears of it: whoever finds it given up then
    /// knows that the target is to be told, and of an earlier wish's end nobody takes the words for this one's.
    ///
    /// - Returns: whether that stands in the cluster; otherwise somebody was faster, and the next look sees it.
    func begin(
        _ migration: MigrationResource, _ key: Key, _ claim: PersistentVolumeClaim
    ) async throws(KubernetesError) -> Bool {
        guard migration.currentStatus == nil || migration.hasEnded else { return true }
        samples[key] = nil
        let status = MigrationReport.status(
            .init(phase: .preparing), target: migration.spec.to, earlier: nil,
            now: .init(missing: 0, seconds: 0))
        return try await write(status, reason: "Preparing", isNew: true, migration, claim)
    }

    /// Writes the status, with an Event where the phase or the reason is another than before.
    ///
    /// - Parameters:
    ///   - made: what has become of the claim at the target; nil: nothing new is known.
    ///   - isNew: nothing that was said of an earlier wish holds.
    /// - Returns: whether the cluster has it; not, where somebody has changed the migration meanwhile.
    @discardableResult
    func write(
        _ status: MigrationResource.Status, reason: String, about made: ClaimReport? = nil,
        isNew: Bool = false, _ migration: MigrationResource, _ claim: PersistentVolumeClaim?
    ) async throws(KubernetesError) -> Bool {
        guard
            var current = try await client.find(
                MigrationResource.self, migration.metadata.name ?? "", in: migration.metadata.namespace),
            current.spec == migration.spec
        else { return false }
        let time = Timestamps.seconds(Date())
        let earlier = current.status
        var next = status
        next.conditions = MigrationReport.conditions(
            status, reason: reason, claim: made, earlier: earlier?.conditions ?? [],
            isNew: isNew || current.currentStatus == nil, generation: current.metadata.generation, at: time)
        next.updated = earlier?.updated
        let isOld = status.phase == .failed && (earlier?.updated ?? "") < Self.time(before: retelling)
        if next == earlier, !isOld { return true }
        next.updated = time
        let isNews =
            earlier?.phase != status.phase
            || earlier?.message != status.message && status.phase != .hydrating
                && status.phase != .handingOver
        // First: of a status that is written nobody thinks again.
        if isNews || isOld {
            try await record(
                status.phase == .failed ? reason : status.phase.rawValue, status.message, claim, current,
                isWarning: status.phase == .failed)
        }
        current.status = next
        do {
            _ = try await client.update(current, subresource: "status")
        } catch .conflict {
            // Somebody changed it meanwhile: the next look sees it.
            return false
        }
        written.insert(Self.key(migration.metadata))
        return true
    }
}
