import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// The site in the middle is away, and what it had not got itself is still at the one before it.
    @Suite struct FormerKeeperTests {
        /// Hands the volume over without its bytes.
        private func move(from: SiteProcess, to: SiteProcess) async throws {
            try await from.godwit(["migrate", "data", "--to", to.name, "--prepare-only"])
            try await to.godwit(["volume", "hydrate", "data", "--pause", "--prefetch", "none"])
            try await from.godwit(["migrate", "data", "--to", to.name, "--detach"])
        }

        private func read(_ file: String, from: Int, kibibytes: Int, in path: String) async throws -> [UInt8]?
        {
            let outcome = try await shell(
                "dd if=\(file) bs=1k skip=\(from) count=\(kibibytes) status=none | base64 -w0", in: path)
            return Data(base64Encoded: outcome.output.trimmingCharacters(in: .newlines)).map { [UInt8]($0) }
        }

        /// - Parameter isWhole: whether sydney has got everything, so that london has but a copy, which may go.
        @Test(arguments: [false, true])
        func whatHasNotChangedComesFromTheSiteBefore(isWhole: Bool) async throws {
            let options = ["--fault-timeout", "1", "--keep-copies", "100Gi"]
            try await withSites(options: options, withTokyo: true) { pair, cleanup in
                let tokyo = try #require(pair.tokyo)
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                var path = try await pair.mount("data", at: pair.london, cleanup)
                for (name, megabytes) in [("a", 1), ("b", 4)] {
                    try writeRandomFile(path + "/" + name, byteCount: megabytes << 20)
                }
                let (a, b) = (try bytes(path + "/a"), try bytes(path + "/b"))
                // A hole, of which sydney fills a part.
                _ = try await shell("truncate -s 8M sparse; echo end >> sparse", in: path)
                try await pair.unmount("data", at: pair.london)
                if isWhole {
                    try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                    try await pair.waitUntilReleased("data", at: pair.sydney)
                } else {
                    try await move(from: pair.london, to: pair.sydney)
                }
                path = try await pair.mount("data", at: pair.sydney, cleanup)
                let change = """
                    dd if=/dev/zero bs=64k count=1 status=none | tr '\\0' x | dd of=b bs=64k seek=20 conv=notrunc status=none
                    echo middle | dd of=sparse bs=1M seek=4 conv=notrunc status=none
                    echo new > new
                    """
                #expect(try await shell(change, in: path).exit.isSuccess)
                try await pair.unmount("data", at: pair.sydney)
                try await move(from: pair.sydney, to: tokyo)
                try await SiteTests.wait("tokyo to know what changed at sydney") {
                    try String(contentsOfFile: tokyo.logPath, encoding: .utf8)
                        .contains("can be had of site london as well")
                }
                await pair.sydney.stop()

                path = try await pair.mount("data", at: tokyo, cleanup)
                #expect(try bytes(path + "/a") == a)
                #expect(try await read("b", from: 0, kibibytes: 1024, in: path) == Array(b[..<(1 << 20)]))
                #expect(try await read("b", from: 2048, kibibytes: 2048, in: path) == Array(b[(2 << 20)...]))
                // Zeros before and after what sydney has written there.
                #expect(
                    try await read("sparse", from: 0, kibibytes: 3072, in: path)
                        == [UInt8](repeating: 0, count: 3 << 20))
                // What sydney wrote is nowhere else.
                for (file, skip) in [("new", 0), ("b", 1280)] {
                    let lost = try await shell(
                        "dd if=\(file) bs=1k skip=\(skip) count=1 of=/dev/null 2>&1 || true", in: path)
                    #expect(lost.output.contains("Input/output error"), "\(file): \(lost.output)")
                }
                try await pair.sydney.start()
                try await SiteTests.wait("sydney's bytes") {
                    try await shell("cat new || true", in: path).output.hasPrefix("new")
                }
                let rest = try await shell(
                    "cat new; dd if=b bs=64k skip=20 count=1 status=none | tr -d x | wc -c; "
                        + "dd if=sparse bs=1M skip=4 count=1 status=none | head -c 6; tail -c 4 sparse",
                    in: path)
                #expect(rest.output == "new\n0\nmiddleend\n", "\(rest.output)")
                try await pair.unmount("data", at: tokyo)
            }
        }

        /// Who had the volume before and crashed cannot say that its disk has what the next one was given: nothing of it is
        /// mixed with that.
        @Test func nothingComesFromASiteThatHasCrashedSince() async throws {
            try await withSites(options: ["--fault-timeout", "1"], withTokyo: true) { pair, cleanup in
                let tokyo = try #require(pair.tokyo)
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                var path = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(path + "/a", byteCount: 1 << 20)
                let a = try bytes(path + "/a")
                try await pair.unmount("data", at: pair.london)
                try await move(from: pair.london, to: pair.sydney)
                path = try await pair.mount("data", at: pair.sydney, cleanup)
                try await pair.unmount("data", at: pair.sydney)
                try await move(from: pair.sydney, to: tokyo)
                try await SiteTests.wait("tokyo to know what changed at sydney") {
                    try String(contentsOfFile: tokyo.logPath, encoding: .utf8)
                        .contains("can be had of site london as well")
                }
                await pair.sydney.stop()
                await pair.london.kill()
                try await pair.london.start()
                path = try await pair.mount("data", at: tokyo, cleanup)
                for _ in 0..<3 {
                    let lost = try await shell("cat a 2>&1 > /dev/null || true", in: path)
                    #expect(lost.output.contains("Input/output error"), "\(lost.output)")
                }
                try await pair.sydney.start()
                try await SiteTests.wait("sydney's bytes, and by it london's") {
                    (try? bytes(path + "/a")) == a
                }
                try await pair.unmount("data", at: tokyo)
            }
        }
    }
}
