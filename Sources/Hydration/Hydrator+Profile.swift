internal import Catalog
internal import Dispatch
internal import VolumeModel

extension Hydrator {
    /// Requests of a profile that are under way at a time: enough for a long link, and the order still counts.
    private static let profileRequestCount = 16
    private static let profileTimeout: Duration = .seconds(20)

    /// Fetches what the application will probably read first, in the order in which it will.
    ///
    /// - Parameter position: where to begin; moved on with what was asked for. After an error it is called
    ///   again: what has come is not asked for twice.
    func fetch(_ profile: [Extent], from position: inout Int) async throws {
        guard position < profile.count else { return }
        try await fetchInodes(of: profile[position...].map(\.inode))
        try await withThrowingTaskGroup(of: Void.self) { group in
            var running = 0
            let begin = position
            var next = position
            while true {
                while running < Self.profileRequestCount, next < profile.count {
                    try await waitForTurn(givesWay: false)
                    let batch = try self.batch(of: profile, from: &next)
                    let taken = try await waitForRate(batch)
                    guard let flight = flyTogether(batch, urgency: .prefetch, timeout: Self.profileTimeout)
                    else {
                        settleRate(taken, come: 0)
                        continue
                    }
                    running += 1
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

    /// The next request's worth of missing bytes.
    private func batch(of profile: [Extent], from position: inout Int) throws -> [Extent] {
        var batch: [Extent] = []
        var room = configuration.batchByteCount
        while position < profile.count, batch.count < configuration.batchExtentCount, room > 0 {
            let extent = profile[position]
            let missing = try storage.catalog.perform { state -> [ByteRange] in
                guard try state.inode(extent.inode) != nil else { return [] }
                return try state.missingRanges(of: extent.inode, in: extent.range)
            }
            position += 1
            for range in missing {
                // A long range makes a long request: the order matters more than the size of each.
                batch.append(Extent(inode: extent.inode, range: range))
                room -= min(room, range.byteCount)
            }
        }
        return batch
    }

    // MARK: without a profile

    /// What well-known applications would read, as far as the volume's names, and the first bytes of some files, tell
    /// that it holds them.
    func firstGuess() async throws -> [Extent] {
        let table = configuration.firstGuesses
        guard !table.applications.isEmpty else { return [] }
        // What has come is found only once it is committed.
        try storage.catalog.commit()
        let guess = try FirstGuess(storage.catalog)
        let found = try await Self.offThread { try guess.places(of: table) }
        var position = 0
        let heads = found.filter { $0.application.magic != nil }.map {
            Extent(inode: $0.markerInode, range: ByteRange(0, FirstGuess.magicByteCount))
        }
        try await fetch(heads, from: &position)
        let places = try found.filter { try begins($0.markerInode, with: $0.application.magic) }
        return places.isEmpty ? [] : try await Self.offThread { try guess.extents(of: places) }
    }

    private func begins(_ inode: InodeNumber, with magic: String?) throws -> Bool {
        guard let magic else { return true }
        guard let record = try storage.catalog.perform({ try $0.peekInode(inode) }),
            record.attributes.kind == .regular, record.data != .none
        else { return false }
        var bytes = [UInt8](repeating: 0, count: magic.utf8.count)
        let file = try storage.dataFile(of: record)
        try bytes.withUnsafeMutableBytes { try file.read(into: $0, at: 0) }
        return bytes == Array(magic.utf8)
    }

    /// Runs a long search where it holds up no task.
    static func offThread<Result: Sendable>(
        _ body: @escaping @Sendable () throws -> Result
    ) async throws -> Result {
        try await withCheckedThrowingContinuation { continuation in
            DispatchQueue.global(qos: .utility).async {
                continuation.resume(with: Swift.Result { try body() })
            }
        }
    }
}
