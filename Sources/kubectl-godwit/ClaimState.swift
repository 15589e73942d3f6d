internal import ClusterResources
internal import KubernetesAPI

/// A claim of Godwit's, from what several objects say of it.
struct ClaimState: Encodable {
    var namespace: String
    var claim: String
    /// The PersistentVolume.
    var volume: String
    /// The volume's identifier, the same at every site; nil: the user may not read PersistentVolumes.
    var volumeID: String?
    /// The site that owns it, what it is at this one, and which node holds it, as far as the user may know.
    var owner: String?
    var role: String?
    var holder: String?
    /// What the volume is to each member of this site that knows it, by the member's name.
    var members: [String: String]?
    var wish: String?
    var migration: MigrationResource.Spec?
    var status: MigrationResource.Status?

    /// The claims of a namespace, or one of them.
    ///
    /// - Parameter namespace: nil: of all.
    static func collect(
        _ client: KubernetesClient, namespace: String?, claim: String?
    ) async throws(KubernetesError) -> [ClaimState] {
        var claims: [PersistentVolumeClaim] = []
        if let claim {
            claims = [try await client.get(PersistentVolumeClaim.self, claim, in: namespace)]
        } else {
            claims = try await client.list(PersistentVolumeClaim.self, in: namespace).items
        }
        let migrations = try await client.list(
            MigrationResource.self, in: namespace, fields: claim.map { "metadata.name=\($0)" }
        ).items
        let persistent = try await readable { () async throws(KubernetesError) in
            try await client.list(
                PersistentVolume.self,
                fields: claim == nil ? nil : "metadata.name=\(claims.first?.spec.volumeName ?? "")"
            ).items
        }
        let views = try await readable { () async throws(KubernetesError) in
            try await client.list(VolumeView.self).items
        }
        var states: [ClaimState] = []
        for claim in claims {
            let name = claim.spec.volumeName ?? ""
            let bound = persistent?.first { $0.metadata.name == name }
            let migration = migrations.first {
                $0.metadata.name == claim.metadata.name && $0.metadata.namespace == claim.metadata.namespace
            }
            let wish = claim.metadata.annotations?[ClaimWishes.migrateTo]
            // Where PersistentVolumes may not be read, ours is what somebody asked something of.
            let isOurs =
                bound.map { $0.spec.csi?.driver == ClusterNames.driver } ?? (migration != nil || wish != nil)
            guard isOurs else { continue }
            let id = bound?.spec.csi?.volumeHandle
            let found = views?.first { $0.spec.id == id }?.spec
            let view = found?.summary
            states.append(
                ClaimState(
                    namespace: claim.metadata.namespace ?? "", claim: claim.metadata.name ?? "", volume: name,
                    volumeID: id, owner: view?.owner, role: view?.role, holder: view?.holder,
                    members: found?.members?.mapValues { $0.summary?.role ?? "?" }, wish: wish,
                    migration: migration?.spec, status: migration?.status))
        }
        return states.sorted { ($0.namespace, $0.claim) < ($1.namespace, $1.claim) }
    }

    /// nil: the user may not.
    private static func readable<Value>(
        _ body: () async throws(KubernetesError) -> Value
    ) async throws(KubernetesError) -> Value? {
        do {
            return try await body()
        } catch .forbidden {
            return nil
        }
    }
}
