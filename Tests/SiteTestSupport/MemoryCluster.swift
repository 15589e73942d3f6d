package import Site
internal import Synchronization
package import VolumeModel

/// What the members of a site share, in memory: several members can be run in one process.
///
/// It keeps what `ClusterRegistry` keeps, the contracts in Tests/ClusterTests say. What was written stays for as long as
/// the cluster does: a member that is started again asks for its registry again.
package final class MemoryCluster: Sendable {
    /// What the members know of one volume, as one object of a cluster.
    struct Volume: Sendable {
        let id: VolumeID
        var entries: [SiteID: Versioned<VolumeRecord>] = [:]
    }

    struct State: Sendable {
        /// By the volume's name.
        var volumes: [String: Volume] = [:]
        var members: [SiteID: Member] = [:]
        var troubles: [VolumeID: [SiteID: String]] = [:]
        var reports: [SiteID: MemberReport] = [:]
        /// What the store answers to every call; nil: it works.
        var failure: String?
    }

    private let state = Mutex(State())

    package init() {}

    /// The records of one member, and the view of the others'.
    package func registry(of member: SiteID) -> any SharedSiteRegistry {
        MemoryRegistry(cluster: self, member: member)
    }

    /// From now on each call fails with this, as when the API server is away; nil: it is back.
    package func fail(_ message: String?) { state.withLock { $0.failure = message } }

    /// A node is taken away, as a person does who deletes its `Member`.
    package func forget(_ member: SiteID) { state.withLock { $0.members[member] = nil } }

    /// What a member told of itself last.
    package func report(of member: SiteID) -> MemberReport? { state.withLock { $0.reports[member] } }

    /// What members show to be in the way of a volume.
    package func troubles(of id: VolumeID) -> [SiteID: String] { state.withLock { $0.troubles[id] ?? [:] } }

    func use<Value: Sendable>(
        _ body: (inout State) throws(RegistryError) -> Value
    ) throws(RegistryError) -> Value {
        try state.withLock { state throws(RegistryError) in
            if let failure = state.failure { throw .store(failure) }
            return try body(&state)
        }
    }
}

private struct MemoryRegistry: SharedSiteRegistry {
    let cluster: MemoryCluster
    let member: SiteID

    // MARK: the member's own

    func volumes() async throws(RegistryError) -> [Versioned<VolumeRecord>] {
        try cluster.use { state in
            state.volumes.values.compactMap { $0.entries[member] }.sorted { $0.value.id < $1.value.id }
        }
    }

    func volume(_ id: VolumeID) async throws(RegistryError) -> Versioned<VolumeRecord>? {
        try cluster.use { state in state.volumes.values.first { $0.id == id }?.entries[member] }
    }

    func volume(named name: String) async throws(RegistryError) -> Versioned<VolumeRecord>? {
        try cluster.use { state in state.volumes[name]?.entries[member] }
    }

    func insert(_ record: VolumeRecord) async throws(RegistryError) -> Versioned<VolumeRecord> {
        try cluster.use { state throws(RegistryError) in
            let isElsewhere = state.volumes.contains { $0.value.id == record.id && $0.key != record.name }
            var volume = state.volumes[record.name] ?? MemoryCluster.Volume(id: record.id)
            guard !isElsewhere, volume.id == record.id, volume.entries[member] == nil else {
                throw .nameTaken(record.name)
            }
            let inserted = Versioned(record, revision: 1)
            volume.entries[member] = inserted
            state.volumes[record.name] = volume
            return inserted
        }
    }

    func update(_ record: Versioned<VolumeRecord>) async throws(RegistryError) -> Versioned<VolumeRecord> {
        try cluster.use { state throws(RegistryError) in
            var volume = try present(record, state)
            let updated = Versioned(record.value, revision: record.revision + 1)
            volume.entries[member] = updated
            state.volumes[record.value.name] = volume
            return updated
        }
    }

    func remove(_ record: Versioned<VolumeRecord>) async throws(RegistryError) {
        try cluster.use { state throws(RegistryError) in
            var volume = try present(record, state)
            volume.entries[member] = nil
            state.volumes[record.value.name] = volume.entries.isEmpty ? nil : volume
            state.troubles[volume.id]?[member] = nil
        }
    }

    /// The volume of which this member's record is of the revision that is to be replaced.
    private func present(
        _ record: Versioned<VolumeRecord>, _ state: MemoryCluster.State
    ) throws(RegistryError) -> MemoryCluster.Volume {
        guard let volume = state.volumes[record.value.name], volume.id == record.value.id,
            volume.entries[member]?.revision == record.revision
        else { throw .conflict(record.value.id) }
        return volume
    }

    func show(_ trouble: String?, of record: VolumeRecord) async throws(RegistryError) {
        try cluster.use { state in state.troubles[record.id, default: [:]][member] = trouble }
    }

    // MARK: everybody's

    func placements(of id: VolumeID) async throws(RegistryError) -> [Placement] {
        try cluster.use { state in state.volumes.values.filter { $0.id == id }.flatMap(Self.placements) }
    }

    func placements(named name: String) async throws(RegistryError) -> [Placement] {
        try cluster.use { state in state.volumes[name].map(Self.placements) ?? [] }
    }

    func placements() async throws(RegistryError) -> [Placement] {
        try cluster.use { state in
            state.volumes.values.sorted { $0.id < $1.id }.flatMap(Self.placements)
        }
    }

    private static func placements(_ volume: MemoryCluster.Volume) -> [Placement] {
        volume.entries.sorted { $0.key < $1.key }.map { Placement(member: $0.key, record: $0.value.value) }
    }

    func abandon(_ placement: Placement) async throws(RegistryError) {
        let theirs = MemoryRegistry(cluster: cluster, member: placement.member)
        if let record = try await theirs.volume(placement.record.id) { try await theirs.remove(record) }
    }

    func members() async throws(RegistryError) -> [Member] {
        try cluster.use { state in state.members.values.sorted { $0.id < $1.id } }
    }

    func announce(_ member: Member) async throws(RegistryError) {
        try cluster.use { state in state.members[member.id] = member }
    }

    func tell(_ report: MemberReport, of member: Member) async throws(RegistryError) {
        try cluster.use { state in state.reports[member.id] = report }
    }
}
