internal import ArgumentParser
internal import ClusterResources
internal import Foundation
internal import Gateway
internal import Glibc
internal import KubernetesAPI
internal import Logging
internal import Monitoring
internal import RPC
internal import VolumeModel

/// `godwit gateway`
struct GatewayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gateway",
        abstract: "Answer at one address for all nodes of a site.",
        discussion: """
            Other sites reach each node of this one by its name, at one address: what stands in the ClientHello of a \
            TLS connection tells for whom it is, and its bytes are passed on as they are. Has no keys, and needs none: \
            both ends see from their certificates who the other is. May run more than once.

            Examples:
              godwit gateway --listen 0.0.0.0:7443 --registry cluster
              godwit gateway --listen 0.0.0.0:7443 --member a.london=10.0.0.1:7443 --member b.london=10.0.0.2:7443
            """)

    @Option(help: ArgumentHelp("Where connections are taken.", valueName: "host:port")) var listen: String
    @Option(
        help: ArgumentHelp(
            "Where the site's members are looked up: 'cluster' (the API of the cluster whose pod this is), or a "
                + "kubeconfig's path.", valueName: "place"))
    var registry: String?
    @Option(
        help: ArgumentHelp(
            "A member and where its peers' port is, instead of a registry; may be repeated.",
            valueName: "name=host:port"))
    var member: [String] = []
    @Option(help: "How many connections are passed on at a time; further ones are closed.")
    var maxConnections = 1000
    @Option(help: ArgumentHelp("After how long without a byte a connection is closed.", valueName: "seconds"))
    var idleTimeout = 600
    @Option(
        help: ArgumentHelp(
            "Where /healthz, /readyz and /metrics are answered over HTTP; none: nowhere.",
            valueName: "host:port"))
    var monitorListen: String?
    @OptionGroup var log: LogOptions

    func validate() throws {
        _ = try Self.tcp(listen, "--listen")
        if let monitorListen { _ = try Self.tcp(monitorListen, "--monitor-listen") }
        guard (registry == nil) != member.isEmpty else {
            throw ValidationError("either --registry or --member tells where the members are")
        }
        _ = try members()
        guard (1...100_000).contains(maxConnections) else {
            throw ValidationError("--max-connections is 1 to 100000")
        }
        // Calls show signs of life every 20 seconds.
        guard (60...86_400).contains(idleTimeout) else {
            throw ValidationError("--idle-timeout is 60 to 86400")
        }
    }

    private static func tcp(_ text: String, _ option: String) throws -> (host: String, port: UInt16) {
        guard case .tcp(let host, let port)? = RPCEndpoint(text) else {
            throw ValidationError("\(option) is host:port, not '\(text)'")
        }
        return (host, port)
    }

    private func members() throws -> [GatewayMember] {
        var members: [GatewayMember] = []
        for pair in member {
            guard let equals = pair.firstIndex(of: "="), let id = SiteID(pair[..<equals]),
                let address = GatewayAddress(pair[pair.index(after: equals)...]), address.port != 0,
                !members.contains(where: { $0.id == id })
            else { throw ValidationError("--member is 'name=host:port', each name once: not '\(pair)'") }
            members.append(GatewayMember(id: id, address: address))
        }
        return members
    }

    func run() async throws {
        try await reporting {
            signal(SIGPIPE, SIG_IGN)
            MetricsText.noteProcessStart()
            let stop = StopSignals()
            let logger = log.makeLogger()
            // Each connection takes two.
            let descriptors = 2 * maxConnections + 100
            let allowed = OpenFileLimit.raise(to: descriptors)
            if allowed < descriptors {
                logger.warning(
                    "only \(allowed) open files are allowed here, and \(descriptors) may be needed")
            }
            let client = try client()
            let directory = MemberDirectory(logger: logger, question(client, try members()))
            var limits = Gateway.Limits()
            limits.connections = maxConnections
            limits.idlePatience = .seconds(idleTimeout)
            let gateway = Gateway(directory: directory, limits: limits, logger: logger)
            let asking = Task { await directory.run() }
            do {
                try await serve(gateway, directory, stop, logger)
            } catch {
                asking.cancel()
                await client?.close()
                throw error
            }
            asking.cancel()
            await client?.close()
        }
    }

    private func serve(
        _ gateway: Gateway, _ directory: MemberDirectory, _ stop: StopSignals, _ logger: Logger
    ) async throws {
        let (host, port) = try Self.tcp(listen, "--listen")
        let chosen: UInt16
        do { chosen = try await gateway.listen(host: host, port: port) } catch {
            throw ValidationError("--listen \(listen) cannot be listened on: \(error)")
        }
        let monitoring: MonitoringServer?
        do { monitoring = try await monitor(gateway, directory) } catch {
            await gateway.stop()
            throw error
        }
        logger.info("the gateway answers at port \(chosen)", metadata: ["release": "\(Release.current)"])
        if let monitoring { logger.info("probes are answered at port \(monitoring.port)") }
        await stop.wait()
        logger.info("stopping")
        await monitoring?.stop()
        await gateway.stop()
    }

    /// nil: no registry is asked.
    private func client() throws -> KubernetesClient? {
        guard let registry else { return nil }
        return try KubernetesClient(registry == "cluster" ? .inCluster() : .kubeconfig(path: registry))
    }

    private func question(
        _ client: KubernetesClient?, _ given: [GatewayMember]
    ) -> MemberDirectory.Question {
        guard let client else { return { given } }
        return {
            try await client.list(MemberResource.self).items.compactMap { resource in
                // One that has no port for peers, or that somebody spoilt, keeps nobody from the others.
                guard let id = SiteID(resource.spec.id),
                    let address = resource.spec.address.flatMap({ GatewayAddress($0) }), address.port != 0
                else { return nil }
                return GatewayMember(id: id, address: address)
            }.sorted { $0.id < $1.id }
        }
    }

    // MARK: probes

    private func monitor(
        _ gateway: Gateway, _ directory: MemberDirectory
    ) async throws -> MonitoringServer? {
        guard let monitorListen else { return nil }
        let (host, port) = try Self.tcp(monitorListen, "--monitor-listen")
        do {
            return try await MonitoringServer(host: host, port: port) { path in
                switch path {
                case "/healthz": return MonitoringReply(200, "ok\n")
                case "/readyz":
                    let trouble = await directory.trouble
                    return trouble.map { MonitoringReply(503, $0 + "\n") } ?? MonitoringReply(200, "ok\n")
                case "/metrics":
                    return MonitoringReply(
                        200, Self.metrics(gateway.counts), contentType: MetricsText.contentType)
                default: return MonitoringReply(404, "here are /healthz, /readyz and /metrics\n")
                }
            }
        } catch {
            throw ValidationError("--monitor-listen \(monitorListen) cannot be listened on: \(error)")
        }
    }

    private static func metrics(_ counts: Gateway.Counts) -> String {
        var text = MetricsText()
        text.add("godwit_gateway_connections", .gauge, "Connections that are open now.") {
            $0.add(UInt64(max(0, counts.open)))
        }
        text.add("godwit_gateway_connections_accepted_total", .counter, "Connections that were taken.") {
            $0.add(counts.accepted)
        }
        text.add(
            "godwit_gateway_connections_closed_total", .counter,
            "Connections that went nowhere: above the bound, without a name in time, to nobody that was reached."
        ) {
            $0.add(counts.tooMany, [("reason", "too_many")])
            $0.add(counts.unnamed, [("reason", "unnamed")])
            $0.add(counts.unanswered, [("reason", "unanswered")])
        }
        text.addProcess()
        return text.text
    }
}
