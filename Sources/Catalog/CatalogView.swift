internal import SQLite
package import VolumeModel

/// Whose bytes a data file holds, as of the catalog's last commit.
package struct DataOwner: Hashable, Sendable {
    package let inode: InodeNumber
    /// Some of its names, as paths in the volume; none: it was unlinked while open, or its directory is still to come.
    package let paths: [String]
    /// What of it is here; nil: all.
    package let resident: [ByteRange]?
    /// How many blocks of 512 bytes it is said to take.
    package let blockCount: UInt64
}

/// A head that was closed in order, of which nothing is elsewhere and nothing is to be cleared up.
package struct QuietHead: Hashable, Sendable {
    package let counters: CatalogCounters
    package let limits: VolumeLimits
    package let epoch: Epoch
}

/// How long a data file has to be, on the disk.
package struct DataFileClaim: Hashable, Sendable {
    package let data: DataFileNumber
    package let inode: InodeNumber
    package let size: UInt64
    /// Two that are alike were not changed in between.
    private let changeTime: Int64

    fileprivate init?(_ row: Statement, _ sizes: DataFileSizes) {
        let data = DataFileNumber(row.unsigned(0))
        guard sizes.isDurable(data, bornAt: SequenceNumber(row.integer(4))) else { return nil }
        self.data = data
        inode = InodeNumber(row.unsigned(1))
        size = row.unsigned(2)
        changeTime = row.integer(3)
    }
}

