internal import CTestBed
internal import Glibc
internal import Synchronization

/// What the keeper and the holder of a `ChildProcess` both know about one child.
///
/// A process number is only used under the lock and before the exit status was taken: until then the kernel
/// gives it to nobody else.
final class ChildRecord: Sendable {
    typealias Ending = (exit: ProcessExit, usage: ProcessUsage)

    private struct Waiter {
        let deadline: Int64?
        let continuation: CheckedContinuation<Ending?, any Error>
    }

    private struct State {
        var ending: Ending?
        var waiters: [UInt64: Waiter] = [:]
        var cancelled: Set<UInt64> = []
        var nextWaiter: UInt64 = 0
    }

    let pid: pid_t
    let pidfd: Int32
    private let state = Mutex(State())

    init(pid: pid_t, pidfd: Int32) {
        self.pid = pid
        self.pidfd = pidfd
    }

    var ending: Ending? { state.withLock(\.ending) }
    var nextDeadline: Int64? { state.withLock { $0.waiters.values.compactMap(\.deadline).min() } }

    /// - Returns: false if it had ended already.
    func signal(_ number: Int32, wholeGroup: Bool) -> Bool {
        state.withLock { state in
            guard state.ending == nil else { return false }
            return kill(wholeGroup ? -pid : pid, number) == 0
        }
    }

    /// Waits for the end; nil when `limit` passed before.
    func wait(limit: Duration?) async throws -> Ending? {
        let number = state.withLock { state in
            defer { state.nextWaiter += 1 }
            return state.nextWaiter
        }
        let deadline = limit.map { limit in
            let (sum, overflow) = tb_now().addingReportingOverflow(limit.nanoseconds)
            return overflow ? Int64.max : sum
        }
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                add(Waiter(deadline: deadline, continuation: continuation), number: number)
            }
        } onCancel: {
            let waiter = state.withLock { state -> Waiter? in
                guard let waiter = state.waiters.removeValue(forKey: number) else {
                    state.cancelled.insert(number)
                    return nil
                }
                return waiter
            }
            waiter?.continuation.resume(throwing: CancellationError())
        }
    }

    private func add(_ waiter: Waiter, number: UInt64) {
        enum Answer { case ended(Ending), cancelled, later }
        let answer = state.withLock { state -> Answer in
            if let ending = state.ending { return .ended(ending) }
            if state.cancelled.remove(number) != nil { return .cancelled }
            state.waiters[number] = waiter
            return .later
        }
        switch answer {
        case .ended(let ending): waiter.continuation.resume(returning: ending)
        case .cancelled: waiter.continuation.resume(throwing: CancellationError())
        case .later: if waiter.deadline != nil { ProcessKeeper.shared.interrupt() }
        }
    }

    /// Takes the exit status. Called by the keeper alone.
    ///
    /// - Returns: whether the child has ended.
    func reap() -> Bool {
        let (ended, waiters) = state.withLock { state -> (Bool, [Waiter]) in
            var status: Int32 = 0
            var usage = rusage()
            guard wait4(pid, &status, WNOHANG, &usage) == pid else { return (false, []) }
            let ending = (ProcessExit(waitStatus: status), ProcessUsage(usage))
            state.ending = ending
            defer { state.waiters.removeAll() }
            return (true, Array(state.waiters.values))
        }
        if ended, let ending { for waiter in waiters { waiter.continuation.resume(returning: ending) } }
        return ended
    }

    func expireWaiters(at now: Int64) {
        let expired = state.withLock { state -> [Waiter] in
            let numbers = state.waiters.filter { ($0.value.deadline ?? .max) <= now }.keys
            return numbers.compactMap { state.waiters.removeValue(forKey: $0) }
        }
        for waiter in expired { waiter.continuation.resume(returning: nil) }
    }
}

extension ProcessUsage {
    fileprivate init(_ usage: rusage) {
        func duration(_ time: timeval) -> Duration {
            .seconds(time.tv_sec) + .microseconds(time.tv_usec)
        }
        self.init(
            userTime: duration(usage.ru_utime), systemTime: duration(usage.ru_stime),
            peakResidentByteCount: usage.ru_maxrss * 1024)
    }
}
