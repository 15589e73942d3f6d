internal import BlockHashes
internal import ByteStore
package import Catalog
package import VolumeModel

/// Bytes that are known not to be what was written, and not put right since: they are given to nobody.
package struct DamagedBytes: Error, Hashable, Sendable, CustomStringConvertible {
    package let inode: InodeNumber
    package let range: ByteRange

    package var description: String {
        "bytes \(range) of inode \(inode) are damaged on this disk: 'godwit volume check' tells more"
    }
}

/// What scrubs have found of a head, and is not known to have been put right.
package enum HeadDamage {
    /// Files that are told one by one.
    private static let fileLimit = 50

    /// As findings for people. Looks into the catalog for names.
    ///
    /// - Throws: when there is no catalog that can be read.
    package static func findings(_ directory: String) throws -> [HeadFinding] {
        let known: KnownDamage
        do {
            known = try HashDatabase.damage(in: directory)
        } catch {
            return [unknown(error)]
        }
        return try findings(directory, known)
    }

    /// Whether it is known that nothing of the head is damaged. Where what is known cannot be read, it is not.
    package static func isNone(in directory: String) -> Bool {
        (try? HashDatabase.damage(in: directory).ranges.isEmpty) ?? false
    }

    /// The head is not opened then.
    static func unknown(_ error: any Error) -> HeadFinding {
        HeadFinding(.damage, "what is damaged of it is not known, so that it is not used: \(error)")
    }

    static func findings(_ directory: String, _ known: KnownDamage) throws -> [HeadFinding] {
        let ranges = known.ranges
        guard !ranges.isEmpty else { return [] }
        let view = try CatalogView(of: directory)
        var findings: [HeadFinding] = []
        let inodes = Dictionary(known.blocks.map { ($0.data, $0.inode) }) { $1 }
        for (number, left) in ranges.sorted(by: { $0.key < $1.key }) {
            // Removed or cut to nothing since: nobody misses it.
            guard let inode = inodes[number], let owner = try view.owner(of: number, inode: inode) else {
                continue
            }
            guard findings.count < fileLimit else {
                findings.append(
                    HeadFinding(.damage, "… and more: \(ranges.count) data files are damaged in all"))
                break
            }
            let name = owner.paths.isEmpty ? "a file without a name" : owner.paths.joined(separator: " = ")
            findings.append(
                HeadFinding(
                    .damage,
                    "\(name) (inode \(inode)): the disk has changed or lost bytes \(text(left.ranges)) of data file "
                        + "\(directory)/data/\(ByteStore.name(of: number)), which nobody has written since; reading "
                        + "them fails: restore the file from another copy"))
        }
        return findings
    }

    private static func text(_ ranges: [ByteRange]) -> String {
        ranges.prefix(8).map(\.description).joined(separator: ", ") + (ranges.count > 8 ? " …" : "")
    }

    /// A person has decided that the files are good as they are now: from now on that is what is expected of them. What
    /// was lost at their ends is zeros.
    package static func accept(_ directory: String) throws {
        guard HashDatabase.exists(in: directory) else { return }
        try HashDatabase.dropUnreadableDamage(in: directory)
        let hashes = try HashDatabase(in: directory)
        let known = try hashes.damage()
        let view = try CatalogView(of: directory)
        let bytes = try ByteStore(directory: directory + "/data", openFileLimit: 16)
        defer { bytes.closeAll() }
        for block in known.blocks where block.isLost {
            guard let end = known.ranges[block.data]?.ranges.last?.end,
                let owner = try view.owner(of: block.data, inode: block.inode)
            else { continue }
            let file: DataFile
            do {
                file = try bytes.open(block.data)
            } catch {
                guard error.errno == .noSuchEntry else { throw error }
                file = try bytes.create(block.data)
            }
            try file.extend(to: end)
            // What it takes is what it took: nothing tells of a loss any more.
            let taken = try file.extent().blockCount
            if owner.blockCount > taken {
                let missing = min(end, (owner.blockCount - taken) * 512)
                try file.allocate(ByteRange(end - missing, end))
            }
            try file.synchronize()
        }
        try hashes.acceptAll()
    }
}
