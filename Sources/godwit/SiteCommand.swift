internal import ArgumentParser
internal import CSIService
internal import Cluster
internal import Dispatch
internal import Foundation
internal import Glibc
internal import Hydration
internal import KubernetesAPI
internal import Logging
internal import RPC
internal import Site
internal import SiteIdentity
internal import VolumeModel

/// `godwit site`
struct SiteCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "site",
        abstract: "Run a site on this host: its volumes, its CSI driver, its peers' port.",
        discussion: """
            Runs until SIGINT or SIGTERM, then unmounts what is not in use and leaves everything durable. \
            Killed at any moment, it goes on where it was when it is started again. Needs root, for mounts.

            Until a volume has been copied elsewhere, its durability is this host's disk.

            Example: godwit site --state-dir /var/lib/godwit --peer-listen 0.0.0.0:7443
            """)

    @OptionGroup var options: SiteOptions
    @Option(help: ArgumentHelp("Where peers reach this site; none: no peers.", valueName: "host:port"))
    var peerListen: String?
    @Option(
        help: ArgumentHelp(
            "The CSI driver's socket, for example unix:///csi/csi.sock.", valueName: "endpoint"))
    var csiEndpoint: String?
    @Option(help: "The name of this host within the site; the host's own name if not given.")
    var node: String?
    @Option(
        help: ArgumentHelp(
            "Where the site's state is kept: 'embedded' (a file), 'cluster' (the API of the cluster whose pod this "
                + "is), or a kubeconfig's path.", valueName: "place"))
    var registry = "embedded"
    @Option(help: ArgumentHelp("How long a read waits for bytes whose source is away.", valueName: "seconds"))
    var faultTimeout: Double = 30
    @Flag(help: "Fetch bytes only when they are read, not in the background.") var noBackgroundHydration =
        false
    @Option(
        help: ArgumentHelp(
            "More applications, or other ones of the same names, for what is fetched first when no start has been "
                + "recorded; the form is told by 'godwit site --show-prefetch-table'.", valueName: "file"))
    var prefetchTable: String?
    @Flag(help: "Print the table of what well-known applications read first, and end.")
    var showPrefetchTable = false
    @Option(help: "trace, debug, info, notice, warning, error.") var logLevel = "info"

    func validate() throws {
        guard faultTimeout > 0, faultTimeout <= 86_400 else {
            throw ValidationError("--fault-timeout is more than 0 and at most 86400 seconds")
        }
        guard Logger.Level(rawValue: logLevel) != nil else {
            throw ValidationError("'\(logLevel)' is no log level")
        }
    }

    func run() async throws {
        if showPrefetchTable {
            print(PrefetchTable.standardText)
            return
        }
        try await reporting {
            // A peer that went away must be an error of the call, not the end of the process.
            signal(SIGPIPE, SIG_IGN)
            let stop = StopSignals()
            LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
            var logger = Logger(label: "godwit")
            logger.logLevel = Logger.Level(rawValue: logLevel) ?? .info
            let state = try StateDirectory(options.stateDirectory)
            let identity = try SiteIdentity(loading: state.keys)
            var hydration = Hydrator.Configuration()
            hydration.faultTimeout = .milliseconds(Int64(faultTimeout * 1000))
            hydration.streamsInBackground = !noBackgroundHydration
            if let prefetchTable { hydration.firstGuesses = try Self.table(prefetchTable) }
            let context = SiteContext(
                node: node ?? ProcessInfo.processInfo.hostName, state: state,
                registry: try registry(state), identity: identity, hydration: hydration, logger: logger)
            let site = Site(context: context)
            try await site.start()
            let csi = CSIService(backend: SiteCSIBackend(site: site))
            let servers = try SiteServers(
                site: site,
                endpoints: .init(
                    control: .unix(path: state.controlSocket), peers: try endpoint(peerListen),
                    csi: try endpoint(csiEndpoint)),
                csi: { (call) async throws(RPCStatus) in try await csi.handle(call) })
            logger.info("site \(identity.site) is ready", metadata: ["release": "\(Release.current)"])
            await stop.wait()
            logger.info("stopping")
            await servers.stop()
            await site.stop()
        }
    }

    private static func table(_ path: String) throws -> PrefetchTable {
        let text = try String(contentsOfFile: path, encoding: .utf8)
        do {
            return PrefetchTable.standard.extended(by: try PrefetchTable(text))
        } catch {
            throw ValidationError("\(path), \(error)")
        }
    }

    private func registry(_ state: StateDirectory) throws -> any SiteRegistry {
        switch registry {
        case "embedded": try SQLiteRegistry(path: state.registry)
        case "cluster": ClusterRegistry(try KubernetesClient(.inCluster()))
        default: ClusterRegistry(try KubernetesClient(.kubeconfig(path: registry)))
        }
    }

    private func endpoint(_ text: String?) throws -> RPCEndpoint? {
        guard let text else { return nil }
        guard let endpoint = RPCEndpoint(text) else {
            throw ValidationError("'\(text)' is no endpoint: use host:port or unix:///path")
        }
        return endpoint
    }
}

/// SIGINT and SIGTERM as something to wait for.
struct StopSignals {
    let stream: AsyncStream<Void>
    private let sources: [any DispatchSourceSignal]

    init() {
        let (stream, continuation) = AsyncStream<Void>.makeStream()
        self.stream = stream
        sources = [SIGINT, SIGTERM].map { number in
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler { continuation.yield() }
            source.resume()
            return source
        }
    }

    func wait() async {
        for await _ in stream { return }
    }
}
