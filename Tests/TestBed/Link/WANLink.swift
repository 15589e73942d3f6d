internal import CTestBed
internal import Glibc

/// A wide-area network between two network namespaces of this machine, for kernels without netem.
///
/// Each namespace has a TUN device; a thread carries the packets from one to the other at the wanted rate,
/// with delay, loss, a bounded queue and counters. Both ends are real TCP/IP stacks: handshakes, slow start
/// and retransmission are real.
///
/// Needs root. Close it with `close()`. If the process dies the devices vanish with it; names of namespaces
/// that it leaves are removed by the next `open`.
package final class WANLink: Sendable {
    package struct End: Sendable {
        package let namespace: NetworkNamespace
        package let address: String
        package static let device = "wan0"
    }

    package let a: End
    package let b: End
    private let reservation: NetworkNamespace.Reservation
    private let control: LinkControl
    private let loop: Task<Void, any Error>

    private init(
        a: End, b: End, reservation: NetworkNamespace.Reservation, control: LinkControl,
        loop: Task<Void, any Error>
    ) {
        self.a = a
        self.b = b
        self.reservation = reservation
        self.control = control
        self.loop = loop
    }

    deinit {
        control.state.withLock { $0.isEnding = true }
        control.interrupt()
    }

    /// Makes the namespaces, the devices and the line between them. Addresses are 10.77.N.1 at A and
    /// 10.77.N.2 at B.
    package static func open(_ settings: LinkSettings = LinkSettings()) async throws -> WANLink {
        try settings.validate()
        await NetworkNamespace.removeAbandoned()
        let reservation = try NetworkNamespace.reserve()
        let network = "10.77.\(reservation.network)"
        var made: [NetworkNamespace] = []
        do {
            let control = try LinkControl(settings)
            let first = try await NetworkNamespace.create(named: reservation.names.a)
            made.append(first)
            let second = try await NetworkNamespace.create(named: reservation.names.b)
            made.append(second)
            for namespace in made { try await tune(namespace, settings) }
            let devices = (try await openDevice(in: first), try await openDevice(in: second))
            let a = End(namespace: first, address: "\(network).1")
            let b = End(namespace: second, address: "\(network).2")
            for (end, peer) in [(a, b), (b, a)] {
                try await end.namespace.configure([
                    "link set dev \(End.device) addrgenmode none",
                    "link set dev \(End.device) mtu \(settings.maximumPacketByteCount) txqueuelen 4000 up",
                    "address add \(end.address) peer \(peer.address) dev \(End.device)",
                ])
            }
            try await setOffload(of: devices.0, in: first, line: settings.aToB, settings)
            try await setOffload(of: devices.1, in: second, line: settings.bToA, settings)
            control.state.withLock { $0.devices = devices }
            let loop = Task {
                try await DedicatedThread.run("wan-link", nice: -15) {
                    var loop = LinkLoop(a: devices.0, b: devices.1, control: control)
                    do throws(LabError) {
                        try loop.run()
                    } catch {
                        control.state.withLock { $0.failure = error }
                        throw error
                    }
                }
            }
            return WANLink(a: a, b: b, reservation: reservation, control: control, loop: loop)
        } catch {
            for namespace in made { try? await namespace.remove() }
            NetworkNamespace.release(reservation)
            throw error
        }
    }

    /// Ends the line and removes the namespaces. May be repeated.
    package func close() async throws {
        control.state.withLock { $0.isEnding = true }
        control.interrupt()
        _ = await loop.result
        control.state.withLock { $0.devices = nil }
        try await a.namespace.remove()
        try await b.namespace.remove()
        NetworkNamespace.release(reservation)
    }

    /// What went through since it was made.
    package var counters: LinkCounters { control.state.withLock(\.counters) }

    package var settings: LinkSettings { control.state.withLock(\.settings) }

    /// Why the line stopped by itself; nil while it works.
    package var failure: LabError? { control.state.withLock(\.failure) }

    package subscript(direction: LinkDirection) -> (from: End, to: End) {
        direction == .aToB ? (a, b) : (b, a)
    }

    /// Changes settings while it runs: rate and loss for packets that are not on the line yet, delay and
    /// queue at once, a cut also for packets on the way. Seed, MTU and congestion control
    /// stay as they were made.
    ///
    /// - Throws: `.invalid`; then nothing has changed.
    package func change(_ change: (inout LinkSettings) -> Void) async throws {
        let before = settings
        var next = before
        change(&next)
        next.seed = before.seed
        next.congestionControl = before.congestionControl
        next.maximumPacketByteCount = before.maximumPacketByteCount
        try next.validate()
        guard let devices = control.state.withLock(\.devices) else {
            throw LabError.notRunning("the link was closed")
        }
        if WANLink.offload(next.aToB, next) != WANLink.offload(before.aToB, before) {
            try await WANLink.setOffload(of: devices.a, in: a.namespace, line: next.aToB, next)
        }
        if WANLink.offload(next.bToA, next) != WANLink.offload(before.bToA, before) {
            try await WANLink.setOffload(of: devices.b, in: b.namespace, line: next.bToA, next)
        }
        control.state.withLock { state in
            state.settings = next
            state.generation += 1
        }
        control.interrupt()
    }

    /// Cuts the line in some directions, and only in those.
    package func cut(_ directions: Set<LinkDirection>) async throws {
        try await change { settings in
            for direction in LinkDirection.allCases {
                settings[direction].isCut = directions.contains(direction)
            }
        }
    }

    /// Buffers for a long fat line: Linux's default of 4 MiB for sending limits a flow at 1 Gbit/s and 20 ms.
    private static func tune(_ namespace: NetworkNamespace, _ settings: LinkSettings) async throws {
        try await namespace.perform {
            try writeSetting("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 33554432")
            try writeSetting("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 33554432")
            if let name = settings.congestionControl {
                let setting = "/proc/sys/net/ipv4/tcp_congestion_control"
                // A new namespace begins with the machine's default, which may be one that it could not choose.
                if try readSmallFile(setting) != Array((name + "\n").utf8) { try writeSetting(setting, name) }
            }
        }
    }

    private static func openDevice(in namespace: NetworkNamespace) async throws -> Descriptor {
        try await namespace.perform {
            Descriptor(try checked(tb_open_tun(End.device), "TUNSETIFF", "/dev/net/tun"))
        }
    }

    /// The size up to which the kernel may hand TCP packets over uncut; nil: never.
    ///
    /// From 400 Mbit/s on it saves most of the processor time. 60 µs of line keep the timing; with loss each
    /// packet must be lost by itself.
    private static func offload(_ line: LineSettings, _ settings: LinkSettings) -> Int? {
        guard line.bitsPerSecond >= 400_000_000, line.loss == 0 else { return nil }
        let byteCount = Int(Double(line.bitsPerSecond) / 8 * 60e-6)
        return min(max(byteCount, 2 * settings.maximumPacketByteCount), 65_536)
    }

    private static func setOffload(
        of device: Descriptor, in namespace: NetworkNamespace, line: LineSettings, _ settings: LinkSettings
    ) async throws {
        let size = offload(line, settings)
        if let size { try await namespace.configure(["link set dev \(End.device) gso_max_size \(size)"]) }
        _ = try checked(
            tb_set_segmentation_offload(device.number, size != nil), "TUNSETOFFLOAD", namespace.name)
    }
}
