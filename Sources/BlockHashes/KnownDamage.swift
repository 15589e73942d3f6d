package import VolumeModel

/// A block of a data file that is not what was written.
package struct DamagedBlock: Hashable, Sendable {
    package let data: DataFileNumber
    package let range: ByteRange
    package let inode: InodeNumber
    /// The hash of what was written; empty: it is not known, the block could not be read.
    package let expected: [UInt8]

    /// In place of a hash: the file does not reach so far any more. Whatever is found there later was not written.
    package static let lost: [UInt8] = [0]
    package var isLost: Bool { expected == Self.lost }

    /// Whether it is known for sure what was there, so that another copy of it can be told.
    package var isRestorable: Bool { expected.count == BlockHash.byteCount }

    /// The same while it may be that somebody has just written there: refused already, and not to be restored yet.
    package var unconfirmed: DamagedBlock {
        guard isRestorable else { return self }
        return DamagedBlock(data: data, range: range, inode: inode, expected: expected + [0])
    }

    /// The same without that doubt.
    package var confirmed: DamagedBlock {
        guard expected.count == BlockHash.byteCount + 1 else { return self }
        return DamagedBlock(data: data, range: range, inode: inode, expected: Array(expected.dropLast()))
    }

    package init(data: DataFileNumber, range: ByteRange, inode: InodeNumber, expected: [UInt8]) {
        self.data = data
        self.range = range
        self.inode = inode
        self.expected = expected
    }
}

/// What is known to be damaged of a head, and what of it was written since: that is good.
package struct KnownDamage: Hashable, Sendable {
    package var blocks: [DamagedBlock] = []
    package var overwritten: [DataFileNumber: RangeSet] = [:]

    package init(blocks: [DamagedBlock] = []) { self.blocks = blocks }

    /// What is still damaged, by the data files.
    package var ranges: [DataFileNumber: RangeSet] {
        Dictionary(grouping: blocks, by: \.data).compactMapValues { blocks in
            var left = RangeSet(blocks.map(\.range))
            for range in blocks.first.flatMap({ overwritten[$0.data] })?.ranges ?? [] { left.remove(range) }
            return left.isEmpty ? nil : left
        }
    }
}
