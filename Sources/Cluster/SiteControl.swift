package import ClusterResources
internal import ControlProtocol
internal import RPC
internal import Site
internal import SwiftProtobuf
package import VolumeModel

/// What the controller asks of the site that it runs beside.
package protocol SiteControl: Sendable {
    func info() async throws(SiteControlError) -> (site: String, peers: Set<String>)
    /// - Returns: nil when the site does not know it.
    func volume(_ id: String) async throws(SiteControlError) -> VolumeSituation?
    func setHydration(_ id: String, _ wanted: ClaimDecision.Hydration) async throws(SiteControlError)
    /// Prepares the target without handing over; of a volume that it owns already, tells how far it is.
    ///
    /// - Parameter claim: what is to be made in the target's cluster.
    func advance(
        _ id: String, to target: String, claim: ClaimFacts
    ) async throws(SiteControlError) -> MoveProgress
    /// Lets a site that was prepared forget the volume. May be repeated.
    func withdraw(_ id: String, from target: String) async throws(SiteControlError)
    /// What came here with a claim from another cluster.
    func foreignVolumes() async throws(SiteControlError) -> [ForeignVolume]
    func report(_ report: ClaimReport, of id: String) async throws(SiteControlError)
    /// Takes a volume over by force, or tells what that would mean. May be repeated.
    ///
    /// - Parameter order: nil: only tell.
    func takeOver(_ id: String, _ order: TakeoverOrder?) async throws(SiteControlError) -> TakeoverAnswer
}

/// Which epoch is overruled, and the state to begin with; nil: the first that is told.
package struct TakeoverOrder: Hashable, Sendable {
    package var epoch: UInt64
    package var base: String?
}

/// What the site says of a takeover by force.
package struct TakeoverAnswer: Hashable, Sendable {
    /// The volume's name.
    package var volume: String
    package var owner: String
    package var overruledEpoch: UInt64
    /// 0: nothing was done.
    package var epoch: UInt64
    package var states: [TakeoverResource.State]
    /// Sites that did not tell what they have.
    package var silentSites: [String] = []
    package var ownerAnswers = false
}

