package import KubernetesAPI

/// A `Volume` as whoever is not the site sees it: its columns, never the record.
package struct VolumeView: KubernetesResource {
    package static let resource = ResourceKind(
        group: "godwit.dev", version: "v1alpha1", kind: "Volume", plural: "volumes", isNamespaced: false)

    package struct Summary: Codable, Hashable, Sendable {
        package var role: String?
        package var owner: String?
        package var epoch: UInt64?
        package var holder: String?
        package var claim: String?
        package var claimState: String?
        package var claimMessage: String?
    }

    /// What one member of the site knows.
    package struct Entry: Codable, Hashable, Sendable { package var summary: Summary? }

    package struct Spec: Codable, Hashable, Sendable {
        package var id: String
        /// Of all members together.
        package var summary: Summary?
        package var members: [String: Entry]?
    }

    package struct Status: Codable, Hashable, Sendable { package var conditions: [Condition]? }

    package var metadata: ObjectMeta
    package var spec: Spec
    package var status: Status?
}
