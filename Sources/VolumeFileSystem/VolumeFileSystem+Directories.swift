internal import Catalog
package import VolumeModel

/// Listing directories. An entry's place is its cookie, which grows with each new entry: what exists
/// throughout a listing is given exactly once, whatever else changes meanwhile.
extension VolumeFileSystem {
    package func readDirectory(
        _ inode: InodeNumber, offset: Int64, limit: Int, keepsAccessTime: Bool
    ) throws(FileSystemError) -> [DirectoryEntry] {
        try run { state in
            var entries: [DirectoryEntry] = []
            for entry in try state.entries(of: inode, after: max(0, offset), limit: limit) {
                guard let record = try state.peekInode(entry.inode) else { continue }
                entries.append(
                    DirectoryEntry(
                        name: entry.name, nextOffset: entry.cookie, attributes: record.attributes))
            }
            // Its names can be read although it itself is damaged.
            if !keepsAccessTime, let directory = try? state.inode(inode) {
                self.noteAccess(to: directory, in: &state)
            }
            return entries
        }
    }

    package func parent(ofDirectory inode: InodeNumber) throws(FileSystemError) -> InodeNumber {
        try run { try $0.directory(inode).parent }
    }
}
