internal import ClusterResources
internal import Foundation
internal import VolumeModel

/// Whether members tell of themselves, and what they tell of their mounts and disks.
struct ReportSight {
    var namespace: String
    var now: Date
    var members: [MemberResource]

    func findings() -> [Finding] {
        var findings: [Finding] = []
        let ordered = members.sorted { $0.spec.id < $1.spec.id }
        for member in ordered {
            if let silence = silence(of: member) { findings.append(silence) }
            guard let report = member.report(at: now) else { continue }
            guard let troubles = report.troubles else {
                findings.append(
                    Finding(
                        .warning,
                        "member \(member.spec.id) cannot look at its mounts: what is dead there is not named",
                        logs))
                continue
            }
            findings += troubles.map { finding($0, of: member) }
        }
        let telling = ordered.filter { $0.report(at: now)?.troubles != nil }.count
        if findings.isEmpty, telling > 0 {
            findings.append(
                Finding(
                    .good,
                    "mounts and disks of \(Finding.counted(telling, "member")): nothing is dead, lost or left over"
                ))
        }
        return findings
    }

    private func silence(of member: MemberResource) -> Finding? {
        let id = member.spec.id
        guard !member.isStatusUnreadable else {
            return Finding(
                .warning, "member \(id): what it tells of its certificate, clock and mounts is unreadable",
                "it is of another release, or somebody has changed it: use kubectl-godwit of release "
                    + "\(member.spec.release), which runs there; the member writes it anew within the hour")
        }
        guard let silence = member.silence(at: now) else {
            return Finding(
                .warning, "member \(id) has told nothing of its certificate, clock and mounts",
                "it does a few seconds after its start, from release \(Release.current) on: \(logs); with rights and kinds as "
                    + "they should be: " + Examination.install)
        }
        guard silence > MemberResource.reportPatience else { return nil }
        return Finding(
            .warning,
            "member \(id) has told nothing of itself for \(TakeOver.duration(Int64(exactly: silence.rounded()) ?? .max)): its "
                + "certificate, clock and mounts are not judged",
            "does it run? kubectl get pods -n \(namespace) -o wide")
    }

    private func finding(_ trouble: MemberReport.Trouble, of member: MemberResource) -> Finding {
        let (id, node) = (member.spec.id, member.metadata.name ?? "")
        let more = trouble.count > trouble.first.count ? ", …" : ""
        let list = trouble.first.joined(separator: ", ") + more
        let count = trouble.count
        switch MemberReport.TroubleKind(rawValue: trouble.kind) {
        case .deadMount?:
            return Finding(
                .broken, "member \(id): \(Self.mounts(count)) served by nobody, and each use fails: \(list)",
                "delete the pods at node \(node) that use it, they are mounted anew; what is mounted by hand: umount it there"
            )
        case .overruledMount?:
            return Finding(
                .broken,
                "member \(id): \(Self.mounts(count)) of a volume that was taken over elsewhere by force: \(list)",
                "delete the pods at node \(node) that use it; what they wrote since is kept as a divergence: "
                    + "godwit volume divergence --help")
        case .lostMount?:
            return Finding(
                .warning, "member \(id): nothing is mounted where a pod was to see its volume: \(list)",
                "kubelet mounts it again after a restart of the node; else delete the pod there")
        case .unknownMount?:
            return Finding(
                .warning,
                "member \(id): \(Self.mounts(count)) in a pod's place, without a word about it in the publications: \(list)",
                "if no pod of that name is at node \(node): umount it there")
        case .unregisteredData?:
            return Finding(
                .warning,
                "member \(id): data of \(Finding.counted(count, "volume")) that the registry does not name: \(list)",
                "the registry is from an older backup, or a crash has left them amid a creation or a deletion: look before "
                    + "you delete them (Sources/Site/Promises.md, 'Older backup')")
        case nil:
            return Finding(
                .warning, "member \(id): \(trouble.kind), \(Finding.counted(count, "time")): \(list)")
        }
    }

    private var logs: String {
        "kubectl logs -n \(namespace) --tail 50 -l app.kubernetes.io/component=site"
    }

    private static func mounts(_ count: Int) -> String { count == 1 ? "a mount is" : "\(count) mounts are" }
}
