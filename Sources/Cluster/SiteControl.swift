internal import ControlProtocol
internal import RPC
internal import Site
internal import SwiftProtobuf

/// What the controller asks of the site that it runs beside.
package protocol SiteControl: Sendable {
    func info() async throws(SiteControlError) -> (site: String, peers: Set<String>)
    /// - Returns: nil when the site does not know it.
    func volume(_ id: String) async throws(SiteControlError) -> VolumeSituation?
    func setHydration(_ id: String, _ wanted: ClaimDecision.Hydration) async throws(SiteControlError)
    /// Prepares the target without handing over; of a volume that it owns already, tells how far it is.
    func advance(
        _ id: String, to target: String, _ report: @Sendable (MoveProgress) async -> Void
    ) async throws(SiteControlError) -> MoveProgress
}

/// Why the site did not do it, in its own words.
package struct SiteControlError: Error, Hashable, Sendable, CustomStringConvertible {
    package var description: String
    /// Whether it is likely to go away by itself.
    package var isTransient: Bool

    package init(_ description: String, isTransient: Bool) {
        self.description = description
        self.isTransient = isTransient
    }
}

/// How far a move is, as the site tells it.
package struct MoveProgress: Hashable, Sendable {
    package var phase: MigrationResource.Phase
    package var epoch: UInt64 = 0
    package var totalBytes: UInt64 = 0
    package var missingBytes: UInt64 = 0
    package var waitingReason = ""

    package init(phase: MigrationResource.Phase) { self.phase = phase }
}

/// The site's control socket.
package final class SiteControlSocket: SiteControl {
    /// A first catalog may be a million rows over a slow link.
    private static let advanceTimeout: Duration = .seconds(3600)

    private let channel: RPCChannel

    package init(path: String) throws {
        channel = try RPCChannel(to: .unix(path: path), security: .plaintext, options: RPCChannelOptions())
    }

    package func info() async throws(SiteControlError) -> (site: String, peers: Set<String>) {
        let reply: Godwit_Control_V1_InfoReply = try await call("Info", Godwit_Control_V1_InfoRequest())
        return (reply.site, Set(reply.peers))
    }

    package func volume(_ id: String) async throws(SiteControlError) -> VolumeSituation? {
        var request = Godwit_Control_V1_VolumeRequest()
        request.volume = id
        do {
            let bytes: [UInt8] = try request.serializedBytes()
            let reply = try await unary("InspectVolume", bytes)
            let volume = try Godwit_Control_V1_Volume(serializedBytes: reply)
            return VolumeSituation(
                id: volume.id, owner: volume.owner, isPaused: volume.hydrationPaused,
                bytesPerSecond: volume.hydrationBytesPerSecond)
        } catch let error as RPCStatus where error.code == .notFound {
            return nil
        } catch {
            throw Self.failure(error)
        }
    }

    package func setHydration(
        _ id: String, _ wanted: ClaimDecision.Hydration
    ) async throws(SiteControlError) {
        var request = Godwit_Control_V1_SetHydrationRequest()
        request.volume = id
        if let paused = wanted.isPaused { request.paused = paused }
        if let rate = wanted.bytesPerSecond { request.bytesPerSecond = rate }
        let _: Godwit_Control_V1_Volume = try await call("SetHydration", request)
    }

    package func advance(
        _ id: String, to target: String, _ report: @Sendable (MoveProgress) async -> Void
    ) async throws(SiteControlError) -> MoveProgress {
        var request = Godwit_Control_V1_MigrateRequest()
        request.volume = id
        request.to = target
        request.prepareOnly = true
        request.detach = true
        var last: MoveProgress?
        do {
            let bytes: [UInt8] = try request.serializedBytes()
            let call = try channel.open(
                ControlService.service + "Migrate", metadata: RPCMetadata(), timeout: Self.advanceTimeout,
                waitForReady: false)
            try await call.send(bytes)
            try await call.finishSending()
            while let message = try await call.receive() {
                let progress = Self.progress(try .init(serializedBytes: message))
                last = progress
                await report(progress)
            }
        } catch {
            throw Self.failure(error)
        }
        guard let last else {
            throw SiteControlError("the site ended the call without a word", isTransient: true)
        }
        return last
    }

    private static func progress(_ message: Godwit_Control_V1_MigrateProgress) -> MoveProgress {
        let phase: MigrationResource.Phase =
            switch message.phase {
            case "preparing": .preparing
            case "ready": .ready
            case "hydrating": .hydrating
            case "done": .done
            default: .handedOver
            }
        var progress = MoveProgress(phase: phase)
        progress.epoch = message.epoch
        progress.totalBytes = message.totalByteCount
        progress.missingBytes = message.missingByteCount
        progress.waitingReason = message.waitingReason
        return progress
    }

    private func call<Request: Message, Reply: Message>(
        _ method: String, _ request: Request
    ) async throws(SiteControlError) -> Reply {
        do {
            let bytes: [UInt8] = try request.serializedBytes()
            return try Reply(serializedBytes: try await unary(method, bytes))
        } catch {
            throw Self.failure(error)
        }
    }

    private func unary(_ method: String, _ bytes: [UInt8]) async throws -> [UInt8] {
        try await channel.unary(
            ControlService.service + method, bytes, metadata: RPCMetadata(), timeout: .seconds(60),
            waitForReady: false)
    }

    private static func failure(_ error: any Error) -> SiteControlError {
        guard let status = error as? RPCStatus else {
            return SiteControlError("\(error)", isTransient: true)
        }
        switch status.code {
        case .unavailable, .deadlineExceeded, .aborted, .cancelled:
            return SiteControlError(status.message, isTransient: true)
        default: return SiteControlError(status.message, isTransient: false)
        }
    }
}
