import Foundation
import Glibc
import Testing

@testable import TestBed

/// A wall clock of its own for one site (clock.c). Its monotonic clocks go on as everybody's.
struct SiteClock: Sendable {
    private let path: String
    private let library: String

    /// Compiles the library, once for each.
    init(_ name: String, in directory: String) async throws {
        path = "\(directory)/\(name)-clock"
        library = "\(directory)/\(name)-clock.so"
        let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("clock.c").path
        try await ChildProcess.check(
            Program("gcc", ["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"]),
            limit: .seconds(60))
        try Data(count: 16).write(to: URL(fileURLWithPath: path))
    }

    /// Puts the clock forward, or back, by so much from what it should be; it may gain on top of that.
    func set(_ offset: Duration, gainingPerSecond gain: Duration = .zero) throws {
        // In place: the process has the file mapped.
        let file = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        defer { try? file.close() }
        for duration in [offset, gain] {
            var nanoseconds = Int64(duration / .nanoseconds(1))
            try file.write(contentsOf: Data(bytes: &nanoseconds, count: 8))
        }
    }

    /// How a command is run with it.
    var launcher: [String] { ["/usr/bin/env", "GODWIT_TEST_CLOCK=\(path)", "LD_PRELOAD=\(library)"] }
}

/// Two sites on loopback, each with a clock of its own.
private struct ClockedSites {
    let london: SiteProcess
    let sydney: SiteProcess
    let londonsClock: SiteClock
    let sydneysClock: SiteClock
    let directory: String
    let cleanup: Cleanup

    static func run(
        _ offsets: (london: Duration, sydney: Duration),
        _ body: @escaping @Sendable (ClockedSites) async throws -> Void
    ) async throws {
        try await Cleanup.scope(catchingSignals: false) { cleanup in
            let directory = try cleanup.makeTemporaryDirectory()
            let clocks = (
                try await SiteClock("london", in: directory), try await SiteClock("sydney", in: directory)
            )
            func site(_ name: String, _ clock: SiteClock) throws -> SiteProcess {
                SiteProcess(
                    name: name, binary: godwitBinary, stateDirectory: "\(directory)/\(name)-state",
                    address: "127.0.0.1:\(try freePort())", options: ["--log-level", "debug"],
                    environment: [SiteProcess.stopVariable: "\(directory)/\(name)-stop"],
                    launcher: clock.launcher)
            }
            let sites = ClockedSites(
                london: try site("london", clocks.0), sydney: try site("sydney", clocks.1),
                londonsClock: clocks.0, sydneysClock: clocks.1, directory: directory, cleanup: cleanup)
            try clocks.0.set(offsets.london)
            try clocks.1.set(offsets.sydney)
            // Keys are made by the right time: how long they hold is what clocks are for.
            for site in [sites.london, sites.sydney] { try await site.initialise() }
            try await SiteProcess.introduce(sites.london, sites.sydney)
            for site in [sites.london, sites.sydney] {
                try FileManager.default.createDirectory(
                    atPath: sites.mountPoint(of: site), withIntermediateDirectories: true)
                try cleanup.add("site \(site.name)", limit: .seconds(40)) { await site.stop() }
                try await site.start()
            }
            do {
                try await body(sites)
            } catch {
                for site in [sites.london, sites.sydney] {
                    let log = (try? String(contentsOfFile: site.logPath, encoding: .utf8)) ?? ""
                    Issue.record("log of \(site.name): \(log.suffix(3000))")
                }
                throw error
            }
        }
    }

    func mountPoint(of site: SiteProcess) -> String { "\(directory)/\(site.name)" }

    func mount(at site: SiteProcess) async throws -> String {
        try await site.godwit(["volume", "mount", "data", mountPoint(of: site)])
        try cleanup.add(mountAt: mountPoint(of: site))
        return mountPoint(of: site)
    }

    /// A server that has just ended may hold a file for a moment longer.
    func unmount(at site: SiteProcess) async throws {
        try await SiteTests.wait("unmounting at \(site.name)") {
            try await site.run(["volume", "unmount", "data"]).exit.isSuccess
        }
    }
}

extension SiteTests {
    /// What is to be survived: "clocks an hour off, stepping back, drifting". Only certificates ask what time it is.
    @Suite struct ClockTests {
        /// An hour less what certificates allow for and their making takes.
        private static let off: Duration = .seconds(55 * 60)

