internal import Synchronization

/// What is to be done if something takes too long: nearly always it does not.
///
/// A task that sleeps beside each call would cost two threads' wake-ups; here a limit costs an entry in a table. One task
/// looks at the table as long as there is something in it. What is due is done at most half a second late.
final class CallTimers: Sendable {
    static let shared = CallTimers()

    private static let interval = Duration.milliseconds(500)

    private struct State {
        var entries: [UInt64: (due: ContinuousClock.Instant, action: @Sendable () -> Void)] = [:]
        var nextIdentity: UInt64 = 0
        var isLooking = false
    }
    private let state = Mutex(State())

    /// Does something after a time, unless it is taken back.
    ///
    /// - Returns: the identity to take it back with. Taken back when it is due, it may be done even so.
    func add(after limit: Duration, _ action: @escaping @Sendable () -> Void) -> UInt64 {
        let due = ContinuousClock.now + limit
        let (identity, begins) = state.withLock { state in
            defer { state.isLooking = true }
            state.nextIdentity += 1
            state.entries[state.nextIdentity] = (due, action)
            return (state.nextIdentity, !state.isLooking)
        }
        if begins { Task { await look(first: limit) } }
        return identity
    }

    func remove(_ identity: UInt64) { state.withLock { _ = $0.entries.removeValue(forKey: identity) } }

    private func look(first: Duration) async {
        var pause = min(first, Self.interval)
        var isNeeded = true
        while isNeeded {
            try? await Task.sleep(for: pause)
            pause = Self.interval
            let now = ContinuousClock.now
            let due = state.withLock { state in
                let due = state.entries.filter { $0.value.due <= now }
                for identity in due.keys { state.entries[identity] = nil }
                isNeeded = !state.entries.isEmpty
                state.isLooking = isNeeded
                return due.values.map(\.action)
            }
            for action in due { action() }
        }
    }
}
