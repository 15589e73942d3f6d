import Testing

@testable import TestBed

extension TestBedTests {
    /// The arithmetic of a line, without a clock.
    @Suite struct OneWayLineTests {
        /// 8 Mbit/s: a microsecond a byte.
        private func line(
            delay: Duration = .milliseconds(1), loss: Double = 0, queue: Int? = nil, seed: UInt64 = 1
        ) -> OneWayLine<Int> {
            var settings = LineSettings(bitsPerSecond: 8_000_000, delay: delay, loss: loss)
            settings.queueByteCount = queue
            return OneWayLine(settings, seed: seed)
        }

        private func drain(_ line: inout OneWayLine<Int>) -> [(Int, Int64)] {
            var arrivals: [(Int, Int64)] = []
            while let event = line.nextEvent {
                while let (packet, _) = line.leave(at: event) { arrivals.append((packet.payload, event)) }
            }
            return arrivals
        }

        @Test func aPacketArrivesAfterItsSerialisationAndTheDelay() {
            var line = line()
            #expect(line.enter(7, byteCount: 1000, at: 5_000) == .accepted)
            #expect(line.leave(at: 5_000 + 1_999_999) == nil)
            #expect(line.nextEvent == 2_005_000)
            #expect(line.leave(at: 5_000 + 2_000_000)?.packet.payload == 7)
            #expect(line.isEmpty && line.nextEvent == nil)
        }

        @Test func packetsFollowEachOtherAtTheRateOfTheLine() {
            var line = line()
            for number in 0..<5 { _ = line.enter(number, byteCount: 1000, at: 0) }
            let arrivals = drain(&line)
            #expect(arrivals.map(\.0) == [0, 1, 2, 3, 4])
            #expect(arrivals.map(\.1) == [2, 3, 4, 5, 6].map { $0 * 1_000_000 })
        }

        @Test func whatDoesNotFitTheQueueIsDroppedAndCounted() {
            var line = line(queue: 2500)
            // The first is on the line at once, two wait, the fourth does not fit.
            let entries = (0..<4).map { line.enter($0, byteCount: 1000, at: 0) }
            #expect(entries == [.accepted, .accepted, .accepted, .dropped])
            // A packet's time later there is room for one again.
            #expect(line.enter(4, byteCount: 1000, at: 1_000_000) == .accepted)
            #expect(drain(&line).map(\.0) == [0, 1, 2, 4])
            #expect(line.counters.sent == .init(packets: 5, bytes: 5000))
            #expect(line.counters.delivered == .init(packets: 4, bytes: 4000))
            #expect(line.counters.dropped == .init(packets: 1, bytes: 1000))
        }

        @Test func theSameSeedLosesTheSamePackets() {
            func fates(seed: UInt64) -> [Bool] {
                var line = line(loss: 0.3, queue: 1 << 20, seed: seed)
                return (0..<1000).map { line.enter($0, byteCount: 100, at: 0) == .lost }
            }
            #expect(fates(seed: 5) == fates(seed: 5))
            #expect(fates(seed: 5) != fates(seed: 6))
            #expect((200...400).contains(fates(seed: 5).count { $0 }))
        }

        @Test func aCutLineLosesWhatIsOnTheWayAndWhatComes() {
            var line = line()
            _ = line.enter(0, byteCount: 1000, at: 0)
            line.settings.isCut = true
            #expect(line.enter(1, byteCount: 500, at: 0) == .cut)
            #expect(line.leave(at: 10_000_000)?.isCut == true)
            #expect(line.counters.cut == .init(packets: 2, bytes: 1500))
            line.settings.isCut = false
            #expect(line.enter(2, byteCount: 1000, at: 20_000_000) == .accepted)
            #expect(line.leave(at: 22_000_000)?.isCut == false)
        }

        @Test func aShorterDelayNeverLetsPacketsOvertake() {
            var line = line(delay: .milliseconds(100))
            _ = line.enter(0, byteCount: 1000, at: 0)
            line.settings.delay = .milliseconds(1)
            _ = line.enter(1, byteCount: 1000, at: 1_000_000)
            let arrivals = drain(&line)
            #expect(arrivals.map(\.0) == [0, 1])
            #expect(arrivals[0].1 <= arrivals[1].1)
        }

