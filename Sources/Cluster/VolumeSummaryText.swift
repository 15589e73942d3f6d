internal import Handoff
internal import Site

/// A volume as the columns of `kubectl get volumes.godwit.dev` show it: of one member, or of the site as a whole.
package struct VolumeSummaryText: Codable, Hashable, Sendable {
    package var role: String
    package var owner: String?
    package var epoch: UInt64?
    package var holder: String?
    /// Who it is shared with, members of this site that know it left out.
    package var peers: [String]
    /// The claim that came with it from another cluster, and what has become of it.
    package var claim: String?
    package var claimState: String?
    package var claimMessage: String?
    /// The members that know it; nil: one member's own summary.
    package var members: [String]?
}

extension VolumeSummaryText {
    init(_ record: VolumeRecord) {
        role = record.head.role.name
        owner = record.head.knownReign?.owner.description
        epoch = record.head.knownReign?.epoch.number
        holder = record.head.user?.description
        claim = record.claim.map { $0.facts.namespace + "/" + $0.facts.name }
        claimState = record.claim?.report?.reason
        claimMessage = record.claim?.report?.message
        peers = record.sharedWith.map(\.description).sorted()
    }

    /// What the members of a site know of a volume together.
    ///
    /// Of who owns it: what the member says that knows of the newest reign. Of several such, the owner itself; else whom
    /// the volume is being handed to; else who gives it away. Who was overruled by force, and has not heard of it, is
    /// not believed any more.
    package static func combined(_ summaries: [String: VolumeSummaryText]) -> VolumeSummaryText {
        let byName = summaries.sorted { $0.key < $1.key }
        // The first of those that know as much.
        let best = byName.reduce(nil as VolumeSummaryText?) { best, next in
            guard let best, !(best.weight < next.value.weight) else { return next.value }
            return best
        }
        var combined = best ?? VolumeSummaryText(role: "", peers: [])
        // The claim came to one of them, which need not be the one that owns the volume by now.
        if combined.claim == nil, let arrived = byName.first(where: { $0.value.claim != nil })?.value {
            combined.claim = arrived.claim
            combined.claimState = arrived.claimState
            combined.claimMessage = arrived.claimMessage
        }
        combined.peers = Set(summaries.values.flatMap(\.peers)).subtracting(summaries.keys).sorted()
        combined.members = byName.map(\.key)
        return combined
    }

    private var weight: (UInt64, Int) {
        let rank =
            switch role {
            case "owning": 4
            case "receiving": 3
            case "acquiring": 2
            case "sealing", "sealed", "reclaiming": 1
            default: 0
            }
        return (epoch ?? 0, rank)
    }
}
