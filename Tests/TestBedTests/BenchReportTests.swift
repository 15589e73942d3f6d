import Foundation
import TestBed
import Testing

@testable import godwit_lab

extension TestBedTests {
    /// What `godwit-lab bench` prints.
    @Suite struct BenchReportTests {
        private func section() throws -> BenchSection {
            var section = BenchSection(2, "Metadata")
            section.rows = [
                BenchRow(
                    "create", "137 µs", against: "39 µs", ratios: try #require(Series([0.27, 0.29, 0.28])),
                    aim: .atLeast(0.3, "0.3")),
                BenchRow("  passthrough_hp", "130 µs", against: "39 µs", ratio: 0.3),
                BenchRow("stat", "5 µs", against: "5 µs", ratio: 1, aim: .atLeast(0.9, "0.9")),
            ]
            section.rows[0].details = ["because it is so"]
            section.rows[2].details = ["never told: the aim is reached"]
            return section
        }

        @Test func aTableShowsRangesAimsAndWhyOneIsMissed() throws {
            #expect(
                try section().text(.plain) == """
                    2. Metadata
                    what              measured  against  ratio  range      aim
                    ----------------  --------  -------  -----  ---------  -----  --------
                    create              137 µs    39 µs   0.28  0.27–0.29  ≥ 0.3  ✗ missed
                      passthrough_hp    130 µs    39 µs   0.30
                    stat                  5 µs     5 µs   1.00             ≥ 0.9  ✓

                    where the time goes of what is missed:
                      create: 0.28 (aim ≥ 0.3)
                        because it is so

                    """)
        }

        @Test func coloursChangeNoLetter() throws {
            let coloured = try section().text(BenchStyle(hasColours: true))
            #expect(coloured.contains("\u{1b}[1;31m✗ missed\u{1b}[0m\n"))
            #expect(coloured.contains("\u{1b}[32m✓\u{1b}[0m\n"))
            #expect(coloured.replacing(/\u{1b}\[[0-9;]*m/, with: "") == (try section().text(.plain)))
        }

        @Test func aSummaryNamesWhatIsMissed() throws {
            var report = BenchReport(isQuick: true)
            report.sections = [try section()]
            report.seconds = 12
            #expect(
                report.summary(.plain) == """
                    1 of 2 aims reached; took 12.00 s
                    missed:
                      2  create: 0.28 (aim ≥ 0.3)
                    """)
            report.failures = ["workload 5"]
            #expect(report.summary(.plain).hasPrefix("1 of 2 aims reached, 1 workloads failed; took"))
        }

        @Test func aReportIsJSONWithProfiles() throws {
            var section = try self.section()
            section.rows[0].profile = TimeProfile(
                unit: "file", count: 10, seconds: 1, nativeSeconds: 0.3, cost: WorkCost(), tripSeconds: 1e-5,
                peers: [], isTimeOverNative: false)
            var report = BenchReport(isQuick: true)
            report.sections = [section]
            let object = try JSONSerialization.jsonObject(with: Data(try report.json.utf8)) as? [String: Any]
            let sections = try #require(object?["sections"] as? [[String: Any]])
            let rows = try #require(sections.first?["rows"] as? [[String: Any]])
            #expect(rows.count == 3 && rows[0]["lowestRatio"] as? Double == 0.27)
            #expect((rows[0]["profile"] as? [String: Any])?["unit"] as? String == "file")
        }

        @Test(arguments: [["--quick", "--full"], ["--only", "10"], ["--memory-files", "0"]])
        func nonsenseIsRefused(_ arguments: [String]) async throws {
            let outcome = try await ChildProcess.run(
                Program(try productPath("godwit-lab"), ["bench"] + arguments))
            #expect(outcome.exit == .exited(64), "\(outcome.output)")
        }
    }
}
