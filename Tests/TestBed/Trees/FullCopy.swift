internal import Glibc

/// The move that everybody knows: the whole tree through rsync, from one end of a link to the other. Without
/// ssh, whose encryption would be measured too: a daemon at the source, a client at the target.
package struct FullCopy: Sendable {
    package struct Result: Hashable, Sendable {
        package let duration: Duration
        /// Through the link in both directions, all headers included.
        package let linkByteCount: UInt64
        /// Processor time of the client, with what it waited for.
        package let processorTime: Duration
    }

    package let link: WANLink
    /// Where the tree is.
    package let direction: LinkDirection
    /// As rsync's `-z`.
    package var compressed = false
    /// Ends only when the target's file system has everything on disk, as a database would want it.
    package var synchronising = true

    package init(over link: WANLink, _ direction: LinkDirection = .aToB) {
        self.link = link
        self.direction = direction
    }

    /// Copies the content of `source` into `target`, which is made if missing.
    ///
    /// - Parameter target: Must be empty: nothing is compared or skipped.
    package func run(from source: String, to target: String, limit: Duration = .seconds(3600)) async throws
        -> Result
    {
        let (sender, receiver) = link[direction]
        guard source.hasPrefix("/"), target.hasPrefix("/"), !source.contains("\n") else {
            throw LabError.invalid("FullCopy wants absolute paths without line breaks: \(source), \(target)")
        }
        if mkdir(target, 0o755) < 0, errno != EEXIST {
            throw LabError.systemCall("mkdir", detail: target, errno: errno)
        }
        return try await Cleanup.scope(catchingSignals: false) { cleanup in
            let directory = try cleanup.makeTemporaryDirectory(mode: 0o700)
            let port = try await startDaemon(source, directory, at: sender, cleanup)
            // The window: otherwise times of links and directories are right to the second only.
            var client = Program(
                "rsync", ["-a", "--whole-file", "--numeric-ids", "--modify-window=-1"])
            if compressed { client.arguments.append("-z") }
            client.arguments += ["rsync://\(sender.address):\(port)/tree/", target + "/"]
            client.network = receiver.namespace
            let before = link.counters
            let start = ContinuousClock.now
            let outcome = try await ChildProcess.run(client, limit: limit)
            guard outcome.exit.isSuccess else {
                throw LabError.programFailed(
                    "rsync", exit: outcome.exit, output: String(outcome.output.suffix(4096)))
            }
            if synchronising { try await ChildProcess.check(Program("sync", ["-f", target]), limit: limit) }
            let duration = ContinuousClock.now - start
            let moved = link.counters - before
            return Result(
                duration: duration, linkByteCount: moved.deliveredByteCount,
                processorTime: outcome.usage?.processorTime ?? .zero)
        }
    }

    private func startDaemon(
        _ source: String, _ directory: String, at end: WANLink.End, _ cleanup: Cleanup
    ) async throws -> UInt16 {
        // Nobody else listens at this address: the namespace is ours. Several copies at once need several
        // ports.
        let port = UInt16.random(in: 20_000...30_000)
        let configuration = "\(directory)/rsyncd.conf"
        let text = """
            use chroot = no
            reverse lookup = no
            [tree]
            path = \(source)
            read only = yes
            uid = 0
            gid = 0

            """
        try writeFile(configuration, Array(text.utf8))
        var daemon = Program(
            "rsync",
            [
                "--daemon", "--no-detach", "--address=\(end.address)", "--port=\(port)",
                "--config=\(configuration)",
            ])
        daemon.network = end.namespace
        daemon.output = .file("\(directory)/log")
        let child = try await ChildProcess.start(daemon)
        try cleanup.add(child)
        let deadline = ContinuousClock.now + .seconds(60)
        while !(try await end.namespace.perform { try isListening(port) }) {
            guard child.exit == nil, ContinuousClock.now < deadline else {
                let log = (try? readSmallFile("\(directory)/log")) ?? []
                throw LabError.notRunning(
                    "rsync's daemon does not listen: \(String(decoding: log, as: UTF8.self))")
            }
            try await Task.sleep(for: .milliseconds(5))
        }
        return port
    }
}

/// Whether a TCP socket of the thread's network namespace listens on a port, over IPv4.
///
/// - Source: proc(5), /proc/net/tcp: address in hexadecimal, state 0A is LISTEN.
private func isListening(_ port: UInt16) throws(LabError) -> Bool {
    let text = String(decoding: try readSmallFile("/proc/thread-self/net/tcp"), as: UTF8.self)
    return text.split(separator: "\n").dropFirst().contains { line in
        let fields = line.split(separator: " ")
        guard fields.count > 3, fields[3] == "0A" else { return false }
        return fields[1].split(separator: ":").last.flatMap { UInt16($0, radix: 16) } == port
    }
}

/// Writes a small file anew.
func writeFile(_ path: String, _ bytes: [UInt8]) throws(LabError) {
    let flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC
    let file = Descriptor(Int32(try checkedCall("open", path) { Int(open(path, flags, 0o644)) }))
    var position = 0
    while position < bytes.count {
        position += try checkedCall("write", path) {
            bytes.withUnsafeBytes {
                write(file.number, $0.baseAddress.map { $0 + position }, $0.count - position)
            }
        }
    }
}
