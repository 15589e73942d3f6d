import EngineTestSupport
import Foundation
import Glibc
import Testing
import VolumeModel

@testable import TestBed

/// A real site and a real mount, and every system call below the state directory fails once.
///
/// The nth call, n = 1, 2, …: while a script makes, changes, syncs, replaces and removes files and the volume is
/// unmounted and mounted. After each the site is killed and started, and holds what it had promised. CI takes a
/// sample: GODWIT_FAULTS sets how many n of each kind of failure, `all` takes every one; GODWIT_FAULT_SEED repeats a
/// sample.
@Suite(.serialized, .enabled(if: geteuid() == 0, "mounts need root"))
struct EveryCallTests {
    private static let environment = ProcessInfo.processInfo.environment
    private static let sampleCount: Int? =
        environment["GODWIT_FAULTS"] == "all" ? nil : environment["GODWIT_FAULTS"].flatMap { Int($0) } ?? 5
    private static let seed =
        environment["GODWIT_FAULT_SEED"].flatMap { UInt64($0) } ?? UInt64.random(in: 0..<1_000_000)

    enum Failure: CaseIterable {
        /// One call of any kind.
        case inputOutput
        /// One call that may need room.
        case noSpace
        /// From some call on, until it is mounted anew: nothing can be changed.
        case readOnly
        /// From some call on, until there are: no new file and no new directory.
        case noInodes

        var kinds: FaultCounter.Kinds {
            switch self {
            case .inputOutput: .all
            case .noSpace: .growth
            case .readOnly: [.changes]
            case .noInodes: .creations
            }
        }
        var error: Int32 {
            switch self {
            case .inputOutput: EIO
            case .noSpace, .noInodes: ENOSPC
            case .readOnly: EROFS
            }
        }
        var isLasting: Bool { self == .readOnly || self == .noInodes }
    }

    @Test(arguments: Failure.allCases)
    func whateverCallFailsNothingSyncedIsLost(_ failure: Failure) async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let site = try await FaultySite.start(cleanup)
            // Without a failure: how many calls there are, and that the script itself is in order.
            let (calm, count) = try await Self.live(1, 0, failure, at: site)
            try await site.restart()
            try await Self.expect(calm, at: site)
            var generator = Generator(seed: Self.seed)
            var numbers = (1...max(1, count)).map { $0 }
            if let sampleCount = Self.sampleCount {
                numbers = (0..<sampleCount).map { _ in 1 + UInt64(generator.next(below: Int(count))) }
                    .sorted()
            }
            let wantedCount = numbers.count
            var lives: [ScriptedLife] = []
            while lives.count < numbers.count {
                let number = numbers[lives.count]
                let life = try await Self.live(lives.count + 2, number, failure, at: site).0
                lives.append(life)
                // The script's calls vary from life to life: of a sample an earlier one is hit instead.
                if Self.sampleCount != nil, life.hit.isEmpty, number > 1 { numbers.append(number / 2) }
                // One kill for several of them: the site must go on after each.
                guard lives.count % 25 == 0 || lives.count == numbers.count else { continue }
                try await site.restart()
                for life in lives.suffix((lives.count - 1) % 25 + 1) {
                    try await Self.expect(life, at: site)
                }
            }
            let hitCount = lives.filter { !$0.hit.isEmpty }.count
            print("\(failure): \(lives.count) of \(count) calls, \(hitCount) were hit, seed \(Self.seed)")
            #expect(hitCount >= (wantedCount + 1) / 2)
        }
    }

    /// - Returns: what the life has promised, and how many calls were counted in it.
    private static func live(
        _ index: Int, _ number: UInt64, _ failure: Failure, at site: FaultySite
    ) async throws -> (ScriptedLife, UInt64) {
        let name = "life\(index)"
        let mountPoint = try await site.mountNew(name)
        var life = ScriptedLife(name: name, mountPoint: mountPoint)
        life = try await site.dedicated(life) { life in life.prepare() }
        #expect(life.faults == [] && life.failures == [])
        let counter = site.counter
        counter.arm(failure.kinds, failing: number, lasting: failure.isLasting, with: failure.error)
        life = try await site.dedicated(life) { life in life.run() }
        // The middle of its life: whatever the commands say, the site goes on.
        let unmounted = try await site.process.run(["volume", "unmount", name])
        let mounted = try await site.process.run(["volume", "mount", name, mountPoint])
        if unmounted.exit.isSuccess && mounted.exit.isSuccess {
            life = try await site.dedicated(life) { life in life.goOn() }
        }
        counter.disarm()
        let count = counter.count
        life.hit = counter.firstHit
        let place = "\(failure), call \(number) of \(count): \(life.hit)"
        #expect(life.faults == [], "\(place)")
        if number == 0 {
            #expect(life.failures == [], "\(place)")
            #expect(unmounted.exit.isSuccess && mounted.exit.isSuccess, "\(unmounted) \(mounted)")
        } else if life.hit.isEmpty {
            #expect(life.failures == [], "nothing was hit: \(place)")
        }
        #expect(try await site.process.run(["volume", "list"]).exit.isSuccess, "\(place)")
        return (life, count)
    }

    private static func expect(_ life: ScriptedLife, at site: FaultySite) async throws {
        let place: Comment = "\(life.name), which was hit by: \(life.hit)"
        let mounted = try await site.process.run(["volume", "mount", life.name, life.mountPoint])
        #expect(mounted.exit.isSuccess, "\(place): \(mounted.output)")
        guard mounted.exit.isSuccess else { return }
        let found = try await site.dedicated(life) { life in
            life.faults = []
            life.compare(mayFail: false)
        }
        #expect(found.faults == [], place)
        try await site.process.godwit(["volume", "unmount", life.name])
        let check = try await site.process.run(["volume", "check", life.name, "--json"])
        #expect(!check.output.contains("damage"), "\(place): \(check.output)")
        try await site.process.godwit(["volume", "delete", life.name])
    }
}

