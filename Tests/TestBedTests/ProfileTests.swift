import Testing

@testable import TestBed

extension TestBedTests {
    /// What a report says of where the time goes.
    @Suite struct ProfileTests {
        @Test func figuresAreReadByNameAndLabel() {
            let reading = MetricsReading(
                """
                # HELP godwit_fuse_requests_total The kernel's requests.
                # TYPE godwit_fuse_requests_total counter
                godwit_fuse_requests_total{operation="read"} 12
                godwit_fuse_requests_total{operation="write"} 3e2
                godwit_fuse_requests_total{operation="read",volume="other"} 7
                godwit_disk_sync_seconds_total 0.25
                nonsense
                without a number x
                """)
            #expect(reading.value("godwit_disk_sync_seconds_total") == 0.25)
            #expect(reading.value("godwit_unheard_of") == 0)
            let requests = reading.values(of: "godwit_fuse_requests_total", by: "operation")
            #expect(requests == ["read": 12, "write": 300])
            #expect(reading.values(of: "godwit_fuse_requests", by: "operation").isEmpty)
            #expect(reading.values.count == 4)
        }

        private var cost: WorkCost {
            var cost = WorkCost()
            cost.requests = [
                "write": .init(count: 1000, seconds: 0.007), "fsync": .init(count: 1000, seconds: 0.031),
            ]
            cost.syncs = .init(count: 1000, seconds: 0.030)
            (cost.siteUserSeconds, cost.siteSystemSeconds) = (0.01, 0.02)
            cost.programSeconds = 0.015
            cost.writtenByteCount = 4_096_000
            return cost
        }

        @Test func costsAreDifferencesAndShares() throws {
            var before = WorkCost()
            before.requests = ["write": .init(count: 10, seconds: 0.001)]
            before.programSeconds = 0.005
            let difference = cost - before
            #expect(difference.requests["write"] == .init(count: 990, seconds: 0.006))
            #expect(difference.requests["fsync"]?.count == 1000)
            #expect(abs(try #require(difference.programSeconds) - 0.01) < 1e-9)
            #expect((cost + cost).request.count == 4000)
            #expect((cost / 1000).syncs.count == 1)
            #expect((cost / 0).request.count == 0)
            // What was not measured stays so.
            #expect((WorkCost() + WorkCost()).programSeconds == nil)
        }

        private func profile(_ cost: WorkCost, width: Double = 1, isTree: Bool = false) -> TimeProfile {
            TimeProfile(
                unit: "write", count: 1000, width: width, seconds: 0.09, nativeSeconds: 0.045, cost: cost,
                tripSeconds: 23e-6, peers: [.init(name: "passthrough_hp", ratio: 0.58)],
                isTimeOverNative: isTree)
        }

        @Test func aProfileTellsRequestsTheirTimeAndTheLimit() {
            #expect(
                profile(cost).lines == [
                    "one write: 90 µs here, 45 µs on ext4",
                    "2.0 requests (1.0 fsync, 1.0 write): 38 µs in the site (1.0 sync of the disk: 30 µs), "
                        + "52 µs in the kernel, its switches and the program",
                    "processor: site 30 µs (67 % system), program 15 µs; written 4.00 KiB; "
                        + "limit: 0.66 with one bare round trip of 23 µs, 0.49 with 2.0, passthrough_hp 0.58",
                ])
            // Of trees less is better: ours over ext4's.
            #expect(abs(profile(cost, isTree: true).limit(trips: 1) - 68.0 / 45) < 1e-9)
            #expect(profile(cost, isTree: true).lines[2].contains("limit: 1.51 with one bare"))
        }

        @Test func whatReachesNobodyAndWhatIsAheadAreToldSo() {
            let none = profile(WorkCost()).lines
            #expect(none[1].hasPrefix("no request reaches the site"))
            #expect(none[2].hasSuffix("limit: passthrough_hp 0.58"))
            #expect(!none[2].contains("program"))
            var ahead = cost
            ahead.requests = ["read": .init(count: 2000, seconds: 0.2)]
            #expect(
                profile(ahead).lines[1].hasSuffix(
                    "200 µs in the site (1.0 sync of the disk: 30 µs), much of it while nobody waited"))
            #expect(!profile(ahead).lines[2].contains("with 2.0"))
            // Of several at a time each takes longer than its share.
            #expect(
                profile(ahead, width: 4).lines[0] == "one write: 360 µs here, 180 µs on ext4 (4 at a time)")
        }

        @Test func whereTheBytesAreTheWorkTheTripsAreNoLimit() {
            var few = WorkCost()
            few.requests = ["write": .init(count: 10, seconds: 0.04)]
            few.syncs = .init(count: 0.5, seconds: 0.03)
            let lines = TimeProfile(
                unit: "MiB", count: 10, seconds: 0.09, nativeSeconds: 0.045, cost: few, tripSeconds: 23e-6,
                peers: [.init(name: "passthrough_hp", ratio: 0.58)], isTimeOverNative: false
            ).lines
            #expect(lines[1].contains("4.0 ms in the site (0.05 sync of the disk: 3.0 ms), 5.0 ms in the"))
            #expect(
                lines[2].hasSuffix(
                    "limit: not the round trips (0.99 with 1.0 of 23 µs), passthrough_hp 0.58"))
        }

        @Test func whatPerfReportsIsReadWithoutItsComments() {
            let symbols = HotSymbols(
                """
                # Samples: 2K of event 'cycles'
                # Overhead  Shared Object      Symbol
                # ........  .................  ......................

                     3.25%  libc.so.6          [.] __memmove_avx_unaligned_erms   -      -
                    21.50%  [kernel.kallsyms]  [k] finish_task_switch.isra.0
                     0.71%  godwit             [.] FuseServer.serve(_: FuseRequest) -> ()
                     --no percentage
                # (Tip: …)
                """, limit: 2)
            #expect(
                symbols.lines == [
                    " 21.5 %  [kernel.kallsyms] [k] finish_task_switch.isra.0",
                    "  3.3 %  libc.so.6 [.] __memmove_avx_unaligned_erms",
                ])
            #expect(HotSymbols("").entries.isEmpty)
        }

        @Test func aParagraphBreaksBetweenWords() {
            #expect(paragraph("one two three", width: 9, indent: 2) == "one two\n  three")
            #expect(paragraph("one two three", width: 11, indent: 4) == "  one two\n    three")
            #expect(paragraph("unbreakable x", width: 4, indent: 2) == "unbreakable\n  x")
            #expect(paragraph("", indent: 2) == "")
        }
    }
}
