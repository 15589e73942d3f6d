/// Counts durations in four buckets for each doubling: any percentile at most 25 % too high, in 1.3 KiB.
package struct LatencyHistogram: Hashable, Sendable {
    private static let bucketsPerDoubling = 4
    private static let bucketCount = 160
    private var buckets = [UInt64](repeating: 0, count: bucketCount)
    package private(set) var count: UInt64 = 0

    package init() {}

    package mutating func record(_ duration: Duration) {
        let (seconds, attoseconds) = duration.components
        // A year: far beyond the last bucket, and no sum overflows.
        let held = min(max(seconds, 0), 365 * 86_400)
        let microseconds = max(1, held * 1_000_000 + attoseconds / 1_000_000_000_000)
        buckets[Self.bucket(of: UInt64(clamping: microseconds))] += 1
        count += 1
    }

    /// The duration that a part of all stayed within, or nil when there is none yet.
    ///
    /// - Parameter fraction: 0.5 for the median, 0.99 for p99.
    package func percentile(_ fraction: Double) -> Duration? {
        guard count > 0 else { return nil }
        let wanted = max(1, UInt64((Double(count) * min(max(fraction, 0), 1)).rounded(.up)))
        var seen: UInt64 = 0
        for (index, bucket) in buckets.enumerated() {
            seen += bucket
            if seen >= wanted { return .microseconds(Self.upperEdge(of: index)) }
        }
        return nil
    }

    private static func bucket(of microseconds: UInt64) -> Int {
        let doubling = 63 - microseconds.leadingZeroBitCount
        let base = UInt64(1) << UInt64(doubling)
        let quarter = doubling < 2 ? 0 : Int((microseconds - base) / (base / 4))
        return min(bucketCount - 1, doubling * bucketsPerDoubling + min(3, quarter))
    }

    private static func upperEdge(of index: Int) -> Int64 {
        let doubling = index / bucketsPerDoubling
        let base = Int64(1) << Int64(min(doubling, 60))
        // 1, and 2 to 3: too few whole microseconds for four buckets.
        if doubling < 2 { return 2 * base - 1 }
        return base + base / 4 * Int64(index % bucketsPerDoubling + 1)
    }
}
