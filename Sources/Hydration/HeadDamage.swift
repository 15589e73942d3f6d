internal import BlockHashes
internal import ByteStore
package import Catalog
internal import VolumeModel

/// What scrubs have found of a head, and is not known to have been put right.
package enum HeadDamage {
    /// Files that are told one by one.
    private static let fileLimit = 50

    /// As findings for people. Looks into the catalog for names.
    ///
    /// - Throws: when there is no catalog that can be read.
    package static func findings(_ directory: String) throws -> [HeadFinding] {
        let blocks = try HashDatabase.damage(in: directory)
        guard !blocks.isEmpty else { return [] }
        let view = try CatalogView(of: directory)
        var findings: [HeadFinding] = []
        let files = Dictionary(grouping: blocks, by: \.data).sorted { $0.key.number < $1.key.number }
        for (number, blocks) in files {
            // Removed or cut to nothing since: nobody misses it.
            guard let inode = blocks.first?.inode, let owner = try view.owner(of: number, inode: inode) else {
                continue
            }
            guard findings.count < fileLimit else {
                findings.append(
                    HeadFinding(.damage, "… and more: \(files.count) data files are damaged in all"))
                break
            }
            let name = owner.paths.isEmpty ? "a file without a name" : owner.paths.joined(separator: " = ")
            findings.append(
                HeadFinding(
                    .damage,
                    "\(name) (inode \(inode)): the disk has changed or lost bytes \(text(merged(blocks))) of data file "
                        + "\(directory)/data/\(ByteStore.name(of: number)), which nobody has written since: restore "
                        + "the file from another copy"))
        }
        return findings
    }

    private static func text(_ ranges: [ByteRange]) -> String {
        ranges.prefix(8).map(\.description).joined(separator: ", ") + (ranges.count > 8 ? " …" : "")
    }

    private static func merged(_ blocks: [DamagedBlock]) -> [ByteRange] {
        var ranges: [ByteRange] = []
        for range in blocks.map(\.range).sorted(by: { $0.start < $1.start }) {
            if let last = ranges.last, last.end == range.start {
                ranges[ranges.count - 1] = ByteRange(last.start, range.end)
            } else {
                ranges.append(range)
            }
        }
        return ranges
    }

    /// The damaged ranges of each data file.
    static func ranges(_ blocks: [DamagedBlock]) -> [DataFileNumber: [ByteRange]] {
        Dictionary(grouping: blocks, by: \.data).mapValues(merged)
    }

    /// A person has decided that the files are good as they are now: from now on that is what is expected of them.
    package static func accept(_ directory: String) throws {
        guard HashDatabase.exists(in: directory) else { return }
        try HashDatabase(in: directory).acceptAll()
    }
}
