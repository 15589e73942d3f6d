/// How long to wait before asking again: doubling, with jitter, up to a limit.
package struct Backoff: Sendable {
    private let first: Duration
    private let limit: Duration
    private var current: Duration

    package init(first: Duration = .milliseconds(200), limit: Duration = .seconds(30)) {
        self.first = first
        self.limit = limit
        current = first
    }

    /// The next wait, between half and all of what has doubled each time; at least what the server asks for, as far
    /// as that is within reason.
    package mutating func next(
        atLeast wanted: Duration? = nil, using generator: inout some RandomNumberGenerator
    ) -> Duration {
        let base = current
        current = min(current * 2, limit)
        let jittered = base * Double.random(in: 0.5...1, using: &generator)
        return max(jittered, min(wanted ?? .zero, .seconds(120)))
    }

    package mutating func next(atLeast wanted: Duration? = nil) -> Duration {
        var generator = SystemRandomNumberGenerator()
        return next(atLeast: wanted, using: &generator)
    }

    package mutating func reset() { current = first }
}
