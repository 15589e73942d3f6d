internal import Catalog
internal import Glibc
internal import Handoff
internal import Hydration
internal import Logging
internal import PeerService
internal import VolumeFileSystem
internal import VolumeModel

/// The heads of a volume: opening, owning, sealing, hydrating, discarding.
extension VolumeAgent {
    /// Opens a head's storage, once.
    func openHead(_ number: UInt64) throws -> OpenHead {
        if let open = heads[number] {
            open.noteUse()
            return open
        }
        guard !isClosed else { throw SiteError.unknownVolume(record.name) }
        guard number != 0 else { throw SiteError.precondition("volume '\(record.name)' has no bytes here") }
        guard copyOpenings[number] == nil else {
            throw SiteError.busy("a copy of volume '\(record.name)' is just being opened")
        }
        endingHeads[number]?.wait()
        let storage = try HeadStorage(
            opening: context.state.head(number, of: id), keepsOrphans: number == headWithOpenFiles,
            memory: context.memory)
        return note(storage, of: number)
    }

    /// A head's storage is open.
    func note(_ storage: HeadStorage, of number: UInt64) -> OpenHead {
        if resting?.number == number { resting = nil }
        let copies = context.copies
        storage.makeRoom { copies.makeRoom($0) }
        storage.whenDamageIsFound { [weak self] in Task { await self?.learnDamage(number) } }
        let head = OpenHead(number: number, storage: storage, logger: logger)
        heads[number] = head
        storages.note(storage, of: number)
        // What kept it from being opened before is over.
        if damage[number] != nil { Task { [weak self] in await self?.learnDamage(number) } }
        return head
    }

    // MARK: owning

    /// Writes may begin under an epoch: the epoch's mark goes into the data, hydration starts.
    func serve(_ epoch: Epoch) async throws {
        (confirmedGrant, firstListing) = (nil, nil)
        try await endReading()
        let head = try openHead(record.headNumber)
        let catalog = head.storage.catalog
        try checkRecord()
        if try catalog.perform({ try $0.epoch() }) < epoch {
            // By force: the owner that is overruled may have gone back in time.
            let isClaimed = record.head.origin?.claim != nil
            try catalog.perform { try $0.setEpoch(epoch, keepsBeginning: isClaimed) }
            try await onBlockingThread { try catalog.synchronize() }
        }
        try await agreeOnLimits(catalog)
        try await startHydrationIfNeeded()
        servedEpoch = epoch
    }

    /// Holds the record against the epochs that are kept with the data. One from an older backup knows less: of a
    /// reign that began here since, or of one that the head was sealed for.
    func checkRecord() throws {
        try checkServed()
        guard record.headNumber != 0, var recorded = record.head.knownReign?.epoch else { return }
        // A site that went back in time may have raised its epoch above the reign by which it was overruled.
        if case .fenced(let own, _, _) = record.head.role { recorded = max(recorded, own) }
        for (epoch, number) in record.divergentHeads where number == record.headNumber {
            recorded = max(recorded, epoch)
        }
        let catalog = try openHead(record.headNumber).storage.catalog
        var (seen, sealed) = try catalog.perform { (try $0.epoch(), try $0.sealedFor()) }
        // Who goes on after a grant that came to nothing does so above it.
        if case .owning = record.head.role, let sealed { seen = max(seen, sealed.heir) }
        guard seen <= recorded else {
            throw SiteError.unusable(
                "the data of volume '\(record.name)' is of epoch \(seen), the registry says \(recorded): "
                    + "the registry is older than the data; restore a newer one")
        }
    }

    /// - Throws: `.unusable` while something is in the way of serving the volume.
    func checkServed() throws(SiteError) { if let obstacle { throw .unusable(obstacle) } }

    /// Finds out whether the volume can be served, and shows people what is in the way. Nothing is changed but that.
    func lookAtRecord() async {
        let before = obstacle
        obstacle = nil
        do {
            guard record.headNumber == 0 || context.state.heads(of: id).contains(record.headNumber) else {
                throw SiteError.unusable(
                    "head \(record.headNumber) of volume '\(record.name)', which the registry names, is not here: "
                        + "the registry is older than the data, or the data is lost; restore a newer one")
            }
            try checkRecord()
        } catch SiteError.unusable(let reason) {
            obstacle = reason
        } catch {
            // A head that cannot be opened says so to whoever wants it.
            logger.error("\(error)")
        }
        if let obstacle, obstacle != before { logger.error("not served: \(obstacle)") }
        await showObstacle()
    }

