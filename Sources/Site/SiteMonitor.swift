package import CSIService
internal import CSIProtocol
internal import ControlProtocol
package import Monitoring
package import RPC
internal import SwiftProtobuf

/// What a site answers to those who watch it: whether it lives, whether it is of use, and its figures.
package final class SiteMonitor: Sendable {
    /// Less than what probes are given in Manifests, so that a reason arrives.
    private static let probeTimeout: Duration = .seconds(8)

    private let channel: RPCChannel
    private let asksDriver: Bool
    private let registration: KubeletRegistration?
    private let site: Site
    private let operations: OperationTimes
    private let volumeLimit: Int

    /// - Parameters:
    ///   - csi: asked for its health as Kubernetes would, if it is a Unix socket; else the control socket is.
    ///   - registration: ready is only whom kubelet knows; nil: kubelet is not told.
    ///   - volumeLimit: how many volumes have figures of their own.
    package init(
        site: Site, endpoints: SiteServers.Endpoints, operations: OperationTimes,
        registration: KubeletRegistration?, volumeLimit: Int
    ) throws(RPCStatus) {
        self.site = site
        self.operations = operations
        self.volumeLimit = volumeLimit
        if case .unix? = endpoints.csi, let csi = endpoints.csi {
            channel = try RPCChannel(to: csi, security: .plaintext)
            asksDriver = true
        } else {
            channel = try RPCChannel(to: endpoints.control, security: .plaintext)
            asksDriver = false
        }
        self.registration = registration
    }

    package func answer(_ path: String) async -> MonitoringReply {
        switch path {
        case "/healthz":
            if let reason = await illness() { return MonitoringReply(503, reason + "\n") }
            return MonitoringReply(200, "ok\n")
        case "/readyz":
            if let reason = await illness() ?? unreadiness { return MonitoringReply(503, reason + "\n") }
            return MonitoringReply(200, "ok\n")
        case "/metrics":
            let metrics = SiteMetrics(
                site: site, operations: operations, volumeLimit: volumeLimit,
                isRegistered: registration.map { $0.status == .registered })
            return MonitoringReply(200, await metrics.text(), contentType: MetricsText.contentType)
        default: return MonitoringReply(404, "here are /healthz, /readyz and /metrics\n")
        }
    }

    package func close() { channel.close() }

    /// Why the site cannot be said to live; nil: it does.
    private func illness() async -> String? {
        do {
            if asksDriver {
                let reply = try await channel.unary(
                    "/csi.v1.Identity/Probe", try Csi_V1_ProbeRequest().serializedBytes(),
                    timeout: Self.probeTimeout, waitForReady: true)
                let probe = try Csi_V1_ProbeResponse(serializedBytes: reply)
                return !probe.hasReady || probe.ready.value ? nil : "the CSI driver says that it is not ready"
            }
            _ = try await channel.unary(
                ControlService.service + "Info", try Godwit_Control_V1_InfoRequest().serializedBytes(),
                timeout: Self.probeTimeout, waitForReady: true)
            return nil
        } catch {
            return "the site does not answer: \(error)"
        }
    }

    private var unreadiness: String? {
        switch registration?.status {
        case nil, .registered: nil
        case .unasked: "kubelet has not asked for the driver yet"
        case .refused(let reason): "kubelet refuses the driver: \(reason)"
        case .unable(let reason): "the driver cannot be made known to kubelet: \(reason)"
        }
    }
}
