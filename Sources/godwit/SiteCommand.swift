internal import ArgumentParser
internal import CSIService
internal import Catalog
internal import Cluster
internal import Dispatch
internal import Foundation
internal import Glibc
internal import Hydration
internal import KubernetesAPI
internal import Logging
internal import Monitoring
internal import MountHolder
internal import RPC
internal import Site
internal import VolumeModel

/// `godwit site`
struct SiteCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "site",
        abstract: "Run a site on this host: its volumes, its CSI driver, its peers' port.",
        discussion: """
            Runs until SIGINT or SIGTERM, then unmounts what is not in use and leaves everything durable; with \
            --mount-holder it leaves all mounts as they are, and the next one goes on with them. \
            Killed at any moment, it goes on where it was when it is started again. Needs root, for mounts.

            Until a volume has been copied elsewhere, its durability is this host's disk.

            Example: godwit site --state-dir /var/lib/godwit --peer-listen 0.0.0.0:7443
            """)

    @OptionGroup var options: SiteOptions
    @Option(help: ArgumentHelp("Where peers reach this site; none: no peers.", valueName: "host:port"))
    var peerListen: String?
    @Option(
        help: ArgumentHelp(
            "Where other nodes of this site reach this one; only at a site of several nodes.",
            valueName: "host:port"))
    var advertise: String?
    @Option(
        help: ArgumentHelp(
            "The CSI driver's socket, for example unix:///csi/csi.sock.", valueName: "endpoint"))
    var csiEndpoint: String?
    @Option(
        help: ArgumentHelp(
            "Kubelet's directory, for example /var/lib/kubelet: the driver makes itself known there. Its socket is "
                + "below it, in plugins/\(CSIService.driverName), unless --csi-endpoint says otherwise.",
            valueName: "dir"))
    var kubeletDir: String?
    @Option(
        help: ArgumentHelp(
            "Who but root may call the driver, and use the control socket that is then made beside its own: the "
                + "controller's group, in which it needs no root. Needs --kubelet-dir.", valueName: "gid"))
    var socketGroup: UInt32?
    @Option(
        help: ArgumentHelp(
            "Where /healthz, /readyz and /metrics are answered over HTTP; none: nowhere.",
            valueName: "host:port"))
    var monitorListen: String?
    @Option(help: "How many volumes have figures of their own in /metrics.") var monitorVolumes = 500
    @Option(help: "The name of this host within the site; the host's own name if not given.")
    var node: String?
    @OptionGroup var keys: SiteKeyOptions
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
    @Option(
        help: ArgumentHelp(
            "Copies of volumes that have left, kept in case they return: 'auto' (while a fifth of the disk is free), "
                + "at most so many bytes of them (for example 50Gi), or 'none'. They go at once when the disk is "
                + "full.", valueName: "size"))
    var keepCopies = "auto"
    @Option(
        help: ArgumentHelp(
            "How long after its last use a volume that is not mounted keeps its files open.",
            valueName: "seconds"))
    var restAfter = 60
    @Option(
        help: ArgumentHelp(
            "How many bytes a second of what is stored are read and held against their hashes while nobody asks for it "
                + "(for example 20Mi); 0: never.", valueName: "size"))
    var scrubRate = ByteCount(bytes: ScrubPolicy().bytesPerSecond)
    @Option(
        help: ArgumentHelp(
            "How often each file is read for that: seconds, or 90m, 12h, 7d.", valueName: "time"))
    var scrubEvery = "7d"
    @Option(
        help: ArgumentHelp(
            "What the names and inodes of each volume in use may take of memory, at least 4Mi. What the kernel knows of a "
                + "volume's files comes on top, 50 bytes each.", valueName: "size"))
    var metadataMemory = ByteCount(bytes: CatalogMemory.standard.byteCount)
    @OptionGroup var offers: OfferOptions
    @Option(
        help: ArgumentHelp(
            "The socket of a 'godwit hold', which keeps mounts while this process is replaced; none: an end ends them.",
            valueName: "path"))
    var mountHolder: String?
    @Flag(help: "Print the table of what well-known applications read first, and end.")
    var showPrefetchTable = false
    @OptionGroup var log: LogOptions

    func validate() throws {
        guard faultTimeout > 0, faultTimeout <= 86_400 else {
            throw ValidationError("--fault-timeout is more than 0 and at most 86400 seconds")
        }
        if let advertise, RPCEndpoint.bracketed(advertise) == nil {
            throw ValidationError("--advertise is host:port, not '\(advertise)'")
        }
        _ = try copyPolicy()
        _ = try scrubPolicy()
        _ = try catalogMemory()
        if let kubeletDir {
            guard kubeletDir.hasPrefix("/") else {
                throw ValidationError("--kubelet-dir is an absolute path")
            }
            guard csiEndpoint?.hasPrefix("unix:") != false else {
                throw ValidationError("--kubelet-dir needs a --csi-endpoint that is a Unix socket")
            }
        }
        if let socketGroup {
            guard kubeletDir != nil, csiEndpoint == nil else {
                throw ValidationError("--socket-group needs --kubelet-dir, and the driver's socket there")
            }
            // The last number stands for 'no change' in chown(2).
            guard socketGroup != UInt32.max else { throw ValidationError("--socket-group is no group") }
        }
        guard (1...1_000_000).contains(restAfter) else {
            throw ValidationError("--rest-after is 1 to 1000000")
        }
        if let mountHolder, !mountHolder.hasPrefix("/") {
            throw ValidationError("--mount-holder is an absolute path")
        }
        guard (0...100_000).contains(monitorVolumes) else {
            throw ValidationError("--monitor-volumes is 0 to 100000")
        }
        if let monitorListen {
            guard case .tcp? = RPCEndpoint(monitorListen) else {
                throw ValidationError("--monitor-listen is host:port, not '\(monitorListen)'")
            }
        }
    }

    func run() async throws {
        if showPrefetchTable {
            print(PrefetchTable.standardText)
            return
        }
        Heap.bound()
        try await reporting {
            // A peer that went away must be an error of the call, not the end of the process.
            signal(SIGPIPE, SIG_IGN)
            MetricsText.noteProcessStart()
            let logger = log.makeLogger()
            // A volume in use has some hundred files open at most, and each of a peer's connections takes one.
            OpenFileLimit.raise(to: 65_536)
            let state = try StateDirectory(options.stateDirectory)
            // Before anything there is read; and before signals are kept for later, so that one ends the waiting.
            let lock = try await lock(state, logger)
            defer { lock.release() }
            let stop = StopSignals()
            let identity = try keys.identity(in: state.keys, node: node, logger)
            var hydration = Hydrator.Configuration()
            hydration.faultTimeout = .milliseconds(Int64(faultTimeout * 1000))
            hydration.streamsInBackground = !noBackgroundHydration
            if let prefetchTable { hydration.firstGuesses = try Self.table(prefetchTable) }
            let context = SiteContext(
                node: node ?? ProcessInfo.processInfo.hostName, state: state,
                registry: try registry(state, of: identity.site), identity: identity, hydration: hydration,
                copies: try copyPolicy(), restAfter: .seconds(restAfter), scrubbing: try scrubPolicy(),
                memory: try catalogMemory(), offers: offers.limits,
                holder: mountHolder.map { HolderClient(path: $0) },
                advertised: advertise.flatMap { RPCEndpoint.bracketed($0) }, logger: logger)
            let site = Site(context: context)
            do {
                try await site.start()
                try await serve(site, stop)
            } catch {
                // What was taken up is not to end with it: the next try may go on.
                await site.stop()
                throw error
            }
            await site.stop()
        }
    }

    /// How long the process before may take to end.
    private static let lockPatience: Duration = .seconds(30)

    private func lock(_ state: StateDirectory, _ logger: Logger) async throws -> StateLock {
        try await StateLock(state, patience: Self.lockPatience) { other in
            logger.notice(
                "waiting for another process to end, which has the state directory: \(other)",
                metadata: ["directory": "\(state.path)", "limit": "\(Self.lockPatience)"])
        }
    }

    private func copyPolicy() throws -> CopyPolicy {
        switch keepCopies {
        case "auto": return .whileThereIsRoom
        case "none": return .none
        default:
            guard let limit = ByteCount(argument: keepCopies) else {
                throw ValidationError("--keep-copies is 'auto', 'none' or a size such as 50Gi")
            }
            return .limited(limit.bytes)
        }
    }

    private func catalogMemory() throws -> CatalogMemory {
        guard let memory = CatalogMemory(byteCount: metadataMemory.bytes) else {
            throw ValidationError("--metadata-memory is a size such as 64Mi, at least 4Mi")
        }
        return memory
    }

    private func scrubPolicy() throws -> ScrubPolicy {
        let units: [(Character, Int64)] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]
        let unit = units.first { scrubEvery.last == $0.0 }
        guard let number = Int64(scrubEvery.dropLast(unit == nil ? 0 : 1)),
            (1...315_360_000).contains(number.multipliedReportingOverflow(by: unit?.1 ?? 1).partialValue),
            number <= 315_360_000
        else {
            throw ValidationError("--scrub-every is a time of at least 1 second, such as 12h or 7d")
        }
        return ScrubPolicy(
            bytesPerSecond: scrubRate.bytes, every: .seconds(number * (unit?.1 ?? 1)))
    }

    private static func table(_ path: String) throws -> PrefetchTable {
        let text = try String(contentsOfFile: path, encoding: .utf8)
        do {
            return PrefetchTable.standard.extended(by: try PrefetchTable(text))
        } catch {
            throw ValidationError("\(path), \(error)")
        }
    }

    /// Answers everybody until a signal comes.
    private func serve(_ site: Site, _ stop: StopSignals) async throws {
        let logger = site.context.logger
        let endpoints = SiteServers.Endpoints(
            control: .unix(path: site.context.state.controlSocket), peers: try endpoint(peerListen),
            csi: try driverEndpoint(), group: socketGroup)
        let csi = CSIService(
            backend: SiteCSIBackend(site: site), publicationsPath: site.context.state.publications,
            kubeletDirectory: kubeletDir, logger: logger)
        let servers = try SiteServers(
            site: site, endpoints: endpoints,
            csi: { (call) async throws(RPCStatus) in try await csi.handle(call) })
        let registration = registration(at: endpoints.csi, logger)
        let monitor = try SiteMonitor(
            site: site, endpoints: endpoints, operations: csi.times, registration: registration,
            volumeLimit: monitorVolumes)
        var monitoring: MonitoringServer?
        if let monitorListen, case .tcp(let host, let port)? = RPCEndpoint(monitorListen) {
            do {
                monitoring = try await MonitoringServer(host: host, port: port) { await monitor.answer($0) }
            } catch {
                await servers.stop()
                throw ValidationError("--monitor-listen \(monitorListen) cannot be listened on: \(error)")
            }
        }
        if let monitoring { logger.info("probes are answered at port \(monitoring.port)") }
        let registering = registration.map { registration in Task { await registration.run() } }
        logger.info("site \(site.context.site) is ready", metadata: ["release": "\(Release.current)"])
        await stop.wait()
        logger.info("stopping")
        // Kubelet first: it is to ask for nothing any more.
        registering?.cancel()
        await registering?.value
        await monitoring?.stop()
        monitor.close()
        await servers.stop()
    }

    /// The CSI socket; below kubelet's directory, which the socket's own is made in, if nothing else is said.
    private func driverEndpoint() throws -> RPCEndpoint? {
        guard csiEndpoint == nil, let kubeletDir else { return try endpoint(csiEndpoint) }
        let directory = kubeletDir + "/plugins/" + CSIService.driverName
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o750])
        if let socketGroup {
            // Kubelet may have made it, for root alone.
            guard chown(directory, uid_t.max, socketGroup) == 0, chmod(directory, 0o750) == 0 else {
                throw ValidationError("\(directory) cannot be given to the group \(socketGroup)")
            }
        }
        return .unix(path: directory + "/csi.sock")
    }

    private func registration(at driver: RPCEndpoint?, _ logger: Logger) -> KubeletRegistration? {
        guard let kubeletDir, case .unix(let path)? = driver else { return nil }
        return KubeletRegistration(kubeletDirectory: kubeletDir, driverEndpoint: path) {
            logger.notice("\($0)")
        }
    }

    private func registry(_ state: StateDirectory, of member: SiteID) throws -> any SiteRegistry {
        switch registry {
        case "embedded": try SQLiteRegistry(path: state.registry)
        case "cluster": ClusterRegistry(try KubernetesClient(.inCluster()), member: member)
        default: ClusterRegistry(try KubernetesClient(.kubeconfig(path: registry)), member: member)
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
