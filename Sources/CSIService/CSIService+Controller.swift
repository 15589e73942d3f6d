internal import CSIProtocol
internal import RPC
internal import VolumeModel

extension CSIService {
    /// What a claim that names no size gets.
    static let defaultCapacity: UInt64 = 10 << 30
    static let largestCapacity: UInt64 = 1 << 50

    func createVolume(_ request: Csi_V1_CreateVolumeRequest) async throws -> Csi_V1_CreateVolumeResponse {
        guard !request.name.isEmpty else { throw RPCStatus(.invalidArgument, "a name is missing") }
        guard request.name.utf8.count <= CSIChecks.stringLimit else {
            throw RPCStatus(.invalidArgument, "a name has at most 128 bytes")
        }
        guard !request.volumeCapabilities.isEmpty else {
            throw RPCStatus(.invalidArgument, "volume capabilities are missing")
        }
        for capability in request.volumeCapabilities { _ = try CSIChecks.capability(capability) }
        guard !request.hasVolumeContentSource else {
            throw RPCStatus(.invalidArgument, "clones and snapshots are not offered: leave the source out")
        }
        let hydration = try Self.hydration(request.mutableParameters)
        try CSIChecks.map(request.secrets, "secrets")
        try CSIChecks.map(request.parameters, "parameters")
        let parameters = try checkedParameters(request.parameters)
        let (required, limit) = try range(request.capacityRange)
        try checkTopology(request)
        let volume = try await operations.alone(request.name) {
            try await backend.create(
                name: request.name, required: required, limit: limit, parameters: parameters,
                hydration: hydration, nodes: Self.nodes(request.accessibilityRequirements))
        }
        var response = Csi_V1_CreateVolumeResponse()
        response.volume = message(volume)
        return response
    }

    /// How many files and directories a volume may hold.
    package static let inodesParameter = "inodes"

    /// Kubernetes adds its own under `csi.storage.k8s.io/`.
    func checkedParameters(_ parameters: [String: String]) throws -> [String: String] {
        let own = parameters.filter { !$0.key.hasPrefix("csi.storage.k8s.io/") }
        if let unknown = own.keys.sorted().first(where: { $0 != Self.inodesParameter }) {
            throw RPCStatus(.invalidArgument, "parameter '\(unknown)' is not known")
        }
        if let text = own[Self.inodesParameter] {
            guard let inodes = UInt64(text), inodes > 0 else {
                throw RPCStatus(.invalidArgument, "parameter '\(Self.inodesParameter)' is a number of files")
            }
        }
        return own
    }

    private func range(_ range: Csi_V1_CapacityRange) throws -> (required: UInt64, limit: UInt64) {
        guard range.requiredBytes >= 0, range.limitBytes >= 0 else {
            throw RPCStatus(.invalidArgument, "a capacity is not negative")
        }
        let limit = UInt64(range.limitBytes)
        var required = UInt64(range.requiredBytes)
        if required == 0 { required = limit == 0 ? Self.defaultCapacity : min(limit, Self.defaultCapacity) }
        guard limit == 0 || required <= limit else {
            throw RPCStatus(.outOfRange, "the required capacity is more than its limit")
        }
        guard required <= Self.largestCapacity else {
            throw RPCStatus(.outOfRange, "a volume has at most \(Self.largestCapacity) bytes")
        }
        return (required, limit)
    }

    private func checkTopology(_ request: Csi_V1_CreateVolumeRequest) throws {
        guard request.hasAccessibilityRequirements else { return }
        let wanted = request.accessibilityRequirements.requisite
        let fits = wanted.isEmpty || wanted.contains { isHere($0) }
        guard fits else {
            throw RPCStatus(
                .resourceExhausted, "this driver makes volumes at site \(backend.site.site) only")
        }
    }

    private func isHere(_ topology: Csi_V1_Topology) -> Bool {
        topology.segments[Self.topologyKey] == backend.site.site.description
    }

    /// The nodes that are named, the best first: with `WaitForFirstConsumer` that of the pod.
    private static func nodes(_ wanted: Csi_V1_TopologyRequirement) -> [String] {
        let places = wanted.preferred.isEmpty ? wanted.requisite : wanted.preferred
        return places.compactMap { $0.segments[nodeTopologyKey] }
    }

