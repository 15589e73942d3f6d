internal import HostMounts
package import Logging
package import RPC
internal import SwiftProtobuf
internal import VolumeModel

/// The CSI services Identity, Controller and Node over any transport that moves bytes.
///
/// Checks every field before anything is touched, and speaks the specification's error codes. What it must
/// know after a restart stands in the kernel's mount table, in the backend and in the file of publications.
package struct CSIService: Sendable {
    package static let driverName = "csi.godwit.dev"
    package static let topologyKey = "topology.godwit.dev/site"
    /// Of a site of several nodes.
    package static let nodeTopologyKey = "topology.godwit.dev/node"
    /// The access mode of a volume that several nodes read at once, and nobody writes to.
    package static let manyReaders = "MULTI_NODE_READER_ONLY"

    let backend: any CSIBackend
    let operations = PendingOperations()
    package let times = OperationTimes()

    let publications: Publications
    let paths: HostPaths
    let logger: Logger?

    /// - Parameters:
    ///   - publicationsPath: the file in which it is kept what is shown where; nil: nowhere.
    ///   - kubeletDirectory: as kubelet names it. Symbolic links may lead to it; below it none is followed.
    ///   - logger: told of each call: at the level debug of those that succeed; nil: nobody is.
    package init(
        backend: any CSIBackend, publicationsPath: String? = nil, kubeletDirectory: String? = nil,
        logger: Logger? = nil
    ) {
        self.backend = backend
        self.logger = logger
        publications = Publications(path: publicationsPath)
        paths = HostPaths(root: kubeletDirectory)
    }

    /// Where volumes are shown to pods, by that file.
    package static func targets(publishedIn path: String) -> Set<String> { Publications(path: path).targets }

    package func handle(_ call: RPCServerCall) async throws(RPCStatus) {
        guard let request = try await call.receive() else {
            throw RPCStatus(.invalidArgument, "a request is missing")
        }
        try call.sendLast(try await handle(method: call.method, request: request))
    }

    /// One call: its method (`/csi.v1.Identity/Probe`) and its encoded request, to its encoded response.
    ///
    /// It is timed, logged, and named in whatever is logged meanwhile.
    package func handle(method: String, request: [UInt8]) async throws(RPCStatus) -> [UInt8] {
        try await Self.$currentRequest.withValue(Self.nextRequest()) {
            let started = ContinuousClock.now
            let result: Result<[UInt8], RPCStatus>
            do throws(RPCStatus) {
                result = .success(try await outcome(method, request))
            } catch {
                result = .failure(error)
            }
            let (duration, failure) = (ContinuousClock.now - started, result.failure)
            times.record(method, failure?.code ?? .ok, duration)
            log(method, request, failure, duration)
            return result
        }.get()
    }

    private func outcome(_ method: String, _ request: [UInt8]) async throws(RPCStatus) -> [UInt8] {
        do {
            return try await answer(method, request)
        } catch let error as RPCStatus {
            throw error
        } catch let error as CSIBackendError {
            throw error.status
        } catch is BinaryDecodingError {
            throw RPCStatus(.invalidArgument, "the request is no message of \(method)")
        } catch {
            throw RPCStatus(.internalError, "\(error)")
        }
    }

    private func answer(_ method: String, _ request: [UInt8]) async throws -> [UInt8] {
        switch method {
        case "/csi.v1.Identity/GetPluginInfo":
            try pluginInfo(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Identity/GetPluginCapabilities":
            try pluginCapabilities(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Identity/Probe": try probe(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Controller/CreateVolume":
            try await createVolume(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Controller/DeleteVolume":
            try await deleteVolume(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Controller/ControllerPublishVolume":
            try await controllerPublish(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Controller/ControllerUnpublishVolume":
            try await controllerUnpublish(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Controller/ValidateVolumeCapabilities":
            try await validate(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Controller/ListVolumes":
            try await listVolumes(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Controller/GetCapacity":
            try await capacity(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Controller/ControllerGetCapabilities":
            try controllerCapabilities(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Controller/ControllerExpandVolume":
            try await controllerExpand(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Controller/ControllerGetVolume":
            try await getVolume(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Controller/ControllerModifyVolume":
            try await modifyVolume(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Node/NodeStageVolume":
            try await stage(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Node/NodeUnstageVolume":
            try await unstage(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Node/NodePublishVolume":
            try await publish(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Node/NodeUnpublishVolume":
            try await unpublish(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Node/NodeGetVolumeStats":
            try await volumeStats(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Node/NodeGetCapabilities":
            try nodeCapabilities(.init(serializedBytes: request)).serializedBytes()
        case "/csi.v1.Node/NodeGetInfo": try nodeInfo(.init(serializedBytes: request)).serializedBytes()
        default: throw RPCStatus(.unimplemented, "this driver does not offer \(method)")
        }
    }
}

extension CSIBackendError {
    /// The one table from the site's words to CSI's codes.
    var status: RPCStatus {
        switch self {
        case .notFound(let text): RPCStatus(.notFound, text)
        case .exists(let text): RPCStatus(.alreadyExists, text)
        case .invalid(let text): RPCStatus(.invalidArgument, text)
        case .precondition(let text): RPCStatus(.failedPrecondition, text)
        case .pending(let text): RPCStatus(.aborted, text)
        case .unavailable(let text): RPCStatus(.unavailable, text)
        case .exhausted(let text): RPCStatus(.resourceExhausted, text)
        case .other(let text): RPCStatus(.internalError, text)
        }
    }
}

extension Result {
    fileprivate var failure: Failure? { if case .failure(let error) = self { error } else { nil } }
}