    /// Shows people what is in the way of serving the volume, or that nothing is.
    func showObstacle() async {
        do {
            try await context.registry.show(obstacle, of: record)
            isObstacleShown = true
        } catch {
            isObstacleShown = false
            logger.notice("what is in the way cannot be shown: \(error)")
        }
    }

    /// The larger is the newer, whether it came with the head from its last owner or from the
    /// record of an expansion that a crash cut off.
    private func agreeOnLimits(_ catalog: Catalog) async throws {
        let (own, theirs) = (record.limits, try catalog.perform { $0.limits })
        let agreed = own.agreed(with: theirs)
        if agreed != own { try await change { $0.limits = agreed } }
        guard agreed != theirs else { return }
        try catalog.perform { try $0.setLimits(agreed) }
        try await onBlockingThread { try catalog.synchronize() }
    }

    /// Lets the volume hold more. Repeated it is a success; less than now is refused.
    func expand(to limits: VolumeLimits) async throws {
        guard case .owning = record.head.role else {
            throw SiteError.precondition("volume '\(record.name)' is not owned here: expand it at its owner")
        }
        guard limits.isCountable else { throw SiteError.invalid(VolumeLimits.rule) }
        func shrinks(_ new: UInt64, _ old: UInt64) -> Bool { new != 0 && (old == 0 || new < old) }
        guard !shrinks(limits.byteCount, record.capacity) else {
            throw SiteError.invalid(
                "volume '\(record.name)' has \(record.capacity) bytes and cannot be made smaller")
        }
        guard !shrinks(limits.inodeCount, record.limits.inodeCount) else {
            let present = record.limits.inodeCount == 0 ? "any number of" : "\(record.limits.inodeCount)"
            throw SiteError.invalid(
                "volume '\(record.name)' may hold \(present) inodes, and this cannot be made less")
        }
        // Should the catalog not take them now, serving begins anew, which brings them there.
        servedEpoch = nil
        try await change { $0.limits = limits }
        try await agreeOnLimits(try openHead(record.headNumber).storage.catalog)
    }

    /// Starts fetching what our heads lack, each from the source of its own reign: the present one, and those
    /// that are kept for heirs. A replica has none; another head's bytes are not its bytes.
    func startHydrationIfNeeded() async throws {
        if let source = record.head.origin { try hydrate(record.headNumber, from: source) }
        for retention in record.head.retentions {
            guard let source = record.head.source(ofHead: retention.headReign),
                let number = record.retainedHeads[retention.grant.heir.epoch]
            else { continue }
            try hydrate(number, from: source)
        }
        for divergence in record.head.divergences {
            guard let source = record.head.source(ofHead: divergence.headReign),
                let number = record.divergentHeads[divergence.epoch]
            else { continue }
            try hydrate(number, from: source)
        }
    }

    private func hydrate(_ number: UInt64, from source: Source) throws {
        let head = try openHead(number)
        guard head.hydrator == nil else { return }
        let context = self.context
        let storage = head.storage
        ahead.pass?.cancel()
        let early = number == record.headNumber ? earlyBytes() : nil
        let origin = PeerSource(site: source.site, volume: id, reign: source.reign, early: early) {
            try context.client(of: source.site)
        } seen: {
            try SeenFiles($0, of: storage)
        }
        let (catalog, logger) = (head.storage.catalog, self.logger)
        let returning: ReturningSource? =
            earlierHeads(than: source, besides: number).isEmpty
            ? nil
            : ReturningSource(peer: origin) {
                logger.info("\($0)")
            } openCopy: { [weak self] in
                await self?.ownCopy(for: source, besides: number)
            }
        let bytes = FormerKeepers(
            behind: returning ?? origin, of: catalog, at: context.site
        ) {
            logger.notice("\($0)")
        } keeper: { [id] state, extents, urgency, timeout in
            try await context.client(of: state.keeper).read(
                extents, of: id, reign: state.heir, state: state.name, urgency: urgency, timeout: timeout)
        }
        head.startHydration(
            from: bytes, directories: origin, configuration: context.hydration, policy: record.hydration
        ) { line in
            logger.warning("\(line)")
        } alongside: {
            await Self.takeEarlierReigns(catalog, source, of: origin, at: context.site, logger)
        } whenComplete: { [weak self] in
            try? await onBlockingThread { try catalog.forgetBeginning() }
            await self?.noteFlattened(source.reign)
        }
    }

