internal import ClusterResources
internal import Foundation
package import KubernetesAPI
package import Site
internal import Synchronization
package import VolumeModel

/// The site's registry in its cluster's own API, hence in etcd: one `Volume` resource for each record.
///
/// - A record's revision is a number in the resource. Below it, each write names the resourceVersion that was
///   just read: what people change beside the record (labels, annotations) is no conflict and is not lost.
/// - A write whose answer was lost is asked again until it is known. If that takes too long, the caller is told
///   that it failed; should it have been made all the same, the caller's next write replaces it.
package final class ClusterRegistry: SiteRegistry {
    private let client: KubernetesClient
    /// How long the outcome of one change is asked for.
    private let patience: Duration
    /// The writes of which nobody knows whether they were made.
    private let uncertain = Mutex<[VolumeID: String]>([:])
    private let events: EventRecorder
    /// The volumes that people were shown to be out of service.
    private let unserved = Mutex<Set<String>>([])

    package init(_ client: KubernetesClient, patience: Duration = .seconds(60)) {
        self.client = client
        self.patience = patience
        events = EventRecorder(client, component: ClusterNames.site)
    }

    // MARK: reading

    package func volumes() async throws(RegistryError) -> [Versioned<VolumeRecord>] {
        let resources = try await list(labels: nil)
        unserved.withLock { unserved in
            unserved = Set(resources.filter { Self.isShownUnserved($0) }.map(\.spec.id))
        }
        return try resources.map { resource throws(RegistryError) in
            try Self.record(resource)
        }.sorted { $0.value.id < $1.value.id }
    }

    package func volume(_ id: VolumeID) async throws(RegistryError) -> Versioned<VolumeRecord>? {
        try await resource(id).map { resource throws(RegistryError) in try Self.record(resource) }
    }

    package func volume(named name: String) async throws(RegistryError) -> Versioned<VolumeRecord>? {
        guard let resource = try await find(VolumeResource.objectName(name)) else { return nil }
        return try Self.record(resource)
    }

    // MARK: changing

    package func insert(_ record: VolumeRecord) async throws(RegistryError) -> Versioned<VolumeRecord> {
        // Identifiers are random or a peer's: this guards against a second name, not against a race.
        if try await resource(record.id) != nil { throw .nameTaken(record.name) }
        let writer = UUID().uuidString
        let resource = try Self.resource(record, revision: 1, writer: writer)
        let name = VolumeResource.objectName(record.name)
        try await untilKnown(record.id, writer, inserting: record.name) {
            () async throws(KubernetesError) -> Bool in
            do throws(KubernetesError) {
                _ = try await client.create(resource)
            } catch {
                guard case .alreadyExists = error,
                    try await client.find(VolumeResource.self, name)?.spec.writer == writer
                else { throw error }
            }
            return true
        }
        return Versioned(record, revision: 1)
    }

    package func update(
        _ record: Versioned<VolumeRecord>
    ) async throws(RegistryError) -> Versioned<VolumeRecord> {
        let id = record.value.id
        let writer = UUID().uuidString
        let name = VolumeResource.objectName(record.value.name)
        let (next, overflow) = record.revision.addingReportingOverflow(1)
        guard !overflow else { throw .store("the record of \(id) was changed too often") }
        let lost = uncertain.withLock { $0[id] }
        var wanted = try Self.resource(record.value, revision: next, writer: writer)
        // Known once the resource is read: a lost write of our own may have taken the next number.
        var revision = next
        try await untilKnown(id, writer) { () async throws(KubernetesError) -> Bool in
            guard let known = try await client.find(VolumeResource.self, name),
                known.spec.id == id.description
            else { throw .notFound("volume \(id) is not in the registry") }
            if known.spec.writer == writer { return true }
            let isLost = lost != nil && known.spec.writer == lost && known.spec.revision == next
            guard known.spec.revision == record.revision || isLost else {
                throw .alreadyExists("the record is of revision \(known.spec.revision)")
            }
            revision = isLost ? next &+ 1 : next
            wanted.spec.revision = revision
            try await replace(name, known, wanted)
            return true
        }
        return Versioned(record.value, revision: revision)
    }

    /// Replaces the record of a resource that was just read, and nothing else of it.
    private func replace(
        _ name: String, _ known: VolumeResource, _ next: VolumeResource
    ) async throws(KubernetesError) {
        var resource = known
        resource.spec = next.spec
        resource.metadata.labels = (known.metadata.labels ?? [:]).merging(next.metadata.labels ?? [:]) { $1 }
        _ = try await client.update(resource)
    }

    package func remove(_ record: Versioned<VolumeRecord>) async throws(RegistryError) {
        let id = record.value.id
        let name = VolumeResource.objectName(record.value.name)
        var wasSeen = false
        try await untilKnown(id, "") { () async throws(KubernetesError) -> Bool in
            guard let known = try await client.find(VolumeResource.self, name),
                known.spec.id == id.description
            else {
                // Asked once already: then that is what took it away.
                if wasSeen { return true }
                throw .alreadyExists("the record is gone")
            }
            guard known.spec.revision == record.revision else {
                throw .alreadyExists("the record is of revision \(known.spec.revision)")
            }
            wasSeen = true
            try await client.delete(
                VolumeResource.self, name, uid: known.metadata.uid,
                resourceVersion: known.metadata.resourceVersion)
            return true
        }
    }

    // MARK: what people are shown

    private static func isShownUnserved(_ resource: VolumeResource) -> Bool {
        resource.status?.conditions?.contains { $0.type == ClusterNames.served && $0.status == "False" }
            ?? false
    }

    package func show(_ trouble: String?, of record: VolumeRecord) async throws(RegistryError) {
        let id = record.id.description
        guard trouble != nil || unserved.withLock({ $0.contains(id) }) else { return }
        do throws(KubernetesError) {
            let name = VolumeResource.objectName(record.name)
            guard let known = try await client.find(VolumeResource.self, name), known.spec.id == id else {
                return
            }
            let (reason, message) = trouble.map { ("NotServed", $0) } ?? ("Served", "nothing is in the way")
            let present = known.status?.conditions?.first { $0.type == ClusterNames.served }
            if present?.reason != reason || present?.message != message {
                // The Event first: of what is written nobody thinks again.
                try await events.record(reason, message, about: known, isWarning: trouble != nil)
                let condition = Condition(
                    ClusterNames.served, trouble == nil, reason: reason, message: message,
                    at: Timestamps.seconds(Date()))
                _ = try await client.patch(
                    VolumeResource.self, name,
                    ["status": ["conditions": .array([try Self.json(condition)])]], subresource: "status")
            }
            unserved.withLock { unserved in
                if trouble == nil { unserved.remove(id) } else { unserved.insert(id) }
            }
        } catch {
            throw .store(error.description)
        }
    }

    private static func json(_ condition: Condition) throws(KubernetesError) -> JSONValue {
        do {
            return try JSONValue(encoding: condition)
        } catch {
            throw .invalid("a condition that cannot be written: \(error)")
        }
    }

    /// Repeats a change until its outcome is known.
    ///
    /// - Parameter change: throws `.alreadyExists` when the record is another's, `.conflict` to be called again.
    private func untilKnown(
        _ id: VolumeID, _ writer: String, inserting name: String? = nil,
        _ change: () async throws(KubernetesError) -> Bool
    ) async throws(RegistryError) {
        let deadline = ContinuousClock.now + patience
        var backoff = Backoff(first: .milliseconds(20), limit: .seconds(5))
        var isUncertain = false
        while true {
            do throws(KubernetesError) {
                if try await change() {
                    _ = uncertain.withLock { $0.removeValue(forKey: id) }
                    return
                }
            } catch {
                switch error {
                case .alreadyExists where name != nil: throw .nameTaken(name ?? "")
                case .alreadyExists, .notFound: throw .conflict(id)
                case .conflict, .server, .unreachable, .malformed, .cancelled, .tooManyRequests:
                    isUncertain = isUncertain || error.isAmbiguous
                    guard ContinuousClock.now < deadline, !Task.isCancelled else {
                        if isUncertain, !writer.isEmpty { uncertain.withLock { $0[id] = writer } }
                        throw .store(error.description)
                    }
                case .gone, .unauthorized, .forbidden, .invalid, .configuration:
                    throw .store(error.description)
                }
            }
            try? await Task.sleep(for: backoff.next())
        }
    }

    // MARK: resources

    private func resource(_ id: VolumeID) async throws(RegistryError) -> VolumeResource? {
        // The label may have been changed by hand: the identifier in the record decides.
        try await list(labels: VolumeResource.label + "=" + id.description)
            .first { $0.spec.id == id.description }
    }

    private func list(labels: String?) async throws(RegistryError) -> [VolumeResource] {
        do throws(KubernetesError) {
            return try await client.list(VolumeResource.self, labels: labels).items
        } catch {
            throw .store(error.description)
        }
    }

    private func find(_ name: String) async throws(RegistryError) -> VolumeResource? {
        do throws(KubernetesError) {
            return try await client.find(VolumeResource.self, name)
        } catch {
            throw .store(error.description)
        }
    }

    private static func resource(
        _ record: VolumeRecord, revision: UInt64, writer: String
    ) throws(RegistryError) -> VolumeResource {
        do {
            return try VolumeResource(record, revision: revision, writer: writer)
        } catch {
            throw .store("cannot write the record of \(record.id): \(error)")
        }
    }

    private static func record(_ resource: VolumeResource) throws(RegistryError) -> Versioned<VolumeRecord> {
        guard let id = VolumeID(resource.spec.id) else {
            throw .store("a volume with the identifier '\(resource.spec.id)'")
        }
        do {
            return Versioned(
                try resource.spec.record.decoded(as: StoredVolume.self).record(id: id),
                revision: resource.spec.revision)
        } catch {
            throw .malformed(id, "\(error)")
        }
    }
}
