/// A mistake that the simulation's sites are told to make, to show that it would be noticed.
enum PlantedBug: String, CaseIterable, Sendable {
    /// The source answers before its seal is on disk.
    case sealNotDurable
    /// The source takes its last sequence number when it is asked, not when nothing can follow.
    case tailReadBeforeSeal
    /// A mount goes on writing after the seal.
    case writeWhenSealed
    /// The target begins as soon as it has asked.
    case beginBeforeGrant
    /// The target begins with what it has, not with everything up to the grant.
    case beginBeforeTail
    /// The target serves before it is the owner on disk.
    case beginNotDurable
    /// The source goes on under the epoch that the target declined.
    case declinedEpochReused
    /// The target forgets what it declined.
    case declineForgotten
    /// A site that owned the head and passed it on says that it had declined it.
    case pastDenied
    /// The source goes on without the target's word.
    case takenBackUnasked
    /// The target tells that it lacks nothing while it does.
    case releasedEarly
    /// A site that owns the head again releases what its earlier states depend on.
    case sourcesDroppedOnReturn
    /// The source deletes its bytes when it has sealed.
    case discardedEarly
    /// An overruled owner drops what nobody else has seen.
    case divergenceDropped
    /// What was sealed for an heir that was passed over is taken for seen.
    case sealedStateDropped
    /// A takeover by force does not say what it needs of the overruled owner's bytes.
    case claimForgotten
}