    func deleteVolume(_ request: Csi_V1_DeleteVolumeRequest) async throws -> Csi_V1_DeleteVolumeResponse {
        guard !request.volumeID.isEmpty else { throw RPCStatus(.invalidArgument, "a volume id is missing") }
        // What can be no volume of ours does not exist: deleting it is done already.
        if let id = VolumeID(request.volumeID) {
            try await operations.alone(request.volumeID) { try await backend.delete(id) }
        }
        return Csi_V1_DeleteVolumeResponse()
    }

    func controllerExpand(
        _ request: Csi_V1_ControllerExpandVolumeRequest
    ) async throws -> Csi_V1_ControllerExpandVolumeResponse {
        try CSIChecks.required(request.volumeID)
        guard request.hasCapacityRange, request.capacityRange.requiredBytes > 0 else {
            throw RPCStatus(.invalidArgument, "the capacity to expand to is missing")
        }
        if request.hasVolumeCapability { _ = try CSIChecks.capability(request.volumeCapability) }
        let (required, limit) = try range(request.capacityRange)
        let id = try CSIChecks.volume(request.volumeID)
        let present = try await backend.volume(id)
        guard limit == 0 || present.capacity <= limit else {
            throw RPCStatus(.outOfRange, "a volume of \(present.capacity) bytes cannot be made smaller")
        }
        let volume = try await operations.alone(request.volumeID) {
            try await backend.expand(id, to: required)
        }
        var response = Csi_V1_ControllerExpandVolumeResponse()
        response.capacityBytes = Int64(clamping: volume.capacity)
        // The file system knows its new size already.
        response.nodeExpansionRequired = false
        return response
    }

    func controllerPublish(
        _ request: Csi_V1_ControllerPublishVolumeRequest
    ) async throws -> Csi_V1_ControllerPublishVolumeResponse {
        try CSIChecks.required(request.volumeID)
        try CSIChecks.required(request.nodeID, "a node id")
        let access = try CSIChecks.capability(request.hasVolumeCapability ? request.volumeCapability : nil)
        guard !request.readonly else {
            throw RPCStatus(.invalidArgument, "read-only attachment is not offered: publish it read-only")
        }
        try CSIChecks.map(request.volumeContext, "the volume context")
        try CSIChecks.map(request.secrets, "secrets")
        let id = try CSIChecks.volume(request.volumeID)
        _ = try await backend.volume(id)
        guard try await backend.knows(node: request.nodeID) else {
            throw RPCStatus(.notFound, "there is no node '\(request.nodeID)' at this site")
        }
        let epoch = try await operations.alone(request.volumeID) {
            try await backend.publish(id, at: request.nodeID, mode: access.mode)
        }
        var response = Csi_V1_ControllerPublishVolumeResponse()
        // The node refuses what was attached before the volume went elsewhere.
        response.publishContext = [Self.epochKey: epoch.description]
        return response
    }

    func controllerUnpublish(
        _ request: Csi_V1_ControllerUnpublishVolumeRequest
    ) async throws -> Csi_V1_ControllerUnpublishVolumeResponse {
        guard !request.volumeID.isEmpty else { throw RPCStatus(.invalidArgument, "a volume id is missing") }
        // Nothing of that name is published anywhere: that is what was asked for.
        if let id = VolumeID(request.volumeID) {
            try await operations.alone(request.volumeID) {
                try await backend.unpublish(id, at: request.nodeID.isEmpty ? nil : request.nodeID)
            }
        }
        return Csi_V1_ControllerUnpublishVolumeResponse()
    }

    func validate(
        _ request: Csi_V1_ValidateVolumeCapabilitiesRequest
    ) async throws -> Csi_V1_ValidateVolumeCapabilitiesResponse {
        try CSIChecks.required(request.volumeID)
        guard !request.volumeCapabilities.isEmpty else {
            throw RPCStatus(.invalidArgument, "volume capabilities are missing")
        }
        let id = try CSIChecks.volume(request.volumeID)
        _ = try await backend.volume(id)
        var response = Csi_V1_ValidateVolumeCapabilitiesResponse()
        do {
            for capability in request.volumeCapabilities { _ = try CSIChecks.capability(capability) }
            _ = try checkedParameters(request.parameters)
            _ = try Self.hydration(request.mutableParameters)
            response.confirmed.mutableParameters = request.mutableParameters
            response.confirmed.volumeCapabilities = request.volumeCapabilities
            response.confirmed.volumeContext = request.volumeContext
            response.confirmed.parameters = request.parameters
        } catch let error as RPCStatus {
            // Not an error of the call: the answer is no, and why.
            response.clearConfirmed()
            response.message = error.message
        }
        return response
    }

