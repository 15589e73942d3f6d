internal import FuseMount
internal import Glibc
internal import Handoff
internal import HostMounts
internal import Logging
internal import PeerProtocol
internal import PeerService
internal import VolumeFileSystem
internal import VolumeModel

/// Mounting a volume at its owner, and everything that leads to owning it.
extension VolumeAgent {
    /// Makes this site the owner, if it is not: asks the owner to seal, takes the tail, promotes.
    ///
    /// - Parameter patience: how long to wait for the volume to be let go at its present owner, who is asked to answer
    ///   when it is. Ended by cancellation, which reaches the owner.
    /// - Returns: the epoch under which this site owns it.
    /// - Throws: `.precondition` with the owner's reason when it does not give it away, in that time.
    @discardableResult
    func own(patience: Duration = .zero) async throws -> Epoch {
        let givenUp = wishes.givenUpCount
        await waitForConfirmation()
        try checkServed()
        if case .owning(let epoch, _) = record.head.role { return epoch }
        if case .fenced(_, _, nil) = record.head.role, let overruledText {
            throw SiteError.precondition("volume '\(record.name)': \(overruledText)")
        }
        wishes.lastUttered = .now
        switch record.head.role {
        // Whatever can be done before the old owner stops is done before.
        case .following(let reign) where isClose(lastFollowed) && record.followedFrom == reign.owner: break
        case .following(let reign), .retired(let reign): try await beReady(for: reign)
        default: break
        }
        isAskingOwner = true
        defer {
            isAskingOwner = false
            wishes.lastUttered = .now
        }
        let deadline = ContinuousClock.now + patience
        while true {
            let asked = ContinuousClock.now
            lastRefusal = nil
            try checkNotGivenUp(since: givenUp)
            try await apply(.takeOver, wait: min(max(deadline - asked, .zero), PeerLimits.sealWait)) {
                wishes.givenUpCount == givenUp
            }
            if case .owning(let epoch, _) = record.head.role {
                // How long a program at the other site took to end says nothing about taking over.
                if patience == .zero { context.handoffs.withLock { $0.record(ContinuousClock.now - asked) } }
                // It may be one that began before the state of this site went back.
                await waitForConfirmation()
                guard case .owning(epoch, _) = record.head.role else { break }
                return epoch
            }
            try checkNotGivenUp(since: givenUp)
            guard ContinuousClock.now < deadline, !isInItsOwnWay else { break }
            try await prepareToAskAgain()
        }
        throw SiteError.precondition(await explainNotOwning())
    }

    /// Whether it is this node that reads the volume, by its owner's word: it would wait for itself.
    private var isInItsOwnWay: Bool {
        guard case .inUse(let holder)? = lastRefusal else { return false }
        // Nodes of other sites may have the same name.
        return holder.node == context.node && record.head.knownReign?.owner.site == context.site.site
    }

    /// While somebody uses the volume its owner has waited already, and there is more to follow than before. What else is
    /// in the way it tells at once.
    private func prepareToAskAgain() async throws {
        if case .inUse? = lastRefusal {} else { try await Task.sleep(for: .milliseconds(250)) }
        guard case .following(let reign) = record.head.role, try hasReplica(of: reign.owner) else { return }
        _ = try await prepare(reign)
    }

    /// A replica is brought up to date. Without one there is nothing to wait for: the names come afterwards.
    private func beReady(for reign: Reign) async throws {
        guard try !hasReplica(of: reign.owner) else {
            _ = try await prepare(reign)
            return
        }
        interruptFirstReplica()
        try await beginPreparing(reign)
    }

    func explainNotOwning() async -> String {
        switch record.head.role {
        case .following(let reign), .acquiring(let reign, _), .receiving(let reign, _),
            .declining(let reign, _):
            return "volume '\(record.name)' is owned by \(reign) and could not be taken over"
                + (lastRefusal.map { ": \($0)" } ?? "")
        case .sealing(_, let heir), .retired(let heir): return "volume '\(record.name)' is owned by \(heir)"
        case .sealed(_, let grant), .reclaiming(_, let grant):
            return "volume '\(record.name)' was handed to \(grant.heir)"
        case .fenced(_, let by, _): return "volume '\(record.name)' was taken over under epoch \(by)"
        case .owning: return "volume '\(record.name)' is owned here"
        }
    }

