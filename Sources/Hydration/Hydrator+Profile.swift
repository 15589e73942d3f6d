internal import Catalog
internal import VolumeModel

/// How far a list of extents has been asked for.
struct ProfilePosition: Hashable, Sendable {
    var index = 0
    /// Within the extent; less than its start: all of it is still to be asked for.
    var offset: UInt64 = 0
}

extension Hydrator {
    /// The first requests, with all that is short, go out at once. Then so many are under way as the link takes: faults,
    /// which go before them, still queue behind what is in its buffers.
    private static let profileRequestCount = 16
    private static let fewestProfileRequests = 8
    private static let profileTimeout: Duration = .seconds(20)

    /// Fetches what the application will probably read first, in the order in which it will.
    ///
    /// - Parameter position: where to begin; moved on with what was asked for. After an error it is called
    ///   again: what has come is not asked for twice.
    func fetch(_ profile: [Extent], from position: inout ProfilePosition) async throws {
        guard position.index < profile.count else { return }
        try await fetchInodes(of: profile[position.index...].map(\.inode))
        try await withThrowingTaskGroup(of: Void.self) { group in
            var (running, started) = (0, 0)
            let begin = position
            var next = position
            while true {
                while running < profileRequestLimit(after: started), next.index < profile.count {
                    try await waitForTurn(isExpected: true)
                    let batch = try self.batch(of: profile, from: &next)
                    let taken = try await waitForRate(batch)
                    guard let flight = flyTogether(batch, urgency: .prefetch, timeout: Self.profileTimeout)
                    else {
                        settleRate(taken, come: 0)
                        continue
                    }
                    running += 1
                    started += 1
                    group.addTask { self.settleRate(taken, come: try await flight.value) }
                }
                do {
                    guard try await group.next() != nil else { break }
                } catch {
                    position = begin
                    throw error
                }
                running -= 1
            }
            position = next
        }
    }

    private func profileRequestLimit(after started: Int) -> Int {
        if started < Self.profileRequestCount { return Self.profileRequestCount }
        return max(Self.fewestProfileRequests, activity.withLock { $0.window.unitCount })
    }

    /// The next request's worth of missing bytes. A long range is several: who faults on something in a request waits
    /// for all of it.
    private func batch(of profile: [Extent], from position: inout ProfilePosition) throws -> [Extent] {
        var batch: [Extent] = []
        var room = configuration.batchByteCount
        while position.index < profile.count, batch.count < configuration.batchExtentCount, room > 0 {
            let extent = profile[position.index]
            let start = max(extent.range.start, position.offset)
            let missing = try storage.catalog.perform { state -> [ByteRange] in
                guard start < extent.range.end, try state.inode(extent.inode) != nil else { return [] }
                return try state.missingRanges(
                    of: extent.inode, in: ByteRange(start, extent.range.end))
            }
            for range in missing {
                // No crumbs at the end of a request.
                let isCut = range.byteCount > room
                guard room > 0, batch.count < configuration.batchExtentCount,
                    !isCut || batch.isEmpty || room >= configuration.batchByteCount / 4
                else {
                    position.offset = range.start
                    return batch
                }
                let part = ByteRange(range.start, isCut ? range.start + room : range.end)
                batch.append(Extent(inode: extent.inode, range: part))
                // In whole pages, so that the next part begins with one.
                room -= min(room, (part.byteCount + 4095) / 4096 * 4096)
                position.offset = part.end
                if isCut { return batch }
            }
            position = ProfilePosition(index: position.index + 1)
        }
        return batch
    }

    // MARK: the order

    /// Of a file of which no more than this is read, it comes before all that is long.
    private static let shortByteCount: UInt64 = 64 << 10
    /// So much may come before what was read first.
    private static let shortLimit: UInt64 = 4 << 20

    /// The order in which a recorded start is fetched: as it was read, but what is short first. Each file of which a
    /// little is read costs a round trip if it is not here in time, and next to nothing to bring; MariaDB reads 120
    /// such, and between them 16 MiB of its log and a list of pages that nothing waits for.
    static func shortFirst(_ profile: [Extent]) -> [Extent] {
        var byteCounts: [InodeNumber: UInt64] = [:]
        for extent in profile {
            let sum = byteCounts[extent.inode, default: 0].addingReportingOverflow(extent.range.byteCount)
            byteCounts[extent.inode] = sum.overflow ? .max : sum.partialValue
        }
        var (short, rest): ([Extent], [Extent]) = ([], [])
        var room = shortLimit
        for extent in profile {
            if byteCounts[extent.inode, default: 0] <= shortByteCount, extent.range.byteCount <= room {
                room -= extent.range.byteCount
                short.append(extent)
            } else {
                rest.append(extent)
            }
        }
        return short + rest
    }

    // MARK: without a profile

    /// What well-known applications would read, as far as the volume's names, and the first bytes of some files, tell
    /// that it holds them.
    func firstGuess() async throws -> [Extent] {
        let table = configuration.firstGuesses
        guard !table.applications.isEmpty else { return [] }
        // What has come is found only once it is committed.
        let catalog = storage.catalog
        try await BlockingThreads.run { _ = try catalog.commit() }
        let guess = try FirstGuess(storage.catalog)
        let found = try await BlockingThreads.run { try guess.places(of: table) }
        var position = ProfilePosition()
        let heads = found.filter { $0.application.magic != nil }.map {
            Extent(inode: $0.markerInode, range: ByteRange(0, FirstGuess.magicByteCount))
        }
        try await fetch(heads, from: &position)
        let places = try found.filter { try begins($0.markerInode, with: $0.application.magic) }
        return places.isEmpty ? [] : try await BlockingThreads.run { try guess.extents(of: places) }
    }

    private func begins(_ inode: InodeNumber, with magic: String?) throws -> Bool {
        guard let magic else { return true }
        guard let record = try storage.catalog.perform({ try $0.peekInode(inode) }),
            record.attributes.kind == .regular, record.data != .none,
            record.attributes.size >= UInt64(magic.utf8.count)
        else { return false }
        var bytes = [UInt8](repeating: 0, count: magic.utf8.count)
        let file = try storage.dataFile(of: record)
        try bytes.withUnsafeMutableBytes { try file.read(into: $0, at: 0) }
        return bytes == Array(magic.utf8)
    }
}
