/// Where processors were found most often, as `perf report --stdio --no-children` lists it.
package struct HotSymbols: Hashable, Sendable {
    package struct Entry: Hashable, Sendable, Codable {
        package let percent: Double
        /// The symbol, with what perf writes before it ("[k]" is the kernel), and where it is.
        package let text: String
    }

    /// The hottest first.
    package let entries: [Entry]

    /// - Parameter output: of `perf report`, with one line for each symbol; comments and call chains are left out.
    package init(_ output: String, limit: Int = 10) {
        var entries: [Entry] = []
        for line in output.split(separator: "\n") where !line.hasPrefix("#") {
            let words = line.split(separator: " ")
            guard let first = words.first, first.hasSuffix("%"), let percent = Double(first.dropLast()) else {
                continue
            }
            // Columns at its end that are empty: what perf knows of some processors only.
            let end = words.lastIndex { $0 != "-" } ?? 0
            entries.append(Entry(percent: percent, text: words[1..<max(1, end + 1)].joined(separator: " ")))
        }
        // perf has them in this order already, unless it could not sort.
        self.entries = Array(
            entries.enumerated().sorted { ($1.element.percent, $0.offset) < ($0.element.percent, $1.offset) }
                .map(\.element).prefix(limit))
    }

    package var lines: [String] {
        entries.map { entry in
            let percent = fixed(entry.percent, 1)
            return String(repeating: " ", count: max(0, 5 - percent.count)) + "\(percent) %  \(entry.text)"
        }
    }
}
