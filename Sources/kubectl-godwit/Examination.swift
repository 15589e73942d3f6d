internal import ClusterResources
internal import Foundation
internal import KubernetesAPI
internal import VolumeModel

/// Everything that `doctor` looks at, one thing after the other: one that cannot be looked at hides no other.
struct Examination {
    static let install = "kubectl apply -k Manifests"

    let client: KubernetesClient
    let namespace: String

    init(_ client: KubernetesClient, namespace: String) {
        self.client = client
        self.namespace = namespace
    }

    /// By the API server's clock, for this machine's may be wrong.
    var now: Date { client.clockDifference?.serverTime(at: client.now) ?? client.now }

    func findings() async throws(KubernetesError) -> [Finding] {
        var findings = [Finding(.good, "the API server answers: \(try await client.serverVersion())")]
        let parts: [(String, () async throws(KubernetesError) -> [Finding])] = [
            ("custom resources", definitions), ("the CSIDriver", driver), ("storage classes", classes),
            ("the controller", controller), ("the controller's lease", lease), ("the site", site),
            ("certificates", trust), ("members", members), ("clocks", clocks), ("mounts", mounts),
            ("the gateway", gateway),
            ("the gateway's address", address), ("pods", pods), ("registration with kubelet", registration),
            ("migrations", migrations),
            ("claims from other clusters", arrivals), ("leftovers", leftovers),
        ]
        for (name, look) in parts {
            do {
                findings += try await look()
            } catch .forbidden(let reason) {
                findings.append(Finding(.unknown, "\(name): you may not look at this (\(reason))"))
            } catch .unserved(let reason) {
                // A kind that the server does not have.
                findings.append(Finding(.broken, "\(name): \(reason)", Self.install))
            }
        }
        return findings
    }

    // MARK: what is installed

    private func definitions() async throws(KubernetesError) -> [Finding] {
        var findings: [Finding] = []
        for kind in [
            VolumeView.resource, MemberResource.resource, MigrationResource.resource,
            TakeoverResource.resource,
        ] {
            let name = "\(kind.plural).\(kind.group)"
            guard let definition = try await client.find(CustomResourceDefinition.self, name) else {
                findings.append(Finding(.broken, "custom resource \(name) is not there", Self.install))
                continue
            }
            let version = definition.spec.versions.first { $0.name == kind.version && $0.served }
            // Members of a release before this one told nothing of themselves.
            guard kind != MemberResource.resource || version == nil || version?.subresources?.status != nil
            else {
                findings.append(
                    Finding(
                        .broken, "custom resource \(name) has no status: members cannot tell of themselves",
                        "it is of an earlier release: \(Self.install)"))
                continue
            }
            let isEstablished =
                definition.status?.conditions?.contains { $0.type == "Established" && $0.status == "True" }
                ?? false
            findings.append(
                version != nil && isEstablished
                    ? Finding(.good, "custom resource \(name) is served as \(kind.version)")
                    : Finding(
                        .broken, "custom resource \(name) is not served as \(kind.version)",
                        "it is of another release: \(Self.install)"))
        }
        return findings
    }

    private func driver() async throws(KubernetesError) -> [Finding] {
        guard let driver = try await client.find(CSIDriver.self, ClusterNames.driver) else {
            return [Finding(.broken, "CSIDriver \(ClusterNames.driver) is not there", Self.install)]
        }
        let mode =
            driver.spec.attachRequired == false
            ? "without attaching (attachRequired: false): a node acquires a volume when it stages it"
            : "a volume is acquired when it is attached"
        var findings = [Finding(.good, "CSIDriver \(ClusterNames.driver) is there; \(mode)")]
        if driver.spec.storageCapacity != true {
            findings.append(
                Finding(
                    .warning,
                    "CSIDriver \(ClusterNames.driver) lacks storageCapacity: a pod may be given to a node that holds no volumes, and waits there",
                    Self.install))
        }
        return findings
    }

