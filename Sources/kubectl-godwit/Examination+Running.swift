internal import ClusterResources
internal import KubernetesAPI
internal import VolumeModel

/// What runs, and what became of what was asked for.
extension Examination {
    func pods() async throws(KubernetesError) -> [Finding] {
        let pods = try await client.list(
            Pod.self, in: namespace, labels: "app.kubernetes.io/name=godwit"
        ).items
        var findings: [Finding] = []
        for pod in pods {
            let name = "pod \(namespace)/\(pod.metadata.name ?? "")"
            for status in pod.status?.containerStatuses ?? [] {
                if let waiting = status.state?.waiting {
                    let words = [waiting.reason, waiting.message].compactMap { $0 }.joined(separator: ": ")
                    findings.append(Finding(.broken, "\(name): container \(status.name) waits: \(words)"))
                } else if !status.ready {
                    findings.append(Finding(.broken, "\(name): container \(status.name) is not ready"))
                } else if status.restartCount >= 5 {
                    findings.append(
                        Finding(
                            .warning,
                            "\(name): container \(status.name) was started \(status.restartCount) times again",
                            "kubectl logs -n \(namespace) \(pod.metadata.name ?? "") -c \(status.name) --previous"
                        ))
                }
            }
            if pod.status?.containerStatuses == nil, pod.status?.phase != "Running" {
                findings.append(
                    Finding(.broken, "\(name) is \(pod.status?.phase ?? "of no phase")", pod.status?.message))
            }
        }
        return findings + Self.versions(pods)
    }

    private static let ourContainers = ["site", "migrations", "gateway"]

    /// Members, gateway and controller are to be of one release, and so is this program.
    static func versions(_ pods: [Pod]) -> [Finding] {
        var images: Set<String> = []
        for pod in pods {
            for container in pod.spec.containers where ourContainers.contains(container.name) {
                if let image = container.image { images.insert(image) }
            }
        }
        guard let image = images.first else { return [] }
        guard images.count == 1 else {
            let names = images.sorted().joined(separator: ", ")
            return [
                Finding(
                    .warning, "pods run different images: \(names)",
                    "a pod of the site is replaced only when it is deleted: kubectl delete pod -n godwit <pod>"
                )
            ]
        }
        if let mixed = builds(pods) { return [mixed] }
        let name = image.split(separator: "@")[0].split(separator: "/").last ?? ""
        let tag = name.split(separator: ":").dropFirst().first.map(String.init) ?? ""
        let version = tag.hasPrefix("v") ? String(tag.dropFirst()) : tag
        guard version.first?.isNumber == true else {
            return [Finding(.good, "one image runs: \(image) (its tag tells no release)")]
        }
        return [
            version == Release.current
                ? Finding(.good, "one image runs: \(image)")
                : Finding(
                    .warning, "release \(version) runs, and this program is of release \(Release.current)")
        ]
    }

    /// One name may have meant several images while it was pulled.
    private static func builds(_ pods: [Pod]) -> Finding? {
        var digests: Set<Substring> = []
        for status in pods.flatMap({ $0.status?.containerStatuses ?? [] })
        where ourContainers.contains(status.name) {
            let parts = (status.imageID ?? "").split(separator: "sha256:", omittingEmptySubsequences: false)
            if parts.count == 2 { digests.insert(parts[1]) }
        }
        guard digests.count > 1 else { return nil }
        return Finding(
            .warning,
            "pods run \(digests.count) builds under one name of an image: \(digests.map { $0.prefix(12) }.sorted().joined(separator: ", "))",
            "name images by release or digest: Manifests/base/kustomization.yaml; a pod of the site is replaced only when "
                + "it is deleted")
    }

    /// Kubelet notes the drivers that it has registered in an object of the node's name.
    func registration() async throws(KubernetesError) -> [Finding] {
        let pods = try await client.list(
            Pod.self, in: namespace,
            labels: "app.kubernetes.io/name=godwit,app.kubernetes.io/component=site"
        ).items
        let registered = Set(
            try await client.list(CSINode.self).items
                .filter { $0.spec.drivers?.contains { $0.name == ClusterNames.driver } ?? false }
                .compactMap(\.metadata.name))
        return Set(pods.compactMap(\.spec.nodeName)).sorted().map { node in
            registered.contains(node)
                ? Finding(.good, "kubelet of node \(node) has registered the driver")
                : Finding(
                    .broken, "kubelet of node \(node) has not registered the driver",
                    "kubectl logs -n \(namespace) ds/\(ClusterNames.site)")
        }
    }

    func migrations() async throws(KubernetesError) -> [Finding] {
        let all = try await client.list(MigrationResource.self).items
        let failed = all.filter { $0.status?.phase == .failed }
        guard !failed.isEmpty else { return [Finding(.good, "of \(all.count) migrations none has failed")] }
        return failed.map { migration in
            let name = "\(migration.metadata.namespace ?? "")/\(migration.metadata.name ?? "")"
            return Finding(
                .broken,
                "migration \(name) to \(migration.spec.to) failed: \(migration.status?.message ?? "")",
                "it is tried again; to take it back: kubectl annotate pvc \(migration.spec.claim) "
                    + "-n \(migration.metadata.namespace ?? "") \(ClaimWishes.migrateTo)-")
        }
    }

    /// Claims that came from other clusters and cannot be made here.
    func arrivals() async throws(KubernetesError) -> [Finding] {
        let views = try await client.list(VolumeView.self).items
        let stuck = views.compactMap { view -> Finding? in
            guard let summary = view.spec.summary, let claim = summary.claim, let state = summary.claimState,
                !["Made", "Kept"].contains(state)
            else { return nil }
            return Finding(
                .warning, "claim \(claim), from another cluster, is not made here: \(state)",
                summary.claimMessage)
        }
        let unserved = views.compactMap { view -> Finding? in
            guard
                let condition = view.status?.conditions?.first(where: { $0.type == ClusterNames.served }),
                condition.status == "False"
            else { return nil }
            return Finding(
                .broken, "volume \(view.metadata.name ?? "") is not served: \(condition.message)",
                "kubectl describe volumes.godwit.dev \(view.metadata.name ?? ""); after restoring, start the site again"
            )
        }
        return [Finding(.good, "the site knows \(views.count) volumes")] + unserved + stuck
    }
}
