import Testing

@testable import TestBed

extension TestBedTests {
    @Suite struct ReportTests {
        @Test func percentilesLieBetweenValues() throws {
            let series = try #require(Series([4.0, 1, 3, 2]))
            #expect(series.values == [1, 2, 3, 4])
            #expect(series.median == 2.5)
            #expect(series.mean == 2.5)
            #expect(series.percentile(0) == 1 && series.percentile(100) == 4)
            #expect(series.percentile(-5) == 1 && series.percentile(500) == 4)
            let hundred = try #require(Series((0...100).map(Double.init)))
            #expect(hundred.percentile(50) == 50 && hundred.percentile(99) == 99)
            #expect(hundred.summary(digits: 0) == "50 (0–100)")
            #expect(Series([7.5])?.percentile(99) == 7.5)
        }

        @Test func noValuesAndNonsenseMakeNoSeries() {
            #expect(Series([Double]()) == nil)
            #expect(Series([1, .nan]) == nil)
            #expect(Series([1, .infinity]) == nil)
            #expect(Series.ratios([1, 2], to: [1]) == nil)
            #expect(Series.ratios([1], to: [0]) == nil)
        }

        @Test func ratiosArePairedAsMeasured() throws {
            #expect(try #require(Series.ratios([2, 9], to: [1, 3])).values == [2, 3])
            #expect(Series([Duration.milliseconds(1500)])?.median == 1.5)
        }

        @Test func numbersAreWrittenForPeople() {
            #expect(fixed(1.005, 1) == "1.0" && fixed(-0.04, 1) == "0.0" && fixed(-2.55, 0) == "-3")
            #expect(fixed(0.05, 2) == "0.05" && fixed(.nan, 2) == "nan" && fixed(1e300, 2) == "1e+300")
            #expect(
                bytesText(512) == "512 B" && bytesText(1536) == "1.50 KiB" && bytesText(.max) == "16.0 EiB")
            #expect(rateText(94_700_000) == "94.7 Mbit/s" && rateText(12) == "12.0 bit/s")
            #expect(
                timeText(0.000845) == "845 µs" && timeText(0.0123) == "12.3 ms" && timeText(1.25) == "1.25 s")
        }

        @Test func columnsAreInLine() {
            var table = TextTable("what", "figure")
            table.add("short", "1.0")
            table.add("much longer", "1234.5")
            table.add("alone")
            table.add("a\nbreak", "2", "surplus")
            #expect(
                table.text == """
                    what         figure
                    -----------  ------
                    short           1.0
                    much longer  1234.5
                    alone
                    a break           2
                    """)
            var marked = TextTable("a", "b")
            marked.add("x|y", "1")
            #expect(
                marked.markdown == """
                    | a    |   b |
                    | ---- | --: |
                    | x\\|y |   1 |
                    """)
        }
    }
}
