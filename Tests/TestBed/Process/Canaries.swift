internal import Foundation

/// What must show up nowhere: parts of private keys, tokens.
///
/// Each look returns what was found, and where; and an error if there was nothing to look at.
package struct Canaries {
    private var canaries: [String: String] = [:]

    package init() {}

    package var count: Int { canaries.count }

    package mutating func add(_ canary: String, of name: String) { canaries[canary] = name }

    /// The private keys below a directory.
    ///
    /// - Throws: also when others than their owner may read one.
    package mutating func add(keysBelow directory: String) throws {
        for name in try FileManager.default.subpathsOfDirectory(atPath: directory) {
            let path = directory + "/" + name
            guard let text = try? String(contentsOfFile: path, encoding: .utf8), text.contains("PRIVATE KEY")
            else { continue }
            let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? NSNumber
            guard (mode?.intValue ?? 0o777) & 0o077 == 0 else {
                throw LabError.invalid("\(path) may be read by others")
            }
            try add(keysIn: text, of: path)
        }
    }

    /// - Parameter text: PEM. A part of a line tells as much, and line ends are written in many ways.
    package mutating func add(keysIn text: String, of name: String) throws {
        var isKey = false
        var count = 0
        for line in text.split(separator: "\n") {
            if line.contains("BEGIN"), line.contains("PRIVATE KEY") {
                isKey = true
            } else if line.hasPrefix("-----") {
                isKey = false
            } else if isKey {
                // The first line begins alike for all keys of a kind, and the last may be short.
                let part = line.dropFirst(line.count > 48 ? 44 : 0)
                guard part.count >= 16 else { continue }
                add(String(part), of: name)
                count += 1
            }
        }
        guard count > 0 else { throw LabError.invalid("no private key in \(name)") }
    }

    package func leaks(in text: String, of what: String) throws -> [String] {
        guard !text.isEmpty else { throw LabError.invalid("there is nothing of \(what)") }
        return canaries.compactMap { canary, name in
            guard text.contains(canary) else { return nil }
            let line = text.split(separator: "\n").first { $0.contains(canary) } ?? ""
            return "a secret of \(name) shows up in \(what): \(line)"
        }
    }

    /// In the arguments or the environment of a process.
    package func leaks(inProcess pid: Int32, _ name: String) throws -> [String] {
        try ["cmdline", "environ"].flatMap { file in
            guard let bytes = FileManager.default.contents(atPath: "/proc/\(pid)/\(file)") else {
                throw LabError.invalid("process \(pid) of \(name) is gone")
            }
            return try leaks(in: String(decoding: bytes, as: UTF8.self), of: "\(file) of \(name)")
        }
    }

    /// In files below a directory, but for those where they belong.
    package func leaks(below directory: String, besides isAllowed: (String) -> Bool) throws -> [String] {
        var leaks: [String] = []
        for name in try FileManager.default.subpathsOfDirectory(atPath: directory) where !isAllowed(name) {
            let path = directory + "/" + name
            let type = try? FileManager.default.attributesOfItem(atPath: path)[.type] as? FileAttributeType
            guard type == .typeRegular, let bytes = FileManager.default.contents(atPath: path),
                !bytes.isEmpty
            else { continue }
            leaks += try self.leaks(in: String(decoding: bytes, as: UTF8.self), of: path)
        }
        return leaks
    }
}
