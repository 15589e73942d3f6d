internal import Foundation

/// A `godwit site` that runs as a process, and the command line that talks to it.
package actor SiteProcess {
    package nonisolated let name: String
    package nonisolated let stateDirectory: String
    package nonisolated let address: String
    package nonisolated let binary: String
    private nonisolated let network: NetworkNamespace?
    private nonisolated let options: [String]
    private nonisolated let environment: [String: String]
    private nonisolated let kubeletDirectory: String?
    private nonisolated let launcher: [String]
    private var process: ChildProcess?

    /// - Parameters:
    ///   - binary: the program `godwit`.
    ///   - address: where peers reach it: an address of the namespace, or of loopback.
    ///   - stateDirectory: made if it is missing.
    ///   - kubeletDirectory: where it makes itself known; its CSI socket is there then.
    ///   - launcher: a command that runs the one which follows it, for example in other namespaces.
    package init(
        name: String, binary: String, stateDirectory: String, address: String,
        network: NetworkNamespace? = nil, options: [String] = [], environment: [String: String] = [:],
        kubeletDirectory: String? = nil, launcher: [String] = []
    ) {
        self.launcher = launcher
        self.name = name
        self.kubeletDirectory = kubeletDirectory
        self.binary = binary
        self.stateDirectory = stateDirectory
        self.address = address
        self.network = network
        self.options = options
        self.environment = environment
    }

    package nonisolated var csiEndpoint: String {
        "unix://" + (kubeletDirectory.map { $0 + "/plugins/csi.godwit.dev" } ?? stateDirectory) + "/csi.sock"
    }
    package nonisolated var logPath: String { stateDirectory + ".log" }
    package var pid: Int32? { process?.pid }
    package var usage: ProcessUsage? { process?.usage }

    /// Runs a command of `godwit` against this site.
    ///
    /// - Returns: how it ended and what it printed, standard error included.
    package nonisolated func run(
        _ arguments: [String], input: String = "", limit: Duration = .seconds(60)
    ) async throws -> ChildProcess.Outcome {
        var program = Program(binary, arguments + ["--state-dir", stateDirectory])
        program.input = Array(input.utf8)
        return try await ChildProcess.run(program, limit: limit)
    }

    /// The same, where anything but success is an error.
    @discardableResult
    package nonisolated func godwit(
        _ arguments: [String], input: String = "", limit: Duration = .seconds(60)
    ) async throws -> String {
        let outcome = try await run(arguments, input: input, limit: limit)
        guard outcome.exit.isSuccess else {
            throw LabError.invalid(
                "godwit \(arguments.joined(separator: " ")) at \(name): \(outcome.exit): \(outcome.output)")
        }
        return outcome.output
    }

    /// Calls the site's CSI socket: `godwit csi …`, as JSON.
    @discardableResult
    package nonisolated func csi(_ arguments: [String], limit: Duration = .seconds(60)) async throws -> String
    {
        let program = Program(binary, ["csi"] + arguments + ["--endpoint", csiEndpoint])
        let outcome = try await ChildProcess.run(program, limit: limit)
        guard outcome.exit.isSuccess else {
            throw LabError.invalid(
                "godwit csi \(arguments.joined(separator: " ")) at \(name): \(outcome.output)")
        }
        return outcome.output
    }

    /// What `godwit volume inspect --json` says.
    package nonisolated func inspect(_ volume: String) async throws -> [String: Any] {
        let text = try await godwit(["volume", "inspect", volume, "--json"])
        guard let object = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any] else {
            throw LabError.invalid("no JSON object: \(text)")
        }
        return object
    }

    /// A number of `inspect`.
    package nonisolated func number(_ key: String, of volume: String) async throws -> UInt64 {
        guard let number = try await inspect(volume)[key] as? NSNumber else {
            throw LabError.invalid("volume \(volume) has no number '\(key)'")
        }
        return number.uint64Value
    }

    /// What it tells at /metrics. It is to be started with `--monitor-listen 127.0.0.1:0`.
    package nonisolated func metrics() async throws -> MetricsReading {
        let deadline = ContinuousClock.now + .seconds(30)
        while true {
            let log = String(decoding: try readSmallFile(logPath), as: UTF8.self)
            let port = log.components(separatedBy: "probes are answered at port ").dropFirst().last ?? ""
            var program = Program(
                "curl", ["-sf", "-m", "20", "http://127.0.0.1:\(port.prefix { $0.isNumber })/metrics"])
            program.network = network
            let outcome = try await ChildProcess.run(program, limit: .seconds(30))
            if outcome.exit.isSuccess { return MetricsReading(outcome.output) }
            // One that was just started tells its port a moment after it answers.
            guard ContinuousClock.now < deadline else {
                throw LabError.invalid("no metrics of site \(name): curl \(outcome.exit)")
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    package func initialise() async throws {
        try FileManager.default.createDirectory(
            atPath: stateDirectory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        try await godwit(["pki", "init", "--site", name])
    }

    /// Lets two sites trust each other.
    package static func introduce(_ first: SiteProcess, _ second: SiteProcess) async throws {
        for (one, other) in [(first, second), (second, first)] {
            let document = try await one.godwit(["pki", "show", "--address", one.address])
            try await other.godwit(["pki", "trust", "-"], input: document)
        }
    }

    /// Starts the site and waits until it answers.
    package func start(limit: Duration = .seconds(60)) async throws {
        let command =
            launcher + [
                binary, "site", "--state-dir", stateDirectory, "--peer-listen", address, "--node",
                "\(name)-node",
            ] + (kubeletDirectory.map { ["--kubelet-dir", $0] } ?? ["--csi-endpoint", csiEndpoint])
            + options
        var program = Program(command[0], Array(command.dropFirst()))
        program.network = network
        program.environment = environment
        program.output = .file(logPath)
        let started = try await ChildProcess.start(program)
        process = started
        let deadline = ContinuousClock.now + limit
        while try await !run(["volume", "list"]).exit.isSuccess {
            guard started.exit == nil, ContinuousClock.now < deadline else {
                let log = (try? String(contentsOfFile: logPath, encoding: .utf8)) ?? ""
                throw LabError.invalid("site \(name) does not start: \(log.suffix(2000))")
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    /// Names the file that `arm` writes.
    static let stopVariable = "GODWIT_TEST_STOP"

    private nonisolated var stopFile: String? { environment[Self.stopVariable] }

    /// Lets the process send itself a signal when it comes to a step of a hand-off (Sources/Site/TestStop.swift).
    package nonisolated func arm(_ signal: Int32, at step: String) throws {
        guard let stopFile else { throw LabError.invalid("site \(name) has no \(Self.stopVariable)") }
        // All of it is there at once.
        try Data("\(signal) \(step)".utf8).write(to: URL(fileURLWithPath: stopFile), options: .atomic)
    }

    /// Whether it has not come to that step yet.
    package nonisolated var isArmed: Bool {
        stopFile.map { FileManager.default.fileExists(atPath: $0) } ?? false
    }

    /// Takes that back.
    package nonisolated func disarm() {
        if let stopFile { try? FileManager.default.removeItem(atPath: stopFile) }
    }

    /// Whether it was stopped by a signal, and not continued since.
    package var isStopped: Bool {
        guard let pid, let status = try? readSmallFile("/proc/\(pid)/stat"),
            // Its name, which is before the state, may be anything.
            let end = status.lastIndex(of: UInt8(ascii: ")"))
        else { return false }
        return status[end...].dropFirst(2).first == UInt8(ascii: "T")
    }

    /// SIGSTOP, SIGCONT and the like.
    package func signal(_ number: Int32) { process?.signal(number) }

    /// Ends it in order.
    package func stop() async {
        _ = await process?.end(with: SIGTERM, grace: .seconds(20))
        process = nil
    }

    /// kill -9.
    package func kill() async {
        _ = process?.kill(SIGKILL)
        _ = try? await process?.wait(limit: .seconds(10))
        process = nil
    }
}
