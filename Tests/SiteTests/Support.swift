import Foundation
import Glibc
import Testing

@testable import TestBed

/// The tests here run real sites: processes, mounts, network namespaces, databases. One after the other,
/// because two cores serve two sites, a link and a database in each of them.
@Suite(.serialized, .enabled(if: geteuid() == 0, "mounts and network namespaces need root"))
enum SiteTests {}

/// Runs a test with two sites and takes everything back, however it ends.
func withSites(
    _ link: LinkSettings = LinkSettings(LineSettings(bitsPerSecond: 1_000_000_000, delay: .milliseconds(1))),
    options: [String] = [], withTokyo: Bool = false,
    prepare: @escaping @Sendable (_ directory: String, Cleanup) async throws -> Void = { _, _ in },
    _ body: @escaping @Sendable (SitePair, Cleanup) async throws -> Void
) async throws {
    try await Cleanup.scope(catchingSignals: false) { cleanup in
        let pair = try await SitePair.start(
            binary: godwitBinary, link: link, options: options, withTokyo: withTokyo, cleanup,
            prepare: { try await prepare($0, cleanup) })
        do {
            try await body(pair, cleanup)
        } catch {
            for site in pair.sites {
                let log = (try? String(contentsOfFile: site.logPath, encoding: .utf8)) ?? ""
                Issue.record("log of \(site.name): \(log.suffix(3000))")
            }
            throw error
        }
    }
}

/// A slow link, so that hydration is still under way when the test acts.
func slowLink(megabits: UInt64) -> LinkSettings {
    LinkSettings(LineSettings(bitsPerSecond: megabits * 1_000_000, delay: .milliseconds(10)))
}

/// A file of bytes that no compressor makes smaller.
func writeRandomFile(_ path: String, byteCount: Int) throws {
    var bytes = Data(count: byteCount)
    // All at once: Swift's generator asks the kernel for eight at a time.
    bytes.withUnsafeMutableBytes { buffer in
        if let start = buffer.baseAddress { arc4random_buf(start, buffer.count) }
    }
    try bytes.write(to: URL(fileURLWithPath: path))
}

func shell(_ script: String, in directory: String) async throws -> ChildProcess.Outcome {
    var program = Program("/bin/bash", ["-ec", script])
    program.directory = directory
    return try await ChildProcess.run(program, limit: .seconds(120))
}

/// All bytes of a file.
func bytes(_ path: String) throws -> [UInt8] {
    Array(try Data(contentsOf: URL(fileURLWithPath: path)))
}

extension SplitMix {
    mutating func below(_ bound: Int) -> Int { Int(next() >> 33) % bound }
}
