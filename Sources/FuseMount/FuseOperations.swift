internal import CFuse
internal import Glibc
internal import VolumeFileSystem
internal import VolumeModel

/// The table of callbacks that libfuse calls: each turns the kernel's words into ours.
///
/// The closures capture nothing, as C function pointers must; the server comes with each request.
enum FuseOperations {
    // setxattr(2); enumerators that C gives no type.
    private static let XATTR_CREATE: Int32 = 1
    private static let XATTR_REPLACE: Int32 = 2
    /// What O_TMPFILE comes as (see shim.h): the kernel gives it the one name that no file can have.
    private static let unnamed = [UInt8(ascii: "/")]
    /// Names that the kernel resolves by itself but for file handles (open_by_handle_at(2), NFS).
    private static let itself = Array(".".utf8)
    private static let itsParent = Array("..".utf8)

    static func table() -> fuse_lowlevel_ops {
        var table = fuse_lowlevel_ops()
        addSession(to: &table)
        addNames(to: &table)
        addAttributes(to: &table)
        addFiles(to: &table)
        addDirectories(to: &table)
        addExtendedAttributes(to: &table)
        return table
    }

    /// The server that a request belongs to. The mount keeps it alive until its session is destroyed.
    private static func server(_ request: fuse_req_t?) -> (FuseServer, FuseRequest)? {
        guard let request, let data = fuse_req_userdata(request) else { return nil }
        return (Unmanaged<FuseServer>.fromOpaque(data).takeUnretainedValue(), FuseRequest(pointer: request))
    }

    private static func bytes(_ name: UnsafePointer<CChar>?) -> [UInt8] {
        guard let name else { return [] }
        return Array(UnsafeRawBufferPointer(start: name, count: strlen(name)))
    }

    /// Offsets and sizes have no sign in requests, and libfuse gives them one: the largest are not the smallest.
    fileprivate static func unsigned(_ offset: off_t) -> UInt64 { UInt64(bitPattern: Int64(offset)) }

    private static func addSession(to table: inout fuse_lowlevel_ops) {
        table.`init` = { data, connection in
            guard let data, let connection else { return }
            let server = Unmanaged<FuseServer>.fromOpaque(data).takeUnretainedValue()
            let wanted = UInt32(
                FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS
                    | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ASYNC_DIO | FUSE_CAP_CACHE_SYMLINKS
                    // The kernel checks access control lists, we keep them; and a default list, if there
                    // is one, comes instead of the umask: so the umask is ours to apply.
                    | FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK
                    // A node id means the same for ever: the kernel may ask for "." of one that it has forgotten.
                    | FUSE_CAP_EXPORT_SUPPORT)
            // Splicing costs more than a copy at every size measured. A writeback cache would read the rest
            // of a page before a small write: a write must never fetch. O_TRUNC comes as a setattr.
            connection.pointee.want = connection.pointee.capable & wanted
            connection.pointee.max_write = UInt32(clamping: server.options.transferByteCount)
            connection.pointee.max_background = 64
            connection.pointee.time_gran = 1
        }
        table.statfs = { request, _ in
            guard let (server, request) = FuseOperations.server(request) else { return }
            let fileSystem = server.fileSystem
            server.serve(request) { () throws(FileSystemError) in
                try fileSystem.statistics()
            } reply: {
                $0.reply($1)
            }
        }
    }

