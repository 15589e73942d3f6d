internal import CSIProtocol
internal import HostMounts
internal import RPC
internal import VolumeModel

extension CSIService {
    /// The type of our mounts in the kernel's table.
    static let mountType = "fuse.godwit"

    /// In the publish context: the epoch under which the volume was attached to this node.
    static let epochKey = "epoch"

    func source(of id: VolumeID) -> String { "godwit:\(backend.site)/\(id)" }

    func stage(_ request: Csi_V1_NodeStageVolumeRequest) async throws -> Csi_V1_NodeStageVolumeResponse {
        try CSIChecks.required(request.volumeID)
        let path = paths.real(try CSIChecks.path(request.stagingTargetPath, "the staging path"))
        let access = try CSIChecks.capability(request.hasVolumeCapability ? request.volumeCapability : nil)
        let epoch = try Self.epoch(request.publishContext)
        try CSIChecks.map(request.volumeContext, "the volume context")
        try CSIChecks.map(request.secrets, "secrets")
        let id = try CSIChecks.volume(request.volumeID)
        _ = try await backend.volume(id)
        // Staging alone would acquire it for this node.
        guard access.mode != Self.manyReaders || epoch != nil else {
            throw RPCStatus(
                .failedPrecondition,
                "a volume that several nodes read has to be attached: the CSIDriver needs 'attachRequired: true'"
            )
        }
        try await operations.alone(request.volumeID) {
            _ = try await mount(id, at: path, access, isReadOnly: access.isReadOnly, acquiredUnder: epoch)
        }
        return Csi_V1_NodeStageVolumeResponse()
    }

    /// Mounts a volume, also where a mount of it is that nobody serves any more. Mounted there already, it is a success.
    ///
    /// - Returns: the device.
    @discardableResult
    func mount(
        _ id: VolumeID, at path: String, _ access: CSIChecks.Access, isReadOnly: Bool,
        acquiredUnder epoch: Epoch?
    ) async throws -> String {
        if let existing = try MountTable.entry(at: path), existing.type == Self.mountType {
            let isAlive = await backend.servedDevices(of: id).contains(existing.device)
            guard existing.source == source(of: id), !isAlive || existing.isReadOnly == isReadOnly else {
                throw RPCStatus(.alreadyExists, "something else is mounted at \(path), or in another way")
            }
        }
        try BindMount.makeDirectory(path)
        try await backend.stage(
            id, at: path, isReadOnly: isReadOnly, group: access.group, acquiredUnder: epoch)
        guard let mounted = try MountTable.entry(at: path),
            await backend.servedDevices(of: id).contains(mounted.device)
        else { throw RPCStatus(.internalError, "volume \(id) was mounted, and is not at \(path)") }
        return mounted.device
    }

    /// - Returns: nil where nothing is attached: the node acquires the volume itself then.
    /// - Throws: INVALID_ARGUMENT when it is not what ControllerPublishVolume gave.
    private static func epoch(_ context: [String: String]) throws(RPCStatus) -> Epoch? {
        try CSIChecks.map(context, "the publish context")
        guard let text = context[epochKey] else { return nil }
        guard let number = UInt64(text), number > 0 else {
            throw RPCStatus(.invalidArgument, "'\(epochKey)' of the publish context is no epoch")
        }
        return Epoch(number)
    }

    func unstage(_ request: Csi_V1_NodeUnstageVolumeRequest) async throws -> Csi_V1_NodeUnstageVolumeResponse
    {
        try CSIChecks.required(request.volumeID)
        let path = paths.real(try CSIChecks.path(request.stagingTargetPath, "the staging path"))
        let id = try CSIChecks.volume(request.volumeID)
        try await operations.alone(request.volumeID) {
            try await backend.unstage(id, at: path)
            // Of a volume that is known no longer, and that nobody serves.
            while try MountTable.entry(at: path)?.source == source(of: id) {
                try DeadMount.takeAway(at: path)
            }
        }
        return Csi_V1_NodeUnstageVolumeResponse()
    }

    func publish(_ request: Csi_V1_NodePublishVolumeRequest) async throws -> Csi_V1_NodePublishVolumeResponse
    {
        try CSIChecks.map(request.secrets, "secrets")
        if isEphemeral(request) {
            try await publishEphemeral(request)
            return Csi_V1_NodePublishVolumeResponse()
        }
        try CSIChecks.required(request.volumeID)
        let target = paths.real(try CSIChecks.path(request.targetPath, "the target path"))
        let access = try CSIChecks.capability(request.hasVolumeCapability ? request.volumeCapability : nil)
        guard !request.stagingTargetPath.isEmpty else {
            throw RPCStatus(.failedPrecondition, "the volume must be staged first")
        }
        let staging = paths.real(try CSIChecks.path(request.stagingTargetPath, "the staging path"))
        let epoch = try Self.epoch(request.publishContext)
        try CSIChecks.map(request.volumeContext, "the volume context")
        let id = try CSIChecks.volume(request.volumeID)
        let volume = try await backend.volume(id)
        guard epoch == nil || volume.epoch == epoch else {
            throw RPCStatus(
                .failedPrecondition,
                "volume \(id) was attached to this node under another epoch than it is owned under now: the attachment "
                    + "has to be made anew")
        }
        let isReadOnly = request.readonly || access.isReadOnly
        try await operations.alone(request.volumeID) {
            let device = try await staged(id, at: staging, access, acquiredUnder: epoch)
            let mounts = try MountTable.entries()
            var wanted = Publications.Publication(id, request.volumeCapability, isReadOnly: isReadOnly)
            wanted.pod = Self.pod(request.volumeContext)
            let existing = mounts.last { $0.path == target }
            if let existing {
                guard existing.type == Self.mountType, existing.source == source(of: id),
                    existing.isReadOnly == isReadOnly, publications[target] ?? wanted == wanted
                else { throw RPCStatus(.alreadyExists, "something else is mounted at \(target)") }
            }
            if !access.allowsManyTargets,
                let other = publications.others(of: id, besides: target, in: mounts).first
            {
                throw RPCStatus(
                    .failedPrecondition,
                    "volume \(id) is published at \(other) already, and its access mode allows one place on a node"
                )
            }
            // First: one that is not mounted after all does not count.
            try publications.set(wanted, at: target, mounts: mounts)
            guard existing?.device != device else { return }
            let flags = isReadOnly ? access.flags.union(.readOnly) : access.flags
            try BindMount.make(from: staging, at: target, flags: flags, device: device)
        }
        await notePods(using: id)
        return Csi_V1_NodePublishVolumeResponse()
    }

