internal import Foundation

/// Runs a body while this candidate holds a Lease, and ends it when it does not any more.
package struct LeaderElector: Sendable {
    private let client: KubernetesClient
    private let namespace: String
    private let name: String
    private let identity: String
    private let duration: Duration
    private let isReluctant: @Sendable () -> Bool
    private let asked: @Sendable () -> Void

    /// - Parameters:
    ///   - duration: how long a leader that died keeps others waiting.
    ///   - isReluctant: whether it is to stand only for a lease that nobody else takes.
    ///   - asked: told whenever the lease has been asked for, with whatever answer.
    package init(
        _ client: KubernetesClient, namespace: String, name: String, identity: String,
        duration: Duration = .seconds(15), isReluctant: @escaping @Sendable () -> Bool = { false },
        asked: @escaping @Sendable () -> Void = {}
    ) {
        self.isReluctant = isReluctant
        self.asked = asked
        self.client = client
        self.namespace = namespace
        self.name = name
        self.identity = identity
        self.duration = duration
    }

    /// Stands for election until cancelled; each time it wins, `lead` runs, and is cancelled when the lease is lost.
    /// When `lead` returns, or throws, the lease is given up, and it returns, or throws the error.
    package func run(lead: @escaping @Sendable () async throws -> Void) async throws {
        while true {
            try Task.checkCancellation()
            var election = LeaseElection(identity: identity, duration: duration)
            try await waitToLead(&election)
            let won = election
            let result = await withTaskGroup(of: Result<Bool, any Error>.self) { group in
                group.addTask {
                    do {
                        try await lead()
                        return .success(true)
                    } catch {
                        return .failure(error)
                    }
                }
                group.addTask {
                    var election = won
                    do {
                        try await keepLeading(&election)
                        return .success(false)
                    } catch {
                        return .failure(error)
                    }
                }
                let first = await group.next()
                group.cancelAll()
                // Nobody else leads before what was done as the leader has ended here.
                await group.waitForAll()
                return first
            }
            switch result {
            case .success(false)?, nil: continue
            case .success(true)?:
                await release()
                return
            case .failure(let error)?:
                await release()
                throw error
            }
        }
    }

    private var retryInterval: Duration { duration / 6 }

    private func waitToLead(_ election: inout LeaseElection) async throws {
        while !(try await step(&election)) || !election.isLeading {
            try await Task.sleep(for: retryInterval * Double.random(in: 0.8...1.2))
        }
    }

    private func keepLeading(_ election: inout LeaseElection) async throws {
        while true {
            try await Task.sleep(for: retryInterval * Double.random(in: 0.8...1.2))
            // Asking must not take longer than what is left: a server that is silent ends it, too.
            let left = election.timeLeft(at: now)
            let before = election
            let after = try await withThrowingTaskGroup(of: LeaseElection?.self) { group in
                group.addTask {
                    var election = before
                    return try await step(&election) ? election : nil
                }
                group.addTask {
                    try await Task.sleep(for: left)
                    return nil
                }
                defer { group.cancelAll() }
                return try await group.next() ?? nil
            }
            guard let after else { return }
            election = after
        }
    }

    private var now: Duration {
        var time = timespec()
        clock_gettime(CLOCK_BOOTTIME, &time)
        return .seconds(time.tv_sec) + .nanoseconds(time.tv_nsec)
    }

    /// - Returns: false when it must step down.
    private func step(_ election: inout LeaseElection) async throws -> Bool {
        defer { asked() }
        let lease: Lease?
        do throws(KubernetesError) {
            lease = try await client.find(Lease.self, name, in: namespace)
        } catch {
            guard error.isTransient else { throw error }
            return election.observeFailure(at: now) != .stepDown
        }
        let start = now
        election.isReluctant = isReluctant()
        switch election.observe(lease.map(Self.seen), at: start) {
        case .wait: return true
        case .stepDown: return false
        case .acquire, .renew:
            do throws(KubernetesError) {
                let written = try await write(over: lease)
                election.wrote(Self.seen(written), begunAt: start)
            } catch {
                switch error {
                // Somebody was faster; the next look tells who.
                case .conflict, .alreadyExists, .notFound: return true
                default:
                    guard error.isTransient else { throw error }
                    return election.observeFailure(at: now) != .stepDown
                }
            }
            return true
        }
    }

    private func write(over known: Lease?) async throws(KubernetesError) -> Lease {
        let time = Timestamps.microseconds(Date())
        var lease =
            known ?? Lease(metadata: ObjectMeta(name: name, namespace: namespace), spec: Lease.Spec())
        if lease.spec.holderIdentity != identity {
            lease.spec.acquireTime = time
            lease.spec.leaseTransitions =
                min(lease.spec.leaseTransitions ?? 0, .max - 1) + (known == nil ? 0 : 1)
        }
        lease.spec.holderIdentity = identity
        lease.spec.leaseDurationSeconds = Int32(clamping: duration.components.seconds)
        lease.spec.renewTime = time
        return known == nil ? try await client.create(lease) : try await client.update(lease)
    }

    /// How long it may take to give the lease up; later the others find out by themselves.
    private static let releaseLimit: Duration = .seconds(5)

    /// So that the next one need not wait; if it cannot be told, it waits. Also of a task that is cancelled, as at an end in
    /// order, whose requests would all end at once.
    private func release() async {
        await Task {
            await withTaskGroup { group in
                group.addTask { await giveUp() }
                group.addTask { try? await Task.sleep(for: Self.releaseLimit) }
                _ = await group.next()
                group.cancelAll()
            }
        }.value
    }

    private func giveUp() async {
        guard var lease = try? await client.find(Lease.self, name, in: namespace),
            lease.spec.holderIdentity == identity
        else { return }
        lease.spec.holderIdentity = ""
        _ = try? await client.update(lease)
    }

    private static func seen(_ lease: Lease) -> LeaseElection.Seen {
        LeaseElection.Seen(
            version: lease.metadata.resourceVersion ?? "", holder: lease.spec.holderIdentity,
            duration: .seconds(Int64(lease.spec.leaseDurationSeconds ?? 15)))
    }
}
