internal import CSIService
internal import FuseMount
internal import Glibc
internal import Handoff
internal import HostMounts
internal import Logging

/// Mounts that nobody serves any more: of a process that was killed, of a node that was given up, of an earlier reign.
///
/// Each use of one fails, so that whoever was using the volume sees it, and nobody who starts anew finds the directory
/// below it, on the node's own disk. They hold nothing, and stay until they are unmounted or mounted anew.
extension VolumeAgent {
    /// Devices of mounts that are served, as mountinfo has them.
    var servedDevices: Set<String> { Set(mounts.values.filter(isServed).map(\.device)) }

    /// Whether a mount is of the present reign; of an earlier one it answers nothing but ESTALE.
    func isServed(_ mount: Mount) -> Bool {
        if mount.isBorrowed { return record.reading?.number == mount.headNumber && isReadingPresent }
        return if case .owning(mount.epoch, _) = record.head.role { true } else { false }
    }

    /// The device of what this process has just mounted.
    ///
    /// - Throws: `.precondition` when it is not where it was to be, for a directory on the way was swapped. Nothing is mounted
    ///   then.
    func device(of fuse: FuseMount) async throws -> String {
        let entry = try? MountTable.entry(at: HostPaths.resolved(fuse.path))
        if let entry, entry.type == "fuse.godwit", entry.source == mountSource { return entry.device }
        if let left = await fuse.leave() { Glibc.close(left.descriptor) }
        try takeAwayDeadMounts()
        throw SiteError.precondition(
            "\(fuse.path) was changed while it was being mounted on: nothing is mounted")
    }

    /// Ends a mount of this process whoever uses it, and leaves it where it is, dead. What was accepted becomes durable.
    func forsake(_ path: String) async {
        guard endings[path] == nil, let mount = mounts[path] else {
            await endings[path]?.value
            return
        }
        let ending = Task {
            // Answers what was asked, but for what waits for something that is elsewhere; with the descriptor the rest ends.
            // Until then it counts: whoever stops this site's writing stops it too.
            if let left = await mount.fuse.leave() { Glibc.close(left.descriptor) }
            mounts[path] = nil
            await self.end(mount, at: path)
        }
        endings[path] = ending
        await ending.value
        if mounts[path] == nil { endings[path] = nil }
    }

    func forsakeEarlierReigns() async {
        for (path, mount) in mounts where !isServed(mount) { await forsake(path) }
    }

    /// Takes away what this volume has left at a path. What is alive there stays.
    func takeAwayDeadMount(at path: String) throws { try takeAway(at: path, isDead) }

    /// Makes room for a mount at a path: what another volume of this site has left there goes as well.
    func makeRoomForMount(at path: String) throws {
        try takeAway(at: path) { try isDead($0) || isAbandoned($0) }
    }

    private func takeAway(at path: String, _ goes: (MountEntry) throws -> Bool) throws {
        let real = HostPaths.resolved(path)
        while let mount = try MountTable.entry(at: real), try goes(mount) {
            try DeadMount.takeAway(at: real)
        }
    }

    /// Whether it is of a volume of this site, and has no server. Whoever else serves it is in this process, and answers at
    /// once; a process that has died has left a connection that the kernel ended.
    private func isAbandoned(_ mount: MountEntry) -> Bool {
        guard mount.type == "fuse.godwit", mount.source.hasPrefix("godwit:\(context.site)/") else {
            return false
        }
        var status = stat()
        return stat(mount.path, &status) != 0 && errno == ENOTCONN
    }

    /// Takes away all that are dead, but those that pods see: whoever starts a container anew would find their directories.
    func takeAwayDeadMounts() throws {
        let published = CSIService.targets(publishedIn: context.state.publications)
        for mount in try MountTable.entries().reversed() where !published.contains(mount.path) {
            // Not what somebody has mounted on it since.
            guard try isDead(mount), try MountTable.entry(at: mount.path)?.device == mount.device else {
                continue
            }
            try DeadMount.takeAway(at: mount.path)
        }
    }

    func hasDeadMounts() throws -> Bool { try MountTable.entries().contains { try isDead($0) } }

    private func isDead(_ mount: MountEntry) throws -> Bool {
        guard mount.type == "fuse.godwit", mount.source == mountSource else { return false }
        return !mounts.values.contains { $0.device == mount.device }
            && !divergenceMounts.values.contains { $0.device == mount.device }
    }

    /// After a restart: what was not gone on with has no server any more, and is never to have one.
    func endDeadMounts() throws {
        for mount in try MountTable.entries() where try isDead(mount) {
            do {
                try DeadMount.end(at: mount.path, device: mount.device)
                logger.notice(
                    "\(mount.path) has lost its server: every use of it fails until it is mounted anew")
            } catch {
                logger.warning(
                    "\(mount.path) has lost its server, and whoever waits for it is not told: \(error)")
            }
        }
    }
}
