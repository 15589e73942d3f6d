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
    /// What another node of this site owns, as it is read here.
    package var reading: ReadHead?
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

    /// Whether another site, or one of its nodes, may know of it.
    package func isShared(with peer: SiteID) -> Bool { sharedWith.contains(peer.site) }

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

/// A head that another node of this site owns, as it is read here: of one epoch, under which nobody writes to it. Its names
/// and bytes come when they are asked for, and behind. It is no replica: nothing is ever taken over with it.
package struct ReadHead: Hashable, Sendable {
    package let reign: Reign
    /// The number of its directory.
    package let number: UInt64

    package init(of reign: Reign, number: UInt64) { (self.reign, self.number) = (reign, number) }
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

/// A process of this site, at one of its nodes.
package struct Member: Hashable, Sendable {
    /// `worker-1.london`; a site's own name where it has no other member.
    package let id: SiteID
    /// The node, as Kubernetes names it.
    package let node: String
    /// Where its peers' port is, as host:port; nil: it has none.
    package let address: String?

    package init(id: SiteID, node: String, address: String?) {
        (self.id, self.node, self.address) = (id, node, address)
    }
}

/// What one member of the site knows of a volume.
package struct Placement: Hashable, Sendable {
    package let member: SiteID
    package let record: VolumeRecord

    package init(member: SiteID, record: VolumeRecord) { (self.member, self.record) = (member, record) }
}

/// The registry of a site of several members. What `SiteRegistry` tells and changes are one member's own records;
/// what the others have can be looked at.
///
/// A volume's name is unique among all of them: `insert` throws `.nameTaken` unless whoever has the name has it for the
/// same volume.
package protocol SharedSiteRegistry: SiteRegistry {
    /// What members know of a volume, in the order of their names; empty: nobody knows it.
    func placements(of id: VolumeID) async throws(RegistryError) -> [Placement]
    func placements(named name: String) async throws(RegistryError) -> [Placement]
    func placements() async throws(RegistryError) -> [Placement]
    /// The members that have ever made themselves known, in the order of their names.
    func members() async throws(RegistryError) -> [Member]
    /// Takes away the entry of a member that there is no more, and with it what only that one had. May be repeated.
    func abandon(_ placement: Placement) async throws(RegistryError)
    /// Makes this member known to the others, and its address. May be repeated.
    func announce(_ member: Member) async throws(RegistryError)
    /// Shows people what this member, which is announced, tells of itself. Called often: what tells nothing new is written
    /// seldom.
    func tell(_ report: MemberReport, of member: Member) async throws(RegistryError)
}
