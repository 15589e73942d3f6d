internal import Foundation
internal import Glibc
internal import TestBed

/// All that one run measured.
struct BenchReport: Sendable, Encodable {
    let isQuick: Bool
    var sections: [BenchSection] = []
    var failures: [String] = []
    var seconds = 0.0

    /// How many aims are reached, and which are not.
    func summary(_ style: BenchStyle) -> String {
        let rows = sections.flatMap { section in section.rows.map { (section.workload, $0) } }
        let verdicts = rows.compactMap { $0.1.isReached }
        let missed = rows.filter { $0.1.isMissed }
        var text = "\(verdicts.count { $0 }) of \(verdicts.count) aims reached"
        text += failures.isEmpty ? "" : ", \(failures.count) workloads failed"
        text = style.heading(text) + "; took \(BenchText.seconds(seconds))"
        if !missed.isEmpty { text += "\nmissed:" }
        for (workload, row) in missed { text += "\n  \(workload)  \(row.missedText)" }
        return text
    }

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

extension BenchStyle {
    /// For standard output as it is.
    ///
    /// - Source: https://no-color.org
    static var ofStandardOutput: BenchStyle {
        let environment = ProcessInfo.processInfo.environment
        let wants = environment["NO_COLOR", default: ""].isEmpty && environment["TERM"] != "dumb"
        return BenchStyle(hasColours: wants && isatty(1) == 1)
    }
}
