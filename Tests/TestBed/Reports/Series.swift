/// Measured values of one thing, with the figures that reports give.
package struct Series: Hashable, Sendable, Codable {
    /// Ascending.
    package let values: [Double]

    /// - Returns: nil if there is no value, or one that is not finite.
    package init?(_ values: some Sequence<Double>) {
        let sorted = values.sorted()
        guard !sorted.isEmpty, sorted.allSatisfy(\.isFinite) else { return nil }
        self.values = sorted
    }

    package init?(_ durations: some Sequence<Duration>) {
        self.init(durations.map(\.seconds))
    }

    package var count: Int { values.count }
    package var minimum: Double { values.first ?? .nan }
    package var maximum: Double { values.last ?? .nan }
    package var median: Double { percentile(50) }
    package var mean: Double { values.reduce(0, +) / Double(values.count) }

    /// The value that `percent` of a hundred are at or below; between two values, in proportion (so that the
    /// median of an even number is the middle between two).
    ///
    /// - Parameter percent: Held to 0...100.
    package func percentile(_ percent: Double) -> Double {
        let position = Double(values.count - 1) * min(max(percent, 0), 100) / 100
        let low = Int(position.rounded(.down))
        let high = min(low + 1, values.count - 1)
        return values[low] + (values[high] - values[low]) * (position - Double(low))
    }

    /// Each value of this by the value of the other with the same number, as both were measured in turns.
    ///
    /// - Returns: nil if the numbers differ or one divisor is zero.
    package static func ratios(_ values: [Double], to others: [Double]) -> Series? {
        guard values.count == others.count, !others.contains(0) else { return nil }
        return Series(zip(values, others).map { $0 / $1 })
    }

    /// Median and range, as in `1.23 (1.10–1.40)`.
    package func summary(digits: Int = 2) -> String {
        let (middle, low, high) = (median, minimum, maximum)
        return "\(fixed(middle, digits)) (\(fixed(low, digits))–\(fixed(high, digits)))"
    }
}

/// A number with a fixed count of digits after the point.
package func fixed(_ value: Double, _ digits: Int) -> String {
    guard value.isFinite else { return "\(value)" }
    let digits = min(max(digits, 0), 9)
    let scale = (0..<digits).reduce(1.0) { product, _ in product * 10 }
    let scaled = (value.magnitude * scale).rounded()
    guard scaled < 0x1p62 else { return "\(value)" }
    let text = String(Int64(scaled))
    let padded = String(repeating: "0", count: max(0, digits + 1 - text.count)) + text
    let sign = value < 0 && scaled > 0 ? "-" : ""
    return digits == 0 ? sign + padded : sign + padded.dropLast(digits) + "." + padded.suffix(digits)
}

/// A number of bytes for people, in powers of 1,024: `1.5 MiB`.
package func bytesText(_ byteCount: UInt64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    var value = Double(byteCount)
    var unit = 0
    while value >= 1024, unit + 1 < units.count {
        value /= 1024
        unit += 1
    }
    return unit == 0
        ? "\(byteCount) B" : "\(fixed(value, value < 10 ? 2 : value < 100 ? 1 : 0)) \(units[unit])"
}

/// A rate for people: `94.9 Mbit/s`.
package func rateText(_ bitsPerSecond: Double) -> String {
    let units = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"]
    var value = bitsPerSecond
    var unit = 0
    while value >= 1000, unit + 1 < units.count {
        value /= 1000
        unit += 1
    }
    return "\(fixed(value, 1)) \(units[unit])"
}

/// A time for people: `4.1 µs`, `845 µs`, `12.3 ms`, `1.25 s`.
package func timeText(_ seconds: Double) -> String {
    switch seconds.magnitude {
    case ..<9.95e-6: "\(fixed(seconds * 1e6, 1)) µs"
    case ..<1e-3: "\(fixed(seconds * 1e6, 0)) µs"
    case ..<1: "\(fixed(seconds * 1e3, 1)) ms"
    default: "\(fixed(seconds, 2)) s"
    }
}
