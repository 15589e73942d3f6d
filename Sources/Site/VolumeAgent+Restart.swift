internal import Foundation
internal import FuseMount
internal import Glibc
internal import Handoff
internal import HostMounts
internal import Hydration
internal import Logging
internal import MountHolder
internal import VolumeFileSystem
internal import VolumeModel

/// The end and the start of the process, and mounts that outlive it.
///
/// With a holder, an end in order leaves each mount as it is: nothing is read from the kernel any more, what was read is
/// answered, the head is closed, and only then the kernel's end of the mount goes to the holder, with a `LeftMount`. So
/// what is in the holder was handed over in order. The next process takes it out before it opens the head, and from then
/// on nobody else has it: killed, it leaves a dead mount, as without a holder, for nobody knows what it had accepted.
extension VolumeAgent {
    /// What the next process must know of a mount, beside the catalog.
    struct LeftMount: Codable {
        /// Another one is not understood.
        static let presentForm = 1

        var form = Self.presentForm
        let path: String
        /// As mountinfo has it.
        let device: String
        let epoch: UInt64
        let headNumber: UInt64
        /// The catalog's last commit: nobody has opened the head since.
        let sequence: Int64
        let isReadOnly: Bool
        let session: FuseSession
        let opens: OpenFiles
    }

    // MARK: the end

    /// Ends everything in order: leaves or unmounts, makes durable, closes.
    func close() async {
        isClosed = true
        await stopTakingAhead()
        announcement?.cancel()
        await announcement?.value
        hearing.question?.cancel()
        await hearing.question?.value
        await hearing.current?.value
        await hearing.consequence?.value
        readingCheck?.cancel()
        await readingCheck?.value
        let left = await leaveMounts()
        for (path, mount) in mounts {
            do {
                try await mount.fuse.unmount()
                await noteUnmounted(path, mount.fuse)
            } catch {
                logger.warning("\(path) is in use and stays mounted without a server: \(error)")
            }
        }
        for ending in endingHeads.values { ending.wait() }
        for opening in copyOpenings.values { _ = await opening.result }
        var failed: Set<UInt64> = []
        for head in heads.values {
            do {
                try await head.close()
            } catch {
                failed.insert(head.number)
                logger.error("closing head \(head.number): \(error)")
            }
        }
        for (path, item) in left {
            guard !failed.contains(item.mount.headNumber), let head = heads[item.mount.headNumber] else {
                Glibc.close(item.session.descriptor)
                logger.warning(
                    "\(path) stays mounted without a server: its head could not be closed in order")
                continue
            }
            await handOver(item, of: head, at: path)
        }
        heads = [:]
    }

    /// A mount without a server. The device ends with it, unless it is given to the holder.
    private struct Left {
        let mount: Mount
        let session: LeftSession
        let opens: OpenFiles
    }

    /// Stops to serve mounts that a holder will keep.
    private func leaveMounts() async -> [String: Left] {
        guard let holder = context.holder, !mounts.isEmpty else { return [:] }
        do {
            _ = try holder.names()
        } catch {
            logger.warning("mounts cannot be left for the next process: \(error)")
            return [:]
        }
        var left: [String: Left] = [:]
        for (path, mount) in mounts {
            guard isMounted(mount.device) else {
                logger.warning("\(path) cannot be left: it is not found in the kernel's table")
                continue
            }
            // First, so that nobody takes it for an unmounting.
            mounts[path] = nil
            keepStart(of: mount, isOver: true)
            if let session = await mount.fuse.leave() {
                left[path] = Left(
                    mount: mount, session: session, opens: mount.fileSystem.leave())
            } else {
                await end(mount, at: path)
            }
        }
        return left
    }

    /// At its path, or still bound elsewhere.
    private func isMounted(_ device: String) -> Bool {
        let entries = (try? MountTable.entries()) ?? []
        return entries.contains {
            $0.type == "fuse.godwit" && $0.source == mountSource && $0.device == device
        }
    }

