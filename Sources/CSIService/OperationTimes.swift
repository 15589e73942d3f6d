package import RPC
internal import Synchronization
package import VolumeModel

/// How long the driver's calls took, by method and outcome.
package final class OperationTimes: Sendable {
    package struct Key: Hashable, Sendable {
        /// `/csi.v1.Node/NodeStageVolume`; of methods that the driver does not have, `unknown`: callers make up no names.
        package let method: String
        package let code: RPCCode
    }

    private let state = Mutex<[Key: TimeHistogram]>([:])

    package init() {}

    package var histograms: [Key: TimeHistogram] { state.withLock { $0 } }

    func record(_ method: String, _ code: RPCCode, _ duration: Duration) {
        let key = Key(method: code == .unimplemented ? "unknown" : method, code: code)
        state.withLock {
            $0[key, default: TimeHistogram(bounds: TimeHistogram.operationBounds)].record(duration)
        }
    }
}

extension RPCCode {
    /// As gRPC's libraries and their metrics write it.
    package var name: String {
        switch self {
        case .ok: "OK"
        case .cancelled: "Canceled"
        case .unknown: "Unknown"
        case .invalidArgument: "InvalidArgument"
        case .deadlineExceeded: "DeadlineExceeded"
        case .notFound: "NotFound"
        case .alreadyExists: "AlreadyExists"
        case .permissionDenied: "PermissionDenied"
        case .resourceExhausted: "ResourceExhausted"
        case .failedPrecondition: "FailedPrecondition"
        case .aborted: "Aborted"
        case .outOfRange: "OutOfRange"
        case .unimplemented: "Unimplemented"
        case .internalError: "Internal"
        case .unavailable: "Unavailable"
        case .dataLoss: "DataLoss"
        case .unauthenticated: "Unauthenticated"
        }
    }
}
