package import VolumeModel

/// What a person decides about the bytes that are fetched in the background; faults are served in any case.
package struct HydrationPolicy: Hashable, Sendable, Codable {
    /// What is stored in a cluster passes through JSON, in which whole numbers are the same to everybody up to here.
    package static let largestRate = UInt64(Int64.max)

    package var isPaused: Bool
    /// Bytes of the volume that come over the link in a second at most; nil: as many as it carries. What is taken from
    /// a copy that is here counts for nothing.
    package var bytesPerSecond: UInt64?
    package var prefetch: PrefetchPolicy
    /// Whether bytes of a volume that another site owns are taken ahead of a hand-over.
    package var isAhead: Bool

    package init(
        isPaused: Bool = false, bytesPerSecond: UInt64? = nil, prefetch: PrefetchPolicy = .all,
        isAhead: Bool = false
    ) {
        self.isPaused = isPaused
        self.bytesPerSecond = bytesPerSecond
        self.prefetch = prefetch
        self.isAhead = isAhead
    }

    private enum CodingKeys: CodingKey { case isPaused, bytesPerSecond, prefetch, isAhead }

    // What an older release has stored says nothing of prefetching, and what says nothing is as it would write it.

    package init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        isPaused = try values.decode(Bool.self, forKey: .isPaused)
        bytesPerSecond = try values.decodeIfPresent(UInt64.self, forKey: .bytesPerSecond)
        prefetch = try values.decodeIfPresent(PrefetchPolicy.self, forKey: .prefetch) ?? .all
        isAhead = try values.decodeIfPresent(Bool.self, forKey: .isAhead) ?? false
    }

    package func encode(to encoder: any Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(isPaused, forKey: .isPaused)
        try values.encodeIfPresent(bytesPerSecond, forKey: .bytesPerSecond)
        if prefetch != .all { try values.encode(prefetch, forKey: .prefetch) }
        if isAhead { try values.encode(isAhead, forKey: .isAhead) }
    }

    /// Why nothing is fetched at the moment; nil: it is.
    ///
    /// - Parameter isExpected: of what the application is expected to read when it starts.
    func obstacle(isExpected: Bool) -> String? {
        if isPaused { return "paused" }
        switch prefetch {
        case .all: return nil
        case .start: return isExpected ? nil : "the rest comes when it is read (prefetch: start)"
        case .nothing: return "everything comes when it is read (prefetch: none)"
        }
    }
}

/// When the next request may be made so that a rate is kept: a debt in bytes, which the rate pays off. Who asks for
/// bytes owes them; who has none left to pay may ask.
struct RateLimiter: Hashable, Sendable {
    /// Seconds not used that may be made up for.
    private static let burst = 0.1
    /// Bytes; below zero: not used.
    private var debt: Double = 0
    private var paidUntil: ContinuousClock.Instant?

    /// Takes so many bytes, if nothing is owed any more.
    ///
    /// - Returns: zero when they were taken, else how long it will probably take until they can be.
    mutating func take(
        _ byteCount: UInt64, bytesPerSecond: UInt64, at now: ContinuousClock.Instant
    ) -> Duration {
        let rate = Double(max(1, bytesPerSecond))
        let passed = max(.zero, now - (paidUntil ?? now))
        debt = max(-rate * Self.burst, debt - passed / .seconds(1) * rate)
        paidUntil = now
        // A part of a byte is what rounding leaves.
        guard debt < 1 else { return .seconds(min(1e6, debt / rate)) }
        debt += Double(byteCount)
        return .zero
    }

    /// Other bytes have come than were taken.
    mutating func settle(taken: UInt64, come: UInt64) { debt += Double(come) - Double(taken) }
}
