import Catalog
import Foundation
import FuseMount
import Hydration
import Testing
import VolumeModel

/// Real mounts through /dev/fuse, used by real programs.
@Suite struct MountTests {
    /// Runs a script in a fresh mount and requires that it succeeds.
    private func passes(_ script: String, _ location: SourceLocation = #_sourceLocation) async throws {
        let volume = try MountedVolume()
        let result = try volume.shell(script)
        #expect(result.code == 0, "\(result.output)", sourceLocation: location)
        await volume.end()
    }

    @Test func filesKeepWhatWasWritten() async throws {
        try await passes(
            """
            echo hello > a; test "$(cat a)" = hello
            echo more >> a; test "$(wc -l < a)" = 2
            dd if=/dev/urandom of=big bs=1M count=8 status=none; cp big copy; cmp big copy
            truncate -s 100 a; test "$(stat -c %s a)" = 100
            truncate -s 3 a; test "$(cat a)" = hel
            echo x > a; test "$(cat a)" = x
            """)
    }

    @Test func whatWasAllocatedCanBeWrittenWhenTheVolumeIsFull() async throws {
        let volume = try MountedVolume { storage in
            try storage.catalog.perform { try $0.setLimits(VolumeLimits(byteCount: 1 << 20)) }
        }
        let result = try volume.shell(
            """
            truncate -s 64K f; fallocate -n -o 64K -l 64K f; before=$(stat -f -c %f .)
            dd if=/dev/urandom of=f bs=4K count=1 conv=notrunc status=none
            test "$(stat -f -c %f .)" = $((before - 1))
            touch empty; fallocate -n -l 500K empty; truncate -s 1M sparse; fallocate -n -o 256K -l 100K sparse
            if head -c 1M /dev/urandom > filler; then exit 3; fi
            if echo x > more; then exit 4; fi
            dd if=/dev/urandom of=empty bs=100K count=5 conv=notrunc,fsync status=none
            dd if=/dev/urandom of=sparse bs=4K count=25 seek=64 conv=notrunc,fsync status=none
            test "$(stat -c %s empty)" = 512000
            if dd if=/dev/urandom of=sparse bs=4K count=1 conv=notrunc status=none; then exit 5; fi
            """)
        #expect(result.code == 0, "\(result.output)")
        await volume.end()
    }

    @Test func namesBehaveAsOnExt4() async throws {
        try await passes(
            """
            mkdir -p d/e; touch d/f; ln d/f d/g; test "$(stat -c %h d/f)" = 2
            ln -s f d/s; test "$(readlink d/s)" = f
            ! rmdir d 2>/dev/null; ! mv d d/e/ 2>/dev/null
            mv d/f d/h; test ! -e d/f; touch d/z; mv d/h d/z; test -e d/z
            test "$(stat -c %h d)" = 3
            mkfifo d/p; test -p d/p
            rm -r d; test -z "$(ls)"
            """)
    }

    @Test func listingsShowEveryEntryOnce() async throws {
        try await passes(
            """
            mkdir d; cd d; seq 1 3000 | xargs touch; test "$(ls | wc -l)" = 3000
            test "$(ls -f | sort -u | wc -l)" = 3002; find . -type f | xargs rm; test -z "$(ls)"
            """)
    }

    @Test func ownersAndModesAreTheCallers() async throws {
        try await passes(
            """
            mkdir -m 1777 d; setpriv --reuid 1234 --regid 2345 --clear-groups sh -c 'umask 027; echo x > d/f; mkdir d/s'
            test "$(stat -c '%u %g %a' d/f)" = '1234 2345 640'
            test "$(stat -c '%u %g %a' d/s)" = '1234 2345 750'
            ! setpriv --reuid 999 --regid 999 --clear-groups cat d/f 2>/dev/null
            chown 55:66 d/f; test "$(stat -c '%u %g' d/f)" = '55 66'; chmod 4755 d/f; test "$(stat -c %a d/f)" = 4755
            """)
    }

    @Test func copiesKeepTheirModes() async throws {
        // cp -a sets the mode through a minimal ACL first; taking that for an ordinary attribute lost the mode.
        try await passes(
            """
            f=$(mktemp); chmod 644 $f; cp -a $f a; rm $f; test "$(stat -c %a a)" = 644
            setfattr -n user.x -v y a; test "$(getfattr --only-values -n user.x a)" = y
            """)
    }

    @Test func gitAndSQLiteAndACompilerWork() async throws {
        try await passes(
            """
            git init -q r; cd r; git config user.email a@example.org; git config user.name a
            for i in $(seq 1 50); do echo "int f$i(void){return $i;}" > f$i.c; done
            git add .; git commit -qm one; git status --porcelain | wc -l | grep -qx 0; git fsck --strict
            gcc -c f*.c; ar rc l.a f*.o; test -s l.a
            sqlite3 t.db 'pragma journal_mode=wal; create table t(a); insert into t select value from generate_series(1,1000);' >/dev/null
            test "$(sqlite3 t.db 'pragma integrity_check; select count(*) from t')" = "$(printf 'ok\\n1000')"
            tar cf ../x.tar .; mkdir ../y; tar xf ../x.tar -C ../y; diff -r . ../y
            """)
    }

    /// Nobody is kept out any more by who holds one of a mount that is gone.
    @Test func locksEndWithTheMount() async throws {
        let volume = try MountedVolume()
        let holder = Process()
        holder.executableURL = URL(fileURLWithPath: "/usr/bin/flock")
        holder.arguments = ["--no-fork", volume.mountPoint + "/f", "sleep", "60"]
        try holder.run()
        let end = ContinuousClock.now + .seconds(20)
        while try volume.shell("test -e f && ! flock -n f true").code != 0, ContinuousClock.now < end {}
        #expect(try volume.shell("flock -n f true").code != 0)
        let next = volume.directory + "/next"
        try FileManager.default.createDirectory(atPath: next, withIntermediateDirectories: true)
        #expect(try Shell.run("umount -l '\(volume.mountPoint)'", in: "/").code == 0)
        let mount = try FuseMount(fileSystem: volume.fileSystem, at: next, options: FuseMountOptions())
        #expect(holder.isRunning)
        #expect(try Shell.run("flock -n f true", in: next).code == 0)
        // SIGTERM is blocked in what a test starts.
        kill(holder.processIdentifier, SIGKILL)
        holder.waitUntilExit()
        try await mount.unmount()
        await volume.end()
    }

    @Test func aBusyMountIsNotUnmounted() async throws {
        let volume = try MountedVolume()
        _ = FileManager.default.createFile(atPath: volume.mountPoint + "/f", contents: Data("x".utf8))
        let handle = try FileHandle(forReadingFrom: URL(fileURLWithPath: volume.mountPoint + "/f"))
        await #expect(throws: (any Error).self) { try await volume.mount.unmount() }
        #expect(try handle.readToEnd() == Data("x".utf8))
        try handle.close()
        await volume.end()
    }
}
