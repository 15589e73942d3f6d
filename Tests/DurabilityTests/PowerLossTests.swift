import Catalog
import EngineTestSupport
import Foundation
import Glibc
import Hydration
import Synchronization
import Testing
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
                    "LD_PRELOAD": try await PreloadedLibrary.build("recorder", in: directory),
                    "RECORD_ROOT": state,
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
            let below = "volumes/\(id)/heads/1/"
            try await Self.failEverywhere(log, below: below, promises.all, in: directory)
            try await Self.expectForgottenSyncsAreNoticed(
                log, below: below, promises.all, in: directory)
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
                    "LD_PRELOAD": try await PreloadedLibrary.build("recorder", in: directory),
                    "RECORD_ROOT": state,
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
        // With an origin each takes much longer.
        let count = hasOrigin ? momentCount / 4 : momentCount
        for names in [SimulatedDisk.Names.journalled, .bySyncOfTheirDirectory] {
            let disk = try SimulatedDisk(log: log, names: names)
            let broken = try await firstFault(
                of: disk, below: below, promises, in: directory, hasOrigin: hasOrigin, count: count / 2)
            #expect(broken == nil, "\(names), seed \(seed)")
        }
    }

    /// - Returns: what is wrong, and when the power failed, the first time that anything is.
    private static func firstFault(
        of initial: SimulatedDisk, below: String, _ promises: Promises, in directory: String,
        hasOrigin: Bool = false, count: Int
    ) async throws -> String? {
        var disk = initial
        let moments = disk.moments
        var generator = Generator(seed: seed)
        // Before the volume was there, nothing was promised.
        let first = try #require(promises.first)
        let candidates = moments.filter { $0 >= first }
        try #require(candidates.count > 500, "the workload was too small: \(candidates.count) moments")
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
            if !faults.isEmpty { return "\(faults), moment \(moment) of \(moments.last ?? 0)" }
        }
        return nil
    }

    /// A program that forgot a kind of sync would be found out: else the tests above prove nothing.
    private static func expectForgottenSyncsAreNoticed(
        _ log: String, below: String, _ promises: Promises, in directory: String
    ) async throws {
        for forgotten in [SimulatedDisk.Forgotten.dataFiles, .catalog, .directories] {
            let disk = try SimulatedDisk(log: log, names: .bySyncOfTheirDirectory, forgetting: forgotten)
            let broken = try await firstFault(of: disk, below: below, promises, in: directory, count: 400)
            print("without syncs of \(forgotten): \(broken?.prefix(200) ?? "nothing was noticed")")
            #expect(broken != nil, "nobody noticed that \(forgotten) were not synced")
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
