internal import Foundation
internal import TestBed

/// What a figure should be.
enum BenchAim: Sendable {
    case atMost(Double, String)
    case atLeast(Double, String)

    func isReached(by value: Double) -> Bool {
        switch self {
        case .atMost(let limit, _): value <= limit
        case .atLeast(let limit, _): value >= limit
        }
    }

    var text: String {
        switch self {
        case .atMost(_, let text): "≤ \(text)"
        case .atLeast(_, let text): "≥ \(text)"
        }
    }
}

/// One line of a report.
struct BenchRow: Sendable, Encodable {
    let what: String
    let measured: String
    /// What it is compared with, measured in the same run.
    let against: String
    /// The figure that is held against the aim; without aim, the figure as a number.
    let value: Double
    let ratio: Double?
    let aim: String?
    let isReached: Bool?

    /// A value in a unit of its own.
    init(_ what: String, _ measured: String, value: Double, aim: BenchAim? = nil) {
        self.what = what
        self.measured = measured
        self.value = value
        against = ""
        ratio = nil
        self.aim = aim?.text
        isReached = aim?.isReached(by: value)
    }

    /// A value and something it is compared with; the aim is about the ratio of the two.
    init(_ what: String, _ measured: String, against: String, ratio: Double, aim: BenchAim? = nil) {
        self.what = what
        self.measured = measured
        self.against = against
        self.ratio = ratio
        value = ratio
        self.aim = aim?.text
        isReached = aim?.isReached(by: ratio)
    }
}

/// The table of one workload.
struct BenchSection: Sendable, Encodable {
    let workload: Int
    let title: String
    var rows: [BenchRow] = []
    /// Just before it was measured.
    var noise: MachineNoise?

    init(_ workload: Int, _ title: String) {
        self.workload = workload
        self.title = title
    }

    var text: String {
        var table = TextTable([
            ("what", .left), ("measured", .right), ("against", .right), ("ratio", .right), ("aim", .right),
            ("", .left),
        ])
        for row in rows {
            let verdict = row.isReached.map { $0 ? "reached" : "not reached" } ?? ""
            table.add(
                row.what, row.measured, row.against, row.ratio.map { fixed($0, $0 < 0.1 ? 4 : 2) } ?? "",
                row.aim ?? "", verdict)
        }
        let noise = noise.map { "\($0.text)\n" } ?? ""
        return "\(workload). \(title)\n\(table.text)\(noise)\n"
    }
}

/// All that one run measured.
struct BenchReport: Sendable, Encodable {
    let isQuick: Bool
    var sections: [BenchSection] = []
    var failures: [String] = []
    var seconds = 0.0

    var json: String {
        get throws {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
            return String(decoding: try encoder.encode(self), as: UTF8.self) + "\n"
        }
    }
}

/// Figures as people read them.
enum BenchText {
    static func milliseconds(_ series: Series) -> String {
        let scaled = Series(series.values.map { $0 * 1000 }) ?? series
        return "\(scaled.summary(digits: 0)) ms"
    }

    static func milliseconds(_ seconds: Double) -> String { "\(fixed(seconds * 1000, 1)) ms" }

    static func seconds(_ seconds: Double) -> String { "\(fixed(seconds, 2)) s" }

    static func size(_ byteCount: UInt64) -> String {
        let value = Double(byteCount)
        if value >= 0x1p30 { return "\(fixed(value / 0x1p30, 2)) GiB" }
        if value >= 0x1p20 { return "\(fixed(value / 0x1p20, 1)) MiB" }
        return "\(fixed(value / 0x1p10, 1)) KiB"
    }

    static func count(_ count: Int) -> String {
        if count >= 1_000_000, count % 1_000_000 == 0 { return "\(count / 1_000_000) M" }
        return count >= 1000 && count % 1000 == 0 ? "\(count / 1000) k" : "\(count)"
    }
}
