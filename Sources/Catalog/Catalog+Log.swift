internal import Glibc
internal import SQLite

extension Catalog {
    /// Looks whether the log still has all that was moved out of it into the catalog's file.
    ///
    /// SQLite takes a damaged frame for the log's end. Frames before it would then hide what is newer in the file, and only
    /// some of it: a mixture of two states. Each commit writes its number, and what is moved is synced before. So a number in
    /// the file that is higher than the one seen through the log tells of it.
    ///
    /// - Throws: `.unusable` then. Nothing is changed.
    static func checkLog(of connection: Connection, path: String) throws {
        // It is empty after an end in order.
        var log = stat()
        guard stat(path + "-wal", &log) == 0, log.st_size > 0 else { return }
        // The file first, for somebody may commit, and move the log, meanwhile. Where it cannot be read by itself, as while
        // it is all in the log, nothing is known.
        guard let moved = try? lastCommit(in: Connection(path: path, mode: .fileAlone)),
            let seen = try lastCommit(in: connection), moved > seen
        else { return }
        throw CatalogError.damaged(
            path,
            "its log ends before changes that had been moved out of it: the disk has changed it, or it is that of another copy"
        )
    }

    private static func lastCommit(in connection: Connection) throws(SQLiteError) -> Int64? {
        let find = try connection.prepare("SELECT value FROM meta WHERE key = ?1")
        find.bind(1, CatalogKey.sequence.rawValue)
        return try find.first { $0.integer(0) }
    }
}
