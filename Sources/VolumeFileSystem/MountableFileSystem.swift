package import VolumeModel

/// Why an operation was not done.
package enum FileSystemError: Error, Hashable, Sendable {
    /// The answer for the application.
    case errno(Errno)
    /// Something it needs is not resident. Nothing was changed: call `resolve(_:)` with the fault from
    /// a task, then the same operation again, until it gives another answer.
    case fault(Fault)
}

/// Something that is not resident and that an operation needs.
package enum Fault: Hashable, Sendable {
    case bytes(InodeNumber, ByteRange)
    /// More of a directory's entries; with a name: at least whether that exists.
    case entries(InodeNumber, name: [UInt8]?)
}

/// An open file. Means nothing to anyone but the file system that gave it.
package struct FileHandle: Hashable, Sendable {
    package let number: UInt64

    package init(_ number: UInt64) { self.number = number }
}

/// On whose behalf an operation is done: the credentials that FUSE gives with a request.
package struct Caller: Hashable, Sendable {
    package let uid: UInt32
    package let gid: UInt32
    package let pid: Int32
    package let umask: UInt32
    /// Other groups of the caller. Known only to operations that say so: they cost a look into /proc.
    package let supplementaryGroups: [UInt32]

    package init(
        uid: UInt32, gid: UInt32, pid: Int32 = 0, umask: UInt32 = 0, supplementaryGroups: [UInt32] = []
    ) {
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.umask = umask
        self.supplementaryGroups = supplementaryGroups
    }

    package static let root = Caller(uid: 0, gid: 0)

    /// Whether it may do what an owner may: root may as well.
    package func isOwner(of attributes: FileAttributes) -> Bool { uid == 0 || uid == attributes.uid }
}

/// One entry of a directory, as a listing gives it.
package struct DirectoryEntry: Hashable, Sendable {
    package let name: [UInt8]
    /// Where to go on after this entry; given back as `offset`.
    package let nextOffset: Int64
    package let attributes: FileAttributes

    package init(name: [UInt8], nextOffset: Int64, attributes: FileAttributes) {
        self.name = name
        self.nextOffset = nextOffset
        self.attributes = attributes
    }
}

/// What statvfs(3) tells.
package struct FileSystemStatistics: Hashable, Sendable {
    package var blockSize: UInt32
    package var totalBlocks: UInt64
    package var freeBlocks: UInt64
    package var totalInodes: UInt64
    package var freeInodes: UInt64

    package init(
        blockSize: UInt32, totalBlocks: UInt64, freeBlocks: UInt64, totalInodes: UInt64, freeInodes: UInt64
    ) {
        self.blockSize = blockSize
        self.totalBlocks = totalBlocks
        self.freeBlocks = freeBlocks
        self.totalInodes = totalInodes
        self.freeInodes = freeInodes
    }
}

package enum RenameRule: Hashable, Sendable {
    case replace
    /// RENAME_NOREPLACE: EEXIST if the new name exists.
    case refuseToReplace
    /// RENAME_EXCHANGE: both names exist and trade places.
    case exchange
}

/// What a fallocate(2) mode asks for.
package enum AllocationMode: Hashable, Sendable {
    case allocate
    case allocateKeepingSize
    /// FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    case punchHole
    case zeroRange
    case zeroRangeKeepingSize

    /// Whether the file reaches to the end of the range afterwards.
    package var mayExtend: Bool { self == .allocate || self == .zeroRange }

    /// Whether the range's bytes are zeros afterwards, whatever they were.
    package var makesZeros: Bool {
        switch self {
        case .allocate, .allocateKeepingSize: false
        case .punchHole, .zeroRange, .zeroRangeKeepingSize: true
        }
    }
}

