import CTestBed
import Foundation
import Glibc
import Testing
import VolumeModel

@testable import TestBed

/// A real site on an ext4 of its own that is full to the last block, has no inodes left, or was made read-only by the
/// kernel. Needs loop devices; skipped where they are not.
@Suite(.serialized, .enabled("no loop device can be mounted here") { await LoopFileSystem.canMount() })
struct FullDiskTests {
    /// What was accepted while there was room, and finds none when it is to be made durable.
    @Test func aSyncThatFindsTheDiskFullFailsAndNothingOfItIsLost() async throws {
        try await withFailingDisk(on: .ext4(inodeCount: nil)) { volume in
            try volume.write("kept", "kept", syncs: true)
            var expected: [String: [UInt8]] = [:]
            // A log that has been large before has room: each time more than ever before. Should the site make it durable
            // by itself before the disk is full, it is tried again.
            var isLate = false
            for attempt in 1...4 where !isLate {
                try await volume.fill(leavingMebibytes: 90, "first\(attempt)")
                for (name, value) in try volume.setLargeAttributes(attempt) { expected[name] = value }
                try await volume.fill(leavingMebibytes: 0, "last\(attempt)")
                do {
                    try volume.synchronize()
                    try await volume.makeRoom()
                } catch let error as Errno where error == .noSpace {
                    isLate = true
                }
            }
            try #require(isLate, "each sync was done before the disk was full")
            #expect(try await volume.trouble().contains("until the disk takes them"))
            let condition = try await volume.condition()
            #expect(condition.contains("\"abnormal\":true"), "\(condition)")
            #expect(throws: Errno.noSpace) { try volume.write("refused", "", syncs: false) }
            #expect(throws: Errno.noSpace) { try volume.synchronize() }
            #expect(try volume.read("kept") == "kept")
            for (name, value) in expected { #expect(volume.attribute(name) == value) }
            try await volume.makeRoom()
            try await volume.waitUntilWell()
            try volume.synchronize()
            let again = try await volume.condition()
            #expect(!again.contains("\"abnormal\":true"), "\(again)")
            try await volume.crash()
            #expect(try volume.read("kept") == "kept")
            for (name, value) in expected { #expect(volume.attribute(name) == value) }
            #expect(try await volume.check() == "nothing is wrong\n")
        }
    }

    /// Bytes there is room for, but each file's are in a file.
    @Test func withoutInodesFilesCanBeReadChangedAndRemovedAndMadeWhenThereAreSome() async throws {
        try await withFailingDisk(on: .ext4(inodeCount: 500)) { volume in
            var count = 0
            while true {
                do {
                    try volume.write("f\(count)", "\(count)", syncs: count % 10 == 0)
                    count += 1
                } catch let error as Errno where error == .noSpace {
                    break
                }
            }
            try #require(count > 50)
            for number in 0..<count { #expect(try volume.read("f\(number)") == "\(number)") }
            // What needs none.
            try volume.write("f0", "changed", syncs: true)
            #expect(mkdir(volume.path("directory"), 0o755) == 0)
            #expect(throws: Errno.noSpace) { try volume.write("another", "x", syncs: true) }
            try await volume.wait("the lack to be told of") {
                try await volume.trouble().contains("no inodes")
            }
            let condition = try await volume.condition()
            #expect(condition.contains("\"abnormal\":true"), "\(condition)")
            for number in 1..<40 { #expect(unlink(volume.path("f\(number)")) == 0) }
            try await volume.waitUntilWell()
            try await volume.wait("a file to be made") {
                (try? volume.write("another", "there", syncs: true)) != nil
            }
            try await volume.crash()
            #expect(try volume.read("f0") == "changed" && volume.read("another") == "there")
            for number in 40..<count { #expect(try volume.read("f\(number)") == "\(number)") }
            #expect(try await volume.check() == "nothing is wrong\n")
        }
    }

    /// An ext4 that has found an error takes nothing any more, whatever is open, until it is mounted anew. (By hand,
    /// `mount -o remount,ro` is refused while a site has files open to write.)
    @Test func onADiskThatTheKernelMakesReadOnlyReadsGoOnAndWhatWasSyncedIsThereAfterwards() async throws {
        try await withFailingDisk(on: .ext4(inodeCount: nil)) { volume in
            for number in 0..<20 { try volume.write("f\(number)", "\(number)", syncs: true) }
            try await volume.makeDiskReadOnly()
            #expect(throws: Errno.self) { try volume.write("f0", "changed", syncs: true) }
            #expect(throws: Errno.self) { try volume.write("new", "new", syncs: true) }
            for number in 1..<20 { #expect(try volume.read("f\(number)") == "\(number)") }
            try await volume.wait("it to be told of") { try await !volume.trouble().isEmpty }
            let condition = try await volume.condition()
            #expect(condition.contains("\"abnormal\":true"), "\(condition)")
            // Changes that cannot be kept are refused.
            #expect(rename(volume.path("f1"), volume.path("g1")) == -1)
            await volume.site.kill()
            _ = try await ChildProcess.run(
                Program("umount", ["-l", volume.mountPoint]), limit: .seconds(20))
            let disk = volume.directory + "/disk"
            try await LoopFileSystem.unmount(disk)
            // Its errors are noted; 1: mended.
            let repair = try await ChildProcess.run(
                Program("e2fsck", ["-fp", volume.directory + "/image"]), limit: .seconds(60))
            #expect(repair.exit == .exited(0) || repair.exit == .exited(1), "\(repair.output)")
            try await LoopFileSystem.mount(volume.directory + "/image", at: disk, nil)
            try await volume.site.start()
            try await volume.site.godwit(["volume", "mount", "data", volume.mountPoint])
            for number in 1..<20 { #expect(try volume.read("f\(number)") == "\(number)") }
            #expect(try ["0", "changed"].contains(volume.read("f0")))
            try volume.write("new", "new", syncs: true)
            #expect(try await volume.trouble() == "")
            #expect(try await volume.check() == "nothing is wrong\n")
        }
    }
}

extension FailingVolume {
    /// Somebody else takes what is left of the disk but for so much, root's reserve included.
    fileprivate func fill(leavingMebibytes left: Int, _ name: String) async throws {
        let script = """
            free=$(( $(stat -f -c '%f * %S' "$1") - \(left << 20) ))
            [ $free -le 4194304 ] || fallocate -l $((free - 4194304)) "$1/filler-$2"
            [ \(left) != 0 ] || dd if=/dev/zero of="$1/filler-$2-rest" bs=64k status=none || true
            """
        try await ChildProcess.check(
            Program("/bin/bash", ["-c", script, "bash", directory + "/disk", name]), limit: .seconds(60))
    }

    fileprivate func makeRoom() async throws {
        try await ChildProcess.check(
            Program("/bin/bash", ["-c", "rm -f \"$1\"/filler-*", "bash", directory + "/disk"]),
            limit: .seconds(20))
    }

    /// Attributes of some MiB, more with each attempt.
    ///
    /// - Returns: those that were accepted.
    fileprivate func setLargeAttributes(_ attempt: Int) throws -> [String: [UInt8]] {
        var values: [String: [UInt8]] = [:]
        for file in 0..<3 * attempt {
            let name = "large\(attempt)-\(file)"
            try write(name, "", syncs: false)
            for index in 0..<40 {
                let value = [UInt8](repeating: UInt8(index + 40 * attempt), count: 60_000)
                let result = tb_set_attribute(path(name), "user.a\(index)", value, value.count)
                guard result == 0 else { throw Errno(-result) }
                values["\(name)/user.a\(index)"] = value
            }
        }
        return values
    }

    /// - Parameter name: of the file and of the attribute.
    fileprivate func attribute(_ name: String) -> [UInt8]? {
        let parts = name.split(separator: "/").map(String.init)
        var value = [UInt8](repeating: 0, count: 1 << 16)
        let count = tb_get_attribute(path(parts[0]), parts[1], &value, value.count)
        return count < 0 ? nil : Array(value.prefix(Int(count)))
    }

    /// All that was accepted so far.
    fileprivate func synchronize() throws {
        let directory = open(mountPoint, O_RDONLY | O_DIRECTORY)
        guard directory >= 0 else { throw Errno(errno) }
        defer { close(directory) }
        guard fsync(directory) == 0 else { throw Errno(errno) }
    }

    /// As the kernel does it when it finds something wrong.
    fileprivate func makeDiskReadOnly() async throws {
        let script = """
            device=$(findmnt -n -o SOURCE "$1"); echo 'on behalf of a test' > "/sys/fs/ext4/${device##*/}/trigger_fs_error"
            until ! touch "$1/probe" 2>/dev/null; do sleep 0.1; done
            """
        try await ChildProcess.check(
            Program("/bin/bash", ["-ec", script, "bash", directory + "/disk"]), limit: .seconds(20))
    }
}
