internal import CFuse
internal import Glibc
internal import VolumeFileSystem
internal import VolumeModel

/// A request of the kernel, which is answered exactly once.
///
/// Unchecked Sendable: libfuse lets any thread answer a request; that it happens once is what
/// `FuseServer` sees to.
struct FuseRequest: @unchecked Sendable {
    let pointer: fuse_req_t

    var caller: Caller {
        guard let context = fuse_req_ctx(pointer)?.pointee else { return .root }
        return Caller(uid: context.uid, gid: context.gid, pid: context.pid, umask: UInt32(context.umask))
    }

    /// Looks into /proc; a caller that cannot be found there has no other groups.
    var callerWithGroups: Caller {
        let caller = self.caller
        // NGROUPS_MAX of Linux.
        let groups = [gid_t](unsafeUninitializedCapacity: 65_536) { buffer, count in
            let found = fuse_req_getgroups(pointer, Int32(buffer.count), buffer.baseAddress)
            count = min(buffer.count, max(0, Int(found)))
        }
        return Caller(
            uid: caller.uid, gid: caller.gid, pid: caller.pid, umask: caller.umask,
            supplementaryGroups: groups)
    }

    // The kernel may have given up on a request meanwhile: a failed reply needs nothing more from us.

    func fail(_ errno: Errno) { _ = fuse_reply_err(pointer, errno.number) }
    func succeed() { _ = fuse_reply_err(pointer, 0) }
    func forgotten() { fuse_reply_none(pointer) }
    func reply(count: Int) { _ = fuse_reply_write(pointer, count) }
    func reply(xattrByteCount: Int) { _ = fuse_reply_xattr(pointer, xattrByteCount) }
    func reply(offset: UInt64) { _ = fuse_reply_lseek(pointer, off_t(clamping: offset)) }

    func reply(bytes: UnsafeRawBufferPointer) {
        _ = fuse_reply_buf(pointer, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
    }

    func reply(bytes: [UInt8]) { bytes.withUnsafeBytes { reply(bytes: $0) } }

    /// A symbolic link's target, which libfuse wants as a C string.
    func reply(target: [UInt8]) {
        (target + [0]).withUnsafeBufferPointer { buffer in
            buffer.withMemoryRebound(to: CChar.self) { _ = fuse_reply_readlink(pointer, $0.baseAddress) }
        }
    }

    func reply(_ attributes: FileAttributes, cacheSeconds: Double) {
        var status = attributes.status
        _ = fuse_reply_attr(pointer, &status, cacheSeconds)
    }

    func reply(entry attributes: FileAttributes, cacheSeconds: Double) {
        var entry = attributes.entry(cacheSeconds: cacheSeconds)
        _ = fuse_reply_entry(pointer, &entry)
    }

    /// "There is no such name", which the kernel may remember.
    func replyMissing(cacheSeconds: Double) {
        var entry = fuse_entry_param()
        entry.entry_timeout = cacheSeconds
        _ = fuse_reply_entry(pointer, &entry)
    }

    func reply(created attributes: FileAttributes, _ info: inout fuse_file_info, cacheSeconds: Double) {
        var entry = attributes.entry(cacheSeconds: cacheSeconds)
        _ = fuse_reply_create(pointer, &entry, &info)
    }

    func reply(opened info: inout fuse_file_info) { _ = fuse_reply_open(pointer, &info) }

    func reply(_ statistics: FileSystemStatistics) {
        var status = statvfs()
        status.f_bsize = UInt(statistics.blockSize)
        status.f_frsize = UInt(statistics.blockSize)
        status.f_blocks = UInt(clamping: statistics.totalBlocks)
        status.f_bfree = UInt(clamping: statistics.freeBlocks)
        status.f_bavail = UInt(clamping: statistics.freeBlocks)
        status.f_files = UInt(clamping: statistics.totalInodes)
        status.f_ffree = UInt(clamping: statistics.freeInodes)
        status.f_favail = UInt(clamping: statistics.freeInodes)
        status.f_namemax = UInt(FileName.maximumByteCount)
        _ = fuse_reply_statfs(pointer, &status)
    }
}

extension FileAttributes {
    var status: stat {
        var status = stat()
        status.st_ino = UInt(inode.number)
        status.st_mode = mode
        status.st_nlink = UInt(linkCount)
        status.st_uid = uid
        status.st_gid = gid
        status.st_rdev = dev_t(device)
        status.st_size = Int(clamping: size)
        status.st_blocks = Int(clamping: blockCount)
        status.st_blksize = 4096
        status.st_atim = timespec(accessTime)
        status.st_mtim = timespec(modificationTime)
        status.st_ctim = timespec(changeTime)
        return status
    }

    func entry(cacheSeconds: Double) -> fuse_entry_param {
        var entry = fuse_entry_param()
        entry.ino = inode.number
        entry.attr = status
        entry.attr_timeout = cacheSeconds
        entry.entry_timeout = cacheSeconds
        return entry
    }
}

extension timespec {
    init(_ time: FileTime) { self.init(tv_sec: Int(time.seconds), tv_nsec: Int(time.nanoseconds)) }
}

extension FileTime {
    init(_ time: timespec) {
        self.init(seconds: Int64(time.tv_sec), nanoseconds: UInt32(clamping: time.tv_nsec))
    }
}
