import Foundation
import Glibc
import Testing
import VolumeModel

/// A volume that another site has taken over, through a real mount with its caches.
@Suite struct FenceTests {
    private static func waitUntil(_ condition: () -> Bool) async throws {
        let deadline = ContinuousClock.now + .seconds(60)
        while !condition(), ContinuousClock.now < deadline { try await Task.sleep(for: .milliseconds(10)) }
        #expect(condition())
    }

    /// The error of a system call.
    private static func failure(_ result: Int) -> Int32? { result < 0 ? errno : nil }

    @Test func everyUseOfAnOverruledMountFails() async throws {
        let volume = try MountedVolume()
        let made = try volume.shell(
            """
            head -c 1M /dev/urandom > f; echo other > other; ln -s f s; mkdir -p d/e; touch d/inner; sync f other .
            cat f other > /dev/null
            """)
        #expect(made.code == 0, "\(made.output)")
        let file = open(volume.mountPoint + "/f", O_RDWR)
        let other = open(volume.mountPoint + "/other", O_RDONLY)
        let directory = open(volume.mountPoint + "/d", O_RDONLY | O_DIRECTORY)
        try #require(file >= 0 && other >= 0 && directory >= 0)
        var byte: UInt8 = 0
        for descriptor in [file, other] { #expect(pread(descriptor, &byte, 1, 0) == 1) }

        volume.fileSystem.fence()
        volume.mount.invalidateAll()
        #expect(Self.failure(Int(fsync(file))) == ESTALE)
        #expect(Self.failure(Int(fdatasync(other))) == ESTALE)
        #expect(Self.failure(Int(fsync(directory))) == ESTALE)
        #expect(Self.failure(pwrite(file, &byte, 1, 0)) == ESTALE)
        #expect(Self.failure(Int(openat(directory, "inner", O_RDONLY))) == ESTALE)
        #expect(Self.failure(Int(openat(directory, "nobody", O_RDONLY))) == ESTALE)
        #expect(Self.failure(Int(mkdirat(directory, "new", 0o755))) == ESTALE)
        // Also what the kernel had cached.
        for descriptor in [file, other] {
            var byte: UInt8 = 0
            try await Self.waitUntil { Self.failure(pread(descriptor, &byte, 1, 0)) == ESTALE }
        }
        let used = try Shell.run(
            """
            export LC_ALL=C
            for use in 'cat mnt/f' 'cat mnt/s' 'ls mnt/d' 'ls mnt/d/e' 'touch mnt/x' 'sync mnt/other'; do
                ! $use > out 2>&1; grep -q 'Stale file handle' out || { echo "$use:"; cat out; exit 1; }
            done
            """, in: volume.directory)
        #expect(used.code == 0, "\(used.output)")
        var status = statvfs()
        #expect(fstatvfs(file, &status) == 0)
        for descriptor in [file, other, directory] { #expect(close(descriptor) == 0) }
        await volume.unmount()
        #expect(try Shell.run("ls -A mnt", in: volume.directory).output == "")
        await volume.end()
    }
}
