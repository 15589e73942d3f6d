internal import ClusterResources
internal import Foundation
internal import SiteIdentity
internal import VolumeModel

/// How far the clocks of members are from the API server's, from each other's and from other sites'.
struct ClockSight {
    var now: Date
    var members: [MemberResource]

    /// Less is what a readout over a network may be wrong by.
    static let notice: UInt64 = 5
    /// From here on a new certificate is not valid yet elsewhere.
    static let limit = UInt64(SiteIdentity.clockTolerance)

    static let advice =
        "let NTP set the clocks of nodes ('chronyc tracking' there). Who owns a volume does not depend on clocks; the times "
        + "of files do, and certificates, which bear a difference of an hour"

    func findings() -> [Finding] {
        let told = members.compactMap { member in
            member.report(at: now)?.clockSeconds.map { (id: member.spec.id, seconds: $0) }
        }.sorted { ($0.seconds, $0.id) < ($1.seconds, $1.id) }
        var findings = told.filter { $0.seconds.magnitude >= Self.notice }.map { member in
            Self.finding(
                "the clock of member \(member.id) is", member.seconds, "the API server's")
        }
        // Each may be near enough, and they not near each other.
        if findings.isEmpty, let first = told.first, let last = told.last,
            (last.seconds - first.seconds).magnitude >= Self.notice
        {
            findings.append(
                Self.finding(
                    "the clock of member \(last.id) is", last.seconds - first.seconds, "\(first.id)'s"))
        }
        if findings.isEmpty, let first = told.first, let last = told.last {
            let most = max(first.seconds.magnitude, last.seconds.magnitude)
            findings.append(
                Finding(
                    .good,
                    "clocks of \(Finding.counted(told.count, "member")) are within \(max(1, most)) s of the API server's"
                ))
        }
        return findings + ofOtherSites()
    }

    /// Of each site what the member tells that is farthest from it.
    private func ofOtherSites() -> [Finding] {
        var worst: [String: (member: String, seconds: Int64)] = [:]
        for member in members {
            for peer in member.report(at: now)?.peers ?? [] {
                guard let seconds = peer.clockSeconds else { continue }
                if let known = worst[peer.site], seconds.magnitude <= known.seconds.magnitude { continue }
                worst[peer.site] = (member.spec.id, seconds)
            }
        }
        return worst.sorted { $0.key < $1.key }.map { site, farthest in
            farthest.seconds.magnitude >= Self.notice
                ? Self.finding(
                    "the clock of member \(farthest.member) is", farthest.seconds, "site \(site)'s")
                : Finding(
                    .good, "clocks are within \(max(1, farthest.seconds.magnitude)) s of site \(site)'s")
        }
    }

    private static func finding(_ what: String, _ seconds: Int64, _ whose: String) -> Finding {
        Finding(
            seconds.magnitude >= limit ? .broken : .warning,
            "\(what) \(seconds.magnitude) s \(seconds < 0 ? "behind" : "ahead of") \(whose)", advice)
    }
}
