import Foundation
import Synchronization
import Testing
import VolumeModel

@testable import Site
@testable import TestBed

extension SiteTests {
    /// Of two processes on one state directory, one.
    @Suite struct StateLockTests {
        @Test func theSecondWaitsForTheFirstAndIsToldWhoItIs() async throws {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let state = try StateDirectory(try cleanup.makeTemporaryDirectory())
                let first = try await StateLock(state, patience: .zero) { Issue.record("\($0) has it") }
                await #expect(throws: SiteError.self) { try await StateLock(state, patience: .zero) }
                let told = Mutex<[String]>([])
                let second = Task {
                    try await StateLock(state, patience: .seconds(60)) { other in
                        told.withLock { $0.append(other) }
                    }
                }
                try await SiteTests.wait("the second to wait") { told.withLock { !$0.isEmpty } }
                #expect(told.withLock { $0 }.first?.contains("process \(getpid()) at") == true)
                first.release()
                let lock = try await second.value
                #expect(told.withLock { $0.count } == 1)
                // Having let go, the first one is of no account any more.
                first.release()
                await #expect(throws: SiteError.self) { try await StateLock(state, patience: .zero) }
                lock.release()
                try await StateLock(state, patience: .zero).release()
            }
        }

        @Test func whatStandsInTheFileIsOfNoAccount() async throws {
            try await Cleanup.scope(catchingSignals: false) { cleanup in
                let state = try StateDirectory(try cleanup.makeTemporaryDirectory())
                for text in ["", "\u{1b}[31mred", String(repeating: "x", count: 10_000)] {
                    try Data(text.utf8).write(to: URL(fileURLWithPath: state.lock))
                    try await StateLock(state, patience: .zero).release()
                }
                let link = try StateDirectory(try cleanup.makeTemporaryDirectory())
                let elsewhere = link.path + "/elsewhere"
                try Data("kept".utf8).write(to: URL(fileURLWithPath: elsewhere))
                try FileManager.default.createSymbolicLink(
                    atPath: link.lock, withDestinationPath: elsewhere)
                await #expect(throws: SiteError.self) { try await StateLock(link, patience: .zero) }
                #expect(try String(contentsOfFile: elsewhere, encoding: .utf8) == "kept")
            }
        }

        /// A second site is started beside the first, and goes on when that one is killed.
        @Test func aSecondSiteTouchesNothingUntilTheFirstHasEnded() async throws {
            try await withSites { pair, cleanup in
                let site = pair.london
                try await site.godwit(["volume", "create", "data", "--capacity", "1Gi"])
                let pid = try #require(await site.pid)
                // Its own sockets would replace those of the first.
                let log = pair.directory + "/second.log"
                var program = Program(
                    godwitBinary, ["site", "--state-dir", site.stateDirectory, "--node", "london-node"])
                program.output = .file(log)
                func text() -> String { (try? String(contentsOfFile: log, encoding: .utf8)) ?? "" }
                let second = try await ChildProcess.start(program)
                try cleanup.add(second, with: SIGKILL)
                try await SiteTests.wait("the second to wait") { text().contains("process \(pid) at") }
                #expect(!text().contains("is ready"))
                #expect(try await site.inspect("data")["role"] as? String == "owning")
                // A signal ends the waiting.
                let exit = await second.end(with: SIGTERM, grace: .seconds(60))
                #expect(!exit.isSuccess && !text().contains("is ready"), "\(exit): \(text())")
                #expect(try await site.inspect("data")["role"] as? String == "owning")

                let third = try await ChildProcess.start(program)
                try cleanup.add(third, with: SIGKILL)
                try await SiteTests.wait("the third to wait") {
                    text().components(separatedBy: "process \(pid) at").count >= 2
                }
                await site.kill()
                try await SiteTests.wait("the third to serve") { text().contains("is ready") }
                #expect(try await site.inspect("data")["role"] as? String == "owning")
                await third.end(with: SIGTERM, grace: .seconds(60))
            }
        }
    }
}
