import BlockHashes
import Foundation
import Glibc
import Testing
import VolumeModel

@testable import TestBed

/// A real site and a real mount on a disk that fails for a while: what was said to be safe is, what cannot be made
/// safe is refused, everything can be read, and it goes on by itself when the disk does.
@Suite(.serialized, .enabled(if: geteuid() == 0, "mounts need root"))
struct FailingDiskTests {
    @Test func aLogThatCannotBeSyncedRefusesChangesUntilItCan() async throws {
        try await withFailingDisk { volume in
            try volume.write("before", "safe", syncs: true)
            try volume.fail(["fdatasync 5 catalog.db-wal"])
            #expect(throws: Errno.inputOutput) { try volume.write("during", "not yet", syncs: true) }
            #expect(throws: Errno.inputOutput) { try volume.write("more", "no", syncs: false) }
            // What was accepted is there for everybody, and what was there before of course.
            #expect(try volume.read("during") == "not yet" && volume.read("before") == "safe")
            #expect(try await volume.trouble().contains("until the disk takes them"))
            let condition = try await volume.condition()
            #expect(condition.contains("\"abnormal\":true"), "\(condition)")
            try volume.fail([])
            try await volume.waitUntilWell()
            try volume.write("after", "safe too", syncs: true)
            try await volume.crash()
            #expect(try ["before", "during", "after"].map(volume.read) == ["safe", "not yet", "safe too"])
            #expect(throws: Errno.noSuchEntry) { try volume.read("more") }
        }
    }

    @Test func aCommitThatTheDiskRefusesIsDoneAgainWithAllThatItHeld() async throws {
        try await withFailingDisk { volume in
            try volume.write("old", "old", syncs: true)
            try volume.write("gone", "gone", syncs: true)
            // No space: 28. The log cannot even be written.
            try volume.fail(["pwrite 28 catalog.db-wal"])
            // As many as there is patience for: names, removals, attributes, in one group that is taken back.
            for index in 0..<200 { _ = try? volume.write("new\(index)", "\(index)", syncs: false) }
            _ = rename(volume.path("old"), volume.path("renamed"))
            #expect(throws: Errno.noSpace) { try volume.write("last", "", syncs: true) }
            let names = try volume.names()
            #expect(try await volume.trouble().contains("until the disk takes them"))
            #expect(throws: Errno.noSpace) { try volume.write("refused", "", syncs: false) }
            #expect(try volume.names() == names)
            try volume.fail([])
            try await volume.waitUntilWell()
            #expect(try volume.names() == names && names.contains("new0"))
            try volume.write("last", "", syncs: true)
            try await volume.crash()
            #expect(try volume.names() == names.union(["last"]))
            #expect(try volume.read("gone") == "gone" && volume.read("new0") == "0")
            #expect(try await volume.check() == "nothing is wrong\n")
        }
    }

    @Test func oneFileThatCannotBeSyncedHoldsUpNoOther() async throws {
        try await withFailingDisk { volume in
            try volume.write("good", "1", syncs: true)
            try volume.write("bad", "1", syncs: true)
            let data = try volume.dataFile(holding: "1", other: "good")
            try volume.fail(["fdatasync 5 \(data)"])
            #expect(throws: Errno.inputOutput) { try volume.write("bad", "2", syncs: true) }
            try volume.write("good", "2", syncs: true)
            try volume.write("unsynced", "3", syncs: false)
            // The chore goes on with all others, and says what it could not do.
            try await volume.wait("the failed file to be told of") {
                try await volume.trouble().contains(data)
            }
            try volume.fail([])
            // The chore has failed as well, which one sync must be told; who opens the file after that begins anew.
            #expect(throws: Errno.inputOutput) { try volume.write("bad", "3", syncs: true) }
            try await volume.wait("the file to be synced") {
                (try? volume.write("bad", "4", syncs: true)) != nil
            }
            try await volume.waitUntilWell()
            try await volume.crash()
            #expect(try ["good", "bad", "unsynced"].map(volume.read) == ["2", "4", "3"])
        }
    }

