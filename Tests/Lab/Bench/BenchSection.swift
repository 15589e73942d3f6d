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
    /// Indented, it belongs to the line above.
    let what: String
    let measured: String
    /// What it is compared with, measured in the same run.
    let against: String
    /// The figure that is held against the aim; without aim, the figure as a number.
    let value: Double
    let ratio: Double?
    /// Of the ratios of single rounds.
    let lowestRatio: Double?
    let highestRatio: Double?
    let aim: String?
    let isReached: Bool?
    /// Processor time of the site in each round.
    var siteSeconds: Double?
    /// Where the time goes.
    var profile: TimeProfile?
    /// What else is to be told where the aim is missed.
    var details: [String] = []

    /// A value in a unit of its own.
    init(_ what: String, _ measured: String, value: Double, aim: BenchAim? = nil) {
        self.what = what
        self.measured = measured
        self.value = value
        against = ""
        ratio = nil
        lowestRatio = nil
        highestRatio = nil
        self.aim = aim?.text
        isReached = aim?.isReached(by: value)
    }

    /// A value and something it is compared with; the aim is about the ratio of the two.
    init(_ what: String, _ measured: String, against: String, ratio: Double, aim: BenchAim? = nil) {
        self.init(what, measured, against: against, ratio: ratio, of: nil, aim)
    }

    /// The same of several rounds: the ratio is their median.
    init(_ what: String, _ measured: String, against: String, ratios: Series, aim: BenchAim? = nil) {
        self.init(what, measured, against: against, ratio: ratios.median, of: ratios, aim)
    }

    private init(
        _ what: String, _ measured: String, against: String, ratio: Double, of series: Series?,
        _ aim: BenchAim?
    ) {
        self.what = what
        self.measured = measured
        self.against = against
        self.ratio = ratio
        lowestRatio = series?.minimum
        highestRatio = series?.maximum
        value = ratio
        self.aim = aim?.text
        isReached = aim?.isReached(by: ratio)
    }

    var isMissed: Bool { isReached == false }

    /// What perf saw while it was repeated.
    mutating func add(_ symbols: HotSymbols) {
        details.append("samples of the site's processors, while it was repeated:")
        details += symbols.lines.isEmpty ? ["none: the site did nothing"] : symbols.lines
    }

    fileprivate static let columns: [(title: String, alignment: TextTable.Alignment)] = [
        ("what", .left), ("measured", .right), ("against", .right), ("site CPU", .right), ("ratio", .right),
        ("range", .left), ("aim", .left), ("", .left),
    ]

    fileprivate static let missed = "✗ missed"
    fileprivate static let reached = "✓"

    fileprivate var cells: [String] {
        let range = lowestRatio.flatMap { low in
            highestRatio.map { "\(Self.ratioText(low))–\(Self.ratioText($0))" }
        }
        return [
            what, measured, against, siteSeconds.map { "\(fixed($0, 2)) s" } ?? "",
            ratio.map(Self.ratioText) ?? "", range ?? "", aim ?? "",
            isReached.map { $0 ? Self.reached : Self.missed } ?? "",
        ]
    }

    private static func ratioText(_ ratio: Double) -> String { fixed(ratio, ratio < 0.1 ? 4 : 2) }

    /// What was missed, in one line.
    var missedText: String {
        "\(what.trimmed): \(ratio.map(Self.ratioText) ?? measured) (aim \(aim ?? ""))"
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

    /// For people: the table, then for each missed aim what is known of its reason.
    func text(_ style: BenchStyle) -> String {
        let cells = rows.map(\.cells)
        // A column that is empty throughout says nothing.
        let shown = BenchRow.columns.indices.filter { column in
            column == 0 || cells.contains { !$0[column].isEmpty }
        }
        var table = TextTable(shown.map { BenchRow.columns[$0] })
        for row in cells { table.add(shown.map { row[$0] }) }
        var lines = table.text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        for (index, row) in rows.enumerated() {
            guard let isReached = row.isReached else { continue }
            // Behind the titles and the rule; the verdict is the last word.
            let mark = isReached ? BenchRow.reached : BenchRow.missed
            let line = lines[index + 2]
            lines[index + 2] = String(line.dropLast(mark.count)) + style.verdict(mark, isReached)
        }
        var text = style.heading("\(workload). \(title)") + "\n" + lines.joined(separator: "\n") + "\n"
        let reasons = rows.filter { $0.isMissed && ($0.profile != nil || !$0.details.isEmpty) }
        if !reasons.isEmpty { text += "\nwhere the time goes of what is missed:\n" }
        for row in reasons {
            text += "  \(row.missedText)\n"
            for line in row.profile?.lines ?? [] {
                text += paragraph(line, width: BenchStyle.width, indent: 6) + "\n"
            }
            for line in row.details { text += "    \(line)\n" }
        }
        if let noise {
            text += "\n" + style.aside(paragraph(noise.text, width: BenchStyle.width, indent: 2)) + "\n"
        }
        return text
    }
}

/// How a report looks where it is read: with colours at a terminal that wants them.
struct BenchStyle: Sendable {
    static let width = 130

    let hasColours: Bool

    static let plain = BenchStyle(hasColours: false)

    func heading(_ text: String) -> String { marked(text, "1") }
    func aside(_ text: String) -> String { marked(text, "2") }
    func verdict(_ text: String, _ isReached: Bool) -> String { marked(text, isReached ? "32" : "1;31") }

    /// ECMA-48, select graphic rendition.
    private func marked(_ text: String, _ code: String) -> String {
        hasColours ? "\u{1b}[\(code)m\(text)\u{1b}[0m" : text
    }
}

extension String {
    /// Without the spaces before it.
    fileprivate var trimmed: Substring { drop { $0 == " " } }
}
