internal import KubernetesAPI
internal import VolumeModel

/// Makes what one arriving volume needs in this cluster, and takes back what was made and never used.
///
/// Each step looks first and may be repeated; ended after any of them it goes on at the next look. The claim is tried
/// without keeping it before the volume is made, and a volume whose claim is then refused is taken back.
struct ClaimMaker: Sendable {
    let client: KubernetesClient
    /// The storage class here for one of another cluster.
    let classes: [String: String]
    /// A label selector of the namespaces in which claims are made; nil: all. What is made already stays.
    let acceptedNamespaces: String?

    private static func not(_ reason: String, _ message: String) -> ClaimReport {
        ClaimReport(isMade: false, reason: reason, message: message)
    }

    /// - Parameter known: the names of persistent volumes that a watch has told to be of this volume.
    /// - Returns: whether volume and claim are there, or why not.
    /// - Throws: what the API answers where only asking again helps.
    func make(
        _ volume: ForeignVolume, at site: String, known: [String]
    ) async throws(KubernetesError) -> ClaimReport {
        let facts = volume.claim.facts
        let persistent = try await persistentVolume(of: volume.id, known)
        if let persistent, persistent.metadata.deletionTimestamp != nil {
            return Self.not(
                "VolumeTerminating", "persistent volume \(persistent.metadata.name ?? "") is being deleted")
        }
        let name = persistent?.metadata.name ?? ArrivingClaim.volumeName(volume.id)
        if let persistent, !ArrivingClaim.isOurs(persistent.metadata, for: volume.id) {
            // It was here before: it and its claim are used again as they are.
            return try await adopt(persistent, volume)
        }
        // First: what there is in a namespace that takes nothing is no other site's business.
        if persistent == nil, let refusal = try await refusal(ofNamespace: facts) { return refusal }
        if let claim = try await client.find(PersistentVolumeClaim.self, facts.name, in: facts.namespace) {
            guard claim.spec.volumeName == name else {
                try await drop(persistent, of: volume.id)
                return Self.not(
                    "ClaimExists",
                    "claim \(facts.path) is there already and is not of this volume: rename or delete it")
            }
            guard claim.metadata.deletionTimestamp == nil else {
                return Self.not("ClaimTerminating", "claim \(facts.path) is being deleted")
            }
            guard let persistent else {
                return try await makeVolume(
                    for: volume, at: site, className: claim.spec.storageClassName ?? "")
            }
            let smaller = try await keepUp(persistent, claim, with: volume)
            return smaller ?? Self.made(facts, name)
        }
        return try await makeBoth(volume, at: site, persistent)
    }

    private static func made(_ facts: ClaimFacts, _ name: String) -> ClaimReport {
        ClaimReport(
            isMade: true, reason: "Made", message: "claim \(facts.path) of persistent volume \(name) is there"
        )
    }

    /// A claim of ours whose volume somebody deleted: kube shows it as Lost until the volume is back.
    private func makeVolume(
        for volume: ForeignVolume, at site: String, className: String
    ) async throws(KubernetesError) -> ClaimReport {
        let wanted = ArrivingClaim(
            id: volume.id, facts: volume.claim.facts, className: className, site: site)
        _ = try await client.create(wanted.persistentVolume())
        return Self.made(wanted.facts, ArrivingClaim.volumeName(volume.id))
    }

    private func makeBoth(
        _ volume: ForeignVolume, at site: String, _ persistent: PersistentVolume?
    ) async throws(KubernetesError) -> ClaimReport {
        let facts = volume.claim.facts
        let className = facts.storageClass.isEmpty ? "" : classes[facts.storageClass] ?? facts.storageClass
        var refusal: ClaimReport?
        // Else it was asked already.
        if persistent != nil { refusal = try await self.refusal(ofNamespace: facts) }
        if refusal == nil { refusal = try await self.refusal(ofClass: className, facts) }
        if let refusal {
            try await drop(persistent, of: volume.id)
            return refusal
        }
        let wanted = ArrivingClaim(id: volume.id, facts: facts, className: className, site: site)
        let name = ArrivingClaim.volumeName(volume.id)
        if persistent == nil, try await client.find(PersistentVolume.self, name) != nil {
            return Self.not(
                "VolumeExists",
                "persistent volume \(name) is there already and is of something else: delete it")
        }
        do throws(KubernetesError) {
            _ = try await client.create(wanted.claim(boundTo: name), dryRun: true)
            if let persistent {
                try await free(persistent)
            } else {
                _ = try await client.create(wanted.persistentVolume())
            }
            _ = try await client.create(wanted.claim(boundTo: name))
            return Self.made(facts, name)
        } catch {
            switch error {
            case .notFound, .forbidden, .invalid:
                try await drop(try await client.find(PersistentVolume.self, name), of: volume.id)
                return ArrivingClaim.refusal(error, facts)
            // Nobody knows what was done, or somebody was faster: the next look sees it.
            case .unserved, .alreadyExists, .conflict, .gone, .unauthorized, .tooManyRequests, .server,
                .unreachable, .malformed, .configuration, .cancelled:
                throw error
            }
        }
    }

