internal import ClusterResources
internal import KubernetesAPI
internal import VolumeModel

/// The nodes of the site, and the one address for all of them.
extension Examination {
    func members() async throws(KubernetesError) -> [Finding] {
        func pods(_ component: String) async throws(KubernetesError) -> [Pod] {
            try await client.list(
                Pod.self, in: namespace,
                labels: "app.kubernetes.io/name=godwit,app.kubernetes.io/component=\(component)"
            ).items
        }
        var sight = MembersSight(
            namespace: namespace, members: try await client.list(MemberResource.self).items,
            site: try await pods("site"), holders: try await pods("holder"))
        sight.volumes = try await readable { () async throws(KubernetesError) in
            try await client.list(VolumeView.self).items
        }
        sight.nodes = try await readable { () async throws(KubernetesError) in
            try await client.list(Node.self).items
        }
        return sight.findings()
    }

    func gateway() async throws(KubernetesError) -> [Finding] {
        try await deployment(ClusterNames.gateway, otherwise: "other sites do not reach this one")
    }

    func address() async throws(KubernetesError) -> [Finding] {
        let name = "service \(namespace)/\(ClusterNames.gateway)"
        guard let service = try await client.find(Service.self, ClusterNames.gateway, in: namespace) else {
            return [Finding(.broken, "\(name) is not there", Self.install)]
        }
        guard service.spec.type == "LoadBalancer" else {
            return [Finding(.good, "\(name) is of type \(service.spec.type ?? "ClusterIP")")]
        }
        let addresses = (service.status?.loadBalancer?.ingress ?? []).compactMap { $0.ip ?? $0.hostname }
        return [
            addresses.isEmpty
                ? Finding(
                    .warning, "\(name) has no address yet",
                    "where nothing in the cluster gives addresses, make it a NodePort: Manifests/base/gateway.yaml"
                )
                : Finding(.good, "\(name) answers at \(addresses.joined(separator: ", "))")
        ]
    }

    /// nil: the user may not.
    func readable<Value>(
        _ body: () async throws(KubernetesError) -> Value
    ) async throws(KubernetesError) -> Value? {
        do {
            return try await body()
        } catch .forbidden {
            return nil
        }
    }
}

/// What was seen of the site's members, and what follows from it.
struct MembersSight {
    var namespace: String
    var members: [MemberResource]
    var site: [Pod]
    var holders: [Pod]
    /// nil: the user may not look at them.
    var volumes: [VolumeView]?
    var nodes: [Node]?
    /// Of this program.
    var release = Release.current

    func findings() -> [Finding] {
        let ordered = members.sorted { $0.spec.id < $1.spec.id }
        var findings = ordered.flatMap(findings(of:))
        if nodes == nil {
            findings.append(
                Finding(.unknown, "nodes: you may not look at them: one that is gone is not named"))
        }
        return findings + unknown() + together(ordered) + held()
    }

    private func findings(of member: MemberResource) -> [Finding] {
        let (node, id) = (member.metadata.name ?? "", member.spec.id)
        let at = "\(id) at \(member.spec.address ?? "no address")"
        if let nodes {
            guard let found = nodes.first(where: { $0.metadata.name == node }) else { return [gone(member)] }
            guard found.isReady else {
                return [
                    Finding(
                        .broken, "member \(at): its node \(node) is not ready",
                        "kubectl describe node \(node); what it owns is taken over only by force: kubectl godwit takeover"
                    )
                ]
            }
        }
        var findings: [Finding] = []
        if !site.contains(where: { $0.spec.nodeName == node && $0.isReady }) {
            findings.append(
                Finding(
                    .broken, "member \(at): no pod of the site is ready at node \(node)",
                    "kubectl get pods -n \(namespace) -o wide; is the node labelled godwit.dev/site=true?"))
        }
        if member.spec.address == nil {
            findings.append(
                Finding(
                    .broken, "member \(id) has no address: no other member and no other site reaches it",
                    "--advertise in Manifests/base/site.yaml"))
        }
        return findings.isEmpty ? [Finding(.good, "member \(at) runs \(member.spec.release)")] : findings
    }

    /// Of a node that is no more. What only it had is lost, and whoever looks after the cluster decides about it.
    private func gone(_ member: MemberResource) -> Finding {
        let (node, id) = (member.metadata.name ?? "", member.spec.id)
        let forget = "kubectl delete members.godwit.dev \(node)"
        guard let volumes else {
            return Finding(
                .warning, "member \(id): its node \(node) is gone",
                "if no volume is waiting for it: \(forget)")
        }
        let waiting = volumes.filter { $0.spec.summary?.owner == id }.compactMap(\.metadata.name).sorted()
        guard !waiting.isEmpty else {
            return Finding(.warning, "member \(id), which owns nothing: its node \(node) is gone", forget)
        }
        let shown = waiting.prefix(5).joined(separator: ", ") + (waiting.count > 5 ? ", …" : "")
        return Finding(
            .broken, "member \(id): its node \(node) is gone, and it owns \(waiting.count) volumes: \(shown)",
            "if it does not come back: kubectl godwit takeover, of each; then \(forget)")
    }

    /// Pods that have not made themselves known.
    private func unknown() -> [Finding] {
        let known = Set(members.compactMap(\.metadata.name))
        return Set(site.compactMap(\.spec.nodeName)).subtracting(known).sorted().map { node in
            Finding(
                .broken, "the site's pod at node \(node) has not made itself known to the others",
                "kubectl logs -n \(namespace) --tail 50 -l app.kubernetes.io/component=site")
        }
    }

    /// What all members must have in common.
    private func together(_ ordered: [MemberResource]) -> [Finding] {
        var findings: [Finding] = []
        // One whose node is gone keeps the release that it had.
        let running = Set(site.filter(\.isReady).compactMap(\.spec.nodeName))
        let releases = Set(
            ordered.filter { running.contains($0.metadata.name ?? "") }.map(\.spec.release)
        ).sorted()
        if releases.count > 1 {
            findings.append(
                Finding(
                    .warning, "members run several releases: \(releases.joined(separator: ", "))",
                    "a pod of the site is replaced only when it is deleted: kubectl delete pod -n \(namespace) <pod>"
                ))
        } else if let release = releases.first, release != self.release {
            findings.append(
                Finding(
                    .warning,
                    "members run release \(release), and this program is of release \(self.release)"))
        }
        let sites = Set(ordered.map(\.spec.site)).sorted()
        if sites.count > 1 {
            findings.append(
                Finding(
                    .broken, "members are of different sites: \(sites.joined(separator: ", "))",
                    "a cluster is one site: kubectl delete members.godwit.dev of those that are left from before"
                ))
        }
        return findings
    }

    /// Whether a planned restart leaves mounts as they are.
    private func held() -> [Finding] {
        let held = Set(holders.filter(\.isReady).compactMap(\.spec.nodeName))
        let nodes = Set(site.compactMap(\.spec.nodeName))
        guard !nodes.isEmpty else { return [] }
        let bare = nodes.subtracting(held).sorted()
        guard !bare.isEmpty else { return [Finding(.good, "mounts outlive a planned restart at every node")] }
        return bare.map { node in
            Finding(
                .warning,
                "no \(ClusterNames.holder) runs at node \(node): a planned restart of the site there ends mounts in use",
                "kubectl get pods -n \(namespace) -o wide -l app.kubernetes.io/component=holder")
        }
    }
}
