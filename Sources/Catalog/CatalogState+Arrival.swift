internal import SQLite
package import VolumeModel

/// A catalog that arrives directory by directory, while it is in use.
///
/// The table `missing` names the directories whose entries have not all come, and up to which cookie they have. It
/// begins with the root. A directory that comes is missing itself until its own entries have come. What is missing
/// cannot have been changed here: a change of a directory's names needs all of them. What has come may have, so that
/// nothing comes twice:
/// - an entry is taken only if its directory is missing and its cookie is the next one or a later one;
/// - an inode is taken only if it is not known, and was not removed here (the table `gone`);
/// - nothing is taken once no directory is missing.
/// So answers may come twice, late, and in any order. They must be of a state that does not change.
extension CatalogState {
    /// - Throws: `.missingDirectory` unless all entries are here.
    package func checkListed(_ directory: InodeNumber) throws {
        if try missingPlace(of: directory) != nil {
            throw CatalogError.missingDirectory(directory, name: nil)
        }
    }

    /// - Throws: `.missingDirectory` unless all directories are here.
    func checkWhole() throws {
        guard let first = try missingPlaces(besides: [], limit: 1).first else { return }
        throw CatalogError.missingDirectory(first.directory, name: nil)
    }

    /// Up to where a directory's entries are here; nil: all are.
    package func missingPlace(of directory: InodeNumber) throws -> ListingPlace? {
        guard isArriving else { return nil }
        statements.getMissing.bind(1, directory.number)
        return try statements.getMissing.first { ListingPlace(directory: directory, after: $0.integer(0)) }
    }

    /// Directories that are missing, by their numbers.
    package func missingPlaces(besides taken: Set<InodeNumber>, limit: Int) throws -> [ListingPlace] {
        guard isArriving else { return [] }
        var places: [ListingPlace] = []
        try statements.listMissing.forEach { row in
            let place = ListingPlace(directory: InodeNumber(row.unsigned(0)), after: row.integer(1))
            if !taken.contains(place.directory) { places.append(place) }
            return places.count < limit
        }
        return places
    }

    /// Of these inodes the ones that have neither come nor been removed here.
    package func unknownInodes(among inodes: [InodeNumber]) throws -> [InodeNumber] {
        guard isArriving else { return [] }
        return try inodes.filter { try peekInode($0) == nil && !isGone($0) }
    }

    /// Notes that a name does not exist in a directory that has not come.
    mutating func noteAbsent(_ name: [UInt8], in directory: InodeNumber) throws {
        guard try missingPlace(of: directory) != nil, try storedEntry(name, in: directory) == nil else {
            return
        }
        if absentNames.count >= Self.absentNameLimit { absentNames.removeAll() }
        absentNames.insert(ListingRequest.Name(directory: directory, name: name))
    }

    private static let absentNameLimit = 10_000

    /// Begins a catalog that arrives: the root, and the sums of all that is to come.
    mutating func beginArrival(of root: InodeRecord) throws {
        try statements.put(root, born: sequence)
        try putMissing(.root, after: 0)
        isArriving = true
    }

    /// Takes parts of directories that an origin has listed, as far as they are still wanted.
    mutating func take(_ rows: ArraySlice<CatalogRow>, parts: [InodeNumber: Listing.Part]) throws {
        guard isArriving else { return }
        try beginIfNeeded()
        var places: [InodeNumber: Int64] = [:]
        try takeEach(of: rows) { state, entry in
            guard let part = parts[entry.parent], entry.cookie <= part.last,
                entry.cookie < state.counters.nextCookie
            else { return }
            let known = try places[entry.parent] ?? state.missingPlace(of: entry.parent)?.after
            guard let known, part.after <= known, known < entry.cookie else { return }
            try state.put(entry)
            places[entry.parent] = entry.cookie
        }
        for (directory, cookie) in places { try putMissing(directory, after: cookie) }
    }

    /// Takes what was asked for by itself: nobody can have changed a name in a directory that has not all come.
    mutating func take(singles rows: [CatalogRow]) throws {
        guard isArriving else { return }
        try beginIfNeeded()
        try takeEach(of: rows[...]) { state, entry in
            guard entry.cookie < state.counters.nextCookie,
                let place = try state.missingPlace(of: entry.parent), place.after < entry.cookie
            else {
                return
            }
            try state.put(entry)
        }
    }

