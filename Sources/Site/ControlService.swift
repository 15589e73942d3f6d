internal import Catalog
internal import ControlProtocol
internal import Handoff
internal import Hydration
internal import PeerProtocol
internal import PeerService
package import RPC
internal import SwiftProtobuf
internal import VolumeModel

/// What the command line on the same host asks of the site, and other nodes of the site of this one.
package struct ControlService: Sendable {
    package static let service = "/godwit.control.v1.Control/"

    private let site: Site
    private let peerEndpoint: String
    /// Whether it is for other nodes, who have found out that it is this one that they mean.
    private let isForMembers: Bool

    package init(site: Site, peerEndpoint: String, isForMembers: Bool = false) {
        self.site = site
        self.peerEndpoint = peerEndpoint
        self.isForMembers = isForMembers
    }

    package func handle(_ call: RPCServerCall) async throws(RPCStatus) {
        guard call.method.hasPrefix(Self.service) else {
            throw RPCStatus(.unimplemented, "no such method: \(call.method)")
        }
        guard let request = try await call.receive() else {
            throw RPCStatus(.invalidArgument, "a request is missing")
        }
        do {
            let method = String(call.method.dropFirst(Self.service.count))
            if isForMembers {
                try await answer(call, method, request)
            } else if method == "TakeOver" {
                try await takeOverAnywhere(call, method, request)
            } else if let member = try await elsewhere(method, request) {
                try await site.pass(call, request, to: member)
            } else {
                try await answer(call, method, request)
            }
        } catch {
            throw SiteStatus.status(of: error)
        }
    }

    /// Whoever has something of the volume and is there: the node that owned it may be what is gone.
    ///
    /// Who was asked is the only one: of a call that was cut off nobody knows whether it overruled the owner, and two nodes
    /// that do so are two owners.
    private func takeOverAnywhere(_ call: RPCServerCall, _ method: String, _ request: [UInt8]) async throws {
        let message = try Godwit_Control_V1_VolumeRequest(serializedBytes: request)
        var failure: (any Error)?
        for member in try await site.candidates(called: message.volume) {
            if member == site.context.site { return try await answer(call, method, request) }
            do {
                let _: Godwit_Control_V1_InfoReply = try await site.ask(
                    member, "Info", Godwit_Control_V1_InfoRequest(), timeout: Site.lookTimeout)
            } catch {
                failure = error
                continue
            }
            return try await site.pass(call, request, to: member)
        }
        throw failure ?? SiteError.unknownVolume(message.volume)
    }

    /// - Returns: the node that is to answer; nil: this one.
    private func elsewhere(_ method: String, _ request: [UInt8]) async throws -> SiteID? {
        switch method {
        case "Info", "CreateVolume", "DeleteVolume", "ListVolumes", "Mount", "Unmount", "MountDivergence",
            "Attach", "Detach", "AttachReader", "DetachReader":
            return nil
        case "DeleteDivergence", "RestoreDivergence", "CompareDivergence":
            let message = try Godwit_Control_V1_DivergenceRequest(serializedBytes: request)
            return try await site.divergenceElsewhere(Epoch(message.epoch), called: message.volume)
        case "GiveUp":
            let message = try Godwit_Control_V1_VolumeRequest(serializedBytes: request)
            return try await site.wisherElsewhere(called: message.volume)
        default:
            // The volume is the first field of all others.
            let message = try Godwit_Control_V1_VolumeRequest(serializedBytes: request)
            return try await site.keeperElsewhere(called: message.volume)
        }
    }

    private func answer(_ call: RPCServerCall, _ method: String, _ request: [UInt8]) async throws {
        switch method {
        case "Info":
            _ = try Godwit_Control_V1_InfoRequest(serializedBytes: request)
            try await call.send(try info().serializedBytes())
        case "CreateVolume":
            let message = try Godwit_Control_V1_CreateVolumeRequest(serializedBytes: request)
            let limits = VolumeLimits(byteCount: message.capacity, inodeCount: message.inodeLimit)
            let hydration = HydrationPolicy(
                isPaused: message.hydrationPaused, rate: message.hydrationBytesPerSecond,
                prefetch: message.hydrationPrefetch)
            let agent = try await site.create(
                name: message.name, limits: limits, parameters: message.parameters, hydration: hydration)
            try await send(agent, to: call)
        case "DeleteVolume":
            if isForMembers {
                try await site.delete(try await agent(request).id)
            } else {
                let message = try Godwit_Control_V1_VolumeRequest(serializedBytes: request)
                try await site.deleteEverywhere(try await site.id(called: message.volume))
            }
            try await call.send(try Godwit_Control_V1_Empty().serializedBytes())
        case "Attach" where isForMembers:
            let message = try Godwit_Control_V1_AttachRequest(serializedBytes: request)
            guard message.attachment.utf8.count <= 128 else {
                throw SiteError.invalid("how a volume is attached has at most 128 bytes")
            }
            let agent = try await agent(request)
            _ = try await agent.attachExclusively(message.attachment)
            try await send(agent, to: call)
        case "Detach" where isForMembers:
            try await agent(request).detachExclusively()
            try await call.send(try Godwit_Control_V1_Empty().serializedBytes())
        case "AttachReader" where isForMembers:
            let message = try Godwit_Control_V1_ReaderRequest(serializedBytes: request)
            let reader = Reader(member: try await site.member(at: message.node), node: message.node)
            let agent = try await agent(request)
            _ = try await agent.admitExclusively(reader)
            try await send(agent, to: call)
        case "DetachReader" where isForMembers:
            let message = try Godwit_Control_V1_ReaderRequest(serializedBytes: request)
            try await agent(request).dismissExclusively(message.node)
            try await call.send(try Godwit_Control_V1_Empty().serializedBytes())
        case "ListVolumes":
            let message = try Godwit_Control_V1_ListVolumesRequest(serializedBytes: request)
            var reply = Godwit_Control_V1_ListVolumesReply()
            reply.volumes = try await volumes(withClaim: message.withClaim)
            reply.volumes.sort { $0.name < $1.name }
            try await call.send(try reply.serializedBytes())
        case "DropCopies":
            let agent = try await agent(request)
            try await agent.dropCopiesExclusively()
            try await send(agent, to: call)
        case "InspectVolume": try await send(try await agent(request), to: call)
        case "Mount":
            let message = try Godwit_Control_V1_MountRequest(serializedBytes: request)
            guard message.path.hasPrefix("/") else { throw SiteError.invalid("a mount's path is absolute") }
            let id = try await site.id(called: message.volume)
            try await site.bring(id, to: site.context.site)
            let agent = try await site.agent(id)
            try await agent.mountExclusively(at: message.path, isReadOnly: message.readOnly)
            try await send(agent, to: call)
        case "Unmount":
            let agent = try await agent(request)
            try await agent.unmountExclusively()
            try await send(agent, to: call)
        case "CheckVolume":
            let message = try Godwit_Control_V1_CheckRequest(serializedBytes: request)
            let reply = try await site.agent(called: message.volume)
                .check(scrubs: message.scrub, accepts: message.acceptDamage, repairs: message.repair)
            try await call.send(reply.serializedBytes())
        case "ExpandVolume":
            let message = try Godwit_Control_V1_ExpandVolumeRequest(serializedBytes: request)
            let agent = try await site.agent(called: message.volume)
            var limits = await agent.record.limits
            if message.hasCapacity { limits.byteCount = message.capacity }
            if message.hasInodeLimit { limits.inodeCount = message.inodeLimit }
            try await agent.expand(to: limits)
            try await send(agent, to: call)
        case "SetHydration":
            let message = try Godwit_Control_V1_SetHydrationRequest(serializedBytes: request)
            let agent = try await site.agent(called: message.volume)
            var policy = await agent.record.hydration
            try policy.take(message)
            try await agent.setHydration(policy)
            try await send(agent, to: call)
        case "TakeOver":
            let reply = try await takeOver(try .init(serializedBytes: request))
            try await call.send(try reply.serializedBytes())
        case "GiveUp":
            let agent = try await agent(request)
            try await agent.giveUp()
            try await send(agent, to: call)
        case "MountDivergence":
            let (agent, epoch, path) = try await divergence(request)
            guard path.hasPrefix("/") else { throw SiteError.invalid("a mount's path is absolute") }
            try await agent.mountDivergence(epoch, at: path)
            try await call.send(try Godwit_Control_V1_Empty().serializedBytes())
        case "DeleteDivergence":
            let (agent, epoch, _) = try await divergence(request)
            try await agent.deleteDivergence(epoch)
            try await call.send(try Godwit_Control_V1_Empty().serializedBytes())
        case "RestoreDivergence":
            let message = try Godwit_Control_V1_DivergenceRequest(serializedBytes: request)
            let (agent, epoch, _) = try await divergence(request)
            try await send(try await site.restore(epoch, of: agent, as: message.name), to: call)
        case "Revoke":
            let message = try Godwit_Control_V1_RevokeRequest(serializedBytes: request)
            guard let peer = SiteID(site: message.site) else {
                throw SiteError.invalid("'\(message.site)' is no name of a site")
            }
            let agent = try await site.agent(called: message.volume)
            try await agent.revoke(peer)
            try await send(agent, to: call)
        case "CompareDivergence":
            let (agent, epoch, _) = try await divergence(request)
            try await agent.compareDivergence(epoch) { difference in
                try await call.send(try difference.serializedBytes())
            }
        case "Migrate": try await migrate(call, try .init(serializedBytes: request))
        case "Withdraw":
            let message = try Godwit_Control_V1_WithdrawRequest(serializedBytes: request)
            guard let peer = SiteID(site: message.from) else {
                throw SiteError.invalid("'\(message.from)' is no name of a site")
            }
            try await site.agent(called: message.volume).takeBackOffer(to: peer)
            try await call.send(try Godwit_Control_V1_Empty().serializedBytes())
        case "ReportClaim":
            let message = try Godwit_Control_V1_ReportClaimRequest(serializedBytes: request)
            let agent = try await site.agent(called: message.volume)
            try await agent.report(ClaimCoding.report(message.report))
            try await send(agent, to: call)
        default: throw RPCStatus(.unimplemented, "no such method: \(call.method)")
        }
    }

    private func agent(_ request: [UInt8]) async throws -> VolumeAgent {
        let message = try Godwit_Control_V1_VolumeRequest(serializedBytes: request)
        return try await site.agent(called: message.volume)
    }

    private func divergence(_ request: [UInt8]) async throws -> (VolumeAgent, Epoch, path: String) {
        let message = try Godwit_Control_V1_DivergenceRequest(serializedBytes: request)
        return (try await site.agent(called: message.volume), Epoch(message.epoch), message.path)
    }

    private func takeOver(
        _ request: Godwit_Control_V1_TakeOverRequest
    ) async throws -> Godwit_Control_V1_TakeOverReply {
        let agent = try await site.agent(called: request.volume)
        if request.force, let epoch = await agent.reignOverruling(Epoch(request.overruledEpoch)) {
            var reply = Godwit_Control_V1_TakeOverReply()
            reply.volume = await agent.record.name
            reply.overruledEpoch = request.overruledEpoch
            reply.epoch = epoch.number
            return reply
        }
        // Of the present state, and told also when it was done: with which of them it began.
        var reply = try await agent.describeTakeover(asksOthers: !request.force)
        guard request.force else { return reply }
        let options = try await agent.takeoverOptions()
        guard
            let option = request.base.isEmpty
                ? options.first : options.first(where: { $0.name == request.base })
        else {
            throw SiteError.precondition(
                request.base.isEmpty
                    ? "nothing of volume '\(request.volume)' is here that a takeover could begin with"
                    : "there is no state '\(request.base)' of volume '\(request.volume)' here")
        }
        // To its end, whether or not who asked for it still waits.
        let work = Task {
            try await agent.overruleExclusively(Epoch(request.overruledEpoch), with: option.base)
        }
        try await work.value
        reply.epoch = await agent.summary().reign(at: site.context.site).epoch.number
        return reply
    }

    private func send(_ agent: VolumeAgent, to call: RPCServerCall) async throws {
        try await call.send(try site.message(await agent.summary()).serializedBytes())
    }

    /// For people those of all nodes; another node asks for those that this one has something of.
    private func volumes(withClaim: Bool) async throws -> [Godwit_Control_V1_Volume] {
        guard isForMembers else { return try await site.everyVolume(withClaim: withClaim).map(\.message) }
        var all: [Godwit_Control_V1_Volume] = []
        for agent in await site.allAgents() {
            if withClaim, await agent.record.claim == nil { continue }
            all.append(site.message(await agent.summary()))
        }
        return all
    }

    private func info() throws -> Godwit_Control_V1_InfoReply {
        var reply = Godwit_Control_V1_InfoReply()
        reply.site = site.context.site.site.description
        reply.node = site.context.node
        reply.freeByteCount = try site.context.state.freeBytes()
        reply.release = Release.current
        reply.peerEndpoint = peerEndpoint
        reply.peers = try site.context.identity.peers().map(\.site.description)
        return reply
    }

    private func migrate(_ call: RPCServerCall, _ request: Godwit_Control_V1_MigrateRequest) async throws {
        guard let target = SiteID(request.to) else {
            throw SiteError.invalid("'\(request.to)' is no name of a site")
        }
        let agent = try await site.agent(called: request.volume)
        let migration = Migration(agent: agent, target: target, request: request)
        try await migration.run { progress in
            try await call.send(try progress.serializedBytes())
        }
    }
}