    /// On ext4 each descriptor is told once; here all are, until the last one is closed.
    @Test func aFailedSyncIsToldThroughEveryDescriptorUntilAllAreClosed() async throws {
        try await withFailingDisk { volume in
            try volume.write("other", "1", syncs: true)
            try volume.write("file", "1", syncs: true)
            let data = try volume.dataFile(holding: "1", other: "other")
            let first = open(volume.path("file"), O_RDWR)
            #expect(first >= 0 && pwrite(first, "2", 1, 0) == 1)
            try volume.fail(["fdatasync 5 \(data)"])
            #expect(fsync(first) == -1 && errno == EIO)
            // The disk works again, and what it has not taken stays lost.
            try volume.fail([])
            #expect(fsync(first) == -1 && errno == EIO)
            #expect(fdatasync(first) == -1 && errno == EIO)
            let second = open(volume.path("file"), O_RDONLY)
            #expect(fsync(second) == -1 && errno == EIO)
            close(first)
            #expect(fsync(second) == -1 && errno == EIO)
            close(second)
            // The kernel tells of the close a moment later.
            try await volume.wait("the file to be synced") {
                (try? volume.write("file", "3", syncs: true)) != nil
            }
            try await volume.waitUntilWell()
            try await volume.crash()
            #expect(try ["other", "file"].map(volume.read) == ["1", "3"])
        }
    }

    /// A directory has no bytes of its own: a failed sync loses nothing, and the next one makes all of it durable.
    @Test func aFailedSyncOfADirectoryMayBeRepeated() async throws {
        try await withFailingDisk { volume in
            let directory = open(volume.mountPoint, O_RDONLY | O_DIRECTORY)
            defer { close(directory) }
            #expect(fsync(directory) == 0)
            #expect(mkdir(volume.path("made"), 0o755) == 0)
            try volume.fail(["fdatasync 5 catalog.db-wal"])
            #expect(fsync(directory) == -1 && errno == EIO)
            #expect(fsync(directory) == -1 && errno == EIO)
            #expect(mkdir(volume.path("refused"), 0o755) == -1 && errno == EIO)
            try volume.fail([])
            #expect(fsync(directory) == 0)
            try await volume.crash()
            #expect(try volume.names() == ["made"])
        }
    }

    /// The cut itself, or the commit or the sync that it waits for. The file is shorter at once, for the kernel as well.
    @Test(arguments: ["ftruncate 5 /data/", "pwrite 28 catalog.db-wal", "fdatasync 5 catalog.db-wal"])
    func aFileIsCutAlsoWhenTheDiskRefusesToCutIt(fault: String) async throws {
        try await withFailingDisk { volume in
            let (kept, old) = (String(repeating: "k", count: 5000), String(repeating: "x", count: 15_000))
            for grows in [true, false] {
                let name = grows ? "grown" : "left"
                try volume.write(name, kept + old, syncs: true)
                let data = try volume.dataFile(holding: kept + old, other: "")
                let file = open(volume.path(name), O_RDWR)
                defer { close(file) }
                try volume.fail([fault])
                #expect(ftruncate(file, 5000) == 0)
                var status = stat()
                #expect(fstat(file, &status) == 0 && status.st_size == 5000)
                #expect(try volume.read(name) == kept && volume.size(ofDataFile: data) == 20_000)
                // Over what could not be cut nothing grows.
                #expect(pwrite(file, "y", 1, 19_999) == -1)
                #expect(ftruncate(file, 20_000) == -1)
                #expect(try volume.read(name) == kept)
                try volume.fail([])
                if grows {
                    try await volume.wait("it to grow") { ftruncate(file, 20_000) == 0 }
                    let zeros = String(repeating: "\0", count: 15_000)
                    #expect(try volume.read(name) == kept + zeros)
                }
                try await volume.waitUntilWell()
                try await volume.wait("the data file to be cut") {
                    try volume.size(ofDataFile: data) == (grows ? 20_000 : 5000)
                }
            }
            try await volume.crash()
            #expect(try volume.read("left") == kept)
            #expect(try await volume.check() == "nothing is wrong\n")
        }
    }

