import Foundation
import Glibc
import Testing

@testable import TestBed

extension SiteTests {
    /// A site whose disk changes what was stored. Needs loop devices; skipped where they are not.
    @Suite(.enabled("no loop device can be mounted here") { await LoopFileSystem.canMount() })
    struct ScrubSiteTests {
        private struct Disk {
            let image: String
            let path: String

            init(_ directory: String) { (image, path) = (directory + "/image", directory + "/london-state") }

            /// Flips a bit of a file of the site, which does not run.
            func flip(_ file: String, at offset: UInt64) async throws {
                var status = stat()
                #expect(stat(file, &status) == 0)
                try await LoopFileSystem.unmount(path)
                try await LoopFileSystem.flip(
                    image: image, inode: UInt64(status.st_ino), at: offset)
                try await LoopFileSystem.mount(image, at: path, nil)
            }
        }

        private static func largest(below directory: String) async throws -> String {
            try await shell("find . -path '*/data/*' -type f -size +1M", in: directory).output
                .split(separator: "\n").first.map { directory + "/" + $0.dropFirst(2) } ?? ""
        }

        /// The site finds by itself what its disk has changed, says so everywhere, and gives it to nobody as the truth;
        /// all else it gives.
        @Test func whatTheDiskHasChangedIsToldAndGivenToNobody() async throws {
            try await withSites(options: ["--scrub-every", "3s", "--fault-timeout", "3"]) {
                directory, cleanup in
                let disk = Disk(directory)
                try await LoopFileSystem.makeExt4(image: disk.image)
                try await LoopFileSystem.mount(disk.image, at: disk.path, cleanup)
                try await ChildProcess.check(Program("chmod", ["700", disk.path]))
            } _: { pair, cleanup in
                let london = pair.london
                let disk = Disk(URL(fileURLWithPath: london.stateDirectory).deletingLastPathComponent().path)
                try await london.godwit(["volume", "create", "data", "--capacity", "100Mi"])
                let path = try await pair.mount("data", at: london, cleanup)
                try writeRandomFile(path + "/table", byteCount: 4 << 20)
                try writeRandomFile(path + "/other", byteCount: 100_000)
                let sums = try await shell("head -c 2M table | sha256sum; sha256sum < other", in: path).output
                let first = try await london.run(["volume", "check", "data", "--scrub"])
                #expect(
                    first.exit == .exited(0) && first.output.hasPrefix("nothing is wrong\n"),
                    "\(first.output)")
                let second = try await london.run(["volume", "check", "data", "--scrub"])
                #expect(second.output.contains("4.10 MiB are as they were"), "\(second.output)")
                try await pair.unmount("data", at: london)
                await london.stop()
                try await disk.flip(
                    try await Self.largest(below: london.stateDirectory), at: 2_500_000)
                try await london.start()
                // Nobody asks for it.
                try await SiteTests.wait("the site finds it") {
                    let trouble = try await london.inspect("data")["trouble"] as? String
                    return trouble?.contains("/table (inode") ?? false
                }
                let found = try await london.run(["volume", "check", "data"])
                #expect(found.exit == .exited(4), "\(found.output)")
                #expect(found.output.contains("/table (inode"), "\(found.output)")
                #expect(found.output.contains("bytes [2097152, 3145728) of"), "\(found.output)")

                // Nor to programs here.
                let here = try await pair.mount("data", at: london, cleanup)
                let local = try await shell("head -c 2M table | sha256sum; sha256sum < other", in: here)
                #expect(local.output == sums)
                let damaged = try await shell("tail -c +2500000 table | head -c 4096", in: here)
                #expect(damaged.output.contains("Input/output error"), "\(damaged.output.prefix(200))")
                try await pair.unmount("data", at: london)

                try await london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let there = try await pair.mount("data", at: pair.sydney, cleanup)
                let sound = try await shell("head -c 2M table | sha256sum; sha256sum < other", in: there)
                #expect(sound.output == sums)
                let refused = try await shell(
                    "tail -c +2500000 table | head -c 4096 2>&1 | wc -c; cat table > /dev/null", in: there)
                #expect(
                    !refused.exit.isSuccess && refused.output.contains("Input/output error"),
                    "\(refused.output)")
                #expect(
                    refused.output.hasPrefix("0\n") || refused.output.contains("\n0\n"), "\(refused.output)")

