internal import SQLite
package import VolumeModel

/// Which bytes of an inode that has an origin are here.
///
/// `valid` is the truth in memory. `recorded` is what the database says, row by row, and it never holds a byte
/// that is not durable in the data file: after a crash an unrecorded range is simply missing and fetched
/// again. `unrecorded` is what is valid and not recorded.
struct Residency {
    var valid: RangeSet
    var recorded: RangeSet
    var unrecorded = RangeSet()
    /// Another one after each loss: what was made durable before a loss is not what has come since.
    var life: UInt64
}

/// What of an inode is here and not recorded yet: to be recorded when it is durable.
package struct UnrecordedResidency: Sendable {
    package let inode: InodeNumber
    /// Where it is to be made durable.
    package let data: DataFileNumber
    let ranges: RangeSet
    fileprivate let life: UInt64
}

extension CatalogState {
    /// The parts of `range` that are still at the origin, ascending.
    package mutating func missingRanges(of number: InodeNumber, in range: ByteRange) throws -> [ByteRange] {
        guard let record = try inode(number), record.backedByteCount > 0,
            let part = range.intersection(ByteRange(0, record.backedByteCount))
        else { return [] }
        try loadResidency(of: number)
        return inodes[number]?.residency?.valid.gaps(in: part) ?? []
    }

    /// The first missing bytes at or after `offset`, up to the next byte that is here.
    package mutating func firstMissingRange(
        of number: InodeNumber, from offset: UInt64
    ) throws -> ByteRange? {
        guard let record = try inode(number), record.backedByteCount > 0 else { return nil }
        try loadResidency(of: number)
        let gap = inodes[number]?.residency?.valid.firstGap(from: offset, upTo: record.backedByteCount)
        // All here, though the database does not say so yet: the next time things are recorded, it will.
        if gap == nil, offset == 0 { unrecordedInodes.insert(number) }
        return gap
    }

    /// Marks bytes as here: they were written, or have arrived.
    package mutating func markValid(_ range: ByteRange, of number: InodeNumber) throws {
        guard let record = try inode(number), record.backedByteCount > 0,
            let part = range.intersection(ByteRange(0, record.backedByteCount))
        else { return }
        try loadResidency(of: number)
        if undo.sums != nil {
            undo.noteArrival(inodes[number]?.residency?.valid.gaps(in: part) ?? [], of: number)
        }
        // In place: a copy of a set of many ranges for each arrival would be quadratic.
        let added = inodes[number]?.residency?.markValid(part) ?? 0
        guard added > 0 else { return }
        missingByteCount -= min(missingByteCount, added)
        let (sum, isTooMuch) = unrecordedByteCount.addingReportingOverflow(added)
        unrecordedByteCount = isTooMuch ? .max : sum
        touch(number)
        unrecordedInodes.insert(number)
        hasChanges = true
    }

    /// Cuts an inode's origin at a new, smaller size: bytes beyond are local from now on. The caller then
    /// calls `update` with the record.
    package mutating func cutBacking(of record: inout InodeRecord, to size: UInt64) throws {
        guard record.backedByteCount > size else { return }
        let number = record.attributes.inode
        // What may be refused comes first: bytes that were written here would be fetched from the origin again.
        try loadResidency(of: number)
        try beginIfNeeded()
        noteFormerResidency(of: number)
        if size == 0 {
            try dropResidency(of: number)
        } else {
            let tail = ByteRange(size, ByteRange.maximumOffset)
            let residency =
                inodes[number]?.residency ?? Residency(valid: RangeSet(), recorded: RangeSet(), life: 0)
            let missing = record.backedByteCount - size - residency.valid.byteCount(in: tail)
            missingByteCount -= min(missingByteCount, missing)
            forgetUnrecorded(residency.unrecorded.byteCount(in: tail))
            inodes[number]?.residency?.valid.remove(tail)
            inodes[number]?.residency?.unrecorded.remove(tail)
            try cutRecorded(of: number, at: size)
            // What is left may be all here: then `record` ends the origin's part in this file.
            unrecordedInodes.insert(number)
        }
        record.backedByteCount = size
    }

