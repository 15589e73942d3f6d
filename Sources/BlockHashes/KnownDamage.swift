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

    package init() {}

    /// What is still damaged, by the data files.
    package var ranges: [DataFileNumber: RangeSet] {
        Dictionary(grouping: blocks, by: \.data).compactMapValues { blocks in
            var left = RangeSet(blocks.map(\.range))
            for range in blocks.first.flatMap({ overwritten[$0.data] })?.ranges ?? [] { left.remove(range) }
            return left.isEmpty ? nil : left
        }
    }
}