    /// What was acquired for a node counts until another site owns the volume, and does not count again afterwards.
    func checkStillOwned(under epoch: Epoch) async throws {
        let now: String
        switch record.head.role {
        case .owning(epoch, _): return
        case .owning(let present, _): now = "it is owned here under epoch \(present)"
        default: now = await explainNotOwning()
        }
        throw SiteError.precondition(
            "volume '\(record.name)' was attached to this node under epoch \(epoch), and since then it was elsewhere: "
                + "\(now). This attachment counts no more: it has to be made anew")
    }

    /// Mounts the volume's file system at a directory of this host.
    ///
    /// - Parameter epoch: under which it was attached, if it was: under no other one it is mounted.
    func mount(
        at path: String, isReadOnly: Bool, pod: String? = nil, group: UInt32? = nil,
        acquiredUnder epoch: Epoch? = nil
    ) async throws {
        // What ends there lets go of the volume first.
        await waitForEndings()
        await forsakeEarlierReigns()
        if let mount = mounts[path] {
            guard mount.isReadOnly == isReadOnly else {
                throw SiteError.precondition("\(path) is mounted already, with other options")
            }
            return
        }
        guard let other = mounts.keys.first else {
            try await mountAnew(
                at: path, isReadOnly: isReadOnly, pod: pod, group: group, acquiredUnder: epoch)
            return
        }
        throw SiteError.precondition(
            "volume '\(record.name)' is mounted at \(other) already: unmount it there first")
    }

    private func mountAnew(
        at path: String, isReadOnly: Bool, pod: String?, group: UInt32?, acquiredUnder acquired: Epoch?
    ) async throws {
        let epoch = try await own()
        // What that waited for may have ended the reign that was looked at before.
        if let acquired { try await checkStillOwned(under: acquired) }
        try await apply(.attach(Holder(node: context.node, pod: pod)))
        do {
            let head = try openHead(record.headNumber)
            try await show(head, at: path, under: epoch, isReadOnly: isReadOnly, group: group)
        } catch {
            _ = try? await apply(.unmounted(node: context.node))
            throw error
        }
    }

    /// Mounts a head at a directory.
    ///
    /// - Parameter isBorrowed: whether another node owns it.
    /// - Throws: `.precondition` when its reign has ended meanwhile: nobody who ended it knew of the mount, which is ended
    ///   here.
    func show(
        _ head: OpenHead, at path: String, under epoch: Epoch, isReadOnly: Bool, group: UInt32? = nil,
        isBorrowed: Bool = false
    ) async throws {
        let recorder = isReadOnly ? nil : StartRecorder(duration: Self.startDuration)
        let fileSystem = fileSystem(of: head, isReadOnly: isReadOnly, recorder: recorder)
        // What is mounted read-only stays as it is, as Kubernetes has it.
        if let group, !isReadOnly { try fileSystem.giveToGroup(group) }
        var options = mountOptions(isReadOnly: isReadOnly)
        // What is read ahead of a byte that is elsewhere goes over the link.
        if try head.storage.catalog.perform({ $0.missingByteCount > 0 || $0.isArriving }) {
            options.readaheadByteCount = 128 << 10
        }
        // Last: a pod may find the directory below from now on until it is mounted on.
        try makeRoomForMount(at: path)
        let fuse = try FuseMount(fileSystem: fileSystem, at: path, options: options)
        note(
            Mount(
                fuse: fuse, fileSystem: fileSystem, recorder: recorder, epoch: epoch,
                headNumber: head.number, isReadOnly: isReadOnly, isBorrowed: isBorrowed,
                device: try await device(of: fuse)),
            at: path)
        logger.info("mounted at \(path)")
        TestStop.reach("after", "mount")
        guard let mount = mounts[path], isServed(mount) else {
            await forsake(path)
            throw SiteError.precondition(
                "volume '\(record.name)' is not served under epoch \(epoch) any more")
        }
    }

