package import ClusterResources
internal import Synchronization

/// What a controller tells of itself to probes and scrapes.
///
/// It is as well as its last signs of life are young: a candidate's that it asked for the lease, and a leader's also that
/// it looked for claims whose turn it is. An API server or a site that is away silences neither
/// (for a site's sake the lease is given up, `SiteWatch`); what waits for ever in
/// between does, and then the process is to be started again.
package final class ControllerFigures: Sendable {
    /// How a look at a claim ended.
    package enum Look: String, CaseIterable, Sendable {
        /// Nothing is left to do until something changes.
        case settled
        /// Something was written.
        case moved
        case waits
        case failed
    }

    package struct Snapshot: Sendable {
        package fileprivate(set) var isLeading = false
        package fileprivate(set) var looks: [Look: UInt64] = [:]
        package fileprivate(set) var runningLooks: UInt64 = 0
        /// Watches, lists and writes that the cluster's API failed.
        package fileprivate(set) var apiFailures: UInt64 = 0
        /// Told by whoever leads alone; nil: those without a status yet.
        package fileprivate(set) var migrations: [MigrationResource.Phase?: UInt64] = [:]
        fileprivate var asked: ContinuousClock.Instant
        fileprivate var turned: ContinuousClock.Instant
    }

    /// Asking for the lease takes at most some requests with their repetitions, of 30 seconds each.
    static let askLimit: Duration = .seconds(300)
    /// The leader's round is one of half a second.
    static let turnLimit: Duration = .seconds(60)

    private let state: Mutex<Snapshot>

    package init(now: ContinuousClock.Instant = .now) {
        state = Mutex(Snapshot(asked: now, turned: now))
    }

    package var snapshot: Snapshot { state.withLock { $0 } }

    /// What is wrong with this process; nil: nothing.
    package func complaint(now: ContinuousClock.Instant = .now) -> String? {
        let state = snapshot
        if now - state.asked > Self.askLimit { return "the lease was last asked for too long ago" }
        if state.isLeading, now - state.turned > Self.turnLimit {
            return "it leads, and last looked for work too long ago"
        }
        return nil
    }

    // MARK: signs of life

    /// The lease was asked for, with whatever answer.
    package func noteAsked(now: ContinuousClock.Instant = .now) { state.withLock { $0.asked = now } }

    func noteLeading(_ isLeading: Bool, now: ContinuousClock.Instant = .now) {
        state.withLock {
            $0.isLeading = isLeading
            $0.turned = now
            $0.migrations = [:]
        }
    }

    func noteTurn(_ migrations: [MigrationResource.Phase?: UInt64], now: ContinuousClock.Instant = .now) {
        state.withLock {
            $0.turned = now
            $0.migrations = migrations
        }
    }

    // MARK: counts

    func noteAPIFailure() { state.withLock { $0.apiFailures += 1 } }

    func beginLook() { state.withLock { $0.runningLooks += 1 } }

    func endLook(_ look: Look) {
        state.withLock {
            $0.runningLooks -= 1
            $0.looks[look, default: 0] += 1
        }
    }
}