    /// The source is released later by so much at most.
    private static let earlierReignsLimit: Duration = .seconds(60)

    /// Takes from the source what changed before this head's reign, for sites that kept an older state (without it they
    /// compare by hash) and for finding what the source cannot give. While bytes come it is asked again for what it did not
    /// tell.
    private static func takeEarlierReigns(
        _ catalog: Catalog, _ source: Source, of origin: PeerSource, at site: SiteID, _ logger: Logger
    ) async {
        var pause = 1
        var keepers: Set<SiteID> = [site]
        while true {
            let deadline = ContinuousClock.now + earlierReignsLimit
            do {
                try await catalog.takeEarlierReigns(before: source.reign, of: source.site) { heir, after in
                    try await origin.changes(
                        inReignBefore: heir, after: after, timeout: max(.zero, deadline - ContinuousClock.now)
                    )
                }
            } catch {
                logger.debug("what changed before epoch \(source.reign) is not known here: \(error)")
            }
            let states = (try? catalog.perform { $0.formerStates }) ?? []
            for keeper in states.map(\.keeper) where keepers.insert(keeper).inserted {
                logger.info("what has not changed since can be had of site \(keeper) as well")
            }
            for _ in 0..<pause {
                guard (try? catalog.lacksNames()) == true,
                    (try? catalog.perform { $0.missingByteCount > 0 || $0.isArriving }) == true,
                    (try? await Task.sleep(for: .seconds(1))) != nil
                else { return }
            }
            pause = min(pause * 2, 60)
        }
    }

    /// Pauses or slows what is fetched in the background, from now on and after restarts.
    func setHydration(_ policy: HydrationPolicy) async throws {
        try await change { $0.hydration = policy }
        for head in heads.values { head.hydrator?.follow(policy) }
    }

    private func noteFlattened(_ reign: Epoch) async {
        logger.info("every byte of the head of epoch \(reign) is here")
        do {
            // The present state is all here: no older one is of any use.
            if record.head.hasOwnHead, reign == record.head.headReign { await dropObsoleteCopies() }
            // Of files whose bytes were still arriving nothing was dropped from caches.
            for number in damage.keys { await learnDamage(number) }
            try await apply(.flattened(reign: reign))
        } catch {
            logger.debug("the source will be told later: \(error)")
        }
    }

    // MARK: sealing

    /// The last sequence number of a head that nobody can write to any more.
    ///
    /// What the heir is about to see is pinned: should this head ever go on by force, what changes then can be told.
    func readTail(for heir: Reign) async throws -> SequenceNumber {
        try await stopServing(through: heir.epoch)
        guard mounts.isEmpty else {
            throw SiteError.precondition("volume '\(record.name)' is still mounted here")
        }
        let storage = try openHead(record.headNumber).storage
        // This makes durable all that has changed as well.
        return try await onBlockingThread {
            try storage.catalog.pin(
                Self.pinName(of: heir.epoch), sealedFor: heir.epoch, at: Int64(time(nil)))
        }
    }

    /// The pin of what was granted to a reign; a follower's has the name of its site.
    private static func pinName(of heir: Epoch) -> String { "\(pinPrefix)\(heir.number)" }
    private static let pinPrefix = "heir at epoch "

    /// Forgets what was granted to reigns that need it no longer.
    private func dropUnneededPins() async throws {
        guard record.head.hasOwnHead, let head = try? openHead(record.headNumber) else { return }
        let needed = Set(record.head.keptReigns.map { Self.pinName(of: $0) })
        let catalog = head.storage.catalog
        if record.head.origin == nil { try await onBlockingThread { try catalog.forgetBeginning() } }
        let pins = try catalog.perform { try $0.pinNames() }
            .filter { $0.hasPrefix(Self.pinPrefix) && !needed.contains($0) }
        guard !pins.isEmpty else { return }
        try await onBlockingThread { for name in pins { try catalog.unpin(name) } }
    }

