internal import Catalog
internal import FuseMount
internal import Glibc
internal import Handoff
internal import Hydration
internal import Logging
internal import PeerProtocol
internal import PeerService
internal import Synchronization
internal import VolumeFileSystem
internal import VolumeModel

/// One volume at this site: the shell around its hand-off state machine.
///
/// Every event goes through `apply`: the machine decides, the new record is made durable, and only then the
/// actions run. What a crash cuts off is asked for again by `resume`.
actor VolumeAgent {
    let context: SiteContext
    let id: VolumeID
    let logger: Logger
    var stored: Versioned<VolumeRecord> {
        // Owned here, it is nobody's offer any more.
        didSet { if oldValue.value.isGuest, !stored.value.isGuest { context.offers.forget(id) } }
    }
    var heads: [UInt64: OpenHead] = [:]
    /// Heads that are just being closed because nobody used them.
    var endingHeads: [UInt64: HeadEnding] = [:]
    /// The present head, if it was closed because nobody used it.
    var resting: RestingHead?
    /// The epoch under which this process has begun to serve.
    var servedEpoch: Epoch?
    /// Earlier states that are being used for what returns, by the numbers of their heads.
    var ownCopies: [UInt64: OwnCopy] = [:]
    /// Kept copies that are just being opened, by the numbers of their heads.
    var copyOpenings: [UInt64: Task<OpenHead, any Error>] = [:]
    var mounts: [String: Mount] = [:]
    /// Mounts that have ended, until what they changed is durable and their holder is gone.
    var endings: [String: Task<Void, Never>] = [:]
    /// Serializes whole operations of people (mount, take over, migrate); messages of peers do not wait here.
    private var isBusy = false
    /// Set while a wish to own is carried out: then nobody else asks the owner, who may take its time to answer.
    var isAskingOwner = false
    /// What is to be said of who uses it here, if that is not written down yet; and who writes it.
    private var podsToName: String??
    private var naming: Task<Void, Never>?
    /// Serializes decisions: one event is decided, made durable and noted before the next.
    private var isDeciding = false
    private var waitingDecisions: [CheckedContinuation<Void, Never>] = []
    /// The last announcement of a new reign, on its way.
    var announcement: Task<Void, Never>?
    /// When the owner's changes were last taken.
    var lastFollowed: ContinuousClock.Instant?
    /// Not before.
    var nextFollow = ContinuousClock.now
    /// When each follower of this head last asked for changes.
    var followers: [SiteID: ContinuousClock.Instant] = [:]
    /// The owner that is behind what was followed of it.
    var newerReplica: SiteID?
    /// Serializes the taking of an owner's changes.
    var isFollowing = false
    var waitingFollowers: [CheckedContinuation<Void, Never>] = []
    /// The last that a node of this site has offered. It need not outlast this process: a withdrawal that is on its way
    /// comes to nothing with the connection.
    private var offered: OfferStamp?
    /// Finding out whether what is read here is still to be read.
    var readingCheck: Task<Void, Never>?
    /// Set when a first replica that is on its way is wanted no longer: the volume is taken over without.
    let replicaInterruption = Interruption()
    /// The grant for which the owner has said where this replica is.
    var confirmedGrant: Epoch?
    /// The first names of a head that was granted, which came with the grant.
    var firstListing: (heir: Epoch, reply: Godwit_Peer_V1_ListReply)?
    var isClosed = false
    /// The head in which files without a name are open, in a mount that is about to be served again.
    var headWithOpenFiles: UInt64?
    /// When a takeover by force was last told to everybody.
    var lastTakeoverAnnouncement: ContinuousClock.Instant?
    /// Mounts of divergences, read-only: they hold nothing.
    var divergenceMounts: [String: DivergenceMount] = [:]
    /// Why nothing of the volume is served: its record is older than the data, or its head is not here.
    var obstacle: String?
    /// The storages of open heads, for who cannot wait for this actor.
    nonisolated let storages = OpenStorages()
    /// What scrubs have found damaged, by the numbers of the heads.
    var damage: [UInt64: [HeadFinding]] = [:]
    /// Heads in which damage is being put right, and what was tried of it.
    var repairing: Set<UInt64> = []
    var repairAttempts: [UInt64: RepairAttempt] = [:]
    /// What was put right last.
    var healed: String?
    /// Scrubs under way, by the numbers of the heads.
    var scrubTurns: [UInt64: [ScrubTurn]] = [:]
    /// Whether people were shown that, or its end.
    var isObstacleShown = true
    /// What other sites say of who owns the volume.
    var hearing: Hearing
    /// Why an owner did not give the volume away when it was last asked.
    var lastRefusal: SealRefusal?
    /// Bytes that are taken ahead of a hand-over.
    var ahead = Ahead()
    /// What this process knows of wishes to own the volume here.
    var wishes = OwningWishes()

    struct Mount {
        let fuse: FuseMount
        let fileSystem: VolumeFileSystem
        let recorder: StartRecorder?
        let epoch: Epoch
        let headNumber: UInt64
        let isReadOnly: Bool
        /// Of a head that another node owns (`ReadHead`), under the epoch of that one.
        var isBorrowed = false
        /// As mountinfo has it.
        let device: String
    }

    struct DivergenceMount {
        let fuse: FuseMount
        /// As mountinfo has it.
        let device: String
    }

    final class Interruption: Sendable {
        private let isWanted = Mutex(false)

        func set(_ value: Bool) { isWanted.withLock { $0 = value } }
        var isSet: Bool { isWanted.withLock { $0 } }
    }

    init(_ stored: Versioned<VolumeRecord>, context: SiteContext) {
        self.context = context
        self.stored = stored
        id = stored.value.id
        hearing = Hearing(stored.value.head.role)
        context.offers.note(stored.value)
        var logger = context.logger
        logger[metadataKey: "volume"] = "\(stored.value.name)"
        logger[metadataKey: "volume-id"] = "\(id)"
        self.logger = logger
    }

    var record: VolumeRecord { stored.value }

    // MARK: events

    /// Lets the machine decide on an event, makes the decision durable, runs the actions.
    ///
    /// - Parameters:
    ///   - peer: who sent the event; messages to it are collected as the answer instead of sent.
    ///   - wait: how long an owner that is asked to seal may wait until the volume is let go there.
    /// - Returns: the answer for the peer, if there is one at once.
    @discardableResult
    func apply(
        _ event: Event, from peer: SiteID? = nil, wait: Duration = .zero
    ) async throws -> Godwit_Peer_V1_HandoffMessage? {
        let actions = try await decide(event)
        return try await perform(actions, answering: peer, wait: wait)
    }

    /// The same for an event of this site.
    ///
    /// - Parameter isDue: asked when the event's turn has come; where it says no, nothing is decided.
    func apply(_ event: Event, wait: Duration = .zero, if isDue: () -> Bool) async throws {
        _ = try await perform(try await decide(event, if: isDue), answering: nil, wait: wait)
    }

    /// - Returns: what is to be done (`perform`).
    func decide(_ event: Event, if isDue: () -> Bool = { true }) async throws -> [Action] {
        while isDeciding { await withCheckedContinuation { waitingDecisions.append($0) } }
        isDeciding = true
        defer {
            isDeciding = false
            let waiting = waitingDecisions
            waitingDecisions = []
            for continuation in waiting { continuation.resume() }
        }
        guard isDue() else { return [] }
        var changed = stored
        let actions = try changed.value.head.apply(event)
        noteHeads(&changed.value, before: stored.value)
        if changed.value != stored.value {
            let before = stored.value.head.role
            let role = changed.value.head.role
            if before.name != role.name { TestStop.reach("before", role.name) }
            stored = try await context.registry.update(changed)
            if before.name != role.name { TestStop.reach("after", role.name) }
            if before != role { logger.log(level: role.isFenced ? .error : .info, "\(before) → \(role)") }
        }
        return actions
    }

    /// Changes what the machine does not know of, under the same rule.
    func change(_ body: @Sendable (inout VolumeRecord) -> Void) async throws {
        while isDeciding { await withCheckedContinuation { waitingDecisions.append($0) } }
        isDeciding = true
        defer {
            isDeciding = false
            let waiting = waitingDecisions
            waitingDecisions = []
            for continuation in waiting { continuation.resume() }
        }
        var changed = stored
        body(&changed.value)
        if changed.value != stored.value { stored = try await context.registry.update(changed) }
    }

    /// Keeps the head's directory findable by the reign that it was sealed for.
    private func noteHeads(_ record: inout VolumeRecord, before: VolumeRecord) {
        if case .sealed(_, let grant) = record.head.role, record.headNumber != 0 {
            record.retainedHeads[grant.heir.epoch] = record.headNumber
        }
        for retention in record.head.retentions
        where record.retainedHeads[retention.grant.heir.epoch] == nil {
            record.retainedHeads[retention.grant.heir.epoch] = before.headNumber(of: retention.headReign)
        }
        for divergence in record.head.divergences where record.divergentHeads[divergence.epoch] == nil {
            record.divergentHeads[divergence.epoch] = before.headNumber(of: divergence.headReign)
        }
        if record.head.hasOwnHead, !before.head.hasOwnHead,
            let kept = before.headNumber(of: record.head.headReign)
        {
            // By force: a head that was kept for another site goes on where it was sealed.
            record.headNumber = kept
        }
        // A head that was owned here is no replica any more: whoever owns next is followed in a new one.
        if record.head.hasOwnHead {
            record.followedFrom = nil
            record.isGuest = false
        }
    }

    // MARK: actions

    func perform(
        _ actions: [Action], answering peer: SiteID?, wait: Duration = .zero
    ) async throws -> Godwit_Peer_V1_HandoffMessage? {
        var answer: Godwit_Peer_V1_HandoffMessage?
        for action in actions {
            TestStop.reach("doing", "\(action)")
            switch action {
            case .serve(let epoch): try await serve(epoch)
            case .readTail(let heir):
                let sequence = try await readTail(for: heir)
                answer = try await apply(.tailRead(heir: heir, finalSequence: sequence), from: peer) ?? answer
            case .fetchTail(let owner, let grant):
                let sequence = try await catchUp(with: owner, to: grant)
                answer =
                    try await apply(.caughtUp(wanted: grant.heir.epoch, sequence: sequence), from: peer)
                    ?? answer
                askWhereResumed()
            case .stopServing(let epoch): try await stopServing(through: epoch)
            case .keepDivergence(let epoch):
                // The directory stays as it is: nobody writes to it again, and a new head gets a new number.
                await settleOverruled()
                try await apply(.divergenceKept(under: epoch))
            case .mayDiscard: try await discardUnneeded()
            case .requestSeal, .grantSeal, .requestDecline, .tellDeclined, .announce, .requestRelease,
                .confirmRelease, .claim, .answerClaim:
                guard let (site, message) = HandoffCoding.message(of: action, volume: id) else { continue }
                if site == peer {
                    answer = message
                } else if case .announce = action {
                    // Nobody waits for it: writes may begin before the old owner has heard of it. Lost, it is
                    // answered to the old owner's next question.
                    announce(message, to: site)
                } else {
                    try await send(message, to: site, wait: wait)
                }
            }
        }
        return answer
    }

    private func isAskingForSeal(_ message: Godwit_Peer_V1_HandoffMessage, of site: SiteID) -> Bool {
        if case .sealRequest? = message.message, case .acquiring(let from, _) = record.head.role {
            from.owner == site
        } else {
            false
        }
    }

    /// Sends a message and applies the answer, which is an event like any other.
    func send(
        _ message: Godwit_Peer_V1_HandoffMessage, to site: SiteID, wait: Duration = .zero
    ) async throws {
        var message = message
        if case .sealRequest? = message.message {
            message.sealRequest.followed = try followedSequence(of: site)?.number ?? 0
            message.sealRequest.followedHeadName = .init(try followedHeadName(of: site)?.bytes ?? [])
            message.sealRequest.waitMilliseconds = UInt32(clamping: Int64(wait / .milliseconds(1)))
        }
        let reply: Godwit_Peer_V1_HandoffMessage
        do {
            reply = try await context.client(of: site).exchange(message, wait: wait)
        } catch PeerError.call(_, _, let status)
            where status.code == .dataLoss && isAskingForSeal(message, of: site)
        {
            // It would cut back what was followed here: that is not wished for any more.
            newerReplica = site
            try await apply(.abort)
            throw SiteError.precondition(status.message)
        }
        if case .sealGrant(let grant)? = reply.message, grant.hasTail {
            do {
                try await takeTail(
                    grant.tail, since: SequenceNumber(message.sealRequest.followed), of: site,
                    for: Epoch(grant.heir.epoch))
            } catch {
                logger.debug("the tail will be asked for: \(error)")
            }
        }
        if case .sealGrant(let grant)? = reply.message, grant.hasFirstListing {
            firstListing = (Epoch(grant.heir.epoch), grant.firstListing)
        }
        guard let event = try answered(reply, by: site) else { return }
        TestStop.reach("answered", "\(event)")
        if case .sealRefused(_, _, let refusal) = event { lastRefusal = refusal }
        try await apply(event, wait: wait)
    }

    private func announce(_ message: Godwit_Peer_V1_HandoffMessage, to site: SiteID) {
        announcement?.cancel()
        announcement = Task {
            do {
                try await self.send(message, to: site)
            } catch {
                self.logger.debug("\(site) will hear of the new owner later: \(error)")
            }
        }
    }

    /// A message of a peer.
    func receive(
        _ message: Godwit_Peer_V1_HandoffMessage, from site: SiteID
    ) async throws -> Godwit_Peer_V1_HandoffMessage {
        guard let event = try HandoffCoding.event(of: message, from: site, self: context.site) else {
            throw PeerError.malformed(site: site, "an empty message")
        }
        TestStop.reach("received", "\(event)")
        defer { TestStop.reach("answering", "\(event)") }
        if case .sealRequest = message.message { await waitForConfirmation() }
        // What is decided on an old record may contradict what was decided since.
        try checkServed()
        if case .sealRequest(let request) = message.message {
            let wait = Duration.milliseconds(Int64(request.waitMilliseconds))
            try await waitUntilUnused(min(wait, PeerLimits.sealWait), askedBy: site)
            try await waitForNames(Self.sealPatience)
            try checkIsNotBehind(site, request)
        }
        do {
            var answer = try await apply(event, from: site) ?? Godwit_Peer_V1_HandoffMessage()
            // What is missing there goes with the answer: it saves a round trip, and nothing depends on it.
            if case .sealRequest(let request)? = message.message, case .sealGrant(let grant)? = answer.message
            {
                if request.followed == 0 {
                    if let first = await firstListing(for: Epoch(grant.heir.epoch), of: site) {
                        answer.sealGrant.firstListing = first
                    }
                } else if let tail = await tail(for: site, since: SequenceNumber(request.followed)) {
                    answer.sealGrant.tail = tail
                }
            }
            return answer
        } catch HandoffError.sealRefused(let refusal) {
            return HandoffCoding.message(of: refusal, to: message, volume: id)
        }
    }

    /// Does again whatever a crash or a lost message cut off. Called at the start and then every few seconds.
    func resume() async {
        guard !isClosed else { return }
        if obstacle != nil || !isObstacleShown { await lookAtRecord() }
        guard obstacle == nil else { return }
        await giveUpIfForgotten()
        // Each for itself: a peer that is away must not hold up the others, nor hydration.
        for action in stored.value.head.actionsAfterRestart() {
            if case .serve(let epoch) = action, epoch == servedEpoch { continue }
            if case .requestSeal = action, isAskingOwner { continue }
            do {
                _ = try await perform([action], answering: nil)
            } catch {
                logger.debug("will try again: \(error)")
            }
        }
        do {
            // What was released while this site followed or owned the volume again.
            if record.retainedHeads.keys.contains(where: { !record.head.keptReigns.contains($0) }) {
                try await discardUnneeded()
            }
            try await openRetained()
            try await startHydrationIfNeeded()
        } catch {
            logger.debug("will try again: \(error)")
        }
        await dropSuperfluousCopies()
        await closeUnusedCopies()
        followOn()
        takeAhead()
        announceTakeover()
        keepStarts()
        endStaleReading()
        await restIfUnused()
    }

    /// Whether an operation, a decision or a follower's work is under way.
    var isEngaged: Bool { isBusy || isDeciding || isFollowing }

    // MARK: one operation at a time

    /// A node of this site has offered the volume. One that is heard of late changes nothing.
    func note(_ stamp: OfferStamp?) {
        guard let stamp else { return }
        offered = max(offered ?? stamp, stamp)
    }

    /// Whether a node of this site has offered the volume since.
    func isOffered(since stamp: OfferStamp?) -> Bool {
        guard let stamp, let offered else { return false }
        return offered > stamp
    }

    /// Runs an operation of a person or of Kubernetes.
    ///
    /// - Throws: `.busy` when another one is under way.
    func exclusively<Result: Sendable>(
        _ body: (isolated VolumeAgent) async throws -> Result
    ) async throws -> Result {
        guard !isClosed else { throw SiteError.unknownVolume(record.name) }
        guard !isBusy else {
            throw SiteError.busy("another operation on volume '\(record.name)' is under way")
        }
        isBusy = true
        defer { isBusy = false }
        return try await body(self)
    }

    func dropCopiesExclusively() async throws { try await exclusively { try await $0.dropCopies() } }

    func deleteExclusively() async throws { try await exclusively { try await $0.delete() } }

    /// - Returns: whether nothing of the volume is left here.
    func leaveExclusively(asToldBy owner: SiteID, at stamp: OfferStamp?) async throws -> Bool {
        try await exclusively { try await $0.leave(asToldBy: owner, at: stamp) }
    }

    func ownExclusively(patience: Duration) async throws -> Epoch {
        try await exclusively { try await $0.own(patience: patience) }
    }

    func mountExclusively(
        at path: String, isReadOnly: Bool, pod: String? = nil, group: UInt32? = nil,
        acquiredUnder epoch: Epoch? = nil
    ) async throws {
        try await exclusively { agent in
            if let epoch {
                // Others may know that this reign is over.
                await agent.waitForConfirmation()
                if isReadOnly, let reign = agent.readableReign(under: epoch) {
                    return try await agent.mountToRead(reign, at: path)
                }
                try await agent.checkStillOwned(under: epoch)
            }
            try await agent.mount(
                at: path, isReadOnly: isReadOnly, pod: pod, group: group, acquiredUnder: epoch)
        }
    }

    func copyDivergenceExclusively(_ epoch: Epoch, to directory: String) async throws {
        try await exclusively { try await $0.copyDivergence(epoch, to: directory) }
    }

    /// Names the pods that use it here, `namespace/name`, for people. Of a volume that is not held for this node it means
    /// nothing. Waits only briefly until it is written down, for kubelet waits as well.
    func note(pods: [String]) async {
        var text: String?
        if !pods.isEmpty {
            let more = pods.count - Self.namedPods
            text = pods.prefix(Self.namedPods).joined(separator: ", ") + (more > 0 ? " and \(more) more" : "")
        }
        podsToName = .some(text)
        if naming == nil {
            naming = Task {
                while let pods = podsToName {
                    podsToName = nil
                    try? await name(pods: pods)
                }
                naming = nil
            }
        }
        let deadline = ContinuousClock.now + .seconds(1)
        while naming != nil, ContinuousClock.now < deadline {
            guard (try? await Task.sleep(for: .milliseconds(2))) != nil else { return }
        }
    }

    private func name(pods: String?) async throws {
        let node = context.node
        try await apply(.attach(Holder(node: node, pod: pods))) {
            // One that was let go of meanwhile is not to be held again.
            guard case .owning(_, let holder?) = record.head.role else { return false }
            return holder.node == node && holder.pod != pods
        }
    }

    /// Enough to find them all: they are on one node.
    private static let namedPods = 3

    /// - Parameter path: one mount; nil: all, but for dead ones that pods see.
    func unmountExclusively(_ path: String? = nil) async throws {
        try await exclusively { agent in
            let all = Array(agent.mounts.keys) + Array(agent.divergenceMounts.keys)
            for path in path.map({ [$0] }) ?? all { try await agent.unmount(path) }
            if path == nil { try agent.takeAwayDeadMounts() }
        }
    }

    /// Waits until nobody holds the volume, or the time is over: the machine then says who does. A node that reads it
    /// itself is not kept waiting: it cannot let go of it at the same time.
    private func waitUntilUnused(_ limit: Duration, askedBy peer: SiteID) async throws {
        let deadline = ContinuousClock.now + limit
        var isHeld: Bool {
            if record.head.readers.contains(where: { $0.member == peer }) { return false }
            if record.head.user != nil { return true }
            return mounts.values.contains(where: isServed)
        }
        while isHeld, ContinuousClock.now < deadline { try await Task.sleep(for: .milliseconds(20)) }
        await waitForEndings()
    }

    /// Waits until what mounts that have ended changed is durable, and their holder is gone.
    func waitForEndings() async { for ending in endings.values { await ending.value } }
}
