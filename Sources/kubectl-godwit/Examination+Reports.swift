internal import ClusterResources
internal import Foundation
internal import KubernetesAPI
internal import SiteIdentity
internal import VolumeModel

/// What members tell of themselves, beside what the Secrets and the cluster's objects tell.
extension Examination {
    func trust() async throws(KubernetesError) -> [Finding] {
        var sight = TrustSight(
            namespace: namespace, now: now, members: try await client.list(MemberResource.self).items)
        var hidden: [Finding] = []
        do throws(KubernetesError) {
            let secret = try await client.find(Secret.self, ClusterNames.site, in: namespace)
            sight.keys = secret.map { Self.keys(in: $0) } ?? .missing
        } catch {
            hidden.append(try Self.hidden("secret \(namespace)/\(ClusterNames.site)", error))
        }
        do throws(KubernetesError) {
            let secret = try await client.find(Secret.self, ClusterNames.peers, in: namespace)
            sight.documents = Self.documents(in: secret)
        } catch {
            hidden.append(try Self.hidden("secret \(namespace)/\(ClusterNames.peers)", error))
        }
        return sight.findings() + hidden
    }

    private static func hidden(
        _ what: String, _ error: KubernetesError
    ) throws(KubernetesError) -> Finding {
        guard case .forbidden(let reason) = error else { throw error }
        return Finding(.unknown, "\(what): you may not look at this (\(reason))")
    }

    private static func keys(in secret: Secret) -> TrustSight.Keys {
        guard let text = secret.value(ClusterNames.authority) else {
            return .unusable("it has no '\(ClusterNames.authority)'")
        }
        do throws(IdentityError) {
            return .present(try KeptTrust.authority(in: text, from: "'\(ClusterNames.authority)'"))
        } catch {
            return .unusable(error.description)
        }
    }

    private static func documents(in secret: Secret?) -> [TrustSight.Document] {
        (secret?.names ?? []).map { name in
            do throws(IdentityError) {
                let peer = try KeptTrust.peer(secret?.value(name) ?? "", keptAs: name)
                return TrustSight.Document(name: name, peer: peer)
            } catch {
                return TrustSight.Document(name: name, trouble: error.description)
            }
        }
    }

    func clocks() async throws(KubernetesError) -> [Finding] {
        ClockSight(now: now, members: try await client.list(MemberResource.self).items).findings()
    }

    func mounts() async throws(KubernetesError) -> [Finding] {
        ReportSight(namespace: namespace, now: now, members: try await client.list(MemberResource.self).items)
            .findings()
    }

    func leftovers() async throws(KubernetesError) -> [Finding] {
        var sight = LeftoverSight(
            now: now, members: try await client.list(MemberResource.self).items,
            volumes: try await client.list(VolumeView.self).items)
        sight.persistent = try await readable { () async throws(KubernetesError) in
            try await client.list(PersistentVolume.self).items
        }
        sight.claims = try await readable { () async throws(KubernetesError) in
            try await client.list(PersistentVolumeClaim.self).items
        }
        sight.migrations = try await readable { () async throws(KubernetesError) in
            try await client.list(MigrationResource.self).items
        }
        return sight.findings()
    }
}
