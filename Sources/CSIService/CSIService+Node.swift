internal import CSIProtocol
internal import HostMounts
internal import RPC
internal import VolumeModel

extension CSIService {
    /// The type of our mounts in the kernel's table.
    private static let mountType = "fuse.godwit"

    private func source(of id: VolumeID) -> String { "godwit:\(backend.site)/\(id)" }

    func stage(_ request: Csi_V1_NodeStageVolumeRequest) async throws -> Csi_V1_NodeStageVolumeResponse {
        let id = try CSIChecks.volume(request.volumeID)
        let path = try CSIChecks.path(request.stagingTargetPath, "the staging path")
        let access = try CSIChecks.capability(request.hasVolumeCapability ? request.volumeCapability : nil)
        _ = try await backend.volume(id)
        try await operations.alone(request.volumeID) {
            try BindMount.makeDirectory(path)
            try await backend.stage(id, at: path, isReadOnly: access.isReadOnly, group: access.group)
        }
        return Csi_V1_NodeStageVolumeResponse()
    }

    func unstage(_ request: Csi_V1_NodeUnstageVolumeRequest) async throws -> Csi_V1_NodeUnstageVolumeResponse
    {
        let id = try CSIChecks.volume(request.volumeID)
        let path = try CSIChecks.path(request.stagingTargetPath, "the staging path")
        try await operations.alone(request.volumeID) { try await backend.unstage(id, at: path) }
        return Csi_V1_NodeUnstageVolumeResponse()
    }

    func publish(_ request: Csi_V1_NodePublishVolumeRequest) async throws -> Csi_V1_NodePublishVolumeResponse
    {
        let id = try CSIChecks.volume(request.volumeID)
        let target = try CSIChecks.path(request.targetPath, "the target path")
        guard !request.stagingTargetPath.isEmpty else {
            throw RPCStatus(.failedPrecondition, "the volume must be staged first")
        }
        let staging = try CSIChecks.path(request.stagingTargetPath, "the staging path")
        let access = try CSIChecks.capability(request.hasVolumeCapability ? request.volumeCapability : nil)
        _ = try await backend.volume(id)
        try await operations.alone(request.volumeID) {
            // A staging path without our mount would put the application's data on the node's own disk.
            let staged = try MountTable.entry(at: staging)
            guard staged?.type == Self.mountType, staged?.source == source(of: id) else {
                throw RPCStatus(.failedPrecondition, "the volume is not staged at \(staging)")
            }
            let isReadOnly = request.readonly || access.isReadOnly
            if let existing = try MountTable.entry(at: target) {
                guard existing.type == Self.mountType, existing.source == source(of: id),
                    existing.isReadOnly == isReadOnly
                else { throw RPCStatus(.alreadyExists, "something else is mounted at \(target)") }
                return
            }
            let flags = isReadOnly ? access.flags.union(.readOnly) : access.flags
            try BindMount.make(from: staging, at: target, flags: flags)
        }
        return Csi_V1_NodePublishVolumeResponse()
    }

    func unpublish(
        _ request: Csi_V1_NodeUnpublishVolumeRequest
    ) async throws -> Csi_V1_NodeUnpublishVolumeResponse {
        let id = try CSIChecks.volume(request.volumeID)
        let target = try CSIChecks.path(request.targetPath, "the target path")
        try await operations.alone(request.volumeID) {
            if let mounted = try MountTable.entry(at: target), mounted.source != source(of: id) {
                throw RPCStatus(.failedPrecondition, "what is mounted at \(target) is not this volume")
            }
            try BindMount.remove(target)
        }
        return Csi_V1_NodeUnpublishVolumeResponse()
    }

    func volumeStats(
        _ request: Csi_V1_NodeGetVolumeStatsRequest
    ) async throws -> Csi_V1_NodeGetVolumeStatsResponse {
        let id = try CSIChecks.volume(request.volumeID)
        let path = try CSIChecks.path(request.volumePath, "the volume path")
        let volume = try await backend.volume(id)
        guard try MountTable.entry(at: path)?.source == source(of: id) else {
            throw RPCStatus(.notFound, "the volume is not mounted at \(path)")
        }
        let usage = try await backend.usage(of: id)
        var bytes = Csi_V1_VolumeUsage()
        bytes.unit = .bytes
        bytes.total = Int64(clamping: usage.totalBytes)
        bytes.used = Int64(clamping: usage.usedBytes)
        bytes.available = Int64(clamping: usage.totalBytes - min(usage.totalBytes, usage.usedBytes))
        var inodes = Csi_V1_VolumeUsage()
        inodes.unit = .inodes
        inodes.total = Int64(clamping: usage.totalInodes)
        inodes.used = Int64(clamping: usage.usedInodes)
        inodes.available = Int64(clamping: usage.totalInodes - min(usage.totalInodes, usage.usedInodes))
        var response = Csi_V1_NodeGetVolumeStatsResponse()
        response.usage = [bytes, inodes]
        response.volumeCondition = condition(volume)
        return response
    }

    func nodeCapabilities(_: Csi_V1_NodeGetCapabilitiesRequest) -> Csi_V1_NodeGetCapabilitiesResponse {
        let types: [Csi_V1_NodeServiceCapability.RPC.TypeEnum] = [
            .stageUnstageVolume, .getVolumeStats, .volumeCondition, .singleNodeMultiWriter, .volumeMountGroup,
        ]
        var response = Csi_V1_NodeGetCapabilitiesResponse()
        response.capabilities = types.map { type in
            var capability = Csi_V1_NodeServiceCapability()
            capability.rpc.type = type
            return capability
        }
        return response
    }

    func nodeInfo(_: Csi_V1_NodeGetInfoRequest) -> Csi_V1_NodeGetInfoResponse {
        var response = Csi_V1_NodeGetInfoResponse()
        response.nodeID = backend.node
        response.accessibleTopology.segments = [Self.topologyKey: backend.site.description]
        return response
    }
}
