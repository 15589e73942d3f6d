internal import Glibc
internal import SQLite
internal import VolumeModel

/// Sums for a catalog that an earlier release has made without.
///
/// A new file is made beside the catalog, synced, and given its name. What is left by an end in between:
/// - Until it has the name: the catalog as it was, with an empty log or none, and perhaps a part of the new file, which nobody
///   reads and the next repair removes.
/// - From then on: the new file, which has no log. The other one's is gone by then, also after a power loss: SQLite binds
///   no log to a file, and would take it for the new one's.
extension CatalogCheck {
    /// Writes a catalog anew, with sums, if it has none and nothing is wrong with it. All its rows stay as they are, but for the
    /// schema's number. The catalog must not be in use. May be repeated.
    ///
    /// - Throws: `.unusable` when another process has it open. The catalog is as it was then, as after each other failure before
    ///   the new file takes its place.
    package static func givePageSums(_ directory: String) throws(CatalogError) {
        let lock = try HeadLock(directory: directory)
        defer { lock.release() }
        let path = directory + "/" + Catalog.fileName
        let new = path + "-new"
        do {
            guard try lacksNothingElse(directory) else { return }
            try remove(new, with: [""] + besides)
            try copy(path, withSumsTo: new)
            try remove(new, with: besides)
            try verify(new)
            try synchronize(new)
            // Nobody has used it since.
            try expectEmptyLog(of: path)
            try remove(path, with: ["-wal", "-shm"])
            try Catalog.synchronizeDirectory(directory)
            guard rename(new, path) == 0 else {
                throw CatalogError.system(call: "rename", path: new, Errno(errno))
            }
            try Catalog.synchronizeDirectory(directory)
        } catch {
            // It takes room. Where it cannot be removed the next repair does.
            try? remove(new, with: [""] + besides)
            if let error = error as? SQLiteError { throw .database(error) }
            throw (error as? CatalogError) ?? .unusable(path: path, reason: "\(error)")
        }
    }

    /// What SQLite makes beside a database.
    private static let besides = ["-journal", "-wal", "-shm"]

    /// Whether a catalog has no sums, and nothing else is wrong with it.
    private static func lacksNothingElse(_ directory: String) throws(CatalogError) -> Bool {
        let findings = try CatalogCheck(of: directory).findings
        return !findings.isEmpty && findings.allSatisfy { $0.kind == .weakness }
    }

    private static func copy(_ path: String, withSumsTo new: String) throws {
        let connection = try Catalog.connect(to: path)
        try Catalog.checkVersion(of: connection, path: path)
        try Catalog.checkLog(of: connection, path: path)
        try connection.execute("PRAGMA synchronous = FULL")
        // All of it is in the file then, synced.
        guard try connection.checkpoint(empties: true) else { throw inUse(path) }
        // SQLite would make it for others to read as well.
        let descriptor = open(new, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw CatalogError.system(call: "open", path: new, Errno(errno)) }
        close(descriptor)
        try connection.reservePageSums()
        let vacuum = try connection.prepare("VACUUM INTO ?1")
        vacuum.bind(1, new)
        try vacuum.run()
        // Still without a log, so that nothing of it is anywhere else.
        let copy = try Connection(path: new, mode: .readWrite)
        try copy.execute("PRAGMA synchronous = FULL")
        try CatalogStatements(copy).setMeta(.schemaVersion, CatalogSchema.version)
        try copy.execute("PRAGMA journal_mode = WAL")
    }

    /// Reads all of a file that was made, and nothing beside it.
    private static func verify(_ new: String) throws {
        let file = try Connection(path: new, mode: .fileAlone)
        try Catalog.checkVersion(of: file, path: new)
        let header = try file.header()
        let result = try file.prepare("PRAGMA integrity_check(1)").first { $0.text(0) }
        guard file.keepsPageSums, header[18] == 2, header[19] == 2, result == "ok" else {
            throw CatalogError.damaged(new, result ?? "it holds no catalog")
        }
    }

    private static func synchronize(_ path: String) throws(CatalogError) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else { throw .system(call: "open", path: path, Errno(errno)) }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw .system(call: "fsync", path: path, Errno(errno)) }
    }

    private static func expectEmptyLog(of path: String) throws(CatalogError) {
        var log = stat()
        guard stat(path + "-wal", &log) == 0, log.st_size > 0 else { return }
        throw inUse(path)
    }

    private static func inUse(_ path: String) -> CatalogError {
        .unusable(path: path, reason: "another program has it open: end that first")
    }

    private static func remove(_ path: String, with suffixes: [String]) throws(CatalogError) {
        for suffix in suffixes where unlink(path + suffix) != 0 && errno != ENOENT {
            throw .system(call: "unlink", path: path + suffix, Errno(errno))
        }
    }
}
