import Glibc
import Testing

@testable import TestBed

/// All tests of the test tools, one after the other: several measure, and two cores are soon busy.
@Suite(.serialized, .timeLimit(.minutes(10)))
enum TestBedTests {}

let isRoot = getuid() == 0

/// A directory that is gone after `body`.
func withTemporaryDirectory(_ body: @escaping @Sendable (String) async throws -> Void) async throws {
    try await Cleanup.scope(catchingSignals: false, report: { Issue.record("\($0)") }) { cleanup in
        try await body(try cleanup.makeTemporaryDirectory())
    }
}

/// A link that is closed after `body`.
func withLink(
    _ settings: LinkSettings = LinkSettings(), _ body: @escaping @Sendable (WANLink) async throws -> Void
) async throws {
    try await Cleanup.scope(catchingSignals: false, report: { Issue.record("\($0)") }) { cleanup in
        let link = try await WANLink.open(settings)
        try cleanup.add(link)
        try await body(link)
    }
}

/// Asks until it is so, or the time is over.
func becomesTrue(within limit: Duration = .seconds(60), _ claim: () async throws -> Bool) async throws -> Bool
{
    let deadline = ContinuousClock.now + limit
    while ContinuousClock.now < deadline {
        if try await claim() { return true }
        try await Task.sleep(for: .milliseconds(10))
    }
    return try await claim()
}

func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

/// A program of this package, which is built beside the tests.
func productPath(_ name: String) throws -> String {
    var buffer = [CChar](repeating: 0, count: 4097)
    let length = readlink("/proc/self/exe", &buffer, 4096)
    let path = String(decoding: buffer.prefix(max(0, length)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    let directory = path[..<(path.lastIndex(of: "/") ?? path.startIndex)]
    return try Program("\(directory)/\(name)").path()
}
