package import VolumeModel

/// Why an event was refused. The record is as it was.
package enum HandoffError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The seal is refused; whoever asked is told why.
    case sealRefused(SealRefusal)
    /// Another node or pod has it mounted.
    case inUse(Holder)
    /// Only the owner can do this. The owner as far as known here.
    case notOwner(Reign?)
    /// The head is on its way to another site.
    case promised(to: Reign)
    /// A higher reign overruled this site: prepare the volume here again once its state is kept.
    case overruled(under: Epoch, by: Epoch)
    /// Another reign than the one that is to be overruled is the present one, as far as known here.
    case notReigning(Epoch, known: Reign?)
    /// There is nothing here to begin with.
    case nothingToBeginWith
    /// Only a replica can be given up: this site owns the head, or is giving or taking it.
    case needed
    /// The state is not here up to the grant, or there is no grant for this epoch.
    case notCaughtUp(wanted: Epoch, needed: SequenceNumber?)
    /// Two claims that cannot both be true, such as two owners of one epoch. A person must look.
    case contradiction(String)
    /// A value that no honest site sends.
    case implausible(String)
    /// A stored record that is not one.
    case unreadableRecord(String)

    package var description: String {
        switch self {
        case .sealRefused(let refusal): "the owner does not give the volume away: \(refusal)"
        case .inUse(let holder): "the volume is \(holder.claim)"
        case .notOwner(let reign?): "this site does not own the volume: \(reign) does"
        case .notOwner(nil): "this site does not own the volume, and does not know who does"
        case .promised(let heir): "the volume is being handed to \(heir): wait, or take it back"
        case .overruled(let epoch, let by):
            "this site owned the volume at epoch \(epoch) and was overruled by epoch \(by)"
        case .notReigning(let epoch, let known?):
            "epoch \(epoch) is not the one to be overruled: the last that this site knows of is \(known)"
        case .notReigning(let epoch, nil): "epoch \(epoch) is not the one to be overruled"
        case .nothingToBeginWith:
            "nothing of the volume is here that a takeover could begin with"
        case .needed: "this site owns the volume, or is giving or taking it: hand it over or abort first"
        case .notCaughtUp(let wanted, let needed?):
            "cannot own the volume at epoch \(wanted): changes up to \(needed) must be here first"
        case .notCaughtUp(let wanted, nil): "cannot own the volume at epoch \(wanted): nobody granted it"
        case .contradiction(let claim): "contradicting claims of ownership: \(claim)"
        case .implausible(let value): "refused a value that cannot be: \(value)"
        case .unreadableRecord(let reason): "the stored hand-off record is unreadable: \(reason)"
        }
    }
}

extension SealRefusal: CustomStringConvertible {
    package var description: String {
        switch self {
        case .inUse(let holder): "there it is \(holder.claim)"
        case .reigning(let reign): "the owner is \(reign)"
        case .spent(let epoch): "epochs up to \(epoch) are used up"
        case .promised(let heir): "it is being handed to \(heir)"
        case .overruled(let epoch): "it was overruled by epoch \(epoch)"
        case .tooManyRetentions(let limit):
            "it keeps bytes for \(limit) earlier owners: wait until some are flattened"
        }
    }
}
