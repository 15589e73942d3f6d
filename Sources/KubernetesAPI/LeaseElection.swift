/// Who of several candidates leads: a decision on what was last seen of the Lease, without a clock of its own.
///
/// The clocks of two hosts need not agree: a lease counts as abandoned when its record has not changed for its
/// duration, as this candidate saw it.
package struct LeaseElection: Sendable {
    package enum Action: Hashable, Sendable {
        /// Make the Lease, or write it over the version that was seen: as leader, from now.
        case acquire
        case renew
        /// Another one leads.
        case wait
        /// It could not be renewed in time: whatever is being done as the leader ends now.
        case stepDown
    }

    /// What was read of the Lease; `version` changes with each write.
    package struct Seen: Hashable, Sendable {
        package var version: String
        package var holder: String?
        package var duration: Duration

        package init(version: String, holder: String?, duration: Duration) {
            self.version = version
            self.holder = holder
            self.duration = duration
        }
    }

    package let identity: String
    package let duration: Duration
    /// How long after the last renewal a leader still acts. Shorter than `duration`, so that it has ended before
    /// another one begins.
    package let renewLimit: Duration
    /// Whether it takes the lease only when nobody else has done so for another `duration`, in which whoever is willing has
    /// asked several times.
    package var isReluctant = false
    private var lastSeen: (record: Seen, at: Duration)?
    /// When the renewal that last succeeded was begun; nil: not leading.
    private var leadingSince: Duration?

    package init(identity: String, duration: Duration = .seconds(15)) {
        self.identity = identity
        self.duration = duration
        renewLimit = duration * 2 / 3
    }

    package var isLeading: Bool { leadingSince != nil }

    /// - Parameters:
    ///   - seen: nil: there is no Lease.
    ///   - now: on a clock that never goes back.
    package mutating func observe(_ seen: Seen?, at now: Duration) -> Action {
        if mustStepDown(at: now) { return .stepDown }
        guard let seen else {
            leadingSince = nil
            lastSeen = nil
            return .acquire
        }
        if lastSeen?.record.version != seen.version { lastSeen = (seen, now) }
        if leadingSince != nil { return seen.holder == identity ? .renew : stepDown() }
        // Ours, perhaps from before a restart.
        if seen.holder == identity, !isReluctant { return .acquire }
        let isFree = seen.holder?.isEmpty ?? true
        let wait = (isFree ? .zero : max(seen.duration, .seconds(1))) + (isReluctant ? duration : .zero)
        return now - (lastSeen?.at ?? now) >= wait ? .acquire : .wait
    }

    /// The API did not answer: goes on leading only for as long as nobody else can have begun.
    package mutating func observeFailure(at now: Duration) -> Action {
        mustStepDown(at: now) ? .stepDown : .wait
    }

    /// The write of the Lease that was begun at `start` succeeded.
    package mutating func wrote(_ seen: Seen, begunAt start: Duration) {
        leadingSince = start
        lastSeen = (seen, start)
    }

    /// How long it may go on leading without a renewal.
    package func timeLeft(at now: Duration) -> Duration {
        guard let leadingSince else { return .zero }
        return max(.zero, leadingSince + renewLimit - now)
    }

    private mutating func mustStepDown(at now: Duration) -> Bool {
        guard let since = leadingSince, now - since >= renewLimit else { return false }
        leadingSince = nil
        return true
    }

    private mutating func stepDown() -> Action {
        leadingSince = nil
        return .stepDown
    }
}