                // Who has looked at it and finds it good enough has it.
                let accepted = try await london.run(["volume", "check", "data", "--accept-damage"])
                #expect(accepted.exit == .exited(0), "\(accepted.output)")
                try await pair.waitUntilReleased("data", at: pair.sydney)
                #expect(try await shell("wc -c < table", in: there).output == "4194304\n")
                #expect(try await shell("cat table > /dev/null", in: there).exit.isSuccess)
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// Promises.md: "There is another copy of what the disk has damaged".
        @Test func whatAnotherSiteHasIsRestoredAndNothingElse() async throws {
            let options = ["--scrub-every", "3s", "--fault-timeout", "3", "--keep-copies", "100Mi"]
            try await withSites(options: options) { directory, cleanup in
                let disk = Disk(directory)
                try await LoopFileSystem.makeExt4(image: disk.image)
                try await LoopFileSystem.mount(disk.image, at: disk.path, cleanup)
                try await ChildProcess.check(Program("chmod", ["700", disk.path]))
            } _: { pair, cleanup in
                let (london, sydney) = (pair.london, pair.sydney)
                let disk = Disk(URL(fileURLWithPath: london.stateDirectory).deletingLastPathComponent().path)
                try await sydney.godwit(["volume", "create", "data", "--capacity", "100Mi"])
                let there = try await pair.mount("data", at: sydney, cleanup)
                try writeRandomFile(there + "/table", byteCount: 4 << 20)
                let sum = try await shell("sha256sum < table", in: there).output
                try await pair.unmount("data", at: sydney)
                try await sydney.godwit(["migrate", "data", "--to", "london", "--detach"])
                let here = try await pair.mount("data", at: london, cleanup)
                try await pair.waitUntilReleased("data", at: london)
                try await SiteTests.wait("sydney keeps a copy") {
                    try await sydney.inspect("data")["keptCopies"] as? [String] == ["2"]
                }
                _ = try await london.run(["volume", "check", "data", "--scrub"])

                func damage(at offset: UInt64) async throws {
                    try await pair.unmount("data", at: london)
                    await london.stop()
                    try await disk.flip(try await Self.largest(below: london.stateDirectory), at: offset)
                    try await london.start()
                    try await pair.mount("data", at: london, cleanup)
                    try await SiteTests.wait("the site finds it") {
                        let trouble = try await london.inspect("data")["trouble"] as? String
                        return trouble?.contains("/table (inode") ?? false
                    }
                }
                // Nobody can be asked: refused, until the other site is back.
                await sydney.stop()
                try await damage(at: 2_500_000)
                let refused = try await shell("tail -c +2500000 table | head -c 4096", in: here)
                #expect(refused.output.contains("Input/output error"), "\(refused.output.prefix(200))")
                try await sydney.start()
                try await SiteTests.wait("it is restored") {
                    try await london.inspect("data")["trouble"] as? String ?? "" == ""
                }
                #expect(try await shell("sha256sum < table", in: here).output == sum)
                let healed = try await london.inspect("data")["healed"] as? String
                #expect(healed?.contains("/table: bytes [2097152, 3145728)") ?? false, "\(healed ?? "")")
                #expect(healed?.contains("site sydney") ?? false, "\(healed ?? "")")
                let sound = try await london.run(["volume", "check", "data", "--scrub"])
                #expect(sound.exit == .exited(0), "\(sound.output)")

                // The copy has other bytes there: refused, and named.
                _ = try await shell(
                    "printf x | dd of=\(try await Self.largest(below: sydney.stateDirectory)) bs=1 seek=1400000 conv=notrunc",
                    in: "/")
                try await damage(at: 1_500_000)
                let kept = try await london.run(["volume", "check", "data", "--repair"])
                #expect(
                    kept.exit == .exited(4) && kept.output.contains("bytes [1048576, 2097152) of"),
                    "\(kept.output)")
                let still = try await shell("tail -c +1500000 table | head -c 4096", in: here)
                #expect(still.output.contains("Input/output error"), "\(still.output.prefix(200))")
                try await pair.unmount("data", at: london)
            }
        }
    }
}
