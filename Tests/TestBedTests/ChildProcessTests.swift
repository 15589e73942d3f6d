import Glibc
import Testing

@testable import TestBed

extension TestBedTests {
    @Suite struct ChildProcessTests {
        private func shell(_ script: String) -> Program { Program("sh", ["-c", script]) }

        @Test func outputAndExitCodeAreCollected() async throws {
            let outcome = try await ChildProcess.run(shell("echo out; echo error >&2; exit 3"))
            #expect(outcome.exit == .exited(3))
            #expect(outcome.output == "out\nerror\n")
            #expect(outcome.usage != nil)
        }

        @Test func inputEnvironmentAndDirectoryArrive() async throws {
            var program = shell("cat; echo $GREETING; pwd")
            program.input = Array(repeating: UInt8(ascii: "x"), count: 300_000)
            program.environment = ["GREETING": "hello"]
            program.directory = "/usr"
            let output = try await ChildProcess.check(program)
            #expect(output == String(repeating: "x", count: 300_000) + "hello\n/usr\n")
        }

        @Test func outputGoesToTheEndOfAFile() async throws {
            try await withTemporaryDirectory { directory in
                for word in ["one", "two"] {
                    var program = shell("echo \(word)")
                    program.output = .file("\(directory)/log")
                    try await ChildProcess.check(program)
                }
                #expect(try readSmallFile("\(directory)/log") == Array("one\ntwo\n".utf8))
            }
        }

