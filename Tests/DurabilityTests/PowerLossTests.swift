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
            let promises = try await Self.write(at: mountPoint, log)
            // As a crash: nothing is closed in order.
            await site.kill()
            try await Self.failEverywhere(
                log, below: "volumes/\(id)/heads/1/", promises.all, in: directory)
        }
    }

    /// The same while the files' bytes are still on their way from another site.
    @Test func whatIsPartlyElsewhereIsAsItWasSyncedOrAsItCame() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let directory = try cleanup.makeTemporaryDirectory()
            let log = directory + "/log"
            let link = try await WANLink.open(LinkSettings())
            try cleanup.add(link)
            let london = SiteProcess(
                name: "london", binary: godwitBinary, stateDirectory: directory + "/london-state",
                address: "\(link.a.address):7443", network: link.a.namespace)
            let state = directory + "/sydney-state"
            let sydney = SiteProcess(
                name: "sydney", binary: godwitBinary, stateDirectory: state,
                address: "\(link.b.address):7443", network: link.b.namespace,
                environment: [
                    "LD_PRELOAD": try await Self.sharedLibrary(in: directory), "RECORD_ROOT": state,
                    "RECORD_LOG": log,
                ])
            for site in [london, sydney] {
                try await site.initialise()
                try cleanup.add("site") { await site.stop() }
            }
            try await SiteProcess.introduce(london, sydney)
            for site in [london, sydney] { try await site.start() }
            let mountPoint = directory + "/mnt"
            try FileManager.default.createDirectory(atPath: mountPoint, withIntermediateDirectories: true)
            try await london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
            try await london.godwit(["volume", "mount", "data", mountPoint])
            try cleanup.add(mountAt: mountPoint)
            try Self.makeArrivedFiles(at: mountPoint)
            try await london.godwit(["volume", "unmount", "data"])
            try await london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
            try await sydney.godwit(["volume", "hydrate", "data", "--rate-limit", "50K"])
            try await sydney.godwit(["volume", "mount", "data", mountPoint])
            let id = try #require(try await sydney.inspect("data")["id"] as? String)
            let missing = try await sydney.number("missingBytes", of: "data")
            #expect(missing > 1 << 20, "nearly everything has come before the first write")
            let promises = try await Self.write(at: mountPoint, log, finds: true)
            await sydney.kill()
            let heads = try FileManager.default.contentsOfDirectory(atPath: "\(state)/volumes/\(id)/heads")
            let head = try #require(heads.max())
            try await Self.failEverywhere(
                log, below: "volumes/\(id)/heads/\(head)/", promises.all, in: directory, hasOrigin: true)
        }
    }

    /// What the other site's files hold, by name: made once, for it takes its time.
    private static let arrived = Dictionary(
        uniqueKeysWithValues: (0..<3).flatMap(Writer.arrivedFiles).map { ($0, Block.arrived($0)) })

    private static func makeArrivedFiles(at mountPoint: String) throws {
        for number in 0..<3 {
            for name in Writer.arrivedFiles(of: number) {
                let path = URL(fileURLWithPath: mountPoint + "/" + name)
                try FileManager.default.createDirectory(
                    at: path.deletingLastPathComponent(), withIntermediateDirectories: true)
                try Data(Block.arrived(name)).write(to: path)
            }
        }
    }

    /// Three writers at once, each with files of its own.
    private static func write(
        at mountPoint: String, _ log: String, finds: Bool = false
    ) async throws -> PromiseLog {
        let promises = PromiseLog()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<3 {
                group.addTask {
                    try await DedicatedThread.run("writer-\(number)") {
                        var writer = Writer(
                            number: number, mountPoint: mountPoint, log: log,
                            seed: Self.seed + UInt64(number),
                            finds: finds)
                        try writer.run(steps: 220, promises)
                    }
                }
            }
            try await group.waitForAll()
        }
        return promises
    }

    private static func failEverywhere(
        _ log: String, below: String, _ promises: Promises, in directory: String, hasOrigin: Bool = false
    ) async throws {
        var disk = try SimulatedDisk(log: log)
        let moments = disk.moments
        var generator = Generator(seed: seed)
        // Before the volume was there, nothing was promised.
        let first = try #require(promises.first)
        let candidates = moments.filter { $0 >= first }
        try #require(candidates.count > 500, "the workload was too small: \(candidates.count) moments")
        // With an origin each takes much longer.
        let count = hasOrigin ? momentCount / 4 : momentCount
        var chosen = (0..<count).map { _ in candidates[generator.next(below: candidates.count)] }
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
            let faults = await faults(of: head, at: moment, promises, hasOrigin: hasOrigin)
            #expect(faults == [], "seed \(seed), moment \(moment) of \(moments.last ?? 0)")
            if !faults.isEmpty { return }
        }
    }

    /// What is wrong with a head after a power loss.
    private static func faults(
        of head: String, at moment: UInt64, _ promises: Promises, hasOrigin: Bool
    ) async -> [String] {
        do {
            let names = Mutex<[InodeNumber: String]>([:])
            let origin = FakeSource { inode in names.withLock { $0[inode] }.flatMap { Self.arrived[$0] } }
            let volume = try TestVolume(opening: head, source: hasOrigin ? origin : nil)
            for name in (0..<3).flatMap(Writer.arrivedFiles) {
                guard let found = Block.look(name, volume.fileSystem) else { continue }
                names.withLock { $0[found.inode] = name }
            }
            var faults = await promises.broken(at: moment, in: volume)
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

    func broken(at moment: UInt64, in volume: TestVolume) async -> [String] {
        let fileSystem = volume.fileSystem
        var faults: [String] = []
        for (name, promises) in contents {
            let promise = promises.last { $0.moment <= moment }
            faults += await Block.faults(of: name, promise?.generations ?? [], in: volume)
        }
        for (name, promises) in replaced {
            guard let promise = promises.last(where: { $0.moment <= moment }) else { continue }
            let blocks = await Block.read(name, volume)
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

    /// What a file holds that another site has made.
    static func arrived(_ name: String) -> [UInt8] {
        (0..<Writer.arrivedBlockCount).flatMap { bytes(name, $0, 1) }
    }

    /// - Returns: whole blocks; nil when there is no such file, or when it cannot be read.
    private static func contents(of name: String, _ volume: TestVolume) async -> [UInt8]? {
        guard let attributes = look(name, volume.fileSystem) else { return nil }
        let size = (Int(attributes.size) + byteCount - 1) / byteCount * byteCount
        guard let bytes = try? await volume.read(attributes.inode, 0..<size) else { return nil }
        return bytes + [UInt8](repeating: 0, count: size - bytes.count)
    }

    private static func blocks(_ contents: [UInt8]) -> [ArraySlice<UInt8>] {
        stride(from: 0, to: contents.count, by: byteCount).map { contents[$0..<$0 + byteCount] }
    }

    /// The generations of a file's blocks; nil for a block of zeros.
    ///
    /// - Returns: nil when there is no such file; a block that is neither has the generation .max.
    static func read(_ name: String, _ volume: TestVolume) async -> [UInt32?]? {
        await contents(of: name, volume).map { contents in
            blocks(contents).enumerated().map { index, block in
                block.withUnsafeBytes { generation(of: $0, name, index) }
            }
        }
    }

    /// Holds a file that is written in place against what was synced.
    static func faults(of name: String, _ least: [UInt32], in volume: TestVolume) async -> [String] {
        guard let contents = await contents(of: name, volume) else {
            return least.isEmpty ? [] : ["\(name) was synced and is not there"]
        }
        let blocks = blocks(contents)
        var faults: [String] = []
        if blocks.count < least.count {
            faults.append("\(name) had \(least.count) blocks and has \(blocks.count)")
        }
        for (index, block) in blocks.enumerated() {
            let wanted = index < least.count ? least[index] : 0
            let found = block.withUnsafeBytes { generation(of: $0, name, index) }
            // A write that was not synced may be torn over what was there; what was synced last is whole unless
            // a later one began, so that only strange bytes where nothing was ever torn are told.
            if found == .max {
                if !isTorn(block, name, index, atLeast: wanted) {
                    faults.append("\(name), block \(index): bytes of nowhere")
                }
            } else if (found ?? 0) < wanted {
                faults.append("\(name), block \(index): generation \(found ?? 0), synced was \(wanted)")
            }
        }
        return faults
    }

    /// Whether each sector is of this block, of no generation older than the synced one.
    private static func isTorn(
        _ block: ArraySlice<UInt8>, _ name: String, _ index: Int, atLeast wanted: UInt32
    ) -> Bool {
        for start in stride(from: 0, to: byteCount, by: 512) {
            let sector = block.withUnsafeBytes { bytes in
                generation(of: UnsafeRawBufferPointer(rebasing: bytes[start..<start + 512]), name, index)
            }
            guard sector != .max, (sector ?? 0) >= wanted else { return false }
        }
        return true
    }
}
