internal import SQLite
package import VolumeModel

/// The origin's side of a catalog that arrives directory by directory.
extension Catalog {
    /// Entries that are read under one holding of the lock.
    private static let chunkCount = 500
    /// Directories in one answer at most: an empty one costs no rows.
    private static let partLimit = 4096

    /// Lists directories of a head that does not change any more, or as it was at a position that is pinned.
    ///
    /// - Parameter position: nil: as it is.
    /// - Returns: the name and the inodes asked for, as far as they exist, then as much of the places, and of what is
    ///   below, as fits. Of the first place there is at least one entry, if it has one.
    /// - Throws: `.missingDirectory` when it has not arrived here itself.
    package func list(_ request: ListingRequest, asOf position: SequenceNumber? = nil) throws -> Listing {
        // Rows are all that is listed.
        try commit()
        var answer = Listing()
        var byteCount = 0
        if let name = request.name, let file = try perform({ try $0.listedFile(name, asOf: position) }) {
            answer.singles += file.rows
        }
        for inode in request.inodes where byteCount < request.byteCount {
            guard let file = try perform({ try $0.listedFile(inode, asOf: position) }) else { continue }
            answer.singles += file.rows
            byteCount += file.approximateByteCount
        }
        var waiting = request.places[...]
        while let place = waiting.popFirst(), answer.parts.count < Self.partLimit {
            guard byteCount < request.byteCount || answer.parts.isEmpty else { break }
            let (part, files) = try list(
                place, asOf: position, byteCount: request.byteCount - byteCount)
            for file in files {
                answer.rows += file.rows
                byteCount += file.approximateByteCount
            }
            answer.parts.append(part)
            guard request.descends else { continue }
            waiting += files.lazy.filter { $0.record.attributes.kind == .directory }
                .map { ListingPlace(directory: $0.record.attributes.inode, after: 0) }
        }
        return answer
    }

    /// As many entries of a directory as take this many bytes, and one at least.
    private func list(
        _ place: ListingPlace, asOf position: SequenceNumber?, byteCount: Int
    ) throws -> (part: Listing.Part, files: [ListedFile]) {
        var files: [ListedFile] = []
        var room = byteCount
        var last = place.after
        var isComplete = false
        repeat {
            let count = min(Self.chunkCount, max(1, room / 64))
            let chunk = try perform { state in
                try state.listedFiles(
                    of: ListingPlace(directory: place.directory, after: last), asOf: position, limit: count)
            }
            isComplete = chunk.count < count
            for file in chunk {
                guard room > 0 || files.isEmpty else {
                    isComplete = false
                    break
                }
                files.append(file)
                room -= file.approximateByteCount
                last = file.entry?.cookie ?? last
            }
        } while !isComplete && room > 0
        let part = Listing.Part(
            directory: place.directory, after: place.after, last: last, isComplete: isComplete)
        return (part, files)
    }

    /// The head's present position, for an heir that begins with nothing.
    package func position() throws -> CatalogPosition {
        try perform { state in
            try state.checkWhole()
            return CatalogPosition(
                sequence: state.committedSequence, counters: state.counters, limits: state.limits)
        }
    }
}

/// A file as it stands in a listing.
struct ListedFile: Sendable {
    struct Attribute: Sendable {
        let inode: InodeNumber
        let name: [UInt8]
        let value: [UInt8]
    }

    let entry: DirectoryEntryRecord?
    let record: InodeRecord
    var attributes: [Attribute] = []

    var rows: [CatalogRow] {
        attributes.map { .attribute($0.inode, name: $0.name, value: $0.value) } + [.inode(record)]
            + (entry.map { [.entry($0)] } ?? [])
    }

    var approximateByteCount: Int {
        // As `CatalogRowCoder` writes them.
        45 + (entry?.name.count ?? 0) + record.target.count
            + attributes.reduce(0) { $0 + $1.name.count + $1.value.count + 6 }
    }
}

