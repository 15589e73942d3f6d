import Synchronization
import Testing

@testable import Cluster

@Suite struct SiteWatchTests {
    @Test func aSiteThatHangsIsSilentAfterAWhileAndAgainForWhoeverBeginsThen() async throws {
        let hangs = Atomic(false)
        let patience = Duration.seconds(3)
        let watch = SiteWatch(patience: patience) {
            if hangs.load(ordering: .relaxed) { try? await Task.sleep(for: .seconds(600)) }
            return true
        }
        #expect(!watch.isAnswering)
        await watch.look()
        #expect(watch.isAnswering)
        let running = Task { await watch.run() }
        let silence = Task { try await watch.silence() }
        try await Task.sleep(for: .seconds(2))
        let last = ContinuousClock.now
        hangs.store(true, ordering: .relaxed)
        try await silence.value
        // From its last answer, rather than from the beginning.
        #expect(last.duration(to: .now) > patience / 2)
        #expect(!watch.isAnswering)
        let again = ContinuousClock.now
        try await watch.silence()
        #expect(again.duration(to: .now) >= patience)

        hangs.store(false, ordering: .relaxed)
        while !watch.isAnswering { try await Task.sleep(for: .milliseconds(20)) }
        running.cancel()
        await running.value
    }
}
