package import VolumeModel

/// What the shell is to do once the record is durable, in this order. May be lost in a crash, and is
/// then asked for again; may be done again.
///
/// An action on this site's own data may run late, when the record has moved on. So it is run under the
/// head's lock and only while `actionsAfterRestart()` names it (`stopServing` says itself which mounts it ends).
package enum Action: Hashable, Sendable {
    // MARK: here

    /// Writes under this epoch may be accepted: the head may be mounted.
    case serve(Epoch)
    /// Refuse writes, wait for or refuse those that have begun, commit, pin the present and read its
    /// sequence number; then apply `tailRead`.
    case readTail(heir: Reign)
    /// Bring the catalog up to this sequence number from the source; then apply `caughtUp`.
    case fetchTail(from: SiteID, grant: Grant)
    /// End every mount that was opened under this epoch or an earlier one: its callers get ESTALE, and so does an fsync
    /// that it overtakes between commit and acknowledgement. Until then such a mount is written to; what relies on the end
    /// of that (`readTail`, `keepDivergence`) comes after this.
    case stopServing(Epoch)
    /// Keep the state that was written under this epoch as a snapshot; then apply `divergenceKept`.
    case keepDivergence(under: Epoch)
    /// Nobody depends on this site's bytes: they may be deleted, or stay as a cache.
    case mayDiscard

    // MARK: messages, each the event of the same name at the other site

    case requestSeal(of: Reign, wanted: Epoch)
    case grantSeal(after: Epoch, Grant)
    case requestDecline(heir: Reign, after: Epoch)
    case tellDeclined(Epoch, to: SiteID)
    case announce(Reign, to: SiteID)
    case claim(from: SiteID, heir: Reign, after: Epoch, through: SequenceNumber)
    case answerClaim(of: Reign, isKept: Bool)
    case requestRelease(of: SiteID, reign: Epoch)
    case confirmRelease(to: Reign)
}

extension Action {
    /// The message that this action sends, and to whom; nil for what is done at this site.
    package func message(from site: SiteID) -> (to: SiteID, event: Event)? {
        switch self {
        case .requestSeal(let reign, let wanted):
            (reign.owner, .sealRequested(by: site, after: reign.epoch, wanted: wanted))
        case .grantSeal(let epoch, let grant):
            (grant.heir.owner, .sealGranted(by: site, after: epoch, grant: grant))
        case .requestDecline(let heir, let epoch):
            (heir.owner, .declineRequested(reign: Reign(site, epoch), wanted: heir.epoch))
        case .tellDeclined(let epoch, let peer): (peer, .declined(by: site, wanted: epoch))
        case .announce(let reign, let peer): (peer, .ownerAnnounced(reign))
        case .claim(let peer, let heir, let after, let sequence):
            (peer, .claimed(heir: heir, after: after, through: sequence))
        case .answerClaim(let heir, let isKept):
            (heir.owner, .claimAnswered(by: site, reign: heir.epoch, isKept: isKept))
        case .requestRelease(let peer, let reign): (peer, .releaseRequested(heir: Reign(site, reign)))
        case .confirmRelease(let heir): (heir.owner, .released(by: site, reign: heir.epoch))
        case .serve, .readTail, .fetchTail, .stopServing, .keepDivergence, .mayDiscard: nil
        }
    }
}
