/// Figures that a process tells in Prometheus' text format, at one moment.
package struct MetricsReading: Hashable, Sendable {
    /// By the whole left side of a line: name and labels.
    package private(set) var values: [String: Double] = [:]

    /// Lines that are none of the format are left out: other tests hold a site to it.
    package init(_ text: String) {
        for line in text.split(separator: "\n") where !line.hasPrefix("#") {
            guard let cut = line.lastIndex(of: " "), let value = Double(line[line.index(after: cut)...])
            else {
                continue
            }
            values[String(line[..<cut])] = value
        }
    }

    /// - Returns: 0 for what was not told: a counter that nothing has moved yet.
    package func value(_ name: String) -> Double { values[name] ?? 0 }

    /// The values of a family whose only label is this one, by that label.
    package func values(of family: String, by label: String) -> [String: Double] {
        let (head, tail) = (family + "{" + label + "=\"", "\"}")
        var found: [String: Double] = [:]
        for (name, value) in values where name.hasPrefix(head) && name.hasSuffix(tail) {
            let label = name.dropFirst(head.count).dropLast(tail.count)
            // Another one follows.
            if !label.contains("\"") { found[String(label)] = value }
        }
        return found
    }
}