        @Test(arguments: [1, -1])
        func aHandOffThereAndBackMindsNoClock(_ sign: Int) async throws {
            let off = Self.off * sign
            try await ClockedSites.run((off, .zero)) { sites in
                let (london, sydney) = (sites.london, sites.sydney)
                try await london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let records = Records("records", acknowledgedIn: sites.directory)
                let here = try await sites.mount(at: london)
                // The clock is as it was set: what was just written says so.
                try writeRandomFile(here + "/bytes", byteCount: 4 << 20)
                let written = try FileManager.default.attributesOfItem(atPath: here + "/bytes")
                let time = try #require(written[.modificationDate] as? Date).timeIntervalSinceNow
                #expect(abs(time - Double(off.components.seconds)) < 60, "\(time)")
                let content = try bytes(here + "/bytes")
                try await records.writeSome(in: here)
                try await london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await sites.unmount(at: london)

                // Amid the hand-off, after it has sealed, london's clock is put right past what it was wrong.
                try london.arm(SIGSTOP, at: "after sealed")
                let started = ContinuousClock.now
                let handOver = Task {
                    try await london.run(["migrate", "data", "--to", "sydney", "--detach"])
                }
                try await SiteTests.wait("london to seal") { !london.isArmed }
                try await SiteTests.wait("london to stop") { await london.isStopped }
                try sites.londonsClock.set(off * -1)
                // And sydney's drifts by a fifth.
                try sites.sydneysClock.set(.zero, gainingPerSecond: .milliseconds(200 * sign))
                await london.signal(SIGCONT)
                let outcome = try await handOver.value
                #expect(outcome.exit.isSuccess, "\(outcome.output)")
                #expect(ContinuousClock.now - started < .seconds(30))

                let there = try await sites.mount(at: sydney)
                #expect(try records.damage(in: there) == nil)
                let isSame = try bytes(there + "/bytes") == content
                #expect(isSame)
                // Written over by somebody whose clock says that it is earlier.
                try sites.sydneysClock.set(off * -1)
                _ = try await shell(
                    "dd if=/dev/zero of=bytes bs=64k count=4 seek=3 conv=notrunc,fsync status=none", in: there
                )
                let changed = try bytes(there + "/bytes")
                try await records.writeSome(in: there)
                try await SiteTests.wait("all bytes at sydney") {
                    try await sydney.inspect("data")["released"] as? Bool == true
                }
                try await sites.unmount(at: sydney)

                // Back to the kept copy, by clocks that went back in between.
                try sites.londonsClock.set(.zero)
                try await sydney.godwit(["migrate", "data", "--to", "london", "--detach"])
                let back = try await sites.mount(at: london)
                #expect(try records.damage(in: back) == nil)
                let isChanged = try bytes(back + "/bytes") == changed
                #expect(isChanged, "an older state for a newer one")
                try await records.writeSome(in: back)
                try await SiteTests.wait("all bytes at london") {
                    try await london.inspect("data")["released"] as? Bool == true
                }
                try await sites.unmount(at: london)
                for site in [london, sydney] {
                    let check = try await site.run(["volume", "check", "--scrub"])
                    #expect(check.exit.isSuccess, "\(site.name): \(check.output)")
                }
                // Somebody is killed while its clock says something else than when it began.
                try sites.londonsClock.set(off)
                await london.kill()
                try await london.start()
                let again = try await sites.mount(at: london)
                #expect(try records.damage(in: again) == nil)
                try await sites.unmount(at: london)
            }
        }

        /// Promises.md: "beyond that sites do not talk to each other, and go on by themselves once the clock is right".
        @Test(arguments: [3, -3])
        func aClockThatIsFurtherOffThanCertificatesAllowForStopsTalkUntilItIsRight(_ hours: Int) async throws
        {
            // Three hours behind no certificate is valid yet; ahead by more than it lasts none is any more.
            let off: Duration = hours < 0 ? .seconds(hours * 3600) : .seconds(21 * 365 * 86_400)
            try await ClockedSites.run((.zero, off)) { sites in
                try await sites.london.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let outcome = try await sites.london.run(["migrate", "data", "--to", "sydney", "--detach"])
                #expect(!outcome.exit.isSuccess)
                #expect(outcome.output.contains("sydney"), "\(outcome.output)")
                // The site whose clock it is says so.
                try await sites.sydney.godwit(["volume", "create", "other", "--capacity", "1Gi"])
                let own = try await sites.sydney.run(["migrate", "other", "--to", "london", "--detach"])
                #expect(!own.exit.isSuccess)
                for words in [
                    "the clock here says", "valid \(hours < 0 ? "from" : "until")", "put the clock right",
                ] {
                    #expect(own.output.contains(words), "\(own.output)")
                }
                #expect(try await sites.london.inspect("data")["role"] as? String == "owning")
                try await SiteTests.wait("sydney's log to say so") {
                    try String(contentsOfFile: sites.sydney.logPath, encoding: .utf8).contains(
                        "put the clock right")
                }
                // The clock is put right, and it works, without a restart.
                try sites.sydneysClock.set(.zero)
                try await SiteTests.wait("the hand-over") {
                    try await sites.london.run(["migrate", "data", "--to", "sydney", "--detach"]).exit
                        .isSuccess
                }
            }
        }
    }
}
