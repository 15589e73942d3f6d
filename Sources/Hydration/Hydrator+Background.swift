internal import ByteStore
internal import Catalog
internal import VolumeModel

extension Hydrator {
    /// A background request that takes longer is asked again; short enough for a fault that has joined it.
    private static let backgroundTimeout: Duration = .seconds(20)

    /// Streams everything that is missing, then returns. Ended by cancellation.
    ///
    /// A source that fails is asked again, for as long as it takes; a disk without room pauses it. After a
    /// restart it goes on where the recorded ranges end.
    package func run() async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            // Names wait for nothing: without them the volume cannot be handed on.
            group.addTask(priority: Urgency.background.priority) { try await self.streamDirectories() }
            group.addTask(priority: Urgency.background.priority) {
                try await self.configuration.streamsInBackground
                    ? self.streamBytes() : self.waitUntilAllIsHere()
            }
            try await group.waitForAll()
        }
    }

    /// How often what only has to come earlier is tried before the rest: it comes with that, too.
    private static let expectedAttempts = 8
    /// How long bytes wait for names at most.
    private static let namesPatience: Duration = .seconds(60)

    private func streamBytes() async throws {
        try await streamExpected()
        var failures = 0
        var start = InodeNumber(0)
        while true {
            try Task.checkCancellation()
            do {
                let found = try await pass(after: start)
                if start != InodeNumber(0) {
                    // What has failed is tried again with the rest, and not at once.
                    start = InodeNumber(0)
                    try await Task.sleep(for: Self.pause(after: failures))
                    continue
                }
                note(waitingFor: nil)
                failures = 0
                if !found {
                    if try await isComplete() { return }
                    try await Task.sleep(for: .milliseconds(50))
                }
            } catch let error as CancellationError {
                throw error
            } catch {
                activity.withLock { $0.window.noteFailure() }
                failures += 1
                // A file that its source cannot give holds up no other: the next pass begins behind it.
                start = (error as? BatchFailure)?.last ?? InodeNumber(0)
                note(waitingFor: reason(for: (error as? BatchFailure)?.cause ?? error))
                try await Task.sleep(for: Self.pause(after: failures))
            }
        }
    }

    /// Fetches what the application will probably ask for first: what its last starts have read, then all names, and
    /// where no start is known, what the names tell.
    private func streamExpected() async throws {
        var position = ProfilePosition()
        try await attempt { try await fetch(profile, from: &position) }
        try await waitForNames()
        guard profile.isEmpty else { return }
        position = ProfilePosition()
        var guess: [Extent]?
        try await attempt {
            let extents = if let guess { guess } else { try await firstGuess() }
            guess = extents
            try await fetch(extents, from: &position)
        }
    }

    /// Tries what is good to have first. A range of it that cannot be had holds up nothing for long.
    private func attempt(_ body: () async throws -> Void) async throws {
        for failures in 1...Self.expectedAttempts {
            do {
                try await body()
                return
            } catch let error as CancellationError {
                throw error
            } catch {
                note(waitingFor: reason(for: error))
                try await Task.sleep(for: Self.pause(after: failures))
            }
        }
    }

    private func waitForNames() async throws {
        let deadline = ContinuousClock.now + Self.namesPatience
        while storage.catalog.isArriving, ContinuousClock.now < deadline {
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    static func pause(after failures: Int) -> Duration { .milliseconds(min(2000, 50 << min(failures, 6))) }

    private func waitUntilAllIsHere() async throws {
        while true {
            do {
                if try storage.catalog.perform({ $0.missingByteCount }) == 0, try await isComplete() {
                    return
                }
            } catch {
                note(waitingFor: reason(for: error))
            }
            try await Task.sleep(for: .milliseconds(500))
        }
    }

    /// Makes everything that is here durable and looks whether anything is left at the origin.
    ///
    /// The origin may be deleted after this: the answer is what the disk says, not what was counted.
    private func isComplete() async throws -> Bool {
        let storage = self.storage
        guard !storage.catalog.isArriving else { return false }
        try await BlockingThreads.run { try storage.settle() }
        let isWhole = try storage.catalog.perform { state in
            try !state.isArriving && state.backedInodes(after: InodeNumber(0), limit: 1).isEmpty
        }
        guard isWhole else { return false }
        activity.withLock { $0.isComplete = true }
        return true
    }

    /// A request that failed, and the last inode that it was about.
    private struct BatchFailure: Error {
        let last: InodeNumber
        let cause: any Error
    }

    /// Says why nothing comes at the moment; nil: it comes. Told once.
    func note(waitingFor reason: String?) {
        let isNew = activity.withLock { activity in
            defer { activity.waitingReason = reason }
            return activity.waitingReason != reason
        }
        if isNew, let reason { log("hydration waits: \(reason)") }
    }

    /// What people read of a failure.
    func reason(for error: any Error) -> String {
        if let error = error as? ByteStoreError, error.errno == .noSpace {
            return "the disk here is full: free some space and it goes on by itself"
        }
        return "\(source.name): \(error)"
    }

    /// Goes once through all inodes above `start` with missing bytes.
    ///
    /// - Returns: whether anything was missing.
    private func pass(after start: InodeNumber) async throws -> Bool {
        var cursor = BatchCursor(storage: storage, configuration: configuration, after: start)
        var found = false
        try await withThrowingTaskGroup(of: Void.self) { group in
            var running = 0
            while true {
                while running < activity.withLock({ $0.window.requestCount }) {
                    try await waitForTurn()
                    let units = activity.withLock { $0.window.requestUnits }
                    guard let batch = try cursor.next(units: units) else { break }
                    found = true
                    let taken = try await waitForRate(batch)
                    running += 1
                    group.addTask { self.settleRate(taken, come: try await self.bringBatch(batch)) }
                }
                guard try await group.next() != nil else { break }
                running -= 1
            }
        }
        return found
    }

    /// - Returns: how many bytes have come over the link.
    private func bringBatch(_ batch: [Extent]) async throws -> UInt64 {
        do {
            return try await bringAny(batch)
        } catch let error as CancellationError {
            throw error
        } catch {
            throw BatchFailure(last: batch.last?.inode ?? InodeNumber(0), cause: error)
        }
    }

    private func bringAny(_ batch: [Extent]) async throws -> UInt64 {
        if batch.count == 1, let extent = batch.first {
            var come: UInt64 = 0
            for task in fly(
                extent.range, of: extent.inode, urgency: .background, timeout: Self.backgroundTimeout)
            {
                come += try await task.value
            }
            return come
        } else {
            // Many small files in one request: a fault on one of them just asks again, which costs little.
            return try await bring(batch, urgency: .background, timeout: Self.backgroundTimeout)
        }
    }

    /// Asks the disk at once, and where it is full, off this thread: making room may take long.
    private func hasRoom() async throws -> Bool {
        if storage.hasRoomNow { return true }
        let storage = self.storage
        return try await BlockingThreads.run { storage.hasRoom() }
    }

    /// Background streaming gives way: while a fault is under way nothing new is asked for. Nor is it while the policy
    /// forbids it, unless reads have brought everything meanwhile.
    ///
    /// - Parameter isExpected: what an application is expected to ask for next gives way to nothing.
    func waitForTurn(isExpected: Bool = false) async throws {
        while true {
            try Task.checkCancellation()
            if try await !hasRoom() {
                note(waitingFor: "the disk here is full: free some space and it goes on by itself")
                try await Task.sleep(for: .milliseconds(500))
                continue
            }
            let (urgent, obstacle) = activity.withLock {
                ($0.urgentCount, $0.policy.obstacle(isExpected: isExpected))
            }
            if let obstacle, try storage.catalog.perform({ $0.missingByteCount }) > 0 {
                note(waitingFor: obstacle)
                try await Task.sleep(for: .milliseconds(200))
            } else if !isExpected, urgent > 0 {
                try await Task.sleep(for: .milliseconds(1))
            } else {
                note(waitingFor: nil)
                return
            }
        }
    }
}

extension Hydrator {
    /// How often a wait looks again: the rate may be another one, or less has come than was expected.
    private static let rateInterval: Duration = .milliseconds(20)

    /// Waits as long as the rate that somebody set for this volume demands, however it changes meanwhile.
    ///
    /// - Returns: the bytes that were taken of it: to be settled when they have come.
    func waitForRate(_ batch: [Extent]) async throws -> UInt64 {
        guard activity.withLock({ $0.policy.bytesPerSecond }) != nil else { return 0 }
        // What is here already goes over no link, and waits for none.
        let byteCount = try await source.linkByteCount(of: batch)
        guard byteCount > 0 else { return 0 }
        while true {
            let wait = activity.withLock { activity in
                activity.policy.bytesPerSecond.map {
                    activity.rate.take(byteCount, bytesPerSecond: $0, at: .now)
                }
            }
            guard let wait else { return 0 }
            if wait == .zero { return byteCount }
            try await Task.sleep(for: min(wait, Self.rateInterval))
        }
    }

    /// Tells the limiter what has come of what was taken.
    func settleRate(_ taken: UInt64, come: UInt64) {
        activity.withLock { activity in
            guard activity.policy.bytesPerSecond != nil else { return }
            activity.rate.settle(taken: taken, come: come)
        }
    }
}

/// Walks the inodes with missing bytes and cuts them into requests.
private struct BatchCursor {
    let storage: HeadStorage
    let configuration: Hydrator.Configuration
    private var inodes: [InodeNumber] = []
    private var position: InodeNumber
    private var offset: UInt64 = 0
    private var isAtEnd = false

    init(storage: HeadStorage, configuration: Hydrator.Configuration, after start: InodeNumber) {
        self.storage = storage
        position = start
        self.configuration = configuration
    }

    /// - Parameter units: how many times what the configuration says is to be in one request, at most.
    mutating func next(units: Int) throws -> [Extent]? {
        var batch: [Extent] = []
        var room = configuration.batchByteCount * UInt64(units)
        while batch.count < configuration.batchExtentCount * units, room > 0 {
            guard let inode = try currentInode() else { break }
            let from = offset
            guard let gap = try storage.catalog.perform({ try $0.firstMissingRange(of: inode, from: from) })
            else {
                inodes.removeFirst()
                offset = 0
                continue
            }
            // A source that finds a hole here names all of it, so a long hole costs one request.
            let taken = ByteRange(gap.start, min(gap.end, gap.start + room))
            batch.append(Extent(inode: inode, range: taken))
            room -= min(room, taken.byteCount)
            offset = taken.end
        }
        return batch.isEmpty ? nil : batch
    }

    private mutating func currentInode() throws -> InodeNumber? {
        if inodes.isEmpty, !isAtEnd {
            let after = position
            inodes = try storage.catalog.perform { try $0.backedInodes(after: after, limit: 256) }
            if let last = inodes.last { position = last } else { isAtEnd = true }
        }
        return inodes.first
    }
}