        @Test func failuresSayWhat() async throws {
            await #expect(throws: LabError.programMissing("no-such-program")) {
                try await ChildProcess.run(Program("no-such-program"))
            }
            await #expect(throws: LabError.programFailed("sh", exit: .exited(4), output: "why\n")) {
                try await ChildProcess.check(shell("echo why; exit 4"))
            }
            var program = shell("true")
            program.directory = "/no/such/directory"
            await #expect(throws: LabError.systemCall("chdir", detail: "sh", errno: ENOENT)) {
                try await ChildProcess.run(program)
            }
            program = shell("true")
            program.network = NetworkNamespace(existing: "no-such-namespace")
            await #expect(throws: LabError.systemCall("setns", detail: "sh", errno: ENOENT)) {
                try await ChildProcess.run(program)
            }
            await #expect(throws: LabError.self) { try await ChildProcess.run(Program("sh", ["a\0b"])) }
        }

        @Test func aTimeLimitKills() async throws {
            let start = ContinuousClock.now
            await #expect(throws: LabError.tooSlow("sleep", limit: .milliseconds(100))) {
                try await ChildProcess.run(Program("sleep", ["100"]), limit: .milliseconds(100))
            }
            #expect(ContinuousClock.now - start < .seconds(20))
        }

        @Test func waitingMayEndBeforeTheProgram() async throws {
            let child = try await ChildProcess.start(Program("sleep", ["100"]))
            await #expect(throws: LabError.self) { try await child.wait(limit: .milliseconds(50)) }
            #expect(child.exit == nil)
            #expect(child.kill(SIGTERM))
            #expect(try await child.wait(limit: .seconds(10)) == .signalled(SIGTERM))
            #expect(!child.kill(SIGTERM))
        }

        @Test func cancellingATaskKillsWhatItRuns() async throws {
            try await withTemporaryDirectory { directory in
                let task = Task {
                    try await ChildProcess.run(shell("echo $$ > \(directory)/pid; exec sleep 100"))
                }
                #expect(try await becomesTrue { (try? readSmallFile("\(directory)/pid"))?.isEmpty == false })
                let text = String(decoding: try readSmallFile("\(directory)/pid"), as: UTF8.self)
                let pid = try #require(Int32(text.trimmingFinalNewline()))
                task.cancel()
                await #expect(throws: CancellationError.self) { try await task.value }
                #expect(processStart(pid) == nil)
            }
        }

        @Test func aSignalReachesTheWholeGroup() async throws {
            let child = try await ChildProcess.start(shell("sleep 1000 & echo $!; wait"))
            #expect(try await becomesTrue { child.output().hasSuffix("\n") })
            let grandchild = try #require(Int32(child.output().trimmingFinalNewline()))
            child.kill()
            try await child.wait(limit: .seconds(10))
            #expect(try await becomesTrue { processStart(grandchild) == nil || isZombie(grandchild) })
        }

        @Test func oneThatIgnoresTheQuestionIsKilled() async throws {
            let child = try await ChildProcess.start(
                shell("trap '' TERM; echo ready; while :; do sleep 0.05; done"))
            #expect(try await becomesTrue { child.output() == "ready\n" })
            #expect(await child.end(grace: .milliseconds(200)) == .signalled(SIGKILL))
            #expect(await child.end() == .signalled(SIGKILL))
        }

        @Test func nothingIsLeftWhenNobodyWaits() async throws {
            var pids: [Int32] = []
            for _ in 0..<20 { pids.append(try await ChildProcess.start(Program("true")).pid) }
            var sleeper: ChildProcess? = try await ChildProcess.start(Program("sleep", ["1000"]))
            pids.append(try #require(sleeper?.pid))
            sleeper = nil
            #expect(try await becomesTrue { pids.allSatisfy { processStart($0) == nil } })
        }

        /// The kernel's signal goes with the thread that forked: a thread that ends stands for a process that
        /// dies.
        @Test func aChildDiesWithItsParent() async throws {
            let program = Program("sleep", ["1000"])
            let files = try StandardFiles(program)
            let path = try program.path()
            let record = try await DedicatedThread.run("short-lived") {
                try ChildProcess.launch(program, path: path, files: files)
            }
            #expect(try await becomesTrue { record.reap() })
            #expect(record.ending?.exit == .signalled(SIGKILL))
            close(record.pidfd)
        }

        @Test func manyAtOnceAllEnd() async throws {
            try await withThrowingTaskGroup(of: String.self) { group in
                for number in 0..<50 {
                    group.addTask { try await ChildProcess.check(shell("echo \(number)")) }
                }
                var outputs: Set<String> = []
                for try await output in group { outputs.insert(output) }
                #expect(outputs == Set((0..<50).map { "\($0)\n" }))
            }
        }

        @Test func aChildGetsNoDescriptorsAndNoSignalMask() async throws {
            let file = open("/dev/null", O_RDONLY)  // Without O_CLOEXEC, on purpose.
            defer { close(file) }
            let output = try await ChildProcess.check(
                shell("ls /proc/self/fd; grep -E 'SigBlk|SigIgn' /proc/self/status"))
            let lines = output.split(separator: "\n").map(String.init)
            // 3 is the directory that ls reads.
            #expect(Array(lines.prefix(while: { !$0.hasPrefix("Sig") })) == ["0", "1", "2", "3"])
            #expect(lines.suffix(2).allSatisfy { $0.hasSuffix("0000000000000000") }, "\(output)")
        }

        @Test(.enabled(if: isRoot)) func userAndGroupsAreThoseAskedFor() async throws {
            var program = shell("id -u; id -g; id -G; grep CapEff /proc/self/status")
            program.user = UserIdentity(user: 12345, group: 23456, groups: [34567])
            let lines = try await ChildProcess.check(program).split(separator: "\n")
            #expect(lines.first == "12345" && lines.dropFirst().first == "23456")
            #expect(Set(lines[2].split(separator: " ")) == ["23456", "34567"])
            #expect(lines[3].hasSuffix("0000000000000000"))
            #expect(try UserIdentity(named: "root").user == 0)
            #expect(throws: LabError.self) { try UserIdentity(named: "no-such-user") }
        }

        @Test(.enabled(if: isRoot)) func theNetworkIsTheNamespaceAndTheMountsAreOurs() async throws {
            try await withLink { link in
                var program = shell("readlink /proc/self/ns/net /proc/self/ns/mnt")
                let outside = try await ChildProcess.check(program).split(separator: "\n")
                program.network = link.a.namespace
                let inside = try await ChildProcess.check(program).split(separator: "\n")
                #expect(outside[0] != inside[0])
                #expect(outside[1] == inside[1])
            }
        }

        private func isZombie(_ pid: Int32) -> Bool {
            guard let text = try? readSmallFile("/proc/\(pid)/stat") else { return true }
            return String(decoding: text, as: UTF8.self).contains(") Z ")
        }
    }
}
