/// What a person decides about the bytes that are fetched in the background; faults are served in any case.
package struct HydrationPolicy: Hashable, Sendable, Codable {
    package var isPaused: Bool
    /// Bytes of the volume that are asked for in a second at most; nil: as many as the link carries.
    package var bytesPerSecond: UInt64?

    package init(isPaused: Bool = false, bytesPerSecond: UInt64? = nil) {
        self.isPaused = isPaused
        self.bytesPerSecond = bytesPerSecond
    }
}

/// When the next request may be made so that a rate is kept: as if each took as long as its bytes take.
struct RateLimiter: Hashable, Sendable {
    /// Unused time that may be made up for.
    private static let burst: Duration = .milliseconds(100)
    private var free: ContinuousClock.Instant?

    /// Takes the time of so many bytes.
    ///
    /// - Returns: how long to wait before they are asked for.
    mutating func take(
        _ byteCount: UInt64, bytesPerSecond: UInt64, at now: ContinuousClock.Instant
    ) -> Duration {
        let begin = max(free ?? now, now - Self.burst)
        let seconds = min(1e6, Double(byteCount) / Double(max(1, bytesPerSecond)))
        free = begin + .seconds(seconds)
        return max(.zero, begin - now)
    }
}
