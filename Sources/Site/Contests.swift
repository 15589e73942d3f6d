internal import Handoff
internal import VolumeModel

/// What other sites say of who owns a volume that cannot be true together with what is known here. It is about one reign of
/// this site's: under another one, or none, it is over. Does no I/O.
struct Contests {
    private struct Contest {
        /// The site that is said to own the volume.
        let named: SiteID
        let own: Reign
        let text: String
    }

    private var contests: [SiteID: Contest] = [:]
    /// Sites that were asked last without claiming the volume for themselves: others are mistaken in them.
    private var modest: Set<SiteID> = []

    /// A site has nothing to say against this one.
    mutating func agree(_ site: SiteID) {
        contests[site] = nil
        modest.insert(site)
    }

    /// What a site has said was decided on.
    mutating func settle(_ site: SiteID) { contests[site] = nil }

    /// - Parameters:
    ///   - site: who says so, whichever of its nodes.
    ///   - named: whom it takes for the owner's site.
    /// - Returns: whether people are to be told of it anew.
    mutating func note(_ site: SiteID, names named: SiteID, against own: Reign, _ text: String) -> Bool {
        if named == site { modest.remove(site) } else { modest.insert(site) }
        let known = contests[site]
        contests[site] = Contest(named: named, own: own, text: text)
        return !modest.contains(named) && (known?.own != own || known?.named != named)
    }

    /// What people are told; nil: nobody contests this reign.
    func text(against own: Reign) -> String? {
        contests.values.filter { $0.own == own && !modest.contains($0.named) }.map(\.text).min()
    }
}
