package import Handoff
package import Hydration
package import VolumeModel

/// What a site knows of a volume.
package struct VolumeRecord: Hashable, Sendable {
    package let id: VolumeID
    /// What the user named it; unique at the site.
    package var name: String
    /// What it may hold.
    package var limits: VolumeLimits
    /// In bytes; 0: as much as the disk has.
    package var capacity: UInt64 { limits.byteCount }
    /// The parameters it was created with: a repeated request must bring the same.
    package var parameters: [String: String]
    /// Who owns it, who keeps bytes for whom: the state machine's own record.
    package var head: HeadRecord
    /// The number of the directory of the present head; 0: no head is here.
    package var headNumber: UInt64
    /// The directories of earlier heads, by the reign that they were sealed for.
    package var retainedHeads: [Epoch: UInt64]
    /// The directories of what was written here and is in no later state, by the epoch under which it was.
    package var divergentHeads: [Epoch: UInt64] = [:]
    /// Heads that nobody needs any more, by the reign that each was granted to.
    package var copies: [Epoch: KeptCopy] = [:]
    /// The highest number that a head's directory ever had: none is used twice, for the deletion of an old one
    /// may still be under way.
    package var lastHeadNumber: UInt64
    /// Sites that may follow it and take it over.
    package var sharedWith: Set<SiteID>
    /// The catalog position of the owner that this follower has reached; nil: never followed.
    package var followedFrom: SiteID?
    /// How missing bytes are fetched here.
    package var hydration = HydrationPolicy()
    /// The claim that came with it from another cluster.
    package var claim: ForeignClaim?
    /// Known here only because a peer offered it, and never owned here: forgotten when the offer is withdrawn.
    package var isGuest = false

    /// The directories of all heads but the present one.
    package var keptNumbers: Set<UInt64> { Set(retainedHeads.values).union(divergentHeads.values) }

    package init(
        id: VolumeID, name: String, limits: VolumeLimits, parameters: [String: String], head: HeadRecord,
        headNumber: UInt64 = 0, retainedHeads: [Epoch: UInt64] = [:], lastHeadNumber: UInt64 = 0,
        sharedWith: Set<SiteID> = [], followedFrom: SiteID? = nil
    ) {
        self.id = id
        self.name = name
        self.limits = limits
        self.parameters = parameters
        self.head = head
        self.headNumber = headNumber
        self.retainedHeads = retainedHeads
        self.lastHeadNumber = max(lastHeadNumber, headNumber, retainedHeads.values.max() ?? 0)
        self.sharedWith = sharedWith
        self.followedFrom = followedFrom
    }
}

/// Why the registry refused.
package enum RegistryError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Somebody changed the record since it was read: read it again and decide anew.
    case conflict(VolumeID)
    case nameTaken(String)
    case notFound(VolumeID)
    /// The store failed; nothing was changed.
    case store(String)
    /// A record that cannot be read; nothing was changed.
    case malformed(VolumeID, String)

    package var description: String {
        switch self {
        case .conflict(let id): "volume \(id) was changed by somebody else meanwhile"
        case .nameTaken(let name): "a volume named '\(name)' exists already"
        case .notFound(let id): "volume \(id) is not in the registry"
        case .store(let cause): "the site's registry: \(cause)"
        case .malformed(let id, let cause): "the registry's record of volume \(id): \(cause)"
        }
    }
}

/// A record and the revision that a change of it must name.
package struct Versioned<Value: Sendable>: Sendable {
    package var value: Value
    package let revision: UInt64

    package init(_ value: Value, revision: UInt64) {
        self.value = value
        self.revision = revision
    }
}

/// The site's state: which volumes it knows, and what it is to each. Durable when a call returns.
///
/// Changes are compare-and-swap by revision, as in the Kubernetes API, so that a cluster's own API can
/// stand behind the same protocol.
package protocol SiteRegistry: Sendable {
    func volumes() async throws(RegistryError) -> [Versioned<VolumeRecord>]
    func volume(_ id: VolumeID) async throws(RegistryError) -> Versioned<VolumeRecord>?
    func volume(named name: String) async throws(RegistryError) -> Versioned<VolumeRecord>?
    func insert(_ record: VolumeRecord) async throws(RegistryError) -> Versioned<VolumeRecord>
    func update(_ record: Versioned<VolumeRecord>) async throws(RegistryError) -> Versioned<VolumeRecord>
    func remove(_ record: Versioned<VolumeRecord>) async throws(RegistryError)
    /// Shows people, beside the record, why the volume is not served: the record cannot be the newest, or its head
    /// is not here. nil: nothing is in the way any more. The record stays as it is.
    func show(_ trouble: String?, of record: VolumeRecord) async throws(RegistryError)
}

extension SiteRegistry {
    /// Where nobody looks, the log and `inspect` are enough.
    package func show(_ trouble: String?, of record: VolumeRecord) async throws(RegistryError) {}
}