/// A volume that came, or is to come, from another cluster, with the claim that is to be made for it.
package struct ForeignVolume: Hashable, Sendable {
    package var id: String
    package var name: String
    package var owner: String
    /// How far it is on its way here: Ready, Hydrating or Done; nil: it has gone on, or does not come.
    package var phase: MigrationResource.Phase?
    package var claim: ForeignClaim
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
    /// What has become of the claim at the target; nil: nothing is known.
    package var claim: ClaimReport?

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
                id: volume.id, owner: Self.site(volume.owner), isSealed: Self.isSealed(inRole: volume.role),
                isPaused: volume.hydrationPaused, bytesPerSecond: volume.hydrationBytesPerSecond)
        } catch let error as RPCStatus where error.code == .notFound {
            return nil
        } catch {
            throw Self.failure(error)
        }
    }

    static func isSealed(inRole name: String) -> Bool { ["sealing", "sealed", "reclaiming"].contains(name) }

    package func setHydration(
        _ id: String, _ wanted: ClaimDecision.Hydration
    ) async throws(SiteControlError) {
        var request = Godwit_Control_V1_SetHydrationRequest()
        request.volume = id
        if let paused = wanted.isPaused { request.paused = paused }
        if let rate = wanted.bytesPerSecond { request.bytesPerSecond = rate }
        let _: Godwit_Control_V1_Volume = try await call("SetHydration", request)
    }

    package func withdraw(_ id: String, from target: String) async throws(SiteControlError) {
        var request = Godwit_Control_V1_WithdrawRequest()
        request.volume = id
        request.from = target
        let _: Godwit_Control_V1_Empty = try await call("Withdraw", request)
    }

    package func foreignVolumes() async throws(SiteControlError) -> [ForeignVolume] {
        var request = Godwit_Control_V1_ListVolumesRequest()
        request.withClaim = true
        let reply: Godwit_Control_V1_ListVolumesReply = try await call("ListVolumes", request)
        return reply.volumes.compactMap { volume in
            guard volume.hasClaim, let facts = Self.facts(volume.claim) else { return nil }
            let report = volume.hasClaimReport ? Self.report(volume.claimReport) : nil
            return ForeignVolume(
                id: volume.id, name: volume.name, owner: Self.site(volume.owner),
                phase: Self.phase(volume), claim: ForeignClaim(facts: facts, report: report))
        }
    }

    /// An offer is prepared before the claim that came with it is told of.
    private static func phase(_ volume: Godwit_Control_V1_Volume) -> MigrationResource.Phase? {
        switch volume.role {
        case "following", "acquiring", "receiving", "declining": .ready
        case "owning": volume.released ? .done : .hydrating
        default: nil
        }
    }

    package func report(_ report: ClaimReport, of id: String) async throws(SiteControlError) {
        var request = Godwit_Control_V1_ReportClaimRequest()
        request.volume = id
        request.report.made = report.isMade
        request.report.reason = report.reason
        request.report.message = report.message
        let _: Godwit_Control_V1_Volume = try await call("ReportClaim", request)
    }

    package func takeOver(
        _ id: String, _ order: TakeoverOrder?
    ) async throws(SiteControlError) -> TakeoverAnswer {
        var request = Godwit_Control_V1_TakeOverRequest()
        request.volume = id
        request.force = order != nil
        request.overruledEpoch = order?.epoch ?? 0
        request.base = order?.base ?? ""
        do {
            let bytes: [UInt8] = try request.serializedBytes()
            let reply = try Godwit_Control_V1_TakeOverReply(
                serializedBytes: try await unary("TakeOver", bytes))
            return TakeoverAnswer(
                volume: reply.volume, owner: reply.overruledOwner, overruledEpoch: reply.overruledEpoch,
                epoch: reply.epoch, states: reply.options.map(Self.state), silentSites: reply.silentSites,
                ownerAnswers: reply.ownerAnswers)
        } catch {
            var failure = Self.failure(error)
            // Of anything but a refusal nobody knows how far it came: it is asked again.
            switch (error as? RPCStatus)?.code {
            case .failedPrecondition?, .notFound?, .invalidArgument?: failure.isTransient = false
            default: failure.isTransient = true
            }
            throw failure
        }
    }

    private static func state(_ option: Godwit_Control_V1_TakeOverOption) -> TakeoverResource.State {
        TakeoverResource.State(
            name: option.name, sequence: option.sequence,
            ageSeconds: option.hasAgeSeconds && option.ageSeconds.isFinite
                ? Int64(max(0, min(option.ageSeconds, 1e12))) : nil,
            inodes: Int64(clamping: option.inodeCount), bytes: Int64(clamping: option.totalByteCount),
            missingBytes: Int64(clamping: option.missingByteCount),
            unreachableBytes: option.hasUnreachableByteCount
                ? Int64(clamping: option.unreachableByteCount) : nil,
            unreachableFiles: option.hasUnreachableByteCount
                ? Int64(clamping: option.unreachableFileCount) : nil)
    }

    /// Claims move between sites: which node of one has the volume is that site's affair.
    private static func site(_ owner: String) -> String { SiteID(owner)?.site.description ?? owner }

    private static func facts(_ message: Godwit_Control_V1_ClaimFacts) -> ClaimFacts? {
        try? ClaimFacts(
            namespace: message.namespace, name: message.name, labels: message.labels,
            storageClass: message.storageClass, requested: message.requested, capacity: message.capacity,
            accessModes: message.accessModes, volumeMode: message.volumeMode)
    }

    private static func report(_ message: Godwit_Control_V1_ClaimReport) -> ClaimReport {
        ClaimReport(isMade: message.made, reason: message.reason, message: message.message)
    }

    private static func message(_ facts: ClaimFacts) -> Godwit_Control_V1_ClaimFacts {
        var message = Godwit_Control_V1_ClaimFacts()
        message.namespace = facts.namespace
        message.name = facts.name
        message.labels = facts.labels
        message.storageClass = facts.storageClass
        message.requested = facts.requested
        message.capacity = facts.capacity
        message.accessModes = facts.accessModes
        return message
    }

    package func advance(
        _ id: String, to target: String, claim: ClaimFacts
    ) async throws(SiteControlError) -> MoveProgress {
        var request = Godwit_Control_V1_MigrateRequest()
        request.claim = Self.message(claim)
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
                last = Self.progress(try .init(serializedBytes: message))
            }
        } catch {
            throw Self.failure(error)
        }
        guard let last else {
            throw SiteControlError("the site ended the call without a word", isTransient: true)
        }
        return last
    }

    static func phase(named word: String) -> MigrationResource.Phase {
        switch word {
        case "preparing": .preparing
        case "ready": .ready
        case "handing-over": .handingOver
        case "hydrating": .hydrating
        case "done": .done
        default: .handedOver
        }
    }

    private static func progress(_ message: Godwit_Control_V1_MigrateProgress) -> MoveProgress {
        var progress = MoveProgress(phase: phase(named: message.phase))
        progress.epoch = message.epoch
        progress.totalBytes = message.totalByteCount
        progress.missingBytes = message.missingByteCount
        progress.waitingReason = message.waitingReason
        if message.hasClaim { progress.claim = report(message.claim) }
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
