internal import ArgumentParser
internal import ClusterResources
internal import KubernetesAPI

/// `kubectl godwit status`
struct Status: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Where claims are, and how far those that move.",
        discussion: """
            Of one claim: everything that is known of it, with its latest Events.

            Examples:
              kubectl godwit status
              kubectl godwit status data -n shop
            """)

    @OptionGroup var cluster: ClusterOptions
    @Argument(help: "A claim; all of the namespace if not given.") var claim: String?
    @Flag(name: [.customShort("A"), .long], help: "Of every namespace.") var allNamespaces = false
    @Option(name: .shortAndLong, help: "json, for programs.") var output: OutputFormat?

    func validate() throws {
        if allNamespaces, claim != nil || cluster.namespace != nil {
            throw ValidationError("--all-namespaces goes with neither a claim nor a namespace")
        }
    }

    func run() async throws {
        try await cluster.withClient { client in
            let namespace = allNamespaces ? nil : cluster.namespace ?? client.connection.namespace
            let states = try await ClaimState.collect(client, namespace: namespace, claim: claim)
            if output == .json {
                Terminal.print(try Terminal.json(states))
            } else if let claim {
                guard let state = states.first else {
                    try Terminal.fail("claim '\(claim)' is not of \(ClusterNames.driver)")
                }
                let events = try await ClaimEvents(client, of: claim, in: state.namespace).latest(10)
                Terminal.print(Self.description(state, events))
            } else if states.isEmpty {
                Terminal.print("no claim of \(ClusterNames.driver) here")
            } else {
                Terminal.print(Self.table(states, withNamespace: allNamespaces))
            }
        }
    }

    private static func table(_ states: [ClaimState], withNamespace: Bool) -> String {
        let head = ["CLAIM", "OWNER", "ROLE", "PHASE", "TO", "RESIDENT", "RATE", "ETA", "MESSAGE"]
        let rows = states.map { state in
            (withNamespace ? [state.namespace] : []) + [
                state.claim, state.owner ?? "?", state.role ?? "?", state.status?.phase.rawValue ?? "-",
                state.migration?.to ?? state.wish ?? "-", state.status?.resident ?? "-",
                state.status?.rate ?? "-", state.status?.eta ?? "-", state.status?.message ?? "",
            ]
        }
        return Terminal.table([(withNamespace ? ["NAMESPACE"] : []) + head] + rows)
    }

    private static func description(_ state: ClaimState, _ events: [EventView]) -> String {
        var rows = [
            ["claim", state.namespace + "/" + state.claim], ["volume", state.volume],
            ["id", state.volumeID ?? "? (you may not read PersistentVolumes)"],
            ["owner", state.owner ?? "?"], ["role here", state.role ?? "?"],
        ]
        if let holder = state.holder { rows.append(["in use at", holder]) }
        for (member, role) in (state.members ?? [:]).sorted(by: { $0.key < $1.key }) {
            rows.append(["at \(member)", role])
        }
        if let wish = state.wish { rows.append(["asked to move to", wish]) }
        if let migration = state.migration, let status = state.status {
            rows.append(["migration", "\(status.phase.rawValue), from \(migration.from) to \(migration.to)"])
            rows.append(["", status.message])
            let progress = [
                status.resident.map { "\($0) resident" }, status.rate, status.eta.map { "\($0) left" },
            ]
            let parts = progress.compactMap { $0 }
            if !parts.isEmpty { rows.append(["progress", parts.joined(separator: ", ")]) }
            for condition in status.conditions ?? [] {
                rows.append([
                    "condition",
                    "\(condition.type)=\(condition.status) \(condition.reason): \(condition.message)",
                ])
            }
        } else if state.wish != nil {
            rows.append(["migration", "not begun: does a controller run? 'kubectl godwit doctor'"])
        }
        for event in events {
            rows.append([
                "event", "\(event.lastTimestamp ?? "") \(event.reason ?? ""): \(event.message ?? "")",
            ])
        }
        return Terminal.table(rows)
    }
}
