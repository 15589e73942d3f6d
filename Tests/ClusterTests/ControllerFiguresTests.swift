import Testing

@testable import Cluster

@Suite struct ControllerFiguresTests {
    private let start = ContinuousClock.now

    @Test func aCandidateIsWellWhileItAsksForTheLease() {
        let figures = ControllerFigures(now: start)
        #expect(figures.complaint(now: start + ControllerFigures.askLimit) == nil)
        let late = start + ControllerFigures.askLimit + .seconds(1)
        #expect(figures.complaint(now: late)?.contains("lease") == true)
        figures.noteAsked(now: late)
        #expect(figures.complaint(now: late) == nil)
    }

    @Test func aLeaderIsWellWhileItLooksForWorkToo() {
        let figures = ControllerFigures(now: start)
        // Long a candidate.
        let later = start + .seconds(200)
        figures.noteAsked(now: later)
        figures.noteLeading(true, now: later)
        #expect(figures.complaint(now: later + ControllerFigures.turnLimit) == nil)
        let late = later + ControllerFigures.turnLimit + .seconds(1)
        #expect(figures.complaint(now: late)?.contains("work") == true)
        figures.noteTurn([:], now: late)
        #expect(figures.complaint(now: late) == nil)
        // Who leads no more looks for no work.
        figures.noteLeading(false, now: late)
        #expect(figures.complaint(now: late + .seconds(90)) == nil)
    }

    @Test func looksAndMigrationsAreCounted() {
        let figures = ControllerFigures(now: start)
        figures.noteLeading(true)
        figures.beginLook()
        figures.beginLook()
        figures.endLook(.failed)
        figures.noteTurn([.ready: 2, nil: 1])
        let told = figures.snapshot
        #expect(told.runningLooks == 1 && told.looks == [.failed: 1])
        #expect(told.migrations == [.ready: 2, nil: 1] && told.isLeading)
        // What another one counts now.
        figures.noteLeading(false)
        #expect(figures.snapshot.migrations.isEmpty && figures.snapshot.looks == [.failed: 1])
    }
}
