internal import ArgumentParser
internal import Cluster
internal import Foundation
internal import KubernetesAPI
internal import Logging
internal import Monitoring
internal import RPC

/// `godwit controller`
struct ControllerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "controller",
        abstract: "Follow a cluster's claims, and move their volumes as annotations ask for.",
        discussion: """
            Runs beside the site, whose control socket it uses. Of several, one works: the others wait for its \
            lease. Killed at any moment, it goes on where it was.

            Annotations of a claim: godwit.dev/migrate-to=<site>, godwit.dev/rate-limit=<bytes a second or none>, \
            godwit.dev/pause=<true or false>. 'kubectl get migrations' shows what becomes of them.

            Where a volume comes from another cluster, its PersistentVolume and claim are made here, of the storage \
            class that has the same name or is given by --map-class, in namespaces that --accept-namespaces selects \
            (for example 'kubernetes.io/metadata.name in (shop, bank)').

            Example: godwit controller --kubeconfig /etc/kubernetes/godwit.conf
            """)

    @OptionGroup var site: SiteOptions
    @Option(
        help: ArgumentHelp(
            "The site's control socket; the one in the state directory if not given.", valueName: "path"))
    var controlSocket: String?
    @Option(help: ArgumentHelp("The cluster; as the pod's service account if not given.", valueName: "path"))
    var kubeconfig: String?
    @Option(
        help: ArgumentHelp(
            "A storage class of another cluster and the one that stands for it here; may be repeated.",
            valueName: "there=here"))
    var mapClass: [String] = []
    @Option(
        help: ArgumentHelp(
            "A label selector of the namespaces that take claims from other clusters, as kubectl's; all if not given.",
            valueName: "selector"))
    var acceptNamespaces: String?
    @Option(help: "The namespace of the lease.") var leaseNamespace = "godwit"
    @Option(help: ArgumentHelp("How long a dead controller keeps others waiting.", valueName: "seconds"))
    var leaseSeconds = 15
    @Option(
        help: ArgumentHelp(
            "How long the site may not answer until another controller may lead.", valueName: "seconds"))
    var siteSeconds = 30
    @Option(
        help: ArgumentHelp(
            "Where /healthz and /metrics are answered over HTTP; none: nowhere.", valueName: "host:port"))
    var monitorListen: String?
    @OptionGroup var log: LogOptions

    func validate() throws {
        if let monitorListen {
            guard case .tcp? = RPCEndpoint(monitorListen) else {
                throw ValidationError("--monitor-listen is host:port, not '\(monitorListen)'")
            }
        }
        guard (3...300).contains(leaseSeconds) else {
            throw ValidationError("--lease-seconds is 3 to 300")
        }
        guard (1...3600).contains(siteSeconds) else {
            throw ValidationError("--site-seconds is 1 to 3600")
        }
        // Which selects all, and may be what is left of a variable.
        if acceptNamespaces?.allSatisfy(\.isWhitespace) == true {
            throw ValidationError("--accept-namespaces is a label selector: leave it out to accept all")
        }
        _ = try classes()
    }

    private func classes() throws -> [String: String] {
        var classes: [String: String] = [:]
        for pair in mapClass {
            let parts = pair.split(separator: "=", omittingEmptySubsequences: false).map(String.init)
            guard parts.count == 2, parts.allSatisfy({ !$0.isEmpty }), classes[parts[0]] == nil else {
                throw ValidationError("--map-class is 'there=here', each class once: not '\(pair)'")
            }
            classes[parts[0]] = parts[1]
        }
        return classes
    }

    func run() async throws {
        try await reporting {
            let stop = StopSignals()
            let stopped = stop.stream
            defer { withExtendedLifetime(stop) {} }
            let log = self.log.makeLogger()
            let client = try KubernetesClient(
                kubeconfig.map { path throws(KubernetesError) in try .kubeconfig(path: path) }
                    ?? .inCluster())
            let control = try SiteControlSocket(path: controlSocket ?? site.stateDirectory + "/control.sock")
            let classes = try classes()
            let figures = ControllerFigures()
            let monitoring = try await monitor(figures)
            let watch = SiteWatch(patience: .seconds(siteSeconds)) { await control.answers() }
            let elector = LeaderElector(
                client, namespace: leaseNamespace, name: "godwit-controller",
                identity: ProcessInfo.processInfo.hostName + "-" + UUID().uuidString,
                duration: .seconds(leaseSeconds), isReluctant: { !watch.isAnswering }
            ) { figures.noteAsked() }
            let result = await withTaskGroup(of: Result<Void, any Error>.self) { group in
                group.addTask {
                    await Self.lead(elector, watch, log) {
                        try await MigrationController(
                            client, site: control, classes: classes, acceptedNamespaces: acceptNamespaces,
                            logger: log, figures: figures
                        ).run()
                    }
                }
                group.addTask {
                    await watch.run()
                    return .success(())
                }
                group.addTask {
                    for await _ in stopped { break }
                    return .success(())
                }
                let first = await group.next()
                group.cancelAll()
                await group.waitForAll()
                return first
            }
            await monitoring?.stop()
            await client.close()
            try result?.get()
        }
    }

    private func monitor(_ figures: ControllerFigures) async throws -> MonitoringServer? {
        MetricsText.noteProcessStart()
        guard let monitorListen, case .tcp(let host, let port)? = RPCEndpoint(monitorListen) else {
            return nil
        }
        do {
            return try await MonitoringServer(host: host, port: port) { ControllerMonitor.reply($0, figures) }
        } catch {
            throw ValidationError("--monitor-listen \(monitorListen) cannot be listened on: \(error)")
        }
    }

    /// Works whenever it leads, until the site falls silent. An API server that has just started refuses what it will soon
    /// allow, and rights may be given later: both are asked for again.
    private static func lead(
        _ elector: LeaderElector, _ watch: SiteWatch, _ log: Logger,
        _ work: @escaping @Sendable () async throws -> Void
    ) async -> Result<Void, any Error> {
        var backoff = Backoff(first: .seconds(1), limit: .seconds(15))
        // What is known of the site when it stands for the first time.
        await watch.look()
        while !Task.isCancelled {
            do {
                try await elector.run {
                    log.info("this controller leads")
                    try await withThrowingTaskGroup(of: Void.self) { group in
                        group.addTask { try await work() }
                        group.addTask { try await watch.silence() }
                        defer { group.cancelAll() }
                        _ = try await group.next()
                    }
                }
                log.warning("the site does not answer: another controller may lead until it does")
            } catch let error as KubernetesError {
                switch error {
                case .forbidden, .unauthorized:
                    log.warning("it will be tried again: \(error)")
                    try? await Task.sleep(for: backoff.next())
                default: return .failure(error)
                }
            } catch {
                return .failure(error)
            }
        }
        return .success(())
    }
}
