import Monitoring
import Testing
import VolumeModel

/// The text format, to the letter.
@Suite struct MetricsTextTests {
    @Test func familiesAreWrittenOnceWithTheirSamples() {
        var text = MetricsText()
        text.add("godwit_things", .gauge, "Things.") { family in
            family.add(UInt64.max, [("kind", "large")])
            family.add(0.25, [("kind", "small"), ("where", "here")])
        }
        text.add("godwit_nothing_total", .counter, "Nothing.") { _ in }
        #expect(
            text.text == """
                # HELP godwit_things Things.
                # TYPE godwit_things gauge
                godwit_things{kind="large"} 18446744073709551615
                godwit_things{kind="small",where="here"} 0.25

                """)
    }

    @Test func aLabelFromOutsideCannotWriteSamples() {
        var text = MetricsText()
        text.add("a", .gauge, "A.") { $0.add(UInt64(1), [("volume", "x\"} 5\nb{c=\"\\")]) }
        #expect(text.text.hasSuffix(#"a{volume="x\"} 5\nb{c=\"\\"} 1"# + "\n"), "\(text.text)")
        #expect(text.text.split(separator: "\n").count == 3)
    }

    @Test func histogramsAreCumulative() {
        var histogram = TimeHistogram(bounds: [0.1, 1])
        // What is at a bound belongs to it; what is negative counts as nothing.
        for milliseconds in [50, 100, 500, 5000, -7] { histogram.record(.milliseconds(milliseconds)) }
        #expect(histogram.counts == [3, 1, 1] && histogram.count == 5)
        var text = MetricsText()
        text.add("t_seconds", .histogram, "T.") { $0.add(histogram, [("m", "x")]) }
        #expect(
            text.text == """
                # HELP t_seconds T.
                # TYPE t_seconds histogram
                t_seconds_bucket{m="x",le="0.1"} 3
                t_seconds_bucket{m="x",le="1"} 4
                t_seconds_bucket{m="x",le="+Inf"} 5
                t_seconds_sum{m="x"} 5.65
                t_seconds_count{m="x"} 5

                """)
    }

    @Test func aProcessTellsOfItself() throws {
        var text = MetricsText()
        text.addProcess()
        for name in ["cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"] {
            let line = text.text.split(separator: "\n").first { $0.hasPrefix("process_\(name) ") }
            let value = try #require(line?.split(separator: " ").last.flatMap { Double($0) })
            #expect(value > 0, "\(name)")
        }
    }
}
