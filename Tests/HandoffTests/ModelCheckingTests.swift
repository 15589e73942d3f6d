import Foundation
import TestBed
import Testing

/// `Handoff.pml` and `Reading.pml` are checked by spin in every state that they can reach. Larger sizes by option:
/// `GODWIT_MODEL_SIZE="-DSITES=3 -DWISHES=3" Tests/run --filter ModelCheckingTests` (gigabytes, and hours).
@Suite(.serialized) struct ModelCheckingTests {
    /// For a size that is asked for, more than enough for the others.
    private static let limit = Duration.seconds(24 * 3600)

    private enum Model: String {
        case handoff = "Handoff.pml"
        case reading = "Reading.pml"

        var path: URL { URL(filePath: #filePath).deletingLastPathComponent().appending(path: rawValue) }
    }

    /// Two sites that hand the head over, decline and take back, three times; three sites, twice.
    @Test(arguments: [
        "-DSITES=2 -DWISHES=3 -DABORTS=1 -DWRITES=1", "-DSITES=3 -DWISHES=2 -DABORTS=1 -DWRITES=1",
    ])
    func theModelHoldsInEveryStateItCanReach(_ size: String) async throws {
        try await Self.check(size.split(separator: " ").map(String.init))
    }

    /// Two readers that come and go thrice; with all else that may happen, and with moves to them that fail, twice.
    @Test(arguments: [
        "-DADMISSIONS=3", "-DADMISSIONS=2 -DMOVES=1 -DGONE=1 -DCRASHES=1",
        "-DADMISSIONS=2 -DFAILED_MOVES=1 -DCRASHES=1",
    ])
    func theModelOfReadersHoldsInEveryStateItCanReach(_ size: String) async throws {
        try await Self.check(size.split(separator: " ").map(String.init), of: .reading)
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

    @Test(arguments: [
        ("EPOCH_KEPT", "nobodyWritesWhatIsRead"), ("ASKED_ONCE", "readsOneState"),
        ("DROPPED_UNASKED", "endsBeforeWrites"), ("WITHDRAWAL_WITHOUT_NUMBER", "admittedStaysKnown"),
    ])
    func aBugPlantedAmongReadersIsFoundByTheInvariantThatItBreaks(
        _ bug: String, _ invariant: String
    ) async throws {
        let report = try await Self.search(["-DADMISSIONS=3", "-DGONE=1", "-DBUG_\(bug)"], of: .reading)
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

    /// The names are a bridge between the models and the code: each is in both.
    @Test func everyInvariantOfTheModelsIsNamedInTheCode() throws {
        let code = Model.handoff.path.appending(path: "../../../Sources/Handoff/HeadRecord+Invariants.swift")
        let words = try String(contentsOf: code.standardizedFileURL, encoding: .utf8)
        for (model, count) in [(Model.handoff, 8), (.reading, 4)] {
            let text = try String(contentsOf: model.path, encoding: .utf8)
            let names = Set(text.matches(of: /assert\(([a-zA-Z]+)\)/).map { String($0.output.1) })
            #expect(names.count == count)
            for name in names { #expect(words.contains("`\(name)`"), "\(name)") }
        }
    }

    private static func check(
        _ size: [String], of model: Model = .handoff, optimisation: String = "-O0"
    ) async throws {
        let report = try await search(size, of: model, optimisation: optimisation)
        #expect(report.contains("errors: 0"), "\(report)")
        for trouble in ["max search depth too small", "Search not completed", "out of memory", "truncated"] {
            #expect(!report.contains(trouble), "\(report)")
        }
        let states = report.firstMatch(of: /(\d+) states, stored/).flatMap { Int($0.output.1) } ?? 0
        #expect(states > 10_000, "\(report)")
    }

    /// - Parameter optimisation: by default none: it would take longer than these searches.
    private static func search(
        _ definitions: [String], of model: Model = .handoff, optimisation: String = "-O0"
    ) async throws -> String {
        let directory = FileManager.default.temporaryDirectory.appending(path: "godwit-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
        defer { try? FileManager.default.removeItem(at: directory) }
        let script = """
            cd "$0" && spin "${@:3}" -a "$1" && \
            gcc "$2" -w -DSAFETY -DCOLLAPSE -DVECTORSZ=2048 -o pan pan.c && ./pan -n -m100000
            """
        // pan ends with 0 also when it found something.
        return try await ChildProcess.check(
            Program("bash", ["-c", script, directory.path, model.path.path, optimisation] + definitions),
            limit: limit)
    }
}