    /// What is to be recorded once the data files are durable.
    package func unrecordedResidency() -> [UnrecordedResidency] {
        unrecordedInodes.compactMap { unrecordedResidency(of: $0) }
    }

    /// Whether bytes of an inode are here of which a crash would take those of its origin.
    package func isUnrecorded(_ record: InodeRecord) -> Bool {
        record.backedByteCount > 0 && unrecordedInodes.contains(record.attributes.inode)
    }

    package func unrecordedResidency(of number: InodeNumber) -> UnrecordedResidency? {
        guard unrecordedInodes.contains(number), let cached = inodes[number],
            let residency = cached.residency
        else { return nil }
        return UnrecordedResidency(
            inode: number, data: cached.record.data, ranges: residency.unrecorded, life: residency.life)
    }

    /// Marks as missing what is not recorded of an inode: it may be gone. The same as after a crash.
    package mutating func loseUnrecorded(of number: InodeNumber) throws {
        guard let record = try inode(number), record.backedByteCount > 0 else { return }
        try loadResidency(of: number)
        guard var residency = inodes[number]?.residency else { return }
        let lost = residency.unrecorded
        for range in lost.ranges { residency.valid.remove(range) }
        residency.unrecorded = RangeSet()
        residency.life = nextResidencyLife()
        inodes[number]?.residency = residency
        forgetUnrecorded(lost.byteCount)
        missingByteCount += lost.byteCount
        unrecordedInodes.remove(number)
        hasChanges = true
    }

    private mutating func nextResidencyLife() -> UInt64 {
        lastResidencyLife &+= 1
        return lastResidencyLife
    }

    /// Whether all of an inode's bytes are here, so that it may need its origin no longer.
    package func isAllHere(_ unrecorded: UnrecordedResidency) -> Bool {
        guard let cached = inodes[unrecorded.inode], let residency = cached.residency else { return false }
        return residency.valid.contains(ByteRange(0, cached.record.backedByteCount))
    }

    /// Records ranges whose bytes are durable. Nothing is recorded when the inode has another data file by now, or
    /// when what was here has been lost meanwhile.
    ///
    /// - Parameter blockCount: what the data file takes, in blocks of 512 bytes: once it holds everything, that counts, and
    ///   the inode has no origin any more. nil: nobody has looked; then it keeps its origin until somebody has.
    package mutating func record(_ durable: UnrecordedResidency, blockCount: UInt64?) throws {
        let number = durable.inode
        guard let cached = inodes[number], cached.residency?.life == durable.life,
            cached.record.data == durable.data, cached.record.backedByteCount > 0
        else { return }
        let whole = ByteRange(0, cached.record.backedByteCount)
        try beginIfNeeded()
        noteFormerResidency(of: number)
        for range in durable.ranges.ranges {
            guard let part = range.intersection(whole) else { continue }
            try recordOne(part, of: number)
        }
        touch(number)
        guard let residency = inodes[number]?.residency else { return }
        let isWhole = residency.recorded.contains(whole)
        if isWhole, let blockCount {
            try dropResidency(of: number)
            var flattened = cached.record
            flattened.backedByteCount = 0
            flattened.attributes.blockCount = blockCount
            try update(flattened, kind: .structural)
        } else if residency.unrecorded.isEmpty, !isWhole {
            unrecordedInodes.remove(number)
        }
    }