    private mutating func takeEach(
        of rows: ArraySlice<CatalogRow>,
        _ takeEntry: (inout CatalogState, DirectoryEntryRecord) throws -> Void
    ) throws {
        var attributes: [(inode: InodeNumber, name: [UInt8], value: [UInt8])] = []
        for row in rows {
            switch row {
            case .attribute(let inode, let name, let value): attributes.append((inode, name, value))
            case .inode(let record):
                if try take(record) {
                    for attribute in attributes where attribute.inode == record.attributes.inode {
                        statements.putXattr.bind(1, attribute.inode.number)
                        statements.putXattr.bind(2, attribute.name)
                        statements.putXattr.bind(3, attribute.value)
                        statements.putXattr.bind(4, sequence.number)
                        try statements.putXattr.run()
                        inodes[attribute.inode]?.hasAttributes = true
                    }
                }
                attributes = []
            case .entry(let entry): try takeEntry(&self, entry)
            case .removedInode, .removedEntry, .removedAttribute: continue
            }
        }
    }

    /// - Returns: false when it is known already.
    private mutating func take(_ record: InodeRecord) throws -> Bool {
        let number = record.attributes.inode
        guard inodes[number] == nil, number < counters.nextInode, try !isGone(number) else { return false }
        guard try storedInode(number) == nil else { return false }
        try statements.put(record, born: sequence)
        pending.take(record)
        if record.attributes.kind == .directory { try putMissing(number, after: 0) }
        return true
    }

    /// Ends the parts of which everything has come.
    mutating func finish(_ parts: [Listing.Part]) throws {
        guard isArriving else { return }
        try beginIfNeeded()
        for part in parts {
            guard let place = try missingPlace(of: part.directory), part.after <= place.after else {
                continue
            }
            guard part.isComplete, place.after >= part.last else { continue }
            statements.deleteMissing.bind(1, part.directory.number)
            try statements.deleteMissing.run()
            if !absentNames.isEmpty { absentNames = absentNames.filter { $0.directory != part.directory } }
        }
        guard try missingPlaces(besides: [], limit: 1).isEmpty else { return }
        isArriving = false
        absentNames = []
        settlePending()
        let forget = try connection.prepare("DELETE FROM gone")
        try forget.run()
    }

    /// What has not come by now never will: files without a name at the origin, and bytes that turned out to be zeros.
    private mutating func settlePending() {
        func less(_ value: UInt64, _ difference: Int64) -> UInt64 {
            UInt64(clamping: Int64(clamping: value).subtractingReportingOverflow(difference).partialValue)
        }
        counters.inodeCount = less(counters.inodeCount, pending.inodeCount)
        counters.byteCount = less(counters.byteCount, pending.byteCount)
        counters.allocatedByteCount = less(counters.allocatedByteCount, pending.allocatedByteCount)
        missingByteCount = less(missingByteCount, pending.missingByteCount)
        pending = PendingSums()
    }

    private func putMissing(_ directory: InodeNumber, after cookie: Int64) throws(SQLiteError) {
        statements.putMissing.bind(1, directory.number)
        statements.putMissing.bind(2, cookie)
        try statements.putMissing.run()
    }

    /// An inode of the origin's was removed here: it must not come again.
    func noteGone(_ number: InodeNumber) throws(SQLiteError) {
        guard isArriving else { return }
        statements.putGone.bind(1, number.number)
        try statements.putGone.run()
    }

    private func isGone(_ number: InodeNumber) throws(SQLiteError) -> Bool {
        statements.getGone.bind(1, number.number)
        return try statements.getGone.first { _ in true } ?? false
    }
}

/// What an origin's sums say is to come, less what has come. May end below zero: an origin that goes on arriving itself
/// changes its rows.
struct PendingSums {
    var inodeCount: Int64 = 0
    var byteCount: Int64 = 0
    var allocatedByteCount: Int64 = 0
    var missingByteCount: Int64 = 0

    init() {}

    /// The root is there from the beginning.
    init(_ counters: CatalogCounters) {
        inodeCount = Int64(clamping: counters.inodeCount) - 1
        byteCount = Int64(clamping: counters.byteCount)
        allocatedByteCount = Int64(clamping: counters.allocatedByteCount)
        missingByteCount = byteCount
    }

