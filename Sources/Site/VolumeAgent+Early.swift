internal import Catalog
internal import Glibc
internal import Handoff
internal import Hydration
internal import PeerService
internal import VolumeModel

/// Bytes of a volume that another site owns, taken ahead of a hand-over, where `HydrationPolicy.isAhead` says so.
///
/// The hand-off knows nothing of them, and a takeover by force counts with none: they are of different moments. They may go at
/// any time (`EarlyBytes`).
extension VolumeAgent {
    /// What this process knows of them.
    struct Ahead {
        var bytes: EarlyBytes?
        var pass: Task<Void, Never>?
        var removal: Task<Void, Never>?
        /// Up to here of the owner's changes, as this replica counts them, all files were gone through in this process.
        var reached = SequenceNumber.zero
        var replica: UInt64 = 0
        var nextPass = ContinuousClock.now
        var lastSweep: ContinuousClock.Instant?
        /// Why nothing is taken at present; nil: something is, or there is nothing to take.
        var obstacle: String?
    }

    /// Until the next pass at least, and as many times as long as the last one took: a file that is written to all the time is
    /// compared again and again, and its owner has to read it for that.
    private static let pauseBetweenPasses: Duration = .seconds(15)
    private static let restShare = 10
    private static let sweepInterval: Duration = .seconds(3600)
    /// Below this share of the disk nothing more is taken, and below the other one what there is is given up.
    private static let (shareToTake, shareToKeep): (UInt64, UInt64) = (5, 10)
    private static let readTimeout: Duration = .seconds(20)

    private var earlyDirectory: String { context.state.earlyBytes(of: id) }

    /// The bytes that were taken ahead, if there are any; for the head that lacks them.
    func earlyBytes(makes: Bool = false) -> EarlyBytes? {
        if let bytes = ahead.bytes, !bytes.isGivenUp { return bytes }
        guard ahead.removal == nil, makes || access(earlyDirectory, F_OK) == 0 else { return nil }
        let (state, id, logger) = (context.state, self.id, self.logger)
        do {
            let bytes = try EarlyBytes(directory: earlyDirectory) {
                do {
                    try state.deleteEarlyBytes(of: id)
                } catch {
                    logger.warning("bytes that were taken ahead could not be deleted: \(error)")
                }
            }
            context.copies.noteSpare(of: id) { bytes.giveUp() }
            (ahead.bytes, ahead.reached, ahead.lastSweep) = (bytes, .zero, nil)
            return bytes
        } catch {
            logger.debug("no bytes are taken ahead: \(error)")
            return nil
        }
    }

    /// Takes bytes of the owner, unless that is under way or not wanted; gives up what is of no use any more. Called every few
    /// seconds.
    func takeAhead() {
        guard case .following(let reign) = record.head.role, record.hydration.isAhead else {
            ahead.pass?.cancel()
            ahead.obstacle = nil
            let lacksBytes = record.head.hasOwnHead ? record.head.origin != nil : record.hydration.isAhead
            if !lacksBytes { giveUpEarlyBytes() }
            return
        }
        let share = freeShare()
        guard share >= 1 / Double(Self.shareToKeep) else {
            ahead.obstacle = "less than a tenth of the disk is free"
            return giveUpEarlyBytes()
        }
        if ahead.replica != record.headNumber || ahead.bytes?.isGivenUp == true {
            (ahead.replica, ahead.reached) = (record.headNumber, .zero)
        }
        guard ahead.pass == nil, isClose(lastFollowed), newerReplica == nil, !record.hydration.isPaused,
            ContinuousClock.now >= ahead.nextPass, record.followedFrom == reign.owner,
            let reached = try? followedSequence(of: reign.owner), reached > ahead.reached,
            let bytes = earlyBytes(makes: true)
        else { return }
        guard share >= 1 / Double(Self.shareToTake) else {
            ahead.obstacle = "less than a fifth of the disk is free"
            return
        }
        ahead.pass = Task {
            let started = ContinuousClock.now
            let replica = ahead.replica
            do {
                let isWhole = try await pass(into: bytes, of: reign, from: ahead.reached)
                if isWhole, replica == ahead.replica, bytes === ahead.bytes { ahead.reached = reached }
                ahead.obstacle = nil
            } catch {
                logger.debug("bytes are taken ahead later: \(error)")
                if !(error is CancellationError) { ahead.obstacle = "\(error)" }
            }
            let now = ContinuousClock.now
            ahead.nextPass = now + max(Self.pauseBetweenPasses, (now - started) * Self.restShare)
            ahead.pass = nil
        }
    }

    /// - Returns: whether the owner has given all that it was asked for.
    private func pass(into bytes: EarlyBytes, of reign: Reign, from: SequenceNumber) async throws -> Bool {
        let catalog = try openHead(record.headNumber).storage.catalog
        // A return: what is kept here is not taken again.
        let source = Source(site: reign.owner, reign: reign.epoch, phase: .fetching)
        let copy = await ownCopy(for: source, besides: record.headNumber)
        let (context, id) = (self.context, self.id)
        let started = ContinuousClock.now
        let pass = EarlyPass(into: bytes, beside: copy) { [weak self] taken in
            try await self?.pauseAhead(taken)
        } read: { asked, own in
            try await context.client(of: reign.owner).read(
                asked, own: own, of: id, reign: reign.epoch, isAhead: true, urgency: .background,
                timeout: Self.readTimeout)
        }
        let outcome = try await pass.run { after in
            try catalog.perform { try $0.filesWithBytes(after: after, changedSince: from, limit: 512) }
                .map { EarlyFile(inode: $0.inode, size: $0.size, changeTime: $0.changeTime) }
        }
        if ahead.lastSweep.map({ ContinuousClock.now - $0 > Self.sweepInterval }) ?? true {
            ahead.lastSweep = .now
            try await onBlockingThread {
                try bytes.sweep { inode in
                    try catalog.perform {
                        try $0.peekInode(inode).map { $0.attributes.linkCount > 0 } ?? false
                    }
                }
            }
        }
        let isWhole = outcome.skippedCount == 0
        guard outcome.takenByteCount > 0 else { return isWhole }
        logger.info(
            """
            \(outcome.takenByteCount) bytes were taken ahead of a hand-over in \(ContinuousClock.now - started); \
            \(outcome.comparedByteCount) were here already
            """)
        return isWhole
    }

    /// Between questions.
    private func pauseAhead(_ takenByteCount: UInt64) async throws {
        guard case .following = record.head.role, record.hydration.isAhead, !record.hydration.isPaused,
            !isClosed
        else { throw CancellationError() }
        guard freeShare() >= 1 / Double(Self.shareToTake) else {
            throw SiteError.unavailable("less than a fifth of the disk is free")
        }
        guard let rate = record.hydration.bytesPerSecond, rate > 0 else { return }
        try await Task.sleep(for: .seconds(Double(takenByteCount) / Double(rate)))
    }

    private func freeShare() -> Double {
        guard let (free, total) = try? context.state.space(), total > 0 else { return 0 }
        return Double(free) / Double(total)
    }

    func giveUpEarlyBytes() {
        ahead.pass?.cancel()
        guard let bytes = earlyBytes() else { return }
        context.copies.forgetSpare(of: id)
        // There may be a million files.
        ahead.removal = Task {
            try? await onBlockingThread { bytes.giveUp() }
            (ahead.bytes, ahead.reached) = (nil, .zero)
            ahead.removal = nil
        }
    }

    /// The process ends: what is here is found again.
    func stopTakingAhead() async {
        ahead.pass?.cancel()
        await ahead.pass?.value
        await ahead.removal?.value
    }
}