    /// `namespace/name`, as kubelet tells where the CSIDriver has `podInfoOnMount`.
    private static func pod(_ context: [String: String]) -> String? {
        guard let name = context["csi.storage.k8s.io/pod.name"], !name.isEmpty,
            let namespace = context["csi.storage.k8s.io/pod.namespace"], !namespace.isEmpty
        else { return nil }
        return namespace + "/" + name
    }

    private func notePods(using id: VolumeID) async {
        guard let mounts = try? MountTable.entries() else { return }
        await backend.note(pods: publications.pods(of: id, in: mounts), using: id)
    }

    /// What is staged is mounted anew if it has lost its server: kubelet stages once, for all pods that come after.
    ///
    /// - Returns: its device.
    /// - Throws: FAILED_PRECONDITION when the volume is not staged. Without that, the application's data would be on the
    ///   node's own disk.
    private func staged(
        _ id: VolumeID, at staging: String, _ access: CSIChecks.Access, acquiredUnder epoch: Epoch?
    ) async throws -> String {
        guard let mounted = try MountTable.entry(at: staging), mounted.type == Self.mountType,
            mounted.source == source(of: id)
        else { throw RPCStatus(.failedPrecondition, "the volume is not staged at \(staging)") }
        if await backend.servedDevices(of: id).contains(mounted.device) { return mounted.device }
        return try await mount(id, at: staging, access, isReadOnly: mounted.isReadOnly, acquiredUnder: epoch)
    }

    func unpublish(
        _ request: Csi_V1_NodeUnpublishVolumeRequest
    ) async throws -> Csi_V1_NodeUnpublishVolumeResponse {
        if let name = Self.ephemeralName(request.volumeID) {
            try await unpublishEphemeral(request, name: name)
            return Csi_V1_NodeUnpublishVolumeResponse()
        }
        try CSIChecks.required(request.volumeID)
        let target = paths.real(try CSIChecks.path(request.targetPath, "the target path"))
        let id = try CSIChecks.volume(request.volumeID)
        try await operations.alone(request.volumeID) {
            if let mounted = try MountTable.entry(at: target), mounted.source != source(of: id) {
                throw RPCStatus(.failedPrecondition, "what is mounted at \(target) is not this volume")
            }
            let served = await backend.servedDevices(of: id)
            try BindMount.remove(target) { !served.contains($0.device) }
            // What cannot be written down does not matter: without its mount it does not count.
            try? publications.set(nil, at: target, mounts: try MountTable.entries())
        }
        await notePods(using: id)
        return Csi_V1_NodeUnpublishVolumeResponse()
    }

    func volumeStats(
        _ request: Csi_V1_NodeGetVolumeStatsRequest
    ) async throws -> Csi_V1_NodeGetVolumeStatsResponse {
        try CSIChecks.required(request.volumeID)
        try CSIChecks.required(request.volumePath, "the volume path")
        // It is looked up in the mount table and nowhere else: any path may be asked for.
        let path = request.volumePath.hasPrefix("/") ? paths.real(request.volumePath) : request.volumePath
        if !request.stagingTargetPath.isEmpty {
            _ = try CSIChecks.path(request.stagingTargetPath, "the staging path")
        }
        let id = try await known(request.volumeID).id
        guard let mounted = try MountTable.entry(at: path), mounted.source == source(of: id) else {
            throw RPCStatus(.notFound, "the volume is not mounted at \(path)")
        }
        let usage = try await backend.usage(of: id)
        var bytes = Csi_V1_VolumeUsage()
        bytes.unit = .bytes
        bytes.total = Int64(clamping: usage.totalByteCount)
        bytes.used = Int64(clamping: usage.usedByteCount)
        bytes.available = Int64(clamping: usage.totalByteCount - usage.usedByteCount)
        var inodes = Csi_V1_VolumeUsage()
        inodes.unit = .inodes
        inodes.total = Int64(clamping: usage.totalInodeCount)
        inodes.used = Int64(clamping: usage.usedInodeCount)
        inodes.available = Int64(clamping: usage.totalInodeCount - usage.usedInodeCount)
        var response = Csi_V1_NodeGetVolumeStatsResponse()
        response.usage = [bytes, inodes]
        var volume = try await backend.condition(ofMounted: id)
        if await !backend.servedDevices(of: id).contains(mounted.device) {
            // Of an overruled owner's mount, why is said already.
            let lost = "what is mounted at \(path) is served no more: the pod has to be started anew"
            volume.trouble = volume.trouble.map { "\($0); \(lost)" } ?? lost
        }
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
        response.accessibleTopology.segments = [Self.topologyKey: backend.site.site.description]
        // For the choice where a volume is made, not where it may be used.
        if backend.site.node != nil {
            response.accessibleTopology.segments[Self.nodeTopologyKey] = backend.node
        }
        return response
    }
}
