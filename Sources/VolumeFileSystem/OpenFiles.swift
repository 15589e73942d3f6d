package import VolumeModel

/// What the kernel has open, and knows, of a volume: all that a file system must not forget when its process changes.
///
/// Where it is not about the volume but about who uses it: the catalog keeps the rest.
package struct OpenFiles: Hashable, Sendable {
    /// Handles open for each inode.
    var counts: [InodeNumber: Int] = [:]
    /// Inodes without a name that the kernel still knows.
    package internal(set) var orphans: Set<InodeNumber> = []
    /// Those of them that it has forgotten while, as far as we know, they are still open: its requests
    /// are served by several threads, and a release may be the later one.
    var forgottenOrphans: Set<InodeNumber> = []
    /// Inodes whose fsync failed; until their last handle is closed every fsync of them fails.
    var failedSyncs: Set<InodeNumber> = []
    /// Inodes that were cut to nothing while open, until their last handle is closed: their new bytes replace the old
    /// ones. (ext4 ends it with any handle; here the kernel tells of a close when the file may be open anew.)
    var rewritten: Set<InodeNumber> = []

    package init() {}
}

/// Plain numbers, in no order.
extension OpenFiles: Codable {
    private enum CodingKeys: String, CodingKey { case opened, counts, orphans, forgotten, failed, rewritten }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        func inodes(_ key: CodingKeys) throws -> [InodeNumber] {
            try container.decode([UInt64].self, forKey: key).map { InodeNumber($0) }
        }
        let numbers = try container.decode([Int32].self, forKey: .counts)
        for (inode, count) in zip(try inodes(.opened), numbers) where count > 0 { counts[inode] = Int(count) }
        orphans = Set(try inodes(.orphans))
        forgottenOrphans = Set(try inodes(.forgotten)).intersection(orphans)
        failedSyncs = Set(try inodes(.failed))
        if container.contains(.rewritten) { rewritten = Set(try inodes(.rewritten)) }
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        let counts = Array(counts)
        try container.encode(counts.map(\.key.number), forKey: .opened)
        try container.encode(counts.map { Int32(clamping: $0.value) }, forKey: .counts)
        try container.encode(orphans.map(\.number), forKey: .orphans)
        try container.encode(forgottenOrphans.map(\.number), forKey: .forgotten)
        try container.encode(failedSyncs.map(\.number), forKey: .failed)
        if !rewritten.isEmpty { try container.encode(rewritten.map(\.number), forKey: .rewritten) }
    }
}