    private static func addNames(to table: inout fuse_lowlevel_ops) {
        table.lookup = { request, parent, name in
            guard let (server, request) = FuseOperations.server(request) else { return }
            let (fileSystem, seconds, name) = (
                server.fileSystem, server.options.cacheSeconds, FuseOperations.bytes(name)
            )
            server.serve(request) { () throws(FileSystemError) -> FileAttributes? in
                do throws(FileSystemError) {
                    switch name {
                    case FuseOperations.itself: return try fileSystem.lookup(itself: InodeNumber(parent))
                    case FuseOperations.itsParent:
                        let directory = try fileSystem.parent(ofDirectory: InodeNumber(parent))
                        return try fileSystem.lookup(itself: directory)
                    default: return try fileSystem.lookup(name, in: InodeNumber(parent))
                    }
                } catch {
                    if error == .errno(.noSuchEntry) { return nil }
                    throw error
                }
            } reply: { request, found in
                if let found {
                    request.reply(entry: found, cacheSeconds: seconds)
                } else {
                    request.replyMissing(cacheSeconds: seconds)
                }
            }
        }
        table.forget = { request, inode, count in
            guard let (server, request) = FuseOperations.server(request) else { return }
            server.forget(InodeNumber(inode), count: count)
            request.forgotten()
        }
        table.forget_multi = { request, count, items in
            guard let (server, request) = FuseOperations.server(request) else { return }
            for item in UnsafeBufferPointer(start: items, count: count) {
                server.forget(InodeNumber(item.ino), count: item.nlookup)
            }
            request.forgotten()
        }
        table.mknod = { request, parent, name, mode, device in
            FuseOperations.make(request) { fileSystem, caller in
                let (name, device) = (FuseOperations.bytes(name), UInt32(truncatingIfNeeded: device))
                return { () throws(FileSystemError) in
                    guard let kind = FileKind(mode: mode & 0o170000 == 0 ? mode | 0o100000 : mode) else {
                        throw .errno(.invalidArgument)
                    }
                    return try fileSystem.makeNode(
                        name, in: InodeNumber(parent), kind: kind, permissions: mode & 0o7777,
                        device: device, caller: caller)
                }
            }
        }
        table.mkdir = { request, parent, name, mode in
            FuseOperations.make(request) { fileSystem, caller in
                let name = FuseOperations.bytes(name)
                return { () throws(FileSystemError) in
                    try fileSystem.makeDirectory(
                        name, in: InodeNumber(parent), permissions: mode & 0o7777, caller: caller)
                }
            }
        }
        table.symlink = { request, target, parent, name in
            FuseOperations.make(request) { fileSystem, caller in
                let (target, name) = (FuseOperations.bytes(target), FuseOperations.bytes(name))
                return { () throws(FileSystemError) in
                    try fileSystem.makeSymbolicLink(
                        name, in: InodeNumber(parent), target: target, caller: caller)
                }
            }
        }
        table.link = { request, inode, parent, name in
            FuseOperations.make(request) { fileSystem, _ in
                let name = FuseOperations.bytes(name)
                return { () throws(FileSystemError) in
                    try fileSystem.link(InodeNumber(inode), as: name, in: InodeNumber(parent))
                }
            }
        }
        table.unlink = { request, parent, name in
            FuseOperations.change(request) { fileSystem in
                let name = FuseOperations.bytes(name)
                return { () throws(FileSystemError) in try fileSystem.unlink(name, in: InodeNumber(parent)) }
            }
        }
        table.rmdir = { request, parent, name in
            FuseOperations.change(request) { fileSystem in
                let name = FuseOperations.bytes(name)
                return { () throws(FileSystemError) in
                    try fileSystem.removeDirectory(name, in: InodeNumber(parent))
                }
            }
        }
        table.rename = { request, parent, name, newParent, newName, flags in
            FuseOperations.change(request) { fileSystem in
                let (name, newName) = (FuseOperations.bytes(name), FuseOperations.bytes(newName))
                return { () throws(FileSystemError) in
                    try fileSystem.rename(
                        name, in: InodeNumber(parent), to: newName, in: InodeNumber(newParent),
                        rule: try FuseOperations.rule(flags))
                }
            }
        }
        table.readlink = { request, inode in
            guard let (server, request) = FuseOperations.server(request) else { return }
            let fileSystem = server.fileSystem
            server.serve(request) { () throws(FileSystemError) in
                try fileSystem.readSymbolicLink(InodeNumber(inode))
            } reply: {
                $0.reply(target: $1)
            }
        }
    }

    /// RENAME_NOREPLACE is 1 and RENAME_EXCHANGE is 2 (rename(2)); what else there is, we do not offer.
    private static func rule(_ flags: UInt32) throws(FileSystemError) -> RenameRule {
        switch flags {
        case 0: .replace
        case 1: .refuseToReplace
        case 2: .exchange
        default: throw .errno(.invalidArgument)
        }
    }

    /// An operation that gives a new entry.
    private static func make(
        _ request: fuse_req_t?,
        _ prepare: (any MountableFileSystem, Caller) -> @Sendable () throws(FileSystemError) -> FileAttributes
    ) {
        guard let (server, request) = FuseOperations.server(request) else { return }
        let seconds = server.options.cacheSeconds
        server.serve(request, prepare(server.fileSystem, request.caller)) {
            $0.reply(entry: $1, cacheSeconds: seconds)
        }
    }

    /// An operation that gives nothing.
    private static func change(
        _ request: fuse_req_t?,
        _ prepare: (any MountableFileSystem) -> @Sendable () throws(FileSystemError) -> Void
    ) {
        guard let (server, request) = FuseOperations.server(request) else { return }
        server.serve(request, prepare(server.fileSystem)) { request, _ in request.succeed() }
    }

