import CSIProtocol
import ControlProtocol
import Hydration
import NIOCore
import NIOEmbedded
import NIOHTTP1
import NIOTLS
import SiteIdentity
import VolumeModel

@testable import CSIService
@testable import HostMounts
@testable import Monitoring
@testable import MountHolder
@testable import Site

/// What comes over the sockets of a site that are no peer's: kubelet, commands, probes, TLS clients, its own mount holder.
enum SocketTargets {
    static let all = [csi, control, holder, http, hello]
    private static let id = HandoffSamples.volume.description

    // MARK: CSI

    private static let capability = Csi_V1_VolumeCapability.with {
        $0.mount.mountFlags = ["noatime", "ro"]
        $0.mount.volumeMountGroup = "1000"
        $0.accessMode.mode = .singleNodeWriter
    }

    private static let csi = FuzzTarget(
        "csi", "requests of kubelet and of the sidecars, as far as they are checked", byteLimit: 2048,
        words: [id, "/var/lib/kubelet/pods", "noatime", "rateLimit", "prefetch", "10Mi", "../"],
        kinds: [
            .message([
                Csi_V1_CreateVolumeRequest.with {
                    $0.name = "pvc-1"
                    $0.capacityRange.requiredBytes = 1 << 30
                    $0.volumeCapabilities = [capability]
                    $0.parameters = ["inodes": "5"]
                    $0.mutableParameters = ["rateLimit": "10Mi", "pause": "true", "prefetch": "start"]
                }
            ]) { (request: Csi_V1_CreateVolumeRequest) in
                for capability in request.volumeCapabilities { _ = try CSIChecks.capability(capability) }
                _ = try CSIService.hydration(request.mutableParameters)
                try CSIChecks.map(request.parameters, "parameters")
                return true
            },
            .message([
                Csi_V1_NodePublishVolumeRequest.with {
                    $0.volumeID = id
                    $0.stagingTargetPath = "/var/lib/kubelet/plugins/stage"
                    $0.targetPath = "/var/lib/kubelet/pods/x/mount"
                    $0.volumeCapability = capability
                    $0.volumeContext = ["a": "b"]
                }
            ]) { (request: Csi_V1_NodePublishVolumeRequest) in
                _ = try CSIChecks.volume(request.volumeID)
                let path = try CSIChecks.path(request.targetPath, "the target path")
                try demand(
                    !path.utf8.contains(0) && path.utf8.first == 0x2f, "the path \(path.debugDescription)")
                _ = try CSIChecks.capability(request.hasVolumeCapability ? request.volumeCapability : nil)
                try CSIChecks.map(request.volumeContext, "the volume context")
                return true
            },
            .message([
                Csi_V1_NodeStageVolumeRequest.with {
                    $0.volumeID = id
                    $0.stagingTargetPath = "/stage"
                    $0.volumeCapability = capability
                }
            ]) { (request: Csi_V1_NodeStageVolumeRequest) in
                _ = try CSIChecks.volume(request.volumeID)
                _ = try CSIChecks.path(request.stagingTargetPath, "the staging path")
                _ = try CSIChecks.capability(request.hasVolumeCapability ? request.volumeCapability : nil)
                return true
            },
        ])

    // MARK: commands

    private static let control = FuzzTarget(
        "control", "requests of commands, and what a site answers them", byteLimit: 2048,
        words: [id, "sydney", "start"],
        kinds: [
            .message([
                Godwit_Control_V1_MigrateRequest.with {
                    $0.volume = id
                    $0.to = "sydney"
                    $0.waitMilliseconds = .max
                    $0.claim.namespace = "default"
                    $0.claim.name = "data"
                    $0.claim.requested = "1Gi"
                    $0.claim.accessModes = ["ReadWriteOnce"]
                }
            ]) { (request: Godwit_Control_V1_MigrateRequest) in
                guard SiteID(site: request.to) != nil else { return false }
                if request.hasClaim {
                    let facts = try ClaimCoding.offered(request.claim)
                    try demand(
                        (try? ClaimCoding.facts(facts, from: HandoffSamples.here)) != nil,
                        "what is offered is refused: \(facts)")
                }
                _ = Duration.milliseconds(Int64(request.waitMilliseconds))
                return true
            },
            .message([
                Godwit_Control_V1_CreateVolumeRequest.with {
                    $0.name = "data"
                    $0.capacity = 1 << 30
                    $0.parameters = ["a": "b"]
                    $0.hydrationBytesPerSecond = 5
                    $0.hydrationPrefetch = "start"
                }
            ]) { (request: Godwit_Control_V1_CreateVolumeRequest) in
                let policy = HydrationPolicy(
                    isPaused: request.hydrationPaused, rate: request.hydrationBytesPerSecond,
                    prefetch: request.hydrationPrefetch)
                try StateTargets.demandKept(policy)
                return VolumeName.isValid(request.name)
                    && VolumeLimits(byteCount: request.capacity, inodeCount: request.inodeLimit).isCountable
            },
            .message([
                Godwit_Control_V1_SetHydrationRequest.with {
                    $0.volume = id
                    $0.bytesPerSecond = .max
                    $0.prefetch = "none"
                }
            ]) { (request: Godwit_Control_V1_SetHydrationRequest) in
                var policy = HydrationPolicy()
                try policy.take(request)
                try StateTargets.demandKept(policy)
                return true
            },
            .message([
                Godwit_Control_V1_ReportClaimRequest.with {
                    $0.volume = id
                    $0.report.reason = "Bound"
                    $0.report.message = "m"
                }
            ]) { (request: Godwit_Control_V1_ReportClaimRequest) in
                let report = ClaimCoding.report(request.report)
                try demand(ClaimCoding.report(ClaimCoding.control(report)) == report, "\(report)")
                return true
            },
            .message([
                Godwit_Control_V1_Volume.with {
                    $0.id = id
                    $0.role = "owning"
                    $0.mounts = ["/mnt"]
                    $0.claim.namespace = "default"
                    $0.keptCopies = [.with { $0.epoch = 3 }]
                }
            ]) { (volume: Godwit_Control_V1_Volume) in VolumeID(volume.id) != nil },
        ])

