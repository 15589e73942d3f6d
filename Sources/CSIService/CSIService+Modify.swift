internal import CSIProtocol
internal import RPC
internal import VolumeModel

/// What a VolumeAttributesClass may say, and how it is changed.
extension CSIService {
    /// Bytes a second in the background: `10Mi`, or `none`.
    package static let rateLimitParameter = "rateLimit"
    /// Whether nothing is fetched in the background: `true` or `false`.
    package static let pauseParameter = "pause"
    /// What is fetched before it is read: `all`, `start` or `none`.
    package static let prefetchParameter = "prefetch"

    func modifyVolume(
        _ request: Csi_V1_ControllerModifyVolumeRequest
    ) async throws -> Csi_V1_ControllerModifyVolumeResponse {
        try CSIChecks.required(request.volumeID)
        try CSIChecks.map(request.secrets, "secrets")
        guard !request.mutableParameters.isEmpty else {
            throw RPCStatus(.invalidArgument, "mutable parameters are missing")
        }
        // All of them, before one is applied.
        let wanted = try Self.hydration(request.mutableParameters)
        let id = try CSIChecks.volume(request.volumeID)
        _ = try await backend.volume(id)
        try await operations.alone(request.volumeID) { try await backend.modify(id, wanted) }
        return Csi_V1_ControllerModifyVolumeResponse()
    }

    /// - Throws: INVALID_ARGUMENT for a key or a value that is not known.
    static func hydration(_ parameters: [String: String]) throws(RPCStatus) -> CSIHydration {
        try CSIChecks.map(parameters, "mutable parameters")
        var wanted = CSIHydration()
        for (key, value) in parameters.sorted(by: { $0.key < $1.key }) {
            switch key {
            case rateLimitParameter:
                guard let rate = value == "none" ? 0 : ByteQuantity.parse(value) else {
                    throw RPCStatus(
                        .invalidArgument,
                        "mutable parameter '\(key)' is bytes a second, such as 10Mi, or 'none'")
                }
                wanted.bytesPerSecond = rate
            case pauseParameter:
                guard let isPaused = ["true": true, "false": false][value] else {
                    throw RPCStatus(.invalidArgument, "mutable parameter '\(key)' is 'true' or 'false'")
                }
                wanted.isPaused = isPaused
            case prefetchParameter:
                guard let prefetch = PrefetchPolicy(rawValue: value) else {
                    throw RPCStatus(
                        .invalidArgument, "mutable parameter '\(key)' is 'all', 'start' or 'none'")
                }
                wanted.prefetch = prefetch
            default:
                throw RPCStatus(
                    .invalidArgument,
                    "mutable parameter '\(key)' is not known: there are '\(rateLimitParameter)', "
                        + "'\(pauseParameter)' and '\(prefetchParameter)'")
            }
        }
        return wanted
    }
}
