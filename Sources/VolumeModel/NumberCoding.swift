/// Numbers as LEB128, and bytes behind their count: the form of whatever is stored or sent in great number.
extension [UInt8] {
    mutating func append(number: UInt64) {
        var rest = number
        while rest >= 0x80 {
            append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        append(UInt8(truncatingIfNeeded: rest))
    }

    /// Zigzag, so that small negative numbers stay short.
    mutating func append(signed number: Int64) {
        append(number: UInt64(bitPattern: (number << 1) ^ (number >> 63)))
    }

    mutating func append(counted value: [UInt8]) {
        append(number: UInt64(value.count))
        append(contentsOf: value)
    }
}

/// Reads what `[UInt8].append(number:)` and its like have written. Nothing traps, whatever the bytes are.
package struct NumberReader {
    package enum Failure: Error, Hashable, Sendable {
        /// The bytes end in the middle of something.
        case truncated
        /// A number, tag or mode that means nothing.
        case malformed
    }

    private let bytes: [UInt8]
    private var position = 0

    init(bytes: [UInt8]) { self.bytes = bytes }

    var isAtEnd: Bool { position == bytes.count }

    mutating func byte() throws(Failure) -> UInt8 {
        guard position < bytes.count else { throw .truncated }
        defer { position += 1 }
        return bytes[position]
    }

    mutating func number() throws(Failure) -> UInt64 {
        var result: UInt64 = 0
        var shift: UInt64 = 0
        while true {
            let next = try byte()
            guard shift < 63 || (shift == 63 && next <= 1) else { throw .malformed }
            result |= UInt64(next & 0x7f) << shift
            if next & 0x80 == 0 { return result }
            shift += 7
        }
    }

    mutating func number32() throws(Failure) -> UInt32 {
        guard let value = UInt32(exactly: try number()) else { throw .malformed }
        return value
    }

    /// Numbers that a database's signed column keeps in their order.
    mutating func inode() throws(Failure) -> InodeNumber {
        let value = try number()
        guard value > 0, value <= UInt64(Int64.max) else { throw .malformed }
        return InodeNumber(value)
    }

    mutating func signed() throws(Failure) -> Int64 {
        let raw = try number()
        return Int64(bitPattern: raw >> 1) ^ -Int64(bitPattern: raw & 1)
    }

    mutating func bytes(limit: Int) throws(Failure) -> [UInt8] {
        let count = try number()
        guard count <= UInt64(limit) else { throw .malformed }
        guard Int(count) <= bytes.count - position else { throw .truncated }
        defer { position += Int(count) }
        return Array(bytes[position..<position + Int(count)])
    }
}