    private static func addAttributes(to table: inout fuse_lowlevel_ops) {
        table.getattr = { request, inode, _ in
            guard let (server, request) = FuseOperations.server(request) else { return }
            let (fileSystem, seconds) = (server.fileSystem, server.options.cacheSeconds)
            server.serve(request) { () throws(FileSystemError) in
                try fileSystem.attributes(of: InodeNumber(inode))
            } reply: {
                $0.reply($1, cacheSeconds: seconds)
            }
        }
        table.setattr = { request, inode, status, mask, _ in
            guard let (server, request) = FuseOperations.server(request), let status else { return }
            let (fileSystem, seconds) = (server.fileSystem, server.options.cacheSeconds)
            let changes = AttributeChanges(status.pointee, mask: mask)
            let caller = request.caller
            let cutsUnprivileged = changes.size != nil && changes.clearsSetID
            server.serve(request) { () throws(FileSystemError) in
                if cutsUnprivileged { try server.clearSetIDs(of: InodeNumber(inode), for: request) }
                if changes.isOfOwner {
                    try server.clearSetIDs(ofChowned: InodeNumber(inode), changes, request)
                }
                return try fileSystem.setAttributes(changes, of: InodeNumber(inode), caller: caller)
            } reply: {
                $0.reply($1, cacheSeconds: seconds)
            }
        }
    }

    private static func addFiles(to table: inout fuse_lowlevel_ops) {
        table.open = { request, inode, info in
            guard let (server, request) = FuseOperations.server(request), let info else { return }
            var opened = info.pointee
            do throws(FileSystemError) {
                opened.fh = try server.fileSystem.open(InodeNumber(inode), openFlags: opened.flags).number
                // What the kernel has cached of the file stays right: it changes only through this mount.
                opened.keep_cache = 1
                request.reply(opened: &opened)
            } catch {
                request.fail(error.errno)
            }
        }
        table.create = { request, parent, name, mode, info in
            guard let (server, request) = FuseOperations.server(request), let info else { return }
            let (fileSystem, seconds, caller) = (
                server.fileSystem, server.options.cacheSeconds, request.caller
            )
            let (name, flags) = (FuseOperations.bytes(name), info.pointee.flags)
            server.serve(request) { () throws(FileSystemError) -> (FileAttributes, FileHandle) in
                name == FuseOperations.unnamed
                    ? try fileSystem.createUnnamed(
                        in: InodeNumber(parent), permissions: mode & 0o7777, openFlags: flags, caller: caller)
                    : try fileSystem.create(
                        name, in: InodeNumber(parent), permissions: mode & 0o7777, openFlags: flags,
                        caller: caller)
            } reply: { request, made in
                var opened = fuse_file_info()
                opened.flags = flags
                opened.fh = made.1.number
                opened.keep_cache = 1
                request.reply(created: made.0, &opened, cacheSeconds: seconds)
            }
        }
        table.read = { request, inode, size, offset, info in
            guard let (server, request) = FuseOperations.server(request) else { return }
            server.read(
                request, InodeNumber(inode), size: size, offset: FuseOperations.unsigned(offset),
                handle: FileHandle(info?.pointee.fh ?? inode), openFlags: info?.pointee.flags ?? 0)
        }
        table.write = { request, inode, buffer, size, offset, info in
            guard let (server, request) = FuseOperations.server(request) else { return }
            let openFlags = info?.pointee.flags ?? 0
            let isDirect = openFlags & Int32(GW_O_DIRECT) != 0
            if isDirect {
                guard server.beginDirectWrite(request) else { return }
            } else {
                server.noteCaching(of: InodeNumber(inode))
            }
            do throws(FileSystemError) {
                if openFlags & Int32(GW_FUSE_WRITE_KILLS_SET_IDS) != 0 {
                    try server.clearSetIDs(of: InodeNumber(inode), for: request)
                }
                // Never faults: nothing of the buffer need outlive this call.
                let count = try server.fileSystem.write(
                    InodeNumber(inode), handle: FileHandle(info?.pointee.fh ?? inode),
                    offset: FuseOperations.unsigned(offset),
                    bytes: UnsafeRawBufferPointer(start: buffer, count: size))
                if isDirect {
                    server.answerDirectWrite(request, InodeNumber(inode), offset: offset, count: count)
                } else {
                    request.reply(count: count)
                }
            } catch {
                request.fail(error.errno)
                if isDirect { server.endDirectWrite() }
            }
        }
        table.flush = { request, _, _ in
            // Nothing is kept back from the file system; ENOSYS lets the kernel stop asking.
            guard let (_, request) = FuseOperations.server(request) else { return }
            request.fail(.notImplemented)
        }
        table.release = { request, inode, info in
            guard let (server, request) = FuseOperations.server(request) else { return }
            server.fileSystem.release(InodeNumber(inode), handle: FileHandle(info?.pointee.fh ?? inode))
            request.succeed()
        }
        table.fsync = { request, inode, dataOnly, info in
            FuseOperations.synchronize(request, inode, dataOnly: dataOnly != 0, info)
        }
        table.fallocate = { request, inode, mode, offset, length, info in
            guard let (server, request) = FuseOperations.server(request) else { return }
            let fileSystem = server.fileSystem
            let handle = FileHandle(info?.pointee.fh ?? inode)
            server.serve(request) { () throws(FileSystemError) in
                guard let mode = AllocationMode(flags: mode) else { throw .errno(.notSupported) }
                guard offset >= 0, length > 0 else { throw .errno(.invalidArgument) }
                try server.clearSetIDsUnlessPrivileged(of: InodeNumber(inode), for: request)
                try fileSystem.allocate(
                    InodeNumber(inode), handle: handle, mode: mode, offset: UInt64(offset),
                    byteCount: UInt64(length))
            } reply: { request, _ in
                request.succeed()
            }
        }
        table.lseek = { request, inode, offset, whence, info in
            guard let (server, request) = FuseOperations.server(request) else { return }
            let fileSystem = server.fileSystem
            let handle = FileHandle(info?.pointee.fh ?? inode)
            server.serve(request) { () throws(FileSystemError) in
                guard whence == 3 || whence == 4 else { throw .errno(.invalidArgument) }
                guard offset >= 0 else { throw .errno(.noSuchDevice) }
                return try fileSystem.seek(
                    InodeNumber(inode), handle: handle, offset: UInt64(offset), toHole: whence == 4)
            } reply: {
                $0.reply(offset: $1)
            }
        }
    }

