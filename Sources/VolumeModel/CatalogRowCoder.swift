/// The form in which catalog rows travel: a tag byte, then LEB128 numbers and length-prefixed bytes.
///
/// About 45 bytes for an inode with its entry, before compression. Written by hand rather than as
/// protobuf messages because a million rows must cost a second, not ten.
package enum CatalogRowCoder {
    package enum Failure: Error, Hashable, Sendable {
        /// The bytes end in the middle of a row.
        case truncated
        /// A number, tag or mode that means nothing.
        case malformed
    }

    private enum Tag: UInt8 {
        case inode = 1
        case removedInode, entry, removedEntry, attribute, removedAttribute
    }

    package static func append(_ row: CatalogRow, to bytes: inout [UInt8]) {
        switch row {
        case .inode(let record):
            bytes.append(Tag.inode.rawValue)
            append(record, to: &bytes)
        case .removedInode(let inode):
            bytes.append(Tag.removedInode.rawValue)
            appendNumber(inode.number, to: &bytes)
        case .entry(let entry):
            bytes.append(Tag.entry.rawValue)
            appendNumber(entry.parent.number, to: &bytes)
            appendSigned(entry.cookie, to: &bytes)
            appendNumber(entry.inode.number, to: &bytes)
            appendNumber(UInt64(entry.kind.rawValue >> 12), to: &bytes)
            appendBytes(entry.name, to: &bytes)
        case .removedEntry(let parent, let cookie):
            bytes.append(Tag.removedEntry.rawValue)
            appendNumber(parent.number, to: &bytes)
            appendSigned(cookie, to: &bytes)
        case .attribute(let inode, let name, let value):
            bytes.append(Tag.attribute.rawValue)
            appendNumber(inode.number, to: &bytes)
            appendBytes(name, to: &bytes)
            appendBytes(value, to: &bytes)
        case .removedAttribute(let inode, let name):
            bytes.append(Tag.removedAttribute.rawValue)
            appendNumber(inode.number, to: &bytes)
            appendBytes(name, to: &bytes)
        }
    }

    /// Reads all rows of a batch.
    ///
    /// - Throws: `Failure` for anything that `append` would not have written; nothing traps.
    package static func rows(of bytes: [UInt8]) throws(Failure) -> [CatalogRow] {
        var rows: [CatalogRow] = []
        var reader = Reader(bytes: bytes)
        while !reader.isAtEnd { rows.append(try row(from: &reader)) }
        return rows
    }

    private static func row(from reader: inout Reader) throws(Failure) -> CatalogRow {
        guard let tag = Tag(rawValue: try reader.byte()) else { throw .malformed }
        switch tag {
        case .inode: return .inode(try record(from: &reader))
        case .removedInode: return .removedInode(try reader.inode())
        case .entry:
            let parent = try reader.inode()
            let cookie = try reader.signed()
            let inode = try reader.inode()
            // A listing begins behind cookie 0.
            guard cookie > 0 else { throw .malformed }
            guard let type = UInt32(exactly: try reader.number()), type < 16,
                let kind = FileKind(rawValue: type << 12)
            else { throw .malformed }
            let name = try reader.bytes(limit: FileName.maximumByteCount)
            guard FileName.isValid(name) else { throw .malformed }
            return .entry(
                DirectoryEntryRecord(parent: parent, cookie: cookie, name: name, inode: inode, kind: kind))
        case .removedEntry:
            return .removedEntry(parent: try reader.inode(), cookie: try reader.signed())
        case .attribute:
            let inode = try reader.inode()
            let name = try reader.bytes(limit: 255)
            return .attribute(inode, name: name, value: try reader.bytes(limit: 65_536))
        case .removedAttribute:
            return .removedAttribute(try reader.inode(), name: try reader.bytes(limit: 255))
        }
    }

    private static func append(_ record: InodeRecord, to bytes: inout [UInt8]) {
        let attributes = record.attributes
        appendNumber(attributes.inode.number, to: &bytes)
        appendNumber(UInt64(attributes.mode), to: &bytes)
        appendNumber(UInt64(attributes.linkCount), to: &bytes)
        appendNumber(UInt64(attributes.uid), to: &bytes)
        appendNumber(UInt64(attributes.gid), to: &bytes)
        appendNumber(UInt64(attributes.device), to: &bytes)
        appendNumber(attributes.size, to: &bytes)
        appendNumber(attributes.blockCount, to: &bytes)
        for time in [attributes.accessTime, attributes.modificationTime, attributes.changeTime] {
            appendSigned(time.seconds, to: &bytes)
            appendNumber(UInt64(time.nanoseconds), to: &bytes)
        }
        appendNumber(record.parent.number, to: &bytes)
        bytes.append(record.mayHoldData ? 1 : 0)
        appendBytes(record.target, to: &bytes)
    }

    private static func record(from reader: inout Reader) throws(Failure) -> InodeRecord {
        let inode = try reader.inode()
        let mode = try reader.number32()
        guard mode <= 0o177777, let kind = FileKind(mode: mode) else { throw .malformed }
        let linkCount = try reader.number32()
        let uid = try reader.number32()
        let gid = try reader.number32()
        let device = try reader.number32()
        let size = try reader.number()
        let blockCount = try reader.number()
        guard size <= ByteRange.maximumOffset, blockCount <= ByteRange.maximumOffset else { throw .malformed }
        let accessTime = try time(from: &reader)
        let modificationTime = try time(from: &reader)
        let changeTime = try time(from: &reader)
        let parent = try reader.inode()
        let mayHoldData: Bool
        switch try reader.byte() {
        case 0: mayHoldData = false
        case 1: mayHoldData = true
        default: throw .malformed
        }
        let target = try reader.bytes(limit: 4096)
        return InodeRecord(
            attributes: FileAttributes(
                inode: inode, kind: kind, permissions: mode, linkCount: linkCount, uid: uid, gid: gid,
                device: device, size: size, blockCount: blockCount, accessTime: accessTime,
                modificationTime: modificationTime, changeTime: changeTime),
            parent: parent, target: target,
            backedByteCount: kind == .regular && mayHoldData ? size : 0)
    }

    private static func time(from reader: inout Reader) throws(Failure) -> FileTime {
        let seconds = try reader.signed()
        let nanoseconds = try reader.number32()
        guard nanoseconds < 1_000_000_000 else { throw .malformed }
        return FileTime(seconds: seconds, nanoseconds: nanoseconds)
    }

    // MARK: numbers

    private static func appendNumber(_ number: UInt64, to bytes: inout [UInt8]) {
        var rest = number
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(truncatingIfNeeded: rest))
    }

    /// Zigzag, so that small negative numbers stay short.
    private static func appendSigned(_ number: Int64, to bytes: inout [UInt8]) {
        appendNumber(UInt64(bitPattern: (number << 1) ^ (number >> 63)), to: &bytes)
    }

    private static func appendBytes(_ value: [UInt8], to bytes: inout [UInt8]) {
        appendNumber(UInt64(value.count), to: &bytes)
        bytes.append(contentsOf: value)
    }

    private struct Reader {
        let bytes: [UInt8]
        var position = 0

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
}
