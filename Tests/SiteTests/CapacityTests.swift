import Foundation
import Testing

@testable import TestBed

extension SiteTests {
    @Suite struct CapacityTests {
        private func freeBlocks(_ path: String) async throws -> (total: Int, free: Int) {
            let output = try await shell("stat -f -c '%b %f' .", in: path).output
            let numbers = output.split(whereSeparator: \.isWhitespace).compactMap { Int($0) }
            try #require(numbers.count == 2, "\(output)")
            return (numbers[0], numbers[1])
        }

        /// The resizer of the follower's cluster is to find nothing left to do when the claim there grows.
        @Test func aFollowerLearnsWhatItsVolumeMayHold() async throws {
            try await withSites { pair, _ in
                let id = try await CSIModesTests.make(
                    "data", at: pair.london, ["--required-bytes", "1Gi"])
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                let expand = ["expand-volume", id, "--required-bytes", "4Gi"]
                // Not its to expand.
                #expect(try await CSIModesTests.outcome(pair.sydney, expand).code == 9)
                try await pair.london.csi(expand)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                #expect(try await pair.sydney.csi(expand).contains("4294967296"))
                // It never learns of less.
                #expect(try await pair.london.csi(expand).contains("4294967296"))
            }
        }

        @Test func aFullVolumeIsExpandedWhileItIsMountedAndKeepsItsSizeElsewhere() async throws {
            try await withSites { pair, cleanup in
                let made = try await pair.london.csi(
                    ["create-volume", "data", "--required-bytes", "16Mi", "--parameter", "inodes=4"])
                let id = try #require(
                    (try JSONSerialization.jsonObject(with: Data(made.utf8)) as? [String: Any])
                        .flatMap { $0["volume"] as? [String: Any] }?["volume_id"] as? String, "\(made)")
                let london = try await pair.mount("data", at: pair.london, cleanup)
                // Not zeros: these would come as holes.
                let full = try await shell(
                    "dd if=/dev/urandom of=f bs=100k count=200 2>&1 | grep -o 'No space left'; stat -c %s f",
                    in: london)
                #expect(full.output == "No space left\n16777216\n")
                #expect(try await freeBlocks(london) == (4096, 0))
                #expect(try await pair.london.number("allocatedBytes", of: "data") == 16 << 20)

                let expanded = try await pair.london.csi(["expand-volume", id, "--required-bytes", "32Mi"])
                #expect(expanded.contains("33554432"), "\(expanded)")
                #expect(try await freeBlocks(london) == (8192, 4096))
                let more = try await shell(
                    "dd if=/dev/urandom of=g bs=1M count=8 status=none; ls", in: london)
                #expect(more.output == "f\ng\n")
                // Again, and to less than there is: both are done already. A limit below is refused.
                try await pair.london.csi(["expand-volume", id, "--required-bytes", "20Mi"])
                await #expect(throws: LabError.self) {
                    try await pair.london.csi(
                        ["expand-volume", id, "--required-bytes", "20Mi", "--limit-bytes", "24Mi"])
                }
                let shrunk = try await pair.london.run(["volume", "expand", "data", "20Mi"])
                #expect(!shrunk.exit.isSuccess && shrunk.output.contains("smaller"), "\(shrunk.output)")

                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                #expect(try await freeBlocks(sydney) == (8192, 2048))
                let there = try await shell(
                    "dd if=/dev/zero of=h bs=1M count=20 2>&1 | grep -o 'No space left'; stat -c %s h",
                    in: sydney)
                #expect(there.output == "No space left\n8388608\n")
                let elsewhere = try await pair.london.run(["volume", "expand", "data", "40Mi"])
                #expect(!elsewhere.exit.isSuccess && elsewhere.output.contains("owner"))
                // The root, f, g and h: then one more.
                let crowded = try await shell("touch i 2>&1 | grep -o 'No space left'", in: sydney)
                #expect(crowded.output == "No space left\n")
                try await pair.sydney.godwit(["volume", "expand", "data", "40Mi", "--inodes", "5"])
                let named = try await shell("touch i; touch j 2>&1 | grep -o 'No space left'; ls", in: sydney)
                #expect(named.output == "No space left\nf\ng\nh\ni\n")
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// What `df` and Kubernetes are told of a mount, in the same form.
        private func figures(_ site: SiteProcess, _ id: String, _ path: String) async throws -> (
            df: [String], csi: [String]
        ) {
            let df = try await shell(
                "df -B1 --output=size,used,avail,itotal,iused,iavail . | tail -1", in: path)
            let stats = try await site.csi(["node-stats", id, "--volume-path", path])
            let object = try JSONSerialization.jsonObject(with: Data(stats.utf8)) as? [String: Any]
            let usage = try #require(object?["usage"] as? [[String: Any]], "\(stats)")
            func number(_ unit: String, _ key: String) throws -> String {
                let entry = try #require(usage.first { $0["unit"] as? String == unit }, "\(stats)")
                // Nothing is left out in this form.
                return entry[key].map { "\($0)" } ?? "0"
            }
            var csi: [String] = []
            for unit in ["BYTES", "INODES"] {
                for key in ["total", "used", "available"] { csi.append(try number(unit, key)) }
            }
            return (df.output.split(whereSeparator: \.isWhitespace).map(String.init), csi)
        }

        @Test func dfAndKubernetesAreToldTheSame() async throws {
            try await withSites(options: ["--no-background-hydration"]) { pair, cleanup in
                // A limit that is no number of blocks.
                let id = try await CSIModesTests.make(
                    "data", at: pair.london, ["--required-bytes", "\((16 << 20) + 100)"])
                func check(_ site: SiteProcess, _ path: String, used: String? = nil, _ comment: Comment)
                    async throws
                {
                    let (df, csi) = try await self.figures(site, id, path)
                    #expect(df == csi && df.count == 6, comment)
                    if let used { #expect(df[1] == used, comment) }
                }
                let london = try await pair.mount("data", at: pair.london, cleanup)
                try await check(pair.london, london, "empty")
                try writeRandomFile(london + "/some", byteCount: 1_000_008)
                _ = try await shell(
                    "for i in $(seq 20); do echo $i > f$i; done; truncate -s 1G hole", in: london)
                try await check(pair.london, london, "after writes")
                let full = try await shell(
                    "dd if=/dev/zero of=full bs=100k 2>&1 | grep -o 'No space left'", in: london)
                #expect(full.output == "No space left\n")
                try await check(pair.london, london, used: "\(16 << 20)", "at the limit")
                _ = try await shell("truncate -s -8192 full", in: london)
                try await check(pair.london, london, used: "\((16 << 20) - 8192)", "just below the limit")
                _ = try await shell("truncate -s 4M full", in: london)
                try await pair.unmount("data", at: pair.london)

                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                #expect(try await pair.sydney.number("missingBytes", of: "data") > 0)
                try await check(pair.sydney, sydney, "while bytes are missing")
                try writeRandomFile(sydney + "/more", byteCount: 500_000)
                _ = try await shell("cat some full > /dev/null; rm f1 f2", in: sydney)
                try await check(pair.sydney, sydney, "when some have come")
                try await pair.unmount("data", at: pair.sydney)

                // Without a limit of its own it has the disk's room.
                try await pair.london.godwit(["volume", "create", "free", "--capacity", "0"])
                let free = try #require(try await pair.london.inspect("free")["id"] as? String)
                try await pair.mount("free", at: pair.london, cleanup)
                let (df, csi) = try await self.figures(pair.london, free, london)
                #expect(df == csi && df.first != "0")
                try await pair.unmount("free", at: pair.london)
            }
        }
    }
}