    private static func synchronize(
        _ request: fuse_req_t?, _ inode: fuse_ino_t, dataOnly: Bool,
        _ info: UnsafeMutablePointer<fuse_file_info>?
    ) {
        guard let (server, request) = FuseOperations.server(request) else { return }
        let fileSystem = server.fileSystem
        let handle = info.map { FileHandle($0.pointee.fh) }
        server.serveBlocking(request) { () throws(FileSystemError) in
            try fileSystem.synchronize(InodeNumber(inode), handle: handle, dataOnly: dataOnly)
        }
    }

    private static func addDirectories(to table: inout fuse_lowlevel_ops) {
        table.opendir = { request, _, _ in
            // A listing needs no handle; ENOSYS lets the kernel stop asking, and keep listings as well.
            guard let (_, request) = FuseOperations.server(request) else { return }
            request.fail(.notImplemented)
        }
        table.readdir = { request, inode, size, offset, info in
            FuseOperations.readDirectory(request, inode, size, offset, info, isPlus: false)
        }
        table.readdirplus = { request, inode, size, offset, info in
            FuseOperations.readDirectory(request, inode, size, offset, info, isPlus: true)
        }
        table.fsyncdir = { request, inode, dataOnly, info in
            FuseOperations.synchronize(request, inode, dataOnly: dataOnly != 0, info)
        }
    }

    /// - Parameter info: its handle is the flags with which the directory was opened (see shim.h).
    private static func readDirectory(
        _ request: fuse_req_t?, _ inode: fuse_ino_t, _ size: Int, _ offset: off_t,
        _ info: UnsafeMutablePointer<fuse_file_info>?, isPlus: Bool
    ) {
        guard let (server, request) = FuseOperations.server(request) else { return }
        server.readDirectory(
            request, InodeNumber(inode), size: size, offset: Int64(offset),
            openFlags: Int32(truncatingIfNeeded: info?.pointee.fh ?? 0), isPlus: isPlus)
    }