/// A file system that the kernel can be given: the operations behind a FUSE mount, in POSIX terms.
///
/// Every operation is answered at once on the calling thread, from any number of threads at a time.
/// Permission checks are the kernel's (`default_permissions`), except where an operation says so.
/// Names are bytes without `/` and NUL, and are checked for length by the file system.
/// Inode numbers are what FUSE calls node ids.
package protocol MountableFileSystem: AnyObject, Sendable {
    typealias Failure = FileSystemError

    /// Finds a name and, on success, takes one reference to the inode, which `forget` gives back.
    func lookup(_ name: [UInt8], in parent: InodeNumber) throws(FileSystemError) -> FileAttributes
    /// Finds an inode by its number alone, which the kernel has kept in a file handle, and takes one reference.
    ///
    /// - Throws: ESTALE when it is gone, or has no name: the kernel knows those that are in use.
    func lookup(itself inode: InodeNumber) throws(FileSystemError) -> FileAttributes
    /// Takes `count` more references: what READDIRPLUS replies do for each entry but `.` and `..`.
    func retain(_ inode: InodeNumber, count: UInt64)
    /// Gives references back. An inode without names and references is removed.
    func forget(_ inode: InodeNumber, count: UInt64)

    func attributes(of inode: InodeNumber) throws(FileSystemError) -> FileAttributes
    /// `caller` decides what chown and truncate clear (set-user-ID and set-group-ID bits).
    func setAttributes(
        _ changes: AttributeChanges, of inode: InodeNumber, caller: Caller
    ) throws(FileSystemError) -> FileAttributes

    /// Each of the makers takes one reference to the new inode, like `lookup`.
    /// Of `permissions` the caller's umask is taken away, unless the directory has a default access control
    /// list: then that decides. In a set-group-ID directory the group is the directory's (inode(7)).
    func makeNode(
        _ name: [UInt8], in parent: InodeNumber, kind: FileKind, permissions: UInt32, device: UInt32,
        caller: Caller
    ) throws(FileSystemError) -> FileAttributes
    func makeDirectory(
        _ name: [UInt8], in parent: InodeNumber, permissions: UInt32, caller: Caller
    ) throws(FileSystemError) -> FileAttributes
    func makeSymbolicLink(
        _ name: [UInt8], in parent: InodeNumber, target: [UInt8], caller: Caller
    ) throws(FileSystemError) -> FileAttributes
    func link(
        _ inode: InodeNumber, as name: [UInt8], in parent: InodeNumber
    ) throws(FileSystemError) -> FileAttributes
    /// Makes a regular file that did not exist (EEXIST otherwise) and opens it.
    func create(
        _ name: [UInt8], in parent: InodeNumber, permissions: UInt32, openFlags: Int32, caller: Caller
    ) throws(FileSystemError) -> (FileAttributes, FileHandle)
    /// O_TMPFILE: a regular file with no name, opened; it lives until the last reference and handle go.
    func createUnnamed(
        in parent: InodeNumber, permissions: UInt32, openFlags: Int32, caller: Caller
    ) throws(FileSystemError) -> (FileAttributes, FileHandle)

    func unlink(_ name: [UInt8], in parent: InodeNumber) throws(FileSystemError)
    func removeDirectory(_ name: [UInt8], in parent: InodeNumber) throws(FileSystemError)
    func rename(
        _ name: [UInt8], in parent: InodeNumber, to newName: [UInt8], in newParent: InodeNumber,
        rule: RenameRule
    ) throws(FileSystemError)
    func readSymbolicLink(_ inode: InodeNumber) throws(FileSystemError) -> [UInt8]

    func open(_ inode: InodeNumber, openFlags: Int32) throws(FileSystemError) -> FileHandle
    /// Each open handle is released once. Never fails: what it gives back is already safe.
    func release(_ inode: InodeNumber, handle: FileHandle)
    /// Reads into `buffer`.
    /// - Parameter keepsAccessTime: O_NOATIME of open(2).
    /// - Returns: bytes read; fewer than the buffer holds only at the end of the file.
    func read(
        _ inode: InodeNumber, handle: FileHandle, offset: UInt64, keepsAccessTime: Bool,
        into buffer: UnsafeMutableRawBufferPointer
    ) throws(FileSystemError) -> Int
    /// Writes all of `bytes`, at once and locally; never faults.
    func write(
        _ inode: InodeNumber, handle: FileHandle, offset: UInt64, bytes: UnsafeRawBufferPointer
    ) throws(FileSystemError) -> Int
    /// What a write, or an allocation, by who has no privilege to keep them does before: set-user-ID goes, and
    /// set-group-ID where the group may execute or the caller is not in it (inode(7)).
    /// - Parameter caller: gives who writes, with the supplementary groups. Called only where they matter.
    /// - Returns: whether there were any.
    func clearSetIDs(of inode: InodeNumber, caller: () -> Caller) throws(FileSystemError) -> Bool
    /// May block for as long as a disk does: never from more than a part of the FUSE threads.
    func synchronize(_ inode: InodeNumber, handle: FileHandle?, dataOnly: Bool) throws(FileSystemError)
    func allocate(
        _ inode: InodeNumber, handle: FileHandle, mode: AllocationMode, offset: UInt64, byteCount: UInt64
    ) throws(FileSystemError)
    /// SEEK_DATA and SEEK_HOLE of lseek(2). ENXIO past the end.
    func seek(
        _ inode: InodeNumber, handle: FileHandle, offset: UInt64, toHole: Bool
    ) throws(FileSystemError) -> UInt64

    /// Lists a directory, which needs no opening. `.` and `..` are the caller's to add.
    /// - Parameter keepsAccessTime: O_NOATIME of open(2).
    /// - Returns: up to `limit` entries after `offset` (0: from the start); empty at the end.
    ///   An entry that exists throughout a listing is given exactly once.
    func readDirectory(
        _ inode: InodeNumber, offset: Int64, limit: Int, keepsAccessTime: Bool
    ) throws(FileSystemError) -> [DirectoryEntry]
    /// The parent of a directory; the root's is itself.
    func parent(ofDirectory inode: InodeNumber) throws(FileSystemError) -> InodeNumber

    func statistics() throws(FileSystemError) -> FileSystemStatistics

    func extendedAttribute(_ name: [UInt8], of inode: InodeNumber) throws(FileSystemError) -> [UInt8]
    func extendedAttributeNames(of inode: InodeNumber) throws(FileSystemError) -> [[UInt8]]
    /// POSIX access control lists are the attributes `system.posix_acl_access` and `…_default`; for these
    /// `caller` comes with its supplementary groups.
    func setExtendedAttribute(
        _ name: [UInt8], of inode: InodeNumber, value: [UInt8], mustCreate: Bool, mustReplace: Bool,
        caller: Caller
    ) throws(FileSystemError)
    func removeExtendedAttribute(_ name: [UInt8], of inode: InodeNumber) throws(FileSystemError)

    /// Whether a read may have to wait for what is elsewhere.
    var mayFault: Bool { get }
    /// The same for reads of one file.
    func mayFault(reading inode: InodeNumber) -> Bool
    /// Fetches what an operation said was missing. On return the operation is to be tried again.
    /// - Throws: `.errno(.inputOutput)` when no source had it within the volume's fault time-out.
    func resolve(_ fault: Fault) async throws(FileSystemError)
}

extension MountableFileSystem {
    package var mayFault: Bool { false }
    package func mayFault(reading inode: InodeNumber) -> Bool { mayFault }

    package func read(
        _ inode: InodeNumber, handle: FileHandle, offset: UInt64, into buffer: UnsafeMutableRawBufferPointer
    ) throws(FileSystemError) -> Int {
        try read(inode, handle: handle, offset: offset, keepsAccessTime: false, into: buffer)
    }
    package func readDirectory(
        _ inode: InodeNumber, offset: Int64, limit: Int
    ) throws(FileSystemError) -> [DirectoryEntry] {
        try readDirectory(inode, offset: offset, limit: limit, keepsAccessTime: false)
    }
}
