import VolumeModel

/// Catalog rows of each kind, to begin with.
enum CatalogSamples {
    static let rows: [CatalogRow] = {
        let time = FileTime(seconds: -5, nanoseconds: 999_999_999)
        let kinds: [FileKind] = [.regular, .directory, .symbolicLink, .socket]
        let inodes = kinds.enumerated().map { index, kind in
            let attributes = FileAttributes(
                inode: InodeNumber(UInt64(index) * 1000 + 2), kind: kind, permissions: 0o4755, linkCount: 3,
                uid: .max, gid: 5, device: 7, size: 1 << 40, blockCount: 12, accessTime: time,
                modificationTime: .zero, changeTime: time)
            return CatalogRow.inode(
                InodeRecord(
                    attributes: attributes, parent: .root,
                    target: kind == .symbolicLink ? Array("to/there".utf8) : [],
                    backedByteCount: kind == .regular ? 1 << 40 : 0))
        }
        return inodes + [
            .removedInode(InodeNumber(99)),
            .entry(
                DirectoryEntryRecord(
                    parent: .root, cookie: 1 << 40, name: [0xff, 1, 0x2e], inode: InodeNumber(9),
                    kind: .socket)),
            .removedEntry(parent: .root, cookie: 3),
            .attribute(InodeNumber(4), name: Array("user.x".utf8), value: [0, 1, 2]),
            .removedAttribute(InodeNumber(4), name: Array("user.x".utf8)),
        ]
    }()

    static func encoded(_ rows: [CatalogRow]) -> [UInt8] {
        var bytes: [UInt8] = []
        for row in rows { CatalogRowCoder.append(row, to: &bytes) }
        return bytes
    }
}
