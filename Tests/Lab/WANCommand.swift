internal import ArgumentParser
internal import FoundationEssentials
internal import Glibc
internal import TestBed

struct WANCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "wan",
        abstract:
            "Two network namespaces with an emulated wide-area link between them, until a signal comes.",
        discussion: """
            Prints the names and addresses of the two ends, then a line of counters a second. \
            Run something at an end with \
            `nsenter --net=/run/netns/NAME …` or `ip netns exec NAME …`. Needs root.
            """
    )

    @Option(help: "Rate of each direction: 100M, 1G, 512k bit/s.")
    var rate = BitRate(megabits: 100)
    @Option(help: "Rate from B to A, if another.")
    var rateBack: BitRate?
    @Option(help: "Delay of each direction: half of the round trip.")
    var delay = Interval(milliseconds: 10)
    @Option(help: "Share of packets that are lost in each direction, 0 to 1.")
    var loss = 0.0
    @Option(
        help:
            "Bytes that may wait in each direction (256K). Default: one bandwidth-delay product, at least 256K."
    )
    var queue: ByteCount?
    @Option(help: "Decides which packets are lost.")
    var seed: UInt64 = 1
    @Option(help: "Largest packet in bytes.")
    var mtu = 1500
    @Option(help: "TCP's congestion control: cubic, reno. Default: this machine's.")
    var congestion: String?
    @Option(help: "End after this time instead of waiting for a signal.")
    var duration: Interval?
    @Flag(help: "First measure the link: round trip and one TCP flow in each direction.")
    var measure = false
    @Flag(help: "One JSON object a line.")
    var json = false

    func run() async throws {
        var line = LineSettings(bitsPerSecond: rate.bitsPerSecond, delay: delay.duration, loss: loss)
        line.queueByteCount = queue?.bytes
        var settings = LinkSettings(line)
        if let rateBack { settings.bToA.bitsPerSecond = rateBack.bitsPerSecond }
        settings.seed = seed
        settings.congestionControl = congestion
        settings.maximumPacketByteCount = mtu
        do { try settings.validate() } catch { throw ValidationError("\(error)") }
        let chosen = settings
        // A reader that goes away is an error of write, after which there is time to clean up.
        signal(SIGPIPE, SIG_IGN)
        try await Cleanup.scope { cleanup in
            let link = try await WANLink.open(chosen)
            try cleanup.add(link)
            try Task.checkCancellation()
            try printBeginning(link)
            if measure { try await printMeasurement(link) }
            try await printCounters(link)
        }
    }

    private struct Beginning: Encodable {
        struct End: Encodable { let namespace, address, device: String }
        let a, b: End
    }

    private func printBeginning(_ link: WANLink) throws {
        let ends = [link.a, link.b].map {
            Beginning.End(namespace: $0.namespace.name, address: $0.address, device: WANLink.End.device)
        }
        if json { return try printJSON(Beginning(a: ends[0], b: ends[1])) }
        for (letter, end) in zip("AB", ends) {
            try printLine("\(letter)  \(end.namespace)  \(end.address)  \(end.device)")
        }
    }

    private struct Measurement: Encodable {
        let roundTripSeconds: Series?
        let aToBBitsPerSecond: Double
        let bToABitsPerSecond: Double
    }

    private func printMeasurement(_ link: WANLink) async throws {
        let probe = LinkProbe(link)
        let trips = Series(try await probe.roundTrips(100))
        let (forth, back) = (
            try await probe.throughput(byteCount(rate)),
            try await probe.throughput(byteCount(rateBack ?? rate), .bToA)
        )
        if json {
            return try printJSON(
                Measurement(roundTripSeconds: trips, aToBBitsPerSecond: forth, bToABitsPerSecond: back))
        }
        if let trips {
            let (low, middle, high) = (trips.minimum * 1e3, trips.median * 1e3, trips.percentile(99) * 1e3)
            try printLine(
                "round trip ms: min \(fixed(low, 3)), median \(fixed(middle, 3)), p99 \(fixed(high, 3))")
        }
        try printLine("one TCP flow: A to B \(rateText(forth)), B to A \(rateText(back))")
    }

    /// Five seconds' worth.
    private func byteCount(_ rate: BitRate) -> Int {
        Int(min(max(rate.bitsPerSecond, 8000) / 8 * 5, 1 << 31))
    }

    private struct Tick: Encodable {
        let seconds: Double
        let lastSecond: LinkCounters
        let total: LinkCounters
    }

    private func printCounters(_ link: WANLink) async throws {
        let clock = ContinuousClock()
        let start = clock.now
        var before = link.counters
        var next = start
        while duration.map({ clock.now - start < $0.duration }) ?? true {
            next += .seconds(1)
            try await clock.sleep(until: duration.map { min(next, start + $0.duration) } ?? next)
            if let failure = link.failure { throw failure }
            let total = link.counters
            let difference = total - before
            before = total
            let elapsed = (clock.now - start).seconds
            if json {
                try printJSON(Tick(seconds: elapsed, lastSecond: difference, total: total))
            } else {
                try printLine(
                    "\(fixed(elapsed, 1)) s  A→B \(text(difference.aToB))  B→A \(text(difference.bToA))")
            }
        }
    }

    private func text(_ line: LineCounters) -> String {
        let missing = [("dropped", line.dropped), ("lost", line.lost), ("cut", line.cut)]
            .filter { $1.packets > 0 }.map { " \($1.packets) \($0)" }.joined(separator: ",")
        return "\(rateText(Double(line.delivered.bytes) * 8)) \(line.delivered.packets) packets\(missing)"
    }

    private func printJSON(_ value: some Encodable) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        try printLine(String(decoding: try encoder.encode(value), as: UTF8.self))
    }

    /// Not `print`: a reader at the other end of a pipe wants each line at once.
    private func printLine(_ line: String) throws {
        let bytes = Array((line + "\n").utf8)
        var rest = bytes[...]
        while !rest.isEmpty {
            let written = rest.withUnsafeBytes { write(1, $0.baseAddress, $0.count) }
            guard written > 0 else {
                throw LabError.systemCall("write", detail: "standard output", errno: errno)
            }
            rest = rest.dropFirst(written)
        }
    }
}
