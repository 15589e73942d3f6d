internal import ClusterResources
internal import Foundation
internal import SiteIdentity
internal import VolumeModel

/// The certificates of the site, of its members and of the sites that it trusts, as the Secrets have them and as members
/// tell. Of keys nothing is here.
struct TrustSight {
    enum Keys {
        case missing
        case unusable(String)
        case present(SiteIdentity.Peer)
    }

    /// What is kept of another site.
    struct Document {
        var name: String
        var peer: SiteIdentity.Peer?
        var trouble: String?

        init(name: String, peer: SiteIdentity.Peer) { (self.name, self.peer) = (name, peer) }

        init(name: String, trouble: String) { (self.name, self.trouble) = (name, trouble) }
    }

    var namespace: String
    var now: Date
    var members: [MemberResource]
    /// nil: the user may not look at them.
    var keys: Keys?
    var documents: [Document]?

    /// An authority is replaced by people at several sites: they are told in time.
    private static let authorityNotice: TimeInterval = 90 * 86_400
    /// A member renews its certificate by itself when a third of its life is left. For this long it may be late.
    private static let renewalPatience: TimeInterval = 86_400

    func findings() -> [Finding] {
        // Without its keys no member starts.
        if case .missing? = keys {
            return [
                Finding(
                    .broken, "secret \(secret), the site's keys, is not there: no member starts",
                    "kubectl godwit init --help")
            ]
        }
        return own() + ofMembers() + ofPeers()
    }

    private var secret: String { "\(namespace)/\(ClusterNames.site)" }

    // MARK: the site's own

    private func own() -> [Finding] {
        switch keys {
        case .missing?, nil: return []
        case .unusable(let reason)?:
            return [
                Finding(
                    .broken, "secret \(secret), the site's keys: \(reason)",
                    "put back what it held; or delete it and make new keys, which other sites then have to trust: "
                        + "kubectl godwit init --help")
            ]
        case .present(let authority)?:
            let name = "secret \(secret), the keys of site \(authority.site)"
            var findings = [
                ending(
                    name, authority.expiry,
                    "make new keys: kubectl delete secret -n \(namespace) \(ClusterNames.site), kubectl godwit init "
                        + "--site \(authority.site), kubectl godwit show, and at each other site "
                        + "kubectl godwit trust --replace")
                    ?? Finding(.good, "\(name), is there, until \(Self.day(authority.expiry))")
            ]
            for member in members where member.spec.site != authority.site.description {
                findings.append(
                    Finding(
                        .broken,
                        "member \(member.spec.id) is of site \(member.spec.site), and the keys are of site \(authority.site)",
                        "a cluster is one site: put back the keys of site \(member.spec.site), or delete members that are "
                            + "left from before: kubectl delete members.godwit.dev \(member.metadata.name ?? "")"
                    ))
            }
            for member in members {
                guard let used = member.report(at: now)?.authority, used != authority.fingerprint else {
                    continue
                }
                findings.append(
                    Finding(
                        .warning, "member \(member.spec.id) uses other keys than those in secret \(secret)",
                        "kubelet brings a changed Secret in a minute or two; later: \(logs)"))
            }
            return findings
        }
    }

    private func ofMembers() -> [Finding] {
        var findings: [Finding] = []
        var sound: [Date] = []
        for member in members.sorted(by: { $0.spec.id < $1.spec.id }) {
            guard let report = member.report(at: now) else { continue }
            if let trouble = report.keysTrouble {
                findings.append(
                    Finding(.broken, "member \(member.spec.id) cannot take up its keys: \(trouble)", logs))
            }
            guard let expiry = report.certificateExpires.flatMap(Examination.date) else { continue }
            let late = SiteIdentity.isRenewalDue(expiry, now: now - Self.renewalPatience)
            if expiry <= now {
                findings.append(
                    Finding(
                        .broken,
                        "member \(member.spec.id): its certificate has expired on \(Self.day(expiry)): nobody talks to it",
                        "it renews it by itself while it runs: \(logs)"))
            } else if late {
                findings.append(
                    Finding(
                        .warning,
                        "member \(member.spec.id): its certificate ends on \(Self.day(expiry)), and is not renewed as it should be",
                        logs))
            } else {
                sound.append(expiry)
            }
        }
        if let first = sound.min() {
            findings.append(
                Finding(
                    .good,
                    "certificates of \(Finding.counted(sound.count, "member")): until \(Self.day(first)), renewed by themselves"
                ))
        }
        return findings
    }

