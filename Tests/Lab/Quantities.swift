internal import ArgumentParser

/// A rate on the command line: `100M`, `1G`, `512k`, `2500000` (bit/s, powers of 1,000).
struct BitRate: ExpressibleByArgument {
    let bitsPerSecond: UInt64
    let defaultValueDescription: String

    init?(argument: String) {
        guard let value = number(argument, units: ["": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9]),
            let bits = UInt64(exactly: value.rounded())
        else { return nil }
        bitsPerSecond = bits
        defaultValueDescription = argument
    }

    init(megabits: UInt64) {
        bitsPerSecond = megabits * 1_000_000
        defaultValueDescription = "\(megabits)M"
    }
}

/// A time on the command line: `10ms`, `500us`, `1.5s`.
struct Interval: ExpressibleByArgument {
    let duration: Duration
    let defaultValueDescription: String

    init?(argument: String) {
        guard let value = number(argument, units: ["us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1]), value <= 1e9
        else {
            return nil
        }
        duration = .nanoseconds(Int64((value * 1e9).rounded()))
        defaultValueDescription = argument
    }

    init(milliseconds: Int64) {
        duration = .milliseconds(milliseconds)
        defaultValueDescription = "\(milliseconds)ms"
    }
}

/// A size on the command line: `256K`, `4M`, `1G` (bytes, powers of 1,024).
struct ByteCount: ExpressibleByArgument {
    let bytes: Int

    init?(argument: String) {
        let units: [String: Double] = ["": 1, "k": 0x1p10, "K": 0x1p10, "M": 0x1p20, "G": 0x1p30]
        guard let value = number(argument, units: units), let bytes = Int(exactly: value.rounded()) else {
            return nil
        }
        self.bytes = bytes
    }
}

/// A number that is not negative, with one of the units behind it.
private func number(_ text: String, units: [String: Double]) -> Double? {
    let unit = String(text.reversed().prefix { !$0.isASCII || $0.isLetter }.reversed())
    guard let factor = units[unit], let value = Double(text.dropLast(unit.count)), value.isFinite, value >= 0
    else {
        return nil
    }
    return value * factor
}
