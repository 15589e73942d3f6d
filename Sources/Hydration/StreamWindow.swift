/// How many background requests may be under way: enough to fill the link, no more than needed, so that a
/// fault never waits behind a long queue.
///
/// After BBR (Cardwell and others, 2016): the rate of answers, at its best in the last rounds, times how long a request takes
/// that is alone is how many fill the link. Half as many again are asked for: where the rate grows with them they become more
/// at every round, and where it does not they queue for half of that time. At the beginning it is twice as many, until two rounds
/// have brought no more than those before.
///
/// How long it takes alone is measured first, with one request at a time. Several connections share a link, so that requests
/// that are made at once are answered at once, each as late as if it had waited behind all others: the quickest of those says
/// nothing of a link at rest.
///
/// All is counted in units, the smallest requests. On a quick link a request is for several, as each costs both sites processor
/// time, whatever is in it: for no more than the link carries in a quarter of the time of one that is alone, or in 2.5 ms.
package struct StreamWindow: Hashable, Sendable {
    package static let smallest = 3
    /// 16 MiB in units of 128 KiB: 130 ms of 1 Gbit/s.
    package static let largest = 128
    /// Units of one request, at most.
    package static let largestRequest = 8
    private static let shortestRequestSeconds = 0.0025
    /// How many are made alone; the first may have to wait for its connection.
    private static let aloneCount = 2
    /// Of so many rounds the best rate counts: a busy processor spoils some.
    private static let roundCount = 10
    /// So many rounds of the same rate end the beginning.
    private static let levelLimit = 2

    /// Units that may be under way.
    package private(set) var unitCount = 1
    private var quickest: Duration?
    /// Units that came in a second, of the last rounds. A round ends after as many as are asked for at a time.
    private var rates: [Double] = []
    private var roundBegan: ContinuousClock.Instant?
    private var answeredCount = 0
    private var aloneLeft = aloneCount
    /// Rounds of the beginning that were not quicker than the best before by a quarter.
    private var levelCount = 0

    package init() {}

    /// How many requests may be under way.
    package var requestCount: Int {
        isAlone ? 1 : max(Self.smallest, (unitCount + requestUnits - 1) / requestUnits)
    }

    /// How many units a request is for: a power of two, and one at the beginning.
    package var requestUnits: Int {
        guard levelCount == Self.levelLimit else { return 1 }
        let seconds = max(Self.shortestRequestSeconds, (quickest ?? .zero) / .seconds(4))
        let carried = (rates.max() ?? 0) * seconds
        var units = 1
        while units < Self.largestRequest, Double(units * 2) <= carried { units *= 2 }
        return units
    }

    /// Whether only answers to requests that were made alone say something.
    package var isAlone: Bool { aloneLeft > 0 }

    /// - Parameters:
    ///   - units: that came with it.
    ///   - latency: from the request until what it brought was stored.
    ///   - now: when that was.
    package mutating func noteAnswer(
        of units: Int = 1, after latency: Duration, at now: ContinuousClock.Instant
    ) {
        let base = max(.microseconds(1), min(quickest ?? latency, latency))
        quickest = base
        if isAlone {
            aloneLeft -= 1
            if !isAlone { (unitCount, roundBegan) = (Self.smallest, now) }
            return
        }
        answeredCount += max(1, units)
        // Several that end together are no round: what they would say is how quick the processor is.
        let elapsed = now - (roundBegan ?? now)
        guard answeredCount >= requestCount * requestUnits, elapsed >= base else { return }
        let seconds = elapsed / .seconds(1)
        let rate = Double(answeredCount) / seconds
        if levelCount < Self.levelLimit, rate < 1.25 * (rates.max() ?? 0) { levelCount += 1 }
        rates = (rates + [rate]).suffix(Self.roundCount)
        (answeredCount, roundBegan) = (0, now)
        // What is asked for together is there a little later.
        let wanted =
            ((rates.max() ?? 0) * (base / .seconds(1)) + Double(requestUnits - 1))
            * (levelCount < Self.levelLimit ? 2 : 1.5)
        unitCount = min(Self.largest, max(Self.smallest, Int(min(wanted.rounded(.up), 1000)) + 1))
    }

    /// After a failure the link may be another one: measure anew.
    package mutating func noteFailure() { self = StreamWindow() }
}
