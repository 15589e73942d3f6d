package import VolumeModel

/// What the shell is to do once the record is durable, in this order. May be lost in a crash, and is
/// then asked for again; may be done again.
package enum Action: Hashable, Sendable {
    // MARK: here

    /// Writes under this epoch may be accepted: the head may be mounted.
    case serve(Epoch)
    /// Refuse writes, wait for or refuse those that have begun, commit, pin the present and read its
    /// sequence number; then apply `tailRead`.
    case readTail(heir: Reign)
    /// Bring the catalog up to this sequence number from the source; then apply `caughtUp`.
    case fetchTail(from: SiteID, grant: Grant)
    /// End every mount that was opened under this epoch: its callers get ESTALE.
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
    case requestRelease(of: SiteID, reign: Epoch)
    case confirmRelease(to: Reign)
}
