import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// Bytes that come before the hand-over: none of them has to come afterwards, and no wrong one is ever shown.
    @Suite struct AheadTests {
        private static let volume = "data"
        private static let files = """
            cp $R/random large; head -c 3000000 $R/random > other; truncate -s 64M sparse
            dd if=$R/random of=sparse bs=1M seek=40 count=1 conv=notrunc status=none
            mkdir sub; for i in $(seq 50); do echo "file $i" > sub/$i; done; sync large other
            """

        private func run(_ script: String, _ pair: SitePair, in path: String) async throws {
            let outcome = try await shell("R=\(pair.directory)\n" + script, in: path)
            try #require(outcome.exit.isSuccess, "\(outcome.output)")
        }

        /// The same files in a volume that is in use at london, and beside it.
        private func begin(_ pair: SitePair, _ cleanup: Cleanup) async throws -> (mount: String, copy: String)
        {
            try writeRandomFile(pair.directory + "/random", byteCount: 24 << 20)
            let copy = pair.directory + "/copy"
            try FileManager.default.createDirectory(atPath: copy, withIntermediateDirectories: true)
            try await pair.london.godwit(["volume", "create", Self.volume, "--capacity", "1Gi"])
            let mount = try await pair.mount(Self.volume, at: pair.london, cleanup)
            for place in [mount, copy] { try await run(Self.files, pair, in: place) }
            return (mount, copy)
        }

        private func prepare(_ pair: SitePair) async throws {
            try await pair.london.godwit(
                ["migrate", Self.volume, "--to", "sydney", "--prepare-only", "--ahead"])
        }

        private func early(_ site: SiteProcess) async throws -> UInt64 {
            try await site.number("aheadBytes", of: Self.volume)
        }

        private func waitForBytes(_ byteCount: UInt64, at site: SiteProcess) async throws {
            try await SiteTests.wait("bytes ahead") { try await self.early(site) >= byteCount }
        }

        private func isSame(_ pair: SitePair, as copy: String, _ cleanup: Cleanup) async throws {
            let path = try await pair.mount(Self.volume, at: pair.sydney, cleanup)
            let difference = try await shell("diff -r \(copy) \(path)", in: "/")
            #expect(difference.exit.isSuccess && difference.output.isEmpty, "\(difference.output)")
        }

        private func earlyDirectory(_ site: SiteProcess) async throws -> String {
            let id = try #require(try await site.inspect(Self.volume)["id"] as? String)
            return site.stateDirectory + "/volumes/\(id)/early"
        }

        @Test func aMoveThatWasPreparedSoBringsWhatHasChangedSince() async throws {
            try await withSites { pair, cleanup in
                let (mount, copy) = try await begin(pair, cleanup)
                try await prepare(pair)
                try await waitForBytes(28 << 20, at: pair.sydney)
                let changes = """
                    dd if=$R/random of=large bs=4k skip=9 seek=300 count=3 conv=notrunc status=none
                    truncate -s 1000000 other; rm sub/7; mv sub/8 sub/9; echo new > new
                    dd if=$R/random of=sparse bs=64k seek=100 count=1 conv=notrunc status=none
                    """
                for place in [mount, copy] { try await run(changes, pair, in: place) }
                try await pair.unmount(Self.volume, at: pair.london)
                let before = pair.link.counters
                try await pair.london.godwit(["migrate", Self.volume, "--to", "sydney"])
                #expect((pair.link.counters - before).deliveredByteCount < 1 << 20)
                #expect(try await pair.sydney.number("savedBytes", of: Self.volume) > 25 << 20)
                try await isSame(pair, as: copy, cleanup)
                let directory = try await earlyDirectory(pair.sydney)
                try await SiteTests.wait("bytes that are needed no more are gone") {
                    !FileManager.default.fileExists(atPath: directory)
                }
            }
        }

        /// Of a crash nothing remains that anybody relies on, and what had come need not come again.
        @Test func aFollowerThatIsKilledGoesOnWhereItWas() async throws {
            try await withSites(slowLink(megabits: 40)) { pair, cleanup in
                let (_, copy) = try await begin(pair, cleanup)
                try await prepare(pair)
                try await waitForBytes(8 << 20, at: pair.sydney)
                await pair.sydney.kill()
                let before = pair.link.counters
                try await pair.sydney.start()
                let directory = try await earlyDirectory(pair.sydney)
                try await SiteTests.wait("the rest has come") {
                    try await self.blocks(directory) >= 28 << 20
                }
                #expect((pair.link.counters - before).deliveredByteCount < 23 << 20)
                // What is on the disk is not what came: nobody is given it.
                let torn = """
                    for f in $(find . -type f); do
                        touch -r $f $R/stamp; dd if=$R/random of=$f bs=4k skip=77 seek=33 count=2 conv=notrunc status=none
                        touch -r $R/stamp $f
                    done
                    """
                try await run(torn, pair, in: directory)
                try await pair.unmount(Self.volume, at: pair.london)
                let moved = pair.link.counters
                try await pair.london.godwit(["migrate", Self.volume, "--to", "sydney"])
                try await isSame(pair, as: copy, cleanup)
                #expect((pair.link.counters - moved).deliveredByteCount < 8 << 20)
            }
        }

        private func blocks(_ directory: String) async throws -> Int {
            let outcome = try await shell("du -s --block-size=1 \(directory) | cut -f1", in: "/")
            return Int(outcome.output.trimmingCharacters(in: .whitespacesAndNewlines)) ?? 0
        }

        @Test func whoDoesNotWantThemAnyMoreHasNone() async throws {
            try await withSites { pair, cleanup in
                let (_, copy) = try await begin(pair, cleanup)
                // Names alone bring no bytes.
                try await pair.london.godwit(["migrate", Self.volume, "--to", "sydney", "--prepare-only"])
                let directory = try await earlyDirectory(pair.sydney)
                try await Task.sleep(for: .seconds(3))
                #expect(!FileManager.default.fileExists(atPath: directory))
                try await pair.sydney.godwit(["volume", "hydrate", Self.volume, "--ahead"])
                try await waitForBytes(20 << 20, at: pair.sydney)
                try await pair.sydney.godwit(["volume", "hydrate", Self.volume, "--no-ahead"])
                try await SiteTests.wait("none are left") {
                    !FileManager.default.fileExists(atPath: directory)
                }
                try await pair.unmount(Self.volume, at: pair.london)
                let before = pair.link.counters
                try await pair.london.godwit(["migrate", Self.volume, "--to", "sydney"])
                try await isSame(pair, as: copy, cleanup)
                #expect((pair.link.counters - before).deliveredByteCount > 26 << 20)
            }
        }
    }
}
