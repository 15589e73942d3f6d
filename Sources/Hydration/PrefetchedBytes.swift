internal import Synchronization
package import VolumeModel

/// What came before an application asked for it, and how much of that it has read since. What is removed before
/// stays unread.
package final class PrefetchedBytes: Sendable {
    private struct State {
        var unread: [InodeNumber: RangeSet] = [:]
        var byteCount: UInt64 = 0
        var readByteCount: UInt64 = 0
    }

    private let state = Mutex(State())
    /// So that reads cost nothing where there is nothing to note.
    private let hasUnread = Atomic<Bool>(false)

    init() {}

    func note(_ range: ByteRange, of inode: InodeNumber) {
        state.withLock { state in
            let gaps = state.unread[inode, default: RangeSet()].gaps(in: range)
            state.byteCount += gaps.reduce(0) { $0 + $1.byteCount }
            state.unread[inode, default: RangeSet()].insert(range)
        }
        hasUnread.store(true, ordering: .releasing)
    }

    /// Notes that an application has read something. May be repeated: each byte counts once.
    package func noteRead(_ range: ByteRange, of inode: InodeNumber) {
        guard hasUnread.load(ordering: .relaxed) else { return }
        state.withLock { state in
            let byteCount = remove(range, of: inode, from: &state)
            state.readByteCount += byteCount
        }
    }

    /// Notes that bytes are gone: whatever is read there from now on was not fetched.
    package func noteGone(_ range: ByteRange, of inode: InodeNumber) {
        guard hasUnread.load(ordering: .relaxed) else { return }
        state.withLock { state in _ = remove(range, of: inode, from: &state) }
    }

    /// - Returns: how many bytes these were.
    private func remove(_ range: ByteRange, of inode: InodeNumber, from state: inout State) -> UInt64 {
        guard let before = state.unread[inode]?.byteCount else { return 0 }
        state.unread[inode]?.remove(range)
        let left = state.unread[inode]?.byteCount ?? 0
        if left == 0 {
            state.unread[inode] = nil
            if state.unread.isEmpty { hasUnread.store(false, ordering: .relaxed) }
        }
        return before - left
    }

    /// Of how many files something is unread.
    var unreadFileCount: Int { state.withLock { $0.unread.count } }

    /// In bytes, since the head was opened.
    package var counts: (all: UInt64, read: UInt64) { state.withLock { ($0.byteCount, $0.readByteCount) } }
}
