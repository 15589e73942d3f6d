import CSIService
import Synchronization
import VolumeModel

/// Volumes in memory. Counts its calls, so that a test can see that nothing was touched.
final class FakeBackend: CSIBackend {
    struct State {
        var volumes: [VolumeID: CSIVolume] = [:]
        var hydration: [VolumeID: CSIHydration] = [:]
        var names: [String: VolumeID] = [:]
        var callCount = 0
        var nextNumber: UInt64 = 1
        /// Where the last volume was to be made.
        var nodes: [String] = []
        /// Operations wait here while it is set.
        var isHeld = false
        /// How volumes are published, by volume and node.
        var modes: [String: String] = [:]
    }

    let state = Mutex(State())

    var site: SiteID { SiteID("london")! }
    var node: String { "node-1" }
    var release: String { "test" }

    var callCount: Int { state.withLock { $0.callCount } }

    func create(
        name: String, required: UInt64, limit: UInt64, parameters: [String: String], hydration: CSIHydration,
        nodes: [String]
    ) async throws(CSIBackendError) -> CSIVolume {
        try state.withLock { state throws(CSIBackendError) in
            state.callCount += 1
            state.nodes = nodes
            if let id = state.names[name], let known = state.volumes[id] {
                guard known.capacity >= required, limit == 0 || known.capacity <= limit else {
                    throw .exists("'\(name)' is there")
                }
                return known
            }
            let id = VolumeID(randomHigh: 7, randomLow: state.nextNumber)
            state.nextNumber += 1
            let volume = CSIVolume(
                id: id, capacity: required, publishedNodes: [], epoch: Epoch(3),
                isEphemeral: parameters[CSIService.ephemeralKey] == "true", trouble: nil)
            state.volumes[id] = volume
            state.names[name] = id
            state.hydration[id] = hydration
            return volume
        }
    }

    func expand(_ id: VolumeID, to capacity: UInt64) async throws(CSIBackendError) -> CSIVolume {
        try state.withLock { state throws(CSIBackendError) in
            state.callCount += 1
            guard var volume = state.volumes[id] else { throw .notFound("no volume \(id)") }
            volume.capacity = max(volume.capacity, capacity)
            state.volumes[id] = volume
            return volume
        }
    }

    func delete(_ id: VolumeID) async throws(CSIBackendError) {
        state.withLock {
            $0.callCount += 1
            $0.volumes[id] = nil
        }
    }

    func volumes() async throws(CSIBackendError) -> [CSIVolume] {
        state.withLock { Array($0.volumes.values) }
    }

    func volume(_ id: VolumeID) async throws(CSIBackendError) -> CSIVolume {
        guard let volume = state.withLock({ $0.volumes[id] }) else { throw .notFound("no volume \(id)") }
        return volume
    }

    func condition(of id: VolumeID) async throws(CSIBackendError) -> CSIVolume { try await volume(id) }

    func condition(ofMounted id: VolumeID) async throws(CSIBackendError) -> CSIVolume { try await volume(id) }

    func volume(named name: String) async throws(CSIBackendError) -> CSIVolume? {
        state.withLock { state in state.names[name].flatMap { state.volumes[$0] } }
    }

    func modify(_ id: VolumeID, _ hydration: CSIHydration) async throws(CSIBackendError) {
        state.withLock { state in
            state.callCount += 1
            if let rate = hydration.bytesPerSecond { state.hydration[id]?.bytesPerSecond = rate }
            if let isPaused = hydration.isPaused { state.hydration[id]?.isPaused = isPaused }
        }
    }

    /// Another node has twice as much room.
    func freeBytes(at nodes: [String]) async throws(CSIBackendError) -> [UInt64] {
        nodes.isEmpty ? [1 << 40, 2 << 40] : nodes.map { $0 == node ? 1 << 40 : 2 << 40 }
    }

    func knows(node: String) async throws(CSIBackendError) -> Bool { ["node-1", "node-2"].contains(node) }

    func publish(_ id: VolumeID, at node: String, mode: String) async throws(CSIBackendError) -> Epoch {
        state.withLock { $0.callCount += 1 }
        let present = state.withLock { state in
            let present = state.modes["\(id) \(node)"] ?? mode
            state.modes["\(id) \(node)"] = present
            return present
        }
        guard present == mode else { throw .exists("published as \(present)") }
        while state.withLock({ $0.isHeld }) { try? await Task.sleep(for: .milliseconds(1)) }
        return Epoch(3)
    }

    func unpublish(_ id: VolumeID, at node: String?) async throws(CSIBackendError) {
        state.withLock { $0.callCount += 1 }
    }

    func stage(
        _ id: VolumeID, at path: String, isReadOnly: Bool, group: UInt32?, acquiredUnder epoch: Epoch?
    ) async throws(CSIBackendError) {
        state.withLock { $0.callCount += 1 }
    }

    func note(pods: [String], using id: VolumeID) async {}

    func unstage(_ id: VolumeID, at path: String) async throws(CSIBackendError) {
        state.withLock { $0.callCount += 1 }
    }

    func servedDevices(of id: VolumeID) async -> Set<String> { [] }

    func usage(of id: VolumeID) async throws(CSIBackendError) -> VolumeUsage {
        let counters = CatalogCounters(
            nextInode: .root, nextCookie: 1, inodeCount: 3, byteCount: 8192, allocatedByteCount: 8192)
        return VolumeUsage(counters, limits: VolumeLimits(byteCount: 1 << 20, inodeCount: 10)) { 0 }
    }
}
