import VolumeFileSystem
import VolumeModel

/// A file system that keeps nothing: whatever it is asked, it answers at once, and the same each time. By the inode's number
/// some are directories, some links and some are not there.
final class BareFileSystem: MountableFileSystem {
    private func kind(of inode: InodeNumber) throws(FileSystemError) -> FileKind {
        switch inode.number % 8 {
        case 1: .directory
        case 2: .symbolicLink
        case 7: throw .errno(.stale)
        default: .regular
        }
    }

    func attributes(of inode: InodeNumber) throws(FileSystemError) -> FileAttributes {
        let time = FileTime(seconds: Int64(truncatingIfNeeded: inode.number), nanoseconds: 5)
        return FileAttributes(
            inode: inode, kind: try kind(of: inode), permissions: 0o6755, linkCount: 1, uid: 1000, gid: 1000,
            size: inode.number, blockCount: inode.number, accessTime: time, modificationTime: time,
            changeTime: time)
    }

    /// A name's inode: never 0, which would be none.
    private func inode(_ name: [UInt8]) throws(FileSystemError) -> InodeNumber {
        guard FileName.isValid(name) else { throw .errno(.invalidArgument) }
        guard name.count < 12 else { throw .errno(.noSuchEntry) }
        return InodeNumber(name.reduce(1) { $0 &* 31 &+ UInt64($1) } | 8)
    }

    func lookup(_ name: [UInt8], in parent: InodeNumber) throws(FileSystemError) -> FileAttributes {
        try attributes(of: try inode(name))
    }
    func lookup(itself inode: InodeNumber) throws(FileSystemError) -> FileAttributes {
        try attributes(of: inode)
    }
    func retain(_ inode: InodeNumber, count: UInt64) {}
    func forget(_ inode: InodeNumber, count: UInt64) {}

    func setAttributes(
        _ changes: AttributeChanges, of inode: InodeNumber, caller: Caller
    ) throws(FileSystemError) -> FileAttributes {
        var attributes = try attributes(of: inode)
        attributes.size = changes.size ?? attributes.size
        return attributes
    }

    func makeNode(
        _ name: [UInt8], in parent: InodeNumber, kind: FileKind, permissions: UInt32, device: UInt32,
        caller: Caller
    ) throws(FileSystemError) -> FileAttributes { try attributes(of: try inode(name)) }
    func makeDirectory(
        _ name: [UInt8], in parent: InodeNumber, permissions: UInt32, caller: Caller
    ) throws(FileSystemError) -> FileAttributes { try attributes(of: try inode(name)) }
    func makeSymbolicLink(
        _ name: [UInt8], in parent: InodeNumber, target: [UInt8], caller: Caller
    ) throws(FileSystemError) -> FileAttributes { try attributes(of: try inode(name)) }
    func link(
        _ inode: InodeNumber, as name: [UInt8], in parent: InodeNumber
    ) throws(FileSystemError) -> FileAttributes { try attributes(of: try self.inode(name)) }
    func create(
        _ name: [UInt8], in parent: InodeNumber, permissions: UInt32, openFlags: Int32, caller: Caller
    ) throws(FileSystemError) -> (FileAttributes, FileHandle) {
        let inode = try inode(name)
        return (try attributes(of: inode), FileHandle(inode.number))
    }
    func createUnnamed(
        in parent: InodeNumber, permissions: UInt32, openFlags: Int32, caller: Caller
    ) throws(FileSystemError) -> (FileAttributes, FileHandle) {
        (try attributes(of: InodeNumber(24)), FileHandle(24))
    }

    func unlink(_ name: [UInt8], in parent: InodeNumber) throws(FileSystemError) { _ = try inode(name) }
    func removeDirectory(_ name: [UInt8], in parent: InodeNumber) throws(FileSystemError) {
        _ = try inode(name)
    }
    func rename(
        _ name: [UInt8], in parent: InodeNumber, to newName: [UInt8], in newParent: InodeNumber,
        rule: RenameRule
    ) throws(FileSystemError) {
        (_, _) = (try inode(name), try inode(newName))
    }
    func readSymbolicLink(_ inode: InodeNumber) throws(FileSystemError) -> [UInt8] {
        guard try kind(of: inode) == .symbolicLink else { throw .errno(.invalidArgument) }
        return [UInt8](repeating: 0x61, count: 1 + Int(inode.number % 4095))
    }