    // MARK: other sites

    /// A site that is trusted, from all that is known of it.
    private struct Peer {
        var expiry: Date?
        /// Why members do not trust it, or get no answer.
        var troubles: [(member: String, text: String)] = []
        /// Members that get answers.
        var reached = 0
    }

    private func ofPeers() -> [Finding] {
        var peers: [String: Peer] = [:]
        var findings: [Finding] = []
        for document in documents ?? [] {
            if let peer = document.peer {
                peers[peer.site.description, default: Peer()].expiry = peer.expiry
            } else {
                findings.append(
                    Finding(
                        .broken,
                        "secret \(namespace)/\(ClusterNames.peers), '\(document.name)': \(document.trouble ?? "")",
                        "kubectl godwit trust --replace, with the document that is made there; or kubectl godwit distrust"
                    ))
            }
        }
        for member in members {
            for told in member.report(at: now)?.peers ?? [] {
                var peer = peers[told.site] ?? Peer()
                let ends = [peer.expiry, told.expires.flatMap(Examination.date)].compactMap { $0 }
                peer.expiry = ends.min()
                if let trouble = told.trouble {
                    peer.troubles.append((member.spec.id, trouble))
                } else if told.release != nil {
                    peer.reached += 1
                }
                peers[told.site] = peer
            }
        }
        for (site, peer) in peers.sorted(by: { $0.key < $1.key }) {
            findings += self.findings(of: site, peer)
        }
        return findings + notTakenUp()
    }

    private func findings(of site: String, _ peer: Peer) -> [Finding] {
        var findings: [Finding] = []
        if let expiry = peer.expiry {
            let advice =
                "at site \(site) new keys have to be made; then here: kubectl godwit trust --replace \(site).trust"
            if let end = ending("trust in site \(site)", expiry, advice) { findings.append(end) }
        }
        if let first = peer.troubles.first {
            let others = peer.troubles.count > 1 ? " and \(peer.troubles.count - 1) more" : ""
            findings.append(
                Finding(
                    peer.reached == 0 ? .broken : .warning,
                    "site \(site), as seen from \(first.member)\(others): \(first.text)",
                    "is the address in its document right, its gateway there, and this site trusted there? "
                        + "kubectl godwit doctor, there"))
        }
        if findings.isEmpty {
            let end = peer.expiry.map { ", until \(Self.day($0))" } ?? ""
            let reached = peer.reached > 0 ? " and answers \(Finding.counted(peer.reached, "member"))" : ""
            findings.append(Finding(.good, "site \(site) is trusted\(end)\(reached)"))
        }
        return findings
    }

    /// What is in the Secret, and not yet at a member that has told of itself.
    private func notTakenUp() -> [Finding] {
        let kept = (documents ?? []).compactMap { $0.peer?.site.description }
        return members.sorted { $0.spec.id < $1.spec.id }.compactMap { member in
            guard let told = member.report(at: now)?.peers, told.count < MemberReport.peerLimit else {
                return nil
            }
            let missing = Set(kept).subtracting(told.map(\.site)).sorted()
            guard !missing.isEmpty else { return nil }
            return Finding(
                .warning, "member \(member.spec.id) does not trust \(missing.joined(separator: ", ")) yet",
                "kubelet brings a changed Secret in a minute or two; later: \(logs)")
        }
    }

    // MARK: words

    /// - Returns: nil when it is far away.
    private func ending(_ what: String, _ expiry: Date, _ advice: String) -> Finding? {
        if expiry <= now { return Finding(.broken, "\(what): expired on \(Self.day(expiry))", advice) }
        guard expiry.timeIntervalSince(now) < Self.authorityNotice else { return nil }
        let days = Int(expiry.timeIntervalSince(now) / 86_400)
        return Finding(.warning, "\(what): expires in \(days) days, on \(Self.day(expiry))", advice)
    }

    private var logs: String {
        "kubectl logs -n \(namespace) --tail 50 -l app.kubernetes.io/component=site"
    }

    private static func day(_ date: Date) -> String { String(date.ISO8601Format().prefix(10)) }
}
