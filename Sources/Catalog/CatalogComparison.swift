internal import VolumeModel

/// What differs between two states of a volume, by path.
package enum CatalogComparison {
    package enum Kind: String, Sendable {
        /// Only in the first; of a directory only its own name is told, not what is in it.
        case added
        /// Only in the second.
        case removed
        /// In both, with other bytes (size or time of the last write), type, target, owner or permissions.
        case changed
    }

    /// Entries that are read at a time.
    private static let batchCount = 1000

    /// Goes through both trees at once. Takes memory for the names of one directory and its ancestors' siblings.
    ///
    /// - Parameter report: is told each difference, of a directory before what is in it.
    /// - Throws: `.missingDirectory` while names of one of both are still at its origin: a name that has not come would
    ///   be told as one that is gone.
    package static func run(
        _ first: Catalog, _ second: Catalog, _ report: (Kind, _ path: [UInt8]) async throws -> Void
    ) async throws {
        for catalog in [first, second] { try catalog.perform { try $0.checkWhole() } }
        var pending: [(path: [UInt8], first: InodeNumber, second: InodeNumber)] = [([], .root, .root)]
        // A directory has one place: what comes again goes round in a circle, in a catalog that is damaged.
        var seen: Set<InodeNumber> = [.root]
        while let directory = pending.popLast() {
            let here = try names(of: directory.first, in: first)
            let there = try names(of: directory.second, in: second)
            for (name, inode) in here.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
                let path = directory.path + [UInt8(ascii: "/")] + name
                guard let other = there[name] else {
                    try await report(.added, path)
                    continue
                }
                let one = try first.perform { try $0.peekInode(inode) }
                let two = try second.perform { try $0.peekInode(other) }
                if one.map(Content.init) != two.map(Content.init) { try await report(.changed, path) }
                if one?.attributes.kind == .directory, two?.attributes.kind == .directory,
                    seen.insert(inode).inserted
                {
                    pending.append((path, inode, other))
                }
            }
            let gone = there.keys.filter { here[$0] == nil }
            for name in gone.sorted(by: { $0.lexicographicallyPrecedes($1) }) {
                try await report(.removed, directory.path + [UInt8(ascii: "/")] + name)
            }
        }
    }

    private static func names(
        of directory: InodeNumber, in catalog: Catalog
    ) throws -> [[UInt8]: InodeNumber] {
        var names: [[UInt8]: InodeNumber] = [:]
        var cookie: Int64 = 0
        while true {
            let batch = try catalog.perform {
                try $0.entries(of: directory, after: cookie, limit: batchCount)
            }
            for entry in batch { names[entry.name] = entry.inode }
            guard let last = batch.last else { return names }
            cookie = last.cookie
        }
    }

    /// What of an inode is compared. A directory's times change with its names, which are told themselves.
    private struct Content: Equatable {
        let mode: UInt32
        let owner: [UInt32]
        let size: UInt64
        let modified: FileTime?
        let target: [UInt8]

        init(_ record: InodeRecord) {
            let attributes = record.attributes
            mode = attributes.mode
            owner = [attributes.uid, attributes.gid, attributes.device]
            let isDirectory = attributes.kind == .directory
            size = isDirectory ? 0 : attributes.size
            modified = isDirectory ? nil : attributes.modificationTime
            target = record.target
        }
    }
}
