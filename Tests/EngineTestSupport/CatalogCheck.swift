package import Catalog
package import VolumeModel

/// A catalog's whole content, as an application could see it, and whether it makes sense.
package struct CatalogImage: Equatable, Sendable {
    package struct Node: Equatable, Sendable {
        package var attributes: FileAttributes
        package var parent: InodeNumber
        package var target: [UInt8]
        package var mayHoldData: Bool
        package var xattrs: [[UInt8]: [UInt8]]
    }

    package var nodes: [InodeNumber: Node] = [:]
    package var entries: [DirectoryEntryRecord] = []
    package var counters: CatalogCounters

    /// What is reachable from the root, and the inodes of `others` besides, at one moment: bytes may be arriving.
    package init(_ catalog: Catalog, others: [InodeNumber] = []) throws {
        self = try catalog.perform { state in
            var image = CatalogImage(counters: state.counters)
            var waiting = [InodeNumber.root] + others
            while let number = waiting.popLast() {
                guard image.nodes[number] == nil, let record = try state.inode(number) else { continue }
                let xattrs = try state.extendedAttributeNames(of: number).map {
                    ($0, try state.extendedAttribute($0, of: number) ?? [])
                }
                image.nodes[number] = Node(
                    attributes: record.attributes, parent: record.parent, target: record.target,
                    mayHoldData: record.mayHoldData, xattrs: Dictionary(uniqueKeysWithValues: xattrs))
                guard record.attributes.kind == .directory else { continue }
                let found = try state.entries(of: number, after: 0, limit: 100_000)
                image.entries += found
                waiting += found.map(\.inode)
            }
            image.entries.sort { $0.cookie < $1.cookie }
            return image
        }
    }

    private init(counters: CatalogCounters) { self.counters = counters }

    /// What is wrong with it; empty: nothing.
    ///
    /// - Parameter unnamed: how many inodes without a name there are to be.
    package func faults(unnamed: Int = 0) -> [String] {
        var faults: [String] = []
        var names: [InodeNumber: Int] = [:]
        var directories: [InodeNumber: Int] = [:]
        for entry in entries {
            names[entry.inode, default: 0] += 1
            guard let node = nodes[entry.inode] else {
                faults.append("entry \(entry.cookie) names inode \(entry.inode), which is not there")
                continue
            }
            if node.attributes.kind != entry.kind {
                faults.append("entry \(entry.cookie) is of another kind")
            }
            if node.attributes.kind == .directory {
                directories[entry.parent, default: 0] += 1
                if node.parent != entry.parent {
                    faults.append("directory \(entry.inode) has a wrong parent")
                }
            }
            if entry.cookie >= counters.nextCookie {
                faults.append("cookie \(entry.cookie) is from the future")
            }
        }
        var byteCount: UInt64 = 0
        var allocatedByteCount: UInt64 = 0
        for (number, node) in nodes {
            let attributes = node.attributes
            let expected =
                attributes.kind == .directory
                ? (number == .root || names[number] != nil ? 2 + directories[number, default: 0] : 0)
                : names[number, default: 0]
            if attributes.linkCount != UInt32(expected) {
                faults.append("inode \(number) has \(attributes.linkCount) links, not \(expected)")
            }
            if number >= counters.nextInode { faults.append("inode \(number) is from the future") }
            if attributes.kind == .regular, node.mayHoldData { byteCount += attributes.size }
            if attributes.kind == .regular { allocatedByteCount += attributes.blockCount * 512 }
        }
        if allocatedByteCount != counters.allocatedByteCount {
            faults.append("\(allocatedByteCount) bytes taken, counted \(counters.allocatedByteCount)")
        }
        if byteCount != counters.byteCount {
            faults.append("\(byteCount) bytes, counted \(counters.byteCount)")
        }
        if UInt64(nodes.count) != counters.inodeCount {
            faults.append("\(nodes.count) inodes with \(unnamed) unnamed, counted \(counters.inodeCount)")
        }
        return faults
    }
}

/// Bytes that are missing, counted one range at a time.
package func countMissingBytes(_ catalog: Catalog) throws -> UInt64 {
    var count: UInt64 = 0
    var last = InodeNumber(0)
    while true {
        let batch = try catalog.perform { try $0.backedInodes(after: last, limit: 100) }
        guard let end = batch.last else { return count }
        for inode in batch {
            let ranges = try catalog.perform {
                try $0.missingRanges(of: inode, in: ByteRange(0, ByteRange.maximumOffset))
            }
            count += ranges.reduce(0) { $0 + $1.byteCount }
        }
        last = end
    }
}
