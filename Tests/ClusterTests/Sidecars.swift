import Foundation
import KubernetesAPI

@testable import Cluster
@testable import TestBed

/// What external-provisioner and external-attacher do for a driver, as far as tests need it. Those two are in no Debian
/// package; `Tests/kind` runs with the real ones.
struct Sidecars: Sendable {
    let client: KubernetesClient
    let site: SiteProcess

    private static let finalizer = "external-attacher/csi-godwit-dev"

    /// Runs until the cleanup.
    static func start(_ client: KubernetesClient, _ site: SiteProcess, _ cleanup: Cleanup) throws {
        let sidecars = Sidecars(client: client, site: site)
        let task = Task {
            while !Task.isCancelled {
                // An object that changed meanwhile, an API server that is away: asked again.
                try? await sidecars.provision()
                try? await sidecars.attach()
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

    // MARK: claims

    /// Makes volumes for claims whose pod has a node.
    private func provision() async throws {
        for claim in try await client.list(PersistentVolumeClaim.self).items
        where claim.spec.volumeName == nil && claim.metadata.deletionTimestamp == nil {
            let annotations = claim.metadata.annotations ?? [:]
            guard
                annotations["volume.beta.kubernetes.io/storage-provisioner"] == MigrationController.driver,
                annotations["volume.kubernetes.io/selected-node"] != nil, let uid = claim.metadata.uid,
                let name = claim.metadata.name, let namespace = claim.metadata.namespace
            else { continue }
            let size = claim.spec.resources?.requests?["storage"] ?? "1Gi"
            let made = try await call(["create-volume", "pvc-\(uid)", "--required-bytes", size])
            guard let volume = made["volume"] as? [String: Any], let id = volume["volumeId"] as? String else {
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
            let context = (answer["publishContext"] as? [String: String] ?? [:]).mapValues {
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
