internal import Foundation
internal import Synchronization
internal import VolumeModel

/// A state of a volume that was handed over and is needed by nobody, kept in case the volume returns.
package struct KeptCopy: Hashable, Sendable, Codable {
    /// The number of its head's directory.
    package var number: UInt64
    /// What its files take.
    package var byteCount: UInt64
    /// When it was released, in seconds since 1970.
    package var since: Int64
    /// The name of the state, as bytes; nil: not noted, by an older release.
    package var name: [UInt8]?

    package init(number: UInt64, byteCount: UInt64, since: Int64, name: [UInt8]? = nil) {
        self.name = name
        self.number = number
        self.byteCount = byteCount
        self.since = since
    }
}

/// How much of the disk may hold copies that are needed by nobody.
package enum CopyPolicy: Hashable, Sendable {
    case none
    /// As long as a fifth of the disk is free.
    case whileThereIsRoom
    /// So many bytes of all volumes together at most, as long as a twentieth of the disk is free.
    case limited(UInt64)
}

/// All kept copies of a site, and who goes first when there is no room for them.
///
/// They are given up one by one, the oldest first, in order by `VolumeAgent`; and at once by whoever finds the disk
/// full, on whatever thread that is: then the files go, and the agent finds that out later.
package final class KeptCopies: Sendable {
    /// Below this share of the disk no copy is kept: so that there is room for what is really stored, and time to
    /// make more before it is needed. Who names a size has thought of that.
    private var freeShare: UInt64 { if case .limited = policy { 20 } else { 5 } }

    struct Key: Hashable, Sendable {
        let volume: VolumeID
        let epoch: Epoch
    }

    private struct Entry {
        let copy: KeptCopy
        /// Ends its use just now; nil: it is in no use.
        var letGo: (@Sendable () -> Void)?
    }

    private struct State {
        var entries: [Key: Entry] = [:]
        /// What was given up and is still in its volume's record.
        var gone: Set<Key> = []
        /// What else is needed by nobody: deletes it.
        var spares: [VolumeID: @Sendable () -> Void] = [:]
    }

    private let policy: CopyPolicy
    private let directory: StateDirectory
    private let state = Mutex(State())
    private let givingUp = Mutex(())

    package init(_ policy: CopyPolicy, in directory: StateDirectory) {
        self.policy = policy
        self.directory = directory
    }

    static func now() -> Int64 { Int64(Date().timeIntervalSince1970) }

    /// Whether one more copy may be kept.
    func mayKeep(_ byteCount: UInt64) -> Bool {
        switch policy {
        case .none: false
        case .whileThereIsRoom: hasRoom()
        case .limited(let limit): byteCount <= limit && hasRoom()
        }
    }

    func note(_ copy: KeptCopy, _ key: Key) {
        state.withLock { if $0.entries[key] == nil { $0.entries[key] = Entry(copy: copy) } }
    }

    /// - Returns: false when it was given up meanwhile.
    func use(_ key: Key, letGo: @escaping @Sendable () -> Void) -> Bool {
        state.withLock { state in
            guard state.entries[key] != nil else { return false }
            state.entries[key]?.letGo = letGo
            return true
        }
    }

    func forget(_ key: Key) {
        state.withLock { state in
            state.entries[key] = nil
            state.gone.remove(key)
        }
    }

    /// - Parameter giveUp: deletes it, on whatever thread, and may be called again.
    func noteSpare(of volume: VolumeID, giveUp: @escaping @Sendable () -> Void) {
        state.withLock { $0.spares[volume] = giveUp }
    }

    func forgetSpare(of volume: VolumeID) { state.withLock { $0.spares[volume] = nil } }

    func isGone(_ key: Key) -> Bool { state.withLock { $0.gone.contains(key) } }

    /// Which copies are too many now, the oldest first.
    func superfluous() -> [Key] {
        let sorted = state.withLock { state in
            state.entries.map { ($0.key, $0.value.copy) }.sorted { $0.1.since < $1.1.since }
        }
        guard let oldest = sorted.first else { return [] }
        switch policy {
        case .none: return sorted.map(\.0)
        case .whileThereIsRoom: return hasRoom() ? [] : [oldest.0]
        case .limited(let limit):
            var sum = sorted.reduce(0) { $0 &+ $1.1.byteCount }
            var keys: [Key] = []
            for (key, copy) in sorted where sum > limit {
                keys.append(key)
                sum -= min(sum, copy.byteCount)
            }
            return keys.isEmpty && !hasRoom() ? [oldest.0] : keys
        }
    }

    private func hasRoom() -> Bool {
        guard let (free, total) = try? directory.space() else { return false }
        return free >= total / freeShare
    }

    /// The disk is full: deletes the oldest copies here and now, until nothing is missing any more.
    ///
    /// One caller at a time: who comes while another deletes waits for what that brings.
    ///
    /// - Parameter missingByteCount: asks the disk.
    /// - Returns: whether nothing is missing. When all copies would not be enough, none is deleted.
    func makeRoom(_ missingByteCount: () -> UInt64) -> Bool {
        givingUp.withLock { _ in
            guard missingByteCount() > 0 else { return true }
            for giveUp in state.withLock({ state in
                defer { state.spares = [:] }
                return Array(state.spares.values)
            }) { giveUp() }
            let missing = missingByteCount()
            guard missing > 0 else { return true }
            let held = state.withLock { $0.entries.values.reduce(0) { $0 &+ $1.copy.byteCount } }
            guard held >= missing else { return false }
            while giveUpOldest() { if missingByteCount() == 0 { return true } }
            return false
        }
    }

    private func giveUpOldest() -> Bool {
        let found = state.withLock { state -> (Key, Entry)? in
            guard let (key, entry) = state.entries.min(by: { $0.value.copy.since < $1.value.copy.since })
            else { return nil }
            state.entries[key] = nil
            state.gone.insert(key)
            return (key, entry)
        }
        guard let (key, entry) = found else { return false }
        entry.letGo?()
        try? directory.deleteHead(entry.copy.number, of: key.volume)
        return true
    }
}
