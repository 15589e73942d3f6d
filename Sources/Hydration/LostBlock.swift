internal import BlockHashes
internal import ByteStore
internal import Catalog
package import VolumeModel

/// A block that a disk has damaged, as others are asked for it: what has its hash is what was there, and nothing else is.
package struct LostBlock: Hashable, Sendable {
    package static let byteLimit = BlockHash.blockByteCount
    package static let hashByteCount = BlockHash.byteCount
    private static let pageByteCount = 4096

    package let extent: Extent
    /// The first 16 bytes of its SHA-256; zeros for a block of zeros.
    package let hash: [UInt8]

    /// - Returns: nil: no block is so.
    package init?(_ extent: Extent, hash: [UInt8]) {
        guard hash.count == Self.hashByteCount, !extent.range.isEmpty,
            extent.range.byteCount <= Self.byteLimit, extent.range.start % Self.byteLimit == 0
        else { return nil }
        self.extent = extent
        self.hash = hash
    }

    package func isContent(_ bytes: [UInt8]) -> Bool {
        UInt64(bytes.count) == extent.range.byteCount && bytes.withUnsafeBytes { BlockHash.of($0) } == hash
    }

    /// Its bytes, where nobody needs to be asked for them.
    package var knownContent: [UInt8]? {
        hash == BlockHash.ofZeros ? [UInt8](repeating: 0, count: Int(extent.range.byteCount)) : nil
    }

    /// Looks for it in a head, in use or not: older, newer or damaged itself. Reads from beside whoever uses it, holds no
    /// lock and changes nothing.
    ///
    /// - Parameter isForPeer: nothing shorter than a block is given then, unless the file ends with it: nobody guesses
    ///   bytes one after the other.
    /// - Returns: nil when it is not there.
    /// - Throws: when the head cannot be read.
    package func find(in directory: String, isForPeer: Bool = false) throws -> [UInt8]? {
        guard let data = try CatalogView(of: directory).dataFile(of: extent.inode) else { return nil }
        let file: StillFile
        do {
            file = try StillFile(data, in: directory + "/data")
            if isForPeer, extent.range.byteCount < Self.byteLimit, try file.state().size > extent.range.end {
                return nil
            }
        } catch {
            guard error.errno == .noSuchEntry else { throw error }
            return nil
        }
        let count = Int(extent.range.byteCount)
        let room = (count + Self.pageByteCount - 1) / Self.pageByteCount * Self.pageByteCount
        let buffer = UnsafeMutableRawBufferPointer.allocate(
            byteCount: room, alignment: Self.pageByteCount)
        defer { buffer.deallocate() }
        let read: Int
        do {
            read = min(count, try file.read(into: buffer, at: extent.range.start))
        } catch {
            guard error.errno == .inputOutput else { throw error }
            return nil
        }
        // What is beyond a file's end is zeros wherever it is longer.
        UnsafeMutableRawBufferPointer(rebasing: buffer[read..<count]).initializeMemory(
            as: UInt8.self, repeating: 0)
        let bytes = Array(buffer[..<count])
        return isContent(bytes) ? bytes : nil
    }
}

/// A block of a head that can be put right, if its bytes are found.
package struct RestorableBlock: Hashable, Sendable {
    let noted: DamagedBlock
    package let lost: LostBlock

    init?(_ noted: DamagedBlock) {
        guard noted.isRestorable,
            let lost = LostBlock(Extent(inode: noted.inode, range: noted.range), hash: noted.expected)
        else { return nil }
        self.noted = noted
        self.lost = lost
    }

    package var data: DataFileNumber { noted.data }
}

extension HeadDamage {
    /// What of a head is damaged and known for sure to have been something. From beside whoever uses it.
    package static func restorable(_ directory: String) throws -> [RestorableBlock] {
        let known = try HashDatabase.damage(in: directory)
        let left = known.ranges
        return known.blocks.filter { left[$0.data]?.byteCount(in: $0.range) ?? 0 > 0 }
            .compactMap { RestorableBlock($0) }
    }

    /// A block, for people.
    package static func name(of block: RestorableBlock, in directory: String) -> String {
        let owner = try? CatalogView(of: directory).owner(of: block.data, inode: block.lost.extent.inode)
        let names = owner?.paths.joined(separator: " = ") ?? ""
        return (names.isEmpty ? "" : names + ": ") + "bytes \(block.lost.extent.range) of inode "
            + "\(block.lost.extent.inode)"
    }

    /// Puts right what is damaged of a head that no process has open, from other heads that are here.
    ///
    /// - Parameter others: their directories.
    /// - Returns: what was put right, for people.
    /// - Throws: when another process has the head open, or its disk fails.
    package static func restore(closed directory: String, from others: [String]) throws -> [String] {
        var found: [(RestorableBlock, [UInt8])] = []
        for block in try restorable(directory) {
            if let content = content(of: block.lost, in: others) { found.append((block, content)) }
        }
        guard !found.isEmpty else { return [] }
        let storage = try HeadStorage(opening: directory, keepsOrphans: true)
        var restored: [String] = []
        do {
            for (block, content) in found where try storage.restore(block, from: content) > 0 {
                restored.append(name(of: block, in: directory))
            }
        } catch {
            try? storage.close()
            throw error
        }
        try storage.close()
        return restored
    }

    /// A block's bytes from what is here. A head that cannot be read has none.
    package static func content(of block: LostBlock, in directories: [String]) -> [UInt8]? {
        if let known = block.knownContent { return known }
        for directory in directories {
            if let content = (try? block.find(in: directory)) ?? nil { return content }
        }
        return nil
    }
}