/// A head's catalog read from beside, in use or not. Nothing in it is changed.
///
/// Used by one thread at a time.
package final class CatalogView {
    private static let pathLimit = 3

    private let connection: Connection

    package init(of directory: String) throws(CatalogError) {
        let path = directory + "/" + Catalog.fileName
        do {
            connection = try Catalog.connectionToLook(at: path)
        } catch let error as SQLiteError {
            guard !error.isCorruption else { throw .damaged(path, error.message) }
            throw .unusable(path: path, reason: error.message)
        } catch {
            throw (error as? CatalogError) ?? .unusable(path: path, reason: "\(error)")
        }
    }

    /// Whether the last use ended in order, and nobody uses it now; and the first data file that may be another one
    /// after a power loss.
    package func ending() throws(CatalogError) -> (isClean: Bool, firstUncertain: DataFileNumber) {
        do {
            let statements = try CatalogStatements(connection)
            let isClean = try statements.meta(.isClean) ?? 1 == 1
            return (isClean, DataFileNumber(UInt64(bitPattern: try statements.meta(.durableData) ?? 1)))
        } catch {
            throw .database(error)
        }
    }

    /// What is to be known of a head that need not be opened.
    ///
    /// - Returns: nil when it is in use or its last use did not end in order, or when it is a replica, was sealed, lacks names
    ///   or bytes, or has files without a name: it has to be opened then.
    package func quiet() throws(CatalogError) -> QuietHead? {
        do {
            var state = try CatalogState(connection: connection, memory: .standard)
            guard try state.statements.meta(.isClean) == 1, !state.isFollower, !state.isArriving,
                state.missingByteCount == 0, try state.sealedFor() == nil, try state.orphans().isEmpty
            else { return nil }
            return QuietHead(counters: state.counters, limits: state.limits, epoch: try state.epoch())
        } catch {
            throw error as? CatalogError
                ?? .database(error as? SQLiteError ?? SQLiteError(code: 1, message: "\(error)"))
        }
    }

    private static let claims = "SELECT data, ino, size, ctime, born FROM inode WHERE died = 0 AND data > 0"

    /// Calls with every data file of which it is known how long it must be.
    package func forEachClaim(_ visit: (DataFileClaim) -> Void) throws(CatalogError) {
        do {
            let sizes = try DataFileSizes(try CatalogStatements(connection))
            try connection.prepare(Self.claims).forEach { row in
                if let claim = DataFileClaim(row, sizes) { visit(claim) }
                return true
            }
        } catch {
            throw .database(error)
        }
    }

    /// - Returns: nil when the inode is gone, has no data file, or nothing is promised of that.
    package func claim(of inode: InodeNumber) throws(CatalogError) -> DataFileClaim? {
        do {
            let sizes = try DataFileSizes(try CatalogStatements(connection))
            let find = try connection.prepare(Self.claims + " AND ino = ?1")
            find.bind(1, inode.number)
            return try find.first { DataFileClaim($0, sizes) } ?? nil
        } catch {
            throw .database(error)
        }
    }

    /// Looks through all inodes, unless one is named: a fifth of a second for a million.
    ///
    /// - Parameter inode: whose it was.
    /// - Returns: nil when it is no (or no longer that) inode's.
    package func owner(of data: DataFileNumber, inode: InodeNumber? = nil) throws(CatalogError) -> DataOwner?
    {
        do {
            let find = try connection.prepare(
                "SELECT ino, backed, blocks FROM inode WHERE died = 0 AND data = ?1"
                    + (inode == nil ? "" : " AND ino = ?2"))
            find.bind(1, data.number)
            if let inode { find.bind(2, inode.number) }
            let row = try find.first { (InodeNumber($0.unsigned(0)), $0.unsigned(1), $0.unsigned(2)) }
            guard let (found, backed, blockCount) = row else { return nil }
            return DataOwner(
                inode: found, paths: try paths(of: found), resident: try resident(found, backed: backed),
                blockCount: blockCount)
        } catch {
            throw .database(error)
        }
    }

    /// - Returns: nil when the inode is gone, or has none.
    package func dataFile(of inode: InodeNumber) throws(CatalogError) -> DataFileNumber? {
        do {
            let find = try connection.prepare(
                "SELECT data FROM inode WHERE died = 0 AND data > 0 AND ino = ?1")
            find.bind(1, inode.number)
            return try find.first { DataFileNumber($0.unsigned(0)) }
        } catch {
            throw .database(error)
        }
    }

    /// What came from the origin, and all beyond what the origin has.
    private func resident(_ inode: InodeNumber, backed: UInt64) throws(SQLiteError) -> [ByteRange]? {
        guard backed > 0 else { return nil }
        var ranges: [ByteRange] = []
        let list = try connection.prepare("SELECT start, end FROM resident WHERE ino = ?1")
        list.bind(1, inode.number)
        try list.forEach { row in
            if row.unsigned(0) <= row.unsigned(1), row.unsigned(1) <= UInt64(Int64.max) {
                ranges.append(ByteRange(row.unsigned(0), row.unsigned(1)))
            }
            return true
        }
        let end = UInt64(Int64.max)
        return ranges + (backed < end ? [ByteRange(backed, end)] : [])
    }

    private func paths(of inode: InodeNumber) throws(SQLiteError) -> [String] {
        let names = try connection.prepare(
            "SELECT name, parent FROM entry WHERE ino = ?1 AND died = 0 LIMIT ?2")
        names.bind(1, inode.number)
        names.bind(2, Int64(Self.pathLimit))
        var found: [(name: String, parent: InodeNumber)] = []
        try names.forEach { row in
            found.append((row.text(0), InodeNumber(row.unsigned(1))))
            return true
        }
        let inParent = try connection.prepare(
            """
            SELECT entry.name, entry.parent FROM inode JOIN entry ON entry.parent = inode.parent
            WHERE inode.ino = ?1 AND inode.died = 0 AND entry.ino = ?1 AND entry.died = 0
            """)
        var paths: [String] = []
        for (name, parent) in found {
            var (parts, current) = ([name], parent)
            while current != .root, parts.count < 4096 {
                inParent.bind(1, current.number)
                guard let (next, above) = try inParent.first({ ($0.text(0), InodeNumber($0.unsigned(1))) })
                else {
                    break
                }
                parts.append(next)
                current = above
            }
            if current == .root { paths.append("/" + parts.reversed().joined(separator: "/")) }
        }
        return paths
    }
}

extension Catalog {
    /// For whoever looks at a catalog that others may have in use, and changes nothing.
    static func connectionToLook(at path: String) throws -> Connection {
        // Read-write because the log of a catalog in use needs its index file; nothing is written.
        let connection = try connect(to: path)
        connection.keepWriteAheadLog()
        try connection.execute("PRAGMA query_only = ON")
        try checkVersion(of: connection, path: path)
        try checkLog(of: connection, path: path)
        return connection
    }
}
