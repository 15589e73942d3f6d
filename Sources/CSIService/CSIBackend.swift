package import VolumeModel

/// A volume as Kubernetes is told of it.
package struct CSIVolume: Hashable, Sendable {
    package var id: VolumeID
    package var capacity: UInt64
    package var publishedNodes: [String]
    /// Whether it belongs to one pod's life.
    package var isEphemeral: Bool
    /// Under which this site owns it; nil: it does not.
    package var epoch: Epoch?
    /// nil: nothing is wrong with it.
    package var trouble: String?
    /// What was wrong and was put right; nil: nothing.
    package var healed: String?

    package init(
        id: VolumeID, capacity: UInt64, publishedNodes: [String], epoch: Epoch? = nil,
        isEphemeral: Bool = false, trouble: String?
    ) {
        self.isEphemeral = isEphemeral
        self.epoch = epoch
        self.id = id
        self.capacity = capacity
        self.publishedNodes = publishedNodes
        self.trouble = trouble
    }
}

/// How bytes that are elsewhere are fetched in the background: what may be changed while a volume is used.
package struct CSIHydration: Hashable, Sendable {
    /// nil: as it is.
    package var isPaused: Bool?
    /// 0: no limit; nil: as it is.
    package var bytesPerSecond: UInt64?
    /// nil: as it is.
    package var prefetch: PrefetchPolicy?

    package init(isPaused: Bool? = nil, bytesPerSecond: UInt64? = nil, prefetch: PrefetchPolicy? = nil) {
        self.isPaused = isPaused
        self.bytesPerSecond = bytesPerSecond
        self.prefetch = prefetch
    }
}

/// Why the site did not do what Kubernetes asked.
package enum CSIBackendError: Error, Hashable, Sendable {
    case notFound(String)
    /// The name is taken by a volume that is not what was asked for, or it is published in another way.
    case exists(String)
    case invalid(String)
    /// Mounted elsewhere, owned elsewhere: the text says what to do.
    case precondition(String)
    /// Another operation on the volume is under way.
    case pending(String)
    case unavailable(String)
    case exhausted(String)
    case other(String)
}

/// What the CSI services ask of the site. Every call may be repeated.
package protocol CSIBackend: Sendable {
    /// This node's, where the site has several.
    var site: SiteID { get }
    var node: String { get }
    var release: String { get }

    /// - Parameters:
    ///   - limit: the most it may be, in bytes; 0: no limit. A volume of that name that fits is returned.
    ///   - hydration: of a new volume; one that is there keeps its own, which may have been changed since.
    ///   - nodes: where a new one is made, the best first; none: at this one.
    func create(
        name: String, required: UInt64, limit: UInt64, parameters: [String: String], hydration: CSIHydration,
        nodes: [String]
    ) async throws(CSIBackendError) -> CSIVolume
    func modify(_ id: VolumeID, _ hydration: CSIHydration) async throws(CSIBackendError)
    func delete(_ id: VolumeID) async throws(CSIBackendError)
    /// Lets it hold at least so many bytes, also while it is mounted; more already, nothing changes.
    func expand(_ id: VolumeID, to capacity: UInt64) async throws(CSIBackendError) -> CSIVolume
    func volumes() async throws(CSIBackendError) -> [CSIVolume]
    /// What is known of it without asking anybody: nothing of its condition.
    func volume(_ id: VolumeID) async throws(CSIBackendError) -> CSIVolume
    /// The same, with its condition.
    func condition(of id: VolumeID) async throws(CSIBackendError) -> CSIVolume
    /// The same as seen at this node, which has it mounted: it may have been overruled since.
    func condition(ofMounted id: VolumeID) async throws(CSIBackendError) -> CSIVolume
    /// - Returns: nil if there is none of that name.
    func volume(named name: String) async throws(CSIBackendError) -> CSIVolume?
    /// The room at each of some nodes of this site; of all of them if none is named.
    func freeBytes(at nodes: [String]) async throws(CSIBackendError) -> [UInt64]
    func knows(node: String) async throws(CSIBackendError) -> Bool
    /// Acquires the volume for a node of this site, until it is unpublished: ownership follows the pod. To be read by
    /// several nodes (`CSIService.manyReaders`) it stays where it is.
    ///
    /// - Parameter mode: the access mode, as the specification names it.
    /// - Returns: the epoch under which it is owned there now, or read.
    /// - Throws: `.exists` when it is published there already in another mode; `.precondition`, naming the nodes, while it
    ///   is published elsewhere, unless all do nothing but read.
    func publish(_ id: VolumeID, at node: String, mode: String) async throws(CSIBackendError) -> Epoch
    /// - Parameter node: nil: wherever it is published.
    func unpublish(_ id: VolumeID, at node: String?) async throws(CSIBackendError)
    /// Mounts it at a directory, which exists; also where a mount of it is that nobody serves any more.
    ///
    /// - Parameter epoch: under which it was acquired for this node; nil: it is acquired now.
    func stage(_ id: VolumeID, at path: String, isReadOnly: Bool, group: UInt32?, acquiredUnder epoch: Epoch?)
        async throws(CSIBackendError)
    func unstage(_ id: VolumeID, at path: String) async throws(CSIBackendError)
    /// Names the pods that use it at this node, for whoever is refused because of them; none: nobody does.
    func note(pods: [String], using id: VolumeID) async
    /// Devices of the volume's mounts that are served at this node, as mountinfo has them. Any other mount of it is dead.
    func servedDevices(of id: VolumeID) async -> Set<String>
    /// As statfs(2) tells programs; O(1).
    func usage(of id: VolumeID) async throws(CSIBackendError) -> VolumeUsage
}
