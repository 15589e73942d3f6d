import EngineTestSupport
import Foundation
import Glibc
import Handoff
import Site
import Testing
import VolumeModel

@testable import TestBed

/// Two real sites that give a volume to each other and back, and the power of either failing at any moment.
///
/// All that they write is recorded (`recorder.c`). For each change of a site's registry, what its disk may hold then is
/// opened and held against what the other site, whose power did not fail, had in its own registry at that moment.
@Suite(.serialized, .enabled(if: geteuid() == 0, "mounts need root"))
struct RegistryPowerLossTests {
    private static let seed =
        ProcessInfo.processInfo.environment["GODWIT_POWER_LOSS_SEED"].flatMap { UInt64($0) }
        ?? UInt64.random(in: 0..<1_000_000)
    /// Disks for each moment: losing everything that it may, nothing, and something between.
    private static let diskCount = 4

    private struct Recorded {
        let london: SiteProcess
        let sydney: SiteProcess
        let directory: String
        let mountPoint: String
        let volume: VolumeID
        /// By the names of the sites, at the beginning.
        let disks: [String: SimulatedDisk]

        func disk(of site: SiteProcess, planting bug: PlantedBug? = nil) throws -> SimulatedDisk {
            SimulatedDisk(try #require(disks[site.name]), planting: bug)
        }
    }

