import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    /// What `godwit volume takeover` tells beforehand of bytes that are missing here: which of them nobody has who can be reached.
    @Suite struct TakeoverLackTests {
        private func told(_ site: SiteProcess) async throws -> [String: Any] {
            let text = try await site.godwit(["volume", "takeover", "data", "--json"])
            return try #require(
                try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any], "\(text)")
        }

        private func number(_ name: String, _ told: [String: Any]) throws -> UInt64 {
            try #require(told[name] as? NSNumber, "\(name) in \(told)").uint64Value
        }

        /// Hands the volume over without its bytes.
        private func move(from: SiteProcess, to: SiteProcess) async throws {
            try await from.godwit(["migrate", "data", "--to", to.name, "--prepare-only"])
            try await to.godwit(["volume", "hydrate", "data", "--pause", "--prefetch", "none"])
            try await from.godwit(["migrate", "data", "--to", to.name, "--detach"])
        }

        /// tokyo has every byte, london what was read there of it, sydney what was read there of that; then tokyo goes on,
        /// and is gone.
        @Test func aTakeoverTellsWhichBytesNoSiteHasThatCanBeReached() async throws {
            try await withSites(withTokyo: true) { pair, cleanup in
                let tokyo = try #require(pair.tokyo)
                try await tokyo.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let first = try await pair.mount("data", at: tokyo, cleanup)
                for (name, megabytes) in [("a", 1), ("b", 2), ("c", 4), ("d", 1)] {
                    try writeRandomFile(first + "/" + name, byteCount: megabytes << 20)
                }
                try await pair.unmount("data", at: tokyo)
                try await move(from: tokyo, to: pair.london)
                let london = try await pair.mount("data", at: pair.london, cleanup)
                _ = try await shell("cat a b > /dev/null; head -c 65536 d > /dev/null; sync .", in: london)
                try await pair.unmount("data", at: pair.london)
                let londonLacks = try await pair.london.number("missingBytes", of: "data")
                #expect(londonLacks >= 4 << 20 && londonLacks < 5 << 20, "\(londonLacks)")
                try await move(from: pair.london, to: pair.sydney)
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                _ = try await shell("cat a > /dev/null; echo new > new; sync new .", in: sydney)
                try await pair.unmount("data", at: pair.sydney)
                let sydneyLacks = try await pair.sydney.number("missingBytes", of: "data")
                #expect(sydneyLacks == 7 << 20, "\(sydneyLacks)")
                try await move(from: pair.sydney, to: tokyo)

                // While the owner can be reached so can everything, and there is a better way.
                let before = try await told(pair.sydney)
                #expect(try number("keptMissingBytes", before) == sydneyLacks)
                #expect(try number("keptUnreachableBytes", before) == 0)
                #expect(before["ownerAnswers"] as? Bool == true)
                #expect(before["silentSites"] as? [String] == [])
                let advice = try await pair.sydney.godwit(["volume", "takeover", "data"])
                #expect(advice.contains("tokyo can be reached: migrate or mount"), "\(advice)")

                await tokyo.kill()
                let after = try await told(pair.sydney)
                #expect(try number("keptMissingBytes", after) == sydneyLacks)
                #expect(try number("keptUnreachableBytes", after) == londonLacks)
                #expect(try number("keptUnreachableFiles", after) == 2)
                #expect(after["ownerAnswers"] as? Bool == false)
                #expect(after["silentSites"] as? [String] == ["tokyo"])
                let text = try await pair.sydney.godwit(["volume", "takeover", "data"])
                #expect(
                    text.contains("in 2 files") && text.contains("taken for nowhere: what tokyo has"),
                    "\(text)")

                // Nor does london answer: then nothing of it is to be had.
                await pair.london.kill()
                let started = ContinuousClock.now
                let alone = try await told(pair.sydney)
                #expect(ContinuousClock.now - started < .seconds(20))
                #expect(try number("keptUnreachableBytes", alone) == sydneyLacks)
                #expect(try number("keptUnreachableFiles", alone) == 3)
                #expect(alone["silentSites"] as? [String] == ["london"])

                // What was told is so.
                try await pair.london.start()
                try await pair.sydney.godwit([
                    "volume", "takeover", "data", "--force", "--overrule",
                    "\(try number("overruledEpoch", alone))", "--from", "kept",
                ])
                let path = try await pair.mount("data", at: pair.sydney, cleanup)
                let read = try await shell("cat a b > /dev/null && cat new", in: path)
                #expect(read.exit.isSuccess && read.output == "new\n", "\(read.output)")
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// A replica has names and no bytes: its owner's they are.
        @Test func ofAReplicaEverythingIsNowhereOnceItsOwnerIsGone() async throws {
            try await withSites { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                for name in ["a", "b", "c"] { try writeRandomFile(london + "/" + name, byteCount: 1 << 20) }
                _ = try await shell("touch empty; sync a b c .", in: london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                let before = try await told(pair.sydney)
                #expect(try number("followedMissingBytes", before) == 3 << 20)
                #expect(try number("followedUnreachableBytes", before) == 0)
                #expect(before["ownerAnswers"] as? Bool == true)
                // What its owner has written over since nobody would be given: not of this state, nor of that.
                var (lacking, attempts) = (UInt64(0), 0)
                while lacking != 1 << 20, attempts < 5 {
                    // By itself it follows every ten seconds.
                    try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                    _ = try await shell(
                        "dd if=/dev/zero of=b bs=4k count=1 conv=notrunc,fsync status=none", in: london)
                    let since = try await told(pair.sydney)
                    lacking = try number("followedUnreachableBytes", since)
                    #expect(since["silentSites"] as? [String] == [])
                    attempts += 1
                }
                #expect(lacking == 1 << 20)
                await pair.london.kill()
                _ = try await shell("umount -l \(london)", in: pair.directory)
                let after = try await told(pair.sydney)
                #expect(try number("followedUnreachableBytes", after) == 3 << 20)
                #expect(try number("followedUnreachableFiles", after) == 3)
                #expect(after["silentSites"] as? [String] == ["london"])
            }
        }
    }
}
