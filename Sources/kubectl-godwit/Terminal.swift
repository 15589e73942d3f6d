internal import ArgumentParser
internal import Foundation
internal import Glibc

/// What people read.
enum Terminal {
    static var isTerminal: Bool { isatty(STDOUT_FILENO) == 1 }

    static func fail(_ message: String) throws -> Never {
        FileHandle.standardError.write(Data("kubectl godwit: \(message)\n".utf8))
        throw ExitCode(1)
    }

    /// Prints at once: whoever follows a log reads it when it happens.
    static func print(_ text: String, terminator: String = "\n") {
        Swift.print(text, terminator: terminator)
        fflush(nil)
    }

    /// What comes from the cluster, in one line and without what moves a terminal's cursor.
    static func clean(_ text: String) -> String {
        String(
            String.UnicodeScalarView(
                text.unicodeScalars.map { $0.value < 0x20 || (0x7f..<0xa0).contains($0.value) ? " " : $0 }))
    }

    /// Columns, each as wide as its widest cell.
    static func table(_ rows: [[String]]) -> String {
        let rows = rows.map { $0.map(clean) }
        let widths = (rows.first ?? []).indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            var line = zip(row, widths).map { cell, width in
                cell + String(repeating: " ", count: width - cell.count)
            }.joined(separator: "  ")[...]
            while line.hasSuffix(" ") { line = line.dropLast() }
            return String(line)
        }.joined(separator: "\n")
    }

    static func json(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }
}