    /// Replaces the rows that a range overlaps or touches by one.
    private mutating func recordOne(_ range: ByteRange, of number: InodeNumber) throws {
        inodes[number]?.residency?.recorded.insert(range)
        guard let row = inodes[number]?.residency?.recorded.range(holding: range.start) else { return }
        statements.deleteResidentWithin.bind(1, number.number)
        statements.deleteResidentWithin.bind(2, row.start)
        statements.deleteResidentWithin.bind(3, row.end)
        try statements.deleteResidentWithin.run()
        statements.putResident.bind(1, number.number)
        statements.putResident.bind(2, row.start)
        statements.putResident.bind(3, row.end)
        try statements.putResident.run()
        let before = inodes[number]?.residency?.unrecorded.byteCount ?? 0
        inodes[number]?.residency?.unrecorded.remove(range)
        forgetUnrecorded(before - (inodes[number]?.residency?.unrecorded.byteCount ?? 0))
    }

    private mutating func forgetUnrecorded(_ byteCount: UInt64) {
        unrecordedByteCount -= min(unrecordedByteCount, byteCount)
    }

    /// Forgets which bytes are here; those that are not count as missing no longer.
    mutating func dropResidency(of number: InodeNumber) throws {
        guard let record = try inode(number), record.backedByteCount > 0 else { return }
        let missing = try missingCount(of: record)
        try beginIfNeeded()
        noteFormerResidency(of: number)
        missingByteCount -= min(missingByteCount, missing)
        statements.deleteResident.bind(1, number.number)
        try statements.deleteResident.run()
        forgetUnrecorded(inodes[number]?.residency?.unrecorded.byteCount ?? 0)
        inodes[number]?.residency = nil
        unrecordedInodes.remove(number)
    }

    private mutating func missingCount(of record: InodeRecord) throws -> UInt64 {
        let number = record.attributes.inode
        try loadResidency(of: number)
        let whole = ByteRange(0, record.backedByteCount)
        return whole.byteCount - (inodes[number]?.residency?.valid.byteCount(in: whole) ?? 0)
    }

    /// The inode is in `inodes`.
    private mutating func loadResidency(of number: InodeNumber) throws {
        guard let cached = inodes[number], cached.residency == nil else { return }
        // Whatever the rows say: only the origin's part can be here or missing.
        let part = ByteRange(0, cached.record.backedByteCount)
        let stored = RangeSet(try storedResidency(of: number).intersection(part))
        let life = nextResidencyLife()
        inodes[number]?.residency = Residency(valid: stored, recorded: stored, life: life)
    }

    private func storedResidency(of number: InodeNumber) throws -> RangeSet {
        statements.listResident.bind(1, number.number)
        var ranges = RangeSet()
        try statements.listResident.forEach { row in
            let start = row.unsigned(0)
            let end = row.unsigned(1)
            if start < end, end <= ByteRange.maximumOffset { ranges.insert(ByteRange(start, end)) }
            return true
        }
        return ranges
    }

    private mutating func cutRecorded(of number: InodeNumber, at size: UInt64) throws {
        let tail = ByteRange(size, ByteRange.maximumOffset)
        guard let recorded = inodes[number]?.residency?.recorded, recorded.byteCount(in: tail) > 0 else {
            return
        }
        try beginIfNeeded()
        let across = recorded.range(holding: size)
        inodes[number]?.residency?.recorded.remove(tail)
        statements.deleteResidentWithin.bind(1, number.number)
        statements.deleteResidentWithin.bind(2, across?.start ?? size)
        statements.deleteResidentWithin.bind(3, ByteRange.maximumOffset)
        try statements.deleteResidentWithin.run()
        guard let across, across.start < size else { return }
        statements.putResident.bind(1, number.number)
        statements.putResident.bind(2, across.start)
        statements.putResident.bind(3, size)
        try statements.putResident.run()
    }
}

extension Residency {
    /// - Returns: how many bytes of the range were missing before.
    mutating func markValid(_ range: ByteRange) -> UInt64 {
        let before = valid.byteCount
        for gap in valid.gaps(in: range) { unrecorded.insert(gap) }
        valid.insert(range)
        return valid.byteCount - before
    }

    /// Takes back that bytes have come.
    mutating func markMissing(_ range: ByteRange) {
        valid.remove(range)
        unrecorded.remove(range)
    }
}
