import Catalog
import EngineTestSupport
import Foundation
import Glibc
import Hydration
import Synchronization
import Testing
import VolumeFileSystem
import VolumeModel

@testable import TestBed

/// A real site, a real mount, and every disk that a power loss might leave.
///
/// Every change below the state directory is recorded (`recorder.c`). Then the power fails at many moments; what
/// the disk may hold then is written out, opened, checked, and compared with what had been promised by then.
/// GODWIT_POWER_LOSSES sets how many moments; GODWIT_POWER_LOSS_SEED repeats a run.
@Suite(.serialized, .enabled(if: geteuid() == 0, "mounts need root"))
struct PowerLossTests {
    private static let environment = ProcessInfo.processInfo.environment
    private static let momentCount = environment["GODWIT_POWER_LOSSES"].flatMap { Int($0) } ?? 1000
    private static let seed =
        environment["GODWIT_POWER_LOSS_SEED"].flatMap { UInt64($0) } ?? UInt64.random(in: 0..<1_000_000)

    private static func sharedLibrary(in directory: String) async throws -> String {
        let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("recorder.c").path
        let library = directory + "/recorder.so"
        try await ChildProcess.check(
            Program("gcc", ["-O1", "-Wall", "-shared", "-fPIC", "-o", library, source, "-ldl"]),
            limit: .seconds(60))
        return library
    }

    @Test func whatWasSyncedIsThereAndNothingElseIsShown() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let directory = try cleanup.makeTemporaryDirectory()
            let state = directory + "/state"
            let log = directory + "/log"
            let mountPoint = directory + "/mnt"
            try FileManager.default.createDirectory(atPath: mountPoint, withIntermediateDirectories: true)
            let site = SiteProcess(
                name: "solo", binary: godwitBinary, stateDirectory: state, address: "127.0.0.1:0",
                environment: [
                    "LD_PRELOAD": try await Self.sharedLibrary(in: directory), "RECORD_ROOT": state,
                    "RECORD_LOG": log,
                ])
            try await site.initialise()
            try cleanup.add("site") { await site.stop() }
            try await site.start()
            try await site.godwit(["volume", "create", "data", "--capacity", "1Gi"])
            let id = try #require(try await site.inspect("data")["id"] as? String)
            try await site.godwit(["volume", "mount", "data", mountPoint])
            try cleanup.add(mountAt: mountPoint)
            let promises = PromiseLog()
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<3 {
                    group.addTask {
                        try await DedicatedThread.run("writer-\(number)") {
                            var writer = Writer(
                                number: number, mountPoint: mountPoint, log: log,
                                seed: Self.seed + UInt64(number))
                            try writer.run(steps: 220, promises)
                        }
                    }
                }
                try await group.waitForAll()
            }
            // As a crash: nothing is closed in order.
            await site.kill()
            try await Self.failEverywhere(
                log, below: "volumes/\(id)/heads/1/", promises.all, in: directory)
        }
    }

    private static func failEverywhere(
        _ log: String, below: String, _ promises: Promises, in directory: String
    ) async throws {
        var disk = try SimulatedDisk(log: log)
        let moments = disk.moments
        var generator = Generator(seed: seed)
        // Before the volume was there, nothing was promised.
        let first = try #require(promises.first)
        let candidates = moments.filter { $0 >= first }
        try #require(candidates.count > 500, "the workload was too small: \(candidates.count) moments")
        var chosen = (0..<momentCount).map { _ in candidates[generator.next(below: candidates.count)] }
        chosen.sort()
        // In memory: what comes after the power loss need not wait for a real disk.
        let memory = "/dev/shm/godwit-power-loss-\(getpid())"
        let head = (access("/dev/shm", W_OK) == 0 ? memory : directory) + "/head"
        defer { try? FileManager.default.removeItem(atPath: memory) }
        for moment in chosen {
            disk.advance(to: moment)
            try? FileManager.default.removeItem(atPath: head)
            try disk.write(
                to: head, below: below, leavingOut: { $0 == "lock" || $0.hasSuffix("-shm") }, &generator)
            let faults = await faults(of: head, at: moment, promises)
            #expect(faults == [], "seed \(seed), moment \(moment) of \(moments.last ?? 0)")
            if !faults.isEmpty { return }
        }
    }

    /// What is wrong with a head after a power loss.
    private static func faults(of head: String, at moment: UInt64, _ promises: Promises) async -> [String] {
        do {
            let volume = try TestVolume(opening: head)
            var faults = promises.broken(at: moment, in: volume.fileSystem)
            try await volume.close()
            faults += try HeadCheck.run(head, isInUse: false).filter { $0.kind != .leftover }.map(\.text)
            return faults
        } catch {
            return ["it does not open: \(error)"]
        }
    }
}