    private static func addExtendedAttributes(to table: inout fuse_lowlevel_ops) {
        table.getxattr = { request, inode, name, size in
            guard let (server, request) = FuseOperations.server(request) else { return }
            let (fileSystem, name) = (server.fileSystem, FuseOperations.bytes(name))
            server.serve(request) { () throws(FileSystemError) in
                do throws(FileSystemError) {
                    return try fileSystem.extendedAttribute(name, of: InodeNumber(inode))
                } catch .errno(.noData) where SecurityLabel.isUnsupported(name) {
                    throw .errno(.notSupported)
                }
            } reply: {
                FuseOperations.answer($0, $1, room: size)
            }
        }
        table.listxattr = { request, inode, size in
            guard let (server, request) = FuseOperations.server(request) else { return }
            let (fileSystem, caller) = (server.fileSystem, request.caller)
            server.serve(request) { () throws(FileSystemError) in
                var names = try fileSystem.extendedAttributeNames(of: InodeNumber(inode))
                // xattr(7): they exist only for those who may use them. Nearly always there are none.
                if names.contains(where: FuseOperations.isTrusted), !CallerPrivilege.seesTrusted(caller) {
                    names.removeAll(where: FuseOperations.isTrusted)
                }
                return names.flatMap { $0 + [0] }
            } reply: {
                FuseOperations.answer($0, $1, room: size)
            }
        }
        table.setxattr = { request, inode, name, value, size, flags in
            let caller = FuseOperations.callerOfSettingAttribute(request, name)
            FuseOperations.change(request) { fileSystem in
                let name = FuseOperations.bytes(name)
                let value = Array(UnsafeRawBufferPointer(start: value, count: size))
                return { () throws(FileSystemError) in
                    try fileSystem.setExtendedAttribute(
                        name, of: InodeNumber(inode), value: value,
                        mustCreate: flags & FuseOperations.XATTR_CREATE != 0,
                        mustReplace: flags & FuseOperations.XATTR_REPLACE != 0, caller: caller)
                }
            }
        }
        table.removexattr = { request, inode, name in
            FuseOperations.change(request) { fileSystem in
                let name = FuseOperations.bytes(name)
                return { () throws(FileSystemError) in
                    try fileSystem.removeExtendedAttribute(name, of: InodeNumber(inode))
                }
            }
        }
    }

    private static func isTrusted(_ name: [UInt8]) -> Bool { name.starts(with: "trusted.".utf8) }

    /// Whether the caller is in the file's group matters to access control lists only.
    private static func callerOfSettingAttribute(
        _ request: fuse_req_t?, _ name: UnsafePointer<CChar>?
    ) -> Caller {
        guard let (_, request) = server(request) else { return .root }
        return bytes(name).starts(with: "system.".utf8) ? request.callerWithGroups : request.caller
    }

    /// getxattr(2): with no room, how much is needed; with too little, ERANGE.
    private static func answer(_ request: FuseRequest, _ value: [UInt8], room: Int) {
        if room == 0 {
            request.reply(xattrByteCount: value.count)
        } else if value.count > room {
            request.fail(.outOfRange)
        } else {
            request.reply(bytes: value)
        }
    }
}

extension FileSystemError {
    /// The errno of an operation that cannot fault.
    fileprivate var errno: Errno {
        switch self {
        case .errno(let errno): errno
        case .fault: .inputOutput
        }
    }
}

extension AllocationMode {
    /// - Returns: nil for a mode that we do not offer: collapsing and inserting ranges, for example.
    fileprivate init?(flags: Int32) {
        // FALLOC_FL_KEEP_SIZE 1, PUNCH_HOLE 2, ZERO_RANGE 16 (fallocate(2)).
        switch flags {
        case 0: self = .allocate
        case 1: self = .allocateKeepingSize
        case 3: self = .punchHole
        case 16: self = .zeroRange
        case 17: self = .zeroRangeKeepingSize
        default: return nil
        }
    }
}

extension AttributeChanges {
    fileprivate init(_ status: stat, mask: Int32) {
        self.init()
        func has(_ flag: Int32) -> Bool { mask & flag != 0 }
        if has(FUSE_SET_ATTR_MODE) { permissions = status.st_mode & 0o7777 }
        if has(FUSE_SET_ATTR_UID) { uid = status.st_uid }
        if has(FUSE_SET_ATTR_GID) { gid = status.st_gid }
        if has(FUSE_SET_ATTR_SIZE) { size = FuseOperations.unsigned(status.st_size) }
        if has(FUSE_SET_ATTR_ATIME_NOW) {
            accessTime = .now
        } else if has(FUSE_SET_ATTR_ATIME) {
            accessTime = .at(FileTime(status.st_atim))
        }
        if has(FUSE_SET_ATTR_MTIME_NOW) {
            modificationTime = .now
        } else if has(FUSE_SET_ATTR_MTIME) {
            modificationTime = .at(FileTime(status.st_mtim))
        }
        if has(FUSE_SET_ATTR_CTIME) { changeTime = FileTime(status.st_ctim) }
        // Both set-ID bits (FATTR_KILL_SUIDGID), and only where the caller has no privilege to keep them.
        clearsSetID = has(FUSE_SET_ATTR_KILL_SUID)
        // chown(2) with neither owner nor group changes nothing but these bits, which are ours to clear.
        if self == AttributeChanges() { clearsSetID = true }
    }
}
