internal import ClusterResources
internal import KubernetesAPI

/// How a wish ends: withdrawn, replaced by another, fulfilled or overtaken.
extension MigrationController {
    /// The wish was withdrawn: the target is to forget the volume.
    func cancel(
        _ migration: MigrationResource, _ claim: PersistentVolumeClaim, _ peers: Set<String>
    ) async throws {
        do throws(SiteControlError) {
            // Who is no peer was never offered anything.
            if peers.contains(migration.spec.to) {
                try await site.withdraw(migration.spec.volume, from: migration.spec.to)
            }
        } catch {
            try await write(
                .init(
                    phase: .failed,
                    message: "the annotation is gone, but the target cannot be told: \(error.description)"),
                reason: error.isTransient ? "Unavailable" : "Refused", migration, claim)
            return
        }
        try await write(
            .init(phase: .cancelled, message: "the annotation was taken away before the hand-over"),
            reason: "Cancelled", migration, claim)
    }

    /// Another target was wished for before the first one took over: that one is told, if it can be.
    func withdrawEarlier(
        _ present: MigrationResource?, for spec: MigrationResource.Spec, _ claim: PersistentVolumeClaim,
        _ peers: Set<String>
    ) async throws {
        guard let present, present.spec.to != spec.to, peers.contains(present.spec.to) else { return }
        switch present.status?.phase {
        case .preparing?, .ready?, .failed?: break
        case .handedOver?, .hydrating?, .done?, .cancelled?, nil: return
        }
        do throws(SiteControlError) {
            try await site.withdraw(present.spec.volume, from: present.spec.to)
        } catch {
            try await events.record(
                "NotWithdrawn",
                "site \(present.spec.to) was not told that it is no target: \(error.description)",
                about: claim, isWarning: true)
        }
    }

    /// Takes a wish away that is fulfilled or overtaken, and then notes that it is gone.
    func close(
        _ migration: MigrationResource, _ claim: PersistentVolumeClaim, at name: String
    ) async throws {
        if claim.metadata.annotations?[ClaimWishes.migrateTo] != nil {
            var metadata: [String: JSONValue] = ["annotations": .object([ClaimWishes.migrateTo: .null])]
            // Not if it was written anew since it was read.
            metadata["resourceVersion"] = JSONValue(claim.metadata.resourceVersion)
            do throws(KubernetesError) {
                _ = try await client.patch(
                    PersistentVolumeClaim.self, claim.metadata.name ?? "", in: claim.metadata.namespace,
                    ["metadata": .object(metadata)])
            } catch {
                guard case .conflict = error else { throw error }
                return
            }
        }
        guard var status = migration.status else { return }
        if status.phase != .done {
            status = .init(phase: .cancelled, message: "site \(name) owns the volume again")
        }
        status.closed = true
        try await write(status, reason: status.phase.rawValue, migration, claim)
    }
}