    /// The API server reads the selector, so that it means here what it means to kubectl.
    private func refusal(ofNamespace facts: ClaimFacts) async throws(KubernetesError) -> ClaimReport? {
        guard let acceptedNamespaces else { return nil }
        let (reason, name) = ("NamespaceNotAccepted", "metadata.name=\(facts.namespace)")
        do {
            let accepted = try await client.list(Namespace.self, labels: acceptedNamespaces, fields: name)
            if !accepted.items.isEmpty { return nil }
        } catch .invalid(let text) {
            return Self.not(
                reason,
                "the label selector of --accept-namespaces there, '\(acceptedNamespaces)', cannot be read: \(text)"
            )
        }
        guard try await !client.list(Namespace.self, fields: name).items.isEmpty else {
            return ArrivingClaim.refusal(.notFound(facts.namespace), facts)
        }
        return Self.not(
            reason,
            "namespace \(facts.namespace) takes no claims from other sites: label it there so that "
                + "'\(acceptedNamespaces)' selects it, or change --accept-namespaces of the controller there")
    }

    private func refusal(
        ofClass name: String, _ facts: ClaimFacts
    ) async throws(KubernetesError) -> ClaimReport? {
        if name.isEmpty { return nil }
        guard let known = try await client.find(StorageClass.self, name) else {
            return Self.not(
                "ClassMissing",
                "claim \(facts.path) needs storage class \(name), which is missing: make it there, or map another "
                    + "with --map-class")
        }
        guard known.provisioner == MigrationController.driver else {
            return Self.not(
                "ClassMismatch",
                "claim \(facts.path) needs storage class \(name), which is of \(known.provisioner) there: map "
                    + "another with --map-class")
        }
        return nil
    }

    /// A volume that was here before, with the claim that it is bound to.
    private func adopt(
        _ persistent: PersistentVolume, _ volume: ForeignVolume
    ) async throws(KubernetesError) -> ClaimReport {
        let name = persistent.metadata.name ?? ""
        guard let reference = persistent.spec.claimRef, let claimName = reference.name else {
            return Self.not(
                "VolumeUnclaimed",
                "persistent volume \(name) is there already, without a claim: make a claim for it")
        }
        let claim = try await client.find(PersistentVolumeClaim.self, claimName, in: reference.namespace)
        guard let claim, claim.spec.volumeName == name else {
            return Self.not(
                "VolumeReleased",
                "persistent volume \(name) is there already, but its claim \(reference.namespace ?? "")/\(claimName) "
                    + "is gone: make it again, after taking the claimRef away")
        }
        if let smaller = try await keepUp(persistent, claim, with: volume) { return smaller }
        return ClaimReport(
            isMade: true, reason: "Kept",
            message:
                "claim \(reference.namespace ?? "")/\(claimName) of persistent volume \(name) is there still")
    }

    /// The volume's object here: ours, or one that was here before it went to another cluster.
    private func persistentVolume(
        of id: String, _ known: [String]
    ) async throws(KubernetesError) -> PersistentVolume? {
        let ours = ArrivingClaim.volumeName(id)
        // A watch tells of what was here before in time, and of what was made a moment ago perhaps not.
        for name in [ours] + known.filter({ $0 != ours }) {
            guard let found = try await client.find(PersistentVolume.self, name),
                found.spec.csi?.driver == MigrationController.driver, found.spec.csi?.volumeHandle == id
            else { continue }
            return found
        }
        return nil
    }

    /// Lets a volume of ours be claimed again after its claim was deleted.
    private func free(_ persistent: PersistentVolume) async throws(KubernetesError) {
        guard persistent.spec.claimRef?.uid != nil else { return }
        _ = try await client.patch(
            PersistentVolume.self, persistent.metadata.name ?? "",
            ["spec": ["claimRef": ["uid": .null, "resourceVersion": .null]]])
    }

    /// Takes a volume of ours back that has no claim and was never used.
    private func drop(_ persistent: PersistentVolume?, of id: String) async throws(KubernetesError) {
        guard let persistent, ArrivingClaim.isOurs(persistent.metadata, for: id),
            persistent.metadata.annotations?[ArrivingClaim.used] == nil
        else { return }
        try await client.delete(
            PersistentVolume.self, persistent.metadata.name ?? "", uid: persistent.metadata.uid,
            resourceVersion: persistent.metadata.resourceVersion)
    }

    /// Deletes what was made for a volume that will not come, unless it was ever used or is not ours.
    ///
    /// - Returns: whether something was deleted.
    func remove(_ known: PersistentVolume, of id: String) async throws(KubernetesError) -> Bool {
        guard let persistent = try await client.find(PersistentVolume.self, known.metadata.name ?? ""),
            persistent.metadata.uid == known.metadata.uid, persistent.metadata.deletionTimestamp == nil,
            ArrivingClaim.isOurs(persistent.metadata, for: id),
            persistent.metadata.annotations?[ArrivingClaim.used] == nil
        else { return false }
        if let reference = persistent.spec.claimRef, let name = reference.name,
            let claim = try await client.find(PersistentVolumeClaim.self, name, in: reference.namespace),
            ArrivingClaim.isOurs(claim.metadata, for: id),
            claim.spec.volumeName == persistent.metadata.name, claim.metadata.deletionTimestamp == nil
        {
            try await client.delete(
                PersistentVolumeClaim.self, name, in: reference.namespace, uid: claim.metadata.uid)
        }
        try await drop(persistent, of: id)
        return true
    }

    /// Notes that this site has owned the volume: from now on its objects are its users' alone.
    func keep(_ persistent: PersistentVolume) async throws(KubernetesError) {
        _ = try await client.patch(
            PersistentVolume.self, persistent.metadata.name ?? "",
            ["metadata": ["annotations": .object([ArrivingClaim.used: "true"])]])
    }
}
