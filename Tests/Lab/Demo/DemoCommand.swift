internal import ArgumentParser
internal import Foundation
internal import Glibc
internal import TestBed

/// `godwit-lab demo`
struct DemoCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo", abstract: "A database moves between two sites before its bytes do.",
        discussion: """
            Starts two sites, london and sydney, in two network namespaces with an emulated WAN link between \
            them; makes a volume at london through its CSI socket, loads a database onto it, stops it, hands \
            the volume over, and starts the database at sydney while its bytes still stream. Everything shown \
            is measured in this run. Can be stopped at any time; leaves nothing behind. Needs root.
            """)

    @Option(help: "The link's rate in each direction.") var rate = BitRate(megabits: 100)
    @Option(help: "The link's delay in each direction: half of the round trip.") var delay = Interval(
        milliseconds: 10)
    @Option(help: "The database: postgresql or mariadb.") var database = DemoDatabase.postgresql
    @Option(help: "At least this much data: 1G, 256M.") var size = ByteCount(argument: "1G")!
    @Flag(help: "Also measure a full copy with rsync over the same link.") var rsync = false
    @Option(help: "The program godwit; beside this one if not given.") var godwit: String?
    @Option(help: "Where the state of both sites goes for the time of the demonstration.") var directory =
        "/tmp"

    func validate() throws {
        guard geteuid() == 0 else { throw ValidationError("mounts and network namespaces need root") }
    }

    func run() async throws {
        let settings = LinkSettings(LineSettings(bitsPerSecond: rate.bitsPerSecond, delay: delay.duration))
        let command = self
        signal(SIGPIPE, SIG_IGN)
        try await Cleanup.scope { cleanup in
            let pair = try await SitePair.start(
                binary: try command.binary(), link: settings, in: command.directory, cleanup)
            let trips = try await LinkProbe(pair.link).roundTrips(10, from: .aToB)
            let trip = Series(trips)?.median ?? 0
            say(
                "Two sites, london and sydney, joined by a link of \(rateText(Double(command.rate.bitsPerSecond)))"
                    + " and \(timeText(trip)) round trip (measured).")
            try await Demo(pair: pair, command: command, cleanup: cleanup).run()
        }
        say("Cleaned up: no mounts, processes or namespaces are left.")
    }

    private func binary() throws -> String {
        if let godwit { return godwit }
        let own = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        let beside = own.deletingLastPathComponent().appendingPathComponent("godwit").path
        guard FileManager.default.isExecutableFile(atPath: beside) else {
            throw ValidationError("there is no \(beside): build it, or give --godwit")
        }
        return beside
    }
}

/// One run of the demonstration.
struct Demo {
    let pair: SitePair
    let command: DemoCommand
    let cleanup: Cleanup

    private static let volume = "data"

    func run() async throws {
        let id = try await provision()
        let (before, checked) = try await load(id)
        try await pair.london.godwit(
            ["migrate", Self.volume, "--to", "sydney", "--prepare-only"], limit: .seconds(600))
        say("sydney follows the volume's catalog. The pod ends at london and starts at sydney: now.\n")
        let handedOver = Date()
        var timeline = Timeline(start: ContinuousClock.now)
        let mount = try await attach(id, at: pair.sydney)
        try await note("sydney owns the volume and has it mounted", &timeline)
        let server = try command.database.server(on: mount, sockets: pair.directory + "/sockets-sydney")
        try cleanup.add("\(command.database.title) at sydney") { await server.kill() }
        try await server.begin()
        try await note("\(command.database.title) runs at sydney and answered its first query", &timeline)
        _ = try await server.readSomeRow()
        let first = try await note("a row of the old data was read", &timeline)
        try await server.writeRow()
        try await note("a row was written and committed at sydney", &timeline)
        let hydrated = try await waitForBytes(&timeline)
        say("\n" + timeline.text + "\n")
        try await report(first: first, hydrated: hydrated, total: before.byteCount)
        try await prove(before, server, mount, since: handedOver, expected: checked)
        try await detach(id, at: pair.sydney)
        if command.rsync { try await measureFullCopy(total: before.byteCount) }
    }

    // MARK: before

    private func provision() async throws -> String {
        let answer = try await pair.london.csi(["create-volume", Self.volume, "--required-bytes", "16Gi"])
        let object = try JSONSerialization.jsonObject(with: Data(answer.utf8)) as? [String: Any]
        guard let id = (object?["volume"] as? [String: Any])?["volume_id"] as? String else {
            throw LabError.invalid("no volume id in \(answer)")
        }
        say("Volume \(id) was made at london through its CSI socket.")
        return id
    }

    private func load(_ id: String) async throws -> (TreeDigest, String) {
        let mount = try await attach(id, at: pair.london)
        let server = try command.database.server(on: mount, sockets: pair.directory + "/sockets-london")
        let started = ContinuousClock.now
        try await server.initialise()
        try cleanup.add("\(command.database.title) at london") { await server.kill() }
        try await server.begin()
        try await server.fill(UInt64(command.size.bytes))
        let checked = try await server.check()
        try await server.end()
        let digest = try await TreeDigest.of(mount, withTimes: true)
        say(
            "\(command.database.title) at london holds \(bytesText(digest.byteCount)) in \(digest.fileCount) files"
                + " (loaded in \(timeText(Timeline.seconds(ContinuousClock.now - started)))); it is stopped in order."
        )
        try await detach(id, at: pair.london)
        return (digest, checked)
    }

    // MARK: as Kubernetes would

