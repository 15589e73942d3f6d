internal import Catalog
internal import Handoff
internal import Hydration
internal import Logging
internal import PeerService
internal import VolumeFileSystem
internal import VolumeModel

/// A volume that several nodes of a site read at once, and nobody writes to.
///
/// The owner's record names who may read. With the first of them a new epoch begins, and with the last it ends: under it
/// the head does not change. Whoever reads at another node has a head of its own (`ReadHead`), which arrives from the
/// owner's as one does that was handed over, names and bytes alike, but without ownership. It belongs to that epoch alone
/// and is deleted at its end, so that bytes of two states never meet in it. The replica, if there is one, has no part in
/// this.
extension VolumeAgent {
    // MARK: at the owner

    /// Lets a node read the volume, owned here, until it is dismissed. May be repeated.
    ///
    /// - Returns: the epoch under which it is read.
    /// - Throws: `.attachedOtherwise` when the node holds it in another way, and what the machine says when another does;
    ///   `.unavailable` when the node cannot be told, and then it is not let in.
    func admitExclusively(_ reader: Reader) async throws -> Epoch {
        try await exclusively { agent in
            await agent.waitForEndings()
            await agent.forsakeEarlierReigns()
            if let user = agent.record.head.user, user.node == reader.node, agent.record.head.readers.isEmpty,
                let attachment = user.attachment, !attachment.isEmpty
            {
                throw SiteError.attachedOtherwise(
                    "volume '\(agent.record.name)' is attached to node '\(reader.node)' as \(attachment) already, not "
                        + "to be read by several nodes: detach it first")
            }
            try await agent.own()
            let isLocal = reader.member == agent.context.site
            // What it reads is the whole of one state.
            if !isLocal { try await agent.waitForNamesToRead() }
            let isNew = !agent.record.head.readers.contains(reader)
            try await agent.apply(.admit(reader))
            guard case .owning(let epoch, _) = agent.record.head.role else {
                throw SiteError.busy("volume '\(agent.record.name)' is changing hands")
            }
            guard !isLocal else { return epoch }
            do {
                try await agent.introduce(reader)
            } catch {
                if isNew { _ = try? await agent.apply(.detach(node: reader.node)) }
                throw error
            }
            return epoch
        }
    }

    private func waitForNamesToRead() async throws {
        do {
            try await waitForNames(Self.sealPatience)
        } catch let error as HydrationError {
            throw SiteError.unavailable("\(error)")
        }
    }

    /// How long a node may take to take note of a volume.
    private static let introductionTimeout: Duration = .seconds(50)

    /// Makes the volume and its reign known at a node.
    private func introduce(_ reader: Reader) async throws {
        try await context.members?.look(for: reader.member)
        var offer = try await offerMessage(to: reader.member)
        offer.withoutReplica = true
        _ = try await context.client(of: reader.member).offer(offer, timeout: Self.introductionTimeout)
    }

    /// Waits until a node that is to own the volume reads it no more: it could not let go of it while it asks for it.
    ///
    /// - Returns: what is left of the time.
    /// - Throws: `.precondition` when the time is over, naming the node.
    func waitUntilUnread(by member: SiteID, _ patience: Duration) async throws -> Duration {
        let deadline = ContinuousClock.now + patience
        while let reader = record.head.readers.first(where: { $0.member == member }) {
            guard ContinuousClock.now < deadline else {
                throw SiteError.precondition(
                    "volume '\(record.name)' is attached to node '\(reader.node)' to be read: end what uses it there, "
                        + "and detach it there first")
            }
            try await Task.sleep(for: .milliseconds(20))
        }
        return max(deadline - .now, .zero)
    }

    /// A node reads no more: there it has ended, or it is gone for good. May be repeated.
    ///
    /// - Parameter node: nil: whoever reads.
    func dismissExclusively(_ node: String?) async throws {
        try await exclusively { agent in
            let gone = agent.record.head.readers.filter { node == nil || $0.node == node }
            if gone.contains(where: { $0.member == agent.context.site }) {
                await agent.waitForEndings()
                for path in Array(agent.mounts.keys) {
                    agent.logger.warning(
                        "detached while it is mounted at \(path): that mount ends, and its pod with it")
                    await agent.forsake(path)
                }
            }
            for reader in gone { try await agent.apply(.detach(node: reader.node)) }
            // As a rule before anybody is let in anew.
            for reader in gone where reader.member != agent.context.site {
                await agent.takeBackOffer(toMember: reader.member, timeout: .seconds(5))
            }
        }
    }

    // MARK: at the node that reads

    /// The reign under which the volume may be read here, as far as is known here; nil: not under this epoch.
    func readableReign(under epoch: Epoch) -> Reign? {
        if record.head.mayRead(context.site, under: epoch) { return Reign(context.site, epoch) }
        // Who was let go of has to be let in anew (`renounceReading`).
        if case .retired = record.head.role { return nil }
        guard !record.head.hasOwnHead, let reign = record.head.knownReign, reign.epoch == epoch,
            reign.owner.site == context.site.site
        else { return nil }
        return reign
    }

    /// Whether what is read here of another node's head is of the reign that is, as far as is known here.
    var isReadingPresent: Bool {
        guard let reading = record.reading, !record.head.hasOwnHead else { return false }
        return record.head.knownReign == reading.reign
    }

