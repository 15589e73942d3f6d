/// When which claim is looked at: at once when it has changed, often while something is under way, seldom when nothing
/// is left to do; and not more of them at a time than an API server should be asked about.
///
/// A value without a clock: time comes from whoever asks.
struct LookSchedule<Key: Hashable & Sendable>: Sendable {
    enum Outcome: Hashable, Sendable {
        /// Nothing is left to do, until something changes.
        case settled
        /// Something was done or has moved on.
        case moved
        /// Something is left to do, and it was not possible or not over yet.
        case waits
    }

    private struct Entry: Sendable {
        var due: ContinuousClock.Instant
        var delay: Duration
        var hasChanged: Bool
        var isBusy = false
    }

    /// How often something is looked at that is under way; that waits, at most; and that is settled, at least.
    let interval: Duration
    let longestWait: Duration
    let settledWait: Duration
    private var entries: [Key: Entry] = [:]

    init(
        interval: Duration, longestWait: Duration = .seconds(5), settledWait: Duration = .seconds(300)
    ) {
        self.interval = interval
        self.longestWait = max(interval, longestWait)
        self.settledWait = max(interval, settledWait)
    }

    /// Something about it is new: it comes before all that only waits.
    mutating func noteChange(_ key: Key, now: ContinuousClock.Instant) {
        var entry = entries[key] ?? Entry(due: now, delay: interval, hasChanged: true)
        if !entry.hasChanged { entry.due = now }
        entry.hasChanged = true
        entries[key] = entry
    }

    /// What an earlier look began has moved on: it is looked at soon, as after a look that moved it.
    mutating func noteMoved(_ key: Key, now: ContinuousClock.Instant) {
        guard var entry = entries[key], !entry.isBusy else { return }
        entry.delay = interval
        entry.due = min(entry.due, now + interval)
        entries[key] = entry
    }

    /// Whose turn it is: what has changed first, then what is overdue longest. They are busy until `end`.
    ///
    /// - Parameters:
    ///   - wanted: what is to be looked at at all; others are forgotten.
    ///   - limit: how many at most.
    mutating func begin(_ wanted: Set<Key>, limit: Int, now: ContinuousClock.Instant) -> [Key] {
        for key in wanted where entries[key] == nil {
            entries[key] = Entry(due: now, delay: interval, hasChanged: true)
        }
        if entries.count > wanted.count {
            entries = entries.filter { wanted.contains($0.key) || $0.value.isBusy }
        }
        let due = entries.filter { wanted.contains($0.key) && !$0.value.isBusy && $0.value.due <= now }
        let first = due.sorted { one, other in
            one.value.hasChanged == other.value.hasChanged
                ? one.value.due < other.value.due : one.value.hasChanged
        }.prefix(limit).map(\.key)
        for key in first {
            entries[key]?.isBusy = true
            entries[key]?.hasChanged = false
        }
        return first
    }

    /// It was looked at.
    ///
    /// - Parameter jitter: between 0 and 1, so that what was settled at once is not looked at at once.
    mutating func end(_ key: Key, _ outcome: Outcome, now: ContinuousClock.Instant, jitter: Double) {
        guard var entry = entries[key] else { return }
        entry.isBusy = false
        switch outcome {
        case .settled:
            entry.delay = interval
            entry.due = now + settledWait * (0.5 + jitter / 2)
        case .moved:
            entry.delay = interval
            entry.due = now + interval
        case .waits:
            entry.due = now + entry.delay
            entry.delay = min(entry.delay * 2, longestWait)
        }
        if entry.hasChanged { entry.due = now }
        entries[key] = entry
    }
}
