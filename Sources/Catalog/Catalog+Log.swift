internal import Glibc
internal import SQLite

extension Catalog {
    /// Looks whether the log still has all that was moved out of it into the catalog's file.
    ///
    /// SQLite takes a damaged frame for the log's end. Frames before it would then hide what is newer in the file, and only
    /// some of it: a mixture of two states. Each commit writes its number, and what is moved is synced before. So a number in
    /// the file that is higher than the one seen through the log tells of it.
    ///
    /// A log with a damaged header SQLite takes for none at all. Such a one is nobody's work: its 32 bytes are written at once,
    /// and synced before the first frame; until then they are zeros, or missing.
    ///
    /// - Throws: `.unusable` then. Nothing is changed.
    static func checkLog(of connection: Connection, path: String) throws {
        // It is empty after an end in order.
        var log = stat()
        guard stat(path + "-wal", &log) == 0, log.st_size > 0 else { return }
        guard try WriteAheadLog.hasHeader(path + "-wal") else {
            throw CatalogError.damaged(path, "its log is damaged at its beginning: the disk has changed it")
        }
        // The file first, for somebody may commit, and move the log, meanwhile.
        guard let moved = try lastCommit(inFileOf: path), let seen = try lastCommit(in: connection),
            moved > seen
        else { return }
        throw CatalogError.damaged(
            path,
            "its log ends before changes that had been moved out of it: the disk has changed it, or it is that of another copy"
        )
    }

    /// - Returns: nil where nothing is known: all of it is in the log, or pages are being moved.
    private static func lastCommit(inFileOf path: String) throws(CatalogError) -> Int64? {
        do throws(SQLiteError) {
            let file = try Connection(path: path, mode: .fileAlone)
            // Else SQLite refuses a file that is shorter than its first page says, as it is where moving was cut off.
            try file.execute("PRAGMA writable_schema = ON")
            return try lastCommit(in: file)
        } catch {
            guard error.isCorruption || error.isMissingTable else { throw .database(error) }
            return nil
        }
    }

    private static func lastCommit(in connection: Connection) throws(SQLiteError) -> Int64? {
        let find = try connection.prepare("SELECT value FROM meta WHERE key = ?1")
        find.bind(1, CatalogKey.sequence.rawValue)
        return try find.first { $0.integer(0) }
    }
}
