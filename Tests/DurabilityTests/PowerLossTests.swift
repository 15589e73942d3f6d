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
            let site = try await RecordedSite.start(cleanup)
            let promises = try await Self.write(at: site.mountPoint, site.log)
            await site.kill()
            try await Self.failEverywhere(site.log, below: site.head, promises.all, in: site.directory)
            try await Self.expectNoticed(
                PlantedBug.ofResidentVolume, site.log, below: site.head, promises.all, in: site.directory)
        }
    }

    /// The same while the files' bytes are still on their way from another site, which this one has followed; or else also
    /// their names (`false`).
    @Test(arguments: [true, false])
    func whatIsPartlyElsewhereIsAsItWasSyncedOrAsItCame(isPrepared: Bool) async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let directory = try cleanup.makeTemporaryDirectory()
            let log = directory + "/log"
            // Slow enough for names to be on their way as long as it takes.
            let line = LineSettings(bitsPerSecond: 1_000_000, delay: .milliseconds(10))
            let link = try await WANLink.open(isPrepared ? LinkSettings() : LinkSettings(line))
            try cleanup.add(link)
            let london = SiteProcess(
                name: "london", binary: godwitBinary, stateDirectory: directory + "/london-state",
                address: "\(link.a.address):7443", network: link.a.namespace)
            let state = directory + "/sydney-state"
            let sydney = SiteProcess(
                name: "sydney", binary: godwitBinary, stateDirectory: state,
                address: "\(link.b.address):7443", network: link.b.namespace,
                environment: try await RecordedSite.environment(
                    recording: state, to: log, in: directory))
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
            if !isPrepared { try ArrivingNames.make(at: mountPoint) }
            try await london.godwit(["volume", "unmount", "data"])
            try await london.godwit(
                ["migrate", "data", "--to", "sydney", isPrepared ? "--prepare-only" : "--detach"])
            if isPrepared { try await sydney.godwit(["volume", "hydrate", "data", "--rate-limit", "50K"]) }
            try await sydney.godwit(["volume", "mount", "data", mountPoint])
            let id = try #require(try await sydney.inspect("data")["id"] as? String)
            let missing = try await sydney.number("missingBytes", of: "data")
            #expect(missing > 1 << 20, "nearly everything has come before the first write")
            let isArriving = try await sydney.inspect("data")["namesArriving"] as? Bool ?? false
            #expect(isArriving != isPrepared)
            let promises = try await Self.write(at: mountPoint, log, finds: true)
            let areLeft = try await sydney.inspect("data")["namesArriving"] as? Bool ?? false
            print("names were \(areLeft ? "" : "not ")on their way to the end")
            await sydney.kill()
            let heads = try FileManager.default.contentsOfDirectory(atPath: "\(state)/volumes/\(id)/heads")
            let head = try #require(heads.max())
            let below = "volumes/\(id)/heads/\(head)/"
            guard !isPrepared else {
                try await Self.failEverywhere(
                    log, below: below, promises.all, in: directory, origin: .bytes)
                return try await Self.expectNoticed(
                    [.recordedBeforeSynced], log, below: below, promises.all, in: directory, origin: .bytes)
            }
            await london.stop()
            let names = try Catalog(opening: "\(london.stateDirectory)/volumes/\(id)/heads/1")
            defer { names.abandon() }
            try await Self.failEverywhere(
                log, below: below, promises.all, in: directory, origin: .namesAndBytes(names))
        }
    }

    /// What a head needs of another site.
    enum Origin {
        case none
        case bytes
        case namesAndBytes(Catalog)

        /// With an origin each moment takes much longer.
        var share: Int {
            switch self {
            case .none: 1
            case .bytes: 4
            case .namesAndBytes: 32
            }
        }
    }

    /// Files that were safe long ago, all of them. One that is cut too early shows after a power loss that it has lost bytes.
    private enum SettledFiles {
        private static let paths = (0..<30).map { "settled\($0)" }
        private static let byteCount = 64 << 10

        static func make(at mountPoint: String) throws {
            for path in paths {
                let file = open(mountPoint + "/" + path, O_WRONLY | O_CREAT, 0o644)
                let bytes = [UInt8](repeating: 1, count: byteCount)
                defer { close(file) }
                guard file >= 0, Glibc.write(file, bytes, byteCount) == byteCount, fsync(file) == 0 else {
                    throw LabError.systemCall("write", detail: path, errno: errno)
                }
            }
        }

        static func cut(at mountPoint: String) throws {
            for (number, path) in paths.enumerated() {
                guard truncate(mountPoint + "/" + path, off_t(number % 8 * 4096)) == 0 else {
                    throw LabError.systemCall("truncate", detail: path, errno: errno)
                }
                usleep(40_000)
            }
        }
    }

    /// Names of another site that come behind.
    private enum ArrivingNames {
        /// Nothing makes them smaller: they take their time.
        static let all: [String] = {
            var generator = Generator(seed: 1)
            return (0..<6000).map { number in
                let bytes = generator.bytes(180)
                return "others\(number % 40)/"
                    + Data(bytes).base64EncodedString().replacingOccurrences(of: "/", with: "-")
            }
        }()

        static func make(at mountPoint: String) throws {
            for name in all {
                let path = mountPoint + "/" + name
                try FileManager.default.createDirectory(
                    atPath: (path as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
                let made = open(path, O_WRONLY | O_CREAT, 0o644)
                guard made >= 0 else { throw LabError.systemCall("open", detail: path, errno: errno) }
                close(made)
            }
        }

        /// Of a few of them, whether they are there: named or still to come.
        static func faults(in volume: TestVolume) async -> [String] {
            var faults: [String] = []
            for name in all.shuffled().prefix(3) {
                do {
                    if try await TreePromise.look(name, in: volume) == nil {
                        faults.append("\(name) is lost")
                    }
                } catch {
                    faults.append("\(name) cannot be looked up: \(error)")
                }
            }
            return faults
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

    /// Four writers at once, each with files of its own.
    private static func write(
        at mountPoint: String, _ log: String, finds: Bool = false
    ) async throws -> PromiseLog {
        let promises = PromiseLog()
        // A settled file is one that a sync of everything has covered: those come every two seconds.
        if !finds {
            try SettledFiles.make(at: mountPoint)
            try await Task.sleep(for: .seconds(5))
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            if !finds {
                group.addTask {
                    try await DedicatedThread.run("cutter") { try SettledFiles.cut(at: mountPoint) }
                }
            }
            for number in 0..<3 {
                group.addTask {
                    try await DedicatedThread.run("writer-\(number)") {
                        var writer = Writer(
                            number: number, mountPoint: mountPoint, log: log,
                            seed: Self.seed + UInt64(number),
                            finds: finds)
                        try writer.run(steps: 180, promises)
                    }
                }
            }
            group.addTask {
                try await DedicatedThread.run("tree-writer") {
                    var writer = TreeWriter(
                        mountPoint: mountPoint, log: log, seed: Self.seed + 3, promises)
                    try writer.run(steps: 150)
                }
            }
            try await group.waitForAll()
        }
        return promises
    }

    private static func failEverywhere(
        _ log: String, below: String, _ promises: Promises, in directory: String, origin: Origin = .none
    ) async throws {
        for names in [SimulatedDisk.Names.journalled, .bySyncOfTheirDirectory] {
            let disk = try SimulatedDisk(log: log, names: names)
            let broken = try await firstFault(
                of: disk, below: below, promises, in: directory, origin: origin,
                count: momentCount / origin.share / 2)
            #expect(broken == nil, "\(names), seed \(seed)")
        }
    }

    /// - Returns: what is wrong, and when the power failed, the first time that anything is.
    private static func firstFault(
        of initial: SimulatedDisk, below: String, _ promises: Promises, in directory: String,
        origin: Origin = .none, count: Int
    ) async throws -> String? {
        var disk = initial
        let moments = disk.moments
        var generator = Generator(seed: seed)
        // Before the volume was there, nothing was promised.
        let first = try #require(promises.first)
        let candidates = moments.filter { $0 >= first }
        try #require(candidates.count > 500, "the workload was too small: \(candidates.count) moments")
        // Half of them where a planted bug has an effect: that may be few.
        let suspects = candidates.filter { moment in disk.suspects.contains { $0.contains(moment) } }
        var chosen = (0..<count).map { number in
            let few = number % 2 == 0 && !suspects.isEmpty ? suspects : candidates
            return few[generator.next(below: few.count)]
        }
        chosen.sort()
        // In memory: what comes after the power loss need not wait for a real disk.
        let memory = "/dev/shm/godwit-power-loss-\(getpid())"
        let head = (access("/dev/shm", W_OK) == 0 ? memory : directory) + "/head"
        let twin = disk.bug == .notCompletedAfterCrash ? head + "-twin" : nil
        defer { try? FileManager.default.removeItem(atPath: memory) }
        for moment in chosen {
            disk.advance(to: moment)
            let same = generator
            for copy in [twin, head].compactMap(\.self) {
                try? FileManager.default.removeItem(atPath: copy)
                generator = same
                try disk.write(
                    to: copy, below: below, leavingOut: { $0 == "lock" || $0.hasSuffix("-shm") }, &generator)
            }
            let faults = await faults(
                of: head, at: moment, promises, origin: origin, planting: disk.bug, twin: twin)
            if !faults.isEmpty { return "\(faults), moment \(moment) of \(moments.last ?? 0)" }
        }
        return nil
    }

    /// A file system with one of these bugs would be found out: else the tests above prove nothing.
    private static func expectNoticed(
        _ bugs: [PlantedBug], _ log: String, below: String, _ promises: Promises, in directory: String,
        origin: Origin = .none
    ) async throws {
        for bug in bugs {
            let disk = try SimulatedDisk(log: log, names: .bySyncOfTheirDirectory, planting: bug)
            let broken = try await firstFault(
                of: disk, below: below, promises, in: directory, origin: origin, count: 400 / origin.share)
            print("\(bug): \(broken?.prefix(200) ?? "nothing was noticed")")
            #expect(broken != nil, "nobody noticed \(bug), seed \(seed)")
        }
    }

    /// What is wrong with a head after a power loss.
    private static func faults(
        of head: String, at moment: UInt64, _ promises: Promises, origin: Origin, planting bug: PlantedBug?,
        twin: String?
    ) async -> [String] {
        do {
            let names = Mutex<[InodeNumber: String]>([:])
            let source = FakeSource { inode in names.withLock { $0[inode] }.flatMap { Self.arrived[$0] } }
            if case .namesAndBytes(let catalog) = origin { source.set { $0.catalog = catalog } }
            let volume: TestVolume
            if case .none = origin {
                volume = try TestVolume(opening: head)
            } else {
                volume = try TestVolume(opening: head, source: source)
            }
            if bug == .notCompletedAfterCrash, let twin {
                try UndoneRecovery.claim(what: twin, of: volume)
            }
            for name in (0..<3).flatMap(Writer.arrivedFiles) {
                guard let found = try await TreePromise.look(name, in: volume) else { continue }
                names.withLock { $0[found.inode] = name }
            }
            var faults: [String] = []
            if case .namesAndBytes = origin {
                for name in promises.allNames { _ = try await TreePromise.look(name, in: volume) }
                faults += await ArrivingNames.faults(in: volume)
            }
            faults += await promises.broken(at: moment, in: volume)
            faults += await RecoveredFile.faults(in: volume)
            try await volume.close()
            faults += try HeadCheck.run(head, isInUse: false).filter { $0.kind != .leftover }.map(\.text)
            return faults
        } catch {
            return ["it does not open: \(error)"]
        }
    }
}