    init(_ statements: CatalogStatements) throws(SQLiteError) {
        inodeCount = try statements.meta(.pendingInodes) ?? 0
        byteCount = try statements.meta(.pendingBytes) ?? 0
        allocatedByteCount = try statements.meta(.pendingAllocated) ?? 0
        missingByteCount = try statements.meta(.pendingMissing) ?? 0
    }

    func write(_ statements: CatalogStatements) throws(SQLiteError) {
        try statements.setMeta(.pendingInodes, inodeCount)
        try statements.setMeta(.pendingBytes, byteCount)
        try statements.setMeta(.pendingAllocated, allocatedByteCount)
        try statements.setMeta(.pendingMissing, missingByteCount)
    }

    mutating func take(_ record: InodeRecord) {
        inodeCount &-= 1
        byteCount &-= Int64(clamping: record.countedByteCount)
        allocatedByteCount &-= Int64(clamping: record.allocatedByteCount)
        missingByteCount &-= Int64(clamping: record.backedByteCount)
    }
}

extension Catalog {
    /// Rows that are taken under one holding of the lock, about.
    private static let arrivalChunk = 600

    /// Makes a follower's empty catalog one whose names are at the origin: from now on it may be promoted.
    ///
    /// - Parameters:
    ///   - listing: with the root and its attributes among the singles.
    ///   - position: the origin's, which does not change any more.
    ///   - heir: the reign for which the origin was sealed.
    /// - Throws: `.unusable` when this is no follower's, or not empty, or the rows lack the root.
    package func beginArrival(
        with listing: Listing, at position: CatalogPosition, for heir: Epoch
    ) throws {
        try check(position)
        let isRoot = { (row: CatalogRow) in
            if case .inode(let record) = row { record.attributes.inode == .root } else { false }
        }
        guard case .inode(let root)? = listing.singles.first(where: isRoot),
            root.attributes.kind == .directory
        else { throw CatalogError.unusable(path: directory, reason: "the origin gave no root directory") }
        try performCommitting { state in
            // A first replica that was cut off.
            try state.abandonApplication()
            try state.beginApplication()
            guard try state.peekInode(.root) == nil else {
                throw CatalogError.unusable(path: directory, reason: "it is not empty")
            }
            try state.beginArrival(of: root)
            try state.statements.setMeta(.arrivalGrant, Int64(bitPattern: heir.number))
            for case .attribute(.root, let name, let value) in listing.singles {
                try state.setExtendedAttribute(name, of: .root, value: value)
            }
            try state.finishApplication(at: position)
        }
        try take(listing)
        try synchronize()
    }

    /// The reign for which this catalog arrived; nil: it came as a whole, or is a volume's first.
    package func arrivalGrant() throws -> Epoch? {
        try perform { state in
            try state.statements.meta(.arrivalGrant).map { Epoch(UInt64(bitPattern: $0)) }
        }
    }

    /// Takes what the origin has listed. May be repeated, with the same and with others between.
    ///
    /// - Parameter name: one that was asked for by itself: if it is not among the rows it does not exist.
    package func take(_ listing: Listing, askedFor name: ListingRequest.Name? = nil) throws {
        var parts: [InodeNumber: Listing.Part] = [:]
        for part in listing.parts { parts[part.directory] = part }
        if !listing.singles.isEmpty { try perform { try $0.take(singles: listing.singles) } }
        var rest = listing.rows[...]
        while !rest.isEmpty {
            // An inode and the entry that comes with it stay together: a crash must not leave one of them.
            var end = min(rest.endIndex, rest.startIndex + Self.arrivalChunk)
            while end < rest.endIndex {
                if case .entry = rest[end - 1] { break }
                end += 1
            }
            let chunk = rest[..<end]
            rest = rest[end...]
            try perform { try $0.take(chunk, parts: parts) }
        }
        try perform { state in
            if let name, !listing.singles.contains(where: { $0.isEntry(name) }) {
                try state.noteAbsent(name.name, in: name.directory)
            }
            try state.finish(listing.parts)
        }
    }
}

extension CatalogRow {
    fileprivate func isEntry(_ name: ListingRequest.Name) -> Bool {
        guard case .entry(let entry) = self else { return false }
        return entry.parent == name.directory && entry.name == name.name
    }
}
