import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// A volume that comes back to where it was: only what has changed crosses the link.
    @Suite struct ReturnTests {
        private static let keeping = ["--keep-copies", "100Gi"]

        /// Files at home, in the volume and beside it.
        private static let beginning = """
            mkdir -p sub
            cp $R/random whole; cp $R/random over; cp $R/random cut; cp $R/random punched
            cp $R/random gone; cp $R/random moved; cp $R/random sub/appended
            truncate -s 64M sparse; dd if=$R/random of=sparse bs=1M seek=40 count=2 conv=notrunc status=none
            echo small > small; ln whole sub/linked
            """
        /// What happens to them elsewhere. `changed` holds 4 MiB that are nowhere else.
        private static let changes = """
            dd if=$R/changed of=over bs=4k seek=300 count=3 conv=notrunc status=none
            dd if=$R/changed of=over bs=1k skip=99 seek=2900 count=1 conv=notrunc status=none
            truncate -s 1000000 cut; truncate -s 3M cut
            fallocate -p -o 1048576 -l 262144 punched; fallocate -z -o 2097152 -l 5000 punched
            rm gone; head -c 200000 $R/changed > gone
            mv moved sub/renamed; head -c 100000 $R/changed >> sub/appended
            echo smaller > small; head -c 300000 $R/changed > new
            dd if=$R/changed of=sparse bs=64k seek=700 count=1 conv=notrunc status=none
            dd if=sub/renamed of=whole bs=64k skip=3 seek=5 count=1 conv=notrunc status=none
            """

        private func run(_ script: String, _ pair: SitePair, in path: String) async throws {
            let outcome = try await shell("R=\(pair.directory)\n" + script, in: path)
            try #require(outcome.exit.isSuccess, "\(outcome.output)")
        }

        /// A volume with files at london, and the same files in an ordinary directory.
        private func begin(_ pair: SitePair, _ cleanup: Cleanup) async throws -> String {
            try writeRandomFile(pair.directory + "/random", byteCount: 4 << 20)
            try writeRandomFile(pair.directory + "/changed", byteCount: 4 << 20)
            let copy = pair.directory + "/copy"
            try FileManager.default.createDirectory(atPath: copy, withIntermediateDirectories: true)
            try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
            let london = try await pair.mount("data", at: pair.london, cleanup)
            for place in [london, copy] { try await run(Self.beginning, pair, in: place) }
            try await pair.unmount("data", at: pair.london)
            return copy
        }

        private func change(_ pair: SitePair, at site: SiteProcess, _ copy: String, _ cleanup: Cleanup)
            async throws
        {
            let path = try await pair.mount("data", at: site, cleanup)
            for place in [path, copy] { try await run(Self.changes, pair, in: place) }
            try await pair.unmount("data", at: site)
        }

        private func isSame(_ pair: SitePair, at site: SiteProcess, as copy: String, _ cleanup: Cleanup)
            async throws
        {
            let path = try await pair.mount("data", at: site, cleanup)
            let difference = try await shell("diff -r \(copy) \(path)", in: "/")
            #expect(difference.exit.isSuccess && difference.output.isEmpty, "\(difference.output)")
            try await pair.unmount("data", at: site)
        }

        private func keptCopies(at site: SiteProcess) async throws -> [String] {
            try await site.inspect("data")["keptCopies"] as? [String] ?? []
        }

        @Test(arguments: [false, true])
        func aReturnBringsOnlyWhatChanged(restartsInBetween: Bool) async throws {
            try await withSites(options: Self.keeping) { pair, cleanup in
                let copy = try await begin(pair, cleanup)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                #expect(try await keptCopies(at: pair.london) == ["2"])
                #expect(try await pair.london.number("keptCopyBytes", of: "data") > 24 << 20)
                try await change(pair, at: pair.sydney, copy, cleanup)
                if restartsInBetween {
                    for site in [pair.london, pair.sydney] {
                        await site.stop()
                        try await site.start()
                    }
                }
                let before = pair.link.counters
                try await pair.sydney.godwit(["migrate", "data", "--to", "london"])
                let carried = (pair.link.counters - before).deliveredByteCount
                #expect(carried < 5 << 20, "on the link, with all that belongs to it")
                try await isSame(pair, at: pair.london, as: copy, cleanup)
                let state = try await pair.london.inspect("data")
                let received = try #require(state["receivedBytes"] as? Int)
                // 20 granules of 64 KiB and 600 KB of new files; there are 30 MiB.
                #expect(received < 3 << 20, "\(state)")
                #expect(try #require(state["savedBytes"] as? Int) > 20 << 20, "\(state)")
                #expect(try await keptCopies(at: pair.london) == [], "the present state is all here")
                #expect(try await keptCopies(at: pair.sydney) == ["3"])
                // And there again, where nothing but the copy of what has just left is needed.
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                try await isSame(pair, at: pair.sydney, as: copy, cleanup)
                #expect(try await pair.sydney.number("receivedBytes", of: "data") == 0)
            }
        }

        /// Nobody has said when the last writes were: pieces are compared by their hashes.
        @Test func whatWasWrittenBeforeAKillComesHome() async throws {
            try await withSites(options: Self.keeping) { pair, cleanup in
                let copy = try await begin(pair, cleanup)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                let path = try await pair.mount("data", at: pair.sydney, cleanup)
                try await run(Self.changes, pair, in: path)
                // An overwrite that no commit of the catalog knows.
                let torn = """
                    find . -type f -exec sync {} +; sync . sub
                    dd if=$R/changed of=punched bs=64k skip=9 seek=60 count=2 conv=notrunc,fdatasync status=none
                    """
                try await run(torn, pair, in: path)
                await pair.sydney.kill()
                _ = try await shell("umount -l \(path)", in: "/")
                for script in [Self.changes, torn] { try await run(script, pair, in: copy) }
                try await pair.sydney.start()
                try await isSame(pair, at: pair.sydney, as: copy, cleanup)
                try await pair.sydney.godwit(["migrate", "data", "--to", "london"])
                try await isSame(pair, at: pair.london, as: copy, cleanup)
                let state = try await pair.london.inspect("data")
                #expect(try #require(state["receivedBytes"] as? Int) < 3 << 20, "\(state)")
                #expect(try #require(state["savedBytes"] as? Int) > 20 << 20, "\(state)")
            }
        }

        /// How london found out what it has itself.
        private func expect(_ pair: SitePair, isKnown: Bool) async throws {
            let log = try String(contentsOfFile: pair.london.logPath, encoding: .utf8)
            #expect(log.contains("have changed since epoch 2, others are taken from here") == isKnown)
            #expect(log.contains("pieces are compared by hash") == !isKnown)
            let state = try await pair.london.inspect("data")
            // The changes of one site, and 1 MiB of the other's.
            #expect(try #require(state["receivedBytes"] as? Int) < 4 << 20, "\(state)")
            #expect(try #require(state["savedBytes"] as? Int) > 20 << 20, "\(state)")
        }

        /// Of `whole`, which is 4 MiB.
        private static let anotherMebibyte =
            "dd if=$R/changed of=whole bs=1M skip=2 seek=2 count=1 conv=notrunc status=none"

        /// What changed at either site is known at the last one, though the other is not asked any more. Unless that one's
        /// end was not in order: then nobody knows, and hashes tell.
        @Test(arguments: [false, true])
        func aReturnOverAThirdSiteBringsOnlyWhatChanged(isKilledInBetween: Bool) async throws {
            try await withSites(options: Self.keeping, withTokyo: true) { pair, cleanup in
                let tokyo = try #require(pair.tokyo)
                let copy = try await begin(pair, cleanup)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                try await change(pair, at: pair.sydney, copy, cleanup)
                if isKilledInBetween {
                    await pair.sydney.kill()
                    try await pair.sydney.start()
                }
                try await pair.sydney.godwit(["migrate", "data", "--to", "tokyo"])
                try await pair.waitUntilReleased("data", at: tokyo)
                await pair.sydney.stop()
                let path = try await pair.mount("data", at: tokyo, cleanup)
                for place in [path, copy] { try await run(Self.anotherMebibyte, pair, in: place) }
                try await pair.unmount("data", at: tokyo)
                try await tokyo.godwit(["migrate", "data", "--to", "london"])
                try await isSame(pair, at: pair.london, as: copy, cleanup)
                try await expect(pair, isKnown: !isKilledInBetween)
            }
        }

        /// Tokyo took over by force: what sydney says of its reign is not how the volume came to be what it is.
        @Test func aReignThatWasOverruledSaysNothingOfWhatChanged() async throws {
            try await withSites(options: Self.keeping, withTokyo: true) { pair, cleanup in
                let tokyo = try #require(pair.tokyo)
                let copy = try await begin(pair, cleanup)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                try await change(pair, at: pair.sydney, copy, cleanup)
                try await pair.sydney.godwit(["migrate", "data", "--to", "tokyo", "--prepare-only"])
                try await pair.link.cut(Set(LinkDirection.allCases))
                let lost = try await pair.mount("data", at: pair.sydney, cleanup)
                try await run("echo lost > lost", pair, in: lost)
                try await pair.unmount("data", at: pair.sydney)
                try await tokyo.godwit(["volume", "takeover", "data", "--force", "--overrule", "2"])
                try await pair.link.cut([])
                try await SiteTests.wait("the bytes to come") {
                    try await tokyo.number("missingBytes", of: "data") == 0
                }
                let path = try await pair.mount("data", at: tokyo, cleanup)
                for place in [path, copy] { try await run(Self.anotherMebibyte, pair, in: place) }
                try await pair.unmount("data", at: tokyo)
                try await tokyo.godwit(["migrate", "data", "--to", "london"])
                try await isSame(pair, at: pair.london, as: copy, cleanup)
                try await expect(pair, isKnown: false)
            }
        }

        /// Bytes that never left home do not go there and back.
        @Test func aVolumeThatReturnsBeforeItsBytesHaveLeftTakesThemFromHome() async throws {
            try await withSites(slowLink(megabits: 40), options: Self.keeping) { pair, cleanup in
                let copy = try await begin(pair, cleanup)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await pair.sydney.godwit(["volume", "hydrate", "data", "--pause"])
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                try await change(pair, at: pair.sydney, copy, cleanup)
                try await pair.sydney.godwit(["migrate", "data", "--to", "london"])
                try await isSame(pair, at: pair.london, as: copy, cleanup)
                let state = try await pair.london.inspect("data")
                #expect(try #require(state["receivedBytes"] as? Int) < 3 << 20, "\(state)")
                #expect(try #require(state["savedBytes"] as? Int) > 20 << 20, "\(state)")
                #expect(try await pair.sydney.number("receivedBytes", of: "data") < 3 << 20)
            }
        }

        /// Of the two copies that it leaves at home one stays: the older, because the newer has hardly begun.
        @Test func aVolumeThatLeavesAmidItsReturnLeavesOneCopy() async throws {
            try await withSites(options: Self.keeping) { pair, cleanup in
                let copy = try await begin(pair, cleanup)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                try await change(pair, at: pair.sydney, copy, cleanup)
                try await pair.sydney.godwit(["migrate", "data", "--to", "london", "--prepare-only"])
                try await pair.london.godwit(["volume", "hydrate", "data", "--pause"])
                try await pair.sydney.godwit(["migrate", "data", "--to", "london", "--detach"])
                #expect(try await keptCopies(at: pair.london) == ["2"])
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                try await SiteTests.wait("the end of the newer copy") {
                    let id = try await pair.london.inspect("data")["id"] as? String ?? ""
                    let heads = "\(pair.london.stateDirectory)/volumes/\(id)/heads"
                    return try FileManager.default.contentsOfDirectory(atPath: heads).count == 1
                }
                #expect(try await keptCopies(at: pair.london) == ["2"])
                try await isSame(pair, at: pair.sydney, as: copy, cleanup)
            }
        }

        /// A writer must find room where only a copy is in the way.
        @Test(arguments: ["100Gi", "auto"])
        func aCopyGoesBeforeAWriterFindsTheDiskFull(policy: String) async throws {
            try await withSites(options: ["--keep-copies", policy]) { directory, cleanup in
                let state = directory + "/london-state"
                let made = try await shell(
                    "mkdir -m 700 \(state); mount -t tmpfs -o size=256m,mode=700 tmpfs \(state)", in: "/")
                try #require(made.exit.isSuccess, "\(made.output)")
                try cleanup.add(mountAt: state)
            } _: { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let first = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(first + "/a", byteCount: 75 << 20)
                let digest = try await shell("sha256sum < a", in: first).output
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                #expect(try await keptCopies(at: pair.london) == ["2"])
                try await pair.london.godwit(["volume", "create", "other", "--capacity", "1Gi"])
                let other = try await pair.mount("other", at: pair.london, cleanup)
                let written = try await shell(
                    "head -c 150M /dev/zero | tr '\\0' x > f; stat -c %s f", in: other)
                #expect(written.output == "\(150 << 20)\n")
                let deadline = ContinuousClock.now + .seconds(60)
                while try await !keptCopies(at: pair.london).isEmpty, .now < deadline {
                    try await Task.sleep(for: .milliseconds(200))
                }
                #expect(try await keptCopies(at: pair.london) == [])
                _ = try await shell("rm f", in: other)
                try await pair.unmount("other", at: pair.london)
                // Without it all comes over the link.
                try await pair.sydney.godwit(["migrate", "data", "--to", "london"])
                let home = try await pair.mount("data", at: pair.london, cleanup)
                #expect(try await shell("sha256sum < a", in: home).output == digest)
                #expect(try await pair.london.number("savedBytes", of: "data") == 0)
                try await pair.unmount("data", at: pair.london)
            }
        }

        @Test func copiesAreDroppedByCommandWithTheVolumeAndWhereNoneAreWanted() async throws {
            try await withSites(options: Self.keeping) { pair, cleanup in
                _ = try await begin(pair, cleanup)
                let id = try #require(try await pair.london.inspect("data")["id"] as? String)
                let heads = "\(pair.london.stateDirectory)/volumes/\(id)/heads"
                func directories() throws -> [String] {
                    try FileManager.default.contentsOfDirectory(atPath: heads).sorted()
                }
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                #expect(try directories() == ["1"])
                #expect(try await pair.london.godwit(["volume", "inspect", "data"]).contains("kept copy"))
                try await pair.london.godwit(["volume", "drop-copies", "data"])
                #expect(try directories() == [])
                #expect(try await keptCopies(at: pair.london) == [])
                try await pair.sydney.godwit(["migrate", "data", "--to", "london"])
                #expect(try await pair.london.number("savedBytes", of: "data") == 0)
                #expect(try await keptCopies(at: pair.sydney) == ["3"])
                try await pair.sydney.godwit(["volume", "delete", "data"])
                let left = try FileManager.default.contentsOfDirectory(
                    atPath: "\(pair.sydney.stateDirectory)/volumes")
                #expect(left == [])
            }
            try await withSites(options: ["--keep-copies", "none"]) { pair, cleanup in
                _ = try await begin(pair, cleanup)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                #expect(try await keptCopies(at: pair.london) == [])
            }
        }
    }
}
