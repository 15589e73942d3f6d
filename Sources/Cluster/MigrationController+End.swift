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

    /// The claim is being deleted, or is gone: with it goes the wish. A site that was to take the volume over forgets it,
    /// also where the volume itself stays (`Retain`).
    ///
    /// - Parameter claim: nil: it is gone, whatever bears its name now.
    func withdrawDeleted(_ present: MigrationResource, _ claim: PersistentVolumeClaim?) async throws {
        if present.concernsTarget {
            var waitsFor: String?
            do throws(SiteControlError) {
                let (name, peers) = try await site.info()
                // Gone: whoever deletes a volume tells its followers first.
                let volume = try await site.volume(present.spec.volume)
                if let volume, volume.isSealed, volume.owner != name, peers.contains(volume.owner) {
                    waitsFor = volume.owner
                }
                // Owned elsewhere: it stays there.
                if peers.contains(present.spec.to), volume?.owner == name {
                    try await site.withdraw(present.spec.volume, from: present.spec.to)
                }
            } catch {
                try await write(
                    .init(
                        phase: .failed,
                        message:
                            "the claim is deleted, but the target cannot be told: \(error.description). If it is "
                            + "gone for good: kubectl godwit distrust, or take the finalizer away from this migration"
                    ),
                    reason: error.isTransient ? "Unavailable" : "Refused", present, claim)
                return
            }
            // It ends at the target, where the claim stays, or at home, and then the target is told.
            if let heir = waitsFor {
                try await write(
                    .init(
                        phase: .handingOver,
                        message:
                            "the claim is deleted, and its volume is sealed here for site \(heir), which does "
                            + "not own it yet: whether it does, or comes home, is waited for"),
                    reason: "HandingOver", present, claim)
                return
            }
        }
        guard claim == nil else {
            guard present.concernsTarget else { return }
            try await write(
                .init(phase: .cancelled, message: "the claim was deleted before the hand-over"),
                reason: "Cancelled", present, claim)
            return
        }
        // It goes with its claim, as the cluster's garbage collector would have it.
        guard let rest = try await letGo(present), rest.metadata.deletionTimestamp == nil else { return }
        try await client.delete(
            MigrationResource.self, rest.metadata.name ?? "", in: rest.metadata.namespace,
            uid: rest.metadata.uid)
    }

    /// Nobody has to be told any more: whoever deletes the migration has his way.
    ///
    /// - Returns: what is left; nil: it is gone.
    func letGo(_ migration: MigrationResource) async throws(KubernetesError) -> MigrationResource? {
        guard migration.isKept else { return migration }
        let others = (migration.metadata.finalizers ?? []).filter { $0 != MigrationResource.finalizer }
        var metadata: [String: JSONValue] = ["finalizers": .array(others.map(JSONValue.string))]
        // Not if somebody else has changed them since.
        metadata["resourceVersion"] = JSONValue(migration.metadata.resourceVersion)
        do throws(KubernetesError) {
            let rest = try await client.patch(
                MigrationResource.self, migration.metadata.name ?? "", in: migration.metadata.namespace,
                ["metadata": .object(metadata)])
            return rest.metadata.deletionTimestamp != nil && others.isEmpty ? nil : rest
        } catch {
            guard case .notFound = error else { throw error }
            return nil
        }
    }

    /// Another target was wished for before the first one took over: that one is told, if it can be.
    ///
    /// - Returns: false where the volume was sealed for the first one meanwhile: it goes there first.
    func withdrawEarlier(
        _ present: MigrationResource, for spec: MigrationResource.Spec, _ claim: PersistentVolumeClaim,
        _ peers: Set<String>
    ) async throws -> Bool {
        guard peers.contains(present.spec.to),
            present.spec.to != spec.to || present.spec.volume != spec.volume
        else { return true }
        switch present.currentStatus?.phase {
        // Home again, if it was sealed: else it goes there first.
        case .preparing?, .ready?, .handingOver?, .failed?: break
        case .handedOver?, .hydrating?, .done?, .cancelled?, nil: return true
        }
        do throws(SiteControlError) {
            let (name, _) = try await site.info()
            guard let volume = try await site.volume(present.spec.volume) else { return true }
            if volume.isSealed, volume.owner == present.spec.to { return false }
            // Owned by it, or by a third: nobody waits there for this one.
            guard volume.owner == name else { return true }
            try await site.withdraw(present.spec.volume, from: present.spec.to)
        } catch {
            let volume = try? await site.volume(present.spec.volume)
            if let volume, volume.isSealed, volume.owner == present.spec.to { return false }
            try await events.record(
                "NotWithdrawn",
                "site \(present.spec.to) was not told that it is no target: \(error.description)",
                about: claim, isWarning: true)
        }
        return true
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
