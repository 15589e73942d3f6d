internal import SQLite
package import VolumeModel

/// All names of a catalog as of its last commit, on a connection of its own: long searches hold up nobody.
///
/// Unchecked Sendable: used by one thread at a time, like its connection.
package final class CatalogNames: @unchecked Sendable {
    package struct Child {
        package let name: [UInt8]
        package let inode: InodeNumber
        package let kind: FileKind
        package let size: UInt64
        package let modificationTime: FileTime
    }

    private let all, children, name: Statement

    package init(_ catalog: Catalog) throws(CatalogError) {
        do {
            let connection = try catalog.connectAgain()
            all = try connection.prepare("SELECT parent, name, ino FROM entry WHERE died = 0")
            children = try connection.prepare(
                """
                SELECT e.name, e.ino, e.kind, i.size, i.mtime FROM entry AS e
                JOIN inode AS i ON i.ino = e.ino AND i.died = 0 WHERE e.parent = ?1 AND e.died = 0
                """)
            name = try connection.prepare(
                """
                SELECT e.name, e.parent FROM inode AS i JOIN entry AS e ON e.parent = i.parent
                WHERE i.ino = ?1 AND i.died = 0 AND e.ino = ?1 AND e.died = 0
                """)
        } catch {
            throw .database(error)
        }
    }

    /// Every name with the directory that holds it, until `visit` gives false. A second for some millions.
    package func forEach(
        _ visit: (_ name: [UInt8], _ directory: InodeNumber, _ inode: InodeNumber) -> Bool
    ) throws(CatalogError) {
        do {
            try all.forEach { visit($0.bytes(1), InodeNumber($0.unsigned(0)), InodeNumber($0.unsigned(2))) }
        } catch {
            throw .database(error)
        }
    }

    package func children(of directory: InodeNumber) throws(CatalogError) -> [Child] {
        children.bind(1, directory.number)
        var found: [Child] = []
        do {
            try children.forEach { row in
                found.append(
                    Child(
                        name: row.bytes(0), inode: InodeNumber(row.unsigned(1)),
                        kind: FileKind(rawValue: row.unsigned32(2)) ?? .regular, size: row.unsigned(3),
                        modificationTime: FileTime(packed: row.integer(4))))
                return true
            }
        } catch {
            throw .database(error)
        }
        return found
    }

    /// A directory's own name and where it is; nil for the root.
    package func place(
        ofDirectory inode: InodeNumber
    ) throws(CatalogError) -> (name: [UInt8], parent: InodeNumber)? {
        name.bind(1, inode.number)
        do {
            return try name.first { ($0.bytes(0), InodeNumber($0.unsigned(1))) }
        } catch {
            throw .database(error)
        }
    }
}
