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
    /// - Parameters:
    ///   - inodeByteCount: with 128 it tells times to the second.
    ///   - inodeCount: how many files and directories it has room for, about; nil: more than anybody needs.
    package static func makeExt4(
        image: String, inodeByteCount: Int = 256, inodeCount: Int? = nil
    ) async throws {
        let inodes = inodeCount.map { "-N \($0)" } ?? ""
        let script = """
            truncate -s 200M "$1"; mkfs.ext4 -q -F -b 4096 -I \(inodeByteCount) \(inodes) "$1" 2>&1
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
        let block = try await place(image: image, inode: inode, block: offset / 4096)
        try change(image) { file in
            let byte = try read(file, at: block + offset % 4096, 1)[0]
            try write(file, at: block + offset % 4096, [byte ^ 4])
        }
    }

    /// Swaps two blocks of 4 KiB of files of an ext4 that is not mounted.
    package static func swap(
        image: String, _ one: (inode: UInt64, block: UInt64), _ other: (inode: UInt64, block: UInt64)
    ) async throws {
        let places = [
            try await place(image: image, inode: one.inode, block: one.block),
            try await place(image: image, inode: other.inode, block: other.block),
        ]
        try change(image) { file in
            let contents = try places.map { try read(file, at: $0, 4096) }
            try write(file, at: places[0], contents[1])
            try write(file, at: places[1], contents[0])
        }
    }

    /// Where in the image a file's block is.
    private static func place(image: String, inode: UInt64, block: UInt64) async throws -> UInt64 {
        let output = try await ChildProcess.check(
            Program("debugfs", ["-R", "bmap <\(inode)> \(block)", image]))
        let line = output.split(separator: "\n").last.map(String.init) ?? ""
        guard let block = UInt64(line.trimmingCharacters(in: .whitespaces)), block > 0 else {
            throw LabError.invalid("no block \(block): \(output)")
        }
        return block * 4096
    }

    private static func change(_ image: String, _ body: (FileHandle) throws -> Void) throws {
        let file = try FileHandle(forUpdating: URL(fileURLWithPath: image))
        defer { try? file.close() }
        try body(file)
    }

    private static func read(_ file: FileHandle, at place: UInt64, _ count: Int) throws -> [UInt8] {
        try file.seek(toOffset: place)
        let bytes = try file.read(upToCount: count) ?? Data()
        guard bytes.count == count else { throw LabError.invalid("\(place) is beyond the image's end") }
        return Array(bytes)
    }

    private static func write(_ file: FileHandle, at place: UInt64, _ bytes: [UInt8]) throws {
        try file.seek(toOffset: place)
        try file.write(contentsOf: Data(bytes))
    }

    /// The mount's clean-up finds it gone.
    package static func unmount(_ path: String) async throws {
        try await ChildProcess.check(Program("umount", [path]), limit: .seconds(60))
    }
}
