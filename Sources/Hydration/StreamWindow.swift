/// How many background requests may be under way: enough to fill the link, no more than needed, so that a
/// fault never waits behind a long queue.
///
/// After TCP Vegas (Brakmo and Peterson, 1995), with the start of HyStart (Ha and Rhee, 2011): while answers take
/// hardly longer than the quickest ever seen, ask for more at a time; when they take much longer, a queue has built up:
/// ask for less. Each round of answers counts by its quickest: a queue delays all of them, a busy processor some.
package struct StreamWindow: Hashable, Sendable {
    package static let smallest = 4
    /// 16 MiB in requests of 128 KiB: 130 ms of 1 Gbit/s.
    package static let largest = 128

    package private(set) var requestCount = smallest
    private var quickest: Duration?
    /// Of this round, which ends after as many answers as are asked for at a time.
    private var quickestInRound: Duration?
    private var answerCount = 0
    /// Until a queue first builds up.
    private var isStarting = true

    package init() {}

    package mutating func noteAnswer(after latency: Duration) {
        let base = min(quickest ?? latency, latency)
        quickest = base
        let latest = min(quickestInRound ?? latency, latency)
        quickestInRound = latest
        answerCount += 1
        guard answerCount >= requestCount else { return }
        (quickestInRound, answerCount) = (nil, 0)
        if latest < base * 5 / 4 + .milliseconds(2) {
            requestCount = min(Self.largest, isStarting ? requestCount * 3 / 2 : requestCount + 1)
            return
        }
        isStarting = false
        if latest > base * 2 + .milliseconds(5) {
            requestCount = max(Self.smallest, requestCount - max(1, requestCount / 8))
        }
    }

    /// After a failure the link may be another one: measure anew.
    package mutating func noteFailure() { self = StreamWindow() }
}
