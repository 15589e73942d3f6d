internal import Catalog
internal import Synchronization
internal import VolumeModel

extension Hydrator {
    private static let aheadTimeout: Duration = .seconds(20)

    /// How much is fetched ahead of a file that is read in sequence, at most: twice what fills the link, so that it is
    /// asked for in time.
    var aheadLimit: UInt64 {
        let units = activity.withLock { $0.window.unitCount }
        return max(SequentialWindow.largestWindow, 2 * UInt64(units) * configuration.batchByteCount)
    }

    /// Asks for what is wanted ahead of a file's reader: in order, as many requests as fill the link. More at once would all be
    /// answered at the same time, and the reader would wait for the last of them.
    func fetchAhead(of inode: InodeNumber) {
        while let part = nextAhead(of: inode) {
            let asked = ContinuousClock.now
            let (tasks, hasJoined) = fly(part, of: inode, urgency: .prefetch, timeout: Self.aheadTimeout)
            Task(priority: Urgency.prefetch.priority) {
                var come: UInt64 = 0
                var hasFailed = false
                do {
                    for task in tasks { come += try await task.value }
                } catch {
                    // Who needs it asks for it himself, and is told.
                    hasFailed = true
                }
                if !hasJoined, come >= part.byteCount { noteAlone(come, after: ContinuousClock.now - asked) }
                ahead.withLock { $0.ended(of: inode, hasFailed: hasFailed) }
                fetchAhead(of: inode)
            }
        }
    }

    /// The next request's worth of what is wanted and missing.
    private func nextAhead(of inode: InodeNumber) -> ByteRange? {
        while true {
            let (limit, units) = activity.withLock { ($0.window.requestCount, $0.window.requestUnits) }
            guard let wanted = ahead.withLock({ $0.wanted(of: inode, requestLimit: limit) }) else {
                return nil
            }
            let gap = try? storage.catalog.perform { try $0.firstMissingRange(of: inode, from: wanted.start) }
            guard let gap, gap.start < wanted.end else {
                // All of it is here, or nothing can be said of it.
                _ = ahead.withLock { $0.asked(wanted, of: inode, upTo: wanted.end, isRequest: false) }
                continue
            }
            let start = max(gap.start, wanted.start)
            let end = min(gap.end, wanted.end, start + configuration.batchByteCount * UInt64(units))
            let isMine = ahead.withLock { $0.asked(wanted, of: inode, upTo: end, isRequest: true) }
            if isMine { return ByteRange(start, end) }
        }
    }

    /// Where nothing streams in the background, how long a request takes that is alone is learnt here.
    private func noteAlone(_ byteCount: UInt64, after latency: Duration) {
        let units = Int(clamping: byteCount / configuration.batchByteCount)
        guard units > 0 else { return }
        activity.withLock { activity in
            guard activity.window.isAlone else { return }
            activity.window.noteAnswer(of: units, after: latency, at: .now)
        }
    }
}
