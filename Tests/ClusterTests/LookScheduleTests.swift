import Testing

@testable import Cluster

/// Who is looked at when; without a clock.
@Suite struct LookScheduleTests {
    private let start = ContinuousClock.now
    private func at(_ seconds: Double) -> ContinuousClock.Instant { start + .seconds(seconds) }

    @Test func whatIsSettledIsLeftAloneUntilItChanges() {
        var schedule = LookSchedule<String>(interval: .seconds(2))
        #expect(schedule.begin(["a"], limit: 10, now: at(0)) == ["a"])
        #expect(schedule.begin(["a"], limit: 10, now: at(1)).isEmpty, "it is being looked at")
        schedule.end("a", .settled, now: at(1), jitter: 1)
        #expect(schedule.begin(["a"], limit: 10, now: at(300)).isEmpty)
        schedule.noteChange("a", now: at(300))
        #expect(schedule.begin(["a"], limit: 10, now: at(300)) == ["a"])
        schedule.end("a", .settled, now: at(301), jitter: 0)
        #expect(schedule.begin(["a"], limit: 10, now: at(450)).isEmpty)
        #expect(schedule.begin(["a"], limit: 10, now: at(451)) == ["a"], "nothing is left alone for ever")
    }

    @Test func whatChangesWhileItIsLookedAtIsLookedAtAgain() {
        var schedule = LookSchedule<String>(interval: .seconds(2))
        _ = schedule.begin(["a"], limit: 10, now: at(0))
        schedule.noteChange("a", now: at(1))
        #expect(schedule.begin(["a"], limit: 10, now: at(1)).isEmpty)
        schedule.end("a", .settled, now: at(2), jitter: 1)
        #expect(schedule.begin(["a"], limit: 10, now: at(2)) == ["a"])
    }

    @Test func whatWaitsIsAskedLessAndLessAndWhatMovesOften() {
        var schedule = LookSchedule<String>(interval: .seconds(1), longestWait: .seconds(5))
        var looks: [Double] = []
        for second in stride(from: 0.0, to: 30, by: 1)
        where !schedule.begin(["a"], limit: 1, now: at(second)).isEmpty {
            looks.append(second)
            schedule.end("a", .waits, now: at(second), jitter: 1)
        }
        #expect(looks == [0, 1, 3, 7, 12, 17, 22, 27])
        #expect(schedule.begin(["a"], limit: 1, now: at(32)) == ["a"])
        schedule.end("a", .moved, now: at(32), jitter: 1)
        #expect(schedule.begin(["a"], limit: 1, now: at(33)) == ["a"])
        schedule.end("a", .waits, now: at(33), jitter: 1)
        #expect(schedule.begin(["a"], limit: 1, now: at(34)) == ["a"], "it begins anew")
    }

    @Test func whatMovesOnAfterItsLookIsLookedAtSoonAndNotAtOnce() {
        var schedule = LookSchedule<String>(interval: .seconds(2))
        _ = schedule.begin(["a"], limit: 1, now: at(0))
        schedule.noteMoved("a", now: at(0))
        #expect(schedule.begin(["a"], limit: 1, now: at(0)).isEmpty, "it is being looked at")
        schedule.end("a", .settled, now: at(0), jitter: 1)
        schedule.noteMoved("a", now: at(10))
        #expect(schedule.begin(["a"], limit: 1, now: at(11)).isEmpty)
        #expect(schedule.begin(["a"], limit: 1, now: at(12)) == ["a"])
        schedule.end("a", .waits, now: at(12), jitter: 1)
        // It never puts off what is due before.
        schedule.noteMoved("a", now: at(13.5))
        #expect(schedule.begin(["a"], limit: 1, now: at(14)) == ["a"])
        schedule.noteMoved("unknown", now: at(14))
    }

    @Test func changesComeFirstAndNobodyIsForgotten() {
        var schedule = LookSchedule<Int>(interval: .seconds(2))
        let all = Set(0..<100)
        var seen: Set<Int> = []
        for _ in 0..<10 { seen.formUnion(schedule.begin(all, limit: 10, now: at(0))) }
        #expect(seen == all)
        for key in all { schedule.end(key, .waits, now: at(0), jitter: 1) }
        schedule.noteChange(57, now: at(10))
        #expect(schedule.begin(all, limit: 1, now: at(10)) == [57])
        // Those who have waited longest, whatever else is due.
        schedule.end(57, .moved, now: at(10), jitter: 1)
        seen = []
        for _ in 0..<10 { seen.formUnion(schedule.begin(all, limit: 10, now: at(12))) }
        #expect(seen == all)
    }

    @Test func whatIsNoLongerWantedIsForgottenAndComesBackAtOnce() {
        var schedule = LookSchedule<String>(interval: .seconds(2))
        _ = schedule.begin(["a", "b"], limit: 2, now: at(0))
        schedule.end("a", .settled, now: at(0), jitter: 1)
        schedule.end("b", .settled, now: at(0), jitter: 1)
        #expect(schedule.begin(["b"], limit: 2, now: at(1)).isEmpty)
        #expect(schedule.begin(["a", "b"], limit: 2, now: at(2)) == ["a"])
        schedule.end("unknown", .moved, now: at(2), jitter: 1)
    }
}
