package import CSIService
internal import Handoff
internal import Hydration
internal import PeerService
internal import RPC
package import VolumeModel

/// What this site does for Kubernetes.
package struct SiteCSIBackend: CSIBackend {
    private let owner: Site

    package init(site: Site) { owner = site }

    package var site: SiteID { owner.context.site }
    package var node: String { owner.context.node }
    package var release: String { Release.current }

    package func create(
        name: String, required: UInt64, limit: UInt64, parameters: [String: String], hydration: CSIHydration,
        nodes: [String]
    ) async throws(CSIBackendError) -> CSIVolume {
        try await translating {
            if let known = try await record(named: name) {
                guard known.capacity >= required, limit == 0 || known.capacity <= limit,
                    known.parameters == parameters
                else { throw SiteError.nameTaken(name) }
                return Self.describe(known)
            }
            return Self.describe(
                try await owner.create(
                    name: name, limits: try Self.limits(required, parameters), parameters: parameters,
                    hydration: Self.policy(.init(), changedBy: hydration), at: nodes))
        }
    }

    /// Whichever node has it.
    private func record(named name: String) async throws -> VolumeRecord? {
        guard let members = owner.context.members else {
            return try await owner.context.registry.volume(named: name)?.value
        }
        return Placement.keeper(among: try await members.registry.placements(named: name))?.record
    }

    private static func policy(_ present: HydrationPolicy, changedBy wanted: CSIHydration) -> HydrationPolicy
    {
        var policy = present
        if let isPaused = wanted.isPaused { policy.isPaused = isPaused }
        if let rate = wanted.bytesPerSecond { policy.bytesPerSecond = rate == 0 ? nil : rate }
        if let prefetch = wanted.prefetch { policy.prefetch = prefetch }
        return policy
    }

    package func modify(_ id: VolumeID, _ hydration: CSIHydration) async throws(CSIBackendError) {
        try await translating {
            try await owner.setHydration(
                Self.policy(try await owner.record(id).hydration, changedBy: hydration), of: id)
        }
    }

    private static func limits(_ byteCount: UInt64, _ parameters: [String: String]) throws -> VolumeLimits {
        guard let text = parameters[CSIService.inodesParameter] else {
            return VolumeLimits(byteCount: byteCount)
        }
        guard let inodes = UInt64(text), inodes > 0 else {
            throw SiteError.invalid(
                "parameter '\(CSIService.inodesParameter)' is a number of files, not '\(text)'")
        }
        return VolumeLimits(byteCount: byteCount, inodeCount: inodes)
    }

    package func delete(_ id: VolumeID) async throws(CSIBackendError) {
        try await translating {
            do {
                if let node = Self.describe(try await owner.record(id)).publishedNodes.first {
                    throw SiteError.precondition(
                        "volume \(id) is in use at node \(node): detach it there first")
                }
            } catch SiteError.unknownVolume {
                return
            }
            try await owner.deleteEverywhere(id)
        }
    }

    package func expand(
        _ id: VolumeID, to capacity: UInt64
    ) async throws(CSIBackendError) -> CSIVolume {
        try await translating {
            let record = try await owner.record(id)
            if record.limits.byteCount != 0, capacity > record.limits.byteCount {
                try await owner.expand(id, to: capacity)
            }
            return Self.describe(try await owner.record(id))
        }
    }

    package func volumes() async throws(CSIBackendError) -> [CSIVolume] {
        try await translating {
            try await owner.everyVolume().map { Self.describe($0) }
        }
    }

    package func volume(_ id: VolumeID) async throws(CSIBackendError) -> CSIVolume {
        try await translating { Self.describe(try await owner.record(id)) }
    }

    package func condition(of id: VolumeID) async throws(CSIBackendError) -> CSIVolume {
        try await translating { Self.describe(try await owner.listed(id)) }
    }

    package func condition(ofMounted id: VolumeID) async throws(CSIBackendError) -> CSIVolume {
        try await translating { Self.describe(try await owner.listedHere(id)) }
    }

    package func volume(named name: String) async throws(CSIBackendError) -> CSIVolume? {
        try await translating {
            try await record(named: name).map(Self.describe)
        }
    }

    package func freeBytes(at nodes: [String]) async throws(CSIBackendError) -> [UInt64] {
        try await translating { Array(try await owner.freeBytes(at: nodes).values) }
    }

    package func knows(node: String) async throws(CSIBackendError) -> Bool {
        try await translating {
            guard let members = owner.context.members else { return node == owner.context.node }
            do {
                _ = try await members.member(at: node)
                return true
            } catch SiteError.unknownNode {
                return false
            }
        }
    }

    package func publish(
        _ id: VolumeID, at node: String, mode: String
    ) async throws(CSIBackendError) -> Epoch {
        try await translating {
            mode == CSIService.manyReaders
                ? try await owner.admitReader(of: id, at: node)
                : try await owner.attach(id, at: node, as: mode)
        }
    }

    package func unpublish(_ id: VolumeID, at node: String?) async throws(CSIBackendError) {
        try await translating { try await owner.detach(id, at: node) }
    }

    package func stage(
        _ id: VolumeID, at path: String, isReadOnly: Bool, group: UInt32?, acquiredUnder epoch: Epoch?
    ) async throws(CSIBackendError) {
        try await translating {
            // Attached, it is here, or the epoch says that it is not any more.
            if epoch == nil { try await owner.bring(id, to: owner.context.site) }
            try await owner.agent(id).mountExclusively(
                at: path, isReadOnly: isReadOnly, group: group, acquiredUnder: epoch)
        }
    }

    package func unstage(_ id: VolumeID, at path: String) async throws(CSIBackendError) {
        try await translating {
            guard await owner.knows(id) else { return }
            try await owner.agent(id).unmountExclusively(path)
        }
    }

    /// Only for people: whether or not it can be written down, the volume is held for its node.
    package func note(pods: [String], using id: VolumeID) async {
        await (try? owner.agent(id))?.note(pods: pods)
    }

    package func servedDevices(of id: VolumeID) async -> Set<String> {
        guard await owner.knows(id), let agent = try? await owner.agent(id) else { return [] }
        return await agent.servedDevices
    }

    package func usage(of id: VolumeID) async throws(CSIBackendError) -> VolumeUsage {
        try await translating { try await owner.agent(id).usage() }
    }

    /// As the registry has it.
    private static func describe(_ record: VolumeRecord) -> CSIVolume {
        var nodes: [String] = []
        var epoch: Epoch?
        if case .owning(let own, let holder) = record.head.role {
            epoch = own
            nodes = holder.map { [$0.node] } ?? record.head.readers.map(\.node)
        }
        return CSIVolume(
            id: record.id, capacity: record.capacity, publishedNodes: nodes, epoch: epoch,
            isEphemeral: record.parameters[CSIService.ephemeralKey] == "true", trouble: nil)
    }

    /// With what its node tells.
    private static func describe(_ listed: Site.Listed) -> CSIVolume {
        var volume = describe(listed.record)
        let (trouble, waits) = (listed.message.trouble, listed.message.waitingReason)
        if !waits.isEmpty { volume.trouble = "bytes that are still elsewhere do not arrive: \(waits)" }
        if !trouble.isEmpty { volume.trouble = trouble }
        if !listed.message.healed.isEmpty { volume.healed = listed.message.healed }
        return volume
    }

    /// The one table from the site's errors to what Kubernetes is told.
    private func translating<Result>(
        _ body: () async throws -> Result
    ) async throws(CSIBackendError) -> Result {
        do {
            return try await body()
        } catch {
            let status = SiteStatus.status(of: error)
            switch status.code {
            case .notFound: throw .notFound(status.message)
            case .alreadyExists: throw .exists(status.message)
            case .invalidArgument, .outOfRange: throw .invalid(status.message)
            case .failedPrecondition: throw .precondition(status.message)
            case .aborted: throw .pending(status.message)
            case .unavailable, .deadlineExceeded, .cancelled: throw .unavailable(status.message)
            case .resourceExhausted: throw .exhausted(status.message)
            case .ok, .unknown, .permissionDenied, .unimplemented, .internalError, .dataLoss,
                .unauthenticated:
                throw .other(status.message)
            }
        }
    }
}
