internal import ArgumentParser
internal import ClusterResources
internal import KubernetesAPI

/// `kubectl godwit doctor`
struct Doctor: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "What is wrong with Godwit in this cluster, and what to do about it.",
        discussion: """
            Looks, with your rights, at what the API server tells; changes nothing. What it may not look at is named \
            ('?'), and so is what cannot be seen from here.

            Exit codes: 0 nothing is broken, 1 something is.
            Example: kubectl godwit doctor
            """)

    @OptionGroup var cluster: ClusterOptions
    @Option(help: "The namespace that Godwit is installed in.") var installed = ClusterNames.namespace
    @Option(name: .shortAndLong, help: "json, for programs.") var output: OutputFormat?

    func run() async throws {
        var isBroken = false
        try await cluster.withClient { client in
            let findings = try await Examination(client, namespace: installed).findings()
            isBroken = findings.contains { $0.outcome == .broken }
            if output == .json {
                Terminal.print(try Terminal.json(findings))
                return
            }
            for finding in findings {
                Terminal.print(Terminal.clean("\(finding.outcome.mark)  \(finding.text)"))
                if let advice = finding.advice { Terminal.print(Terminal.clean("      \(advice)")) }
            }
            Terminal.print("not to be seen from here:")
            for line in Self.unseen(installed) { Terminal.print("      " + line) }
        }
        if isBroken { throw ExitCode(1) }
    }

    private static func unseen(_ namespace: String) -> [String] {
        let inside = "kubectl exec -n \(namespace) ds/\(ClusterNames.site) -- godwit"
        return [
            "certificates, and whether peers reach each other: \(inside) pki show",
            "mounts, and what is stored of the volumes: \(inside) volume list, \(inside) volume check",
            "why something failed: kubectl logs -n \(namespace) ds/\(ClusterNames.site)",
            "the clocks of nodes and of other sites, and the other clusters: ask there",
        ]
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
}