    /// Mounts the volume read-only, where it is attached to be read. Mounted there already, it is a success.
    ///
    /// - Throws: `.precondition` when its owner does not let this node read it under this reign.
    func mountToRead(_ reign: Reign, at path: String) async throws {
        try checkServed()
        await waitForEndings()
        await forsakeEarlierReigns()
        if let mount = mounts[path] {
            guard mount.isReadOnly else {
                throw SiteError.precondition("\(path) is mounted already, with other options")
            }
            return
        }
        if let other = mounts.keys.first {
            throw SiteError.precondition(
                "volume '\(record.name)' is mounted at \(other) already: unmount it there first")
        }
        let isBorrowed = reign.owner != context.site
        let head = isBorrowed ? try await readHead(of: reign) : try openHead(record.headNumber)
        try await show(head, at: path, under: reign.epoch, isReadOnly: true, isBorrowed: isBorrowed)
    }

    /// The head to read of another node's reign: the one that is here, or a new one, with the root's names.
    private func readHead(of reign: Reign) async throws -> OpenHead {
        if let reading = record.reading, reading.reign == reign,
            context.state.heads(of: id).contains(reading.number)
        {
            let head = try openHead(reading.number)
            if try head.storage.catalog.arrivalGrant() == reign.epoch {
                fetch(head, of: reign)
                return head
            }
        }
        // None is here, or that of another reign.
        try await endReading()
        let (listing, position) = try await firstNames(of: reign)
        let number = try context.state.makeHead(above: record.lastHeadNumber, of: id)
        // A crash leaves a directory that is deleted at the next start.
        try await change { $0.lastHeadNumber = max($0.lastHeadNumber, number) }
        do {
            try Catalog.create(
                in: context.state.head(number, of: id), limits: record.limits, epoch: .first,
                now: VolumeFileSystem.now(), withRoot: false)
            let head = try openHead(number)
            try head.storage.catalog.beginArrival(with: listing, at: position, for: reign.epoch)
            let reading = ReadHead(of: reign, number: number)
            try await change { $0.reading = reading }
            fetch(head, of: reign)
            return head
        } catch {
            try? await deleteHead(number)
            throw error
        }
    }

    private func firstNames(of reign: Reign) async throws -> (listing: Listing, position: CatalogPosition) {
        do {
            try await context.members?.look(for: reign.owner)
            let (listing, position) = try await context.client(of: reign.owner).list(
                Self.firstListingRequest, of: id, reign: reign.epoch, wantsPosition: true, urgency: .urgent,
                timeout: .seconds(10))
            guard let position else {
                throw PeerError.malformed(site: reign.owner, "a head without its position")
            }
            return (listing, position)
        } catch PeerError.call(_, _, let status) where status.code == .failedPrecondition {
            throw SiteError.precondition(
                "volume '\(record.name)' is not attached to node '\(context.node)' to be read: \(status.message)"
            )
        }
    }

    /// Brings what a head lacks from whom it is read of: what is asked for at once, the rest behind. May be repeated.
    func fetch(_ head: OpenHead, of reign: Reign) {
        let (context, logger) = (self.context, self.logger)
        let source = PeerSource(site: reign.owner, volume: id, reign: reign.epoch) {
            try context.client(of: reign.owner)
        }
        head.startHydration(
            from: source, directories: source, configuration: context.hydration, policy: record.hydration
        ) { line in
            logger.warning("\(line)")
        } whenComplete: {
            logger.info("every byte that is read here under epoch \(reign.epoch) is here")
        }
    }

    /// Ends the reading of another node's head: its mounts first, whoever uses them, then what is here of it.
    func endReading() async throws {
        guard let reading = record.reading else { return }
        for (path, mount) in mounts where mount.isBorrowed {
            logger.warning("what is read at \(path) is read no longer: that mount ends, and its pod with it")
            await forsake(path)
        }
        await waitForEndings()
        try await change { record in if record.reading == reading { record.reading = nil } }
        try await deleteHead(reading.number)
    }

    /// Another node's head is read here no more, nor again under the reign that is known, however late it is asked for:
    /// not before its owner offers it anew.
    func renounceReading() async throws {
        guard case .following(let reign) = record.head.role, reign.owner.site == context.site.site else {
            return
        }
        try await apply(.leave)
    }

    /// What is read here is of a reign that is over, or its owner has let go of this node: somebody may write to the volume
    /// by now.
    func endStaleReading() {
        guard record.reading != nil, readingCheck == nil else { return }
        // An owner that is away is waited for by nobody else.
        readingCheck = Task {
            if await isReadingOver() {
                do {
                    try await exclusively { agent in
                        // Somebody may have been let in meanwhile.
                        if await agent.isReadingOver() { try await agent.endReading() }
                    }
                } catch {
                    logger.debug("what was read here ends later: \(error)")
                }
            }
            readingCheck = nil
        }
    }

    /// Whether what is read here is so no longer, as far as is known, or as its owner says. One that does not answer has
    /// let nobody go.
    private func isReadingOver() async -> Bool {
        guard isReadingPresent, let reign = record.reading?.reign else { return record.reading != nil }
        do {
            _ = try await context.client(of: reign.owner).list(
                Self.leastListingRequest, of: id, reign: reign.epoch, urgency: .urgent, timeout: .seconds(5))
            return false
        } catch PeerError.call(_, _, let status) {
            return status.code == .failedPrecondition
        } catch {
            return false
        }
    }

    private static let leastListingRequest = ListingRequest(places: [], inodes: [.root], byteCount: 1)
}
