internal import Catalog
internal import ControlProtocol
internal import Foundation
internal import FuseMount
internal import Glibc
internal import Handoff
internal import Hydration
internal import PeerProtocol
internal import PeerService
internal import VolumeFileSystem
internal import VolumeModel

/// Takeover by force, and what an overruled owner keeps.
extension VolumeAgent {
    /// A state that is here and with which a takeover by force could begin.
    struct TakeoverOption {
        let base: TakeoverBase
        /// `followed`, `kept`, or `own`: what this site itself had before its state went back in time.
        let name: String
        let headNumber: UInt64
        /// Of the sequence numbers of the one who wrote it.
        let sequence: SequenceNumber
        /// Seconds since the owner was last known to be there: since it was followed, or given the volume; nil: unknown.
        let age: Double?
    }

    /// The reign that a takeover by force would overrule; nil when this site owns the volume, and nobody says otherwise.
    var overrulable: Reign? {
        switch record.head.role {
        case .sealed(_, let grant), .reclaiming(_, let grant): grant.heir
        // One of this site's own, perhaps, of which only others know.
        case .fenced(_, let by, nil): Reign(context.site, by)
        // With whoever contradicts it.
        case .owning(let epoch, _): contestText.map { _ in Reign(context.site, epoch) }
        case .sealing, .fenced: nil
        default: record.head.knownReign
        }
    }

    /// The epoch under which this site owns the volume, where a takeover by force came after the epoch that is to be
    /// overruled: the same order again finds it carried out.
    func reignOverruling(_ epoch: Epoch) -> Epoch? {
        guard case .owning(let own, _) = record.head.role, epoch >= .first, own.line > epoch.line else {
            return nil
        }
        return own
    }

    /// The states that are here, the newest first.
    func takeoverOptions() throws -> [TakeoverOption] {
        var options: [TakeoverOption] = []
        if !record.head.hasOwnHead, let owner = overrulable?.owner,
            let sequence = try followedSequence(of: owner), sequence > .zero,
            // Of a head whose names have not all come the rest would be nowhere.
            try !openHead(record.headNumber).storage.catalog.isArriving
        {
            let age = lastFollowed.map { seconds(ContinuousClock.now - $0) }
            options.append(
                TakeoverOption(
                    base: .followed(through: sequence), name: "followed", headNumber: record.headNumber,
                    sequence: sequence, age: age ?? logAge(record.headNumber)))
        }
        if overrulable?.owner == context.site {
            let sequence = try openHead(record.headNumber).storage.catalog.lastSequence
            options.append(
                TakeoverOption(
                    base: .kept(headReign: record.head.headReign), name: "own", headNumber: record.headNumber,
                    sequence: sequence, age: logAge(record.headNumber)))
        }
        let grants: [(grant: Grant, headReign: Epoch)] =
            switch record.head.role {
            case .sealed(_, let grant), .reclaiming(_, let grant): [(grant, record.head.headReign)]
            case .owning, .sealing, .fenced: []
            default:
                record.head.retentions.filter { !$0.mayHaveChanged }.map { ($0.grant, $0.headReign) }
            }
        if let (grant, reign) = grants.max(by: { $0.grant.heir.epoch < $1.grant.heir.epoch }),
            let number = record.retainedHeads[grant.heir.epoch]
        {
            options.append(
                TakeoverOption(
                    base: .kept(headReign: reign), name: "kept", headNumber: number,
                    sequence: grant.finalSequence, age: sealAge(number, grant.heir.epoch)))
        }
        return options
    }

    /// When the catalog last took a change, as far as the disk tells.
    private func logAge(_ number: UInt64) -> Double? {
        var status = stat()
        guard stat(context.state.head(number, of: id) + "/catalog.db-wal", &status) == 0 else { return nil }
        return max(0, Double(time(nil) - status.st_mtim.tv_sec))
    }

    /// How long ago a head was sealed; nil: that was not noted, or the clock was set back since.
    private func sealAge(_ number: UInt64, _ heir: Epoch) -> Double? {
        guard let catalog = try? openHead(number).storage.catalog,
            let sealed = try? catalog.perform({ try $0.sealTime(for: heir) }),
            case let age = Double(time(nil)) - Double(sealed), age >= 0
        else { return nil }
        return age
    }

    private func seconds(_ duration: Duration) -> Double { Double(duration.components.seconds) }

    /// How long others are asked for what is missing in one of the states that are here.
    private static let askingLimit: Duration = .seconds(8)

