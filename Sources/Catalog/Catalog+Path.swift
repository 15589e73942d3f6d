internal import SQLite
package import VolumeModel

extension Catalog {
    /// A path of an inode, for people: one of its names as of the last commit, or nil if that cannot be told.
    ///
    /// Looks through all names, on a connection of its own: a second for some millions of them.
    package func path(of inode: InodeNumber) -> String? {
        guard let connection = try? connectAgain(),
            let anywhere = try? connection.prepare(
                "SELECT name, parent FROM entry WHERE ino = ?1 AND died = 0"),
            let inParent = try? connection.prepare(
                """
                SELECT entry.name, entry.parent FROM inode JOIN entry ON entry.parent = inode.parent
                WHERE inode.ino = ?1 AND inode.died = 0 AND entry.ino = ?1 AND entry.died = 0
                """)
        else { return nil }
        var names: [String] = []
        var current = inode
        while current != .root, names.count < 4096 {
            let statement = names.isEmpty ? anywhere : inParent
            statement.bind(1, current.number)
            let found = try? statement.first { ($0.text(0), InodeNumber($0.unsigned(1))) }
            guard let (name, parent) = found ?? nil else { return nil }
            names.append(name)
            current = parent
        }
        return "/" + names.reversed().joined(separator: "/")
    }
}
