import Foundation
import Testing

@testable import TestBed

/// Numbered lines that a program appends to a file of a volume. Each is synced before it is acknowledged, in a file
/// outside, so that whoever reads the volume later knows what must be there.
struct Records: Sendable {
    let directory: String
    let name: String

    /// - Parameter directory: where the acknowledgements are.
    init(_ name: String, acknowledgedIn directory: String) {
        (self.name, self.directory) = (name, directory)
    }

    private var acknowledgements: String { "\(directory)/\(name).acknowledged" }

    /// Starts to write where the writer before has ended, until it is killed or a write fails.
    func write(in mount: String) async throws -> ChildProcess {
        let script = """
            n=$(($(tail -n 1 "$2" 2>/dev/null || echo 0) + 1))
            while printf '%d\\n' $n >> "$1" && sync "$1"; do printf '%d\\n' $n >> "$2"; n=$((n + 1)); done
            """
        // Nothing of a line that was cut off stays in front of the next.
        let whole = "test ! -s \"$1\" || test -z \"$(tail -c 1 \"$1\")\" || echo >> \"$1\"\n"
        return try await ChildProcess.start(
            Program("/bin/bash", ["-c", whole + script, "records", "\(mount)/\(name)", acknowledgements]))
    }

    /// Writes for as long as it takes to acknowledge some more, and ends the writer with SIGKILL in the midst of it.
    func writeSome(_ count: Int = 5, in mount: String) async throws {
        let wanted = acknowledged + count
        let writer = try await write(in: mount)
        defer { _ = writer.kill() }
        try await waitUntil(wanted, writer)
        _ = writer.kill()
        _ = try await writer.wait(limit: .seconds(20))
    }

    func waitUntil(_ wanted: Int, _ writer: ChildProcess) async throws {
        try await SiteTests.wait("\(wanted) records") {
            if let exit = writer.exit {
                throw LabError.invalid("the writer ended: \(exit) \(writer.output())")
            }
            return acknowledged >= wanted
        }
    }

    /// The number of the last record that was acknowledged.
    var acknowledged: Int {
        guard let text = try? String(contentsOfFile: acknowledgements, encoding: .utf8) else { return 0 }
        return text.split(separator: "\n").last.flatMap { Int($0) } ?? 0
    }

    /// What is wrong with the file; nil: every acknowledged record is there, in order. One that was not acknowledged
    /// may be there twice or cut off.
    func damage(in mount: String) throws -> String? {
        let text = try String(contentsOfFile: "\(mount)/\(name)", encoding: .utf8)
        var next = 1
        for line in text.split(separator: "\n") where Int(line) == next { next += 1 }
        return next > acknowledged
            ? nil : "record \(next) of \(acknowledged) acknowledged ones is missing: …\(text.suffix(60))"
    }
}
