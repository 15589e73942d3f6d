internal import CTestBed
internal import Glibc
internal import Synchronization

/// The one thread that starts children and takes their exit status.
///
/// It lives as long as the process. That matters: the kernel sends the parent-death signal when the *thread*
/// that forked ends, and Swift's shared threads come and go.
///
/// Invariant: each child that was started is in `children` until its status was taken, so there are no
/// zombies.
final class ProcessKeeper: Sendable {
    static let shared = ProcessKeeper()

    private struct State {
        var jobs: [@Sendable () -> Void] = []
        var children: [Int32: ChildRecord] = [:]
        var failure: LabError?
    }

    private let state = Mutex(State())
    private let wake: Int32

    private init() {
        wake = tb_open_event()
        do throws(LabError) {
            _ = try checked(wake, "eventfd", "the keeper of processes")
            try DedicatedThread.start("keeper") { [self] in run() }
        } catch {
            state.withLock { $0.failure = error }
        }
    }

    /// Starts a program on the keeper's thread.
    func start(_ launch: @escaping @Sendable () throws -> ChildRecord) async throws -> ChildRecord {
        try await withCheckedThrowingContinuation { continuation in
            let failure = state.withLock { state -> LabError? in
                guard state.failure == nil else { return state.failure }
                state.jobs.append { [self] in
                    let result = Result { try launch() }
                    if case .success(let child) = result {
                        self.state.withLock { $0.children[child.pidfd] = child }
                    }
                    continuation.resume(with: result)
                }
                return nil
            }
            if let failure { continuation.resume(throwing: failure) } else { interrupt() }
        }
    }

    /// Makes the keeper look at its jobs and time limits again.
    func interrupt() {
        var one: UInt64 = 1
        _ = write(wake, &one, 8)
    }

    private func run() {
        while true {
            let (jobs, children) = state.withLock { state in
                defer { state.jobs.removeAll() }
                return (state.jobs, Array(state.children.values))
            }
            guard jobs.isEmpty else {
                for job in jobs { job() }
                continue
            }
            var descriptors = [pollfd(fd: wake, events: Int16(POLLIN), revents: 0)]
            descriptors += children.map { pollfd(fd: $0.pidfd, events: Int16(POLLIN), revents: 0) }
            let now = tb_now()
            let deadline = children.compactMap(\.nextDeadline).min()
            let limit = deadline.map { max(0, $0 - now) } ?? -1
            if tb_poll(&descriptors, descriptors.count, limit) > 0 {
                if descriptors[0].revents != 0 {
                    var count: UInt64 = 0
                    _ = read(wake, &count, 8)
                }
                for (child, descriptor) in zip(children, descriptors.dropFirst())
                where descriptor.revents != 0 {
                    if child.reap() { forget(child) }
                }
            }
            let later = tb_now()
            for child in children { child.expireWaiters(at: later) }
        }
    }

    private func forget(_ child: ChildRecord) {
        _ = state.withLock { $0.children.removeValue(forKey: child.pidfd) }
        close(child.pidfd)
    }
}
