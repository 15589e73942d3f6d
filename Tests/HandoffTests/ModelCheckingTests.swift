import Foundation
import TestBed
import Testing

/// `Handoff.pml` is checked by spin in every state that it can reach. Larger sizes by option:
/// `GODWIT_MODEL_SIZE="-DSITES=3 -DWISHES=3" Tests/run --filter ModelCheckingTests` (gigabytes, and hours).
@Suite(.serialized) struct ModelCheckingTests {
    /// For a size that is asked for, more than enough for the others.
    private static let limit = Duration.seconds(24 * 3600)

    /// Two sites that hand the head over, decline and take back, three times; three sites, twice.
    @Test(arguments: [
        "-DSITES=2 -DWISHES=3 -DABORTS=1 -DWRITES=1", "-DSITES=3 -DWISHES=2 -DABORTS=1 -DWRITES=1",
    ])
    func theModelHoldsInEveryStateItCanReach(_ size: String) async throws {
        try await Self.check(size.split(separator: " ").map(String.init))
    }

    @Test(.enabled(if: ProcessInfo.processInfo.environment["GODWIT_MODEL_SIZE"] != nil))
    func theModelHoldsInTheSizeThatIsAskedFor() async throws {
        let size = ProcessInfo.processInfo.environment["GODWIT_MODEL_SIZE"] ?? ""
        try await Self.check(size.split(separator: " ").map(String.init), optimisation: "-O2")
    }

    /// A model that finds nothing proves nothing: each of these is found, by the invariant that it breaks.
    @Test(arguments: [
        ("DECLINE_NOT_DURABLE", "takenBackAfterDecline"), ("TAKE_BACK_UNASKED", "takenBackAfterDecline"),
        ("BEGIN_WITHOUT_TAIL", "tailFirst"), ("WRITE_WHILE_SEALING", "tailFirst"),
        ("SEAL_TWICE", "noContradiction"),
    ])
    func aPlantedBugIsFoundByTheInvariantThatItBreaks(_ bug: String, _ invariant: String) async throws {
        let sites = bug == "SEAL_TWICE" ? 3 : 2
        let report = try await Self.search(["-DSITES=\(sites)", "-DWISHES=2", "-DWRITES=1", "-DBUG_\(bug)"])
        #expect(report.contains("assertion violated \(invariant)"), "\(report)")
        #expect(!report.contains("errors: 0"), "\(report)")
    }

    /// Nor does a model in which nothing happens.
    @Test(arguments: [
        "DECLINE_REQUEST", "DECLINED", "SPENT", "REFUSED",
    ])
    func theRarerMessagesArriveInTheModel(_ kind: String) async throws {
        let report = try await Self.search(["-DWRITES=1", "-DNEVER=\(kind)"])
        #expect(report.contains("assertion violated (kind!="), "\(report)")
    }

    /// The names are a bridge between the model and the code: each is in both.
    @Test func everyInvariantOfTheModelIsNamedInTheCode() throws {
        let tests = URL(filePath: #filePath).deletingLastPathComponent()
        let code = tests.appending(path: "../../Sources/Handoff/HeadRecord+Invariants.swift")
        let model = try String(contentsOf: tests.appending(path: "Handoff.pml"), encoding: .utf8)
        let words = try String(contentsOf: code, encoding: .utf8)
        let names = Set(model.matches(of: /assert\(([a-zA-Z]+)\)/).map { String($0.output.1) })
        #expect(names.count == 8)
        for name in names { #expect(words.contains("`\(name)`"), "\(name)") }
    }

    private static func check(_ size: [String], optimisation: String = "-O0") async throws {
        let report = try await search(size, optimisation: optimisation)
        #expect(report.contains("errors: 0"), "\(report)")
        for trouble in ["max search depth too small", "Search not completed", "out of memory", "truncated"] {
            #expect(!report.contains(trouble), "\(report)")
        }
        let states = report.firstMatch(of: /(\d+) states, stored/).flatMap { Int($0.output.1) } ?? 0
        #expect(states > 10_000, "\(report)")
    }

    /// - Parameter optimisation: by default none: it would take longer than these searches.
    private static func search(
        _ definitions: [String], optimisation: String = "-O0"
    ) async throws -> String {
        let directory = FileManager.default.temporaryDirectory.appending(path: "godwit-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
        defer { try? FileManager.default.removeItem(at: directory) }
        let model = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Handoff.pml")
        let script = """
            cd "$0" && spin "${@:3}" -a "$1" && \
            gcc "$2" -w -DSAFETY -DCOLLAPSE -DVECTORSZ=2048 -o pan pan.c && ./pan -n -m100000
            """
        // pan ends with 0 also when it found something.
        return try await ChildProcess.check(
            Program("bash", ["-c", script, directory.path, model.path, optimisation] + definitions),
            limit: limit)
    }
}