    /// Tells what a takeover would overrule, begin with and lack.
    ///
    /// - Parameter asksOthers: whether other sites are to say what they have of what is missing here.
    func describeTakeover(asksOthers: Bool) async throws -> Godwit_Control_V1_TakeOverReply {
        guard let overruled = overrulable else {
            if case .fenced(let epoch, let by, _) = record.head.role {
                throw HandoffError.overruled(under: epoch, by: by)
            }
            throw SiteError.precondition("volume '\(record.name)' is owned here: there is nobody to overrule")
        }
        var reply = Godwit_Control_V1_TakeOverReply()
        reply.volume = record.name
        // Of whom it was overruled is not known, but for that it may have been this site itself.
        reply.overruledOwner = record.head.role.isFenced ? "" : overruled.owner.description
        reply.overruledEpoch = overruled.epoch.number
        let context = self.context
        async let answers = asksOthers ? Self.isAnswering(overruled.owner, context) : false
        var silent: Set<SiteID> = []
        for option in try takeoverOptions() {
            var message = Godwit_Control_V1_TakeOverOption()
            message.name = option.name
            message.sequence = option.sequence.number
            if let age = option.age { message.ageSeconds = age }
            let catalog = try openHead(option.headNumber).storage.catalog
            let counts = try catalog.perform { ($0.counters, $0.missingByteCount) }
            message.inodeCount = counts.0.inodeCount
            message.totalByteCount = counts.0.byteCount
            message.missingByteCount = counts.1
            if asksOthers,
                let lack = try await lack(
                    ofHead: option.headNumber, keptBy: keeper(of: option.base, overruled),
                    until: .now + Self.askingLimit, silent: &silent)
            {
                message.unreachableByteCount = lack.byteCount
                message.unreachableFileCount = lack.fileCount
            }
            reply.options.append(message)
        }
        reply.silentSites = silent.map(\.description).sorted()
        // One that is behind what is here is no better way.
        reply.ownerAnswers = await answers && newerReplica == nil
        return reply
    }

    private static func isAnswering(_ owner: SiteID, _ context: SiteContext) async -> Bool {
        (try? await context.client(of: owner).hello(timeout: .seconds(3))) != nil
    }

    /// Who would give what is missing in a state, once a takeover has begun with it.
    private func keeper(of base: TakeoverBase, _ overruled: Reign) -> Keeper? {
        switch base {
        case .followed(let sequence):
            Keeper(site: overruled.owner, reign: overruled.epoch, through: sequence)
        case .kept(let reign):
            record.head.source(ofHead: reign).map { Keeper(site: $0.site, reign: $0.reign) }
        }
    }

    /// Owns the volume without the seal of its owner. It is carried out when its record is durable, at once or not at all:
    /// nobody has to be asked. What then cannot be done yet, as where the disk is full, is tried again from time to time.
    ///
    /// - Throws: `.precondition` with what the machine says when it is not the owner that is overruled.
    func overruleExclusively(_ epoch: Epoch, with base: TakeoverBase) async throws {
        try await exclusively { try await $0.overrule(epoch, with: base) }
    }

    private func overrule(_ epoch: Epoch, with base: TakeoverBase) async throws {
        try checkServed()
        let before = record
        guard
            let wanted = Epoch.takeover(
                after: max(epoch, record.head.spent), salt: UInt32.random(in: 0...0xff_ffff))
        else { throw SiteError.precondition("no epoch is left above \(epoch)") }
        var isServable = true
        do {
            try await apply(.overrule(epoch, wanted: wanted, base: base))
        } catch {
            // Who is overruled may have heard of it.
            guard case .owning(wanted, _) = record.head.role else { throw error }
            logger.error("taken over by force, and not served yet: \(error)")
            isServable = false
        }
        logger.warning(
            "taken over by force: epoch \(epoch) is overruled by \(wanted)", metadata: ["base": "\(base)"])
        announceTakeover()
        // A replica that was not begun with is of no use any more, if what was begun with is good.
        let old = before.headNumber
        guard isServable, old != 0, old != record.headNumber, !record.keptNumbers.contains(old) else {
            return
        }
        do {
            try await deleteHead(old)
        } catch {
            logger.warning("a replica that is of no use any more stays until the next start: \(error)")
        }
    }

    /// Whoever took over by force says so to everybody who may know the volume, from time to time.
    func announceTakeover() {
        guard record.head.mayBeUnheardOf, let reign = record.head.knownReign,
            lastTakeoverAnnouncement.map({ ContinuousClock.now - $0 > .seconds(10) }) ?? true
        else { return }
        lastTakeoverAnnouncement = .now
        let own = context.site
        // Its nodes, each for itself.
        for site in record.sharedWith.union(own.node == nil ? [] : [own.site]) {
            Task {
                do {
                    for member in try await self.context.locate(self.id, at: site, isExact: true).holders
                    where member != own {
                        guard
                            let (_, message) = HandoffCoding.message(
                                of: .announce(reign, to: member), volume: self.id)
                        else { continue }
                        try await self.send(message, to: member)
                    }
                } catch {
                    self.logger.debug("\(site) will hear of the takeover later: \(error)")
                }
            }
        }
    }