    @Test func afterAFailedSyncOfManyFilesEachOneIsSyncedByItself() async throws {
        try await withFailingDisk { volume in
            try volume.fail(["syncfs 5 /"])
            for index in 0..<40 { try volume.write("f\(index)", "\(index)", syncs: false) }
            // Nothing is wrong with the files themselves.
            try await Task.sleep(for: .seconds(5))
            #expect(try await volume.trouble() == "")
            try await volume.crash()
            #expect(try (0..<40).map { try volume.read("f\($0)") } == (0..<40).map { "\($0)" })
        }
    }

    @Test func onAFullDiskFilesCanBeReadAndRemovedAndWritingGoesOnWhenThereIsRoom() async throws {
        try await withFailingDisk(on: .tmpfs) { volume in
            try volume.write("kept", "kept", syncs: true)
            try volume.write("large", String(repeating: "x", count: 20 << 20), syncs: true)
            // Somebody else takes all that is left of the disk.
            let filler = volume.directory + "/disk/filler"
            _ = try await ChildProcess.run(
                Program("dd", ["if=/dev/zero", "of=\(filler)", "bs=1M", "status=none"]), limit: .seconds(60))
            try await volume.wait("writes to be refused") {
                do {
                    try volume.write("new", "new", syncs: false)
                    return false
                } catch let error as Errno where error == .noSpace {
                    return true
                }
            }
            #expect(try volume.read("kept") == "kept")
            // How much is free is looked at a few times a second.
            try await volume.wait("the full disk to be told of") {
                try await volume.trouble().contains("full")
            }
            let condition = try await volume.condition()
            #expect(condition.contains("\"abnormal\":true"), "\(condition)")
            #expect(unlink(volume.path("large")) == 0)
            #expect(unlink(filler) == 0)
            try await volume.waitUntilWell()
            try volume.write("new", "new", syncs: true)
            try await volume.crash()
            #expect(try volume.names().isSuperset(of: ["kept", "new"]) && !volume.names().contains("large"))
            #expect(try volume.read("kept") == "kept" && volume.read("new") == "new")
            #expect(try await volume.check() == "nothing is wrong\n")
        }
    }

