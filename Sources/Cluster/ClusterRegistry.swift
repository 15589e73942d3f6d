internal import ClusterResources
internal import Foundation
package import KubernetesAPI
package import Site
internal import Synchronization
package import VolumeModel

/// The site's registry in its cluster's own API, hence in etcd: one `Volume` resource for each volume, with an entry for
/// each member of the site that knows it. A member reads and changes its own entries.
///
/// - An entry's revision is a number in it. Below it, each write names the resourceVersion that was just read: what
///   people change beside the record (labels, annotations), and what other members write in their entries, is no
///   conflict and is not lost.
/// - A write whose answer was lost is asked again until it is known. If that takes too long, the caller is told
///   that it failed; should it have been made all the same, the caller's next write replaces it.
package final class ClusterRegistry: SharedSiteRegistry {
    let client: KubernetesClient
    let member: SiteID
    /// How long the outcome of one change is asked for.
    let patience: Duration
    /// The writes of which nobody knows whether they were made.
    private let uncertain = Mutex<[VolumeID: Lost]>([:])
    /// Objects by the identifier that was last seen in them, so that one is read, and not all are looked through.
    private let names = Mutex<[VolumeID: String]>([:])
    private static let nameLimit = 10_000

    /// Writes of which it is not known whether they were made.
    private struct Lost {
        static let limit = 256

        /// The revision that they were to follow.
        let base: UInt64
        private(set) var writers: Set<String>

        init(writer: String, base: UInt64) {
            self.base = base
            writers = [writer]
        }

        /// Whether what is present is one of them, as far as who knows this revision is concerned.
        func covers(_ present: VolumeResource.Entry, after revision: UInt64) -> Bool {
            base == revision && writers.contains(present.writer)
        }

        mutating func add(_ other: Lost) {
            if base != other.base || writers.count >= Self.limit {
                self = other
            } else {
                writers.formUnion(other.writers)
            }
        }
    }

    let events: EventRecorder
    /// The volumes that people were shown to be out of service here.
    let unserved = Mutex<Set<String>>([])
    /// What the member told of itself last, and when.
    let told = Mutex<(report: MemberReport, at: ContinuousClock.Instant)?>(nil)

    /// - Parameter member: whose entries these are: a site, or one of its nodes.
    package init(_ client: KubernetesClient, member: SiteID, patience: Duration = .seconds(60)) {
        self.client = client
        self.member = member
        self.patience = patience
        events = EventRecorder(client, component: ClusterNames.site)
    }

    // MARK: reading

    package func volumes() async throws(RegistryError) -> [Versioned<VolumeRecord>] {
        let resources = try await list(labels: nil)
        unserved.withLock { unserved in
            unserved = Set(resources.filter { isShownUnserved($0) }.map(\.spec.id))
        }
        var records: [Versioned<VolumeRecord>] = []
        for resource in resources {
            if let record = try Self.record(resource, of: member) { records.append(record) }
        }
        return records.sorted { $0.value.id < $1.value.id }
    }

    package func volume(_ id: VolumeID) async throws(RegistryError) -> Versioned<VolumeRecord>? {
        guard let resource = try await resource(id) else { return nil }
        return try Self.record(resource, of: member)
    }

    package func volume(named name: String) async throws(RegistryError) -> Versioned<VolumeRecord>? {
        guard let resource = try await find(VolumeResource.objectName(name)) else { return nil }
        return try Self.record(resource, of: member)
    }

    // MARK: changing

    package func insert(_ record: VolumeRecord) async throws(RegistryError) -> Versioned<VolumeRecord> {
        let name = VolumeResource.objectName(record.name)
        // Identifiers are random or a peer's: this guards against a second name, not against a race.
        if let known = try await resource(record.id), known.metadata.name != name {
            throw .nameTaken(record.name)
        }
        let entry = try Self.entry(record, revision: 1, writer: UUID().uuidString)
        var kept: VolumeResource.Entry?
        try await untilKnown(record.id, Lost(writer: entry.writer, base: 0), inserting: record.name) {
            () async throws(KubernetesError) in
            guard let known = try await client.find(VolumeResource.self, name) else {
                var resource = VolumeResource(of: record)
                try Self.set(entry, of: member, in: &resource)
                do throws(KubernetesError) {
                    kept = try Self.entry(try await client.create(resource), of: member)
                } catch {
                    // Another member's was first: then ours is one more entry, if it is the same volume.
                    guard case .alreadyExists(let message) = error else { throw error }
                    throw .conflict(message)
                }
                return
            }
            guard known.spec.id == record.id.description else {
                throw .alreadyExists("the name is another volume's")
            }
            if let present = try Self.entry(known, of: member) {
                guard present.writer == entry.writer else { throw .alreadyExists("it is known here") }
                kept = present
                return
            }
            // Who removes the last entry deletes the object only if it is as it was then.
            guard known.metadata.deletionTimestamp == nil else { throw .conflict("it is being deleted") }
            do throws(KubernetesError) {
                kept = try Self.entry(try await replace(known, with: entry), of: member)
            } catch {
                guard case .notFound(let message) = error else { throw error }
                throw .conflict(message)
            }
        }
        let inserted = Versioned(record, revision: 1)
        guard kept?.record == entry.record else {
            // Else it would be in the way of the next try.
            try? await remove(inserted)
            throw Self.notKept(record)
        }
        return inserted
    }

    package func update(
        _ record: Versioned<VolumeRecord>
    ) async throws(RegistryError) -> Versioned<VolumeRecord> {
        let id = record.value.id
        let name = VolumeResource.objectName(record.value.name)
        let (next, overflow) = record.revision.addingReportingOverflow(1)
        guard !overflow else { throw .store("the record of \(id) was changed too often") }
        let lost = uncertain.withLock { $0[id] }
        var wanted = try Self.entry(record.value, revision: next, writer: UUID().uuidString)
        var kept: VolumeResource.Entry?
        try await untilKnown(id, Lost(writer: wanted.writer, base: record.revision)) {
            () async throws(KubernetesError) in
            guard let known = try await client.find(VolumeResource.self, name),
                known.spec.id == id.description, let present = try Self.entry(known, of: member)
            else { throw .notFound("volume \(id) is not in the registry") }
            if present.writer == wanted.writer {
                kept = present
                return
            }
            // Lost writes of our own may have taken the next numbers.
            let isLost = lost?.covers(present, after: record.revision) ?? false
            guard present.revision == record.revision || isLost else {
                throw .alreadyExists("the record is of revision \(present.revision)")
            }
            wanted.revision = isLost ? present.revision &+ 1 : next
            kept = try Self.entry(try await replace(known, with: wanted), of: member)
        }
        guard kept?.record == wanted.record else {
            // It was made, but for what was dropped: the next one replaces it.
            uncertain.withLock { $0[id] = Lost(writer: wanted.writer, base: record.revision) }
            throw Self.notKept(record.value)
        }
        return Versioned(record.value, revision: wanted.revision)
    }

    private static func notKept(_ record: VolumeRecord) -> RegistryError {
        .store(
            "the cluster did not keep all of the record of volume '\(record.name)': its definition of "
                + "volumes.godwit.dev is another release's, so apply the manifests of this release")
    }

    package func remove(_ record: Versioned<VolumeRecord>) async throws(RegistryError) {
        let id = record.value.id
        let name = VolumeResource.objectName(record.value.name)
        let lost = uncertain.withLock { $0[id] }
        var seen: String?
        try await untilKnown(id, nil) { () async throws(KubernetesError) in
            guard let known = try await client.find(VolumeResource.self, name),
                known.spec.id == id.description, let present = try Self.entry(known, of: member),
                seen == nil || present.writer == seen
            else {
                // Asked once already: then that is what took it away.
                if seen != nil { return }
                throw .alreadyExists("the record is gone")
            }
            guard
                present.revision == record.revision || lost?.covers(present, after: record.revision) ?? false
            else { throw .alreadyExists("the record is of revision \(present.revision)") }
            seen = present.writer
            if known.spec.members.count > 1 {
                do throws(KubernetesError) {
                    try await replace(known, with: nil)
                } catch {
                    guard case .notFound(let message) = error else { throw error }
                    throw .conflict(message)
                }
            } else {
                // With the last entry goes the object, unless there is another by then.
                try await client.delete(
                    VolumeResource.self, name, uid: known.metadata.uid,
                    resourceVersion: known.metadata.resourceVersion)
            }
        }
        // Nobody else would take back what this member showed.
        try? await show(nil, of: record.value)
    }

    /// Replaces the entry of this member in a resource that was just read, and nothing else of it.
    ///
    /// - Returns: what the server has kept.
    @discardableResult
    private func replace(
        _ known: VolumeResource, with entry: VolumeResource.Entry?
    ) async throws(KubernetesError) -> VolumeResource {
        var resource = known
        try Self.set(entry, of: member, in: &resource)
        resource.metadata.labels = (known.metadata.labels ?? [:])
            .merging([VolumeResource.label: known.spec.id]) { $1 }
        return try await client.update(resource)
    }

    /// Repeats a change until its outcome is known.
    ///
    /// - Parameter change: throws `.alreadyExists` when the record is another's, `.conflict` to be called again.
    private func untilKnown(
        _ id: VolumeID, _ write: Lost?, inserting name: String? = nil,
        _ change: () async throws(KubernetesError) -> Void
    ) async throws(RegistryError) {
        let deadline = ContinuousClock.now + patience
        var backoff = Backoff(first: .milliseconds(20), limit: .seconds(5))
        // Of those that write at once one succeeds: the others come next, and do not wait for long.
        var contention = Backoff(first: .milliseconds(5), limit: .milliseconds(200))
        var isUncertain = false
        while true {
            let wait: Duration
            do throws(KubernetesError) {
                try await change()
                _ = uncertain.withLock { $0.removeValue(forKey: id) }
                return
            } catch {
                switch error {
                case .alreadyExists where name != nil: throw .nameTaken(name ?? "")
                case .alreadyExists, .notFound: throw .conflict(id)
                case .conflict, .unserved, .server, .unreachable, .malformed, .cancelled, .tooManyRequests:
                    isUncertain = isUncertain || error.isAmbiguous
                    guard ContinuousClock.now < deadline, !Task.isCancelled else {
                        if isUncertain, let write { noteLost(write, of: id) }
                        throw .store(error.description)
                    }
                    if case .conflict = error { wait = contention.next() } else { wait = backoff.next() }
                case .gone, .unauthorized, .forbidden, .invalid, .configuration:
                    throw .store(error.description)
                }
            }
            try? await Task.sleep(for: wait)
        }
    }

    private func noteLost(_ write: Lost, of id: VolumeID) {
        uncertain.withLock { uncertain in
            // An earlier one may have been made, and this one not.
            if uncertain[id]?.add(write) == nil { uncertain[id] = write }
        }
    }

    // MARK: resources

    func resource(_ id: VolumeID) async throws(RegistryError) -> VolumeResource? {
        if let name = names.withLock({ $0[id] }), let known = try await find(name),
            known.spec.id == id.description
        {
            return known
        }
        // The label may have been changed by hand: the identifier in the record decides.
        let found = try await list(labels: VolumeResource.label + "=" + id.description)
            .first { $0.spec.id == id.description }
        names.withLock { names in
            if names.count >= Self.nameLimit { names.removeAll() }
            names[id] = found?.metadata.name
        }
        return found
    }

    func list(labels: String?) async throws(RegistryError) -> [VolumeResource] {
        do throws(KubernetesError) {
            return try await client.list(VolumeResource.self, labels: labels).items
        } catch {
            throw .store(error.description)
        }
    }

    func find(_ name: String) async throws(RegistryError) -> VolumeResource? {
        do throws(KubernetesError) {
            return try await client.find(VolumeResource.self, name)
        } catch {
            throw .store(error.description)
        }
    }

    private static func entry(
        _ record: VolumeRecord, revision: UInt64, writer: String
    ) throws(RegistryError) -> VolumeResource.Entry {
        do {
            return try VolumeResource.Entry(record, revision: revision, writer: writer)
        } catch {
            throw .store("cannot write the record of \(record.id): \(error)")
        }
    }

    private static func entry(
        _ resource: VolumeResource, of member: SiteID
    ) throws(KubernetesError) -> VolumeResource.Entry? {
        do {
            return try resource.spec.entry(of: member)
        } catch {
            throw .invalid("the entry of \(member) for volume \(resource.spec.id) cannot be read: \(error)")
        }
    }

    private static func set(
        _ entry: VolumeResource.Entry?, of member: SiteID, in resource: inout VolumeResource
    ) throws(KubernetesError) {
        do {
            try resource.spec.set(entry, of: member)
        } catch {
            throw .invalid("an entry that cannot be written: \(error)")
        }
    }

    /// - Returns: nil when the member does not know the volume.
    static func record(
        _ resource: VolumeResource, of member: SiteID
    ) throws(RegistryError) -> Versioned<VolumeRecord>? {
        guard let id = VolumeID(resource.spec.id) else {
            throw .store("a volume with the identifier '\(resource.spec.id)'")
        }
        do {
            guard let entry = try resource.spec.entry(of: member) else { return nil }
            return Versioned(
                try entry.record.decoded(as: StoredVolume.self).record(id: id), revision: entry.revision)
        } catch {
            throw .malformed(id, "\(error)")
        }
    }
}
