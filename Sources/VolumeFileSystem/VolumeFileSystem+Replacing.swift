internal import Catalog
internal import Synchronization
internal import VolumeModel

/// Files that take the place of others, or of what they held themselves, though nobody syncs them: as ext4 does with
/// `auto_da_alloc`, a commit waits for their bytes. So a power loss leaves what was there before, or what came.
///
/// Source: the kernel's Documentation/admin-guide/ext4.rst, auto_da_alloc.
extension VolumeFileSystem {
    /// What is longer is waited for when it is closed, as on ext4, not while it is written: else whoever syncs anything
    /// would wait for who copies something large.
    private static let rewrittenByteLimit: UInt64 = 1 << 20
    /// The same for what is still written so long after the cut, as a daemon's log is that was rotated by a copy: it is
    /// never closed. Who writes a file anew does so at once.
    static let rewritingTime = Duration.seconds(5)

    /// The next commit gives an inode a name of another.
    func awaitBytes(of inode: InodeNumber, in state: inout CatalogState) throws {
        guard let record = try state.inode(inode), record.attributes.kind == .regular else { return }
        storage.awaitBytes(of: record, in: &state)
    }

    /// A file that had bytes was cut to nothing. To be called under its data lock.
    func beginRewriting(_ inode: InodeNumber) {
        opens.withLock { opens in
            // Whoever has it open ends it.
            guard opens.counts[inode] != nil else { return }
            opens.rewritten.insert(inode)
            rewriting.withLock { $0[inode] = ContinuousClock.now + Self.rewritingTime }
        }
    }

    /// Whether bytes up to here must be on the disk before a commit that shows them.
    func isRewritten(_ inode: InodeNumber, _ range: ByteRange) -> Bool {
        guard range.end <= Self.rewrittenByteLimit else { return false }
        return rewriting.withLock { rewriting in
            guard let end = rewriting[inode] else { return false }
            if ContinuousClock.now < end { return true }
            rewriting[inode] = nil
            return false
        }
    }

    /// The last handle was closed of a file that was rewritten.
    func endRewriting(_ inode: InodeNumber) {
        storage.catalog.letCommitsPass()
        // What cannot be read now cannot be committed either.
        try? storage.catalog.perform { state in try awaitBytes(of: inode, in: &state) }
    }
}