    // MARK: divergences

    private func divergentHead(_ epoch: Epoch) throws -> OpenHead {
        guard let number = record.divergentHeads[epoch] else {
            throw SiteError.precondition(
                "volume '\(record.name)' keeps nothing that was written here at epoch \(epoch)")
        }
        return try openHead(number)
    }

    /// Mounts what an overruled owner had written, read-only.
    func mountDivergence(_ epoch: Epoch, at path: String) async throws {
        guard divergenceMounts[path] == nil else { return }
        guard mounts[path] == nil else {
            throw SiteError.precondition("\(path) is mounted already")
        }
        try makeRoomForMount(at: path)
        try await startHydrationIfNeeded()
        let head = try divergentHead(epoch)
        let logger = self.logger
        let fileSystem = VolumeFileSystem(
            storage: head.storage, hydrator: head.hydrator, access: .readOnly, recorder: nil
        ) { line in
            logger.error("divergence \(epoch): \(line)")
        }
        var options = FuseMountOptions()
        options.fsName = mountSource
        options.isReadOnly = true
        let fuse = try FuseMount(fileSystem: fileSystem, at: path, options: options)
        divergenceMounts[path] = DivergenceMount(fuse: fuse, device: try await device(of: fuse))
        Task { [weak self] in
            await fuse.waitUntilUnmounted()
            await self?.noteDivergenceUnmounted(path, fuse)
        }
        logger.info("what was written at epoch \(epoch) is mounted at \(path)")
        if head.storage.catalog.isArriving {
            logger.notice(
                """
                not all names of it are here yet: reading a directory waits for them, and fails with EIO where its \
                site cannot be reached
                """)
        }
    }

    private func noteDivergenceUnmounted(_ path: String, _ fuse: FuseMount) {
        if divergenceMounts[path]?.fuse === fuse { divergenceMounts[path] = nil }
    }

    /// Copies what an overruled owner had written into an empty head.
    ///
    /// - Throws: `.precondition` when some of it is at another site.
    func copyDivergence(_ epoch: Epoch, to directory: String) async throws {
        let storage = try divergentHead(epoch).storage
        do {
            try await onBlockingThread { try storage.copy(to: directory) }
        } catch HydrationError.storage(let reason) {
            throw SiteError.precondition(
                "the divergence of volume '\(record.name)' at epoch \(epoch): \(reason)")
        }
    }

    /// Deletes what an overruled owner had written. For good.
    func deleteDivergence(_ epoch: Epoch) async throws {
        guard divergenceMounts.isEmpty else {
            throw SiteError.precondition(
                "a divergence of volume '\(record.name)' is mounted: unmount it first")
        }
        _ = try divergentHead(epoch)
        try await apply(.forgetDivergence(epoch))
        try await discardUnneeded()
        logger.notice("what was written at epoch \(epoch) is deleted")
    }
}

extension VolumeRecord {
    /// The directory of a head that began under a reign of this site; nil: there is none.
    func headNumber(of reign: Epoch) -> UInt64? {
        if head.hasOwnHead, head.headReign == reign { return headNumber }
        if let kept = head.retentions.first(where: { $0.headReign == reign }) {
            return retainedHeads[kept.grant.heir.epoch]
        }
        return head.divergences.first { $0.headReign == reign }.flatMap { divergentHeads[$0.epoch] }
    }
}

extension VolumeAgent {
    /// Tells what differs between a divergence and the volume as it is known here.
    func compareDivergence(
        _ epoch: Epoch, _ report: @Sendable (Godwit_Control_V1_Difference) async throws -> Void
    ) async throws {
        try await startHydrationIfNeeded()
        let divergence = try divergentHead(epoch).storage.catalog
        guard record.headNumber != 0, record.divergentHeads[epoch] != record.headNumber else {
            throw SiteError.precondition(
                "nothing of volume '\(record.name)' as it is now is here: have its owner prepare it here, "
                    + "with 'godwit migrate --prepare-only', or mount both and compare them")
        }
        let present = try openHead(record.headNumber).storage.catalog
        do {
            try await CatalogComparison.run(divergence, present) { kind, path in
                var difference = Godwit_Control_V1_Difference()
                difference.kind = kind.rawValue
                difference.path = Data(path)
                try await report(difference)
            }
        } catch CatalogError.missingDirectory {
            let what = divergence.isArriving ? "what was written here at epoch \(epoch)" : "the volume"
            throw SiteError.precondition(
                "not all names of \(what) are here yet: they come as long as the site that has them can be reached; "
                    + "try again")
        }
    }
}
