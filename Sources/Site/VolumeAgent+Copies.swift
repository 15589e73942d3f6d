internal import Catalog
internal import Handoff
internal import Hydration
internal import PeerService
internal import VolumeModel

/// What is kept of a volume that has left, in case it returns.
///
/// The hand-off knows nothing of it: when nobody depends on a head any more, it is kept instead of deleted. It may go
/// at any moment, and is never offered for a takeover.
extension VolumeAgent {
    private func key(_ epoch: Epoch) -> KeptCopies.Key { KeptCopies.Key(volume: id, epoch: epoch) }

    /// Tells the site of the copies that the record names.
    func noteCopies() {
        for (epoch, copy) in record.copies { context.copies.note(copy, key(epoch)) }
    }

    /// The volume is deleted, and its copies with it.
    func forgetCopies() {
        context.copies.forgetSpare(of: id)
        for epoch in record.copies.keys { context.copies.forget(key(epoch)) }
    }

    /// Which of these heads, that nobody needs any more, is worth keeping: it is made durable.
    ///
    /// - Returns: by the reign that the head was granted to: one at most, and none where an older copy is better.
    func copyWorthKeeping(among dead: Set<UInt64>) async -> [Epoch: KeptCopy] {
        // Whoever has all of the present state needs no older one.
        guard !record.hasAllOfItsHead else { return [:] }
        let spare = record.retainedHeads.filter { _, number in
            dead.contains(number) && !record.divergentHeads.values.contains(number)
        }
        guard !spare.isEmpty else { return [:] }
        var holdings = spare.compactMap { holding(of: $1, grantedTo: $0) }
        holdings += record.copies.compactMap { holding(of: $1.number, grantedTo: $0) }
        guard let best = CopyHolding.best(of: holdings), let number = spare[best.epoch],
            context.copies.mayKeep(best.heldByteCount)
        else { return [:] }
        let name: StateName?
        do {
            let storage = try openHead(number).storage
            name = try await onBlockingThread {
                try storage.settle()
                let name = try storage.catalog.perform { state in
                    try state.noteSealIsDurable()
                    return try state.sealedFor()?.name
                }
                try storage.catalog.synchronize()
                return name
            }
        } catch {
            logger.debug("head \(number) is not kept: \(error)")
            return [:]
        }
        return [
            best.epoch: KeptCopy(
                number: number, byteCount: best.heldByteCount, since: KeptCopies.now(), name: name?.bytes)
        ]
    }

    /// What a head holds of the state that was granted to a reign; nil when it is not that state.
    private func holding(of number: UInt64, grantedTo epoch: Epoch) -> CopyHolding? {
        do {
            return try openHead(number).storage.catalog.perform { state in
                guard let seal = try state.sealedFor(), seal.heir == epoch else { return nil }
                return CopyHolding(
                    epoch: epoch, byteCount: state.counters.allocatedByteCount,
                    missingByteCount: state.missingByteCount)
            }
        } catch {
            logger.debug("head \(number) is not kept: \(error)")
            return nil
        }
    }

