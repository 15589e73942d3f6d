internal import Foundation

/// A JSON object on one line, its members in the order in which they were added.
struct JSONObject {
    private var members: [String] = []

    mutating func add(_ name: String, _ value: String) { members.append("\(quote(name)): \(quote(value))") }
    mutating func add(_ name: String, _ value: UInt64) { members.append("\(quote(name)): \(value)") }
    mutating func add(_ name: String, _ value: Bool) { members.append("\(quote(name)): \(value)") }
    mutating func add(_ name: String, _ value: Double) {
        members.append("\(quote(name)): \(value.isFinite ? String(format: "%.3f", value) : "null")")
    }
    mutating func add(_ name: String, _ values: [String]) {
        members.append("\(quote(name)): [\(values.map(quote).joined(separator: ", "))]")
    }

    var text: String { "{" + members.joined(separator: ", ") + "}" }

    private func quote(_ text: String) -> String {
        // A string can always be encoded.
        guard let data = try? JSONEncoder().encode([text]) else { return "\"\"" }
        return String(String(decoding: data, as: UTF8.self).dropFirst().dropLast())
    }
}
