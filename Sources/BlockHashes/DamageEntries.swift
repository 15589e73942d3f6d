internal import VolumeModel

/// What the lines of a `DamageCopy` say together: each one takes the place of an older one about the same place.
struct DamageEntries {
    private struct Start: Hashable, Comparable {
        let data: DataFileNumber
        let offset: UInt64

        static func < (one: Self, other: Self) -> Bool {
            (one.data, one.offset) < (other.data, other.offset)
        }
    }

    private(set) var life = ""
    private var blocks: [Start: DamagedBlock] = [:]
    private var overwritten: [Start: ByteRange] = [:]

    var known: KnownDamage {
        var known = KnownDamage()
        known.blocks = blocks.sorted { $0.key < $1.key }.map(\.value)
        for (start, range) in overwritten { known.overwritten[start.data, default: RangeSet()].insert(range) }
        return known
    }

    /// - Returns: whether it is such a line.
    mutating func take(_ line: Substring) -> Bool {
        let words = line.split(separator: " ", omittingEmptySubsequences: false)
        let numbers = words.dropFirst().prefix(4).map { UInt64($0) }
        switch (words[0], words.count) {
        case ("life", 2): life = String(words[1])
        case ("block", 6):
            guard let data = numbers[0], let range = Self.range(numbers[1], numbers[2]),
                let inode = numbers[3], let expected = [UInt8](hexadecimal: words[5])
            else { return false }
            let number = DataFileNumber(data)
            blocks[Start(data: number, offset: range.start)] = DamagedBlock(
                data: number, range: range, inode: InodeNumber(inode), expected: expected)
        case ("overwritten", 4):
            guard let data = numbers[0], let range = Self.range(numbers[1], numbers[2]) else { return false }
            overwritten[Start(data: DataFileNumber(data), offset: range.start)] = range
        case ("no-block", 3), ("not-overwritten", 3):
            guard let data = numbers[0], let offset = numbers[1] else { return false }
            let start = Start(data: DataFileNumber(data), offset: offset)
            if words[0] == "no-block" { blocks[start] = nil } else { overwritten[start] = nil }
        default: return false
        }
        return true
    }

    private static func range(_ start: UInt64?, _ end: UInt64?) -> ByteRange? {
        guard let start, let end, end >= start else { return nil }
        return ByteRange(checkedOffset: start, byteCount: end - start)
    }

    static func line(_ block: DamagedBlock) -> String {
        "block \(block.data.number) \(block.range.start) \(block.range.end) \(block.inode.number) "
            + block.expected.hexadecimal + "\n"
    }

    static func line(overwritten range: ByteRange, of data: DataFileNumber) -> String {
        "overwritten \(data.number) \(range.start) \(range.end)\n"
    }

    static func line(noBlockAt start: UInt64, of data: DataFileNumber) -> String {
        "no-block \(data.number) \(start)\n"
    }

    static func line(notOverwrittenAt start: UInt64, of data: DataFileNumber) -> String {
        "not-overwritten \(data.number) \(start)\n"
    }
}

extension [UInt8] {
    var hexadecimal: String {
        map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    fileprivate init?(hexadecimal text: Substring) {
        let digits = [UInt8](text.utf8)
        guard digits.count % 2 == 0 else { return nil }
        self = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let byte = UInt8(String(decoding: digits[index...index + 1], as: UTF8.self), radix: 16)
            else { return nil }
            append(byte)
        }
    }
}
