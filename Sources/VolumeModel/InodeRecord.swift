/// The number of the file in a node's own storage that holds an inode's bytes. Local to one head; never
/// reused. `none`: no byte was ever written here, so every byte that is not missing is zero.
package struct DataFileNumber: Hashable, Sendable, Comparable {
    package let number: UInt64

    package init(_ number: UInt64) { self.number = number }

    package static let none = DataFileNumber(0)

    package static func < (left: DataFileNumber, right: DataFileNumber) -> Bool { left.number < right.number }
}

/// All that the catalog knows of an inode.
package struct InodeRecord: Hashable, Sendable {
    package var attributes: FileAttributes
    /// The directory that holds this directory; for other kinds of file the root, and without meaning.
    package var parent: InodeNumber
    /// A symbolic link's target; empty for other kinds of file.
    package var target: [UInt8]
    /// Where its bytes are in this node's storage. Local: does not travel.
    package var data: DataFileNumber
    /// How many bytes from the file's start come from the head's origin, until they are resident. Bytes
    /// beyond are local. Local: does not travel.
    package var backedByteCount: UInt64

    package init(
        attributes: FileAttributes, parent: InodeNumber = .root, target: [UInt8] = [],
        data: DataFileNumber = .none, backedByteCount: UInt64 = 0
    ) {
        self.attributes = attributes
        self.parent = parent
        self.target = target
        self.data = data
        self.backedByteCount = backedByteCount
    }

    /// Whether any byte of it may be other than zero.
    package var mayHoldData: Bool { data != .none || backedByteCount > 0 }

    /// What the file counts for in the volume's total of bytes: its size, if it may hold any data.
    package var countedByteCount: UInt64 {
        attributes.kind == .regular && mayHoldData ? attributes.size : 0
    }
}

extension InodeRecord {
    /// What the file takes of the volume's capacity, in bytes.
    package var allocatedByteCount: UInt64 {
        attributes.kind == .regular ? attributes.blockCount &* 512 : 0
    }
}

/// How much a volume may hold. What its names and attributes take counts only as inodes.
package struct VolumeLimits: Hashable, Sendable {
    /// Bytes of disk that its files may take; 0: as many as there are.
    package var byteCount: UInt64
    /// 0: as many as there is room for.
    package var inodeCount: UInt64

    package init(byteCount: UInt64, inodeCount: UInt64 = 0) {
        self.byteCount = byteCount
        self.inodeCount = inodeCount
    }

    /// Numbers up to here fit SQLite's and can be counted on from.
    package static let largest = UInt64(Int64.max / 2)
    package static let rule = "a volume holds at most \(largest) bytes and as many files"

    package var isCountable: Bool { byteCount <= Self.largest && inodeCount <= Self.largest }

    /// What two records of one volume come to: limits only grow.
    package func agreed(with other: VolumeLimits) -> VolumeLimits {
        VolumeLimits(
            byteCount: byteCount == 0 || other.byteCount == 0 ? 0 : max(byteCount, other.byteCount),
            inodeCount: inodeCount == 0 || other.inodeCount == 0 ? 0 : max(inodeCount, other.inodeCount))
    }
}

/// One name in a directory.
package struct DirectoryEntryRecord: Hashable, Sendable {
    package var parent: InodeNumber
    /// Where the entry stands in a listing: unique in the volume, and growing with each new entry.
    package var cookie: Int64
    package var name: [UInt8]
    package var inode: InodeNumber
    package var kind: FileKind

    package init(parent: InodeNumber, cookie: Int64, name: [UInt8], inode: InodeNumber, kind: FileKind) {
        self.parent = parent
        self.cookie = cookie
        self.name = name
        self.inode = inode
        self.kind = kind
    }
}

/// A change to a catalog as it travels between sites: put a row, or take it away.
///
/// Applying a row twice is the same as once.
package enum CatalogRow: Hashable, Sendable {
    case inode(InodeRecord)
    case removedInode(InodeNumber)
    case entry(DirectoryEntryRecord)
    case removedEntry(parent: InodeNumber, cookie: Int64)
    case attribute(InodeNumber, name: [UInt8], value: [UInt8])
    case removedAttribute(InodeNumber, name: [UInt8])
}

/// The sums that are kept with a catalog, so that nobody has to count.
package struct CatalogCounters: Hashable, Sendable {
    package var nextInode: InodeNumber
    package var nextCookie: Int64
    package var inodeCount: UInt64
    /// The sizes of all files that may hold data, in bytes.
    package var byteCount: UInt64
    /// What all files take of the capacity, in bytes.
    package var allocatedByteCount: UInt64

    package init(
        nextInode: InodeNumber, nextCookie: Int64, inodeCount: UInt64, byteCount: UInt64,
        allocatedByteCount: UInt64
    ) {
        self.allocatedByteCount = allocatedByteCount
        self.nextInode = nextInode
        self.nextCookie = nextCookie
        self.inodeCount = inodeCount
        self.byteCount = byteCount
    }
}

/// How full a volume is, as everybody is told: programs by statfs(2), Kubernetes by NodeGetVolumeStats.
package struct VolumeUsage: Hashable, Sendable {
    /// The unit of statfs(2), in which it is told whole.
    package static let blockSize: UInt64 = 4096

    /// Multiples of the block size. No more is ever told as used than there is.
    package let totalByteCount: UInt64
    package let usedByteCount: UInt64
    package let totalInodeCount: UInt64
    package let usedInodeCount: UInt64

    /// - Parameter diskByteCount: how large the disk is; asked for where the volume has no limit of its own.
    package init(_ counters: CatalogCounters, limits: VolumeLimits, diskByteCount: () -> UInt64) {
        let limit = limits.byteCount / Self.blockSize
        let total = limit > 0 ? limit : diskByteCount() / Self.blockSize
        let (whole, rest) = counters.allocatedByteCount.quotientAndRemainder(dividingBy: Self.blockSize)
        totalByteCount = total * Self.blockSize
        usedByteCount = min(total, whole + (rest > 0 ? 1 : 0)) * Self.blockSize
        // Without a limit: inodes are rows, and what bounds them is the disk, at less than 256 bytes each.
        let wanted = limits.inodeCount > 0 ? limits.inodeCount : totalByteCount / 1024
        totalInodeCount = max(counters.inodeCount, wanted)
        usedInodeCount = counters.inodeCount
    }
}