    func fileSystem(
        of head: OpenHead, isReadOnly: Bool, recorder: StartRecorder?, resuming opens: OpenFiles? = nil
    ) -> VolumeFileSystem {
        let logger = self.logger
        let volume = "volume \(record.name)"
        return VolumeFileSystem(
            storage: head.storage, hydrator: head.hydrator, access: isReadOnly ? .readOnly : .readWrite,
            recorder: recorder, resuming: opens
        ) { line in
            logger.error("\(volume): \(line)")
        }
    }

    func mountOptions(isReadOnly: Bool) -> FuseMountOptions {
        var options = FuseMountOptions()
        options.fsName = mountSource
        options.isReadOnly = isReadOnly
        return options
    }

    /// A mount is served from now on, until it ends.
    func note(_ mount: Mount, at path: String) {
        mounts[path] = mount
        Task { [weak self] in
            await mount.fuse.waitUntilUnmounted()
            await self?.noteUnmounted(path, mount.fuse)
        }
    }

    /// What the kernel's mount table shows as the source: the volume and the site that serves it, because two
    /// sites may share a host.
    nonisolated var mountSource: String { "godwit:\(context.site)/\(id)" }

    /// How long after its first read a start is recorded.
    private static let startDuration: Duration = .seconds(120)

    /// Takes what was read after a start into the volume's profile, once the time is over.
    func keepStarts() {
        for mount in mounts.values { keepStart(of: mount, isOver: false) }
    }

    func keepStart(of mount: Mount, isOver: Bool) {
        guard let start = mount.recorder?.take(isOver: isOver) else { return }
        do {
            try mount.fileSystem.keep(start: start)
        } catch {
            logger.debug("the start is not recorded: \(error)")
        }
    }

    /// Unmounts; repeated it is a success.
    func unmount(_ path: String) async throws {
        if let divergence = divergenceMounts[path] {
            try await divergence.fuse.unmount()
            divergenceMounts[path] = nil
            return
        }
        guard let mount = mounts[path] else {
            await endings[path]?.value
            try takeAwayDeadMount(at: path)
            return
        }
        try mount.fuse.takeAway()
        while await !mount.fuse.waitUntilUnmounted(for: Self.unmountPatience) {
            // Where else it is shown here, somebody will take it away. A copy that nobody here sees must not keep the volume.
            if try MountTable.entries().contains(where: { $0.device == mount.device }) { continue }
            logger.warning(
                "\(path) is unmounted, and goes on in another mount namespace: whoever uses it there gets errors"
            )
            await forsake(path)
            return
        }
        await noteUnmounted(path, mount.fuse)
    }

    /// How long the kernel may take to end what was unmounted.
    private static let unmountPatience: Duration = .seconds(5)

    /// A mount has ended, by us or by somebody's umount: what it changed is made durable, the holder goes unless the
    /// volume is attached.
    func noteUnmounted(_ path: String, _ fuse: FuseMount) async {
        guard endings[path] == nil, let mount = mounts[path], mount.fuse === fuse else {
            // Seen by somebody else first: whoever unmounted it waits until the holder is gone.
            await endings[path]?.value
            return
        }
        mounts[path] = nil
        let ending = Task { await self.end(mount, at: path) }
        endings[path] = ending
        await ending.value
        if mounts[path] == nil { endings[path] = nil }
    }

    func end(_ mount: Mount, at path: String) async {
        keepStart(of: mount, isOver: true)
        let fileSystem = mount.fileSystem
        do {
            try await onBlockingThread {
                try fileSystem.finish()
                try fileSystem.storage.settle()
            }
        } catch {
            logger.error("after unmounting \(path): \(error)")
        }
        if mounts.isEmpty {
            do {
                try await apply(.unmounted(node: context.node))
            } catch {
                logger.debug("letting go: \(error)")
            }
        }
        logger.info("unmounted \(path)")
    }
}
