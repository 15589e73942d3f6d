import Foundation
import Testing

@testable import MountHolder
@testable import TestBed

/// Two sites with one holder of mounts, and a way to replace it.
private struct Held: Sendable {
    let pair: SitePair
    let cleanup: Cleanup
    let client: HolderClient

    var london: SiteProcess { pair.london }

    /// Starts a holder; ended with everything else.
    @discardableResult
    static func startHolder(_ path: String, _ cleanup: Cleanup) async throws -> ChildProcess {
        let process = try await ChildProcess.start(Program(godwitBinary, ["hold", "--socket", path]))
        try cleanup.add("holder") { await process.end() }
        try await SiteTests.wait("the holder") { (try? HolderClient(path: path).names()) != nil }
        return process
    }

    /// Runs a test with a volume `data` that is mounted at london. Whatever its end, nobody waits in the mount for ever:
    /// the holder's end is the mount's.
    static func run(
        _ link: LinkSettings = slowLink(megabits: 100), options: [String] = [],
        _ body: @escaping @Sendable (Held, ChildProcess, _ mount: String) async throws -> Void
    ) async throws {
        let directory = "/tmp/godwit-holder-" + UUID().uuidString.lowercased()
        let path = directory + "/holder.sock"
        let started = Started()
        try await withSites(link, options: options + ["--mount-holder", path]) { _, cleanup in
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            try cleanup.add(directory: directory)
            await started.set(try await startHolder(path, cleanup))
        } _: { pair, cleanup in
            guard let holder = await started.process else { throw LabError.invalid("no holder") }
            try await pair.london.godwit(["volume", "create", "data", "--capacity", "4Gi"])
            let mount = try await pair.mount("data", at: pair.london, cleanup)
            try await body(
                Held(pair: pair, cleanup: cleanup, client: HolderClient(path: path)), holder, mount)
        }
    }

    private actor Started {
        var process: ChildProcess?
        func set(_ process: ChildProcess) { self.process = process }
    }

    func restart(_ site: SiteProcess) async throws {
        await site.stop()
        #expect(try client.names().count == 1, "it has not left its mount")
        try await site.start()
        #expect(try client.names().isEmpty)
    }

    /// Compiles and starts `restless` in a mount, and waits until it has done something.
    func startRestless(in mount: String) async throws -> (process: ChildProcess, progress: String) {
        let source = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path + "/restless.c"
        let program = pair.directory + "/restless"
        let progress = pair.directory + "/progress"
        try await ChildProcess.check(Program("gcc", ["-O1", "-Wall", "-Werror", "-o", program, source]))
        let process = try await ChildProcess.start(Program(program, [mount, progress]))
        try cleanup.add(process, with: SIGKILL)
        return (process, progress)
    }

    /// Waits for so many more rounds of `restless`.
    func waitForRounds(_ count: UInt64, _ progress: String, _ process: ChildProcess) async throws {
        func rounds() -> UInt64 {
            guard let data = FileManager.default.contents(atPath: progress), data.count == 8 else { return 0 }
            return data.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
        }
        let wanted = rounds() + count
        try await SiteTests.wait("\(count) rounds") {
            if let exit = process.exit { throw LabError.invalid("\(exit): \(process.output())") }
            return rounds() >= wanted
        }
    }
}

private actor Restarts {
    private(set) var count = 0
    func note() { count += 1 }
}

extension SiteTests {
    /// A site is stopped and started again while its volumes are used. What an application sees of it is a pause.
    @Suite struct RestartTests {
        @Test func aProgramThatUsesEverythingGoesOnThroughFiveRestarts() async throws {
            try await Held.run { held, _, mount in
                let (process, progress) = try await held.startRestless(in: mount)
                for _ in 0..<5 {
                    try await held.waitForRounds(10, progress, process)
                    try await held.restart(held.london)
                }
                try await held.waitForRounds(10, progress, process)
                let exit = await process.end(grace: .seconds(60))
                #expect(exit.isSuccess, "\(process.output())")
                // Files without a name go with whoever had them open, also over a restart.
                try await SiteTests.wait("files without a name to go") {
                    try await held.pair.unmount("data", at: held.london)
                    let check = try await held.london.run(["volume", "check", "data"])
                    #expect(check.exit.isSuccess, "\(check.output)")
                    return true
                }
                try await held.pair.mount("data", at: held.london, held.cleanup)
                let left = try await shell("ls work | sort | tr '\\n' ' '", in: mount)
                #expect(left.output == "direct lock log many mapped named ranges whole ", "\(left.output)")
                try await held.pair.unmount("data", at: held.london)
            }
        }

