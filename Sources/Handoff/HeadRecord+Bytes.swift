internal import VolumeModel

/// Who keeps bytes for whom, and when they may go.
extension HeadRecord {
    /// The head of this reign lacks nothing. Others may: theirs are other sources.
    mutating func flattened(_ reign: Epoch) -> [Action] {
        releaseSources { $0.reign == reign }
    }

    mutating func releaseRequested(heir: Reign) throws(HandoffError) -> [Action] {
        switch role {
        case .sealed(_, let grant) where grant.heir == heir,
            .reclaiming(_, let grant) where grant.heir == heir:
            // It can only lack nothing after it has begun; its announcement was lost.
            let actions = try learn(heir)
            retentions.removeAll { $0.grant.heir == heir }
            return actions + [.confirmRelease(to: heir)] + discard
        case .sealing(_, heir):
            throw .contradiction("\(heir) releases what was not granted to it")
        default:
            let isNew = retentions.contains { $0.grant.heir == heir }
            retentions.removeAll { $0.grant.heir == heir }
            return [.confirmRelease(to: heir)] + (isNew ? discard : [])
        }
    }

    private var discard: [Action] { mayDiscard ? [.mayDiscard] : [] }

    mutating func released(by: SiteID, reign: Epoch) throws(HandoffError) -> [Action] {
        for source in sources where source.site == by && source.reign == reign {
            guard source.phase == .releasing else {
                throw .contradiction("\(by) says it was released, but this site still needs it")
            }
        }
        sources.removeAll { $0.site == by && $0.reign == reign }
        return []
    }

    /// A source serves one head. When that is neither the present one nor kept for anybody, nobody needs what it
    /// lacks: should this site own the volume again, that is another head, whose source leads to everything.
    mutating func releaseSourcesNobodyNeeds() -> [Action] {
        var needed = Set(retentions.map(\.headReign) + divergences.map(\.headReign))
        if hasOwnHead { needed.insert(headReign) }
        return releaseSources { !needed.contains($0.reign) }
    }

    private mutating func releaseSources(where mayGo: (Source) -> Bool) -> [Action] {
        var actions: [Action] = []
        for index in sources.indices where sources[index].phase == .fetching && mayGo(sources[index]) {
            sources[index].phase = .releasing
            actions.append(.requestRelease(of: sources[index].site, reign: sources[index].reign))
        }
        return actions
    }
}