    /// Also not of one whose copy is still missing, for an older release has written it.
    @Test(arguments: [
        "open 5 hashes.db", "pread 5 hashes.db", "pwrite 28 hashes.db", "fdatasync 5 hashes.db",
        "pwrite 28 /damage", "rename 5 /damage",
    ])
    func noFailureOfItsRecordMakesDamageGood(fault: String) async throws {
        try await withFailingDisk { volume in
            try volume.write("other", "other", syncs: true)
            try volume.write("file", "damaged", syncs: true)
            var status = stat()
            #expect(stat(volume.path("file"), &status) == 0)
            let inode = InodeNumber(UInt64(status.st_ino))
            let name = try volume.dataFile(holding: "damaged", other: "other")
            let data = DataFileNumber(try #require(UInt64(name, radix: 16)))
            let id = try #require(try await volume.site.inspect("data")["id"] as? String)
            let heads = volume.site.stateDirectory + "/volumes/\(id)/heads"
            let head = heads + "/" + (try FileManager.default.contentsOfDirectory(atPath: heads)[0])
            try await volume.site.godwit(["volume", "unmount", "data"])
            await volume.site.stop()
            try HashDatabase(in: head).add(
                DamagedBlock(data: data, range: ByteRange(0, 7), inode: inode, expected: [1]))
            #expect(unlink(head + "/damage") == 0)
            try volume.fail([fault])
            try await volume.site.start()
            let mount = ["volume", "mount", "data", volume.mountPoint]
            if try await volume.site.run(mount).exit.isSuccess {
                #expect(throws: Errno.inputOutput) { try volume.read("file") }
                #expect(try volume.read("other") == "other")
                try await volume.site.godwit(["volume", "unmount", "data"])
            }
            try volume.fail([])
            try await volume.site.godwit(mount)
            #expect(throws: Errno.inputOutput) { try volume.read("file") }
            #expect(try volume.read("other") == "other")
            try await volume.site.godwit(["volume", "unmount", "data"])
            await volume.site.stop()
            // By now there is a copy.
            for suffix in ["", "-wal", "-shm"] { unlink(head + "/hashes.db" + suffix) }
            try await volume.site.start()
            try await volume.site.godwit(mount)
            #expect(throws: Errno.inputOutput) { try volume.read("file") }
        }
    }
}

/// A volume on a disk that fails as it is told.
struct FailingVolume: Sendable {
    /// What the state directory is on.
    enum Disk: Hashable, Sendable {
        /// What temporary files are on.
        case shared
        case tmpfs
        /// An ext4 of its own, of 200 MiB, which the kernel makes read-only when something is wrong with it.
        case ext4(inodeCount: Int?)
    }

    let directory: String
    let mountPoint: String
    let site: SiteProcess

    private var faultFile: String { directory + "/faults" }

    /// - Parameter faults: lines of `faults.c`; none: the disk works.
    func fail(_ faults: [String]) throws {
        let text = faults.map { $0 + "\n" }.joined()
        try Data(text.utf8).write(to: URL(fileURLWithPath: faultFile), options: .atomic)
    }

    func path(_ name: String) -> String { mountPoint + "/" + name }

    /// Writes from the start of a file, making it if it is missing.
    func write(_ name: String, _ text: String, syncs: Bool) throws {
        let descriptor = open(path(name), O_WRONLY | O_CREAT, 0o644)
        guard descriptor >= 0 else { throw Errno(errno) }
        var bytes = Array(text.utf8)[...]
        var failure: Errno?
        while !bytes.isEmpty, failure == nil {
            let count = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count > 0 { bytes = bytes.dropFirst(count) } else { failure = Errno(errno) }
        }
        if failure == nil, syncs, fsync(descriptor) != 0 { failure = Errno(errno) }
        if close(descriptor) != 0 { failure = failure ?? Errno(errno) }
        if let failure { throw failure }
    }

    func read(_ name: String) throws -> String {
        let descriptor = open(path(name), O_RDONLY)
        guard descriptor >= 0 else { throw Errno(errno) }
        defer { close(descriptor) }
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        let count = Glibc.read(descriptor, &buffer, buffer.count)
        guard count >= 0 else { throw Errno(errno) }
        return String(decoding: buffer[0..<count], as: UTF8.self)
    }

    func names() throws -> Set<String> {
        Set(try FileManager.default.contentsOfDirectory(atPath: mountPoint))
    }

    /// Where the bytes of the younger of two files with the same content are, relative to the store.
    func dataFile(holding text: String, other: String) throws -> String {
        let store = site.stateDirectory + "/volumes"
        let files = FileManager.default.enumerator(atPath: store)?.compactMap { $0 as? String } ?? []
        let found = files.filter {
            $0.contains("/data/") && FileManager.default.contents(atPath: store + "/" + $0) == Data(text.utf8)
        }
        guard let last = found.max(by: { $0.suffix(16) < $1.suffix(16) }) else {
            throw LabError.invalid("no data file holds '\(text)'")
        }
        return String(last.suffix(16))
    }