/// The promises of several writers.
final class PromiseLog: Sendable {
    private let promises = Mutex(Promises())

    func change(_ body: (inout Promises) -> Void) { promises.withLock { body(&$0) } }
    var all: Promises { promises.withLock { $0 } }
}

/// What was promised, and from which moment on.
struct Promises: Sendable {
    /// Blocks of a file in place: from then on none is older than this.
    struct Synced: Sendable {
        let moment: UInt64
        let generations: [UInt32]
    }

    var contents: [String: [Synced]] = [:]
    /// Files that were replaced by rename, with the least that they must be.
    var replaced: [String: [(moment: UInt64, generation: UInt32)]] = [:]
    /// Names that are there (or not) until the next promise about them; nil ends a promise.
    var names: [String: [(moment: UInt64, exists: Bool?)]] = [:]

    var first: UInt64? {
        (contents.values.flatMap { $0.map(\.moment) } + names.values.flatMap { $0.map(\.moment) }).min()
    }

    func broken(at moment: UInt64, in fileSystem: VolumeFileSystem) -> [String] {
        var faults: [String] = []
        for (name, promises) in contents {
            let promise = promises.last { $0.moment <= moment }
            faults += Block.faults(of: name, promise?.generations ?? [], in: fileSystem)
        }
        for (name, promises) in replaced {
            guard let promise = promises.last(where: { $0.moment <= moment }) else { continue }
            let blocks = Block.read(name, fileSystem)
            let least = promise.generation
            if blocks?.count != Block.replacedCount || Set(blocks ?? []).count != 1
                || blocks?[0].map({ $0 < least }) ?? true
            {
                faults.append(
                    "\(name) was replaced by generation \(least) and is \(String(describing: blocks))")
            }
        }
        for (name, promises) in names {
            guard let promise = promises.last(where: { $0.moment <= moment }), let exists = promise.exists
            else {
                continue
            }
            let isThere = Block.look(name, fileSystem) != nil
            if isThere != exists { faults.append("\(name) is there: \(isThere), promised: \(exists)") }
        }
        return faults
    }
}

/// A block of 4 KiB that tells which file, place and generation it is of, throughout.
enum Block {
    static let byteCount = 4096
    static let replacedCount = 5

    /// Sixteen bytes say it, and every sixteen of the block say it anew: a torn block tells of itself.
    private static func word(_ name: String, _ index: Int, _ generation: UInt32) -> [UInt8] {
        var hash = UInt64(generation) &+ 0x9e37_79b9_7f4a_7c15
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        hash = (hash ^ UInt64(index)) &* 0x2545_f491_4f6c_dd1d
        var word: [UInt8] = []
        withUnsafeBytes(of: generation) { word += $0 }
        word += [0x67, 0x64, 0x77, 0x74]
        withUnsafeBytes(of: hash) { word += $0 }
        return word
    }

    static func bytes(_ name: String, _ index: Int, _ generation: UInt32) -> [UInt8] {
        Array(repeatElement(word(name, index, generation), count: byteCount / 16).joined())
    }

