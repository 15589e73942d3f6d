internal import VolumeModel

extension Hydrator {
    /// Requests of a profile that are under way at a time: enough for a long link, and the order still counts.
    private static let profileRequestCount = 16
    private static let profileTimeout: Duration = .seconds(20)

    /// Fetches what the application will probably read first, in the order in which it will.
    ///
    /// - Parameter position: where to begin; moved on with what was asked for. After an error it is called
    ///   again: what has come is not asked for twice.
    func fetchProfile(from position: inout Int) async throws {
        guard position < profile.count else { return }
        try await fetchInodes(of: profile[position...].map(\.inode))
        try await withThrowingTaskGroup(of: Void.self) { group in
            var running = 0
            let begin = position
            var next = position
            while true {
                while running < Self.profileRequestCount, next < profile.count {
                    try await waitForTurn(givesWay: false)
                    let batch = try profileBatch(from: &next)
                    try await waitForRate(batch)
                    guard let flight = flyTogether(batch, urgency: .prefetch, timeout: Self.profileTimeout)
                    else { continue }
                    running += 1
                    group.addTask { try await flight.value }
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
    private func profileBatch(from position: inout Int) throws -> [Extent] {
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
}
