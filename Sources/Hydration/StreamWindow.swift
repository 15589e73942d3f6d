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
package struct StreamWindow: Hashable, Sendable {
    package static let smallest = 3
    /// 16 MiB in requests of 128 KiB: 130 ms of 1 Gbit/s.
    package static let largest = 128
    /// How many are made alone; the first may have to wait for its connection.
    private static let aloneCount = 2
    /// Of so many rounds the best rate counts: a busy processor spoils some.
    private static let roundCount = 10
    /// So many rounds of the same rate end the beginning.
    private static let levelLimit = 2

    package private(set) var requestCount = 1
    private var quickest: Duration?
    /// Answers a second, of the last rounds. A round ends after as many answers as are asked for at a time.
    private var rates: [Double] = []
    private var roundBegan: ContinuousClock.Instant?
    private var answerCount = 0
    private var aloneLeft = aloneCount
    /// Rounds of the beginning that were not quicker than the best before by a quarter.
    private var levelCount = 0

    package init() {}

    /// Whether only answers to requests that were made alone say something.
    package var isAlone: Bool { aloneLeft > 0 }

    /// - Parameters:
    ///   - latency: from the request until what it brought was stored.
    ///   - now: when that was.
    package mutating func noteAnswer(after latency: Duration, at now: ContinuousClock.Instant) {
        let base = max(.microseconds(1), min(quickest ?? latency, latency))
        quickest = base
        if isAlone {
            aloneLeft -= 1
            if !isAlone { (requestCount, roundBegan) = (Self.smallest, now) }
            return
        }
        answerCount += 1
        guard answerCount >= requestCount else { return }
        let seconds = max(.microseconds(1), now - (roundBegan ?? now)) / .seconds(1)
        let rate = Double(answerCount) / seconds
        if levelCount < Self.levelLimit, rate < 1.25 * (rates.max() ?? 0) { levelCount += 1 }
        rates = (rates + [rate]).suffix(Self.roundCount)
        (answerCount, roundBegan) = (0, now)
        let wanted = (rates.max() ?? 0) * (base / .seconds(1)) * (levelCount < Self.levelLimit ? 2 : 1.5)
        requestCount = min(Self.largest, max(Self.smallest, Int(min(wanted.rounded(.up), 1000)) + 1))
    }

    /// After a failure the link may be another one: measure anew.
    package mutating func noteFailure() { self = StreamWindow() }
}