/// The one table from a site's errors to what callers are told.
package enum SiteStatus {
    package static func status(of error: any Error) -> RPCStatus {
        switch error {
        case let error as RPCStatus: error
        case let error as PeerError: error.status
        case let error as SiteError: status(of: error)
        case let error as HandoffError: RPCStatus(.failedPrecondition, error.description)
        case let error as RegistryError: status(of: error)
        case CatalogError.unknownPosition: RPCStatus(.outOfRange, "\(error)")
        case is BinaryDecodingError: RPCStatus(.invalidArgument, "the request is no message of this call")
        case is CancellationError: RPCStatus(.cancelled, "cancelled")
        default: RPCStatus(.internalError, "\(error)")
        }
    }

    private static func status(of error: SiteError) -> RPCStatus {
        let code: RPCCode =
            switch error {
            case .unknownVolume, .unknownNode: .notFound
            case .nameTaken, .attachedOtherwise: .alreadyExists
            case .invalid: .invalidArgument
            case .precondition: .failedPrecondition
            case .busy: .aborted
            case .exhausted: .resourceExhausted
            case .unavailable: .unavailable
            case .unusable, .system: .internalError
            }
        return RPCStatus(code, error.description)
    }

    private static func status(of error: RegistryError) -> RPCStatus {
        let code: RPCCode =
            switch error {
            case .conflict: .aborted
            case .nameTaken: .alreadyExists
            case .notFound: .notFound
            case .store, .malformed: .internalError
            }
        return RPCStatus(code, error.description)
    }
}
