internal import CFuse
internal import Synchronization
internal import VolumeFileSystem
internal import VolumeModel

/// Set-user-ID and set-group-ID bits, which the kernel leaves to us to clear (`FuseNegotiation`).
extension FuseServer {
    /// What a write by who has no privilege does to set-user-ID and set-group-ID bits. The kernel is told if there were
    /// any: it decides by what it knows of the mode as whom a program runs.
    func clearSetIDs(of inode: InodeNumber, for request: FuseRequest) throws(FileSystemError) {
        guard try fileSystem.clearSetIDs(of: inode, caller: { request.callerWithGroups }) else { return }
        guard let session = OpaquePointer(bitPattern: session.load(ordering: .acquiring)) else { return }
        // A negative offset: of the bytes it keeps what it has. Waits for nothing; that it knew nothing is no failure.
        _ = fuse_lowlevel_notify_inval_inode(session, inode.number, -1, 0)
    }

    /// The same of an allocation, whose request does not tell whether it is due.
    func clearSetIDsUnlessPrivileged(
        of inode: InodeNumber, for request: FuseRequest
    ) throws(FileSystemError) {
        // Nearly always there is nothing to clear, and nobody to be looked for.
        guard try fileSystem.attributes(of: inode).permissions & 0o6000 != 0,
            !CallerPrivilege.keepsSetIDs(request.caller)
        else { return }
        try clearSetIDs(of: inode, for: request)
    }

    /// The same of a chown where the group may not execute, and who is asked for is not in it: set-group-ID goes as well.
    func clearSetIDs(
        ofChowned inode: InodeNumber, _ changes: AttributeChanges, _ request: FuseRequest
    ) throws(FileSystemError) {
        let attributes = try fileSystem.attributes(of: inode)
        guard attributes.permissions & 0o2010 == 0o2000 else { return }
        // Whoever writes asks for that before the write, which says whether it is due.
        guard !changes.isOnlyOfSetIDs || request.caller.isOwner(of: attributes) else { return }
        try clearSetIDsUnlessPrivileged(of: inode, for: request)
    }
}
