internal import VolumeModel

/// When which site is asked whether it knows of a later reign than one that this site takes for its own, and how long
/// what is owned here waits for that after a start. Does no I/O.
struct ConfirmationSchedule {
    typealias Instant = ContinuousClock.Instant

    /// How a question to one site ended.
    enum Outcome {
        case answered
        /// It could not be reached, or did not answer in time.
        case silent
        /// It is not trusted any more, or has no address.
        case unknown
        /// It is of a release that does not know the question.
        case notUnderstood
    }

    /// Three round trips of 300 ms make a connection and an answer. A site that cannot be reached keeps nobody from using
    /// a volume for longer, and only right after a start.
    static let patience: Duration = .milliseconds(1500)
    /// A process whose machine was put back goes on without a start, and asks again by this.
    static let interval: Duration = .seconds(60)
    /// After a link was down a volume is to stop soon; twice as long after each further question in vain.
    static let pause: Duration = .seconds(2)
    static let longestSilence: Duration = .seconds(16)
    /// It may be replaced by a newer release. That it is asked in vain costs one message.
    static let longPause: Duration = .seconds(300)

    private var begun: Instant?
    private var tried: Set<SiteID> = []
    private var next: [SiteID: Instant] = [:]
    /// How many questions to a site were in vain, one after the other.
    private var silences: [SiteID: Int] = [:]
    /// Those that did not understand the question.
    private var behind: Set<SiteID> = []

    /// The site has started, and questions are asked from now on.
    mutating func begin(at now: Instant) { begun = now }

    /// Whom to ask now, of all who may know something.
    mutating func due(among sites: Set<SiteID>, at now: Instant) -> [SiteID] {
        next = next.filter { sites.contains($0.key) }
        silences = silences.filter { sites.contains($0.key) }
        return sites.filter { next[$0].map { $0 <= now } ?? true }.sorted()
    }

    mutating func note(_ outcome: Outcome, of site: SiteID, at now: Instant) {
        tried.insert(site)
        if case .notUnderstood = outcome { behind.insert(site) } else { behind.remove(site) }
        silences[site] = outcome == .silent ? silences[site, default: 0] + 1 : nil
        next[site] =
            switch outcome {
            case .answered, .unknown: now + Self.interval
            case .silent:
                now + min(Self.longestSilence, Self.pause * (1 << min(silences[site, default: 1] - 1, 8)))
            case .notUnderstood: now + Self.longPause
            }
    }

    /// A site asks by itself: it is of a newer release by now, if it did not understand the question before, and can be reached.
    mutating func noteQuestion(of site: SiteID, at now: Instant) {
        if behind.remove(site) != nil || silences.removeValue(forKey: site) != nil { next[site] = now }
    }

    /// How long until somebody is to be asked, or to be looked for who may know something.
    func pause(at now: Instant) -> Duration {
        let earliest = min(next.values.min() ?? now + Self.interval, now + Self.interval)
        return max(earliest - now, .milliseconds(100))
    }

    /// Whether what is shared with these sites may be used: each was asked once since the start, whatever came of it, or
    /// the time is over.
    func isSettled(_ sites: Set<SiteID>, at now: Instant) -> Bool {
        guard let begun, now < begun + Self.patience else { return true }
        return sites.isSubset(of: tried)
    }
}
