import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// What a hand-over costs the source, by counters and not by time.
    @Suite struct QuietSourceTests {
        /// What the site's process has read from files, and its host has sent.
        private struct Counters {
            var readByteCount = 0
            var sentByteCount = 0

            init(_ site: SiteProcess) async throws {
                let pid = try #require(await site.pid)
                for line in try Self.lines("/proc/\(pid)/io")
                where line.hasPrefix("rchar:") {
                    readByteCount = try #require(Int(line.dropFirst(7)))
                }
                for line in try Self.lines("/proc/\(pid)/net/dev").dropFirst(2) {
                    let fields = line.split(separator: " ")
                    guard fields.count > 9, fields[0] != "lo:" else { continue }
                    sentByteCount += try #require(Int(fields[9]))
                }
            }

            private static func lines(_ path: String) throws -> [Substring] {
                String(decoding: try readSmallFile(path), as: UTF8.self).split(separator: "\n")
            }
        }

        @Test func aPreparedHandOverReadsNoDataAtTheSourceAndSendsOnlyWhatIsNew() async throws {
            try await withSites { pair, cleanup in
                let byteCount = 256 << 20
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(london + "/big", byteCount: byteCount)
                let made = try await shell("mkdir d; cd d; seq 5000 | xargs touch", in: london)
                #expect(made.exit.isSuccess, "\(made.output)")
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await pair.sydney.godwit(["volume", "hydrate", "data", "--pause"])
                // What is new since the follower was prepared.
                try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell("for i in $(seq 20); do echo $i > d/new-$i; done; sync d", in: london)
                try await pair.unmount("data", at: pair.london)

                let before = try await Counters(pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let after = try await Counters(pair.london)
                let read = after.readByteCount - before.readByteCount
                let sent = after.sentByteCount - before.sentByteCount
                #expect(read < 1 << 20, "\(read) bytes were read of \(byteCount)")
                #expect(sent > 0 && sent < 128 << 10, "\(sent) bytes were sent of \(byteCount)")

                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                let there = try await shell("ls d | wc -l; stat -c %s big; cat d/new-7", in: sydney)
                #expect(there.output == "5020\n\(byteCount)\n7\n", "\(there.output)")
                try await pair.unmount("data", at: pair.sydney)
            }
        }
    }
}
