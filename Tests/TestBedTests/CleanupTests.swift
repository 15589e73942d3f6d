import Glibc
import Synchronization
import Testing

@testable import TestBed

private final class Journal: Sendable {
    private let state = Mutex([String]())
    func note(_ line: String) { state.withLock { $0.append(line) } }
    var lines: [String] { state.withLock(\.self) }
}

private struct Trouble: Error {}

extension TestBedTests {
    @Suite struct CleanupTests {
        private let journal = Journal()

        @Test func actionsRunLastFirst() async throws {
            try await Cleanup.scope(catchingSignals: false) { [journal] cleanup in
                for name in ["first", "second", "third"] { try cleanup.add(name) { journal.note(name) } }
                journal.note("body")
            }
            #expect(journal.lines == ["body", "third", "second", "first"])
        }

        @Test func anErrorTakesBackAndIsThrownOn() async throws {
            await #expect(throws: Trouble.self) {
                try await Cleanup.scope(catchingSignals: false) { [journal] cleanup in
                    try cleanup.add("a") { journal.note("a") }
                    throw Trouble()
                }
            }
            #expect(journal.lines == ["a"])
        }

        @Test func aFailedActionIsReportedAndTheOthersRun() async throws {
            try await Cleanup.scope(catchingSignals: false, report: { [journal] in journal.note($0) }) {
                [journal] cleanup in
                try cleanup.add("first") { journal.note("first") }
                try cleanup.add("bad") { throw LabError.invalid("it is stuck") }
                try cleanup.add("last") { journal.note("last") }
            }
            #expect(journal.lines == ["last", "first", "not cleaned up: bad: it is stuck"])
        }

        @Test func aStuckActionIsLeftAfterItsLimit() async throws {
            let cleanup = Cleanup()
            try cleanup.add("first") { [journal] in journal.note("first") }
            try cleanup.add("stuck", limit: .milliseconds(50)) {
                // Deaf to cancellation.
                await withCheckedContinuation { continuation in
                    Task.detached {
                        try? await Task.sleep(for: .seconds(1))
                        continuation.resume()
                    }
                }
            }
            let failures = await cleanup.undoAll()
            #expect(failures.map(\.what) == ["stuck"])
            #expect(journal.lines == ["first"])
        }

        @Test func eachActionRunsOnce() async throws {
            let cleanup = Cleanup()
            let early = try cleanup.add("early") { [journal] in journal.note("early") }
            let forgotten = try cleanup.add("forgotten") { [journal] in journal.note("forgotten") }
            try cleanup.add("late") { [journal] in journal.note("late") }
            try await cleanup.undo(early)
            try await cleanup.undo(early)
            cleanup.forget(forgotten)
            async let one = cleanup.undoAll()
            async let two = cleanup.undoAll()
            _ = await (one, two)
            #expect(journal.lines == ["early", "late"])
            #expect(throws: LabError.self) { try cleanup.add("too late") {} }
        }

        @Test func actionsRunAfterTheTaskWasCancelled() async throws {
            let task = Task { [journal] in
                try await Cleanup.scope(catchingSignals: false) { cleanup in
                    try cleanup.add("sleeps") {
                        try await Task.sleep(for: .milliseconds(10))
                        journal.note("sleeps")
                    }
                    journal.note("ready")
                    try await Task.sleep(for: .seconds(100))
                }
            }
            #expect(try await becomesTrue { journal.lines == ["ready"] })
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
            #expect(journal.lines == ["ready", "sleeps"])
        }

        @Test func treesAreRemovedWithoutFollowingLinks() async throws {
            try await withTemporaryDirectory { directory in
                let script = """
                    mkdir -p tree/a/b keep && echo x > keep/file && ln -s ../keep tree/a/link && ln -s keep link
                    echo y > tree/a/b/file && mkfifo tree/fifo && chmod 000 tree/a/b/file && mkdir "tree/ ..."
                    """
                var program = Program("sh", ["-ec", script])
                program.directory = directory
                try await ChildProcess.check(program)
                try removeTree("\(directory)/tree")
                try removeTree("\(directory)/link/")
                try removeTree("\(directory)/never-there")
                #expect(!exists("\(directory)/tree") && !exists("\(directory)/link"))
                #expect(exists("\(directory)/keep/file"))
                #expect(throws: LabError.self) { try removeTree("/") }
                #expect(throws: LabError.self) { try removeTree("\(directory)/keep/..") }
                #expect(exists("\(directory)/keep/file"))
            }
        }

        @Test(.enabled(if: isRoot)) func mountsAreTakenBackAndNeverEmptied() async throws {
            try await withTemporaryDirectory { directory in
                let point = "\(directory)/a mount"
                #expect(mkdir(point, 0o755) == 0)
                let cleanup = Cleanup()
                try cleanup.add(mountAt: point)
                await cleanup.undoAll()  // Nothing is mounted: no failure.
                try await ChildProcess.check(Program("mount", ["-t", "tmpfs", "none", point]))
                #expect(try mountPoints().contains(point))
                try await ChildProcess.check(Program("touch", ["\(point)/precious"]))
                #expect(throws: LabError.self) { try removeTree(directory) }
                #expect(throws: LabError.self) { try removeTree(point) }
                #expect(exists("\(point)/precious"))
                let second = Cleanup()
                try second.add(mountAt: point)
                let failures = await second.undoAll()
                #expect(failures.isEmpty)
                #expect(try !mountPoints().contains(point))
            }
        }

        @Test func programsAreEnded() async throws {
            let child = try await ChildProcess.start(Program("sleep", ["1000"]))
            let cleanup = Cleanup()
            try cleanup.add(child)
            let failures = await cleanup.undoAll()
            #expect(failures.isEmpty)
            #expect(child.exit == .signalled(SIGTERM))
        }
    }
}