    /// Deletes copies: all of them, or some.
    func dropCopies(where isUnwanted: (Epoch) -> Bool = { _ in true }) async throws {
        let dropped = record.copies.filter { isUnwanted($0.key) }
        guard !dropped.isEmpty else { return }
        let epochs = Set(dropped.keys)
        try await change { record in
            record.copies = record.copies.filter { !epochs.contains($0.key) }
        }
        // In no record any more: whatever comes, nobody is to count with them.
        for epoch in epochs { context.copies.forget(key(epoch)) }
        var failure: (any Error)?
        for (epoch, copy) in dropped {
            await closeCopy(copy.number)
            do {
                try context.state.deleteHead(copy.number, of: id)
                logger.info("the copy that was kept since epoch \(epoch) is deleted")
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }

    private func closeCopy(_ number: UInt64) async {
        // Whoever opens it finds that it is named no more, and closes it.
        _ = await copyOpenings[number]?.result
        ownCopies.removeValue(forKey: number)?.giveUp()
        guard let open = heads.removeValue(forKey: number) else { return }
        do {
            try await open.close()
        } catch {
            logger.debug("closing a copy: \(error)")
        }
    }

    /// Copies that were of use and are no longer: nothing is being fetched here.
    func closeUnusedCopies() async {
        guard heads.values.allSatisfy({ $0.hydrator == nil }), ahead.pass == nil else { return }
        for copy in record.copies.values where heads[copy.number] != nil { await closeCopy(copy.number) }
    }

    /// A newer state is here. What stays after a failure goes with the volume, or for room.
    func dropObsoleteCopies(where isObsolete: (Epoch) -> Bool = { _ in true }) async {
        do {
            try await dropCopies(where: isObsolete)
        } catch {
            logger.warning("a copy that is of no use any more stays: \(error)")
        }
    }

    /// Drops what was given up for room, or is too much now.
    func dropSuperfluousCopies() async {
        guard !record.copies.isEmpty else { return }
        let superfluous = Set(context.copies.superfluous())
        do {
            try await dropCopies { epoch in
                superfluous.contains(key(epoch)) || context.copies.isGone(key(epoch))
            }
        } catch {
            logger.warning("a copy that is to go stays: \(error)")
        }
    }

    /// Heads here that may hold an earlier state of one that is to be fetched, by the reign that each was granted to.
    func earlierHeads(than source: Source, besides number: UInt64) -> [Epoch: UInt64] {
        var candidates = record.copies.mapValues(\.number)
        for (epoch, retained) in record.retainedHeads
        where retained != number && retained != record.headNumber {
            candidates[epoch] = retained
        }
        return candidates.filter { $0.key < source.reign }
    }

    /// The newest of them that is still what was granted: its bytes need not come over the link.
    func ownCopy(for source: Source, besides number: UInt64) async -> OwnCopy? {
        let candidates = earlierHeads(than: source, besides: number)
        for (epoch, candidate) in candidates.sorted(by: { $0.key > $1.key }) {
            if let known = ownCopies[candidate] { return known }
            do {
                let storage = try await openEarlier(candidate).storage
                // While the disk was waited for it may have gone, or another head have asked for it.
                guard heads[candidate]?.storage === storage,
                    earlierHeads(than: source, besides: number)[epoch] == candidate
                else { continue }
                if let known = ownCopies[candidate] { return known }
                guard let copy = try OwnCopy(storage, grantedTo: epoch) else { continue }
                if record.copies[epoch] != nil, !use(copy, storage) { continue }
                ownCopies[candidate] = copy
                return copy
            } catch {
                logger.debug("the copy of epoch \(epoch) is of no use: \(error)")
            }
        }
        return nil
    }

    /// A copy that is kept of what was granted to a reign, if it surely is the state of this name; nil: there is none. It may
    /// go at any moment.
    func copyReader(grantedTo heir: Epoch, named name: StateName) async throws -> HeadReader? {
        guard let kept = record.copies[heir] else { return nil }
        // Opening it may take long, and anybody may ask.
        if let known = kept.name, known != name.bytes { return nil }
        let number = kept.number
        let storage = try await openEarlier(number).storage
        // While the disk was waited for it may have gone.
        guard heads[number]?.storage === storage, record.copies[heir]?.number == number,
            let seal = try storage.catalog.perform({ try $0.sealedFor() }), seal.heir == heir,
            seal.name == name, seal.isCertain
        else { return nil }
        if ownCopies[number] == nil {
            guard let copy = try OwnCopy(storage, grantedTo: heir), use(copy, storage) else { return nil }
            ownCopies[number] = copy
        }
        guard ownCopies[number]?.isGivenUp == false else { return nil }
        return HeadReader(storage: storage, hydrator: nil)
    }

    /// A head that others need is open, or soon will be. A copy may have to be read through after a crash: that
    /// holds up nothing that is asked of this volume.
    private func openEarlier(_ number: UInt64) async throws -> OpenHead {
        if let open = heads[number] { return open }
        guard !isClosed else { throw SiteError.unknownVolume(record.name) }
        guard record.copies.values.contains(where: { $0.number == number }) else {
            return try openHead(number)
        }
        if let opening = copyOpenings[number] { return try await opening.value }
        let (directory, memory) = (context.state.head(number, of: id), context.memory)
        let ending = endingHeads[number]
        let opening = Task {
            defer { self.copyOpenings[number] = nil }
            let storage = try await onBlockingThread {
                ending?.wait()
                return try HeadStorage(opening: directory, memory: memory)
            }
            // It may have been given up, or the volume closed, while the disk was waited for.
            guard !self.isClosed, self.record.copies.values.contains(where: { $0.number == number }) else {
                try await onBlockingThread { try storage.close() }
                throw SiteError.precondition("a copy of volume '\(self.record.name)' has gone")
            }
            return self.note(storage, of: number)
        }
        copyOpenings[number] = opening
        return try await opening.value
    }

    /// - Returns: whether the kept copy is still there.
    private func use(_ copy: OwnCopy, _ storage: HeadStorage) -> Bool {
        context.copies.use(key(copy.heir)) {
            copy.giveUp()
            storage.bytes.closeAll()
        }
    }

    /// A head has become a kept copy: it is closed, unless it is just being of use.
    func closeKept(_ number: UInt64) async {
        if let copy = ownCopies[number], let storage = heads[number]?.storage {
            _ = use(copy, storage)
        } else {
            await closeCopy(number)
        }
    }
}

/// How much of a volume's state a head holds.
struct CopyHolding: Hashable, Sendable {
    /// The reign that the state was granted to: the higher, the newer.
    let epoch: Epoch
    /// Of the whole state, and of that what the head lacks.
    let byteCount: UInt64
    let missingByteCount: UInt64

    var heldByteCount: UInt64 { byteCount - min(byteCount, missingByteCount) }

    /// Of one volume one copy is kept: the newest that has three quarters of its bytes; failing that the one that
    /// has most.
    static func best(of holdings: [CopyHolding]) -> CopyHolding? {
        holdings.filter { $0.missingByteCount <= $0.byteCount / 4 }.max { $0.epoch < $1.epoch }
            ?? holdings.max { ($0.heldByteCount, $0.epoch) < ($1.heldByteCount, $1.epoch) }
    }
}
