/// How many background requests may be under way: enough to fill the link, no more than needed, so that a
/// fault never waits behind a long queue.
///
/// After TCP Vegas (Brakmo and Peterson, 1995): while answers take hardly longer than the quickest ever
/// seen, ask for more at a time; when they take much longer, a queue has built up: ask for less.
package struct StreamWindow: Hashable, Sendable {
    package static let smallest = 4
    package static let largest = 64

    package private(set) var requestCount = smallest
    private var quickest: Duration?
    private var answersSinceChange = 0

    package init() {}

    package mutating func noteAnswer(after latency: Duration) {
        let base = min(quickest ?? latency, latency)
        quickest = base
        answersSinceChange += 1
        guard answersSinceChange >= requestCount else { return }
        if latency < base * 5 / 4 + .milliseconds(2), requestCount < Self.largest {
            requestCount += 1
            answersSinceChange = 0
        } else if latency > base * 2 + .milliseconds(5), requestCount > Self.smallest {
            requestCount -= 1
            answersSinceChange = 0
        }
    }

    /// After a failure the link may be another one: measure anew.
    package mutating func noteFailure() { self = StreamWindow() }
}