    /// The generation that a part of a block tells of.
    ///
    /// - Returns: nil for zeros; .max for anything that was never written there.
    private static func generation(
        of part: UnsafeRawBufferPointer, _ name: String, _ index: Int
    ) -> UInt32? {
        guard let start = part.baseAddress, part.count > 16 else { return .max }
        // Whether all words are the same.
        guard memcmp(start, start + 16, part.count - 16) == 0 else { return .max }
        let first = Array(part.prefix(16))
        if first.allSatisfy({ $0 == 0 }) { return nil }
        let generation = part.loadUnaligned(as: UInt32.self)
        return first == word(name, index, generation) ? generation : .max
    }

    static func look(_ name: String, _ fileSystem: VolumeFileSystem) -> FileAttributes? {
        var parent = InodeNumber.root
        var found: FileAttributes?
        for part in name.split(separator: "/") {
            guard let next = try? fileSystem.lookup(Array(part.utf8), in: parent) else { return nil }
            parent = next.inode
            found = next
        }
        return found
    }

    /// The generations of a file's blocks; nil for a block of zeros.
    ///
    /// - Returns: nil when there is no such file; a block that is neither has the generation .max.
    static func read(_ name: String, _ fileSystem: VolumeFileSystem) -> [UInt32?]? {
        guard let attributes = look(name, fileSystem) else { return nil }
        var generations: [UInt32?] = []
        for index in 0..<Int((attributes.size + UInt64(byteCount) - 1) / UInt64(byteCount)) {
            var buffer = [UInt8](repeating: 0, count: byteCount)
            let count = buffer.withUnsafeMutableBytes { buffer in
                (try? fileSystem.read(
                    attributes.inode, handle: FileHandle(attributes.inode.number),
                    offset: UInt64(index * byteCount), into: buffer)) ?? -1
            }
            let part = count == byteCount ? buffer.withUnsafeBytes { generation(of: $0, name, index) } : .max
            generations.append(part)
        }
        return generations
    }

    /// Holds a file that is written in place against what was synced.
    static func faults(of name: String, _ least: [UInt32], in fileSystem: VolumeFileSystem) -> [String] {
        guard let blocks = read(name, fileSystem) else {
            return least.isEmpty ? [] : ["\(name) was synced and is not there"]
        }
        var faults: [String] = []
        if blocks.count < least.count {
            faults.append("\(name) had \(least.count) blocks and has \(blocks.count)")
        }
        for (index, generation) in blocks.enumerated() {
            let wanted = index < least.count ? least[index] : 0
            // A write that was not synced may be torn over what was there; what was synced last is whole unless
            // a later one began, so that only strange bytes where nothing was ever torn are told.
            if generation == .max {
                if !isTorn(name, index, fileSystem, atLeast: wanted) {
                    faults.append("\(name), block \(index): bytes of nowhere")
                }
            } else if (generation ?? 0) < wanted {
                faults.append(
                    "\(name), block \(index): generation \(generation ?? 0), synced was \(wanted)")
            }
        }
        return faults
    }

    /// Whether each sector is of this block, of no generation older than the synced one.
    private static func isTorn(
        _ name: String, _ index: Int, _ fileSystem: VolumeFileSystem, atLeast wanted: UInt32
    ) -> Bool {
        guard let attributes = look(name, fileSystem) else { return false }
        var buffer = [UInt8](repeating: 0, count: byteCount)
        _ = buffer.withUnsafeMutableBytes { buffer in
            try? fileSystem.read(
                attributes.inode, handle: FileHandle(attributes.inode.number),
                offset: UInt64(index * byteCount), into: buffer)
        }
        for start in stride(from: 0, to: byteCount, by: 512) {
            let sector = buffer.withUnsafeBytes {
                generation(of: UnsafeRawBufferPointer(rebasing: $0[start..<start + 512]), name, index)
            }
            guard sector != .max, (sector ?? 0) >= wanted else { return false }
        }
        return true
    }
}