    func listVolumes(_ request: Csi_V1_ListVolumesRequest) async throws -> Csi_V1_ListVolumesResponse {
        guard request.maxEntries >= 0 else {
            throw RPCStatus(.invalidArgument, "max_entries is not negative")
        }
        var volumes = try await backend.volumes().sorted { $0.id < $1.id }
        if !request.startingToken.isEmpty {
            guard let start = VolumeID(request.startingToken) else {
                throw RPCStatus(.aborted, "this token was not given out here: list from the start")
            }
            volumes.removeAll { $0.id < start }
        }
        var response = Csi_V1_ListVolumesResponse()
        let limit = request.maxEntries == 0 ? volumes.count : Int(request.maxEntries)
        response.entries = volumes.prefix(limit).map { volume in
            var entry = Csi_V1_ListVolumesResponse.Entry()
            entry.volume = message(volume)
            entry.status.publishedNodeIds = volume.publishedNodes
            entry.status.volumeCondition = condition(volume)
            return entry
        }
        if volumes.count > limit { response.nextToken = volumes[limit].id.description }
        return response
    }

    func getVolume(
        _ request: Csi_V1_ControllerGetVolumeRequest
    ) async throws -> Csi_V1_ControllerGetVolumeResponse {
        let volume = try await backend.condition(of: try CSIChecks.volume(request.volumeID))
        var response = Csi_V1_ControllerGetVolumeResponse()
        response.volume = message(volume)
        response.status.publishedNodeIds = volume.publishedNodes
        response.status.volumeCondition = condition(volume)
        return response
    }

    func capacity(_ request: Csi_V1_GetCapacityRequest) async throws -> Csi_V1_GetCapacityResponse {
        var response = Csi_V1_GetCapacityResponse()
        let isPossible =
            (try? request.volumeCapabilities.allSatisfy {
                _ = try CSIChecks.capability($0); return true
            }) ?? false
        let isElsewhere = request.hasAccessibleTopology && !isHere(request.accessibleTopology)
        _ = try checkedParameters(request.parameters)
        var rooms: [UInt64] = []
        if isPossible, !isElsewhere {
            let node = request.accessibleTopology.segments[Self.nodeTopologyKey]
            rooms = try await backend.freeBytes(at: node.map { [$0] } ?? [])
        }
        response.availableCapacity = Int64(clamping: rooms.reduce(0) { $0 &+ min($1, 1 << 60) })
        // A volume is at one node. Schedulers go by this number if there is one, and not by the other.
        response.maximumVolumeSize.value = min(Int64(clamping: rooms.max() ?? 0), Int64(Self.largestCapacity))
        return response
    }

    func controllerCapabilities(
        _: Csi_V1_ControllerGetCapabilitiesRequest
    ) -> Csi_V1_ControllerGetCapabilitiesResponse {
        let types: [Csi_V1_ControllerServiceCapability.RPC.TypeEnum] = [
            .createDeleteVolume, .publishUnpublishVolume, .listVolumes, .listVolumesPublishedNodes,
            .getCapacity, .getVolume, .volumeCondition, .singleNodeMultiWriter, .expandVolume,
            .modifyVolume,
        ]
        var response = Csi_V1_ControllerGetCapabilitiesResponse()
        response.capabilities = types.map { type in
            var capability = Csi_V1_ControllerServiceCapability()
            capability.rpc.type = type
            return capability
        }
        return response
    }

    private func message(_ volume: CSIVolume) -> Csi_V1_Volume {
        var message = Csi_V1_Volume()
        message.volumeID = volume.id.description
        message.capacityBytes = Int64(clamping: volume.capacity)
        var topology = Csi_V1_Topology()
        // Whatever node it was made at: it follows the pod.
        topology.segments = [Self.topologyKey: backend.site.site.description]
        message.accessibleTopology = [topology]
        return message
    }

    func condition(_ volume: CSIVolume) -> Csi_V1_VolumeCondition {
        var condition = Csi_V1_VolumeCondition()
        condition.abnormal = volume.trouble != nil
        condition.message =
            volume.trouble ?? volume.healed.map { "the volume is well; \($0)" } ?? "the volume is well"
        return condition
    }
}
