internal import ClusterResources
internal import KubernetesAPI

/// What a claim says of its move in an annotation of its own (`MoveNote`).
extension MigrationController {
    /// Writes it if it is to change, and only on the claim as it was read: what is decided of that holds for what comes back.
    /// That it cannot be written is no reason not to move.
    ///
    /// - Returns: the claim as it is now, and whether nothing is left to be written.
    func write(
        _ note: MoveNote.Change, _ claim: PersistentVolumeClaim
    ) async -> (claim: PersistentVolumeClaim, isWritten: Bool) {
        guard case .say(let text) = note else { return (claim, true) }
        var metadata: [String: JSONValue] = ["annotations": .object([MoveNote.annotation: JSONValue(text)])]
        metadata["resourceVersion"] = JSONValue(claim.metadata.resourceVersion)
        do {
            let changed = try await client.patch(
                PersistentVolumeClaim.self, claim.metadata.name ?? "", in: claim.metadata.namespace,
                ["metadata": .object(metadata)])
            return (changed, true)
        } catch {
            switch error {
            // Somebody was faster: the next look sees it.
            case .conflict, .notFound: return (claim, false)
            // Not admitted: it is tried again when the claim is looked at anyway.
            case .forbidden, .invalid:
                log(error)
                return (claim, true)
            default:
                log(error)
                return (claim, false)
            }
        }
    }

    /// What comes from other clusters, as the site tells it now.
    func see(arriving told: [Arriving: MoveNote]) {
        let before = arriving
        arriving = told
        guard let before else {
            // What earlier controllers wrote may have been overtaken.
            let all = Set(told.keys.map(\.claim)).union(claims.filter { $0.value.note != nil }.keys)
            for key in all { schedule.noteChange(key, now: .now) }
            return
        }
        for key in Set(before.keys).union(told.keys) where before[key] != told[key] {
            schedule.noteChange(key.claim, now: .now)
        }
    }

    /// The claims of what is under way here, which nobody need have asked for anything.
    var arrivalsUnderWay: some Sequence<Key> {
        (arriving ?? [:]).lazy.filter { $0.value.isUnderWay }.map(\.key.claim)
    }

    func arrival(of volume: String, _ claim: Key) -> MoveNote.Arrival {
        arriving.map { .told($0[Arriving(claim: claim, volume: volume)]) } ?? .untold
    }
}

/// A claim here, and the volume from another cluster that it is of.
struct Arriving: Hashable, Sendable {
    var claim: MigrationController.Key
    var volume: String
}

extension PersistentVolumeClaim {
    /// What its annotation says of its move.
    var note: String? { metadata.annotations?[MoveNote.annotation] }
}
