import Foundation
import KubernetesAPI
import VolumeModel

@testable import Cluster
@testable import TestBed

/// What the scheduler of a cluster with one node does, and external-provisioner, -attacher and -resizer for a driver, as far
/// as tests need it. Those three are in no Debian package; `Tests/kind` runs with the real ones.
struct Sidecars: Sendable {
    /// The scheduler's: an administrator's.
    let administrator: KubernetesClient
    /// The others': what Manifests grant the sidecars.
    let client: KubernetesClient
    let site: SiteProcess
    let node: String

    private static let finalizer = "external-attacher/csi-godwit-dev"

    /// Runs in a cluster with Manifests, until the cleanup.
    static func start(
        _ cluster: TestCluster, _ site: SiteProcess, node: String, _ cleanup: Cleanup
    ) async throws {
        let administrator = try KubernetesClient(.kubeconfig(path: cluster.kubeconfig))
        try cleanup.add("administrator of \(site.name)") { await administrator.close() }
        let client = try KubernetesClient(
            .kubeconfig(path: try await cluster.accountKubeconfig("godwit-controller")))
        try cleanup.add("sidecars' client of \(site.name)") { await client.close() }
        let sidecars = Sidecars(administrator: administrator, client: client, site: site, node: node)
        let task = Task {
            var told = ""
            while !Task.isCancelled {
                for step in [
                    sidecars.schedule, sidecars.provision, sidecars.attach, sidecars.resize,
                ] {
                    do {
                        try await step()
                    } catch {
                        // An object that changed meanwhile, an API server that is away: asked again.
                        if told != "\(error)" { print("sidecars of \(site.name): \(error)") }
                        told = "\(error)"
                    }
                }
                try? await Task.sleep(for: .milliseconds(200))
            }
        }
        try cleanup.add("sidecars of \(site.name)") {
            task.cancel()
            await task.value
        }
    }

