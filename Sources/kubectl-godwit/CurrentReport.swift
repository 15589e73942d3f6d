internal import ClusterResources
internal import Foundation
internal import VolumeModel

extension MemberResource {
    /// A member writes at least once an hour.
    static var reportPatience: TimeInterval { 3 * 3600 }

    /// How long ago the member told of itself; nil: it never did, or what it told cannot be read.
    ///
    /// - Parameter now: by the API server's clock. The member's own is set right by what it told of it.
    func silence(at now: Date) -> TimeInterval? {
        guard let updated = status?.updated.flatMap(Examination.date) else { return nil }
        return now.timeIntervalSince(updated) + Double(status?.clockSeconds ?? 0)
    }

    /// What the member tells of itself; nil: nothing, or nothing of late. What was so when a node was last seen says nothing
    /// about now.
    func report(at now: Date) -> MemberReport? {
        silence(at: now).flatMap { $0 <= Self.reportPatience ? status : nil }
    }
}
