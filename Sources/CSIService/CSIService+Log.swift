internal import CSIProtocol
internal import Logging
internal import RPC
internal import Synchronization

/// What is logged of each call: its outcome and the volume that it names, and of its contents nothing else.
extension CSIService {
    /// The call that is being answered, or that began what is being done: metadata of whatever is logged. Unlike any other
    /// of this process, and hardly like one of another.
    @TaskLocal package static var currentRequest: String?

    private static let process = String(UInt32.random(in: 0...UInt32.max), radix: 36)
    private static let count = Atomic<UInt64>(0)

    static func nextRequest() -> String {
        "\(process)-\(count.add(1, ordering: .relaxed).newValue)"
    }

    func log(_ method: String, _ request: [UInt8], _ outcome: RPCStatus?, _ duration: Duration) {
        let level = Self.level(of: outcome?.code)
        guard let logger, logger.logLevel <= level else { return }
        let (seconds, attoseconds) = duration.components
        var metadata: Logger.Metadata = [
            "code": "\(outcome?.code.name ?? RPCCode.ok.name)",
            "milliseconds": "\(seconds * 1000 + attoseconds / 1_000_000_000_000_000)",
        ]
        if let (key, subject) = Self.subject(method, request) { metadata[key] = "\(subject)" }
        let name = Self.clean(method.split(separator: "/").last.map(String.init) ?? method)
        let words = outcome.map { ": " + Self.clean($0.message) } ?? ""
        logger.log(level: level, "\(name)\(words)", metadata: metadata)
    }

    /// What a caller does wrong, or tries too early, is its business; the rest is ours.
    private static func level(of code: RPCCode?) -> Logger.Level {
        switch code {
        case nil, .ok?: .debug
        case .cancelled?, .invalidArgument?, .deadlineExceeded?, .notFound?, .alreadyExists?,
            .failedPrecondition?,
            .aborted?, .outOfRange?, .unimplemented?, .unavailable?:
            .info
        case .unknown?, .permissionDenied?, .resourceExhausted?, .internalError?, .dataLoss?,
            .unauthenticated?:
            .warning
        }
    }

    private static let ofVolumes: Set<String> = [
        "/csi.v1.Controller/DeleteVolume", "/csi.v1.Controller/ControllerPublishVolume",
        "/csi.v1.Controller/ControllerUnpublishVolume", "/csi.v1.Controller/ValidateVolumeCapabilities",
        "/csi.v1.Controller/ControllerExpandVolume", "/csi.v1.Controller/ControllerGetVolume",
        "/csi.v1.Controller/ControllerModifyVolume", "/csi.v1.Node/NodeStageVolume",
        "/csi.v1.Node/NodeUnstageVolume", "/csi.v1.Node/NodePublishVolume",
        "/csi.v1.Node/NodeUnpublishVolume", "/csi.v1.Node/NodeGetVolumeStats",
    ]

    /// The volume that a call is about: by its name where it is made, else by its identifier, which is the first field of
    /// each of these messages; the others, secrets among them, are not looked at.
    private static func subject(_ method: String, _ request: [UInt8]) -> (key: String, value: String)? {
        let isCreation = method == "/csi.v1.Controller/CreateVolume"
        guard isCreation || ofVolumes.contains(method),
            let named = try? Csi_V1_ControllerGetVolumeRequest(serializedBytes: request)
        else { return nil }
        return (isCreation ? "volume" : "volume-id", clean(named.volumeID, limit: CSIChecks.stringLimit))
    }

    /// On one line, and of bounded length: some of it is the caller's.
    private static func clean(_ text: String, limit: Int = 1000) -> String {
        var clean = ""
        for scalar in text.unicodeScalars.prefix(limit) {
            clean.unicodeScalars.append(scalar.value < 0x20 || scalar.value == 0x7f ? " " : scalar)
        }
        return clean
    }
}
