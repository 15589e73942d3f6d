/// A set of bytes of one file, kept as sorted ranges that neither overlap nor touch.
///
/// Look-up is O(log n); a change moves at most the ranges behind it.
package struct RangeSet: Hashable, Sendable {
    /// Ascending; between two of them there is at least one byte that is not in the set.
    package private(set) var ranges: [ByteRange] = []
    package private(set) var byteCount: UInt64 = 0

    package init() {}

    package init(_ ranges: some Sequence<ByteRange>) {
        for range in ranges { insert(range) }
    }

    package var isEmpty: Bool { ranges.isEmpty }

    package func contains(_ range: ByteRange) -> Bool {
        if range.isEmpty { return true }
        let index = firstIndex(endingAfter: range.start)
        return index < ranges.count && ranges[index].contains(range)
    }

    package mutating func insert(_ range: ByteRange) {
        guard !range.isEmpty else { return }
        // Ranges that overlap or touch the new one are merged with it.
        var low = firstIndex(endingAfter: range.start)
        if low > 0, ranges[low - 1].end == range.start { low -= 1 }
        var high = low
        var start = range.start
        var end = range.end
        while high < ranges.count, ranges[high].start <= range.end {
            start = min(start, ranges[high].start)
            end = max(end, ranges[high].end)
            byteCount -= ranges[high].byteCount
            high += 1
        }
        ranges.replaceSubrange(low..<high, with: CollectionOfOne(ByteRange(start, end)))
        byteCount += end - start
    }

    package mutating func remove(_ range: ByteRange) {
        guard !range.isEmpty else { return }
        let low = firstIndex(endingAfter: range.start)
        var high = low
        var remainders: [ByteRange] = []
        while high < ranges.count, ranges[high].start < range.end {
            let current = ranges[high]
            if current.start < range.start { remainders.append(ByteRange(current.start, range.start)) }
            if current.end > range.end { remainders.append(ByteRange(range.end, current.end)) }
            byteCount -= current.byteCount
            high += 1
        }
        for remainder in remainders { byteCount += remainder.byteCount }
        ranges.replaceSubrange(low..<high, with: remainders)
    }

    /// How many bytes of `range` are in the set.
    package func byteCount(in range: ByteRange) -> UInt64 {
        var count: UInt64 = 0
        var index = firstIndex(endingAfter: range.start)
        while index < ranges.count, ranges[index].start < range.end {
            count += min(ranges[index].end, range.end) - max(ranges[index].start, range.start)
            index += 1
        }
        return count
    }

    /// The parts of `range` that are in the set, ascending.
    package func intersection(_ range: ByteRange) -> [ByteRange] {
        var result: [ByteRange] = []
        var index = firstIndex(endingAfter: range.start)
        while index < ranges.count, ranges[index].start < range.end {
            if let part = ranges[index].intersection(range) { result.append(part) }
            index += 1
        }
        return result
    }

    /// The parts of `range` that are not in the set, ascending.
    package func gaps(in range: ByteRange) -> [ByteRange] {
        var result: [ByteRange] = []
        var position = range.start
        var index = firstIndex(endingAfter: range.start)
        while index < ranges.count, ranges[index].start < range.end {
            if ranges[index].start > position { result.append(ByteRange(position, ranges[index].start)) }
            position = max(position, ranges[index].end)
            index += 1
        }
        if position < range.end { result.append(ByteRange(position, range.end)) }
        return result
    }

    /// The range of the set that holds the byte at `offset`.
    package func range(holding offset: UInt64) -> ByteRange? {
        let index = firstIndex(endingAfter: offset)
        return index < ranges.count && ranges[index].start <= offset ? ranges[index] : nil
    }

    /// The first byte at or after `offset` that is not in the set, and how far the set's absence reaches.
    package func firstGap(from offset: UInt64, upTo limit: UInt64) -> ByteRange? {
        guard offset < limit else { return nil }
        let index = firstIndex(endingAfter: offset)
        guard index < ranges.count else { return ByteRange(offset, limit) }
        if ranges[index].start > offset { return ByteRange(offset, min(limit, ranges[index].start)) }
        let start = ranges[index].end
        guard start < limit else { return nil }
        let end = index + 1 < ranges.count ? min(limit, ranges[index + 1].start) : limit
        return ByteRange(start, end)
    }

    /// The number of the first range whose end is beyond `offset`: the only one that can hold it.
    private func firstIndex(endingAfter offset: UInt64) -> Int {
        var low = 0
        var high = ranges.count
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].end > offset { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
