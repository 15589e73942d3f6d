internal import ArgumentParser
internal import ClusterResources
internal import KubernetesAPI

/// `kubectl godwit doctor`
struct Doctor: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "What is wrong with Godwit in this cluster, and what to do about it.",
        discussion: """
            Looks at what is installed and runs, at certificates, clocks, releases, mounts and leftovers, with your \
            rights, at what the API server tells and members tell there of themselves; changes nothing. What it may not \
            look at is named ('?').

            Not to be seen from there: what is stored of volumes (godwit volume check, in a pod of the site), why something \
            failed (logs), and other clusters (ask there).

            Exit codes: 0 nothing is broken, 1 something is.
            Examples:
              kubectl godwit doctor
              kubectl godwit doctor --all
            """)

    @OptionGroup var cluster: ClusterOptions
    @Option(help: "The namespace that Godwit is installed in.") var installed = ClusterNames.namespace
    @Flag(help: "Tell also what is as it should be.") var all = false
    @Option(name: .shortAndLong, help: "json, for programs: all of it.") var output: OutputFormat?

    func run() async throws {
        var isBroken = false
        try await cluster.withClient { client in
            let findings = try await Examination(client, namespace: installed).findings()
            isBroken = findings.contains { $0.outcome == .broken }
            if output == .json {
                Terminal.print(try Terminal.json(findings))
                return
            }
            for finding in findings where all || finding.outcome != .good {
                Terminal.print(Terminal.clean("\(finding.outcome.mark)  \(finding.text)"))
                if let advice = finding.advice { Terminal.print(Terminal.clean("      \(advice)")) }
            }
            Terminal.print(Finding.summary(findings))
        }
        if isBroken { throw ExitCode(1) }
    }
}

/// One thing that was looked at.
struct Finding: Encodable, Equatable {
    enum Outcome: String, Encodable {
        case good, warning, broken
        /// The user may not look at it.
        case unknown

        /// All of one width.
        var mark: String {
            switch self {
            case .good: "ok  "
            case .warning: "warn"
            case .broken: "FAIL"
            case .unknown: "?   "
            }
        }
    }

    var outcome: Outcome
    var text: String
    var advice: String?

    init(_ outcome: Outcome, _ text: String, _ advice: String? = nil) {
        self.outcome = outcome
        self.text = text
        self.advice = advice
    }

    /// `1 member`, `2 members`.
    static func counted(_ count: Int, _ noun: String) -> String { "\(count) \(noun)\(count == 1 ? "" : "s")" }

    /// `12 checks passed`, and what else there is.
    static func summary(_ findings: [Finding]) -> String {
        func count(_ outcome: Outcome) -> Int { findings.filter { $0.outcome == outcome }.count }
        var parts: [String] = []
        if count(.broken) > 0 { parts.append("\(count(.broken)) broken") }
        if count(.warning) > 0 { parts.append("\(count(.warning)) to be looked after") }
        if count(.unknown) > 0 { parts.append("\(count(.unknown)) not to be seen with your rights") }
        return (parts + [counted(count(.good), "check") + " passed"]).joined(separator: ", ")
    }
}
