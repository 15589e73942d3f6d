internal import SQLite
internal import VolumeModel

/// What takes an operation back that fails half-way, as on a damaged page: so that all others go on.
///
/// What was in memory before is noted here as it changes. The database is brought back by taking the open transaction back
/// and making again all that was noted for it before (`ChangeRecorder`).
///
/// Not taken back is what holds all the same, or errs on the safe side: that bytes are here, which were written; that bytes
/// may have changed, or are waited for by the next commit.
struct UndoLog {
    /// What is so small that all of it is noted, before the first change.
    struct Sums {
        let rowCount: Int
        let counters: CatalogCounters
        let limits: VolumeLimits
        let missingByteCount: UInt64
        let unrecordedByteCount: UInt64
        let nextData: UInt64
        let durableData: UInt64
        let sizes: DataFileSizes
        let newestPin: SequenceNumber?
        let hasGarbage: Bool
        let isFollower: Bool
        let isArriving: Bool
        let pending: PendingSums
        let absentNames: Set<ListingRequest.Name>
    }

    /// An inode in memory before a change.
    struct Former {
        let number: InodeNumber
        /// nil: it was not there.
        var cached: CatalogState.CachedInode?
        /// nil: that was not changed.
        let wasDirty: Bool?
        /// Whether what is here of it was changed as well. Else it is not noted: a copy would cost its length.
        let holdsResidency: Bool
    }

    var sums: Sums?
    var inodes: [Former] = []
    /// Bytes that have come after the first change, and were missing until then.
    var arrivals: [(number: InodeNumber, ranges: [ByteRange])] = []
    var awaited: [DataFileNumber: AwaitedFiles.Note] = [:]
    /// Which bytes of inodes have changed that were removed.
    var changes: [(number: InodeNumber, bytes: ChangedBytes?, wasDirty: Bool)] = []
    var changeRecord: ChangeRecord?

    mutating func note(
        _ number: InodeNumber, _ cached: CatalogState.CachedInode?, wasDirty: Bool?,
        holdsResidency: Bool = false
    ) {
        var former = Former(
            number: number, cached: cached, wasDirty: wasDirty, holdsResidency: holdsResidency)
        if !holdsResidency { former.cached?.residency = nil }
        inodes.append(former)
    }

    mutating func noteArrival(_ ranges: [ByteRange], of number: InodeNumber) {
        if !ranges.isEmpty { arrivals.append((number, ranges)) }
    }

    /// From here on nothing is taken back.
    mutating func forget() {
        guard sums != nil || !inodes.isEmpty else { return }
        sums = nil
        inodes.removeAll(keepingCapacity: inodes.count < 100)
        arrivals = []
        awaited = [:]
        changes = []
        changeRecord = nil
    }
}

extension CatalogState {
    var undoSums: UndoLog.Sums {
        UndoLog.Sums(
            rowCount: recorder.count, counters: counters, limits: limits, missingByteCount: missingByteCount,
            unrecordedByteCount: unrecordedByteCount, nextData: nextData, durableData: durableData,
            sizes: sizes, newestPin: newestPin, hasGarbage: hasGarbage, isFollower: isFollower,
            isArriving: isArriving, pending: pending, absentNames: absentNames)
    }

    /// To be called before it is changed which bytes of an inode are here, other than by more that come.
    mutating func noteFormerResidency(of number: InodeNumber) {
        undo.note(number, inodes[number], wasDirty: nil, holdsResidency: true)
    }

    /// Takes back what the operation under way has changed since its beginning, or since its last commit. Where the disk
    /// refuses that, it is tried again before each following operation.
    mutating func takeBack() {
        if isApplying {
            // Nothing but the owner's changes is lost, and these can be had again.
            do {
                try abandonApplication()
            } catch {
                failure =
                    failure ?? error as? SQLiteError
                    ?? SQLiteError(code: 1, message: "an owner's changes cannot be taken back: \(error)")
            }
            return
        }
        // SQLite itself takes all back when it runs out of memory, or its disk fails.
        let isLost = !connection.isInTransaction && recorder.count > 0
        let arrivals = undo.arrivals
        if let sums = undo.sums {
            takeBackInMemory(to: sums)
            recorder.forget(after: sums.rowCount)
        } else if !isLost {
            return
        }
        isTakenBack = true
        do {
            try redoIfTakenBack()
            for arrival in arrivals {
                // The sums are those of before: they are to count it once more.
                for range in arrival.ranges { inodes[arrival.number]?.residency?.markMissing(range) }
                for range in arrival.ranges { try markValid(range, of: arrival.number) }
            }
        } catch {
            commitFailure = error as? SQLiteError ?? commitFailure
        }
    }

    private mutating func takeBackInMemory(to sums: UndoLog.Sums) {
        for former in undo.inodes.reversed() { bringBack(former) }
        for (data, note) in undo.awaited { awaited.note(data, of: note.inode) }
        if let record = undo.changeRecord { changed = record }
        for (number, bytes, wasDirty) in undo.changes {
            bringBackChanges(of: number, bytes, areDirty: wasDirty)
        }
        counters = sums.counters
        limits = sums.limits
        missingByteCount = sums.missingByteCount
        unrecordedByteCount = sums.unrecordedByteCount
        nextData = sums.nextData
        durableData = sums.durableData
        sizes = sums.sizes
        newestPin = sums.newestPin
        hasGarbage = sums.hasGarbage
        isFollower = sums.isFollower
        isArriving = sums.isArriving
        pending = sums.pending
        absentNames = sums.absentNames
        undo.forget()
    }

    private mutating func bringBack(_ former: UndoLog.Former) {
        let number = former.number
        var cached = former.cached
        if !former.holdsResidency { cached?.residency = inodes[number]?.residency }
        inodes[number] = cached
        if let cached, let residency = cached.residency,
            !residency.unrecorded.isEmpty
                || residency.valid.contains(ByteRange(0, cached.record.backedByteCount))
        {
            unrecordedInodes.insert(number)
        }
        switch former.wasDirty {
        case true?: dirtyInodes.insert(number)
        case false?: dirtyInodes.remove(number)
        case nil: break
        }
    }
}
