import Glibc
import Testing

@testable import TestBed

extension TestBedTests {
    /// Two real network stacks and the line between them.
    @Suite(.enabled(if: isRoot, "network namespaces need root")) struct WANLinkTests {
        private func settings(_ megabits: UInt64, delay: Duration) -> LinkSettings {
            LinkSettings(LineSettings(bitsPerSecond: megabits * 1_000_000, delay: delay))
        }

        @Test func aRoundTripTakesBothDelays() async throws {
            try await withLink(settings(100, delay: .milliseconds(10))) { link in
                for direction in LinkDirection.allCases {
                    let trips = try await LinkProbe(link).roundTrips(20, from: direction)
                    let series = try #require(Series(trips))
                    #expect(series.count == 20)
                    // A tenth of a millisecond of grace: waking late is corrected by an estimate.
                    #expect(series.minimum >= 0.0199)
                    #expect(series.median < 0.1)
                }
            }
        }

        @Test(arguments: LinkDirection.allCases)
        func oneTcpFlowFillsTheLine(_ direction: LinkDirection) async throws {
            try await withLink(settings(50, delay: .milliseconds(5))) { link in
                let rate = try await LinkProbe(link).throughput(12_000_000, direction)
                #expect((30e6...50.5e6).contains(rate), "\(rateText(rate))")
                let counters = link.counters
                #expect(counters[direction].delivered.bytes > 12_000_000)
                #expect(counters[direction].delivered.bytes < 14_000_000)
                #expect(counters[direction.reversed].delivered.bytes < 2_000_000)
                #expect(counters[direction].sent.packets >= counters[direction].delivered.packets)
            }
        }

        @Test func largePacketsOfAFastLineAreCountedAsOnTheWire() async throws {
            try await withLink(settings(1000, delay: .milliseconds(1))) { link in
                let rate = try await LinkProbe(link).throughput(50_000_000)
                #expect((50e6...1_010e6).contains(rate), "\(rateText(rate))")
                // 1,448 bytes of payload in each packet of at most 1,500. What arrives is counted a moment later.
                let deadline = ContinuousClock.now + .seconds(10)
                while link.counters.aToB.delivered.packets < 50_000_000 / 1448, ContinuousClock.now < deadline
                {
                    try await Task.sleep(for: .milliseconds(1))
                }
                let delivered = link.counters.aToB.delivered
                #expect(delivered.packets >= 50_000_000 / 1448)
                #expect(delivered.bytes >= 50_000_000 / 1448 * 1500)
            }
        }

        @Test func directionsHaveTheirOwnRates() async throws {
            var settings = settings(80, delay: .milliseconds(2))
            settings.bToA.bitsPerSecond = 8_000_000
            try await withLink(settings) { [settings] link in
                #expect(link.settings == settings)
                let back = try await LinkProbe(link).throughput(2_000_000, .bToA)
                #expect((4.8e6...8.08e6).contains(back), "\(rateText(back))")
                let forth = try await LinkProbe(link).throughput(8_000_000, .aToB)
                #expect((16e6...80.8e6).contains(forth), "\(rateText(forth))")
            }
        }

        @Test func rateAndDelayChangeWhileItRuns() async throws {
            try await withLink(settings(100, delay: .milliseconds(1))) { link in
                try await link.change { settings in
                    settings.aToB.bitsPerSecond = 8_000_000
                    settings.aToB.delay = .milliseconds(30)
                }
                let trips = try #require(Series(try await LinkProbe(link).roundTrips(5)))
                #expect(trips.minimum >= 0.0309)
                let rate = try await LinkProbe(link).throughput(2_000_000)
                #expect((3e6...8.08e6).contains(rate), "\(rateText(rate))")
                await #expect(throws: LabError.self) { try await link.change { $0.aToB.loss = 2 } }
                #expect(link.settings.aToB.loss == 0)
                // Past the bound from which large packets are allowed, and back.
                try await link.change {
                    $0.aToB = LineSettings(bitsPerSecond: 1_000_000_000, delay: .milliseconds(1))
                }
                let fast = try await LinkProbe(link).throughput(20_000_000)
                #expect(fast > 8.08e6, "\(rateText(fast))")
                try await link.change {
                    $0.aToB = LineSettings(bitsPerSecond: 20_000_000, delay: .milliseconds(1))
                }
                let slow = try await LinkProbe(link).throughput(5_000_000)
                #expect((12e6...20.2e6).contains(slow), "\(rateText(slow))")
            }
        }

        @Test func aCutInOneDirectionStopsThatDirectionOnly() async throws {
            try await withLink(settings(100, delay: .milliseconds(1))) { link in
                let probe = LinkProbe(link)
                try await link.cut([.aToB])
                let answers = try await probe.roundTrips(3, timeLimit: .milliseconds(50))
                #expect(answers.isEmpty)
                #expect(link.counters.aToB.cut.packets == 3)
                #expect(link.counters.aToB.delivered.packets == 0)
                // From B the request passes; only the answer meets the cut.
                let fromB = try await probe.roundTrips(3, from: .bToA, timeLimit: .milliseconds(50))
                #expect(fromB.isEmpty)
                #expect(link.counters.bToA.delivered.packets == 3)
                #expect(link.counters.aToB.cut.packets == 6)
                try await link.cut([])
                let again = try await probe.roundTrips(3)
                #expect(again.count == 3)
            }
        }

        @Test func aTcpFlowSurvivesAShortCut() async throws {
            try await withLink(settings(50, delay: .milliseconds(1))) { link in
                async let rate = LinkProbe(link).throughput(6_000_000)
                try await Task.sleep(for: .milliseconds(300))
                try await link.cut([.aToB, .bToA])
                try await Task.sleep(for: .milliseconds(300))
                try await link.cut([])
                let measured = try await rate
                #expect(measured > 1e6)
                #expect(link.counters.aToB.cut.packets > 0)
            }
        }

        @Test func lossTakesItsShareOfPackets() async throws {
            var settings = settings(100, delay: .milliseconds(1))
            settings.aToB.loss = 0.25
            try await withLink(settings) { link in
                let answers = try await LinkProbe(link).roundTrips(
                    200, interval: .milliseconds(1), timeLimit: .milliseconds(20))
                let counters = link.counters.aToB
                #expect(counters.sent.packets == 200)
                #expect((20...90).contains(counters.lost.packets))
                #expect(counters.delivered.packets == 200 - counters.lost.packets)
                // On a slow machine an answer may come too late to be counted, never one too many.
                #expect(answers.count <= Int(counters.delivered.packets))
                #expect(answers.count > 50)
            }
        }

        @Test func aSmallQueueDropsABurst() async throws {
            var settings = settings(10, delay: .milliseconds(20))
            settings.aToB.queueByteCount = 15_000
            try await withLink(settings) { link in
                _ = try await LinkProbe(link).throughput(2_000_000)
                #expect(link.counters.aToB.dropped.packets > 0)
            }
        }

        @Test func linksAtTheSameTimeDoNotMeet() async throws {
            try await withLink { first in
                try await withLink { second in
                    #expect(first.a.address != second.a.address)
                    #expect(first.a.namespace.name != second.a.namespace.name)
                    let trips = try await LinkProbe(second).roundTrips(2)
                    #expect(trips.count == 2)
                    #expect(first.counters.aToB.sent.packets == 0)
                }
            }
        }

        @Test func loopbackIsUpInBothNamespaces() async throws {
            try await withLink { link in
                for end in [link.a, link.b] {
                    var program = Program("ip", ["-o", "address", "show", "dev", "lo"])
                    program.network = end.namespace
                    let text = try await ChildProcess.check(program)
                    #expect(text.contains("127.0.0.1"))
                }
            }
        }

        @Test func closingRemovesTheNamesAndMayBeRepeated() async throws {
            let link = try await WANLink.open()
            #expect(exists(link.a.namespace.path) && exists(link.b.namespace.path))
            // By name, as a person would.
            let text = try await ChildProcess.check(
                Program("ip", ["netns", "exec", link.a.namespace.name, "ip", "-o", "addr"]))
            #expect(text.contains(link.a.address))
            try await link.close()
            try await link.close()
            #expect(!exists(link.a.namespace.path) && !exists(link.b.namespace.path))
            await #expect(throws: LabError.self) { try await link.change { $0.aToB.loss = 0.1 } }
        }

        @Test func congestionControlIsTheOneAskedFor() async throws {
            var settings = LinkSettings()
            settings.congestionControl = "reno"
            try await withLink(settings) { link in
                let text = try await link.b.namespace.perform {
                    try readSmallFile("/proc/sys/net/ipv4/tcp_congestion_control")
                }
                #expect(String(decoding: text, as: UTF8.self) == "reno\n")
            }
            settings.congestionControl = "no-such-control"
            let unknown = settings
            await #expect(throws: LabError.self) { _ = try await WANLink.open(unknown) }
        }

        @Test func onlyNamespacesOfDeadProcessesAreRemoved() async throws {
            let start = try #require(processStart(getpid()))
            // Our number with another start: a process that had the number before us.
            let names = [
                "gw-\(getpid())-\(start &+ 1)-250a", "gw-\(getpid())-\(start)-251a", "gw-foreign",
                "other-1-1-1a",
            ]
            for name in names { try await ChildProcess.check(Program("ip", ["netns", "add", name])) }
            let removed = await NetworkNamespace.removeAbandoned()
            #expect(removed.contains(names[0]))
            #expect(!exists("/run/netns/\(names[0])"))
            for name in names.dropFirst() {
                #expect(exists("/run/netns/\(name)"), "\(name)")
                try await NetworkNamespace(existing: name).remove()
            }
        }

        @Test func theProbeGivesUpAtItsTimeLimit() async throws {
            try await withLink(settings(1, delay: .milliseconds(1))) { link in
                await #expect(throws: LabError.self) {
                    _ = try await LinkProbe(link).throughput(10_000_000, timeLimit: .milliseconds(300))
                }
            }
        }
    }
}
