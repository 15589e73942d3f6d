import ByteStore
import Foundation
import Glibc
import Testing
import VolumeModel

@testable import TestBed

extension SiteTests {
    /// Where the state directory's file system can share blocks, what comes from a kept copy takes no room. Needs loop
    /// devices and xfsprogs; skipped where they are not.
    @Suite(.enabled("no XFS can be mounted here") { await LoopFileSystem.canShareBlocks() })
    struct SharedBlocksTests {
        /// At so low a rate that what has changed takes a minute; what is here already is not held up by it.
        @Test func aVolumeThatReturnsSharesItsBlocksWithTheKeptCopy() async throws {
            try await withSites(options: ["--keep-copies", "100Gi"]) { directory, cleanup in
                try await LoopFileSystem.mountXFS(
                    at: directory + "/london-state", image: directory + "/image", cleanup)
            } _: { pair, cleanup in
                try await pair.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let london = try await pair.mount("data", at: pair.london, cleanup)
                let size = 48 << 20
                try writeRandomFile(london + "/a", byteCount: size)
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney"])
                #expect(try await pair.london.inspect("data")["keptCopies"] as? [String] == ["2"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                let changed = try await shell(
                    "head -c 1M /dev/urandom | dd of=a bs=4k seek=5000 conv=notrunc status=none; sha256sum < a",
                    in: sydney
                ).output
                try await pair.unmount("data", at: pair.sydney)
                try await pair.london.godwit(["volume", "hydrate", "data", "--rate-limit", "20Ki"])
                try await pair.sydney.godwit(["migrate", "data", "--to", "london", "--detach"])
                try await SiteTests.wait("what is here already") {
                    try await pair.london.number("savedBytes", of: "data") > size - (2 << 20)
                }
                #expect(try await pair.london.number("missingBytes", of: "data") > 0)
                // In both files, as long as both are there.
                let shared = try await shell(
                    """
                    sync -f .; find . -path '*/data/*' -type f -size +8M -exec filefrag -v {} + |
                    awk '/shared/ { sum += $6 } END { printf "%d", sum * 4096 }'
                    """, in: pair.london.stateDirectory)
                #expect(Int(shared.output) ?? 0 > 2 * (size - (4 << 20)), "\(shared.output)")
                try await pair.london.godwit(["volume", "hydrate", "data", "--rate-limit", "none"])
                try await pair.waitUntilReleased("data", at: pair.london)
                let home = try await pair.mount("data", at: pair.london, cleanup)
                #expect(try await shell("sha256sum < a", in: home).output == changed)
                try await pair.unmount("data", at: pair.london)
                let sound = try await pair.london.run(["volume", "check", "data"])
                #expect(sound.exit.isSuccess, "\(sound.output)")
            }
        }

        @Test func blocksAreSharedUntilOneOfBothIsWrittenTo() async throws {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let directory = try cleanup.makeTemporaryDirectory()
                let path = directory + "/mount"
                try await LoopFileSystem.mountXFS(at: path, image: directory + "/image", cleanup)
                let store = try ByteStore(directory: path + "/data")
                defer { store.closeAll() }
                let size = 16 << 20
                let content = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31 >> 5) }
                let one = try store.create(DataFileNumber(1))
                try content.withUnsafeBytes { try one.write($0, at: 0) }
                #expect(store.synchronizeAll().isEmpty)
                let two = try store.create(DataFileNumber(2))
                // Else XFS takes blocks ahead of the end.
                try two.truncate(to: UInt64(size))
                let free = Int(try store.diskSpace().free)
                // Neither end is that of a block.
                try two.take(ByteRange(1000, UInt64(size) - 1000), from: one)
                #expect(store.synchronizeAll().isEmpty)
                #expect(free - Int(try store.diskSpace().free) < 1 << 20)
                func read(_ file: DataFile) throws -> [UInt8] {
                    var bytes = [UInt8](repeating: 0xee, count: size)
                    try bytes.withUnsafeMutableBytes { try file.read(into: $0, at: 0) }
                    return bytes
                }
                var expected = content
                expected.replaceSubrange(0..<1000, with: [UInt8](repeating: 0, count: 1000))
                expected.replaceSubrange(size - 1000..<size, with: [UInt8](repeating: 0, count: 1000))
                let isSame = try read(two) == expected
                #expect(isSame)
                try [UInt8](repeating: 7, count: 100_000).withUnsafeBytes { try two.write($0, at: 5000) }
                let isUntouched = try read(one) == content
                #expect(isUntouched)
            }
        }
    }
}
