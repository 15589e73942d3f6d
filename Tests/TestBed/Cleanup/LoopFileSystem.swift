internal import Foundation
internal import Glibc

/// A file system of another kind than the machine's own, in a file of its own.
package enum LoopFileSystem {
    /// Not taken before it is written to.
    package static let byteCount = 900 << 20

    /// Whether one that shares blocks can be made and mounted here: not without loop devices, or xfsprogs.
    package static func canShareBlocks() async -> Bool {
        guard geteuid() == 0 else { return false }
        do {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let directory = try cleanup.makeTemporaryDirectory()
                try await mountXFS(at: directory + "/mount", image: directory + "/image", cleanup)
            }
            return true
        } catch {
            return false
        }
    }

    /// Mounts a new XFS of `byteCount` at a directory, which is made.
    package static func mountXFS(at path: String, image: String, _ cleanup: Cleanup) async throws {
        let script = """
            truncate -s \(byteCount) "$1"; mkfs.xfs -q -m reflink=1 "$1"
            mkdir -p "$2"; mount -o loop "$1" "$2"; chmod 700 "$2"
            """
        let program = Program("/bin/bash", ["-ec", script, "bash", image, path])
        let outcome = try await ChildProcess.run(program, limit: .seconds(60))
        guard outcome.exit.isSuccess else { throw LabError.invalid("no XFS: \(outcome.output)") }
        try cleanup.add(mountAt: path)
    }

    /// Whether any can be mounted here.
    package static func canMount() async -> Bool {
        guard geteuid() == 0 else { return false }
        do {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let directory = try cleanup.makeTemporaryDirectory()
                try await makeExt4(image: directory + "/image")
                try await mount(directory + "/image", at: directory + "/mount", cleanup)
            }
            return true
        } catch {
            return false
        }
    }

    /// Makes a new ext4 in a file.
    ///
    /// - Parameter inodeByteCount: with 128 it tells times to the second.
    package static func makeExt4(image: String, inodeByteCount: Int = 256) async throws {
        let script = """
            truncate -s 200M "$1"; mkfs.ext4 -q -F -b 4096 -I \(inodeByteCount) "$1" 2>&1
            """
        try await ChildProcess.check(
            Program("/bin/bash", ["-ec", script, "bash", image]), limit: .seconds(60))
    }

    /// - Parameters:
    ///   - options: of mount(8), beside `loop`.
    ///   - cleanup: nil: it was mounted there before.
    package static func mount(
        _ image: String, at path: String, options: String = "rw", _ cleanup: Cleanup?
    ) async throws {
        try await ChildProcess.check(
            Program(
                "/bin/bash",
                [
                    "-ec", "mkdir -p \"$2\"; mount -o \"loop,$3\" \"$1\" \"$2\"", "bash", image, path,
                    options,
                ]), limit: .seconds(60))
        try cleanup?.add(mountAt: path)
    }

    /// Flips a bit of a file of an ext4 that is not mounted: the file system does not know of it.
    package static func flip(image: String, inode: UInt64, at offset: UInt64) async throws {
        let output = try await ChildProcess.check(
            Program("debugfs", ["-R", "bmap <\(inode)> \(offset / 4096)", image]))
        let line = output.split(separator: "\n").last.map(String.init) ?? ""
        guard let block = UInt64(line.trimmingCharacters(in: .whitespaces)), block > 0 else {
            throw LabError.invalid("no block at \(offset): \(output)")
        }
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: image))
        defer { try? file.close() }
        let place = block * 4096 + offset % 4096
        try file.seek(toOffset: place)
        guard let byte = try file.read(upToCount: 1)?.first else {
            throw LabError.invalid("block \(block) is beyond the image's end")
        }
        try file.seek(toOffset: place)
        try file.write(contentsOf: Data([byte ^ 4]))
    }

    /// The mount's clean-up finds it gone.
    package static func unmount(_ path: String) async throws {
        try await ChildProcess.check(Program("umount", [path]), limit: .seconds(60))
    }
}
