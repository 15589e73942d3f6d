/// A moment, in seconds and nanoseconds since 1970-01-01 00:00 UTC, as stat(2) gives it.
package struct FileTime: Hashable, Sendable, Comparable {
    package let seconds: Int64
    /// 0 ..< 1,000,000,000
    package let nanoseconds: UInt32

    package init(seconds: Int64, nanoseconds: UInt32) {
        self.seconds = seconds
        self.nanoseconds = min(nanoseconds, 999_999_999)
    }

    package static let zero = FileTime(seconds: 0, nanoseconds: 0)
    /// In the year 1697, and in 2242: 2^33 seconds from 1970.
    package static let earliest = FileTime(seconds: -(1 << 33), nanoseconds: 0)
    package static let latest = FileTime(seconds: (1 << 33) - 1, nanoseconds: 0)

    /// The nearest of those that a catalog can hold.
    package var held: FileTime { min(max(self, .earliest), .latest) }

    package static func < (left: FileTime, right: FileTime) -> Bool {
        (left.seconds, left.nanoseconds) < (right.seconds, right.nanoseconds)
    }
}

/// What kind of file an inode is: the S_IFMT part of a mode (inode(7)).
package enum FileKind: UInt32, Sendable, CaseIterable {
    case fifo = 0o010000
    case characterDevice = 0o020000
    case directory = 0o040000
    case blockDevice = 0o060000
    case regular = 0o100000
    case symbolicLink = 0o120000
    case socket = 0o140000

    /// - Returns: nil for a mode whose type bits mean nothing.
    package init?(mode: UInt32) { self.init(rawValue: mode & 0o170000) }
}

/// What stat(2) tells of an inode.
package struct FileAttributes: Hashable, Sendable {
    package var inode: InodeNumber
    package var kind: FileKind
    /// Permission bits with set-user-ID, set-group-ID and sticky: 0o0000 ... 0o7777.
    package var permissions: UInt32
    package var linkCount: UInt32
    package var uid: UInt32
    package var gid: UInt32
    /// Encoded as the kernel's 32-bit dev_t; 0 but for devices.
    package var device: UInt32
    /// In bytes.
    package var size: UInt64
    /// Allocated, in units of 512 bytes, as st_blocks.
    package var blockCount: UInt64
    package var accessTime: FileTime
    package var modificationTime: FileTime
    package var changeTime: FileTime

    package init(
        inode: InodeNumber, kind: FileKind, permissions: UInt32, linkCount: UInt32, uid: UInt32, gid: UInt32,
        device: UInt32 = 0, size: UInt64 = 0, blockCount: UInt64 = 0, accessTime: FileTime,
        modificationTime: FileTime, changeTime: FileTime
    ) {
        self.inode = inode
        self.kind = kind
        self.permissions = permissions & 0o7777
        self.linkCount = linkCount
        self.uid = uid
        self.gid = gid
        self.device = device
        self.size = size
        self.blockCount = blockCount
        self.accessTime = accessTime
        self.modificationTime = modificationTime
        self.changeTime = changeTime
    }

    /// Type and permissions in one number, as st_mode.
    package var mode: UInt32 { kind.rawValue | permissions }
}

/// Which attributes to set, as in setattr of FUSE: nil leaves one as it is.
package struct AttributeChanges: Hashable, Sendable {
    package enum Time: Hashable, Sendable {
        case now
        case at(FileTime)
    }

    package var permissions: UInt32?
    package var uid: UInt32?
    package var gid: UInt32?
    package var size: UInt64?
    package var accessTime: Time?
    package var modificationTime: Time?
    package var changeTime: FileTime?
    /// Clear set-user-ID and set-group-ID because of a write, truncate or chown (FUSE's FATTR_KILL_SUIDGID).
    package var clearsSetID = false

    package init() {}

    /// Whether chown(2) asks for this, also where it names nobody.
    package var isOfOwner: Bool { uid != nil || gid != nil || isOnlyOfSetIDs }

    /// A chown(2) with neither owner nor group.
    package var isOnlyOfSetIDs: Bool {
        var only = AttributeChanges()
        only.clearsSetID = true
        return self == only
    }
}
