internal import Glibc

/// Mounts of a FUSE file system that nobody serves any more: each use of them fails with ENOTCONN.
///
/// They are what keeps a container that is started again from writing to the directory below, so they stay until whoever
/// mounted them takes them away or mounts there anew.
package enum DeadMount {
    /// Makes sure that a mount has no server: whatever waits for one fails, also where somebody still holds the kernel's end
    /// of it. The mount, and where else it is shown, stays.
    ///
    /// - Parameter device: as mountinfo has it; where another one hides it by now, nothing is done.
    package static func end(at path: String, device: String) throws(HostMountError) {
        let place = try Place(path)
        // Held, it cannot be taken away by what follows: by force, a busy mount loses its server and nothing else.
        let root = try place.open()
        guard try root.device == device else { return }
        guard umount2(path, Int32(MNT_FORCE) | Int32(UMOUNT_NOFOLLOW)) == 0 || errno == EBUSY else {
            throw HostMountError(call: "umount2", path: path, number: errno)
        }
        withExtendedLifetime(root.number) {}
    }

    /// Takes a dead mount away, at this path alone, whoever uses it. None there is a success.
    package static func takeAway(at path: String) throws(HostMountError) {
        try Place(path).unmount(lazily: true)
    }
}