        @Test func aNewRateHoldsForWhatStillWaits() {
            var line = line(delay: .zero)
            for number in 0..<3 { _ = line.enter(number, byteCount: 1000, at: 0) }
            line.settings.bitsPerSecond = 80_000_000
            #expect(drain(&line).map(\.1) == [1_000_000, 1_100_000, 1_200_000])
        }

        @Test func randomTrafficKeepsOrderAndLosesNothingUncounted() {
            for seed in UInt64(1)...20 {
                var random = SplitMix(state: seed)
                var line = line(loss: 0.1, queue: 10_000, seed: seed)
                var now: Int64 = 0
                var arrived: [Int] = []
                for number in 0..<2000 {
                    now += Int64.random(in: 0...500_000, using: &random)
                    while let (packet, _) = line.leave(at: now) { arrived.append(packet.payload) }
                    _ = line.enter(number, byteCount: Int.random(in: 40...1500, using: &random), at: now)
                    if number % 100 == 99 {
                        line.settings.bitsPerSecond = UInt64.random(
                            in: 4_000_000...40_000_000, using: &random)
                    }
                }
                arrived += drain(&line).map(\.0)
                let counters = line.counters
                #expect(arrived == arrived.sorted(), "seed \(seed)")
                #expect(UInt64(arrived.count) == counters.delivered.packets, "seed \(seed)")
                let others = counters.dropped.packets + counters.lost.packets
                #expect(counters.sent.packets == counters.delivered.packets + others, "seed \(seed)")
                #expect(counters.dropped.packets > 0 && counters.lost.packets > 0, "seed \(seed)")
            }
        }

        @Test func largeTcpPacketsCountAsTheSegmentsTheyBecome() {
            // virtio_net_hdr: needs checksum, TCPv4, segments of 1,448 bytes, TCP header at byte 20.
            var bytes: [UInt8] = [1, 1, 52, 0, 0xa8, 0x05, 20, 0, 16, 0]
            var packet = [UInt8](repeating: 0, count: 52 + 3000)
            packet[20 + 12] = 8 << 4  // 32 bytes of TCP header
            bytes += packet
            let size = bytes.withUnsafeBytes { LinkLoop.wireSize($0) }
            #expect(size.packetCount == 3)
            #expect(size.byteCount == 3000 + 3 * 52)
            for length in 0..<64 {
                _ = bytes.prefix(length).withUnsafeBytes { $0.count < 10 ? (0, 0) : LinkLoop.wireSize($0) }
            }
        }

        @Test func settingsOutOfBoundsAreRefused() {
            func refused(_ change: (inout LinkSettings) -> Void) -> Bool {
                var settings = LinkSettings()
                change(&settings)
                do {
                    try settings.validate()
                    return false
                } catch {
                    return true
                }
            }
            #expect(!refused { _ in })
            #expect(refused { $0.aToB.bitsPerSecond = 0 })
            #expect(refused { $0.aToB.bitsPerSecond = .max })
            #expect(refused { $0.bToA.delay = .seconds(-1) })
            #expect(refused { $0.bToA.delay = .seconds(Int64.max) })
            #expect(refused { $0.aToB.loss = 1.5 })
            #expect(refused { $0.aToB.loss = .nan })
            #expect(refused { $0.aToB.queueByteCount = 0 })
            #expect(refused { $0.aToB.queueByteCount = .max })
            #expect(refused { $0.maximumPacketByteCount = 70_000 })
            #expect(refused { $0.aToB = LineSettings(bitsPerSecond: 10_000_000_000, delay: .seconds(30)) })
        }

        @Test func theDefaultQueueIsOneBandwidthDelayProduct() {
            #expect(LineSettings().effectiveQueueByteCount == 256 << 10)
            #expect(LineSettings(bitsPerSecond: 1_000_000_000).effectiveQueueByteCount == 2_500_000)
        }
    }
}
