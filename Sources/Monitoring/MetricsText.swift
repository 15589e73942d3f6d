package import VolumeModel

/// Figures in the text format that Prometheus reads (version 0.0.4): families of samples, each family once.
package struct MetricsText: Sendable {
    package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    package enum Kind: String, Sendable { case counter, gauge, histogram }

    /// Names and values of what tells samples of a family apart.
    package typealias Labels = [(name: String, value: String)]

    package private(set) var text = ""

    package init() {}

    /// The samples of one family.
    package struct Family {
        fileprivate let name: String
        fileprivate var text = ""

        package mutating func add(_ value: UInt64, _ labels: Labels = []) {
            line(name, labels, String(value))
        }

        package mutating func add(_ value: Double, _ labels: Labels = []) {
            line(name, labels, MetricsText.number(value))
        }

        package mutating func add(_ histogram: TimeHistogram, _ labels: Labels = []) {
            var count: UInt64 = 0
            for (index, inBucket) in histogram.counts.enumerated() {
                count += inBucket
                let bound = index < histogram.bounds.count ? histogram.bounds[index] : .infinity
                line(name + "_bucket", labels + [("le", MetricsText.number(bound))], String(count))
            }
            line(name + "_sum", labels, MetricsText.number(histogram.sum))
            line(name + "_count", labels, String(count))
        }

        private mutating func line(_ name: String, _ labels: Labels, _ value: String) {
            text += name
            if !labels.isEmpty {
                let pairs = labels.map { "\($0.name)=\"\(MetricsText.escaped($0.value))\"" }
                text += "{" + pairs.joined(separator: ",") + "}"
            }
            text += " \(value)\n"
        }
    }

    /// Writes a family; one without samples is left out.
    package mutating func add(
        _ name: String, _ kind: Kind, _ help: String, _ fill: (inout Family) -> Void
    ) {
        var family = Family(name: name)
        fill(&family)
        guard !family.text.isEmpty else { return }
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(kind.rawValue)\n" + family.text
    }

    fileprivate static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value > 0 ? "+Inf" : "-Inf" }
        // 1 and not 1.0, as other writers have it: a bucket's bound is compared as text.
        return value == value.rounded() && abs(value) < 1e15 ? String(Int64(value)) : "\(value)"
    }

    /// A value of a label comes from outside.
    fileprivate static func escaped(_ text: String) -> String {
        var escaped = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": escaped += "\\\\"
            case "\"": escaped += "\\\""
            case "\n": escaped += "\\n"
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }
}
