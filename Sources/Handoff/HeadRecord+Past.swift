internal import VolumeModel

/// What a site finds out whose whole state went back in time, registry and data together, as a machine's does when its
/// snapshot is put back.
///
/// It takes itself for the owner that it was, and nothing at the site can tell. Other sites can: a later reign began, and
/// some of them know it. So it asks them, and what they tell is an announcement like any other. It is safe to believe:
/// - Only reigns that have begun are told, never one that is wanted, promised or declined. After the reign of an owner
///   none begins without its seal, but by force. So one that is right is told of nothing, or that it was overruled.
/// - What is told late is of an earlier reign by then, and changes nothing.
extension HeadRecord {
    /// The reign of this site that others are asked about: the one under which it writes, or which was overruled by it does
    /// not know whom. It has begun, so that the question may count as its announcement. nil: nothing is written here.
    package var unconfirmedReign: Reign? {
        switch role {
        case .owning(let epoch, _), .sealing(let epoch, _), .fenced(let epoch, _, nil): Reign(site, epoch)
        case .following, .acquiring, .receiving, .declining, .sealed, .reclaiming, .retired, .fenced: nil
        }
    }

    /// What a site is told that takes this reign for its own and for the present one: a later one that has begun, or
    /// another site's of the same epoch, which only a person can resolve. nil: nothing here speaks against it.
    ///
    /// Where the later one is of that site as well, and not by force, only if this one has owned the head in between: else
    /// it may have raised its epoch by itself, or handed the head from node to node, and nobody else has written.
    package func objection(to reign: Reign) -> Reign? {
        guard let known = knownReign, known != reign, known.epoch >= reign.epoch,
            known.owner.site != reign.owner.site || headReign > reign.epoch
                || known.epoch.line > reign.epoch.line
        else { return nil }
        return known
    }

    /// Hears of a reign of this site's own that its record does not know: that is of before. What was written since is not
    /// here, and nothing goes on as if it had never been, unless a person says so (`overrule`).
    mutating func learnOfOwn(_ epoch: Epoch) throws(HandoffError) -> [Action] {
        switch role {
        case .owning, .sealing: return fence(by: epoch, owner: nil)
        case .fenced(let own, _, nil):
            role = .fenced(own, by: epoch, owner: nil)
            spent = max(spent, epoch)
            return []
        case .following, .acquiring, .receiving, .declining, .sealed, .reclaiming, .retired, .fenced:
            throw .contradiction("this site is said to own epoch \(epoch) and knows only \(knownEpoch)")
        }
    }
}
