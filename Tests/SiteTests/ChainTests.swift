import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// Volumes that go on before their bytes have arrived, over three sites and back.
    @Suite struct ChainTests {
        /// A site that a volume returns to must take back nothing of what it had itself for newer bytes, and
        /// must not be told that bytes may go which only it still needs.
        @Test func bytesWrittenAtThreeSitesAllComeHome() async throws {
            try await withSites(slowLink(megabits: 40), withTokyo: true) { pair, cleanup in
                let tokyo = try #require(pair.tokyo)
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                var digests: [String: [UInt8]] = [:]
                var home = pair.london
                let moves = [("a", pair.sydney), ("b", tokyo), ("c", pair.sydney), ("d", pair.london)]
                for (name, next) in moves {
                    let path = try await pair.mount("data", at: home, cleanup)
                    try writeRandomFile("\(path)/\(name)", byteCount: 6 << 20)
                    digests[name] = try bytes("\(path)/\(name)")
                    try await pair.unmount("data", at: home)
                    try await home.godwit(["migrate", "data", "--to", next.name, "--detach"])
                    home = next
                }
                let path = try await pair.mount("data", at: home, cleanup)
                for (name, digest) in digests.sorted(by: { $0.key < $1.key }) {
                    let isSame = try bytes("\(path)/\(name)") == digest
                    #expect(isSame, "\(name) has changed")
                }
                try await pair.waitUntilReleased("data", at: home)
                try await pair.unmount("data", at: home)
            }
        }

        /// Sydney has seen the file as london wrote it; tokyo's newer bytes are what it must read.
        @Test func aSiteThatKnewAFileReadsWhatWasWrittenElsewhereSince() async throws {
            try await withSites(slowLink(megabits: 40), withTokyo: true) { pair, cleanup in
                let tokyo = try #require(pair.tokyo)
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(london + "/a", byteCount: 8 << 20)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                try await pair.sydney.godwit(["migrate", "data", "--to", "tokyo", "--detach"])
                let there = try await pair.mount("data", at: tokyo, cleanup)
                try writeRandomFile(pair.directory + "/new", byteCount: 4 << 20)
                _ = try await shell(
                    "dd if=\(pair.directory)/new of=a bs=1M conv=notrunc status=none", in: there)
                let written = try bytes(there + "/a")
                try await pair.unmount("data", at: tokyo)
                try await tokyo.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await Task.sleep(for: .seconds(1))
                try await tokyo.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let back = try await pair.mount("data", at: pair.sydney, cleanup)
                let isSame = try bytes(back + "/a") == written
                #expect(isSame)
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        @Test(arguments: [0, 1])
        func sevenMovesWithChangesInBetweenLoseNothing(secondsBetween: Int) async throws {
            try await withSites(slowLink(megabits: 40)) { pair, cleanup in
                let copy = pair.directory + "/copy"
                try FileManager.default.createDirectory(atPath: copy, withIntermediateDirectories: true)
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                var (here, there) = (pair.london, pair.sydney)
                for round in 1...7 {
                    let path = try await pair.mount("data", at: here, cleanup)
                    let random = "\(pair.directory)/random"
                    try writeRandomFile(random, byteCount: 320 << 10)
                    for place in [copy, path] {
                        let changed = try await shell(
                            """
                            cp \(random) f\(round)
                            dd if=\(random) of=f1 bs=64k seek=\(round) count=1 conv=notrunc status=none
                            [ ! -e f\(round - 2) ] || mv f\(round - 2) moved\(round - 2)
                            if [ \(round) -gt 3 ]; then rm -f f\(round - 1); fi
                            """, in: place)
                        #expect(changed.exit.isSuccess, "\(changed.output)")
                    }
                    try await pair.unmount("data", at: here)
                    try await here.godwit(["migrate", "data", "--to", there.name, "--detach"])
                    (here, there) = (there, here)
                    try await Task.sleep(for: .seconds(secondsBetween))
                }
                let path = try await pair.mount("data", at: here, cleanup)
                let difference = try await shell("diff -r \(copy) \(path)", in: "/")
                #expect(difference.exit.isSuccess && difference.output.isEmpty, "\(difference.output)")
                try await pair.unmount("data", at: here)
            }
        }

        @Test func aPreparedFollowerKeepsUpByItself() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                #expect(try await pair.sydney.number("inodes", of: "data") == 1)
                _ = try await shell("mkdir d; for i in $(seq 200); do echo $i > d/$i; done", in: london)
                let deadline = ContinuousClock.now + .seconds(60)
                while try await pair.sydney.number("inodes", of: "data") < 202, .now < deadline {
                    try await Task.sleep(for: .milliseconds(200))
                }
                #expect(try await pair.sydney.number("inodes", of: "data") == 202)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                let listed = try await shell("ls d | wc -l; cat d/200", in: sydney)
                #expect(listed.output == "200\n200\n")
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// Sydney follows london, whose head goes to tokyo and comes back as another one.
        @Test func aFollowerOfAHeadThatIsGoneBeginsAnew() async throws {
            try await withSites(withTokyo: true) { pair, cleanup in
                let tokyo = try #require(pair.tokyo)
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell("echo old > f; echo gone > g", in: london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "tokyo"])
                let there = try await pair.mount("data", at: tokyo, cleanup)
                _ = try await shell("echo new > f; rm g", in: there)
                try await pair.unmount("data", at: tokyo)
                try await tokyo.godwit(["migrate", "data", "--to", "london"])
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                #expect(try await shell("cat f; ls", in: sydney).output == "new\nf\n")
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// The seal's answer holds a batch of changes at most; the rest is asked for.
        @Test func manyLateChangesComeAfterTheSeal() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                _ = try await shell(
                    "mkdir d; cd d; seq -f 'a-file-with-a-rather-long-name-%.0f' 12000 | xargs touch",
                    in: london)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                #expect(try await shell("ls d | wc -l", in: sydney).output == "12000\n")
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// The last file of a volume is what its application reads first: it is there long before the rest.
        @Test func whatAStartReadIsFetchedFirst() async throws {
            try await withSites(slowLink(megabits: 10)) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                var london = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(london + "/bulk", byteCount: 16 << 20)
                try writeRandomFile(london + "/hot", byteCount: 256 << 10)
                let expected = try bytes(london + "/hot")
                try await pair.unmount("data", at: pair.london)
                // A start: only now does the kernel's cache know nothing.
                london = try await pair.mount("data", at: pair.london, cleanup)
                #expect(try bytes(london + "/hot") == expected)
                try await pair.unmount("data", at: pair.london)

                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let missing = try await pair.sydney.number("missingBytes", of: "data")
                let deadline = ContinuousClock.now + .seconds(60)
                while try await pair.sydney.number("missingBytes", of: "data") > missing - (256 << 10),
                    .now < deadline
                {
                    try await Task.sleep(for: .milliseconds(50))
                }
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                let isSame = try bytes(sydney + "/hot") == expected
                #expect(isSame)
                let state = try await pair.sydney.inspect("data")
                #expect(state["faults"] as? Int == 0, "\(state)")
                #expect((state["missingBytes"] as? Int ?? 0) > 4 << 20, "\(state)")
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        @Test func hydrationIsPausedAndSlowedByCommandAlsoAfterARestart() async throws {
            try await withSites(slowLink(megabits: 100)) { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try writeRandomFile(london + "/bulk", byteCount: 12 << 20)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await pair.sydney.godwit(["volume", "hydrate", "data", "--pause"])
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let missing = try await pair.sydney.number("missingBytes", of: "data")
                #expect(missing > 11 << 20)
                await pair.sydney.stop()
                try await pair.sydney.start()
                try await Task.sleep(for: .seconds(1))
                #expect(try await pair.sydney.number("missingBytes", of: "data") == missing)
                #expect(try await pair.sydney.inspect("data")["waitingReason"] as? String == "paused")
                // A reader does not wait.
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                let read = try await shell("head -c 4096 bulk | wc -c", in: sydney)
                #expect(read.output == "4096\n")
                try await pair.sydney.godwit(
                    ["volume", "hydrate", "data", "--no-pause", "--rate-limit", "100Ki"])
                try await Task.sleep(for: .seconds(1))
                #expect(try await pair.sydney.number("missingBytes", of: "data") > 8 << 20)
                try await pair.sydney.godwit(["volume", "hydrate", "data", "--rate-limit", "none"])
                try await pair.waitUntilReleased("data", at: pair.sydney)
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// The deletion of an old head may still be under way when a new one is made.
        @Test func theDirectoryOfADeletedHeadIsNotUsedAgain() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell("echo x > f", in: london)
                try await pair.unmount("data", at: pair.london)
                let id = try #require(try await pair.london.inspect("data")["id"] as? String)
                for (source, target) in [(pair.london, pair.sydney), (pair.sydney, pair.london)] {
                    try await source.godwit(["migrate", "data", "--to", target.name])
                }
                let heads = "\(pair.london.stateDirectory)/volumes/\(id)/heads"
                #expect(try FileManager.default.contentsOfDirectory(atPath: heads) == ["2"])
            }
        }
    }
}