extension CatalogState {
    /// As of the last commit, which is all there is to a sealed head, or of an earlier one.
    func listedFiles(
        of place: ListingPlace, asOf position: SequenceNumber?, limit: Int
    ) throws -> [ListedFile] {
        if let known = try missingPlace(of: place.directory) {
            throw CatalogError.missingDirectory(known.directory, name: nil)
        }
        let statement = statements.listFiles
        statement.bind(1, place.directory.number)
        statement.bind(2, place.after)
        statement.bind(3, Int64(limit))
        statement.bind(4, position?.number ?? .max)
        var files: [ListedFile] = []
        var isMalformed = false
        try statement.forEach { row in
            guard let (record, _) = CatalogStatements.record(of: row) else {
                isMalformed = true
                return false
            }
            files.append(ListedFile(entry: Self.joinedEntry(of: row), record: record))
            return true
        }
        guard !isMalformed else {
            throw CatalogError.unusable(
                path: connection.path, reason: "an inode in directory \(place.directory) is malformed")
        }
        guard let last = files.last?.entry?.cookie else { return [] }
        let attributes = statements.listFileXattrs
        attributes.bind(1, place.directory.number)
        attributes.bind(2, place.after)
        attributes.bind(3, last)
        attributes.bind(4, position?.number ?? .max)
        var byInode: [InodeNumber: [ListedFile.Attribute]] = [:]
        try attributes.forEach { row in
            let inode = InodeNumber(row.unsigned(0))
            byInode[inode, default: []].append(
                ListedFile.Attribute(inode: inode, name: row.bytes(1), value: row.bytes(2)))
            return true
        }
        guard !byInode.isEmpty else { return files }
        for index in files.indices {
            files[index].attributes = byInode[files[index].record.attributes.inode] ?? []
        }
        return files
    }

    private static func joinedEntry(of row: Statement) -> DirectoryEntryRecord {
        // Behind the sixteen columns of the inode.
        DirectoryEntryRecord(
            parent: InodeNumber(row.unsigned(16)), cookie: row.integer(17), name: row.bytes(18),
            inode: InodeNumber(row.unsigned(19)), kind: FileKind(rawValue: row.unsigned32(20)) ?? .regular)
    }

    func listedFile(_ inode: InodeNumber, asOf position: SequenceNumber?) throws -> ListedFile? {
        if let position { return try storedFile(inode, asOf: position) }
        guard let record = try peekInode(inode) else { return nil }
        let attributes = try extendedAttributeNames(of: inode).map { name in
            ListedFile.Attribute(
                inode: inode, name: name, value: try storedAttribute(name, of: inode) ?? [])
        }
        return ListedFile(entry: nil, record: record, attributes: attributes)
    }

    func listedFile(_ name: ListingRequest.Name, asOf position: SequenceNumber?) throws -> ListedFile? {
        let entry =
            if let position {
                try storedEntry(name, asOf: position)
            } else {
                try entry(name.name, in: name.directory)
            }
        guard let entry, let file = try listedFile(entry.inode, asOf: position) else { return nil }
        return ListedFile(entry: entry, record: file.record, attributes: file.attributes)
    }

    // MARK: as it was

    private static func wasThere(at parameter: Int) -> String {
        "born <= ?\(parameter) AND (died = 0 OR died > ?\(parameter))"
    }

    func storedRecord(_ inode: InodeNumber, asOf position: SequenceNumber) throws -> InodeRecord? {
        let find = try connection.prepare(
            "SELECT \(CatalogStatements.inodeColumns) FROM inode WHERE ino = ?1 AND \(Self.wasThere(at: 2))")
        find.bind(1, inode.number)
        find.bind(2, position.number)
        return try find.first { CatalogStatements.record(of: $0)?.record } ?? nil
    }

    private func storedFile(_ inode: InodeNumber, asOf position: SequenceNumber) throws -> ListedFile? {
        guard let record = try storedRecord(inode, asOf: position) else { return nil }
        let find = try connection.prepare(
            "SELECT name, value FROM xattr WHERE ino = ?1 AND \(Self.wasThere(at: 2)) ORDER BY name")
        find.bind(1, inode.number)
        find.bind(2, position.number)
        var attributes: [ListedFile.Attribute] = []
        try find.forEach { row in
            attributes.append(ListedFile.Attribute(inode: inode, name: row.bytes(0), value: row.bytes(1)))
            return true
        }
        return ListedFile(entry: nil, record: record, attributes: attributes)
    }

    /// The index of names holds those that are there now; for another the directory is read through.
    private func storedEntry(
        _ name: ListingRequest.Name, asOf position: SequenceNumber
    ) throws -> DirectoryEntryRecord? {
        if let (entry, born) = try storedEntry(name.name, in: name.directory), born <= position {
            return entry
        }
        let find = try connection.prepare(
            "SELECT cookie, ino, kind FROM entry WHERE parent = ?1 AND name = ?2 AND \(Self.wasThere(at: 3))")
        find.bind(1, name.directory.number)
        find.bind(2, name.name)
        find.bind(3, position.number)
        return try find.first { row in
            DirectoryEntryRecord(
                parent: name.directory, cookie: row.integer(0), name: name.name,
                inode: InodeNumber(row.unsigned(1)), kind: FileKind(rawValue: row.unsigned32(2)) ?? .regular)
        }
    }
}
