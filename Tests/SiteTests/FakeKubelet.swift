import CSIProtocol
import Foundation
import Glibc
import RPC
import SwiftProtobuf
import Testing

@testable import TestBed

/// What kubelet does with plugins: it watches a directory, asks each socket that appears there who it is, looks at the
/// driver where that says, and tells the plugin what came of it.
final class FakeKubelet: Sendable {
    enum Change: Hashable { case appeared(String), disappeared(String) }

    let directory: String
    var registry: String { directory + "/plugins_registry" }
    private let descriptor: Int32
    /// Only one test uses a kubelet, one call after the other.
    private nonisolated(unsafe) var pending: [Change] = []

    init(directory: String) throws {
        self.directory = directory
        try FileManager.default.createDirectory(
            atPath: directory + "/plugins_registry", withIntermediateDirectories: true)
        descriptor = inotify_init1(Int32(IN_NONBLOCK | IN_CLOEXEC))
        let events = UInt32(IN_CREATE | IN_MOVED_TO | IN_DELETE)
        try #require(inotify_add_watch(descriptor, directory + "/plugins_registry", events) >= 0)
    }

    deinit { close(descriptor) }

    /// The next thing that happens to a name that kubelet looks at: it ignores those that begin with a dot.
    func next(limit: Duration = .seconds(60)) async throws -> Change {
        let deadline = ContinuousClock.now + limit
        while true {
            if let change = pending.first {
                pending.removeFirst()
                return change
            }
            pending += readChanges()
            guard pending.isEmpty else { continue }
            guard ContinuousClock.now < deadline else {
                throw LabError.tooSlow("a change below \(registry)", limit: limit)
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    private func readChanges() -> [Change] {
        var buffer = [UInt8](repeating: 0, count: 16 << 10)
        let count = read(descriptor, &buffer, buffer.count)
        var changes: [Change] = []
        var offset = 0
        // struct inotify_event: watch, mask, cookie, length of the name, the name filled with zeros.
        while count - offset >= 16 {
            let (mask, length) = buffer.withUnsafeBytes {
                (
                    $0.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self),
                    Int($0.loadUnaligned(fromByteOffset: offset + 12, as: UInt32.self))
                )
            }
            let bytes = buffer[(offset + 16)..<(offset + 16 + length)].prefix { $0 != 0 }
            let name = String(decoding: bytes, as: UTF8.self)
            offset += 16 + length
            guard !name.hasPrefix(".") else { continue }
            let isGone = mask & UInt32(IN_DELETE) != 0
            changes.append(isGone ? .disappeared(name) : .appeared(name))
        }
        return changes
    }

    /// Asks a socket who it is.
    func info(_ name: String) async throws -> Kubelet_PluginInfo {
        try await call(
            registry + "/" + name, "/pluginregistration.Registration/GetInfo", Kubelet_InfoRequest())
    }

    /// Asks the driver which node this is.
    func nodeInfo(_ endpoint: String) async throws -> Csi_V1_NodeGetInfoResponse {
        try await call(endpoint, "/csi.v1.Node/NodeGetInfo", Csi_V1_NodeGetInfoRequest())
    }

    /// Tells the plugin what came of it.
    func tell(_ name: String, error: String?) async throws {
        var status = Kubelet_RegistrationStatus()
        status.pluginRegistered = error == nil
        status.error = error ?? ""
        let _: Kubelet_RegistrationStatusResponse = try await call(
            registry + "/" + name, "/pluginregistration.Registration/NotifyRegistrationStatus", status)
    }

    private func call<Request: Message, Reply: Message>(
        _ path: String, _ method: String, _ request: Request
    ) async throws -> Reply {
        let channel = try RPCChannel(to: .unix(path: path), security: .plaintext)
        defer { channel.close() }
        let bytes: [UInt8] = try request.serializedBytes()
        let reply = try await channel.unary(method, bytes, timeout: .seconds(30), waitForReady: true)
        return try Reply(serializedBytes: reply)
    }
}