    private func classes() async throws(KubernetesError) -> [Finding] {
        let ours = try await client.list(StorageClass.self).items
            .filter { $0.provisioner == ClusterNames.driver }
        guard !ours.isEmpty else {
            return [
                Finding(
                    .warning, "no storage class is of \(ClusterNames.driver)", "new claims cannot ask for it")
            ]
        }
        func names(_ classes: [StorageClass]) -> String {
            classes.compactMap(\.metadata.name).joined(separator: ", ")
        }
        var findings = [Finding(.good, "storage classes: \(names(ours))")]
        let fixed = ours.filter { $0.allowVolumeExpansion != true }
        if !fixed.isEmpty {
            findings.append(
                Finding(
                    .warning, "claims of these storage classes cannot be given more room: \(names(fixed))",
                    #"kubectl patch storageclass <name> -p '{"allowVolumeExpansion": true}'"#))
        }
        return findings
    }

    private func controller() async throws(KubernetesError) -> [Finding] {
        try await deployment(ClusterNames.controller, otherwise: "nothing is made, attached or moved")
    }

    /// - Parameter loss: what there is not when no pod is available.
    func deployment(_ deployment: String, otherwise loss: String) async throws(KubernetesError) -> [Finding] {
        let name = "deployment \(namespace)/\(deployment)"
        guard let found = try await client.find(Deployment.self, deployment, in: namespace) else {
            return [Finding(.broken, "\(name) is not there", Self.install)]
        }
        let (wanted, available) = (found.spec.replicas ?? 1, found.status?.availableReplicas ?? 0)
        guard available > 0 else {
            return [
                Finding(
                    .broken, "\(name): none of \(wanted) pods is available: \(loss)",
                    "kubectl describe pods -n \(namespace)")
            ]
        }
        return [
            Finding(available < wanted ? .warning : .good, "\(name): \(available) of \(wanted) available")
        ]
    }

    /// Whether a controller works, by the lease that the one that does renews.
    private func lease() async throws(KubernetesError) -> [Finding] {
        guard let lease = try await client.find(Lease.self, ClusterNames.controller, in: namespace),
            let holder = lease.spec.holderIdentity, !holder.isEmpty,
            let renewed = lease.spec.renewTime.flatMap(Self.date)
        else {
            return [
                Finding(
                    .broken, "no controller leads",
                    "kubectl logs -n \(namespace) deploy/\(ClusterNames.controller) -c migrations")
            ]
        }
        let age = now.timeIntervalSince(renewed)
        let limit = 3 * Double(max(1, lease.spec.leaseDurationSeconds ?? 15))
        guard abs(age) <= limit else {
            let moment = "\(Int(clamping: Int64(abs(age).rounded()))) seconds \(age < 0 ? "ahead" : "ago")"
            return [
                Finding(
                    .broken, "the controller's lease was renewed \(moment) by the API server's clock",
                    "no controller works, or the clock of its node, \(holder), is wrong: that alone does no harm"
                )
            ]
        }
        return [Finding(.good, "controller \(holder) leads")]
    }

    static func date(_ text: String) -> Date? {
        let formatter = ISO8601DateFormatter()
        // The part of a second does not matter here, and not every reader takes six digits.
        let whole = text.prefix { $0 != "." && $0 != "Z" } + "Z"
        return formatter.date(from: String(whole))
    }

    private func site() async throws(KubernetesError) -> [Finding] {
        let name = "daemonset \(namespace)/\(ClusterNames.site)"
        guard let found = try await client.find(DaemonSet.self, ClusterNames.site, in: namespace) else {
            return [Finding(.broken, "\(name) is not there", Self.install)]
        }
        let (wanted, ready) = (found.status?.desiredNumberScheduled ?? 0, found.status?.numberReady ?? 0)
        guard wanted > 0 else {
            return [
                Finding(
                    .broken, "\(name): no node is to hold the site",
                    "kubectl label node <node> godwit.dev/site=true")
            ]
        }
        return [
            ready >= wanted
                ? Finding(.good, "\(name): \(ready) of \(wanted) nodes are ready")
                : Finding(
                    .broken, "\(name): \(ready) of \(wanted) nodes are ready",
                    "kubectl describe pods -n \(namespace)")
        ]
    }
}