    private func attach(_ id: String, at site: SiteProcess) async throws -> String {
        let staging = "\(pair.directory)/\(site.name)-staging"
        let target = pair.mountPoint(of: site) + "/volume"
        try await site.csi(["publish", id, "--node", "\(site.name)-node"], limit: .seconds(120))
        try cleanup.add(mountAt: staging)
        try await site.csi(["stage", id, "--staging-path", staging])
        try cleanup.add(mountAt: target)
        try await site.csi(["node-publish", id, "--staging-path", staging, "--target-path", target])
        return target
    }

    private func detach(_ id: String, at site: SiteProcess) async throws {
        let staging = "\(pair.directory)/\(site.name)-staging"
        let target = pair.mountPoint(of: site) + "/volume"
        try await site.csi(["node-unpublish", id, "--target-path", target])
        try await site.csi(["unstage", id, "--staging-path", staging])
        try await site.csi(["unpublish", id, "--node", "\(site.name)-node"])
    }

    // MARK: after

    @discardableResult
    private func note(_ what: String, _ timeline: inout Timeline) async throws -> Double {
        let total = try await pair.sydney.number("totalBytes", of: Self.volume)
        let missing = try await pair.sydney.number("missingBytes", of: Self.volume)
        return timeline.note(what, arrived: total - min(total, missing), of: total)
    }

    private func waitForBytes(_ timeline: inout Timeline) async throws -> Double {
        let started = ContinuousClock.now
        while true {
            let state = try await pair.sydney.inspect(Self.volume)
            let missing = (state["missingBytes"] as? NSNumber)?.uint64Value ?? 0
            if state["released"] as? Bool == true { break }
            if Int(Timeline.seconds(ContinuousClock.now - started)) % 10 == 9 {
                say("  … \(bytesText(missing)) still to come")
                try await Task.sleep(for: .seconds(1))
            }
            try await Task.sleep(for: .milliseconds(100))
        }
        return try await note("every byte is at sydney; london's copy is released", &timeline)
    }

    private func report(first: Double, hydrated: Double, total: UInt64) async throws {
        let state = try await pair.sydney.inspect(Self.volume)
        let crossed = pair.link.counters.aToB.delivered.bytes
        let copy = Double(total) * 8 / Double(command.rate.bitsPerSecond)
        say(
            "A full copy of \(bytesText(total)) over this link takes \(timeText(copy)) at the least (computed:"
        )
        say(
            "bytes over rate), and the database is down for all of it. Here it answered after \(timeText(first))."
        )
        say(
            "Over the link went \(bytesText(crossed)), compressed and without zeros, in \(timeText(hydrated))."
        )
        if let faults = state["faults"] as? NSNumber, let p50 = state["faultP50Microseconds"] as? NSNumber,
            let p99 = state["faultP99Microseconds"] as? NSNumber
        {
            say(
                "\(faults) reads found their bytes missing and fetched them: half within "
                    + "\(timeText(p50.doubleValue / 1e6)), 99 % within \(timeText(p99.doubleValue / 1e6)).")
        }
    }

    /// Every file that the database has not written since the move must be the same, bit for bit; what it has
    /// written is checked by itself.
    private func prove(
        _ before: TreeDigest, _ server: any DemoServer, _ mount: String, since: Date, expected: String
    ) async throws {
        let checked = try await server.check()
        try await server.end()
        let after = try await TreeDigest.of(mount, withTimes: true)
        var written = 0
        for difference in before.differences(to: after) {
            guard case .changed = difference.kind else {
                if case .added = difference.kind { continue }
                if difference.path.contains("/postmaster.pid") || isTransient(difference.path) { continue }
                throw LabError.invalid("after the move: \(difference)")
            }
            let attributes = try FileManager.default.attributesOfItem(atPath: mount + "/" + difference.path)
            guard let changed = attributes[.modificationDate] as? Date, changed >= since else {
                throw LabError.invalid("after the move, and not written since: \(difference)")
            }
            written += 1
        }
        guard checked == expected else {
            throw LabError.invalid("the database's rows are not what they were: \(checked), not \(expected)")
        }
        say(
            "Proof: \(before.entries.count - written) of \(before.entries.count) files and directories are equal by "
                + "SHA-256; \(written) were written by the database at sydney since, and its rows are what they were."
        )
    }

    /// Files that a database removes when it goes on: old log segments and statistics.
    private func isTransient(_ path: String) -> Bool {
        path.contains("pg_wal/") || path.contains("pg_stat/") || path.contains("pg_logical/")
            // Deleted whenever a system table's description changes, by autovacuum for one, and made by who connects next.
            || path.hasSuffix("/pg_internal.init")
            || path.contains("aria_log") || path.contains("ib_buffer_pool") || path.contains("#")
    }

    private func measureFullCopy(total: UInt64) async throws {
        say("Measuring a full copy with rsync over the same link, from sydney back to london …")
        let mount = try await pair.mount(Self.volume, at: pair.sydney, cleanup)
        let target = pair.directory + "/rsync-copy"
        try FileManager.default.createDirectory(atPath: target, withIntermediateDirectories: true)
        let result = try await FullCopy(over: pair.link, .bToA).run(from: mount, to: target)
        say(
            "rsync needed \(timeText(Timeline.seconds(result.duration))) for \(bytesText(result.linkByteCount))."
        )
        try await pair.unmount(Self.volume, at: pair.sydney)
    }
}

/// A line for whoever watches, at once also when the output is a file.
private func say(_ line: String) {
    print(line)
    fflush(nil)
}