    private func call(_ arguments: [String]) async throws -> [String: Any] {
        let text = try await site.csi(arguments)
        return try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any] ?? [:]
    }

    // MARK: pods

    /// Gives pods to the node, once it has what they claim.
    private func schedule() async throws {
        for pod in try await administrator.list(Pod.self).items
        where pod.spec.nodeName == nil && pod.metadata.deletionTimestamp == nil {
            guard let name = pod.metadata.name, let namespace = pod.metadata.namespace else { continue }
            var isComplete = true
            for volume in pod.spec.volumes ?? [] {
                guard let reference = volume.persistentVolumeClaim else { continue }
                let claim = try await administrator.find(
                    PersistentVolumeClaim.self, reference.claimName, in: namespace)
                if claim?.status?.phase != "Bound" { isComplete = false }
                guard let claim, claim.spec.volumeName == nil,
                    claim.metadata.annotations?[Self.selectedNode] == nil
                else { continue }
                _ = try await administrator.patch(
                    PersistentVolumeClaim.self, reference.claimName, in: namespace,
                    ["metadata": ["annotations": [Self.selectedNode: .string(node)]]])
            }
            guard isComplete else { continue }
            let target = Binding.Target(apiVersion: "v1", kind: "Node", name: node)
            _ = try await administrator.create(
                Binding(metadata: ObjectMeta(name: name, namespace: namespace), target: target))
        }
    }

    private static let selectedNode = "volume.kubernetes.io/selected-node"

    // MARK: claims

    /// Makes volumes for claims whose pod has a node.
    private func provision() async throws {
        for claim in try await client.list(PersistentVolumeClaim.self).items
        where claim.spec.volumeName == nil && claim.metadata.deletionTimestamp == nil {
            let annotations = claim.metadata.annotations ?? [:]
            guard
                annotations["volume.beta.kubernetes.io/storage-provisioner"] == MigrationController.driver,
                annotations[Self.selectedNode] != nil, let uid = claim.metadata.uid,
                let name = claim.metadata.name, let namespace = claim.metadata.namespace
            else { continue }
            let size = claim.spec.resources?.requests?["storage"] ?? "1Gi"
            let made = try await call(["create-volume", "pvc-\(uid)", "--required-bytes", size])
            guard let volume = made["volume"] as? [String: Any], let id = volume["volume_id"] as? String
            else {
                throw LabError.invalid("create-volume answers \(made)")
            }
            var reference = PersistentVolume.Spec.ClaimReference(namespace: namespace, name: name)
            reference.uid = uid
            var spec = PersistentVolume.Spec(
                storage: size, accessModes: claim.spec.accessModes ?? [],
                csi: .init(driver: MigrationController.driver, volumeHandle: id), claim: reference,
                reclaimPolicy: "Delete", storageClassName: claim.spec.storageClassName)
            spec.nodeAffinity = .init(label: "topology.godwit.dev/site", value: site.name)
            _ = try await client.create(
                PersistentVolume(metadata: ObjectMeta(name: "pvc-\(uid)"), spec: spec))
        }
    }

    // MARK: sizes

    /// Lets volumes hold what their claims ask for, and says so in both.
    private func resize() async throws {
        for claim in try await client.list(PersistentVolumeClaim.self).items
        where claim.status?.phase == "Bound" && claim.metadata.deletionTimestamp == nil {
            guard let wanted = claim.spec.resources?.requests?["storage"],
                let name = claim.metadata.name, let namespace = claim.metadata.namespace,
                let volume = try await client.find(PersistentVolume.self, claim.spec.volumeName ?? ""),
                let source = volume.spec.csi, source.driver == MigrationController.driver,
                let present = volume.spec.capacity?["storage"],
                let (more, less) = Self.bytes(wanted, present), more > less
            else { continue }
            let answer = try await call(["expand-volume", source.volumeHandle, "--required-bytes", wanted])
            // Kubelet has nothing to do: the resizer itself ends it.
            guard answer["node_expansion_required"] as? Bool != true else {
                throw LabError.invalid("expand-volume answers \(answer)")
            }
            let size: JSONValue = ["capacity": ["storage": .string(wanted)]]
            _ = try await client.patch(
                PersistentVolume.self, volume.metadata.name ?? "", ["spec": size])
            _ = try await client.patch(
                PersistentVolumeClaim.self, name, in: namespace, ["status": size], subresource: "status")
        }
    }

    private static func bytes(_ wanted: String, _ present: String) -> (UInt64, UInt64)? {
        guard let wanted = ByteQuantity.parse(wanted), let present = ByteQuantity.parse(present) else {
            return nil
        }
        return (wanted, present)
    }

    // MARK: attachments

    private func attach() async throws {
        for attachment in try await client.list(VolumeAttachment.self).items
        where attachment.spec.attacher == MigrationController.driver {
            guard let volume = attachment.spec.source.persistentVolumeName else { continue }
            let handle = try await client.find(PersistentVolume.self, volume)?.spec.csi?.volumeHandle
            if attachment.metadata.deletionTimestamp != nil {
                try await detach(attachment, handle)
            } else if attachment.status?.attached != true, let handle {
                try await attach(attachment, handle)
            }
        }
    }

    private func attach(_ attachment: VolumeAttachment, _ handle: String) async throws {
        let name = attachment.metadata.name ?? ""
        if attachment.metadata.finalizers?.contains(Self.finalizer) != true {
            _ = try await client.patch(
                VolumeAttachment.self, name, ["metadata": ["finalizers": [.string(Self.finalizer)]]])
        }
        do {
            let answer = try await call(["publish", handle, "--node", attachment.spec.nodeName])
            let context = (answer["publish_context"] as? [String: String] ?? [:]).mapValues {
                JSONValue.string($0)
            }
            _ = try await client.patch(
                VolumeAttachment.self, name,
                ["status": ["attached": true, "attachError": .null, "attachmentMetadata": .object(context)]],
                subresource: "status")
        } catch let error as LabError {
            // Told once, so that nobody is kept busy with it.
            let message = "\(error)"
            guard attachment.status?.attachError?.message != message else { return }
            _ = try await client.patch(
                VolumeAttachment.self, name,
                ["status": ["attached": false, "attachError": ["message": .string(message)]]],
                subresource: "status")
        }
    }

    private func detach(_ attachment: VolumeAttachment, _ handle: String?) async throws {
        guard attachment.metadata.finalizers?.contains(Self.finalizer) == true else { return }
        let name = attachment.metadata.name ?? ""
        if let handle {
            _ = try await call(["unpublish", handle, "--node", attachment.spec.nodeName])
        }
        _ = try await client.patch(
            VolumeAttachment.self, name, ["status": ["attached": false, "detachError": .null]],
            subresource: "status")
        _ = try await client.patch(VolumeAttachment.self, name, ["metadata": ["finalizers": .null]])
    }
}

/// What is to run.
struct Pod: KubernetesResource {
    static let resource = ResourceKind(
        group: "", version: "v1", kind: "Pod", plural: "pods", isNamespaced: true)

    struct Spec: Codable, Sendable {
        struct Volume: Codable, Sendable {
            struct Claim: Codable, Sendable { var claimName: String }
            var persistentVolumeClaim: Claim?
        }
        var nodeName: String?
        var volumes: [Volume]?
    }

    var metadata: ObjectMeta
    var spec: Spec
}

/// Where a pod is to run; the answer to it has no target.
struct Binding: KubernetesResource {
    static let resource = ResourceKind(
        group: "", version: "v1", kind: "Binding", plural: "bindings", isNamespaced: true)

    struct Target: Codable, Sendable {
        var apiVersion: String
        var kind: String
        var name: String
    }

    var metadata: ObjectMeta
    var target: Target?
}

/// That a volume is, or is to be, attached to a node.
struct VolumeAttachment: KubernetesResource {
    static let resource = ResourceKind(
        group: "storage.k8s.io", version: "v1", kind: "VolumeAttachment", plural: "volumeattachments",
        isNamespaced: false)

    struct Spec: Codable, Sendable {
        struct Source: Codable, Sendable { var persistentVolumeName: String? }
        var attacher: String
        var nodeName: String
        var source: Source
    }
    struct Status: Codable, Sendable {
        struct Failure: Codable, Sendable { var message: String? }
        var attached: Bool
        var attachError: Failure?
    }

    var metadata: ObjectMeta
    var spec: Spec
    var status: Status?
}
