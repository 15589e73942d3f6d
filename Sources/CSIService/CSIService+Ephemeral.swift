internal import CSIProtocol
internal import HostMounts
internal import RPC
internal import VolumeModel

/// Volumes that stand in a pod's own description, live as long as the pod, and are known by kubelet's handle alone.
///
/// The handle is part of the volume's name in the site's registry. That is all there is to know after a restart, so that
/// what a crash left is found and deleted when kubelet unpublishes.
extension CSIService {
    /// In the volume context, from Kubernetes; and among the parameters of such a volume, which no class can set.
    package static let ephemeralKey = "csi.storage.k8s.io/ephemeral"
    /// Its value is what is asked for: `1Gi`.
    package static let sizeAttribute = "size"

    /// The name of a pod's own volume.
    ///
    /// - Parameter handle: kubelet's: `csi-` and 64 hexadecimal digits.
    /// - Returns: nil for any other word.
    static func ephemeralName(_ handle: String) -> String? {
        let digits = handle.utf8.dropFirst(4)
        guard handle.hasPrefix("csi-"), digits.count == 64,
            digits.allSatisfy({ (0x30...0x39).contains($0) || (0x61...0x66).contains($0) })
        else { return nil }
        return "ephemeral-\(handle)"
    }

    func isEphemeral(_ request: Csi_V1_NodePublishVolumeRequest) -> Bool {
        request.volumeContext[Self.ephemeralKey] == "true"
    }

    func publishEphemeral(_ request: Csi_V1_NodePublishVolumeRequest) async throws {
        guard !request.volumeID.isEmpty else { throw RPCStatus(.invalidArgument, "a volume id is missing") }
        guard let name = Self.ephemeralName(request.volumeID) else {
            throw RPCStatus(
                .invalidArgument, "the id of an ephemeral volume is 'csi-' and 64 hexadecimal digits")
        }
        let target = paths.real(try CSIChecks.path(request.targetPath, "the target path"))
        let access = try CSIChecks.capability(request.hasVolumeCapability ? request.volumeCapability : nil)
        let (size, parameters) = try attributes(request.volumeContext)
        let isReadOnly = request.readonly || access.isReadOnly
        try await operations.alone(request.volumeID) {
            let volume = try await backend.create(
                name: name, required: size, limit: size, parameters: parameters, hydration: CSIHydration(),
                nodes: [])
            if let existing = try MountTable.entry(at: target), existing.type != Self.mountType {
                throw RPCStatus(.alreadyExists, "something else is mounted at \(target)")
            }
            try await mount(volume.id, at: target, access, isReadOnly: isReadOnly, acquiredUnder: nil)
            // A pod sees it: if its server ends, it is not taken away before kubelet says so.
            try publications.set(
                Publications.Publication(volume.id, request.volumeCapability, isReadOnly: isReadOnly),
                at: target, mounts: try MountTable.entries())
            guard !access.flags.isEmpty else { return }
            do {
                try BindMount.restrict(target, isReadOnly ? access.flags.union(.readOnly) : access.flags)
            } catch {
                try? await backend.unstage(volume.id, at: target)
                throw error
            }
        }
    }

    /// What a pod asks for, checked as a storage class's parameters are.
    private func attributes(_ context: [String: String]) throws -> (size: UInt64, [String: String]) {
        try CSIChecks.map(context, "the volume context")
        var own = context
        var size = Self.defaultCapacity
        if let text = own.removeValue(forKey: Self.sizeAttribute) {
            guard let bytes = ByteQuantity.parse(text) else {
                throw RPCStatus(
                    .invalidArgument, "attribute '\(Self.sizeAttribute)' is a number of bytes, such as 1Gi")
            }
            guard bytes <= Self.largestCapacity else {
                throw RPCStatus(.outOfRange, "a volume has at most \(Self.largestCapacity) bytes")
            }
            size = bytes
        }
        var parameters = try checkedParameters(own)
        parameters[Self.ephemeralKey] = "true"
        return (size, parameters)
    }

    /// Deletes the volume, with what a crash has left of it. Nothing there is a success.
    func unpublishEphemeral(_ request: Csi_V1_NodeUnpublishVolumeRequest, name: String) async throws {
        let target = paths.real(try CSIChecks.path(request.targetPath, "the target path"))
        try await operations.alone(request.volumeID) {
            let volume = try await ephemeralVolume(name)
            if let mounted = try MountTable.entry(at: target) {
                guard mounted.type == Self.mountType,
                    volume.map({ mounted.source == source(of: $0.id) }) ?? false
                else {
                    throw RPCStatus(.failedPrecondition, "what is mounted at \(target) is not this volume")
                }
            }
            if let volume { try await backend.unstage(volume.id, at: target) }
            try BindMount.remove(target)
            // What cannot be written down does not matter: without its mount it does not count.
            try? publications.set(nil, at: target, mounts: try MountTable.entries())
            if let volume { try await backend.delete(volume.id) }
        }
    }

    /// Somebody's own volume that happens to have such a name is none.
    private func ephemeralVolume(_ name: String) async throws -> CSIVolume? {
        guard let volume = try await backend.volume(named: name), volume.isEphemeral else { return nil }
        return volume
    }

    /// A volume by its id, or by kubelet's handle of a pod's own volume.
    ///
    /// - Throws: INVALID_ARGUMENT when it is missing; NOT_FOUND.
    func known(_ text: String) async throws -> CSIVolume {
        if let name = Self.ephemeralName(text) {
            guard let volume = try await ephemeralVolume(name) else {
                throw RPCStatus(.notFound, "there is no volume \(text)")
            }
            return volume
        }
        return try await backend.volume(try CSIChecks.volume(text))
    }
}
