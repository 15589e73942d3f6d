internal import Synchronization
package import VolumeModel

/// Brings the bytes of one head from its origin: those that are asked for at once, the rest behind.
///
/// A fault fetches exactly what is missing (`SequentialWindow`), once however many ask for it; what background
/// streaming has just asked for, a small fault asks for all the same. Background streaming asks for nothing new while a
/// fault is under way. Everything that comes is stored through `HeadStorage.store`, which keeps what was written
/// meanwhile, and what came first.
package final class Hydrator: Sendable {
    package struct Configuration: Sendable {
        /// How long a read waits for its source before it fails with EIO.
        package var faultTimeout: Duration = .seconds(30)
        /// Data asked for in one background request, in bytes and in files; several times that on a quick link
        /// (`StreamWindow`).
        package var batchByteCount: UInt64 = 128 << 10
        package var batchExtentCount = 128
        /// Whether bytes are streamed in the background at all; faults are served in any case.
        package var streamsInBackground = true
        /// What is fetched first when no start has been recorded.
        package var firstGuesses = PrefetchTable.standard
        /// Counted together, for all hydrators that share this object.
        package var counters = HydrationCounters()

        package init() {}
    }

    let storage: HeadStorage
    let source: any ByteSource
    /// nil: the catalog is all here.
    let directories: (any DirectorySource)?
    let configuration: Configuration
    /// What to fetch before everything else, in this order: what is short first.
    let profile: [Extent]
    let log: @Sendable (String) -> Void
    private let flights = Mutex(Flights())
    let activity = Mutex(Activity())
    package let prefetched = PrefetchedBytes()

    /// What is being fetched now.
    private struct Flights {
        struct Flight {
            let identity: UInt64
            let range: ByteRange
            let urgency: Urgency
            let task: Task<UInt64, any Error>
        }

        var byInode: [InodeNumber: [Flight]] = [:]
        var window = SequentialWindow()
        var nextIdentity: UInt64 = 0
    }

    /// Directories that are being fetched for somebody who waits.
    let directoryFlights = Mutex<[ListingRequest.Name: Task<Void, any Error>]>([:])

    struct Activity {
        var urgentCount = 0
        /// How much is asked for at a time in the background.
        var window = StreamWindow()
        var receivedByteCount: UInt64 = 0
        var savedByteCount: UInt64 = 0
        var neededByteCount: UInt64 = 0
        var faultCount: UInt64 = 0
        var faultLatency = LatencyHistogram()
        var waitingReason: String?
        var isComplete = false
        var policy = HydrationPolicy()
        var rate = RateLimiter()
    }

    /// - Parameters:
    ///   - directories: where the names come from, if the catalog is not all here.
    ///   - profile: what the application will probably read first, in that order.
    ///   - log: takes one line for a person: a fault that failed, a source that came back.
    package init(
        storage: HeadStorage, source: any ByteSource, directories: (any DirectorySource)? = nil,
        configuration: Configuration = Configuration(), profile: [Extent] = [],
        log: @escaping @Sendable (String) -> Void
    ) {
        self.storage = storage
        self.source = source
        self.directories = directories
        self.configuration = configuration
        self.profile = Self.shortFirst(profile)
        self.log = log
    }

    // MARK: faults

    /// Fetches bytes that an application waits for.
    ///
    /// - Throws: `.sourceUnavailable` when no answer came within the fault time-out. May be repeated.
    package func fetch(_ range: ByteRange, of inode: InodeNumber) async throws(HydrationError) {
        try await patiently {
            try await self.fetchOnce(range, of: inode, until: $0)
        } orElse: { source, cause in
            .sourceUnavailable(source: source, inode: inode, range: range, cause: cause)
        }
    }

    /// Fetches something that an application waits for, again and again until the fault time-out.
    ///
    /// - Parameter fetchOnce: gives whether it is here now.
    func patiently(
        _ fetchOnce: (_ deadline: ContinuousClock.Instant) async throws -> Bool,
        orElse error: (_ source: String, _ cause: String) -> HydrationError
    ) async throws(HydrationError) {
        let started = ContinuousClock.now
        activity.withLock { $0.urgentCount += 1 }
        defer { activity.withLock { $0.urgentCount -= 1 } }
        var attempt = 0
        while true {
            let lastFailure: String
            do {
                if try await fetchOnce(started + configuration.faultTimeout) {
                    let latency = ContinuousClock.now - started
                    activity.withLock { activity in
                        activity.faultCount += 1
                        activity.faultLatency.record(latency)
                    }
                    configuration.counters.change { $0.faults.record(latency) }
                    return
                }
                lastFailure = "the source is silent"
            } catch let error as HydrationError {
                throw error
            } catch {
                lastFailure = "\(error)"
            }
            attempt += 1
            if Task.isCancelled || ContinuousClock.now - started >= configuration.faultTimeout {
                let error = error(source.name, lastFailure)
                configuration.counters.change { $0.failedFaultCount += 1 }
                log("read fails with EIO: \(error)")
                throw error
            }
            try? await Task.sleep(for: .milliseconds(min(1000, 20 << min(attempt, 6))))
        }
    }

    /// - Returns: whether everything in the range is here now.
    private func fetchOnce(
        _ range: ByteRange, of inode: InodeNumber, until deadline: ContinuousClock.Instant
    ) async throws -> Bool {
        let (missing, size) = try storage.catalog.perform { state in
            (try state.missingRanges(of: inode, in: range), try state.inode(inode)?.backedByteCount ?? 0)
        }
        guard let first = missing.first, let last = missing.last else { return true }
        let fault = ByteRange(first.start, last.end)
        let wanted = flights.withLock { $0.window.range(for: fault, of: inode, size: size) }
        let gaps = try storage.catalog.perform { try $0.missingRanges(of: inode, in: wanted) }
        let timeout = max(.milliseconds(1), deadline - ContinuousClock.now)
        // What the fault needs is awaited, and what is before it in a small file; what is ahead comes behind.
        let isSmall = size <= SequentialWindow.smallFile
        let awaited = isSmall ? wanted : ByteRange(wanted.start, fault.end)
        var tasks: [Task<UInt64, any Error>] = []
        for gap in gaps {
            guard let part = gap.intersection(awaited) else { continue }
            tasks += fly(part, of: inode, urgency: .urgent, timeout: timeout)
        }
        for gap in gaps where gap.end > awaited.end {
            prefetch(ByteRange(max(gap.start, awaited.end), gap.end), of: inode, timeout: timeout)
        }
        try await Self.wait(for: tasks, until: deadline)
        return try storage.catalog.perform { try $0.missingRanges(of: inode, in: range).isEmpty }
    }

    /// Waits until all flights have landed, or one has failed, or the time is over: a flight that was joined
    /// may have more patience than the one who joined it.
    static func wait<Success>(
        for tasks: [Task<Success, any Error>], until deadline: ContinuousClock.Instant
    ) async throws {
        let outcome: Result<Void, any Error> = await withCheckedContinuation { continuation in
            let waiting = Waiting(continuation)
            let timer = Task {
                try await Task.sleep(until: deadline, clock: .continuous)
                waiting.end(.failure(TimeOut()))
            }
            Task {
                defer { timer.cancel() }
                do {
                    for task in tasks { _ = try await task.value }
                    waiting.end(.success(()))
                } catch {
                    waiting.end(.failure(error))
                }
            }
        }
        try outcome.get()
    }

    /// Someone who waits for flights: told once.
    private final class Waiting: Sendable {
        private let continuation: Mutex<CheckedContinuation<Result<Void, any Error>, Never>?>

        init(_ continuation: CheckedContinuation<Result<Void, any Error>, Never>) {
            self.continuation = Mutex(continuation)
        }

        func end(_ outcome: Result<Void, any Error>) {
            let waiting = continuation.withLock { continuation in
                defer { continuation = nil }
                return continuation
            }
            waiting?.resume(returning: outcome)
        }
    }

    private struct TimeOut: Error, CustomStringConvertible {
        var description: String { "no answer in time" }
    }

    private func prefetch(_ range: ByteRange, of inode: InodeNumber, timeout: Duration) {
        let units = activity.withLock { $0.window.requestUnits }
        var start = range.start
        while start < range.end {
            let end = min(range.end, start + configuration.batchByteCount * UInt64(units))
            _ = fly(ByteRange(start, end), of: inode, urgency: .prefetch, timeout: timeout)
            start = end
        }
    }

    /// What a fault asks for again though it is under way in the background, at most. An answer in the background gives
    /// way to every fault's, so who joins it waits for all of them; and there are always some bytes under way.
    static let askedForTwice: UInt64 = 64 << 10

    /// Joins the flights that already fetch parts of a range and starts flights for the rest.
    ///
    /// A flight is not ended with the one who started it: others may have joined. It gives how many bytes have come
    /// over the link.
    func fly(
        _ range: ByteRange, of inode: InodeNumber, urgency: Urgency, timeout: Duration
    ) -> [Task<UInt64, any Error>] {
        flights.withLock { flights in
            let current = flights.byInode[inode] ?? []
            let isImpatient = urgency == .urgent && range.byteCount <= Self.askedForTwice
            let joined = current.filter {
                $0.range.overlaps(range) && !(isImpatient && $0.urgency == .background)
            }
            var rest = RangeSet([range])
            for flight in joined { rest.remove(flight.range) }
            var tasks = joined.map(\.task)
            for part in rest.ranges {
                let identity = flights.nextIdentity
                flights.nextIdentity += 1
                let task = Task(priority: urgency.priority) {
                    defer { self.land(identity, of: inode) }
                    return try await self.bring(
                        [Extent(inode: inode, range: part)], urgency: urgency, timeout: timeout)
                }
                flights.byInode[inode, default: []].append(
                    Flights.Flight(identity: identity, range: part, urgency: urgency, task: task))
                tasks.append(task)
            }
            return tasks
        }
    }

    /// Starts one flight for all the parts of these that nobody fetches yet.
    ///
    /// - Returns: nil when there are none.
    func flyTogether(
        _ extents: [Extent], urgency: Urgency, timeout: Duration
    ) -> Task<UInt64, any Error>? {
        flights.withLock { flights in
            var parts: [Extent] = []
            for extent in extents {
                var rest = RangeSet([extent.range])
                for flight in flights.byInode[extent.inode] ?? [] { rest.remove(flight.range) }
                parts += rest.ranges.map { Extent(inode: extent.inode, range: $0) }
            }
            guard !parts.isEmpty else { return nil }
            let identity = flights.nextIdentity
            flights.nextIdentity += 1
            let task = Task(priority: urgency.priority) { [parts] in
                defer { for inode in Set(parts.map(\.inode)) { self.land(identity, of: inode) } }
                return try await self.bring(parts, urgency: urgency, timeout: timeout)
            }
            for part in parts {
                flights.byInode[part.inode, default: []].append(
                    Flights.Flight(identity: identity, range: part.range, urgency: urgency, task: task))
            }
            return task
        }
    }

    private func land(_ identity: UInt64, of inode: InodeNumber) {
        flights.withLock { flights in
            flights.byInode[inode]?.removeAll { $0.identity == identity }
            if flights.byInode[inode]?.isEmpty == true { flights.byInode[inode] = nil }
        }
    }

    /// Fetches extents and stores what comes, until all of them are covered.
    ///
    /// - Returns: how many bytes have come over the link.
    func bring(_ extents: [Extent], urgency: Urgency, timeout: Duration) async throws -> UInt64 {
        var rest = extents
        var come: UInt64 = 0
        while !rest.isEmpty {
            let asked = ContinuousClock.now
            let pieces = try await source.read(rest, urgency: urgency, timeout: timeout)
            let left = try Self.remainder(of: rest, after: pieces)
            var received: UInt64 = 0
            var saved: UInt64 = 0
            for piece in pieces {
                if piece.content != .zeros {
                    if piece.isOwn {
                        saved += piece.range.byteCount
                    } else {
                        received += piece.range.byteCount
                    }
                }
                // Before it can be read.
                if urgency == .prefetch, piece.content != .zeros { try notePrefetched(piece) }
                try storage.store(piece)
                // A batch of small files is a long piece of work: whoever waits for a thread goes between.
                if urgency != .urgent { await Task.yield() }
            }
            configuration.counters.change {
                $0.receivedByteCount += received
                $0.savedByteCount += saved
            }
            activity.withLock { activity in
                // What was here already says nothing of the link, nor does a few bytes' answer.
                let isTelling =
                    urgency == .background
                    || urgency == .prefetch && !activity.window.isAlone
                        && received >= configuration.batchByteCount * UInt64(activity.window.requestUnits) / 2
                if isTelling, pieces.contains(where: { !$0.isOwn }) {
                    let now = ContinuousClock.now
                    let units = max(
                        received / configuration.batchByteCount,
                        UInt64(pieces.count / configuration.batchExtentCount))
                    activity.window.noteAnswer(of: Int(clamping: units), after: now - asked, at: now)
                }
                activity.receivedByteCount += received
                activity.savedByteCount += saved
                if urgency == .urgent { activity.neededByteCount += received + saved }
            }
            come += received
            rest = left
        }
        return come
    }

    /// What is here by now, or gone, is not stored.
    private func notePrefetched(_ piece: Piece) throws {
        let missing = try storage.catalog.perform { try $0.missingRanges(of: piece.inode, in: piece.range) }
        for range in missing { prefetched.note(range, of: piece.inode) }
    }

    /// What was asked for and has not come.
    ///
    /// - Throws: when nothing has come of it, or something of a file that nobody asked for: every round makes
    ///   what is left smaller, so that no source can keep us asking for ever.
    static func remainder(of extents: [Extent], after pieces: [Piece]) throws -> [Extent] {
        var covered: [InodeNumber: RangeSet] = [:]
        for extent in extents { covered[extent.inode] = RangeSet() }
        for piece in pieces {
            guard covered[piece.inode]?.insert(piece.range) != nil else {
                throw UnwantedAnswer(what: "something of inode \(piece.inode), which was not asked for")
            }
        }
        var rest: [Extent] = []
        var hasCome = false
        for extent in extents {
            let gaps = covered[extent.inode]?.gaps(in: extent.range) ?? []
            if gaps != [extent.range] { hasCome = true }
            rest += gaps.map { Extent(inode: extent.inode, range: $0) }
        }
        guard hasCome else { throw UnwantedAnswer(what: "none of what was asked for") }
        return rest
    }

    /// A source that answers with nothing, or with something else than was asked for.
    struct UnwantedAnswer: Error, CustomStringConvertible {
        let what: String
        var description: String { "the source answered with \(what)" }
    }

    // MARK: progress

    package func progress() -> HydrationProgress {
        let counts = (try? storage.catalog.perform { ($0.counters.byteCount, $0.missingByteCount) }) ?? (0, 0)
        return activity.withLock { activity in
            let phase: HydrationProgress.Phase =
                if activity.isComplete {
                    .complete
                } else if let reason = activity.waitingReason {
                    .waiting(reason: reason)
                } else {
                    .streaming
                }
            return HydrationProgress(
                phase: phase, totalByteCount: counts.0, missingByteCount: counts.1,
                receivedByteCount: activity.receivedByteCount, savedByteCount: activity.savedByteCount,
                neededByteCount: activity.neededByteCount, faultCount: activity.faultCount,
                faultLatency: activity.faultLatency)
        }
    }

    /// From the next request on.
    package func follow(_ policy: HydrationPolicy) { activity.withLock { $0.policy = policy } }
}