    // MARK: the holder of mounts

    private static let holder = FuzzTarget(
        "holder", "what is asked of the holder of mounts, and what it answers", byteLimit: 1024,
        kinds: [
            FuzzTarget.Kind(
                seeds: {
                    let requests: [HolderRequest] = [.put(id), .take(id), .drop(id), .list(after: "")]
                    return requests.map(\.bytes)
                },
                body: { bytes in
                    guard let request = HolderRequest(bytes) else { return false }
                    try demand(request.bytes == bytes, "\(request) is another when written")
                    return true
                }),
            FuzzTarget.Kind(
                seeds: {
                    let replies: [HolderReply] = [
                        .done, .missing, .refused("no"), .names(["a", "b"]), .names([]),
                    ]
                    return replies.map(\.bytes)
                },
                body: { bytes in
                    guard let reply = HolderReply(bytes) else { return false }
                    // A reason is cut, and bytes in it that are no text are marks then.
                    if case .refused = reply { return true }
                    try demand(reply.bytes == bytes, "\(reply) is another when written")
                    return true
                }),
        ])

    // MARK: HTTP

    /// An input is pieces, as they come from a connection.
    private static let http = FuzzTarget(
        "http", "requests of probes and scrapes", byteLimit: 1024, rounds: 1000,
        words: [
            "GET ", "HEAD ", " HTTP/1.1\r\n", "Content-Length: ", "Transfer-Encoding: chunked\r\n",
            "\r\n\r\n",
        ],
        seeds: {
            let requests = [
                "GET /healthz?verbose HTTP/1.1\r\nHost: a\r\n\r\n",
                "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
                "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: Upgrade\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            ].map { Array($0.utf8) }
            return requests.map { FuzzInput.joined([$0]) }
                + requests.map { FuzzInput.joined([Array($0.prefix(9)), Array($0.dropFirst(9))]) }
        },
        body: { bytes in
            let channel = EmbeddedChannel()
            defer { _ = try? channel.finish(acceptAlreadyClosed: true) }
            try MonitoringServer.addParser(to: channel.pipeline.syncOperations)
            var input = FuzzInput(bytes)
            var isRequest = false
            while !input.isAtEnd {
                // Not a request: answered so, and the connection is closed.
                _ = try? channel.writeInbound(ByteBuffer(bytes: input.piece()))
                while let part = try channel.readInbound(as: HTTPServerRequestPart.self) {
                    guard case .head(let head) = part else { continue }
                    isRequest = true
                    let path = MonitoringServer.path(of: head)
                    try demand(!path.utf8.contains(UInt8(ascii: "?")), path.debugDescription)
                }
            }
            return isRequest
        })

    // MARK: TLS

    /// An input is pieces, as they come from a connection.
    private static let hello = FuzzTarget(
        "hello", "the first bytes of a TLS client, and the site that it asks for", byteLimit: 1024,
        rounds: 1000,
        seeds: {
            let hello = clientHello(asking: "n1.london.site.godwit.internal")
            return [
                FuzzInput.joined([hello]),
                FuzzInput.joined([Array(hello.prefix(7)), Array(hello.dropFirst(7))]),
            ]
        },
        body: { bytes in
            final class Found {
                var names: [SNIResult] = []
            }
            let found = Found()
            let channel = EmbeddedChannel()
            defer { _ = try? channel.finish(acceptAlreadyClosed: true) }
            let loop = channel.embeddedEventLoop
            let handler = SNIHandler { result in
                found.names.append(result)
                return loop.makeSucceededVoidFuture()
            }
            try channel.pipeline.syncOperations.addHandler(ByteToMessageHandler(handler))
            var input = FuzzInput(bytes)
            while !input.isAtEnd { try channel.writeInbound(ByteBuffer(bytes: input.piece())) }
            try demand(found.names.count < 2, "one client asks for \(found.names)")
            guard case .hostname(let name)? = found.names.first else { return false }
            return SiteIdentity.site(serverName: name) != nil
        })

    /// A client's first message (RFC 8446, 4.1.2), with the one extension that matters.
    private static func clientHello(asking name: String) -> [UInt8] {
        func counted(_ bytes: [UInt8], _ byteCount: Int) -> [UInt8] {
            (0..<byteCount).reversed().map { UInt8(truncatingIfNeeded: bytes.count >> (8 * $0)) } + bytes
        }
        let host: [UInt8] = [0] + counted(Array(name.utf8), 2)
        let serverName: [UInt8] = [0, 0] + counted(counted(host, 2), 2)
        let parts: [[UInt8]] = [
            [3, 3], [UInt8](repeating: 7, count: 32), counted([], 1), counted([0x13, 1], 2), counted([0], 1),
            counted(serverName, 2),
        ]
        let message: [UInt8] = [1] + counted(parts.flatMap { $0 }, 3)
        return [22, 3, 1] + counted(message, 2)
    }
}