        @Test func aDatabaseGoesOnThroughRestarts() async throws {
            try await Held.run { held, _, mount in
                let server = try PostgreSQLServer(
                    dataDirectory: mount + "/pg", socketDirectory: held.pair.directory + "/pg")
                try await server.initialise()
                try held.cleanup.add("PostgreSQL") { await server.kill() }
                try await server.start()
                try await server.load(byteCount: 1)
                try await server.query("create table noted(id bigint primary key)", database: "bench")
                let restarts = Restarts()
                let restarting = Task {
                    for _ in 0..<5 {
                        try await Task.sleep(for: .seconds(1))
                        try await held.restart(held.london)
                        await restarts.note()
                    }
                }
                // Rounds are counted when they were acknowledged.
                var acknowledged = 0
                repeat {
                    _ = try await server.pgbench(["-n", "-c", "2", "-j", "1", "-t", "50"])
                    try await server.query("insert into noted values (\(acknowledged))", database: "bench")
                    acknowledged += 1
                } while await restarts.count < 5 && acknowledged < 500
                try await restarting.value
                #expect(
                    try await server.query("select count(*) from noted", database: "bench")
                        == "\(acknowledged)")
                #expect(
                    try await server.query("select count(*) from pgbench_history", database: "bench")
                        == "\(acknowledged * 100)")
                #expect(
                    try await server.query(
                        "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)",
                        database: "bench") == "t")
                try await server.stop()
                try await held.pair.unmount("data", at: held.london)
            }
        }

        @Test func aReadOfBytesThatAreElsewhereWaitsOverTheRestart() async throws {
            try await Held.run(
                slowLink(megabits: 20), options: ["--fault-timeout", "60", "--no-background-hydration"]
            ) {
                held, _, mount in
                let (pair, cleanup) = (held.pair, held.cleanup)
                try writeRandomFile(mount + "/big", byteCount: 16 << 20)
                _ = try await shell("mkdir d; for i in $(seq 1 3000); do : > d/$i; done", in: mount)
                let last = Array(try bytes(mount + "/big").suffix(4096))
                try await pair.unmount("data", at: pair.london)
                try await pair.london.godwit(["migrate", "data", "--to", "sydney", "--detach"])
                let sydney = try await pair.mount("data", at: pair.sydney, cleanup)
                try await pair.link.cut(Set(LinkDirection.allCases))
                var program = Program("/bin/bash", ["-ec", "tail -c 4096 big"])
                program.directory = sydney
                program.output = .file(pair.directory + "/read")
                let reader = try await ChildProcess.start(program)
                try cleanup.add(reader, with: SIGKILL)
                // Until its request is with the site.
                try await Task.sleep(for: .seconds(2))
                #expect(reader.exit == nil)
                try await held.restart(pair.sydney)
                #expect(reader.exit == nil, "\(reader.output())")
                // Twice: what was taken over is handed on as well.
                try await held.restart(pair.sydney)
                #expect(reader.exit == nil, "\(reader.output())")
                try await pair.link.cut([])
                let exit = try await reader.wait(limit: .seconds(120))
                #expect(exit.isSuccess)
                #expect(try bytes(pair.directory + "/read") == last)
                let names = try await shell("ls d | wc -l", in: sydney)
                #expect(names.output == "3000\n", "\(names.output)")
                try await pair.unmount("data", at: pair.sydney)
            }
        }

        /// What was accepted and not yet safe may be gone with the process: nobody may go on as if it were not.
        @Test func aKilledSiteEndsItsMountAndTheNextOneServesAgain() async throws {
            try await Held.run { held, _, mount in
                _ = try await shell("echo kept > file; sync file .", in: mount)
                // Also after a restart in order: nothing of the descriptor is left with the holder.
                try await held.restart(held.london)
                let before = try await shell("cat file", in: mount)
                #expect(before.output == "kept\n")
                await held.london.kill()
                #expect(try held.client.names().isEmpty)
                let dead = try await ChildProcess.run(Program("/bin/cat", [mount + "/file"]))
                #expect(
                    !dead.exit.isSuccess && dead.output.contains("Transport endpoint is not connected"),
                    "\(dead.output)")
                try await held.london.start()
                // It stays, so that who goes on there fails and does not write below it.
                let still = try await ChildProcess.run(
                    Program("/bin/sh", ["-c", "echo x > '\(mount)/file'"]))
                #expect(
                    !still.exit.isSuccess && still.output.contains("Transport endpoint is not connected"),
                    "\(still.output)")
                try await held.pair.mount("data", at: held.london, held.cleanup)
                #expect(try await shell("cat file", in: mount).output == "kept\n")
                await held.london.kill()
                try await held.london.start()
                // What has no server is not in the way of another volume either.
                try await held.london.godwit(["volume", "create", "other", "--capacity", "1Gi"])
                let id = try #require(try await held.london.inspect("other")["id"] as? String)
                try await held.london.csi(["unstage", id, "--staging-path", mount])
                #expect(try TestBed.mountPoints().contains(mount), "it is not the other's to take away")
                try await held.pair.mount("other", at: held.london, held.cleanup)
                #expect(try await shell("ls", in: mount).output == "")
                try await held.pair.unmount("other", at: held.london)
                try await held.pair.mount("data", at: held.london, held.cleanup)
                await held.london.kill()
                try await held.london.start()
                try await held.pair.unmount("data", at: held.london)
                #expect(!(try TestBed.mountPoints().contains(mount)))
            }
        }

        @Test func aSiteGoesOnWithoutItsHolderAndUsesTheNextOne() async throws {
            try await Held.run { held, holder, mount in
                let (process, progress) = try await held.startRestless(in: mount)
                try await held.waitForRounds(5, progress, process)
                await holder.end(with: SIGKILL)
                try await SiteTests.wait("the site to notice") {
                    try String(contentsOfFile: held.london.logPath, encoding: .utf8)
                        .contains("would end mounts that are in use")
                }
                try await held.waitForRounds(5, progress, process)
                let next = try await Held.startHolder(held.client.path, held.cleanup)
                try await held.restart(held.london)
                try await held.waitForRounds(5, progress, process)
                let exit = await process.end(grace: .seconds(60))
                #expect(exit.isSuccess, "\(process.output())")

                // While the site is away the holder is all that there is.
                await held.london.stop()
                #expect(try held.client.names().count == 1)
                await next.end(with: SIGKILL)
                let dead = try await ChildProcess.run(Program("/bin/ls", [mount]))
                #expect(!dead.exit.isSuccess, "\(dead.output)")
                try await held.london.start()
                try await held.pair.mount("data", at: held.london, held.cleanup)
                #expect(try await shell("ls work | wc -l", in: mount).output == "8\n")
                try await held.pair.unmount("data", at: held.london)
            }
        }

        /// As if the next release agreed on something else with the kernel, or did not understand what was left.
        @Test(arguments: ["answer", "meaning", "form", "sequence"])
        func aMountThatCannotGoOnIsEndedAndSaysWhy(damage: String) async throws {
            try await Held.run { held, _, mount in
                _ = try await shell("echo kept > file", in: mount)
                await held.london.stop()
                let name = try #require(try held.client.names().first)
                let left = try #require(try held.client.take(name))
                var state = try #require(
                    try JSONSerialization.jsonObject(with: Data(try left.state())) as? [String: Any])
                var session = try #require(state["session"] as? [String: Any])
                switch damage {
                case "answer":
                    var answer = try #require(session["answer"] as? [Int])
                    answer[30] ^= 1
                    session["answer"] = answer
                case "meaning": session["meaning"] = 1000
                default: state[damage] = 1000
                }
                state["session"] = session
                let bytes = Array(try JSONSerialization.data(withJSONObject: state))
                try held.client.put(HeldMount(device: left.takeDevice(), state: bytes), as: name)
                try await held.london.start()
                let log = try String(contentsOfFile: held.london.logPath, encoding: .utf8)
                #expect(log.contains("is ended"), "\(log.suffix(1000))")
                let dead = try await ChildProcess.run(Program("/bin/ls", [mount]), limit: .seconds(30))
                #expect(
                    !dead.exit.isSuccess && dead.output.contains("Transport endpoint is not connected"),
                    "\(dead.output)")
                #expect(try held.client.names().isEmpty)
                try await held.pair.mount("data", at: held.london, held.cleanup)
                #expect(try await shell("cat file", in: mount).output == "kept\n")
                try await held.pair.unmount("data", at: held.london)
            }
        }

        /// What is mounted stays here while the site is away, and afterwards nobody gets it either.
        @Test func aVolumeIsNotHandedAwayOverARestart() async throws {
            try await Held.run { held, _, mount in
                _ = try await shell("echo one > file", in: mount)
                try await held.pair.london.godwit(["migrate", "data", "--to", "sydney", "--prepare-only"])
                try await held.restart(held.london)
                let refused = try await held.pair.sydney.run([
                    "volume", "mount", "data", held.pair.mountPoint(of: held.pair.sydney),
                ])
                #expect(
                    !refused.exit.isSuccess && refused.output.contains("london-node"), "\(refused.output)")
                _ = try await shell("echo two >> file", in: mount)
                try await held.pair.unmount("data", at: held.london)
                let sydney = try await held.pair.mount("data", at: held.pair.sydney, held.cleanup)
                #expect(try await shell("cat file", in: sydney).output == "one\ntwo\n")
                try await held.pair.unmount("data", at: held.pair.sydney)
            }
        }
    }
}