    private func handOver(_ left: Left, of head: OpenHead, at path: String) async {
        guard let holder = context.holder else { return }
        let record = LeftMount(
            path: path, device: left.mount.device, epoch: left.mount.epoch.number,
            headNumber: left.mount.headNumber, sequence: head.storage.catalog.lastSequence.number,
            isReadOnly: left.mount.isReadOnly, session: left.session.session, opens: left.opens)
        guard let state = try? JSONEncoder().encode(record) else {
            Glibc.close(left.session.descriptor)
            logger.error("\(path) stays mounted without a server: what is open cannot be written down")
            return
        }
        do {
            try holder.put(
                HeldMount(device: left.session.descriptor, state: Array(state)), as: mountSource)
            logger.info("\(path) waits for the next server")
        } catch {
            logger.warning("\(path) stays mounted without a server: \(error)")
        }
    }

    // MARK: the start

    /// Goes on with what the process before has left in order. Of any other end no mount is served any more: they stay
    /// where they are, dead. The holder of the volume goes unless the volume is attached: of that whoever attached it knows.
    func startAfterRestart() async {
        noteCopies()
        let held = takeLeftMount()
        if let held { headWithOpenFiles = held.record.headNumber }
        if held == nil, await restUnopened() { await showObstacle() } else { await lookAtRecord() }
        // Of a record that is not believed nothing follows.
        if obstacle == nil { deleteNamelessHeads() }
        if let held {
            do {
                try await resume(held.record, held.mount)
                logger.info("serves \(held.record.path) again")
            } catch {
                logger.error("the mount at \(held.record.path) is ended: \(error)")
            }
            headWithOpenFiles = nil
        }
        do {
            try endDeadMounts()
            if mounts.isEmpty, case .owning(_, let holder) = record.head.role,
                holder?.node == context.node, obstacle == nil
            {
                try await apply(.unmounted(node: context.node))
            }
        } catch {
            logger.error("after the restart: \(error)")
        }
    }

    private func takeLeftMount() -> (record: LeftMount, mount: HeldMount)? {
        guard let holder = context.holder else { return nil }
        do {
            guard let mount = try holder.take(mountSource) else { return nil }
            let record = try JSONDecoder().decode(LeftMount.self, from: Data(try mount.state()))
            guard record.form == LeftMount.presentForm else {
                logger.error("a mount was left in a form that this release does not know, and is ended")
                return nil
            }
            return (record, mount)
        } catch HolderError.absent {
            return nil
        } catch {
            logger.error("a mount that was left cannot be taken: \(error)")
            return nil
        }
    }

    /// - Throws: why the mount cannot go on. Nothing of it is left then but an entry in the kernel's table.
    private func resume(_ left: LeftMount, _ held: HeldMount) async throws {
        do {
            try checkServed()
            let epoch = Epoch(left.epoch)
            let isBorrowed = record.reading.map { $0.number == left.headNumber } ?? false
            if isBorrowed {
                guard isReadingPresent, record.reading?.reign.epoch == epoch else {
                    throw SiteError.precondition("what was read has another owner or epoch by now")
                }
            } else {
                guard case .owning(epoch, _) = record.head.role, record.headNumber == left.headNumber else {
                    throw SiteError.precondition("the volume has another owner or head by now")
                }
            }
            guard isMounted(left.device) else {
                throw SiteError.precondition("it is mounted nowhere any more")
            }
            let head = try openHead(left.headNumber)
            let catalog = head.storage.catalog
            guard catalog.wasClosedCleanly, catalog.foundSequence.number == left.sequence else {
                throw SiteError.precondition("its head was opened by others meanwhile")
            }
            try head.storage.removeOrphans(except: left.opens.orphans)
            try await startHydrationIfNeeded()
            if isBorrowed, let reading = record.reading { fetch(head, of: reading.reign) }
            let fileSystem = fileSystem(
                of: head, isReadOnly: left.isReadOnly, recorder: nil, resuming: left.opens)
            let descriptor = held.takeDevice()
            guard LeftSession.isAlive(descriptor) else {
                Glibc.close(descriptor)
                throw SiteError.precondition("the kernel has ended it")
            }
            let fuse = try FuseMount(
                resuming: LeftSession(descriptor: descriptor, session: left.session),
                fileSystem: fileSystem, at: left.path, options: mountOptions(isReadOnly: left.isReadOnly))
            note(
                Mount(
                    fuse: fuse, fileSystem: fileSystem, recorder: nil, epoch: epoch,
                    headNumber: head.number, isReadOnly: left.isReadOnly, isBorrowed: isBorrowed,
                    device: left.device), at: left.path)
        } catch {
            // Nobody has anything open any more.
            try? heads[left.headNumber]?.storage.removeOrphans()
            throw error
        }
    }
}
