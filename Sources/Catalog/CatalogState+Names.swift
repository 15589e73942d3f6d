internal import SQLite
package import VolumeModel

/// The names in directories.
extension CatalogState {
    /// - Returns: nil when there is no such name.
    /// - Throws: `.missingDirectory` when that is not known yet.
    package func entry(_ name: [UInt8], in parent: InodeNumber) throws -> DirectoryEntryRecord? {
        if let stored = try storedEntry(name, in: parent) { return stored.entry }
        if isArriving, try missingPlace(of: parent) != nil,
            !absentNames.contains(ListingRequest.Name(directory: parent, name: name))
        {
            throw CatalogError.missingDirectory(parent, name: name)
        }
        return nil
    }

    func storedEntry(
        _ name: [UInt8], in parent: InodeNumber
    ) throws(SQLiteError) -> (entry: DirectoryEntryRecord, born: SequenceNumber)? {
        statements.findEntry.bind(1, parent.number)
        statements.findEntry.bind(2, name)
        return try statements.findEntry.first { row in
            let entry = DirectoryEntryRecord(
                parent: parent, cookie: row.integer(0), name: name, inode: InodeNumber(row.unsigned(1)),
                kind: FileKind(rawValue: row.unsigned32(2)) ?? .regular)
            return (entry, SequenceNumber(row.integer(3)))
        }
    }

    package mutating func addEntry(
        _ name: [UInt8], in parent: InodeNumber, inode: InodeNumber, kind: FileKind
    ) throws {
        try checkListed(parent)
        try beginIfNeeded()
        let cookie = counters.nextCookie
        counters.nextCookie += 1
        try put(DirectoryEntryRecord(parent: parent, cookie: cookie, name: name, inode: inode, kind: kind))
        touch(parent)
        touch(inode)
    }

    func put(_ entry: DirectoryEntryRecord) throws(SQLiteError) {
        statements.putEntry.bind(1, entry.parent.number)
        statements.putEntry.bind(2, entry.cookie)
        statements.putEntry.bind(3, entry.name)
        statements.putEntry.bind(4, entry.inode.number)
        statements.putEntry.bind(5, entry.kind.rawValue)
        statements.putEntry.bind(6, sequence.number)
        try statements.putEntry.run()
    }

    package mutating func removeEntry(_ name: [UInt8], in parent: InodeNumber) throws {
        try checkListed(parent)
        guard let (entry, born) = try storedEntry(name, in: parent) else { return }
        try beginIfNeeded()
        let statement = isPinned(born) ? statements.endEntry : statements.deleteEntry
        statement.bind(1, parent.number)
        statement.bind(2, entry.cookie)
        if isPinned(born) { statement.bind(3, sequence.number) }
        try statement.run()
        touch(parent)
        touch(entry.inode)
    }

    /// Gives the place of one entry to another, so that a listing shows it once, and ends, however often names change
    /// in the meantime. An entry that somebody may still want to see stays, and the new one comes behind all.
    package mutating func replaceEntry(
        _ name: [UInt8], in parent: InodeNumber, by newName: [UInt8], inode: InodeNumber, kind: FileKind
    ) throws {
        try checkListed(parent)
        guard let (entry, born) = try storedEntry(name, in: parent), !isPinned(born) else {
            try removeEntry(name, in: parent)
            try addEntry(newName, in: parent, inode: inode, kind: kind)
            return
        }
        try beginIfNeeded()
        try put(
            DirectoryEntryRecord(
                parent: parent, cookie: entry.cookie, name: newName, inode: inode, kind: kind))
        touch(parent)
        touch(entry.inode)
        touch(inode)
    }

    /// Up to `limit` entries behind `cookie`, in the order of their cookies; none: there are no more.
    ///
    /// - Throws: `.missingDirectory` when the next ones have not come yet.
    package func entries(
        of parent: InodeNumber, after cookie: Int64, limit: Int
    ) throws -> [DirectoryEntryRecord] {
        statements.listEntries.bind(1, parent.number)
        statements.listEntries.bind(2, cookie)
        statements.listEntries.bind(3, Int64(limit))
        let place = try missingPlace(of: parent)
        var entries: [DirectoryEntryRecord] = []
        try statements.listEntries.forEach { row in
            // Behind it stands only what was asked for by itself.
            if let place, row.integer(0) > place.after { return false }
            entries.append(
                DirectoryEntryRecord(
                    parent: parent, cookie: row.integer(0), name: row.bytes(1),
                    inode: InodeNumber(row.unsigned(2)),
                    kind: FileKind(rawValue: row.unsigned32(3)) ?? .regular))
            return true
        }
        if entries.isEmpty, place != nil { throw CatalogError.missingDirectory(parent, name: nil) }
        return entries
    }

    package func isEmptyDirectory(_ inode: InodeNumber) throws -> Bool {
        statements.anyEntry.bind(1, inode.number)
        if try statements.anyEntry.first({ _ in true }) != nil { return false }
        try checkListed(inode)
        return true
    }
}
