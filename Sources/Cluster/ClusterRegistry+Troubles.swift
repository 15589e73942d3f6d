internal import ClusterResources
internal import Foundation
internal import KubernetesAPI
package import Site
internal import VolumeModel

/// What people are shown beside a record: why its volume is not served, by member, and in one condition.
extension ClusterRegistry {
    func isShownUnserved(_ resource: VolumeResource) -> Bool {
        resource.status?.troubles?[member.description] != nil
    }

    package func show(_ trouble: String?, of record: VolumeRecord) async throws(RegistryError) {
        let id = record.id.description
        guard trouble != nil || unserved.withLock({ $0.contains(id) }) else { return }
        let name = VolumeResource.objectName(record.name)
        var contention = Backoff(first: .milliseconds(5), limit: .milliseconds(200))
        for _ in 0..<20 {
            do throws(KubernetesError) {
                if let known = try await client.find(VolumeResource.self, name), known.spec.id == id {
                    try await show(trouble, of: known, name)
                }
                unserved.withLock { unserved in
                    if trouble == nil { unserved.remove(id) } else { unserved.insert(id) }
                }
                return
            } catch {
                // Another member shows something too: all of it is in one condition.
                guard case .conflict = error else { throw .store(error.description) }
            }
            try? await Task.sleep(for: contention.next())
        }
        throw .store("the conditions of volume \(id) are changed by others all the time")
    }

    private func show(
        _ trouble: String?, of known: VolumeResource, _ name: String
    ) async throws(KubernetesError) {
        let present = known.status?.troubles?[member.description]
        guard present != trouble else { return }
        var troubles = known.status?.troubles ?? [:]
        troubles[member.description] = trouble
        let shown = troubles.sorted { $0.key < $1.key }
            .map { Self.text($0.value, of: SiteID($0.key), $0.key) }.joined(separator: "; ")
        let condition = Condition(
            ClusterNames.served, troubles.isEmpty, reason: troubles.isEmpty ? "Served" : "NotServed",
            message: troubles.isEmpty ? "nothing is in the way" : shown, at: Timestamps.seconds(Date()))
        // The Event first: of what is written nobody thinks again.
        try await events.record(
            trouble == nil ? "Served" : "NotServed",
            Self.text(trouble ?? "nothing is in the way", of: member, member.description), about: known,
            isWarning: trouble != nil)
        _ = try await client.patch(
            VolumeResource.self, name,
            [
                "metadata": ["resourceVersion": JSONValue(known.metadata.resourceVersion)],
                "status": [
                    "troubles": [member.description: JSONValue(trouble)],
                    "conditions": .array([try Self.json(condition)]),
                ],
            ], subresource: "status")
    }

    /// Where a site has one member alone, nobody asks which it is.
    private static func text(_ trouble: String, of member: SiteID?, _ name: String) -> String {
        if let member, member.node == nil { trouble } else { name + ": " + trouble }
    }

    private static func json(_ condition: Condition) throws(KubernetesError) -> JSONValue {
        do {
            return try JSONValue(encoding: condition)
        } catch {
            throw .invalid("a condition that cannot be written: \(error)")
        }
    }
}
