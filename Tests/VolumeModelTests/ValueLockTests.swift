import Dispatch
import Locks
import Testing

struct ValueLockTests {
    private struct Refusal: Error {}

    /// Without the lock most of what threads add at the same time would be lost.
    @Test func oneThreadAtATimeUsesTheValue() {
        let lock = Lock((count: 0, users: 0, most: 0))
        DispatchQueue.concurrentPerform(iterations: 8) { _ in
            for _ in 0..<20_000 {
                lock.withLock { state in
                    state.users += 1
                    state.most = max(state.most, state.users)
                    state.count += 1
                    state.users -= 1
                }
            }
        }
        let end = lock.withLock { $0 }
        #expect(end == (160_000, 0, 1))
    }

    @Test func itIsFreeAgainAfterAnError() {
        let lock = Lock([1])
        #expect(throws: Refusal.self) {
            try lock.withLock { value throws(Refusal) in
                value.append(2)
                throw Refusal()
            }
        }
        #expect(lock.withLock { $0 } == [1, 2])
        lock.lock()
        lock.unlock()
        #expect(lock.withLock { $0.count } == 2)
    }
}
