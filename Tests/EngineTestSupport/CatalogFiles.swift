package import Catalog
package import VolumeModel

extension CatalogState {
    /// Makes an empty file that has no name.
    package mutating func addFile() throws -> InodeNumber {
        try addInode { number in
            InodeRecord(
                attributes: FileAttributes(
                    inode: number, kind: .regular, permissions: 0o644, linkCount: 1, uid: 0, gid: 0,
                    accessTime: .zero, modificationTime: .zero, changeTime: .zero))
        }.attributes.inode
    }

    /// Makes an empty file in the root directory.
    @discardableResult
    package mutating func addFile(_ name: [UInt8]) throws -> InodeNumber {
        let inode = try addFile()
        try addEntry(name, in: .root, inode: inode, kind: .regular)
        return inode
    }
}
