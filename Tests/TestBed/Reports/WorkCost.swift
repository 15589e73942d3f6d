/// What some work took beside time, of the site that served it and of the programs that did it.
package struct WorkCost: Hashable, Sendable, Codable {
    /// A count and the seconds that these took together.
    package struct Tally: Hashable, Sendable, Codable {
        package var count = 0.0
        package var seconds = 0.0

        package init(count: Double = 0, seconds: Double = 0) {
            self.count = count
            self.seconds = seconds
        }
    }

    /// Requests of the kernel's that the site answered, by operation; how long they were in its hands.
    package var requests: [String: Tally] = [:]
    /// The site's waits for its disk.
    package var syncs = Tally()
    /// Processor time.
    package var siteUserSeconds = 0.0
    package var siteSystemSeconds = 0.0
    /// The same of the programs; nil where they go on running, and cannot be told from what else they do.
    package var programSeconds: Double?
    /// What the site gave the disk to write.
    package var writtenByteCount = 0.0

    package init() {}

    package var request: Tally {
        requests.values.reduce(into: Tally()) {
            $0.count += $1.count
            $0.seconds += $1.seconds
        }
    }
    package var siteSeconds: Double { siteUserSeconds + siteSystemSeconds }

    /// What has come since an earlier look at the same counters.
    package static func - (later: WorkCost, earlier: WorkCost) -> WorkCost { later.combined(earlier, -) }

    package static func + (first: WorkCost, second: WorkCost) -> WorkCost { first.combined(second, +) }

    /// The share of one of so many.
    package static func / (cost: WorkCost, count: Double) -> WorkCost {
        cost.combined(WorkCost()) { own, _ in count > 0 ? own / count : 0 }
    }

    private func combined(_ other: WorkCost, _ operation: (Double, Double) -> Double) -> WorkCost {
        func combine(_ first: Tally, _ second: Tally) -> Tally {
            Tally(
                count: operation(first.count, second.count), seconds: operation(first.seconds, second.seconds)
            )
        }
        var result = WorkCost()
        for name in Set(requests.keys).union(other.requests.keys) {
            result.requests[name] = combine(requests[name] ?? Tally(), other.requests[name] ?? Tally())
        }
        result.syncs = combine(syncs, other.syncs)
        result.siteUserSeconds = operation(siteUserSeconds, other.siteUserSeconds)
        result.siteSystemSeconds = operation(siteSystemSeconds, other.siteSystemSeconds)
        if programSeconds != nil || other.programSeconds != nil {
            result.programSeconds = operation(programSeconds ?? 0, other.programSeconds ?? 0)
        }
        result.writtenByteCount = operation(writtenByteCount, other.writtenByteCount)
        return result
    }
}
