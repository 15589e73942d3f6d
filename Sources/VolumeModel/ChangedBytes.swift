/// Which bytes of a file may differ from what they were at an earlier moment, in granules: never too few.
///
/// Bounded in size: of a larger file the granules are larger. From the size that the file had at that moment on,
/// or at the smallest since, everything counts as changed, for nothing of it was there.
package struct ChangedBytes: Hashable, Sendable {
    /// Small enough that one changed page of a database does not bring much, large enough that 4 GiB need 8 KiB.
    package static let smallestShift: UInt8 = 16
    package static let largestShift: UInt8 = 48
    package static let granuleLimit: UInt64 = 65_536

    /// From this byte on everything has changed.
    package private(set) var allFrom: UInt64
    /// A granule has two to the power of this bytes.
    package private(set) var shift: UInt8
    /// One bit for each granule before `allFrom`, the lowest first; granules behind the last are unchanged.
    package private(set) var bits: [UInt8]

    /// A file of which nothing has changed yet.
    ///
    /// - Parameter size: how large it is.
    package init(unchangedOf size: UInt64) {
        allFrom = min(size, ByteRange.maximumOffset)
        var shift = Self.smallestShift
        while allFrom >> UInt64(shift) >= Self.granuleLimit { shift += 1 }
        self.shift = shift
        bits = []
    }

    /// - Returns: nil when these cannot be: from elsewhere.
    package init?(allFrom: UInt64, shift: UInt32, bits: [UInt8]) {
        guard allFrom <= ByteRange.maximumOffset,
            (UInt32(Self.smallestShift)...UInt32(Self.largestShift)).contains(shift),
            allFrom >> UInt64(shift) < Self.granuleLimit, UInt64(bits.count) * 8 <= Self.granuleLimit
        else { return nil }
        self.allFrom = allFrom
        self.shift = UInt8(shift)
        self.bits = bits
    }

    /// - Returns: whether this is news.
    package mutating func insert(_ range: ByteRange) -> Bool {
        guard !range.isEmpty, range.start < allFrom else { return false }
        if range.end == ByteRange.maximumOffset {
            allFrom = range.start
            return true
        }
        let first = Int(range.start >> UInt64(shift))
        let last = Int((min(range.end, allFrom) - 1) >> UInt64(shift))
        if bits.count <= last / 8 {
            bits.append(contentsOf: repeatElement(0, count: last / 8 + 1 - bits.count))
        }
        var isNews = false
        for granule in first...last where bits[granule / 8] & (1 << UInt8(granule % 8)) == 0 {
            bits[granule / 8] |= 1 << UInt8(granule % 8)
            isNews = true
        }
        return isNews
    }

    /// Adds what has changed in another interval, before or after: what one of both names has changed.
    ///
    /// The smaller granules become as large as the larger ones.
    package mutating func formUnion(_ other: ChangedBytes) {
        allFrom = min(allFrom, other.allFrom)
        let common = max(shift, other.shift)
        var (long, short) = (bits(ofGranules: common), other.bits(ofGranules: common))
        if long.count < short.count { swap(&long, &short) }
        for (index, byte) in short.enumerated() { long[index] |= byte }
        bits = long
        shift = common
    }

    /// The bits for granules that are as large or larger.
    private func bits(ofGranules larger: UInt8) -> [UInt8] {
        guard larger > shift, !bits.isEmpty else { return bits }
        let difference = Int(larger - shift)
        var coarse = [UInt8](repeating: 0, count: ((bits.count * 8 - 1) >> difference) / 8 + 1)
        for (index, byte) in bits.enumerated() where byte != 0 {
            for bit in 0..<8 where byte & (1 << UInt8(bit)) != 0 {
                let granule = (index * 8 + bit) >> difference
                coarse[granule / 8] |= 1 << UInt8(granule % 8)
            }
        }
        return coarse
    }

    /// The parts of a range, in order: whether each may have changed.
    package func parts(of range: ByteRange) -> [(range: ByteRange, isChanged: Bool)] {
        var parts: [(range: ByteRange, isChanged: Bool)] = []
        var position = range.start
        while position < range.end {
            let isChanged = contains(position)
            var end = next(after: position, upTo: range.end)
            while end < range.end, contains(end) == isChanged { end = next(after: end, upTo: range.end) }
            parts.append((ByteRange(position, end), isChanged))
            position = end
        }
        return parts
    }

    /// The first changed byte at or after an offset.
    package func firstChange(from offset: UInt64) -> UInt64 {
        var position = offset
        while position < allFrom, !contains(position) { position = next(after: position, upTo: allFrom) }
        return position
    }

    package func contains(_ offset: UInt64) -> Bool {
        guard offset < allFrom else { return true }
        let granule = offset >> UInt64(shift)
        guard granule / 8 < UInt64(bits.count) else { return false }
        return bits[Int(granule / 8)] & (1 << UInt8(granule % 8)) != 0
    }

    /// Where the granule of an offset ends.
    private func next(after offset: UInt64, upTo limit: UInt64) -> UInt64 {
        guard offset < allFrom else { return limit }
        guard offset >> UInt64(shift) < UInt64(bits.count) * 8 else { return min(allFrom, limit) }
        return min(limit, allFrom, ((offset >> UInt64(shift)) + 1) << UInt64(shift))
    }
}

/// What a site tells of the bytes that have changed since an earlier state of a volume.
package struct ChangesSince: Sendable {
    package enum Kind: Hashable, Sendable {
        /// Nothing is known.
        case unknown
        /// A crash came in between: what existed then is to be compared piece by piece.
        case uncertain
        case exact
    }

    package var kind: Kind
    /// Of one reign: the epoch in which it began. nil: of all since the state that was asked about.
    package var since: Epoch?
    /// The name of the state since which this is told, and, of one reign, of the one with which it ended. nil: not known.
    package var sinceName: StateName?
    package var untilName: StateName?
    /// Of one reign: who granted the state with which it began. nil: not known.
    package var sinceKeeper: SiteID?
    /// Inodes from this number on are new since.
    package var firstNewInode: InodeNumber
    /// Those that may have changed, ascending by number.
    package var inodes: [(inode: InodeNumber, bytes: ChangedBytes)]
    /// Whether no more follow.
    package var isComplete: Bool

    package init(
        kind: Kind, since: Epoch? = nil, sinceName: StateName? = nil, untilName: StateName? = nil,
        sinceKeeper: SiteID? = nil, firstNewInode: InodeNumber = InodeNumber(0),
        inodes: [(inode: InodeNumber, bytes: ChangedBytes)] = [], isComplete: Bool = true
    ) {
        self.kind = kind
        self.since = since
        self.sinceName = sinceName
        self.untilName = untilName
        self.sinceKeeper = sinceKeeper
        self.firstNewInode = firstNewInode
        self.inodes = inodes
        self.isComplete = isComplete
    }

    /// The same, if it is told since the state of this name; else nothing is known. A number alone says too little: it may
    /// have come twice. Where a name is missing, a release without them is at one end, and bytes are compared.
    package func told(since name: StateName?) -> ChangesSince {
        name != nil && sinceName == name ? self : ChangesSince(kind: .unknown)
    }
}
