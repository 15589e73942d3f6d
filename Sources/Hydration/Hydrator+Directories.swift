internal import Catalog
package import VolumeModel

/// Brings the names of a head whose catalog arrives while it is in use: those that are asked for at once, the rest
/// behind. Names are little beside bytes, and the volume cannot be handed on before all of them are here: they come
/// before all bytes that nobody asks for or is known to ask for, and neither a pause nor a rate limit holds them up.
extension Hydrator {
    /// Encoded rows in one answer: for whoever waits, and in the background.
    private static let urgentByteCount = 256 << 10
    private static let backgroundByteCount = 1 << 20
    private static let backgroundTimeout: Duration = .seconds(20)
    /// Requests of the background that are under way at a time.
    private static let requestCount = 3
    /// Directories in one request at most.
    private static let placeCount = 256
    /// Inodes in one request at most.
    private static let inodeCount = 1000

    /// Fetches the next entries of a directory that an operation waits for, and what is below as far as it fits.
    ///
    /// - Parameter name: afterwards it is known whether this exists. nil: at least one more entry is here, or it is
    ///   known that there are no more.
    /// - Throws: `.directoryUnavailable` when no answer came within the fault time-out. May be repeated.
    package func fetchEntries(of directory: InodeNumber, name: [UInt8]?) async throws(HydrationError) {
        let key = ListingRequest.Name(directory: directory, name: name ?? [])
        try await patiently { deadline in
            let timeout = max(.milliseconds(1), deadline - ContinuousClock.now)
            let flight = self.directoryFlights.withLock { flights in
                if let flight = flights[key] { return flight }
                let flight = Task {
                    defer { self.directoryFlights.withLock { _ = $0.removeValue(forKey: key) } }
                    try await self.bringEntries(of: directory, name: name, timeout: timeout)
                }
                flights[key] = flight
                return flight
            }
            try await Self.wait(for: [flight], until: deadline)
            return true
        } orElse: { source, cause in
            .directoryUnavailable(source: source, directory, cause: cause)
        }
    }

    private func bringEntries(
        of directory: InodeNumber, name: [UInt8]?, timeout: Duration
    ) async throws {
        guard let place = try storage.catalog.perform({ try $0.missingPlace(of: directory) }) else { return }
        let request = ListingRequest(
            places: [place], name: name.map { ListingRequest.Name(directory: directory, name: $0) },
            byteCount: Self.urgentByteCount)
        try await bring(request, urgency: .urgent, timeout: timeout)
    }

    /// - Throws: also when the answer brings none of the places on: no source can keep us asking for ever.
    private func bring(_ request: ListingRequest, urgency: Urgency, timeout: Duration) async throws {
        guard let directories else {
            throw HydrationError.noDirectorySource(request.places.first?.directory ?? .root)
        }
        let listing = try await directories.list(request, urgency: urgency, timeout: timeout)
        let catalog = storage.catalog
        // It may have to commit.
        try await BlockingThreads.run { try catalog.take(listing, askedFor: request.name) }
        let isNews = try storage.catalog.perform { state in
            try request.places.isEmpty
                || request.places.contains { try state.missingPlace(of: $0.directory) != $0 }
        }
        guard isNews else { throw UnwantedAnswer(what: "nothing of the directories that were asked for") }
    }

    /// Fetches inodes that are about to be needed though no name has led to them yet.
    func fetchInodes(of wanted: [InodeNumber]) async throws {
        guard storage.catalog.isArriving else { return }
        var seen: Set<InodeNumber> = []
        let distinct = wanted.filter { seen.insert($0).inserted }
        var unknown = try storage.catalog.perform { try $0.unknownInodes(among: distinct) }[...]
        while !unknown.isEmpty {
            let batch = Array(unknown.prefix(Self.inodeCount))
            unknown = unknown.dropFirst(batch.count)
            let request = ListingRequest(
                places: [], inodes: batch, descends: false, byteCount: Self.backgroundByteCount)
            try await bring(request, urgency: .prefetch, timeout: Self.backgroundTimeout)
        }
    }

    /// Streams all names, however often the source fails.
    func streamDirectories() async throws {
        var failures = 0
        while true {
            do {
                try await streamDirectoriesOnce()
                if failures > 0 { note(waitingFor: nil) }
                return
            } catch let error as CancellationError {
                throw error
            } catch {
                failures += 1
                note(waitingFor: reason(for: error))
                try await Task.sleep(for: Self.pause(after: failures))
            }
        }
    }

    /// Streams all names. After an error it goes on where it was.
    func streamDirectoriesOnce() async throws {
        guard storage.catalog.isArriving else { return }
        var taken: Set<InodeNumber> = []
        try await withThrowingTaskGroup(of: [InodeNumber].self) { group in
            while true {
                while taken.count < Self.requestCount * Self.placeCount {
                    try await waitForUrgent()
                    // Few at a time while there are few: what is below them comes with them.
                    let places = try storage.catalog.perform { [taken] state in
                        try state.missingPlaces(besides: taken, limit: Self.placeCount)
                    }
                    guard !places.isEmpty else { break }
                    let directories = places.map(\.directory)
                    taken.formUnion(directories)
                    group.addTask {
                        let request = ListingRequest(places: places, byteCount: Self.backgroundByteCount)
                        try await self.bring(request, urgency: .background, timeout: Self.backgroundTimeout)
                        return directories
                    }
                }
                guard let landed = try await group.next() else { break }
                taken.subtract(landed)
            }
        }
    }

    /// Gives way to faults, but not for ever: there may always be some.
    private func waitForUrgent() async throws {
        let limit = ContinuousClock.now + .milliseconds(100)
        while activity.withLock({ $0.urgentCount > 0 }), ContinuousClock.now < limit {
            try Task.checkCancellation()
            try await Task.sleep(for: .milliseconds(1))
        }
    }
}
