import Catalog
import FuseMount
import Foundation
import Hydration
import VolumeFileSystem
import VolumeModel

/// A volume in a temporary directory, mounted through /dev/fuse, for one test.
final class MountedVolume: Sendable {
    let directory: String
    let mountPoint: String
    let storage: HeadStorage
    let fileSystem: VolumeFileSystem
    let mount: FuseMount

    /// - Parameters:
    ///   - makeHead: makes the head in the directory that it is given.
    ///   - freeSpace: what the disk is said to have; nil: what it has.
    init(
        makeHead: (String) async throws -> Void, source: (any ByteSource)?,
        directories: (any DirectorySource)? = nil, freeSpace: (@Sendable () -> UInt64)? = nil
    ) async throws {
        directory = NSTemporaryDirectory() + "godwit-mount-" + UUID().uuidString.lowercased()
        mountPoint = directory + "/mnt"
        try FileManager.default.createDirectory(atPath: mountPoint, withIntermediateDirectories: true)
        let head = directory + "/head"
        try FileManager.default.createDirectory(atPath: head, withIntermediateDirectories: true)
        try await makeHead(head)
        let storage = try HeadStorage(opening: head, freeSpace: freeSpace)
        self.storage = storage
        let hydrator = source.map {
            Hydrator(storage: storage, source: $0, directories: directories) { _ in }
        }
        fileSystem = VolumeFileSystem(storage: storage, hydrator: hydrator) { _ in }
        var options = FuseMountOptions()
        options.fsName = "godwit:test"
        mount = try FuseMount(fileSystem: fileSystem, at: mountPoint, options: options)
    }

    init(
        source: (any ByteSource)? = nil, configuration: Hydrator.Configuration = Hydrator.Configuration(),
        prepare: (HeadStorage) throws -> Void = { _ in }
    ) throws {
        directory = NSTemporaryDirectory() + "godwit-mount-" + UUID().uuidString.lowercased()
        mountPoint = directory + "/mnt"
        try FileManager.default.createDirectory(atPath: mountPoint, withIntermediateDirectories: true)
        let head = directory + "/head"
        try FileManager.default.createDirectory(atPath: head, withIntermediateDirectories: true)
        try Catalog.create(
            in: head, limits: VolumeLimits(byteCount: 10 << 30), epoch: .first, now: VolumeFileSystem.now(),
            withRoot: true)
        let storage = try HeadStorage(opening: head)
        self.storage = storage
        try prepare(storage)
        let hydrator = source.map {
            Hydrator(storage: storage, source: $0, configuration: configuration) { _ in }
        }
        fileSystem = VolumeFileSystem(storage: storage, hydrator: hydrator) { _ in }
        var options = FuseMountOptions()
        options.fsName = "godwit:test"
        mount = try FuseMount(fileSystem: fileSystem, at: mountPoint, options: options)
    }

    /// Unmounts, closes and deletes; to be called also when the test has failed.
    func end() async {
        await unmount()
        try? storage.close()
        try? FileManager.default.removeItem(atPath: directory)
    }

    /// Unmounts, as soon as nobody has anything open.
    func unmount() async {
        for _ in 0..<50 {
            do {
                try await mount.unmount()
                break
            } catch {
                try? await Task.sleep(for: .milliseconds(100))
            }
        }
    }

    /// All bytes of a file, for another volume that has this one as its origin.
    func content(of inode: InodeNumber) -> [UInt8]? {
        guard let size = try? fileSystem.attributes(of: inode).size, size < 1 << 24,
            let handle = try? fileSystem.open(inode, openFlags: 0)
        else { return nil }
        defer { fileSystem.release(inode, handle: handle) }
        var bytes = [UInt8](repeating: 0, count: Int(size))
        let count = try? bytes.withUnsafeMutableBytes {
            try fileSystem.read(inode, handle: handle, offset: 0, into: $0)
        }
        return count == bytes.count ? bytes : nil
    }

    /// Runs a shell script in the mount's root.
    ///
    /// - Returns: its exit code and what it printed.
    func shell(_ script: String) throws -> (code: Int32, output: String) {
        try Shell.run(script, in: mountPoint)
    }
}
