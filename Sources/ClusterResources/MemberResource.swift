package import KubernetesAPI
package import VolumeModel

/// A process of the site at one of the cluster's nodes, after which it is named: `kubectl get members.godwit.dev`.
///
/// Each writes its own when it starts, and in its status what it tells of itself. It stays when the node is gone, for
/// volumes may be waiting for it.
package struct MemberResource: KubernetesResource {
    package static let resource = ResourceKind(
        group: "godwit.dev", version: "v1alpha1", kind: "Member", plural: "members", isNamespaced: false)

    package struct Spec: Codable, Hashable, Sendable {
        /// The site as a whole.
        package var site: String
        /// Its own name: `worker-1.london`.
        package var id: String
        /// Where the site's other members and its gateway reach it, as host:port; nil: nowhere.
        package var address: String?
        package var release: String

        package init(site: String, id: String, address: String?, release: String) {
            self.site = site
            self.id = id
            self.address = address
            self.release = release
        }

        /// All of it, for a merge patch: what is not there is taken away.
        package var patch: JSONValue {
            [
                "site": .string(site), "id": .string(id), "address": JSONValue(address),
                "release": .string(release),
            ]
        }
    }

    package var metadata: ObjectMeta
    package var spec: Spec
    package var status: MemberReport?
    /// Whether the status cannot be read, being spoilt or of a release that writes others: it is nil then. Whoever looks
    /// for members finds them all the same.
    package private(set) var isStatusUnreadable = false

    private enum CodingKeys: String, CodingKey {
        case metadata, spec, status
    }

    package init(node: String, spec: Spec) {
        metadata = ObjectMeta(name: node)
        self.spec = spec
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        metadata = try container.decode(ObjectMeta.self, forKey: .metadata)
        spec = try container.decode(Spec.self, forKey: .spec)
        do {
            status = try container.decodeIfPresent(MemberReport.self, forKey: .status)
        } catch {
            isStatusUnreadable = true
        }
    }
}
