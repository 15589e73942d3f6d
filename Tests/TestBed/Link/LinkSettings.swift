/// One direction of a link.
package struct LineSettings: Hashable, Sendable {
    /// Bits of IP packets (with their headers, without a frame around them) that enter the line in a second.
    package var bitsPerSecond: UInt64 = 100_000_000
    /// From a packet's last bit on the line to its arrival.
    package var delay: Duration = .milliseconds(10)
    /// The share of packets that vanish on the way, 0 to 1.
    package var loss: Double = 0
    /// Bytes that may wait for the line; what comes on top is dropped. nil: one bandwidth-delay product (of a
    /// round trip with this delay both ways), but at least 256 KiB. That lets one TCP flow fill the line, as
    /// routers are built to.
    package var queueByteCount: Int?
    /// Nothing arrives: neither new packets nor those on the way.
    package var isCut = false

    package init(bitsPerSecond: UInt64 = 100_000_000, delay: Duration = .milliseconds(10), loss: Double = 0) {
        self.bitsPerSecond = bitsPerSecond
        self.delay = delay
        self.loss = loss
    }

    /// Bytes that may be stored for one direction.
    private static let largestStore = 1 << 30

    package var effectiveQueueByteCount: Int {
        if let queueByteCount { return queueByteCount }
        let product = Double(bitsPerSecond) / 8 * 2 * delay.seconds
        return max(256 << 10, Int(min(product, Double(Self.largestStore))))
    }

    /// - Throws: `.invalid`, saying what is out of bounds.
    package func validate() throws(LabError) {
        guard (1_000...10_000_000_000).contains(bitsPerSecond) else {
            throw .invalid("a rate of \(bitsPerSecond) bit/s: give 1 kbit/s to 10 Gbit/s")
        }
        guard delay >= .zero, delay <= .seconds(60) else {
            throw .invalid("a delay of \(delay): give 0 to 60 s")
        }
        guard loss >= 0, loss <= 1 else { throw .invalid("a loss of \(loss): give a share between 0 and 1") }
        if let queueByteCount, !(1_500...Self.largestStore).contains(queueByteCount) {
            throw .invalid("a queue of \(queueByteCount) bytes: give 1,500 bytes to 1 GiB")
        }
        let stored = Double(bitsPerSecond) / 8 * delay.seconds + Double(effectiveQueueByteCount)
        guard stored <= Double(Self.largestStore) else {
            throw .invalid("rate times delay plus queue is more than 1 GiB: lower one of them")
        }
    }
}

/// A link between two namespaces.
package struct LinkSettings: Hashable, Sendable {
    package var aToB: LineSettings
    package var bToA: LineSettings
    /// Decides which packets are lost: the n-th packet of a direction has the same fate with the same seed.
    package var seed: UInt64 = 1
    package var maximumPacketByteCount = 1500
    /// TCP's congestion control in both namespaces, one of
    /// `net.ipv4.tcp_allowed_congestion_control`; nil: this machine's default, which
    /// differs from machine to machine. Name it where figures are to be compared.
    package var congestionControl: String?

    package init(aToB: LineSettings, bToA: LineSettings) {
        self.aToB = aToB
        self.bToA = bToA
    }

    /// The same in both directions.
    package init(_ both: LineSettings = LineSettings()) {
        self.init(aToB: both, bToA: both)
    }

    package func validate() throws(LabError) {
        try aToB.validate()
        try bToA.validate()
        guard (576...9000).contains(maximumPacketByteCount) else {
            throw .invalid("an MTU of \(maximumPacketByteCount): give 576 to 9,000")
        }
    }

    package subscript(direction: LinkDirection) -> LineSettings {
        get { direction == .aToB ? aToB : bToA }
        set { if direction == .aToB { aToB = newValue } else { bToA = newValue } }
    }
}

package enum LinkDirection: String, Hashable, Sendable, CaseIterable {
    case aToB, bToA
    package var reversed: LinkDirection { self == .aToB ? .bToA : .aToB }
}

/// What went through one direction since the link was made. Bytes are those of IP packets.
package struct LineCounters: Hashable, Sendable, Codable {
    package struct Amount: Hashable, Sendable, Codable {
        package var packets: UInt64 = 0
        package var bytes: UInt64 = 0

        mutating func add(packets: Int = 1, bytes: Int) {
            self.packets &+= UInt64(clamping: packets)
            self.bytes &+= UInt64(clamping: bytes)
        }

        package static func - (left: Amount, right: Amount) -> Amount {
            Amount(packets: left.packets &- right.packets, bytes: left.bytes &- right.bytes)
        }
    }

    /// Sent by the one end. What is not in one of the others is on the way.
    package var sent = Amount()
    /// Received by the other end.
    package var delivered = Amount()
    /// Found the queue full.
    package var dropped = Amount()
    /// Met the random loss.
    package var lost = Amount()
    /// Met a cut line.
    package var cut = Amount()

    package static func - (left: LineCounters, right: LineCounters) -> LineCounters {
        LineCounters(
            sent: left.sent - right.sent, delivered: left.delivered - right.delivered,
            dropped: left.dropped - right.dropped, lost: left.lost - right.lost, cut: left.cut - right.cut)
    }
}

package struct LinkCounters: Hashable, Sendable, Codable {
    package var aToB = LineCounters()
    package var bToA = LineCounters()

    /// Bytes that arrived, both directions together: the cost of what was done.
    package var deliveredByteCount: UInt64 { aToB.delivered.bytes &+ bToA.delivered.bytes }

    package subscript(direction: LinkDirection) -> LineCounters {
        get { direction == .aToB ? aToB : bToA }
        set { if direction == .aToB { aToB = newValue } else { bToA = newValue } }
    }

    package static func - (left: LinkCounters, right: LinkCounters) -> LinkCounters {
        LinkCounters(aToB: left.aToB - right.aToB, bToA: left.bToA - right.bToA)
    }
}
