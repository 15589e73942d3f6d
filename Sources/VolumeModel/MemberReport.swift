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
    package static let releaseLimit = 64
    private static let textLimit = 300

    /// A text that is short enough to be told.
    package static func bounded(_ text: String) -> String { bounded(text, to: textLimit) }

    /// - Parameter limit: in Unicode scalars, as the API server counts.
    package static func bounded(_ text: String, to limit: Int) -> String {
        text.unicodeScalars.count <= limit
            ? text : String(String.UnicodeScalarView(text.unicodeScalars.prefix(limit - 1))) + "…"
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

    /// How often a report that tells nothing new is written, so that whoever reads it knows how old it is.
    private static let interval: Duration = .seconds(3600)
    /// How often one that tells the same in other words. Of a peer that is down, gRPC says now this and now that.
    private static let wordsInterval: Duration = .seconds(600)

    /// Whether this one is to be written, so long after another one was.
    package func isDue(_ age: Duration, after other: MemberReport) -> Bool {
        guard age < Self.interval else { return true }
        var (one, two) = (self, other)
        (one.updated, two.updated) = (nil, nil)
        if one == two { return false }
        return age >= Self.wordsInterval || one.withoutWords != two.withoutWords
    }

    /// Of what is told in the words of others only whether there is something.
    private var withoutWords: MemberReport {
        var report = self
        report.keysTrouble = keysTrouble.map { _ in "" }
        report.peers = peers?.map { peer in
            var peer = peer
            peer.trouble = peer.trouble.map { _ in "" }
            return peer
        }
        return report
    }

    /// What is told of a clock: what was told before where that may be so still, for no two readings of the same clocks are
    /// alike; 0 where it may be right.
    ///
    /// - Parameters:
    ///   - seconds: how far it is ahead, as it was read.
    ///   - tolerance: how wrong the reading may be.
    package static func clockSeconds(_ seconds: Double, tolerance: Double, told: Int64?) -> Int64 {
        // That one was rounded, and its reading was wrong by something, too.
        if let told, (seconds - Double(told)).magnitude < tolerance + 1.5 { return told }
        if seconds.magnitude <= tolerance { return 0 }
        return Int64(exactly: seconds.rounded()) ?? (seconds < 0 ? .min : .max)
    }
}
