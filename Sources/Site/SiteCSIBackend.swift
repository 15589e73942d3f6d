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
        name: String, required: UInt64, limit: UInt64, parameters: [String: String], hydration: CSIHydration
    ) async throws(CSIBackendError) -> CSIVolume {
        try await translating {
            if let known = try await owner.context.registry.volume(named: name)?.value {
                guard known.capacity >= required, limit == 0 || known.capacity <= limit,
                    known.parameters == parameters
                else { throw SiteError.nameTaken(name) }
                return try await describe(try await owner.agent(known.id))
            }
            return try await describe(
                try await owner.create(
                    name: name, limits: try Self.limits(required, parameters), parameters: parameters,
                    hydration: Self.policy(.init(), changedBy: hydration)))
        }
    }

    private static func policy(_ present: HydrationPolicy, changedBy wanted: CSIHydration) -> HydrationPolicy
    {
        var policy = present
        if let isPaused = wanted.isPaused { policy.isPaused = isPaused }
        if let rate = wanted.bytesPerSecond { policy.bytesPerSecond = rate == 0 ? nil : rate }
        return policy
    }

    package func modify(_ id: VolumeID, _ hydration: CSIHydration) async throws(CSIBackendError) {
        try await translating {
            let agent = try await owner.agent(id)
            try await agent.setHydration(Self.policy(await agent.record.hydration, changedBy: hydration))
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
            if await owner.knows(id), let node = try await describe(owner.agent(id)).publishedNodes.first {
                throw SiteError.precondition("volume \(id) is in use at node \(node): detach it there first")
            }
            try await owner.delete(id)
        }
    }

    package func expand(
        _ id: VolumeID, to capacity: UInt64
    ) async throws(CSIBackendError) -> CSIVolume {
        try await translating {
            let agent = try await owner.agent(id)
            var limits = await agent.record.limits
            if limits.byteCount != 0, capacity > limits.byteCount {
                limits.byteCount = capacity
                try await agent.expand(to: limits)
            }
            return try await describe(agent)
        }
    }

    package func volumes() async throws(CSIBackendError) -> [CSIVolume] {
        try await translating {
            var volumes: [CSIVolume] = []
            for agent in await owner.allAgents() { volumes.append(try await describe(agent)) }
            return volumes
        }
    }

    package func volume(_ id: VolumeID) async throws(CSIBackendError) -> CSIVolume {
        try await translating { try await describe(try await owner.agent(id)) }
    }

    package func volume(named name: String) async throws(CSIBackendError) -> CSIVolume? {
        try await translating {
            guard let known = try await owner.context.registry.volume(named: name)?.value else { return nil }
            return try await describe(try await owner.agent(known.id))
        }
    }

    package func freeBytes() async throws(CSIBackendError) -> UInt64 {
        try await translating { try owner.context.state.freeBytes() }
    }

    package func publish(_ id: VolumeID) async throws(CSIBackendError) -> Epoch {
        try await translating { try await owner.agent(id).attachExclusively() }
    }

    package func unpublish(_ id: VolumeID) async throws(CSIBackendError) {
        try await translating {
            guard await owner.knows(id) else { return }
            try await owner.agent(id).detachExclusively()
        }
    }

    package func stage(
        _ id: VolumeID, at path: String, isReadOnly: Bool, group: UInt32?, acquiredUnder epoch: Epoch?
    ) async throws(CSIBackendError) {
        try await translating {
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

    package func usage(of id: VolumeID) async throws(CSIBackendError) -> CSIUsage {
        try await translating {
            let summary = await (try owner.agent(id)).summary()
            let limits = summary.record.limits
            // As statfs tells in the pod.
            return CSIUsage(
                totalBytes: limits.byteCount, usedBytes: min(limits.byteCount, summary.allocatedByteCount),
                totalInodes: max(
                    summary.inodeCount, limits.inodeCount > 0 ? limits.inodeCount : limits.byteCount / 1024),
                usedInodes: summary.inodeCount)
        }
    }

    private func describe(_ agent: VolumeAgent) async throws -> CSIVolume {
        let summary = await agent.summary()
        var nodes: [String] = []
        var epoch: Epoch?
        if case .owning(let own, let holder) = summary.record.head.role {
            epoch = own
            nodes = holder.map { [$0.node] } ?? []
        }
        let waits = summary.waitingReason
        let late = waits.isEmpty ? nil : "bytes that are still elsewhere do not arrive: \(waits)"
        return CSIVolume(
            id: summary.record.id, capacity: summary.record.capacity, publishedNodes: nodes,
            epoch: epoch, isEphemeral: summary.record.parameters[CSIService.ephemeralKey] == "true",
            trouble: summary.trouble ?? late)
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
