internal import SQLite
package import VolumeModel

/// Which bytes of an inode that has an origin are here.
///
/// `valid` is the truth in memory. `recorded` is what the database says, and it never holds a byte that is
/// not durable in the data file: after a crash an unrecorded range is simply missing and fetched again.
struct Residency {
    var valid: RangeSet
    var recorded: RangeSet
}

extension CatalogState {
    /// The parts of `range` that are still at the origin, ascending.
    package mutating func missingRanges(of number: InodeNumber, in range: ByteRange) throws -> [ByteRange] {
        guard let record = try inode(number), record.backedByteCount > 0,
            let part = range.intersection(ByteRange(0, record.backedByteCount))
        else { return [] }
        return try residency(of: number).valid.gaps(in: part)
    }

    /// The first missing bytes at or after `offset`, up to the next byte that is here.
    package mutating func firstMissingRange(
        of number: InodeNumber, from offset: UInt64
    ) throws -> ByteRange? {
        guard let record = try inode(number), record.backedByteCount > 0 else { return nil }
        return try residency(of: number).valid.firstGap(from: offset, upTo: record.backedByteCount)
    }

    /// Marks bytes as here: they were written, or have arrived.
    package mutating func markValid(_ range: ByteRange, of number: InodeNumber) throws {
        guard let record = try inode(number), record.backedByteCount > 0,
            let part = range.intersection(ByteRange(0, record.backedByteCount))
        else { return }
        let before = try residency(of: number).valid.byteCount
        // In place: a copy of a set of many ranges for each arrival would be quadratic.
        inodes[number]?.residency?.valid.insert(part)
        let added = (inodes[number]?.residency?.valid.byteCount ?? before) - before
        guard added > 0 else { return }
        missingByteCount -= min(missingByteCount, added)
        inodes[number]?.structuralGeneration = openGeneration
        unrecordedInodes.insert(number)
        hasChanges = true
    }

    /// Cuts an inode's origin at a new, smaller size: bytes beyond are local from now on. The caller then
    /// calls `update` with the record.
    package mutating func cutBacking(of record: inout InodeRecord, to size: UInt64) throws {
        guard record.backedByteCount > size else { return }
        let number = record.attributes.inode
        if size == 0 {
            try dropResidency(of: number)
        } else {
            var residency = try residency(of: number)
            let tail = ByteRange(size, ByteRange.maximumOffset)
            let missing =
                record.backedByteCount - size
                - residency.valid.intersection(tail).reduce(0) { $0 + $1.byteCount }
            missingByteCount -= min(missingByteCount, missing)
            residency.valid.remove(tail)
            inodes[number]?.residency = residency
        }
        record.backedByteCount = size
        if size > 0 { try updateRecordedResidency(of: number, upTo: size) }
    }

    /// What is to be recorded once the data files are durable: inodes and the ranges valid now.
    package func unrecordedResidency() -> [(inode: InodeNumber, data: DataFileNumber, valid: RangeSet)] {
        unrecordedInodes.compactMap { number in
            guard let cached = inodes[number], let residency = cached.residency else { return nil }
            return (number, cached.record.data, residency.valid)
        }
    }

    package func unrecordedResidency(
        of number: InodeNumber
    ) -> (inode: InodeNumber, data: DataFileNumber, valid: RangeSet)? {
        guard unrecordedInodes.contains(number), let cached = inodes[number],
            let residency = cached.residency
        else { return nil }
        return (number, cached.record.data, residency.valid)
    }

    /// Records ranges whose bytes are durable. `data` tells which data file they were made durable in:
    /// when the inode has another one by now, nothing is recorded.
    package mutating func record(_ durable: RangeSet, of number: InodeNumber, data: DataFileNumber) throws {
        guard var cached = inodes[number], var residency = cached.residency, cached.record.data == data,
            cached.record.backedByteCount > 0
        else { return }
        try beginIfNeeded()
        let whole = ByteRange(0, cached.record.backedByteCount)
        if durable.contains(whole) {
            statements.deleteResident.bind(1, number.number)
            try statements.deleteResident.run()
            let before = cached.record
            cached.record.backedByteCount = 0
            count(removing: before, adding: cached.record)
            cached.residency = nil
            cached.structuralGeneration = openGeneration
            inodes[number] = cached
            dirtyInodes.insert(number)
            unrecordedInodes.remove(number)
            return
        }
        let clipped = RangeSet(durable.intersection(whole))
        try replaceRecorded(residency.recorded, with: clipped, of: number)
        residency.recorded = clipped
        if residency.valid == clipped { unrecordedInodes.remove(number) }
        cached.residency = residency
        cached.structuralGeneration = openGeneration
        inodes[number] = cached
    }

    mutating func dropResidency(of number: InodeNumber) throws {
        guard let record = try inode(number), record.backedByteCount > 0 else { return }
        let missing = missingCount(of: record)
        missingByteCount -= min(missingByteCount, missing)
        try beginIfNeeded()
        statements.deleteResident.bind(1, number.number)
        try statements.deleteResident.run()
        inodes[number]?.residency = nil
        unrecordedInodes.remove(number)
    }

    func missingCount(of record: InodeRecord) -> UInt64 {
        guard record.backedByteCount > 0 else { return 0 }
        let number = record.attributes.inode
        let valid = inodes[number]?.residency?.valid ?? (try? storedResidency(of: number)) ?? RangeSet()
        let whole = ByteRange(0, record.backedByteCount)
        return whole.byteCount - valid.intersection(whole).reduce(0) { $0 + $1.byteCount }
    }

    private mutating func residency(of number: InodeNumber) throws -> Residency {
        if let residency = inodes[number]?.residency { return residency }
        let stored = try storedResidency(of: number)
        let residency = Residency(valid: stored, recorded: stored)
        inodes[number]?.residency = residency
        return residency
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

    private mutating func updateRecordedResidency(of number: InodeNumber, upTo size: UInt64) throws {
        guard var residency = inodes[number]?.residency else { return }
        let clipped = RangeSet(residency.recorded.intersection(ByteRange(0, size)))
        guard clipped != residency.recorded else { return }
        try beginIfNeeded()
        try replaceRecorded(residency.recorded, with: clipped, of: number)
        residency.recorded = clipped
        inodes[number]?.residency = residency
    }

    private func replaceRecorded(
        _ old: RangeSet, with new: RangeSet, of number: InodeNumber
    ) throws(SQLiteError) {
        let kept = Set(old.ranges)
        let wanted = Set(new.ranges)
        for range in old.ranges where !wanted.contains(range) {
            statements.deleteResidentWithin.bind(1, number.number)
            statements.deleteResidentWithin.bind(2, range.start)
            statements.deleteResidentWithin.bind(3, range.start + 1)
            try statements.deleteResidentWithin.run()
        }
        for range in new.ranges where !kept.contains(range) {
            statements.putResident.bind(1, number.number)
            statements.putResident.bind(2, range.start)
            statements.putResident.bind(3, range.end)
            try statements.putResident.run()
        }
    }
}
