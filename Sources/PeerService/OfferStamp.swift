package import VolumeModel

/// When a node says something of a volume that it owns to another of its site: under which epoch, and of which revision
/// its record was. What is decided later has a higher one, however late the other hears of it.
package struct OfferStamp: Hashable, Comparable, Sendable {
    package let epoch: Epoch
    package let revision: UInt64

    package init(epoch: Epoch, revision: UInt64) { (self.epoch, self.revision) = (epoch, revision) }

    package static func < (left: OfferStamp, right: OfferStamp) -> Bool {
        (left.epoch, left.revision) < (right.epoch, right.revision)
    }
}
