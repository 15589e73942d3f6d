internal import ArgumentParser
internal import ClusterResources
internal import Foundation
internal import KubernetesAPI
internal import VolumeModel

/// `kubectl godwit takeover`
struct TakeOver: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "takeover",
        abstract: "Own a volume here whose owner's site is gone, without what it has not told.",
        discussion: """
            Without --force nothing is done: it tells which states of the volume are at this cluster's site, and what \
            each lacks. The owner that is overruled keeps what it has written since as a divergence; should it \
            return, it stops by itself. If the owner can still be reached, move the claim instead: then nothing is lost.

            It makes a Takeover, which the controller answers: who may create takeovers.godwit.dev may do this, as the \
            cluster role godwit-takeover grants. What was ordered by force is kept there, to be read.

            Examples:
              kubectl godwit takeover data
              kubectl godwit takeover data --force --overrule 2 --from kept
            """)

    @OptionGroup var cluster: ClusterOptions
    @Argument(help: "The claim of the volume here.") var claim: String?
    @Option(help: "Instead of a claim: the volume, as 'kubectl get volumes.godwit.dev' names it.")
    var volume: String?
    @Flag(help: "Take it over. What the overruled owner has not told stays with it.") var force = false
    @Option(
        name: [.long, .customLong("overrule-epoch")],
        help: "The epoch that is overruled, as it is told without --force.")
    var overrule: Int64?
    @Option(help: "The state to begin with: followed, kept or own. Default: the first that is told.")
    var from: String?
    @Option(help: ArgumentHelp("How long to wait for the controller's answer.", valueName: "seconds"))
    var timeout = 60
    @Option(name: .shortAndLong, help: "json, for programs.") var output: OutputFormat?

    func validate() throws {
        guard (claim == nil) != (volume == nil) else {
            throw ValidationError("name a claim, or a volume with --volume")
        }
        if force, overrule == nil {
            throw ValidationError("--force wants the epoch that is overruled: --overrule.")
        }
        if !force, overrule != nil || from != nil {
            throw ValidationError("Nothing is done without --force.")
        }
        if let overrule, overrule < 1 { throw ValidationError("An epoch is 1 or more.") }
        if let from, !["followed", "kept", "own"].contains(from) {
            throw ValidationError("--from is followed, kept or own")
        }
        guard (1...3600).contains(timeout) else { throw ValidationError("--timeout is 1 to 3600") }
    }

    func run() async throws {
        try await cluster.withClient { client in
            let namespace = cluster.namespace ?? client.connection.namespace
            var spec = try await target(client, namespace)
            if force {
                spec.force = true
                spec.overrule = overrule
                spec.from = from
            }
            let random = String(UInt64.random(in: .min ... .max), radix: 36)
            let name = "\(spec.volume.prefix(8))-\(random)"
            let made = try await client.create(
                TakeoverResource(metadata: ObjectMeta(name: name), spec: spec))
            let status = try await answer(client, name)
            // A question leaves nothing behind. An order stays, for whoever asks later who did what.
            if !force { try await client.delete(TakeoverResource.self, name, uid: made.metadata.uid) }
            try tell(status, name)
        }
    }

    /// The volume of a claim here, or of a `Volume`.
    private func target(
        _ client: KubernetesClient, _ namespace: String
    ) async throws -> TakeoverResource.Spec {
        if let volume {
            let view = try await client.get(VolumeView.self, volume)
            return .init(volume: view.spec.id, claim: nil)
        }
        let claim = claim ?? ""
        let object = try await client.get(PersistentVolumeClaim.self, claim, in: namespace)
        guard let name = object.spec.volumeName, !name.isEmpty else {
            try Terminal.fail("claim '\(claim)' has no volume yet")
        }
        let persistent = try await client.get(PersistentVolume.self, name)
        guard let source = persistent.spec.csi, source.driver == ClusterNames.driver else {
            try Terminal.fail("the volume of claim '\(claim)' is not of \(ClusterNames.driver)")
        }
        return .init(volume: source.volumeHandle, claim: "\(namespace)/\(claim)")
    }

    private func answer(
        _ client: KubernetesClient, _ name: String
    ) async throws -> TakeoverResource.Status {
        let deadline = ContinuousClock.now + .seconds(timeout)
        var last = "no controller has said anything of it: 'kubectl godwit doctor'"
        while ContinuousClock.now < deadline {
            do throws(KubernetesError) {
                if let status = try await client.get(TakeoverResource.self, name).status {
                    if status.phase.isLast { return status }
                    last = status.message
                }
            } catch {
                guard error.isTransient else { throw error }
                last = error.description
            }
            try await Task.sleep(for: .milliseconds(300))
        }
        if !force {
            try? await client.delete(TakeoverResource.self, name)
            try Terminal.fail(last)
        }
        try Terminal.fail(
            "\(Terminal.clean(last)); it is still to be carried out, for 10 minutes: kubectl delete takeovers.godwit.dev \(name) takes it back"
        )
    }

    private func tell(_ status: TakeoverResource.Status, _ name: String) throws {
        if output == .json {
            Terminal.print(try Terminal.json(status))
            if status.phase == .refused { throw ExitCode(1) }
            return
        }
        guard status.phase != .refused else { try Terminal.fail(Terminal.clean(status.message)) }
        Terminal.print(Terminal.clean(status.message))
        guard status.phase == .told, let first = status.states?.first else {
            if force { Terminal.print("what was done: kubectl describe takeovers.godwit.dev \(name)") }
            return
        }
        let rows = (status.states ?? []).map { state in
            [
                state.name, String(state.sequence),
                state.ageSeconds.map { Self.duration($0) + " ago" } ?? "unknown",
                String(state.inodes), Self.size(state.bytes), Self.size(state.missingBytes),
                Self.unreachable(state),
            ]
        }
        let what =
            claim.map { $0 + (cluster.namespace.map { " -n " + $0 } ?? "") }
            ?? "--volume \(volume ?? "")"
        Terminal.print(
            """

            \(Terminal.table([["STATE", "SEQUENCE", "AS OF", "INODES", "BYTES", "NOT HERE", "NOWHERE"]] + rows))

            \(Self.ownersPosition(status.states ?? []))
            What the owner has changed since is not in it. What is not here comes from where it is, as far as it has
            not changed there; what is nowhere is at no site that can be reached, and reading it fails until one
            returns that has it.\(Self.silence(status))
            To take it over: kubectl godwit takeover \(what) --force --overrule \(status.ownerEpoch ?? 0) \
            --from \(Terminal.clean(first.name))
            """)
    }

    private static func unreachable(_ state: TakeoverResource.State) -> String {
        guard let bytes = state.unreachableBytes, let files = state.unreachableFiles else { return "unknown" }
        guard bytes > 0 else { return size(0) }
        return size(bytes) + (files == 1 ? " in 1 file" : " in \(files) files")
    }

    private static func silence(_ status: TakeoverResource.Status) -> String {
        var text = ""
        if let silent = status.silentSites, !silent.isEmpty {
            text =
                "\nNot told, and so taken for nowhere: what \(Terminal.clean(silent.joined(separator: ", "))) has."
        }
        if status.ownerAnswers == true {
            text += "\nThe owner can be reached: move the claim instead, then nothing is lost."
        }
        return text
    }

    /// The last that is known of the owner. A follower takes all that there is whenever it asks; and who was given the
    /// volume began where it was kept.
    private static func ownersPosition(_ states: [TakeoverResource.State]) -> String {
        guard
            let known = states.first(where: { $0.name == "followed" })
                ?? states.first(where: { $0.name == "kept" })
        else { return "Where the owner is is unknown." }
        let time = known.ageSeconds.map { duration($0) + " ago" } ?? "at a time that is unknown"
        let position =
            known.name == "followed"
            ? "The owner was at sequence \(known.sequence) \(time)"
            : "The owner was given the volume at sequence \(known.sequence), \(time)"
        return position + "; how far it has come since is unknown."
    }

    static func duration(_ seconds: Int64) -> String {
        if seconds < 60 { return "\(seconds) s" }
        if seconds < 3600 { return "\(seconds / 60) min \(seconds % 60) s" }
        return "\(seconds / 3600) h \(seconds % 3600 / 60) min"
    }

    static func size(_ bytes: Int64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"]
        var value = Double(bytes)
        var unit = 0
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        return (unit == 0 ? "\(bytes)" : String(format: "%.1f", value)) + " " + units[unit]
    }
}
