package import ClusterResources
internal import KubernetesAPI
internal import VolumeModel

/// What a claim says of its move, in one annotation for columns and programs: `Hydrating sydney`, and of a failure why,
/// `Failed mars UnknownSite`.
///
/// Words that change only with the phase: figures are the Migration's. It is written and never read: what anybody else
/// writes there decides nothing, and is put right.
package struct MoveNote: Hashable, Sendable, CustomStringConvertible {
    package static let annotation = "godwit.dev/migration"
    /// Stands for what was asked for and is no site's name.
    private static let noSite = "-"

    /// What the site has told of a volume that comes from another cluster.
    package enum Arrival: Hashable, Sendable {
        /// Nothing yet, of any volume.
        case untold
        /// nil: it does not come, or has gone on.
        case told(MoveNote?)
    }

    /// What is to become of the annotation.
    package enum Change: Hashable, Sendable {
        case leave
        /// nil: it is taken away.
        case say(String?)
    }

    package private(set) var phase: MigrationResource.Phase
    package private(set) var target: String
    /// Of a failure alone.
    package private(set) var reason: String?

    package init(_ phase: MigrationResource.Phase, to target: String) {
        self.phase = phase
        self.target = SiteID(site: target)?.description ?? Self.noSite
    }

    /// Of a migration that something is written of.
    package init(_ status: MigrationResource.Status, to target: String) {
        self.init(status.phase, to: target)
        guard phase == .failed else { return }
        reason = status.conditions?.first { $0.type == "Validated" }?.reason ?? "Unknown"
    }

    package var description: String {
        [phase.rawValue, target, reason].compactMap { $0 }.joined(separator: " ")
    }

    /// Whether it is yet to change by itself.
    var isUnderWay: Bool {
        switch phase {
        case .preparing, .ready, .handingOver, .handedOver, .hydrating, .failed: true
        case .done, .cancelled: false
        }
    }

    /// A move from here counts before one to here, and that before the memory of one from here. What is done is told while
    /// the volume is where it went; of what was cancelled nothing is left.
    ///
    /// - Parameters:
    ///   - migration: this cluster's, of this very claim.
    ///   - owner: of the volume, as far as the site knows.
    ///   - present: what the annotation says.
    static func change(
        _ migration: MigrationResource?, _ arrival: Arrival, owner: String?, present: String?
    ) -> Change {
        func say(_ note: MoveNote?) -> Change {
            note?.description == present ? .leave : .say(note?.description)
        }
        if let migration, !migration.hasEnded {
            // Of a new wish nothing is written for a moment.
            return migration.currentStatus.map { say(MoveNote($0, to: migration.spec.to)) } ?? .leave
        }
        guard case .told(let arriving) = arrival else { return .leave }
        if let arriving { return say(arriving) }
        guard let migration, migration.currentStatus?.phase == .done, migration.spec.to == owner else {
            return say(nil)
        }
        return say(MoveNote(.done, to: migration.spec.to))
    }
}