    /// - Parameter name: as `dataFile` gives it.
    func size(ofDataFile name: String) throws -> Int {
        let store = site.stateDirectory + "/volumes"
        let files = FileManager.default.enumerator(atPath: store)?.compactMap { $0 as? String } ?? []
        guard let file = files.first(where: { $0.contains("/data/") && $0.hasSuffix("/" + name) }) else {
            throw LabError.invalid("there is no data file \(name)")
        }
        var status = stat()
        guard stat(store + "/" + file, &status) == 0 else { throw Errno(errno) }
        return Int(status.st_size)
    }

    func trouble() async throws -> String { try await site.inspect("data")["trouble"] as? String ?? "" }
    func check() async throws -> String { try await site.run(["volume", "check", "data"]).output }

    /// What CSI says of it; NodeGetVolumeStats, which kubelet asks, says whether it is well as ControllerGetVolume does.
    func condition() async throws -> String {
        let id = try await site.inspect("data")["id"] as? String ?? ""
        let volume = try await site.csi(["get-volume", id])
        let stats = try await site.csi(["node-stats", id, "--volume-path", mountPoint])
        let mark = "\"abnormal\":true"
        #expect(volume.contains(mark) == stats.contains(mark), "\(volume), and for kubelet \(stats)")
        return volume
    }

    func wait(_ what: String, until holds: () async throws -> Bool) async throws {
        let deadline = ContinuousClock.now + .seconds(60)
        while try await !holds() {
            guard ContinuousClock.now < deadline else { throw LabError.invalid("waited in vain for \(what)") }
            try await Task.sleep(for: .milliseconds(100))
        }
    }

    func waitUntilWell() async throws {
        try await wait("the trouble to end") { try await trouble().isEmpty }
    }

    /// kill -9, and what comes after it.
    func crash() async throws {
        await site.kill()
        _ = try await ChildProcess.run(Program("umount", ["-l", mountPoint]), limit: .seconds(20))
        try await site.start()
        try await site.godwit(["volume", "mount", "data", mountPoint])
    }
}

func withFailingDisk(
    on disk: FailingVolume.Disk = .shared, _ body: @escaping @Sendable (FailingVolume) async throws -> Void
) async throws {
    try await Cleanup.scope(catchingSignals: false) { cleanup in
        let directory = try cleanup.makeTemporaryDirectory()
        let library = try await PreloadedLibrary.build("faults", in: directory)
        let mountPoint = directory + "/mnt"
        for path in [mountPoint, directory + "/disk"] {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        }
        switch disk {
        case .shared: break
        case .tmpfs:
            try await ChildProcess.check(
                Program("mount", ["-t", "tmpfs", "-o", "size=160m", "tmpfs", directory + "/disk"]),
                limit: .seconds(20))
            try cleanup.add(mountAt: directory + "/disk")
        case .ext4(let inodeCount):
            try await LoopFileSystem.makeExt4(image: directory + "/image", inodeCount: inodeCount)
            try await LoopFileSystem.mount(
                directory + "/image", at: directory + "/disk", options: "errors=remount-ro", cleanup)
        }
        let state = directory + "/disk/state"
        let site = SiteProcess(
            name: "solo", binary: godwitBinary, stateDirectory: state, address: "127.0.0.1:0",
            environment: [
                "LD_PRELOAD": library, "FAULT_ROOT": state, "FAULT_FILE": directory + "/faults",
            ])
        try await site.initialise()
        try cleanup.add("site") { await site.stop() }
        try await site.start()
        try await site.godwit(["volume", "create", "data", "--capacity", "1Gi"])
        try await site.godwit(["volume", "mount", "data", mountPoint])
        try cleanup.add(mountAt: mountPoint)
        do {
            try await body(FailingVolume(directory: directory, mountPoint: mountPoint, site: site))
        } catch {
            let log = (try? String(contentsOfFile: site.logPath, encoding: .utf8)) ?? ""
            Issue.record("log: \(log.suffix(3000))")
            throw error
        }
    }
}