    /// The reign is over, and those before it: whoever still has one mounted gets ESTALE. Not who reads another node's head,
    /// which ends otherwise (`endReading`).
    ///
    /// Waits for the changes that are being made, and these perhaps for a disk.
    func stopServing(through epoch: Epoch) async throws {
        let ended = mounts.values.filter { !$0.isBorrowed && $0.epoch <= epoch }
        guard !ended.isEmpty else { return }
        try await onBlockingThread {
            for mount in ended where mount.fileSystem.fence() { mount.fuse.invalidateAll() }
        }
    }

    /// How long a volume's hand-off waits for what it has accepted: other volumes' are behind it.
    private static let settlingPatience: Duration = .seconds(10)

    /// Makes durable what was accepted until the volume was overruled, for nobody can sync it any more. What the disk refuses
    /// is tried again, as for any head that is open; what takes long goes on behind.
    func settleOverruled() async {
        guard record.head.hasOwnHead, record.headNumber != 0 else { return }
        let storage: HeadStorage
        do {
            storage = try openHead(record.headNumber).storage
        } catch {
            logger.error("what was written until the volume was overruled cannot be opened: \(error)")
            return
        }
        let end = Interruption()
        Task {
            do {
                try await onBlockingThread { try storage.settle() }
            } catch {
                logger.error(
                    "what was written until the volume was overruled is not all durable yet: \(error)")
            }
            end.set(true)
        }
        let deadline = ContinuousClock.now + Self.settlingPatience
        while !end.isSet, ContinuousClock.now < deadline { try? await Task.sleep(for: .milliseconds(10)) }
    }

    // MARK: keeping for heirs

    /// The head that is kept for a reign of another site; or the present one, for a node of this site that is to read it
    /// under its epoch.
    ///
    /// - Parameter files: as the site has them, for a head that may have gone back in time.
    func reader(for reign: Epoch, of site: SiteID, seen files: SeenFiles? = nil) throws -> HeadReader {
        if record.head.mayRead(site, under: reign) {
            try checkServed()
            let head = try openHead(record.headNumber)
            return HeadReader(storage: head.storage, hydrator: head.hydrator)
        }
        guard record.head.isKeepingBytes(for: Reign(site, reign)), let number = record.retainedHeads[reign]
        else {
            throw PeerError.refused(
                "no bytes of volume \(id) are kept here for site \(site) at epoch \(reign)")
        }
        let head = try openHead(number)
        let heir = Reign(site, reign)
        guard let kept = record.head.retentions.first(where: { $0.grant.heir == heir }), kept.mayHaveChanged
        else { return HeadReader(storage: head.storage, hydrator: head.hydrator) }
        let seen = kept.grant.finalSequence
        let isKnown = try head.storage.catalog.perform { state in
            try state.isPinned(for: Self.pinName(of: reign), at: seen)
                || state.isPinned(for: site.description, at: seen)
        }
        if isKnown {
            return HeadReader(storage: head.storage, hydrator: head.hydrator, seen: .through(seen))
        }
        guard let files, try head.storage.catalog.headName() == files.head else { throw notKnownSince(site) }
        return HeadReader(storage: head.storage, hydrator: head.hydrator, seen: .files(files))
    }

    func notKnownSince(_ site: SiteID) -> PeerError {
        .refused("volume \(id): it is not known any more what has changed since site \(site) looked")
    }

    /// The head that is kept for a reign of another site, or that was and is a copy now, if it still is the state of this
    /// name; nil: there is none. Where a crash, or a disk that refused bytes, may have left others than the heir was given,
    /// these are mixed with none of the heir's.
    func reader(grantedTo heir: Epoch, named name: StateName) async throws -> HeadReader? {
        guard obstacle == nil else { return nil }
        guard record.head.keptReigns.contains(heir), let number = record.retainedHeads[heir] else {
            return try await copyReader(grantedTo: heir, named: name)
        }
        let head = try openHead(number)
        guard let seal = try head.storage.catalog.perform({ try $0.sealedFor() }), seal.heir == heir,
            seal.name == name, seal.isCertain
        else { return nil }
        return HeadReader(storage: head.storage, hydrator: head.hydrator)
    }

