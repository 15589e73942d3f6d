internal import Locks
internal import Synchronization
package import VolumeModel

/// Notes what is read during the first minutes after an application's start, in order, each page once.
///
/// Reads that the kernel's page cache answers are not seen: after a mount the cache is empty, so that what a
/// start needs does come through.
package final class StartRecorder: Sendable {
    private let isRecording = Atomic<Bool>(true)
    private let state = Lock(State())
    private let duration: Duration

    private struct State {
        var seen: [InodeNumber: RangeSet] = [:]
        var order: [Extent] = []
        var byteCount: UInt64 = 0
        var firstRead: ContinuousClock.Instant?
        var wasTaken = false
    }

    /// - Parameter duration: counted from the first read, for the application may come long after the mount.
    package init(duration: Duration) { self.duration = duration }

    func note(_ inode: InodeNumber, offset: UInt64, byteCount: Int) {
        guard isRecording.load(ordering: .relaxed), byteCount > 0 else { return }
        let page = StartProfile.pageByteCount
        let start = offset / page * page
        guard let read = ByteRange(checkedOffset: start, byteCount: offset - start + UInt64(byteCount)) else {
            return
        }
        let range = ByteRange(start, (read.end + page - 1) / page * page)
        state.withLock { state in
            let now = ContinuousClock.now
            let first = state.firstRead ?? now
            state.firstRead = first
            guard now - first < duration, state.order.count < StartProfile.entryLimit,
                state.byteCount < StartProfile.byteLimit
            else {
                isRecording.store(false, ordering: .relaxed)
                return
            }
            for gap in state.seen[inode, default: RangeSet()].gaps(in: range) {
                state.seen[inode, default: RangeSet()].insert(gap)
                state.byteCount += gap.byteCount
                if let last = state.order.last, last.inode == inode, last.range.end == gap.start {
                    state.order[state.order.count - 1] = Extent(
                        inode: inode, range: ByteRange(last.range.start, gap.end))
                } else {
                    state.order.append(Extent(inode: inode, range: gap))
                }
            }
        }
    }

    /// What was read; once, when the time is over or `isOver` says that it is.
    ///
    /// - Returns: nil when there is nothing to tell, yet or any more.
    package func take(isOver: Bool) -> [Extent]? {
        state.withLock { state in
            guard let first = state.firstRead, !state.wasTaken else { return nil }
            guard isOver || ContinuousClock.now - first >= duration || !isRecording.load(ordering: .relaxed)
            else { return nil }
            isRecording.store(false, ordering: .relaxed)
            state.wasTaken = true
            return state.order
        }
    }
}

extension VolumeFileSystem {
    /// Takes a recorded start into the volume's profile.
    ///
    /// - Throws: as any change does, also when the volume may not be changed: then it is not kept.
    package func keep(start: [Extent]) throws(FileSystemError) {
        try change { state in
            var profile = try state.startProfile()
            let before = profile
            profile.merge(start, volumeByteCount: state.counters.byteCount)
            guard profile != before else { return }
            try state.setExtendedAttribute(
                StartProfile.attributeName, of: .root, value: profile.encoded)
        }
    }
}
