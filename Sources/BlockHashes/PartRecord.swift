package import ByteStore
package import VolumeModel

/// A stretch of a data file whose hashes are kept in one row.
package struct PartID: Hashable, Sendable {
    package static let blockCount: UInt64 = 256
    package static let byteCount = blockCount * BlockHash.blockByteCount

    package let data: DataFileNumber
    package let index: UInt64

    package init(_ data: DataFileNumber, _ index: UInt64) {
        self.data = data
        self.index = index
    }

    package var start: UInt64 { index * Self.byteCount }

    /// How many parts a file of a size has.
    package static func count(_ size: UInt64) -> UInt64 { (size + byteCount - 1) / byteCount }

    /// How many blocks of a file of a size are in this part.
    package func blockCount(ofSize size: UInt64) -> Int {
        guard size > start else { return 0 }
        let end = min(size, start + Self.byteCount)
        return Int((end - start + BlockHash.blockByteCount - 1) / BlockHash.blockByteCount)
    }

    /// A block's bytes in a file of a size.
    package func range(ofBlock block: Int, size: UInt64) -> ByteRange {
        let first = start + UInt64(block) * BlockHash.blockByteCount
        return ByteRange(first, max(first, min(size, first + BlockHash.blockByteCount)))
    }
}

/// What was found in a part of a data file while the file was in a certain state.
package struct PartRecord: Hashable, Sendable {
    package let state: [UInt8]
    /// One after the other.
    package var hashes: [UInt8]

    package init(hashes: [UInt8], of state: FileState) {
        self.state = state.bytes
        self.hashes = hashes
    }

    package func hash(ofBlock block: Int) -> [UInt8] {
        Array(hashes[block * BlockHash.byteCount..<(block + 1) * BlockHash.byteCount])
    }

    mutating func setHash(_ hash: [UInt8], ofBlock block: Int) {
        hashes.replaceSubrange(block * BlockHash.byteCount..<(block + 1) * BlockHash.byteCount, with: hash)
    }

    package func isOf(_ file: FileState, blockCount: Int) -> Bool {
        state == file.bytes && hashes.count == blockCount * BlockHash.byteCount
    }

    /// As stored, with a hash of its own: a bit that flips here must not be taken for damage of the file.
    func bytes(of part: PartID) -> [UInt8] {
        // Holes are long.
        let isEmpty = hashes.allSatisfy { $0 == 0 }
        let count = withUnsafeBytes(of: UInt32(clamping: hashes.count / BlockHash.byteCount).littleEndian) {
            Array($0)
        }
        let content = state + count + (isEmpty ? [] : hashes)
        return content + Self.sum(of: part, content)
    }

    init?(_ bytes: [UInt8], of part: PartID) {
        let header = FileState.byteCount + 4
        guard bytes.count >= header + BlockHash.byteCount else { return nil }
        let content = Array(bytes.dropLast(BlockHash.byteCount))
        guard Array(bytes.suffix(BlockHash.byteCount)) == Self.sum(of: part, content) else { return nil }
        let count = content[FileState.byteCount..<header].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        guard count <= PartID.blockCount else { return nil }
        let length = Int(count) * BlockHash.byteCount
        state = Array(content[..<FileState.byteCount])
        hashes = content.count == header ? [UInt8](repeating: 0, count: length) : Array(content[header...])
        guard hashes.count == length else { return nil }
    }

    static func sum(of part: PartID, _ content: [UInt8]) -> [UInt8] {
        var bytes: [UInt8] = []
        for word in [part.data.number, part.index] {
            withUnsafeBytes(of: word.littleEndian) { bytes += $0 }
        }
        return (bytes + content).withUnsafeBytes { BlockHash.digest($0) }
    }
}
