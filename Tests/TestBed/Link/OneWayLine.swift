/// One direction of a link as pure arithmetic: which packet waits, is on the line, arrives when, or is
/// dropped. Does no I/O and reads no clock.
///
/// Invariants:
/// - Packets leave in the order in which they came.
/// - The line carries one packet at a time: the next starts when the one before is wholly on the line.
/// - `waitingByteCount` is the sum over `waiting`, and never above the queue's size.
struct OneWayLine<Payload> {
    /// A packet, or several handed over as one that the receiver cuts up.
    struct Packet {
        let payload: Payload
        let byteCount: Int
        let packetCount: Int
        let enteredAt: Int64
    }

    enum Entry: Equatable { case accepted, dropped, lost, cut }

    var settings: LineSettings {
        didSet { derive() }
    }
    private(set) var counters = LineCounters()
    private var waiting = FIFO<Packet>()
    private var onTheWay = FIFO<(packet: Packet, arrivesAt: Int64)>()
    private var waitingByteCount = 0
    /// When the line can take the next packet.
    private var freeAt = Int64.min
    private var lastArrival = Int64.min
    private var random: SplitMix
    private var nanosecondsPerByte = 0.0
    private var delay: Int64 = 0
    private var queueByteCount = 0

    init(_ settings: LineSettings, seed: UInt64) {
        self.settings = settings
        random = SplitMix(state: seed)
        derive()
    }

    private mutating func derive() {
        nanosecondsPerByte = 8e9 / Double(settings.bitsPerSecond)
        delay = settings.delay.nanoseconds
        queueByteCount = settings.effectiveQueueByteCount
    }

    var isEmpty: Bool { waiting.isEmpty && onTheWay.isEmpty }

    /// When something will have to be done next; nil: not before another packet comes.
    var nextEvent: Int64? {
        // What waits arrives after all that is on the way.
        onTheWay.first?.arrivesAt ?? (waiting.isEmpty ? nil : freeAt)
    }

    /// Takes a packet at the line's beginning. If it is not accepted its payload is the caller's to forget.
    mutating func enter(_ payload: Payload, byteCount: Int, packetCount: Int = 1, at now: Int64) -> Entry {
        counters.sent.add(packets: packetCount, bytes: byteCount)
        // Drawn for each packet, whatever becomes of it: the n-th draw belongs to the n-th packet.
        var isLost = false
        for _ in 0..<packetCount where random.nextFraction() < settings.loss { isLost = true }
        if settings.isCut {
            counters.cut.add(packets: packetCount, bytes: byteCount)
            return .cut
        }
        if isLost {
            counters.lost.add(packets: packetCount, bytes: byteCount)
            return .lost
        }
        advance(to: now)
        guard waitingByteCount + byteCount <= queueByteCount || waiting.isEmpty else {
            counters.dropped.add(packets: packetCount, bytes: byteCount)
            return .dropped
        }
        waitingByteCount += byteCount
        waiting.append(
            Packet(payload: payload, byteCount: byteCount, packetCount: packetCount, enteredAt: now))
        advance(to: now)
        return .accepted
    }

    /// The next packet that has arrived by `now`, if any.
    ///
    /// - Returns: with `isCut` it must be forgotten, not delivered.
    mutating func leave(at now: Int64) -> (packet: Packet, isCut: Bool)? {
        advance(to: now)
        guard let first = onTheWay.first, first.arrivesAt <= now else { return nil }
        onTheWay.removeFirst()
        if settings.isCut {
            counters.cut.add(packets: first.packet.packetCount, bytes: first.packet.byteCount)
        } else {
            counters.delivered.add(packets: first.packet.packetCount, bytes: first.packet.byteCount)
        }
        return (first.packet, settings.isCut)
    }

    /// Corrects the counters for a packet that `leave` gave and that the receiver's kernel did not take.
    mutating func takeBack(_ packet: Packet) {
        counters.delivered.packets &-= UInt64(packet.packetCount)
        counters.delivered.bytes &-= UInt64(packet.byteCount)
        counters.dropped.add(packets: packet.packetCount, bytes: packet.byteCount)
    }

    /// Puts on the line whatever could start by `now`, each at the moment when it could.
    private mutating func advance(to now: Int64) {
        while let first = waiting.first {
            let start = max(freeAt, first.enteredAt)
            guard start <= now else { return }
            waiting.removeFirst()
            waitingByteCount -= first.byteCount
            freeAt = start + Int64((Double(first.byteCount) * nanosecondsPerByte).rounded())
            // A delay made shorter at run time must not let packets overtake each other.
            lastArrival = max(lastArrival, freeAt + delay)
            onTheWay.append((first, lastArrival))
        }
    }
}

/// A queue on an array, whose storage is reused.
struct FIFO<Element> {
    private var elements: [Element?] = []
    private var head = 0

    var isEmpty: Bool { head == elements.count }
    var count: Int { elements.count - head }
    var first: Element? { head < elements.count ? elements[head] : nil }

    mutating func append(_ element: Element) {
        // Half of it is gone: move the rest to the front. Each element moves at most once on average.
        if head > 64, head * 2 >= elements.count {
            elements.removeFirst(head)
            head = 0
        }
        elements.append(element)
    }

    mutating func removeFirst() {
        guard head < elements.count else { return }
        elements[head] = nil
        head += 1
        if head == elements.count {
            elements.removeAll(keepingCapacity: true)
            head = 0
        }
    }
}

/// A small generator with a seed.
///
/// - Source: Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }

    /// 0 up to, not including, 1.
    mutating func nextFraction() -> Double { Double(next() >> 11) * 0x1p-53 }
}