/// A site whose disk fails as a counter says.
private struct FaultySite: Sendable {
    let process: SiteProcess
    let counter: FaultCounter
    let directory: String
    let cleanup: Cleanup

    static func start(_ cleanup: Cleanup) async throws -> FaultySite {
        let directory = try cleanup.makeTemporaryDirectory()
        let counter = try FaultCounter(path: directory + "/counter")
        let state = directory + "/state"
        let process = SiteProcess(
            name: "solo", binary: godwitBinary, stateDirectory: state, address: "127.0.0.1:0",
            environment: [
                "LD_PRELOAD": try await PreloadedLibrary.build("faults", in: directory), "FAULT_ROOT": state,
                "FAULT_COUNTER": counter.path,
            ])
        try await process.initialise()
        try cleanup.add("site") { await process.stop() }
        try await process.start()
        return FaultySite(process: process, counter: counter, directory: directory, cleanup: cleanup)
    }

    func mountNew(_ volume: String) async throws -> String {
        let mountPoint = directory + "/" + volume
        try FileManager.default.createDirectory(atPath: mountPoint, withIntermediateDirectories: true)
        try await process.godwit(["volume", "create", volume, "--capacity", "1Gi"])
        try await process.godwit(["volume", "mount", volume, mountPoint])
        try cleanup.add(mountAt: mountPoint)
        return mountPoint
    }

    /// kill -9 and what comes after it.
    func restart() async throws {
        await process.kill()
        let names = try FileManager.default.contentsOfDirectory(atPath: directory)
        for name in names where name.hasPrefix("life") {
            _ = try await ChildProcess.run(
                Program("umount", ["-l", directory + "/" + name]), limit: .seconds(20))
        }
        try await process.start()
    }

    /// Runs a part of a life on a thread of its own. Should a call never be answered, the site is killed, which
    /// ends it.
    func dedicated(
        _ life: ScriptedLife, _ body: @escaping @Sendable (inout ScriptedLife) -> Void
    ) async throws -> ScriptedLife {
        let process = self.process
        let watch = Task {
            try await Task.sleep(for: .seconds(60))
            Issue.record("\(life.name): a call was not answered")
            await process.kill()
        }
        defer { watch.cancel() }
        return try await DedicatedThread.run(life.name) {
            var life = life
            body(&life)
            return life
        }
    }
}
