internal import CTestBed
internal import Glibc
internal import Synchronization

/// What the loop's thread and the holder of the link share.
final class LinkControl: Sendable {
    struct State {
        var settings: LinkSettings
        var generation = 0
        var counters = LinkCounters()
        var isEnding = false
        /// The two devices; nil when closed. They vanish with the last reference.
        var devices: (a: Descriptor, b: Descriptor)?
        var failure: LabError?
    }

    let state: Mutex<State>
    let wake: Descriptor

    init(_ settings: LinkSettings) throws(LabError) {
        state = Mutex(State(settings: settings))
        wake = Descriptor(try checked(tb_open_event(), "eventfd", "a link"))
    }

    func interrupt() {
        var one: UInt64 = 1
        _ = write(wake.number, &one, 8)
    }
}

/// A file descriptor that is closed with the last reference.
final class Descriptor: Sendable {
    let number: Int32
    init(_ number: Int32) { self.number = number }
    deinit { close(number) }
}

/// Carries packets between two TUN devices, on one thread.
///
/// Timing: with little traffic it wakes for each packet. A sleeping thread runs again some 50 to 100 µs after
/// its timer (on a virtual machine): it measures that, sets timers earlier by as much, and spends the rest
/// looking at the clock. From 16 packets a millisecond on it looks every 50 µs only, which costs a fraction
/// of the processor time and adds 50 µs to a round trip on average.
struct LinkLoop {
    private struct Side {
        let source: Int32
        let target: Int32
        let store = PacketStore()
        var line: OneWayLine<PacketStore.Slice>
    }

    private static let busyPacketsInMillisecond = 16
    private static let busyPause: Int64 = 50_000
    private static let mostPacketsAtOnce = 64

    private let control: LinkControl
    private var aToB: Side
    private var bToA: Side
    private var generation = 0
    private var windowStart: Int64 = 0
    private var windowCount = 0
    private var isBusy = false
    /// How late this thread wakes: a moving average, in nanoseconds.
    private var wakeDelay: Int64 = 30_000
    /// What the packets about to be read have waited for this thread to wake.
    private var readingDelay: Int64 = 0
    private let devices: (a: Descriptor, b: Descriptor)

    init(a: Descriptor, b: Descriptor, control: LinkControl) {
        let settings = control.state.withLock(\.settings)
        self.control = control
        devices = (a, b)
        aToB = Side(source: a.number, target: b.number, line: OneWayLine(settings.aToB, seed: settings.seed))
        bToA = Side(source: b.number, target: a.number, line: OneWayLine(settings.bToA, seed: ~settings.seed))
    }

    /// Returns when the link is closed, or when a device failed.
    mutating func run() throws(LabError) {
        while takeSettings() {
            let now = tb_now() - readingDelay
            var read = try LinkLoop.receive(&aToB, at: now)
            read += try LinkLoop.receive(&bToA, at: now)
            let later = tb_now()
            let delivered = LinkLoop.deliver(&aToB, at: later) + LinkLoop.deliver(&bToA, at: later)
            count(read + delivered, at: later)
            if read + delivered > 0 { giveCounters() }
            // A full round: more is probably there.
            if read < LinkLoop.mostPacketsAtOnce { try pause(from: later) }
        }
    }

    /// - Returns: false when the link is to end.
    private mutating func takeSettings() -> Bool {
        let known = generation
        let (next, changed, goesOn) = control.state.withLock { state in
            (state.generation, state.generation == known ? nil : state.settings, !state.isEnding)
        }
        if let changed {
            aToB.line.settings = changed.aToB
            bToA.line.settings = changed.bToA
            generation = next
        }
        return goesOn
    }

    /// Before every pause: what is read of them is behind by one round at most.
    private func giveCounters() {
        let counters = LinkCounters(aToB: aToB.line.counters, bToA: bToA.line.counters)
        control.state.withLock { $0.counters = counters }
    }

    private mutating func count(_ packets: Int, at now: Int64) {
        windowCount += packets
        if now - windowStart >= 1_000_000 {
            isBusy = windowCount >= LinkLoop.busyPacketsInMillisecond
            windowStart = now
            windowCount = 0
        }
    }

    private mutating func pause(from now: Int64) throws(LabError) {
        readingDelay = 0
        var descriptors = [control.wake, devices.a, devices.b].map {
            pollfd(fd: $0.number, events: Int16(POLLIN), revents: 0)
        }
        let next = [aToB.line.nextEvent, bToA.line.nextEvent].compactMap(\.self).min()
        let timer = isBusy ? now + LinkLoop.busyPause : next.map { max(now, $0 - wakeDelay) }
        let result = tb_poll(&descriptors, isBusy ? 1 : 3, timer.map { $0 - now } ?? -1)
        if result < 0, result != -EINTR { _ = try checked(result, "ppoll", "a link") }
        if result == 0, !isBusy, let timer, timer > now {
            wakeDelay += (min(max(0, tb_now() - timer), 200_000) - wakeDelay) / 8
        }
        // Half of it: an estimate, and too much would let packets arrive early (17 µs was the most seen).
        if result > 0, !isBusy { readingDelay = min(wakeDelay / 2, tb_now() - now) }
        if descriptors[0].revents != 0 {
            var count: UInt64 = 0
            _ = Glibc.read(control.wake.number, &count, 8)
        }
    }

    private static func receive(_ side: inout Side, at now: Int64) throws(LabError) -> Int {
        for index in 0..<mostPacketsAtOnce {
            let room = side.store.room()
            let length = read(side.source, room.baseAddress, room.count)
            if length < 0 {
                let number = errno
                guard number == EAGAIN || number == EINTR else {
                    throw .systemCall("read", detail: "a TUN device", errno: number)
                }
                return index
            }
            let slice = side.store.slice(byteCount: length)
            let (byteCount, packetCount) = wireSize(slice.bytes)
            let entry = side.line.enter(slice, byteCount: byteCount, packetCount: packetCount, at: now)
            if entry == .accepted { side.store.keep(slice) }
        }
        return mostPacketsAtOnce
    }

    private static func deliver(_ side: inout Side, at now: Int64) -> Int {
        var count = 0
        while count < 4 * mostPacketsAtOnce, let (packet, isCut) = side.line.leave(at: now) {
            if !isCut {
                let bytes = packet.payload.bytes
                if write(side.target, bytes.baseAddress, bytes.count) < 0 { side.line.takeBack(packet) }
            }
            side.store.release(packet.payload)
            count += 1
        }
        return count
    }

    /// How many bytes and packets this would be on a real line, where large TCP packets are cut up first.
    ///
    /// - Source: struct virtio_net_hdr of linux/virtio_net.h, host byte order; RFC 9293, section 3.1 (data
    ///   offset).
    static func wireSize(_ bytes: UnsafeRawBufferPointer) -> (byteCount: Int, packetCount: Int) {
        let header = Int(TB_PACKET_HEADER_SIZE)
        let total = max(0, bytes.count - header)
        guard total > 0, bytes[1] != 0 else { return (total, 1) }
        let segment = Int(bytes.loadUnaligned(fromByteOffset: 4, as: UInt16.self))
        let transport = Int(bytes.loadUnaligned(fromByteOffset: 6, as: UInt16.self))
        guard segment > 0, header + transport + 12 < bytes.count else { return (total, 1) }
        let headers = transport + Int(bytes[header + transport + 12] >> 4) * 4
        guard headers < total else { return (total, 1) }
        let payload = total - headers
        let packetCount = (payload + segment - 1) / segment
        return (payload + packetCount * headers, packetCount)
    }
}
