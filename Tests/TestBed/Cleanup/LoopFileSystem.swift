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
}
