/// What a member of a site tells of itself, for whoever looks after it. No member reads it.
///
/// Of bounded size, whatever a node comes to. Times are RFC 3339; all of it is optional to whoever reads it, for the
/// member may be of another release.
package struct MemberReport: Hashable, Sendable, Codable {
    /// Another site that is trusted here.
    package struct Peer: Hashable, Sendable, Codable {
        package var site: String
        /// When its authority ends; nil: its document is damaged.
        package var expires: String?
        /// Of the one of its members that answered.
        package var release: String?
        /// How far the member's clock is ahead of the one that answered.
        package var clockSeconds: Int64?
        /// Why it is not trusted, or does not answer.
        package var trouble: String?

        package init(site: String) { self.site = site }
    }

    /// Things of one kind that are not as they should be.
    package struct Trouble: Hashable, Sendable, Codable {
        /// A `TroubleKind`, or one that another release knows.
        package var kind: String
        package var count: Int
        /// Some of them.
        package var first: [String]

        /// - Parameter all: at least one.
        package init(_ kind: TroubleKind, _ all: [String]) {
            self.kind = kind.rawValue
            count = all.count
            first = all.sorted().prefix(MemberReport.nameLimit).map(MemberReport.bounded)
        }
    }

    package enum TroubleKind: String, CaseIterable, Hashable, Sendable {
        /// Of a volume of this member, served by nobody: each use of it fails.
        case deadMount = "DeadMount"
        /// Of an earlier reign: the volume was taken over elsewhere, and whoever uses it here gets errors.
        case overruledMount = "OverruledMount"
        /// Where a volume was published to a pod, and nothing is mounted.
        case lostMount = "LostMount"
        /// In a pod's place, of a volume that was not published there.
        case unknownMount = "UnknownMount"
        /// Data of a volume that the registry does not name.
        case unregisteredData = "UnregisteredData"
    }

    /// When this was written, by the member's own clock.
    package var updated: String?
    /// How far the member's clock is ahead of the API server's.
    package var clockSeconds: Int64?
    /// When the member's own certificate ends.
    package var certificateExpires: String?
    /// When its site's authority ends, and its fingerprint.
    package var authorityExpires: String?
    package var authority: String?
    /// Why new keys, or a new certificate, could not be taken up.
    package var keysTrouble: String?
    package var peers: [Peer]?
    package var troubles: [Trouble]?

    package enum CodingKeys: String, CodingKey, CaseIterable {
        case updated, clockSeconds, certificateExpires, authorityExpires, authority, keysTrouble, peers,
            troubles
    }

    package init() {}

    // MARK: bounds

    package static let peerLimit = 64
    package static let nameLimit = 5
    private static let textLimit = 300

    /// A text that is short enough to be told.
    package static func bounded(_ text: String) -> String {
        text.unicodeScalars.count <= textLimit
            ? text : String(String.UnicodeScalarView(text.unicodeScalars.prefix(textLimit - 1))) + "…"
    }

    /// Of more peers than can be told, those with which something is the matter, and whose authority ends first.
    package static func bounded(_ peers: [Peer]) -> [Peer] {
        guard peers.count > peerLimit else { return peers }
        let ordered = peers.sorted { one, other in
            (one.trouble == nil ? 1 : 0, one.expires ?? "", one.site)
                < (other.trouble == nil ? 1 : 0, other.expires ?? "", other.site)
        }
        return ordered.prefix(peerLimit).sorted { $0.site < $1.site }
    }

    // MARK: what is worth telling

    /// Less is what two readings of the same clocks may differ by.
    private static let clockStep: Int64 = 2

    /// Whether somebody who knows the other one learns nothing from this one.
    package func tellsNothing(besides other: MemberReport) -> Bool {
        func isClose(_ one: Int64?, _ two: Int64?) -> Bool {
            guard let one, let two else { return one == two }
            return abs(one - two) < Self.clockStep
        }
        guard isClose(clockSeconds, other.clockSeconds), peers?.count == other.peers?.count,
            zip(peers ?? [], other.peers ?? []).allSatisfy({ isClose($0.clockSeconds, $1.clockSeconds) })
        else { return false }
        var (one, two) = (self, other)
        (one.updated, two.updated, one.clockSeconds, two.clockSeconds) = (nil, nil, nil, nil)
        for index in (one.peers ?? []).indices {
            one.peers?[index].clockSeconds = nil
            two.peers?[index].clockSeconds = nil
        }
        return one == two
    }
}
