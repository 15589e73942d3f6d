package import VolumeModel

/// What may happen to a head at one site.
///
/// Every event may come twice, late or never. The shell has checked that a peer is who it claims to
/// be and may touch this volume; that what it says is true is checked here as far as possible.
package enum Event: Hashable, Sendable {
    // MARK: wishes of this site

    /// Keep a replica of this reign's head.
    case prepare(Reign)
    /// A pod arrives, or the user asks: this site is to own the head. A sealed site takes it back.
    case takeOver
    /// This site is to own the head without the seal of the reign that is overruled, whose site is gone. What that
    /// site has written and this one has not seen stays there, for whoever finds it again.
    case overrule(Epoch, wanted: Epoch, base: TakeoverBase)
    /// The head is no longer wanted here.
    case abort
    /// No replica is wanted here any more.
    case leave
    /// What was written here under this epoch, and is in no later state, is wanted no longer.
    case forgetDivergence(Epoch)
    /// The head is to be mounted, or attached. A second pod on the same node is fine, and leaves it attached.
    case attach(Holder)
    /// The node unmounted it. Attached, it stays held.
    case unmounted(node: String)
    /// A node is to read the head, which nobody holds. From the first of them on the epoch is a new one.
    case admit(Reader)
    /// The node is to hold it, or read it, no longer, however it came to. With the last that reads ends the epoch.
    case detach(node: String)
    /// The same, though the node may still have it mounted: the epoch rises, so that nothing counts any more that was
    /// attached under the old one, and its mounts get errors. Of a node that does not hold it, it changes nothing.
    case evict(node: String)

    // MARK: results of this site's actions

    /// `readTail` is done: no write under the sealed epoch can follow, and this was the last.
    case tailRead(heir: Reign, finalSequence: SequenceNumber)
    /// The catalog holds everything up to this sequence number, durably.
    case caughtUp(wanted: Epoch, sequence: SequenceNumber)
    /// The head that began under this reign of ours lacks nothing any more, whether it is the present one
    /// or kept for another site.
    case flattened(reign: Epoch)
    /// The fenced state is kept aside as a snapshot.
    case divergenceKept(under: Epoch)

    // MARK: messages of other sites

    /// `by` wants to own the head under `wanted`, after the reign that it knows.
    case sealRequested(by: SiteID, after: Epoch, wanted: Epoch)
    /// `by` sealed and granted.
    case sealGranted(by: SiteID, after: Epoch, grant: Grant)
    /// `by` did not seal.
    case sealRefused(by: SiteID, wanted: Epoch, SealRefusal)
    /// The sealed owner of `reign` asks whether this site declines `wanted`.
    case declineRequested(reign: Reign, wanted: Epoch)
    /// `by` will never own the head under `wanted`.
    case declined(by: SiteID, wanted: Epoch)
    /// This reign has begun.
    case ownerAnnounced(Reign)
    /// The same, from a site that was asked who owns the head, or that asks.
    case reignTold(KnownReign)
    /// The heir began by force. It knows of the head that this site owned at `after` everything up to a sequence
    /// number, and asks to keep the bytes of that.
    case claimed(heir: Reign, after: Epoch, through: SequenceNumber)
    /// `by` keeps what our reign claimed, or has nothing of it.
    case claimAnswered(by: SiteID, reign: Epoch, isKept: Bool)
    /// The heir needs nothing more of what was kept for it.
    case releaseRequested(heir: Reign)
    /// `by` will not be needed for what it kept for our reign, and knows it.
    case released(by: SiteID, reign: Epoch)
}

/// What a takeover by force begins with.
package enum TakeoverBase: Hashable, Sendable {
    /// The replica of the overruled owner's head, which is complete up to this sequence number of the owner.
    case followed(through: SequenceNumber)
    /// The head that this site owned itself, as it was when it was sealed.
    case kept(headReign: Epoch)
}

/// Why an owner did not seal. It changed nothing.
package enum SealRefusal: Hashable, Sendable {
    /// It is mounted: FAILED_PRECONDITION to whoever asked. Ask again when it is not.
    case inUse(Holder)
    /// Another reign is the present one: ask its owner.
    case reigning(Reign)
    /// Epochs up to this one are used up: ask again with a higher one.
    case spent(through: Epoch)
    /// It is being handed to another site: ask again later.
    case promised(to: Reign)
    /// It was overruled and does not know by whom.
    case overruled(by: Epoch)
    /// It keeps bytes for too many reigns: ask again when some are flattened.
    case tooManyRetentions(limit: Int)
}