    /// Opens what peers will read soon, so that their first fault does not wait for it.
    func openRetained() async throws {
        for number in record.keptNumbers { _ = try openHead(number) }
    }

    /// Deletes heads that no record names: what a crash has left after the record was changed, or before. Only at the
    /// start, when nobody makes or deletes one. Those above the last number that the record knows stay: it may be an
    /// older one, restored.
    func deleteNamelessHeads() {
        let named = Set(record.storedHeadNumbers)
        for number in context.state.heads(of: id)
        where number <= record.lastHeadNumber && !named.contains(number) {
            do {
                try context.state.deleteHead(number, of: id)
                logger.info("a copy that a crash has left (head \(number)) is deleted")
            } catch {
                logger.warning("a copy that a crash has left stays: \(error)")
            }
        }
    }

    /// Ends the use of a head that no record names any more, and deletes it. May be repeated.
    func deleteHead(_ number: UInt64) async throws {
        if let open = heads.removeValue(forKey: number) { try await open.close() }
        try context.state.deleteHead(number, of: id)
    }

    /// Deletes heads that nobody needs: not the present one, and none that is kept for an heir or aside.
    func discardUnneeded() async throws {
        try await dropUnneededPins()
        let needed = record.head.keptReigns
        var gone: [UInt64] = []
        for (reign, number) in record.retainedHeads where !needed.contains(reign) {
            gone.append(number)
        }
        let present = record.headNumber
        let divergences = Set(record.head.divergences.map(\.epoch))
        let stillRetained = Set(record.retainedHeads.filter { needed.contains($0.key) }.values)
            .union(record.divergentHeads.filter { divergences.contains($0.key) }.values)
        gone += record.divergentHeads.filter { !divergences.contains($0.key) }.values
        let dropsPresent = record.isRetired && !stillRetained.contains(present)
        gone = gone.filter { !stillRetained.contains($0) && ($0 != present || dropsPresent) }
        let dead = Set(gone)
        let copies = await copyWorthKeeping(among: dropsPresent ? dead.union([present]) : dead)
        for (epoch, copy) in copies { context.copies.note(copy, KeptCopies.Key(volume: id, epoch: epoch)) }
        try await change { record in
            // Decided while a disk was waited for: what is needed meanwhile stays.
            guard record.head.keptReigns == needed, record.headNumber == present,
                !dropsPresent || record.isRetired,
                divergences.isSuperset(of: record.head.divergences.map(\.epoch))
            else { return }
            // The last byte may have come meanwhile.
            if !record.hasAllOfItsHead { record.copies.merge(copies) { $1 } }
            record.retainedHeads = record.retainedHeads.filter { needed.contains($0.key) }
            record.divergentHeads = record.divergentHeads.filter { divergences.contains($0.key) }
            if dropsPresent { record.headNumber = 0; record.followedFrom = nil }
        }
        for epoch in copies.keys where record.copies[epoch] == nil {
            context.copies.forget(KeptCopies.Key(volume: id, epoch: epoch))
        }
        let kept = Set(record.copies.values.map(\.number))
        let named = record.keptNumbers.union([record.headNumber])
        for number in dead.union(dropsPresent && present != 0 ? [present] : [])
        where !named.contains(number) {
            if kept.contains(number) {
                logger.info("the old copy (head \(number)) is kept, in case the volume returns")
                await closeKept(number)
                continue
            }
            ownCopies.removeValue(forKey: number)?.giveUp()
            try await deleteHead(number)
            logger.info("the old copy (head \(number)) is deleted")
        }
        if copies.keys.contains(where: { record.copies[$0] != nil }) {
            await dropObsoleteCopies { copies[$0] == nil }
        }
    }
}

extension VolumeRecord {
    /// Whether another site owns the volume, and nothing of it is followed here.
    fileprivate var isRetired: Bool { if case .retired = head.role { true } else { false } }

    /// Whether the head here is its own, and nothing of it is elsewhere.
    var hasAllOfItsHead: Bool { head.hasOwnHead && head.origin == nil }
}
