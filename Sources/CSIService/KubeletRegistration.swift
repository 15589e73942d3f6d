internal import CSIProtocol
internal import Glibc
internal import RPC
internal import SwiftProtobuf
internal import Synchronization

/// Makes the driver known to kubelet, which watches a directory for sockets and asks each of them who it is.
///
/// Kubelet does not ask a second time what it has refused, and forgets a driver whose socket goes: so the socket is made
/// anew after a refusal, and when somebody took it away, and else left alone.
package final class KubeletRegistration: Sendable {
    /// What kubelet thinks of the driver.
    package enum Status: Hashable, Sendable {
        /// The socket cannot be made.
        case unable(String)
        /// Kubelet has not said anything.
        case unasked
        case registered
        case refused(String)
    }

    package static let service = "/pluginregistration.Registration/"
    /// A refusal is most often a start that is not over: kubelet's own, or this driver's.
    private static let firstPause: Duration = .seconds(1)
    private static let longestPause: Duration = .seconds(60)
    private static let lookInterval: Duration = .milliseconds(500)

    /// The socket on which kubelet asks.
    package let path: String
    private let driverEndpoint: String
    private let log: @Sendable (String) -> Void
    private let current = Mutex(Status.unasked)

    /// - Parameters:
    ///   - kubeletDirectory: kubelet's own, for example `/var/lib/kubelet`.
    ///   - driverEndpoint: the path of the CSI socket, as kubelet sees it.
    package init(
        kubeletDirectory: String, driverEndpoint: String, log: @escaping @Sendable (String) -> Void
    ) {
        path = kubeletDirectory + "/plugins_registry/" + CSIService.driverName + "-reg.sock"
        self.driverEndpoint = driverEndpoint
        self.log = log
    }

    package var status: Status { current.withLock { $0 } }

    /// Keeps the driver known until the task is cancelled; then the socket is gone, and kubelet forgets the driver.
    package func run() async {
        var pause = Self.firstPause
        while !Task.isCancelled {
            do throws(RPCStatus) {
                let server = RPCServer { (call) async throws(RPCStatus) in try await self.handle(call) }
                try server.listen(on: .unix(path: path), security: .plaintext)
                note(.unasked)
                try server.start()
                let wasRegistered = await serve()
                await server.shutdown(grace: .seconds(1))
                if wasRegistered { pause = Self.firstPause }
            } catch {
                note(.unable(error.message))
            }
            // Cancelled: the loop ends at once.
            try? await Task.sleep(for: pause)
            pause = min(pause * 2, Self.longestPause)
        }
    }

    /// Answers until the socket is to be made anew.
    ///
    /// - Returns: whether kubelet knew the driver meanwhile.
    private func serve() async -> Bool {
        let made = Self.identity(path)
        var wasRegistered = false
        while !Task.isCancelled {
            switch status {
            case .refused: return wasRegistered
            case .registered: wasRegistered = true
            case .unable, .unasked: break
            }
            if made == nil || Self.identity(path) != made {
                log("the socket \(path) was taken away: it is made anew")
                return wasRegistered
            }
            try? await Task.sleep(for: Self.lookInterval)
        }
        return wasRegistered
    }

    private static func identity(_ path: String) -> [UInt]? {
        var status = stat()
        guard lstat(path, &status) == 0 else { return nil }
        return [UInt(status.st_dev), UInt(status.st_ino)]
    }

    private func note(_ new: Status) {
        let old = current.withLock { status in
            defer { status = new }
            return status
        }
        guard old != new else { return }
        switch new {
        case .unable(let reason): log("cannot make the driver known to kubelet: \(reason)")
        case .unasked: break
        case .registered: log("kubelet has registered the driver, at \(driverEndpoint)")
        case .refused(let reason): log("kubelet refuses the driver, which will be offered again: \(reason)")
        }
    }

    private func handle(_ call: RPCServerCall) async throws(RPCStatus) {
        guard let request = try await call.receive() else {
            throw RPCStatus(.invalidArgument, "a request is missing")
        }
        do {
            try call.sendLast(try answer(call.method, request))
        } catch let error as RPCStatus {
            throw error
        } catch {
            throw RPCStatus(.invalidArgument, "the request is no message of \(call.method)")
        }
    }

    private func answer(_ method: String, _ request: [UInt8]) throws -> [UInt8] {
        switch method {
        case Self.service + "GetInfo":
            _ = try Kubelet_InfoRequest(serializedBytes: request)
            var info = Kubelet_PluginInfo()
            info.type = "CSIPlugin"
            info.name = CSIService.driverName
            info.endpoint = driverEndpoint
            info.supportedVersions = ["1.0.0"]
            return try info.serializedBytes()
        case Self.service + "NotifyRegistrationStatus":
            let told = try Kubelet_RegistrationStatus(serializedBytes: request)
            note(told.pluginRegistered ? .registered : .refused(told.error))
            return try Kubelet_RegistrationStatusResponse().serializedBytes()
        default: throw RPCStatus(.unimplemented, "no such method: \(method)")
        }
    }
}
