/// What an application read after its last starts, in that order: what to fetch first at its next one.
///
/// It is kept with the volume, as an attribute of the root that no system call can name, and so travels with it.
package struct StartProfile: Hashable, Sendable {
    package struct Entry: Hashable, Sendable {
        package let extent: Extent
        /// How many of the last starts have not read it.
        package fileprivate(set) var missedStarts: UInt8
    }

    /// The name begins with a zero byte: the kernel can neither ask for it nor be shown it.
    package static let attributeName: [UInt8] = [0] + Array("start-profile".utf8)
    package static func isInternal(attribute name: [UInt8]) -> Bool { name.first == 0 }

    /// Ranges are kept in whole pages.
    package static let pageByteCount: UInt64 = 4096
    package static let byteLimit: UInt64 = 512 << 20
    package static let entryLimit = 6000
    /// An attribute's value is at most 64 KiB.
    private static let encodedLimit = 60_000
    /// With its last entry: three numbers and a byte.
    private static let storedLimit = encodedLimit + 31
    /// What this many starts in a row have not read is forgotten.
    private static let missLimit: UInt8 = 3
    private static let formatVersion: UInt8 = 1

    package private(set) var entries: [Entry] = []

    package init() {}

    package var extents: [Extent] { entries.map(\.extent) }
    package var byteCount: UInt64 { entries.reduce(0) { $0 + $1.extent.range.byteCount } }

    /// Takes in one start.
    ///
    /// - Parameters:
    ///   - start: what was read, in order, without repetition.
    ///   - volumeByteCount: who reads most of a volume copies it; that is no start and changes nothing.
    package mutating func merge(_ start: [Extent], volumeByteCount: UInt64) {
        let read = start.reduce(0) { $0 + $1.range.byteCount }
        guard read > 0, read < 64 << 20 || read < volumeByteCount / 2 else { return }
        // A look at a file or two is no start of the application either: nothing is forgotten for it.
        let isLook = read < byteCount / 8
        var known: [InodeNumber: RangeSet] = [:]
        for extent in start { known[extent.inode, default: RangeSet()].insert(extent.range) }
        var merged = start.map { Entry(extent: $0, missedStarts: 0) }
        for entry in entries {
            let missed = isLook ? entry.missedStarts : entry.missedStarts + 1
            guard missed < Self.missLimit else { continue }
            let extent = entry.extent
            for rest in known[extent.inode]?.gaps(in: extent.range) ?? [extent.range] {
                merged.append(Entry(extent: Extent(inode: extent.inode, range: rest), missedStarts: missed))
            }
        }
        entries = []
        var total: UInt64 = 0
        for entry in merged.prefix(Self.entryLimit) {
            total += entry.extent.range.byteCount
            guard total <= Self.byteLimit else { break }
            entries.append(entry)
        }
    }

    // MARK: stored form

    /// At most 60,000 bytes; what does not fit any more comes last and is left out.
    package var encoded: [UInt8] {
        var bytes: [UInt8] = [Self.formatVersion]
        var previous: Int64 = 0
        for entry in entries where bytes.count < Self.encodedLimit {
            let inode = Int64(bitPattern: entry.extent.inode.number)
            bytes.append(signed: inode &- previous)
            previous = inode
            let (start, end) = (entry.extent.range.start, entry.extent.range.end)
            bytes.append(number: start / Self.pageByteCount)
            bytes.append(number: (end - start + Self.pageByteCount - 1) / Self.pageByteCount)
            bytes.append(entry.missedStarts)
        }
        return bytes
    }

    /// - Throws: when the bytes are of another format, or damaged: a profile may be done without.
    package init(encoded: [UInt8]) throws(NumberReader.Failure) {
        guard encoded.count <= Self.storedLimit else { throw .malformed }
        var reader = NumberReader(bytes: encoded)
        guard try reader.byte() == Self.formatVersion else { throw .malformed }
        var previous: Int64 = 0
        var total: UInt64 = 0
        while !reader.isAtEnd {
            let inode = previous &+ (try reader.signed())
            guard inode > 0 else { throw .malformed }
            previous = inode
            let start = try reader.number().multipliedReportingOverflow(by: Self.pageByteCount)
            let count = try reader.number().multipliedReportingOverflow(by: Self.pageByteCount)
            guard !start.overflow, !count.overflow, count.partialValue > 0,
                let range = ByteRange(checkedOffset: start.partialValue, byteCount: count.partialValue)
            else { throw .malformed }
            // A peer's word: what could not have been written here could not be counted with either.
            let missedStarts = try reader.byte()
            guard missedStarts < Self.missLimit, range.byteCount <= Self.byteLimit,
                total <= Self.byteLimit - range.byteCount, entries.count < Self.entryLimit
            else { throw .malformed }
            total += range.byteCount
            entries.append(
                Entry(
                    extent: Extent(inode: InodeNumber(UInt64(bitPattern: inode)), range: range),
                    missedStarts: missedStarts))
        }
    }
}
