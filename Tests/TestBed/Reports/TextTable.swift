/// A table in plain text with columns in line; also as Markdown.
package struct TextTable: Hashable, Sendable {
    package enum Alignment: Hashable, Sendable { case left, right }

    package let columns: [(title: String, alignment: Alignment)]
    package private(set) var rows: [[String]] = []

    package init(_ columns: [(title: String, alignment: Alignment)]) {
        self.columns = columns
    }

    /// First column to the left, the others (figures, as a rule) to the right.
    package init(_ titles: String...) {
        self.init(titles.enumerated().map { ($1, $0 == 0 ? .left : .right) })
    }

    /// Adds a row; missing cells are empty, surplus ones are left out.
    package mutating func add(_ cells: [String]) {
        rows.append(
            (0..<columns.count).map {
                $0 < cells.count ? cells[$0].split(separator: "\n").joined(separator: " ") : ""
            })
    }

    package mutating func add(_ cells: String...) { add(cells) }

    package var text: String {
        let widths = widths()
        let rule = widths.map { String(repeating: "-", count: $0) }
        return ([columns.map(\.title), rule] + rows).map { line($0, widths, separator: "  ").trimmingEnd() }
            .joined(separator: "\n")
    }

    package var markdown: String {
        let escaped = rows.map { $0.map { $0.replacing("|", with: "\\|") } }
        var table = TextTable(columns)
        table.rows = escaped
        let widths = table.widths().map { max($0, 3) }
        let rule = zip(widths, columns).map { width, column in
            column.alignment == .left
                ? String(repeating: "-", count: width) : String(repeating: "-", count: width - 1) + ":"
        }
        return ([columns.map(\.title), rule] + escaped).map { "| \(line($0, widths, separator: " | ")) |" }
            .joined(separator: "\n")
    }

    private func widths() -> [Int] {
        columns.indices.map { index in
            ([columns[index].title] + rows.map { $0[index] }).map(\.count).max() ?? 0
        }
    }

    private func line(_ cells: [String], _ widths: [Int], separator: String) -> String {
        columns.indices.map { index in
            let padding = String(repeating: " ", count: max(0, widths[index] - cells[index].count))
            return columns[index].alignment == .left ? cells[index] + padding : padding + cells[index]
        }.joined(separator: separator)
    }

    package static func == (left: TextTable, right: TextTable) -> Bool {
        left.rows == right.rows && left.columns.elementsEqual(right.columns, by: ==)
    }

    package func hash(into hasher: inout Hasher) { hasher.combine(rows) }
}

extension String {
    fileprivate func trimmingEnd() -> String {
        var text = self
        while text.last == " " { text.removeLast() }
        return text
    }
}
