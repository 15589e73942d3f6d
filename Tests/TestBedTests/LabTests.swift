import Glibc
import Testing

@testable import TestBed

extension TestBedTests {
    /// The program `godwit-lab` as a person runs it.
    @Suite(.enabled(if: isRoot, "network namespaces need root")) struct LabTests {
        private func startLink(_ arguments: [String] = []) async throws -> (
            child: ChildProcess, namespaces: [String]
        ) {
            let child = try await ChildProcess.start(
                Program(try productPath("godwit-lab"), ["wan"] + arguments))
            let isReady = try await becomesTrue(within: .seconds(30)) {
                child.exit != nil || child.output().split(separator: "\n").count >= 2
            }
            #expect(isReady && child.exit == nil, "\(child.output())")
            let names = child.output().split(separator: "\n").prefix(2).compactMap { line in
                line.split(separator: " ").dropFirst().first.map(String.init)
            }
            #expect(names.count == 2 && names.allSatisfy { exists("/run/netns/\($0)") })
            return (child, names)
        }

        @Test(arguments: [(SIGINT, 130), (SIGTERM, 143), (SIGHUP, 129)] as [(Int32, Int32)])
        func aSignalCleansUpAndIsInTheExitCode(_ signal: Int32, _ code: Int32) async throws {
            let (child, names) = try await startLink()
            child.signal(signal)
            #expect(try await child.wait(limit: .seconds(30)) == .exited(code))
            for name in names { #expect(!exists("/run/netns/\(name)")) }
        }

        @Test func countersComeOnceASecond() async throws {
            let (child, _) = try await startLink(["--rate", "10M", "--delay", "2ms", "--duration", "2.2s"])
            #expect(try await child.wait(limit: .seconds(30)) == .exited(0))
            let lines = child.output().split(separator: "\n").dropFirst(2)
            #expect(lines.count == 3)
            #expect(lines.allSatisfy { $0.contains("A→B") && $0.contains("B→A") })
        }

        @Test func jsonHasTheSameFacts() async throws {
            let program = Program(try productPath("godwit-lab"), ["wan", "--json", "--duration", "1s"])
            let lines = try await ChildProcess.check(program).split(separator: "\n")
            #expect(lines.count == 2)
            #expect(lines.first?.contains(#""address":"10.77."#) == true)
            #expect(lines.last?.contains(#""delivered":{"bytes":"#) == true)
        }

        @Test func aReaderThatGoesAwayEndsItInOrder() async throws {
            let script = "'\(try productPath("godwit-lab"))' wan | head -n 1"
            let line = try await ChildProcess.check(Program("sh", ["-c", script]))
            let name = try #require(line.split(separator: " ").dropFirst().first)
            #expect(name.hasPrefix("gw-"))
            let isGone = try await becomesTrue { !exists("/run/netns/\(name)") }
            #expect(isGone)
        }

        @Test func whatAKilledProgramLeavesIsRemovedAtTheNextStart() async throws {
            let (child, names) = try await startLink()
            child.kill(SIGKILL)
            try await child.wait(limit: .seconds(30))
            // The names stay, the devices are gone with their descriptors.
            for name in names {
                #expect(exists("/run/netns/\(name)"))
                var program = Program("ip", ["-o", "link"])
                program.network = NetworkNamespace(existing: name)
                let isGone = try await becomesTrue {
                    !(try await ChildProcess.check(program).contains("wan0"))
                }
                #expect(isGone)
            }
            let (next, others) = try await startLink()
            for name in names { #expect(!exists("/run/netns/\(name)")) }
            try await withLink { link in
                // And what a living one has stays.
                for name in others { #expect(exists("/run/netns/\(name)")) }
                #expect(others.allSatisfy { $0 != link.a.namespace.name })
            }
            await next.end()
        }

        @Test(arguments: [
            ["--rate", "fast"], ["--rate", "0"], ["--delay", "10"], ["--loss", "7"], ["--mtu", "1"],
        ])
        func nonsenseIsRefusedWithAReason(_ arguments: [String]) async throws {
            let outcome = try await ChildProcess.run(
                Program(try productPath("godwit-lab"), ["wan"] + arguments))
            #expect(outcome.exit == .exited(64))
            #expect(outcome.output.contains("Error:"))
        }
    }
}