    func open(_ inode: InodeNumber, openFlags: Int32) throws(FileSystemError) -> FileHandle {
        _ = try kind(of: inode)
        return FileHandle(inode.number)
    }
    func release(_ inode: InodeNumber, handle: FileHandle) {}
    func read(
        _ inode: InodeNumber, handle: FileHandle, offset: UInt64, keepsAccessTime: Bool,
        into buffer: UnsafeMutableRawBufferPointer
    ) throws(FileSystemError) -> Int {
        _ = try kind(of: inode)
        let count = min(buffer.count, Int(inode.number % 10_000))
        UnsafeMutableRawBufferPointer(rebasing: buffer[..<count]).initializeMemory(
            as: UInt8.self, repeating: 1)
        return count
    }
    func write(
        _ inode: InodeNumber, handle: FileHandle, offset: UInt64, bytes: UnsafeRawBufferPointer
    ) throws(FileSystemError) -> Int {
        _ = try kind(of: inode)
        // Each byte is looked at: there are as many as it says.
        return bytes.reduce(0) { $0 &+ Int($1) } == -1 ? 0 : bytes.count
    }
    func clearSetIDs(of inode: InodeNumber, caller: () -> Caller) throws(FileSystemError) -> Bool {
        try kind(of: inode) == .regular
    }
    func synchronize(_ inode: InodeNumber, handle: FileHandle?, dataOnly: Bool) throws(FileSystemError) {
        _ = try kind(of: inode)
    }
    func allocate(
        _ inode: InodeNumber, handle: FileHandle, mode: AllocationMode, offset: UInt64, byteCount: UInt64
    ) throws(FileSystemError) {
        guard ByteRange(checkedOffset: offset, byteCount: byteCount) != nil else {
            throw .errno(.fileTooBig)
        }
    }
    func seek(
        _ inode: InodeNumber, handle: FileHandle, offset: UInt64, toHole: Bool
    ) throws(FileSystemError) -> UInt64 { offset }

    func readDirectory(
        _ inode: InodeNumber, offset: Int64, limit: Int, keepsAccessTime: Bool
    ) throws(FileSystemError) -> [DirectoryEntry] {
        guard try kind(of: inode) == .directory else { throw .errno(.notDirectory) }
        // As far as a listing's offsets may go.
        guard offset < Int64.max / 2 else { return [] }
        let attributes = try attributes(of: InodeNumber(8))
        return (1...Int64(min(limit, 5))).map {
            DirectoryEntry(
                name: [UInt8](repeating: 0x62, count: 50 * Int($0)), nextOffset: offset + $0,
                attributes: attributes)
        }
    }
    func parent(ofDirectory inode: InodeNumber) throws(FileSystemError) -> InodeNumber { .root }

    func statistics() throws(FileSystemError) -> FileSystemStatistics {
        FileSystemStatistics(
            blockSize: 4096, totalBlocks: .max, freeBlocks: 5, totalInodes: .max, freeInodes: 0)
    }

    private static let value = [UInt8](repeating: 7, count: 100)

    func extendedAttribute(_ name: [UInt8], of inode: InodeNumber) throws(FileSystemError) -> [UInt8] {
        guard name.starts(with: "user.".utf8) else { throw .errno(.noData) }
        return Self.value
    }
    func extendedAttributeNames(of inode: InodeNumber) throws(FileSystemError) -> [[UInt8]] {
        [Array("user.a".utf8), Array("trusted.b".utf8)]
    }
    func setExtendedAttribute(
        _ name: [UInt8], of inode: InodeNumber, value: [UInt8], mustCreate: Bool, mustReplace: Bool,
        caller: Caller
    ) throws(FileSystemError) {
        guard value.count <= 65_536 else { throw .errno(.outOfRange) }
    }
    func removeExtendedAttribute(_ name: [UInt8], of inode: InodeNumber) throws(FileSystemError) {}

    /// So that nobody tells a kernel, on another thread, what it is to forget.
    var mayFault: Bool { true }
    func mayFault(reading inode: InodeNumber) -> Bool { true }
    func resolve(_ fault: Fault) async throws(FileSystemError) {}
}