    @Test func whereverThePowerFailsNoSiteForgetsWhatTheOtherWasTold() async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let recorded = try await Self.recordHandoffs(cleanup)
            for (one, other) in [
                (recorded.london, recorded.sydney), (recorded.sydney, recorded.london),
            ] {
                let (moments, broken) = try await Self.failEverywhere(one, other, recorded)
                print("\(one.name): \(moments) moments")
                // Each of the steps of a hand-off is several writes.
                #expect(moments > 40)
                #expect(broken == nil, "seed \(Self.seed)")
                // And that this is no accident: without its syncs the registry forgets.
                let (_, forgotten) = try await Self.failEverywhere(one, other, recorded, forgetsSyncs: true)
                #expect(forgotten != nil, "nobody noticed that \(one.name)'s registry was not synced")
            }
            for (index, site) in [recorded.london, recorded.sydney].enumerated() {
                try await Self.startAgain(site, recorded, seed: Self.seed + UInt64(index))
            }
        }
    }

    /// There, back, and there once more.
    private static func recordHandoffs(_ cleanup: Cleanup) async throws -> Recorded {
        let directory = try cleanup.makeTemporaryDirectory()
        let library = try await PreloadedLibrary.build("recorder", in: directory)
        let link = try await WANLink.open(LinkSettings())
        try cleanup.add(link)
        func site(_ name: String, _ end: WANLink.End) -> SiteProcess {
            SiteProcess(
                name: name, binary: godwitBinary, stateDirectory: "\(directory)/\(name)-state",
                address: "\(end.address):7443", network: end.namespace,
                environment: [
                    "LD_PRELOAD": library, "RECORD_ROOT": "\(directory)/\(name)-state",
                    "RECORD_LOG": "\(directory)/\(name)-log",
                ])
        }
        let (london, sydney) = (site("london", link.a), site("sydney", link.b))
        for site in [london, sydney] {
            try await site.initialise()
            try cleanup.add("site \(site.name)") { await site.stop() }
        }
        try await SiteProcess.introduce(london, sydney)
        for site in [london, sydney] { try await site.start() }
        let mountPoint = directory + "/mnt"
        try FileManager.default.createDirectory(atPath: mountPoint, withIntermediateDirectories: true)
        try await london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
        try cleanup.add(mountAt: mountPoint)
        try await write(0, at: london, mountPoint)
        for (step, (from, to)) in [(london, sydney), (sydney, london), (london, sydney)].enumerated() {
            try await from.godwit(["migrate", "data", "--to", to.name])
            try await write(step + 1, at: to, mountPoint)
        }
        let id = try #require(try await sydney.inspect("data")["id"] as? String)
        for site in [london, sydney] { await site.kill() }
        var disks: [String: SimulatedDisk] = [:]
        for site in [london, sydney] {
            disks[site.name] = try SimulatedDisk(log: "\(directory)/\(site.name)-log")
        }
        return Recorded(
            london: london, sydney: sydney, directory: directory, mountPoint: mountPoint,
            volume: try #require(VolumeID(id)), disks: disks)
    }

    /// A file for each reign, synced.
    private static func write(_ number: Int, at site: SiteProcess, _ mountPoint: String) async throws {
        try await site.godwit(["volume", "mount", "data", mountPoint])
        try await DedicatedThread.run("write") {
            let descriptor = open("\(mountPoint)/reign\(number)", O_WRONLY | O_CREAT, 0o644)
            defer { close(descriptor) }
            guard descriptor >= 0, Glibc.write(descriptor, "\(number)", 1) == 1, fsync(descriptor) == 0 else {
                throw LabError.systemCall("write", detail: "reign\(number)", errno: errno)
            }
        }
        try await site.godwit(["volume", "unmount", "data"])
    }

    // MARK: every moment

    /// - Returns: how many moments there were, and what is wrong the first time that anything is.
    private static func failEverywhere(
        _ one: SiteProcess, _ other: SiteProcess, _ recorded: Recorded, forgetsSyncs: Bool = false
    ) async throws -> (Int, String?) {
        var failed = try recorded.disk(of: one, planting: forgetsSyncs ? .registryNotSynced : nil)
        var running = try recorded.disk(of: other)
        var generator = Generator(seed: seed)
        let memory = "/dev/shm/godwit-registry-\(getpid())"
        let directory = access("/dev/shm", W_OK) == 0 ? memory : recorded.directory + "/disk"
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let moments = failed.moments(of: registryName)
        for (moment, time) in moments {
            failed.advance(to: moment)
            running.advance(toTime: time)
            let known = try await record(
                running, isRunning: true, recorded.volume, in: directory, &generator)
            for _ in 0..<diskCount {
                do {
                    let found = try await record(
                        failed, isRunning: false, recorded.volume, in: directory, &generator)
                    guard let fault = contradiction(found, known) else { continue }
                    return (moments.count, "\(one.name), moment \(moment): \(fault)")
                } catch {
                    return (moments.count, "\(one.name), moment \(moment): it does not open: \(error)")
                }
            }
        }
        return (moments.count, nil)
    }

    private static let registryName = "site.db"

    private static func record(
        _ disk: SimulatedDisk, isRunning: Bool, _ volume: VolumeID, in directory: String,
        _ generator: inout Generator
    ) async throws -> HeadRecord? {
        try? FileManager.default.removeItem(atPath: directory)
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        try disk.write(
            to: directory, below: "", isRunning: isRunning,
            leavingOut: { !$0.hasPrefix(registryName) || $0.hasSuffix("-shm") }, &generator)
        guard access(directory + "/" + registryName, F_OK) == 0 else { return nil }
        let registry = try SQLiteRegistry(path: directory + "/" + registryName)
        return try await registry.volume(volume)?.value.head
    }

    /// - Parameters:
    ///   - found: what a site knows after its power failed.
    ///   - known: what the other knew at that moment: all of it was told by the first one before, or is its own.
    /// - Returns: why these two cannot go on together; nil: they can.
    private static func contradiction(_ found: HeadRecord?, _ known: HeadRecord?) -> String? {
        guard let known else { return nil }
        let both = "\(String(describing: found)) while \(known)"
        guard let found else {
            // It had told nothing yet, or the volume was still being made.
            return known.knownReign?.owner == known.site ? nil : "forgotten altogether: \(both)"
        }
        if owns(found), owns(known) { return "two owners: \(both)" }
        switch known.role {
        case .receiving(_, let grant) where found.spent < grant.heir.epoch:
            return "a grant was forgotten: \(both)"
        case .owning(let epoch, _) where epoch > .first && found.spent < epoch:
            return "a grant was forgotten: \(both)"
        default: break
        }
        if let reign = known.knownReign, reign.owner == found.site, found.knownEpoch < reign.epoch {
            return "a reign was forgotten: \(both)"
        }
        return nil
    }

    private static func owns(_ record: HeadRecord) -> Bool {
        if case .owning = record.role { true } else { false }
    }

    // MARK: the sites themselves

    /// Starts both sites on their disks as of some moment of the hand-offs, after which the power of one failed.
    private static func startAgain(_ failed: SiteProcess, _ recorded: Recorded, seed: UInt64) async throws {
        var generator = Generator(seed: seed)
        let moments = try recorded.disk(of: failed).moments(of: registryName)
        // In the later half both know of the volume.
        let (moment, time) = moments[moments.count - 1 - generator.next(below: moments.count / 2)]
        let sites = [recorded.london, recorded.sydney]
        for site in sites {
            await site.kill()
            var disk = try recorded.disk(of: site)
            if site.name == failed.name { disk.advance(to: moment) } else { disk.advance(toTime: time) }
            let (state, before) = (site.stateDirectory, site.stateDirectory + "-before")
            try? FileManager.default.removeItem(atPath: before)
            try FileManager.default.moveItem(atPath: state, toPath: before)
            try disk.write(
                to: state, below: "", isRunning: site.name != failed.name,
                leavingOut: { $0.hasPrefix("pki/") || $0.hasSuffix("lock") || $0.hasSuffix("-shm") },
                &generator)
            try FileManager.default.copyItem(atPath: before + "/pki", toPath: state + "/pki")
        }
        for site in sites { try await site.start() }
        let place: Comment = "\(failed.name) failed at moment \(moment), seed \(seed)"
        let deadline = ContinuousClock.now + .seconds(60)
        var owners: [SiteProcess] = []
        while owners.isEmpty, ContinuousClock.now < deadline {
            for site in sites where try await site.inspect("data")["role"] as? String == "owning" {
                owners.append(site)
            }
            if owners.isEmpty { try await Task.sleep(for: .milliseconds(200)) }
        }
        #expect(owners.count == 1, place)
        guard let owner = owners.first else { return }
        try await owner.godwit(["volume", "mount", "data", recorded.mountPoint])
        let bytes = try await DedicatedThread.run("read") {
            try Data(contentsOf: URL(fileURLWithPath: recorded.mountPoint + "/reign0"))
        }
        #expect(bytes == Data("0".utf8), place)
        try await owner.godwit(["volume", "unmount", "data"])
    }
}
