/// How much memory the names and inodes of a volume in use may take: the database's pages and the inodes beside them.
///
/// What is not on disk yet comes on top of it: the changes between two commits, which are bounded by themselves. So does
/// what the kernel has looked up and not let go of, some 50 bytes each, which goes when the kernel needs memory.
package struct CatalogMemory: Hashable, Sendable {
    package static let smallest = CatalogMemory(unchecked: 4 << 20)
    package static let standard = CatalogMemory(unchecked: 40 << 20)

    package let byteCount: UInt64

    /// - Returns: nil when `byteCount` is less than 4 MiB, with which every operation would read from the disk.
    package init?(byteCount: UInt64) {
        guard byteCount >= Self.smallest.byteCount, byteCount <= UInt64(Int32.max) << 10 else { return nil }
        self.init(unchecked: byteCount)
    }

    private init(unchecked byteCount: UInt64) { self.byteCount = byteCount }

    /// What an inode takes in memory with its entry in the table, about.
    private static let inodeByteCount: UInt64 = 500

    /// Of the database's pages.
    var pageKibibytes: UInt64 { byteCount / 5 * 2 >> 10 }

    /// Inodes kept although the database has them.
    var inodeCount: Int { Int(clamping: byteCount / 5 * 3 / Self.inodeByteCount) }
}
