internal import Catalog
internal import Glibc
internal import Hydration
internal import Logging
internal import Synchronization
internal import VolumeFileSystem
internal import VolumeModel

/// A head that this process has open: its storage, and the tasks that look after it.
///
/// `settle` runs every few seconds, so that what was changed and what has arrived becomes durable
/// although nobody calls fsync; the hydrator, if there is one, streams until nothing is missing.
final class OpenHead: Sendable {
    /// As long as ext4 lets a change wait by default is 5 seconds; arrivals are lost for less.
    private static let settleInterval: Duration = .seconds(2)

    let number: UInt64
    let storage: HeadStorage
    private let logger: Logger
    private let state = Mutex(State())

    private struct State {
        var settling: Task<Void, Never>?
        var hydration: Task<Void, Never>?
        var hydrator: Hydrator?
        var isClosed = false
        var lastUse = ContinuousClock.now
    }

    init(number: UInt64, storage: HeadStorage, logger: Logger) {
        self.number = number
        self.storage = storage
        self.logger = logger
        resumeSettling()
    }

    /// When somebody last asked for it.
    var lastUse: ContinuousClock.Instant { state.withLock { $0.lastUse } }

    func noteUse() { state.withLock { $0.lastUse = .now } }

    /// Whether nothing of it is elsewhere.
    var isWhole: Bool {
        (try? storage.catalog.perform { $0.missingByteCount == 0 && !$0.isArriving }) ?? false
    }

    /// Ends the task that makes changes durable. The head may be used on, if `resumeSettling` follows.
    func pauseSettling() async {
        let settling = state.withLock { state in
            defer { state.settling = nil }
            return state.settling
        }
        settling?.cancel()
        await settling?.value
    }

    func resumeSettling() {
        let (storage, logger) = (storage, logger)
        state.withLock { state in
            guard state.settling == nil, !state.isClosed else { return }
            state.settling = Task { await Self.settleForEver(storage, logger) }
        }
    }

    /// Where missing bytes come from; nil: nothing is missing, or nobody has said yet.
    var hydrator: Hydrator? { state.withLock { $0.hydrator } }

    /// Starts fetching. May be repeated: the first origin stays.
    ///
    /// - Parameters:
    ///   - log: takes lines for a person.
    ///   - alongside: what else is to be had of the origin. Runs beside, and once more when every byte is here: what the
    ///     origin had to be told itself it may know only by then. Must end when it is cancelled.
    ///   - whenComplete: called once when every byte is here and recorded.
    func startHydration(
        from source: any ByteSource, directories: any DirectorySource, configuration: Hydrator.Configuration,
        policy: HydrationPolicy,
        log: @escaping @Sendable (String) -> Void,
        alongside: @escaping @Sendable () async -> Void = {},
        whenComplete: @escaping @Sendable () async -> Void
    ) {
        let logger = self.logger
        state.withLock { state in
            guard state.hydrator == nil, !state.isClosed else { return }
            // Without a profile everything comes all the same, only in another order.
            let profile = (try? storage.catalog.perform { try $0.startProfile() }) ?? StartProfile()
            let hydrator = Hydrator(
                storage: storage, source: source, directories: directories, configuration: configuration,
                profile: profile.extents, log: log)
            hydrator.follow(policy)
            state.hydrator = hydrator
            state.hydration = Task {
                do {
                    async let first: Void = alongside()
                    try await hydrator.run()
                    await first
                    await alongside()
                    try Task.checkCancellation()
                    await whenComplete()
                } catch is CancellationError {
                    // The head is being closed; it goes on when it is opened again.
                } catch {
                    logger.error("hydration ended: \(error)")
                }
            }
        }
    }

    private static func settleForEver(_ storage: HeadStorage, _ logger: Logger) async {
        var lastFailure: String?
        while !Task.isCancelled {
            try? await Task.sleep(for: settleInterval)
            if Task.isCancelled { return }
            do {
                // Off the cooperative threads: it waits for the disk.
                try await onBlockingThread { try storage.settle() }
                if lastFailure != nil { logger.notice("the disk takes changes again") }
                lastFailure = nil
            } catch {
                // Once, not every two seconds for as long as a disk is bad.
                if "\(error)" != lastFailure { logger.error("changes could not be made durable: \(error)") }
                lastFailure = "\(error)"
            }
        }
    }

    /// Stops the tasks and leaves everything durable. The head is not used afterwards.
    func close() async throws {
        let running = state.withLock { state in
            state.isClosed = true
            defer { (state.settling, state.hydration) = (nil, nil) }
            return [state.settling, state.hydration].compactMap(\.self)
        }
        for task in running { task.cancel() }
        for task in running { await task.value }
        let storage = self.storage
        try await onBlockingThread { try storage.close() }
    }
}

/// Which heads of a volume are open. Keeps none of them so.
final class OpenStorages: Sendable {
    private struct Reference { weak var storage: HeadStorage? }

    private let references = Mutex<[UInt64: Reference]>([:])

    func note(_ storage: HeadStorage, of number: UInt64) {
        references.withLock { $0[number] = Reference(storage: storage) }
    }

    func of(_ number: UInt64) -> HeadStorage? { references.withLock { $0[number]?.storage } }
}

/// Runs something that waits for a disk where it does not hold up a task.
func onBlockingThread<Result: Sendable>(
    _ body: @escaping @Sendable () throws -> Result
) async throws -> Result {
    try await BlockingThreads.run(body)
}
