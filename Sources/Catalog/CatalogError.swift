package import SQLite
package import VolumeModel

/// Why a catalog could not do what it was asked.
package enum CatalogError: Error, Sendable, CustomStringConvertible {
    /// The database or its disk failed. `isDiskFull` tells whether room would help.
    case database(SQLiteError)
    /// The file is there but is not what it should be; nothing was changed.
    case unusable(path: String, reason: String)
    /// A follower asks from where it was never brought: it must begin anew. Its trouble, not the catalog's.
    case unknownPosition(follower: String, SequenceNumber)
    /// A directory's entries are still at the origin, all or some of them; with a name: whether it exists is not
    /// known yet. Nothing was changed: fetch them and do the same again.
    case missingDirectory(InodeNumber, name: [UInt8]?)
    /// An earlier failure left changes that may not be on disk: every later change is refused.
    case failedBefore(SQLiteError)
    /// A system call on one of the catalog's files failed.
    case system(call: String, path: String, Errno)

    /// Whether the database's file was found damaged.
    package var isDamage: Bool {
        if case .database(let error) = self { return error.isCorruption }
        return false
    }

    /// The file is not what it was.
    static func damaged(_ path: String, _ what: String) -> CatalogError {
        .unusable(path: path, reason: "\(what): \(remedy)")
    }

    /// What a person is to do. SQLite would take the log that is there for another copy's as well.
    static let remedy = "restore it from another copy, with that copy's log (-wal) or with none"

    package var description: String {
        switch self {
        case .database(let error): "catalog: \(error)"
        case .unusable(let path, let reason): "catalog \(path): \(reason)"
        case .unknownPosition(let follower, let since):
            "'\(follower)' asks for changes since \(since), which it did not get from here: it must begin anew"
        case .missingDirectory(let directory, _):
            "catalog: not all entries of directory \(directory) have arrived yet"
        case .failedBefore(let error): "catalog refuses changes since an earlier failure: \(error)"
        case .system(let call, let path, let errno): "catalog: \(call) \(path): \(errno)"
        }
    }
}
