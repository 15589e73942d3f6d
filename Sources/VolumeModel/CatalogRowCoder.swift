/// The form in which catalog rows travel: a tag byte, then LEB128 numbers and length-prefixed bytes.
///
/// About 45 bytes for an inode with its entry, before compression. Written by hand rather than as
/// protobuf messages because a million rows must cost a second, not ten.
package enum CatalogRowCoder {
    package typealias Failure = NumberReader.Failure

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
            bytes.append(number: inode.number)
        case .entry(let entry):
            bytes.append(Tag.entry.rawValue)
            bytes.append(number: entry.parent.number)
            bytes.append(signed: entry.cookie)
            bytes.append(number: entry.inode.number)
            bytes.append(number: UInt64(entry.kind.rawValue >> 12))
            bytes.append(counted: entry.name)
        case .removedEntry(let parent, let cookie):
            bytes.append(Tag.removedEntry.rawValue)
            bytes.append(number: parent.number)
            bytes.append(signed: cookie)
        case .attribute(let inode, let name, let value):
            bytes.append(Tag.attribute.rawValue)
            bytes.append(number: inode.number)
            bytes.append(counted: name)
            bytes.append(counted: value)
        case .removedAttribute(let inode, let name):
            bytes.append(Tag.removedAttribute.rawValue)
            bytes.append(number: inode.number)
            bytes.append(counted: name)
        }
    }

    /// Reads all rows of a batch.
    ///
    /// - Parameter limit: how many they may be. The shortest has two bytes, and takes seventy times that in memory.
    /// - Throws: `Failure` for anything that `append` would not have written; nothing traps.
    package static func rows(of bytes: [UInt8], limit: Int = .max) throws(Failure) -> [CatalogRow] {
        var rows: [CatalogRow] = []
        var reader = NumberReader(bytes: bytes)
        while !reader.isAtEnd {
            guard rows.count < limit else { throw .malformed }
            rows.append(try row(from: &reader))
        }
        return rows
    }

    private static func row(from reader: inout NumberReader) throws(Failure) -> CatalogRow {
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
        bytes.append(number: attributes.inode.number)
        bytes.append(number: UInt64(attributes.mode))
        bytes.append(number: UInt64(attributes.linkCount))
        bytes.append(number: UInt64(attributes.uid))
        bytes.append(number: UInt64(attributes.gid))
        bytes.append(number: UInt64(attributes.device))
        bytes.append(number: attributes.size)
        bytes.append(number: attributes.blockCount)
        for time in [attributes.accessTime, attributes.modificationTime, attributes.changeTime] {
            bytes.append(signed: time.seconds)
            bytes.append(number: UInt64(time.nanoseconds))
        }
        bytes.append(number: record.parent.number)
        bytes.append(record.mayHoldData ? 1 : 0)
        bytes.append(counted: record.target)
    }

    private static func record(from reader: inout NumberReader) throws(Failure) -> InodeRecord {
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

    private static func time(from reader: inout NumberReader) throws(Failure) -> FileTime {
        let seconds = try reader.signed()
        let nanoseconds = try reader.number32()
        guard nanoseconds < 1_000_000_000 else { throw .malformed }
        return FileTime(seconds: seconds, nanoseconds: nanoseconds)
    }
}
