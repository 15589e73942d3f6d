/// Where the bytes of a new head come from.
package enum Origin: Hashable, Sendable {
    case empty
    case peer(SiteID, VolumeID, Epoch)
}
