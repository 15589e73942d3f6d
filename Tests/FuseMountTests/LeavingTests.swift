import EngineTestSupport
import FuseMount
import Foundation
import Glibc
import Hydration
import Testing
import VolumeFileSystem
import VolumeModel

/// A mount that is left by one server and gone on with by another, while it is used. Both are in this process.
@Suite struct LeavingTests {
    /// Leaves a mount and goes on with it, with a file system that knows only what it is told.
    private func replaceServer(
        of mount: FuseMount, _ fileSystem: VolumeFileSystem, _ volume: MountedVolume,
        hydrator: Hydrator? = nil
    ) async throws -> (FuseMount, VolumeFileSystem) {
        let left = try #require(await mount.leave())
        let coder = (JSONEncoder(), JSONDecoder())
        let opens = try coder.1.decode(OpenFiles.self, from: coder.0.encode(fileSystem.leave()))
        let session = try coder.1.decode(FuseSession.self, from: coder.0.encode(left.session))
        let next = VolumeFileSystem(storage: volume.storage, hydrator: hydrator, resuming: opens) { _ in }
        var options = FuseMountOptions()
        options.fsName = "godwit:test"
        return (
            try FuseMount(
                resuming: LeftSession(descriptor: left.descriptor, session: session), fileSystem: next,
                at: volume.mountPoint, options: options), next
        )
    }

    private func start(_ script: String, in directory: String) throws -> Process {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/bin/bash")
        process.arguments = ["-ec", script]
        process.currentDirectoryURL = URL(fileURLWithPath: directory)
        try process.run()
        return process
    }

    private func end(_ mount: FuseMount, _ volume: MountedVolume) async {
        for _ in 0..<50 {
            if (try? await mount.unmount()) != nil { break }
            try? await Task.sleep(for: .milliseconds(100))
        }
        await volume.end()
    }

    @Test func noRequestIsLostWhileServersChange() async throws {
        let volume = try MountedVolume()
        // Several at once, so that threads are at every point of their way when it is left.
        let script = """
            work() {
                mkdir $1; cd $1; i=0
                while [ ! -e ../over ]; do
                    mkdir d; echo $i > d/f; test "$(cat d/f)" = $i; mv d/f e; rmdir d; rm e; i=$((i + 1))
                    dd if=/dev/urandom of=big bs=64k count=4 status=none conv=fsync; cp big copy; cmp big copy
                done
                echo $i > ../$1.done
            }
            for n in 1 2 3 4 5; do work $n & all="$all $!"; done
            for one in $all; do wait $one; done
            """
        let process = try start(script, in: volume.mountPoint)
        var (mount, fileSystem) = (volume.mount, volume.fileSystem)
        for round in 0..<60 {
            try await Task.sleep(for: .milliseconds(20 + round % 7 * 15))
            (mount, fileSystem) = try await replaceServer(of: mount, fileSystem, volume)
        }
        #expect(process.isRunning)
        _ = try Shell.run("touch over", in: volume.mountPoint)
        process.waitUntilExit()
        #expect(process.terminationStatus == 0)
        let done = try Shell.run("cat *.done | wc -l", in: volume.mountPoint)
        #expect(done.output == "5\n")
        await end(mount, volume)
    }

    @Test func whatWaitsForItsSourceIsAnsweredByTheNextServer() async throws {
        let owner = try MountedVolume()
        let made = try owner.shell(
            "for i in $(seq 1 40); do seq $i 5000 > f$i; done; md5sum f* | sort > ../sums")
        #expect(made.code == 0)
        await owner.unmount()
        let source = FakeSource { owner.content(of: $0) }
        source.set { $0.behaviour = .hangs }
        var configuration = Hydrator.Configuration()
        configuration.faultTimeout = .seconds(600)
        let heir = try await MountedVolume(
            makeHead: { try await TestVolume.makeHeir(of: owner.storage.catalog, in: $0) }, source: source)
        let reading = try start(
            "ls f* | xargs -P 8 -n 5 md5sum | sort | cmp - '\(owner.directory)/sums'", in: heir.mountPoint)
        // One of them is killed while nobody serves, or just before or after: the others go on waiting.
        var (mount, fileSystem) = (heir.mount, heir.fileSystem)
        for _ in 0..<5 {
            let waiting = try start("exec cat f7 > /dev/null", in: heir.mountPoint)
            try await Task.sleep(for: .milliseconds(300))
            let pid = waiting.processIdentifier
            let signalling = Task { kill(pid, SIGKILL) }
            let hydrator = Hydrator(
                storage: heir.storage, source: source, configuration: configuration
            ) { _ in }
            (mount, fileSystem) = try await replaceServer(of: mount, fileSystem, heir, hydrator: hydrator)
            #expect(await signalling.value == 0)
            waiting.waitUntilExit()
            #expect(waiting.terminationStatus == SIGKILL && waiting.terminationReason == .uncaughtSignal)
        }
        #expect(reading.isRunning)
        source.set { $0.behaviour = .answers }
        reading.waitUntilExit()
        #expect(reading.terminationStatus == 0)
        await end(mount, heir)
        await owner.end()
    }

    @Test func aFailedAgreementLeavesNothingBehind() async throws {
        let volume = try MountedVolume()
        let left = try #require(await volume.mount.leave())
        var object = try #require(
            try JSONSerialization.jsonObject(with: JSONEncoder().encode(left.session)) as? [String: Any])
        var answer = try #require(object["answer"] as? [Int])
        answer[28] ^= 1
        object["answer"] = answer
        let session = try JSONDecoder().decode(
            FuseSession.self, from: try JSONSerialization.data(withJSONObject: object))
        #expect(throws: FuseMountError.self) {
            _ = try FuseMount(
                resuming: LeftSession(descriptor: left.descriptor, session: session),
                fileSystem: volume.fileSystem, at: volume.mountPoint, options: FuseMountOptions())
        }
        let dead = try Shell.run("ls '\(volume.mountPoint)'", in: "/")
        #expect(dead.code != 0 && dead.output.contains("not connected"), "\(dead.output)")
        let clean = try Shell.run("umount -l '\(volume.mountPoint)' && ls '\(volume.mountPoint)'", in: "/")
        #expect(clean.code == 0, "\(clean.output)")
        await volume.end()
    }

    @Test func aMountThatIsOverIsNotLeft() async throws {
        let volume = try MountedVolume()
        await volume.unmount()
        #expect(await volume.mount.leave() == nil)
        await volume.end()
    }
}
