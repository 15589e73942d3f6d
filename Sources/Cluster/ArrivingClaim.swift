internal import KubernetesAPI
internal import VolumeModel

extension ClaimFacts {
    /// What another cluster needs to know of a claim.
    init(_ claim: PersistentVolumeClaim, of volume: PersistentVolume) throws(Refusal) {
        try self.init(
            namespace: claim.metadata.namespace ?? "default", name: claim.metadata.name ?? "",
            labels: claim.metadata.labels ?? [:], storageClass: claim.spec.storageClassName ?? "",
            requested: claim.spec.resources?.requests?["storage"] ?? "",
            capacity: volume.spec.capacity?["storage"] ?? "", accessModes: claim.spec.accessModes ?? [],
            volumeMode: claim.spec.volumeMode ?? "")
    }

    var path: String { namespace + "/" + name }
}

/// The objects that are made here for a volume of another cluster: one PersistentVolume, one claim, bound to each other
/// by name before anybody else can take either.
struct ArrivingClaim: Sendable {
    /// Carries, on both of them, the identifier of the volume for which we made it. Nothing without it is deleted.
    static let mark = "godwit.dev/made-for"
    /// On the PersistentVolume: this site has owned the volume since, so that it stays whatever happens.
    static let used = "godwit.dev/used"
    /// Where a PersistentVolume can be used: as the CSI driver tells the scheduler.
    private static let topology = "topology.godwit.dev/site"

    let id: String
    let facts: ClaimFacts
    /// The storage class here; empty: none.
    let className: String
    let site: String

    /// The name of the PersistentVolume, the same however often it is made.
    static func volumeName(_ id: String) -> String { "godwit-" + id }

    func persistentVolume() -> PersistentVolume {
        var spec = PersistentVolume.Spec(
            storage: facts.capacity, accessModes: facts.accessModes,
            csi: .init(driver: MigrationController.driver, volumeHandle: id),
            claim: .init(namespace: facts.namespace, name: facts.name), reclaimPolicy: "Retain",
            storageClassName: className.isEmpty ? nil : className)
        spec.volumeMode = "Filesystem"
        spec.nodeAffinity = .init(label: Self.topology, value: site)
        return PersistentVolume(
            metadata: ObjectMeta(
                name: Self.volumeName(id), labels: [VolumeResource.label: id],
                annotations: [Self.mark: id]), spec: spec)
    }

    func claim(boundTo volume: String) -> PersistentVolumeClaim {
        var spec = PersistentVolumeClaim.Spec(
            accessModes: facts.accessModes, storage: facts.requested, storageClassName: className,
            volumeName: volume)
        spec.volumeMode = "Filesystem"
        return PersistentVolumeClaim(
            metadata: ObjectMeta(
                name: facts.name, namespace: facts.namespace, labels: facts.labels,
                annotations: [Self.mark: id]), spec: spec)
    }

    static func isOurs(_ metadata: ObjectMeta, for id: String) -> Bool { metadata.annotations?[mark] == id }

    /// Why the cluster does not take them, in one word and a sentence that says what to do.
    static func refusal(_ error: KubernetesError, _ facts: ClaimFacts) -> ClaimReport {
        let (reason, message) =
            switch error {
            case .notFound: ("NamespaceMissing", "namespace \(facts.namespace) is missing: make it there")
            case .forbidden(let text): ("NotAdmitted", "claim \(facts.path) is not admitted: \(text)")
            case .invalid(let text): ("NotAccepted", "claim \(facts.path) is not accepted: \(text)")
            case .alreadyExists, .conflict:
                ("Changing", "claim \(facts.path) is being changed by somebody else")
            case .unserved, .gone, .unauthorized, .tooManyRequests, .server, .unreachable, .malformed,
                .configuration, .cancelled:
                ("ClusterUnavailable", "the cluster's API: \(error)")
            }
        return ClaimReport(isMade: false, reason: reason, message: message)
    }
}
