/// Counts durations in buckets with fixed bounds, as monitoring systems add them up over many sites.
package struct TimeHistogram: Hashable, Sendable {
    /// From answers of a local process to ten minutes.
    package static let operationBounds = [
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600,
    ]
    /// From a loopback's round trip to the longest time-out that is usual.
    package static let faultBounds = [
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
    ]
    /// Around the aim of 150 ms.
    package static let handoffBounds = [0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30]

    /// Seconds, ascending; a bucket holds what is at most its bound and more than the one before.
    package let bounds: [Double]
    /// One for each bound, and one for what is above the last.
    package private(set) var counts: [UInt64]
    /// Seconds.
    package private(set) var sum = 0.0

    package init(bounds: [Double]) {
        self.bounds = bounds
        counts = [UInt64](repeating: 0, count: bounds.count + 1)
    }

    package var count: UInt64 { counts.reduce(0, +) }

    package mutating func record(_ duration: Duration) {
        let (seconds, attoseconds) = duration.components
        let value = max(0, Double(seconds) + Double(attoseconds) / 1e18)
        counts[bounds.firstIndex { value <= $0 } ?? bounds.count] += 1
        sum += value
    }
}
