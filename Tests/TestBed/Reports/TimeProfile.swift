/// Where the time of some work goes that is slower through a volume than on ext4, and how quick it could be.
package struct TimeProfile: Hashable, Sendable, Codable {
    /// What is counted: "file", "MiB", "transaction".
    package let unit: String
    /// How many of them the work has.
    package let count: Double
    /// How many are done at a time.
    package let width: Double
    /// The work's time through the volume, and on ext4.
    package let seconds: Double
    package let nativeSeconds: Double
    /// Of all the work.
    package let cost: WorkCost
    /// A bare trip to a FUSE server and back, measured in the same run, without the server's own time.
    package let tripSeconds: Double
    /// The figure that is reported, of other file systems that only hand on, measured in the same run.
    package let peers: [Peer]
    /// Whether that figure is our time over ext4's, and not ext4's over ours.
    package let isTimeOverNative: Bool

    package struct Peer: Hashable, Sendable, Codable {
        package let name: String
        package let ratio: Double

        package init(name: String, ratio: Double) {
            self.name = name
            self.ratio = ratio
        }
    }

    package init(
        unit: String, count: Double, width: Double = 1, seconds: Double, nativeSeconds: Double,
        cost: WorkCost,
        tripSeconds: Double, peers: [Peer], isTimeOverNative: Bool
    ) {
        self.unit = unit
        self.count = max(1, count)
        self.width = max(1, width)
        self.seconds = seconds
        self.nativeSeconds = nativeSeconds
        self.cost = cost
        self.tripSeconds = tripSeconds
        self.peers = peers
        self.isTimeOverNative = isTimeOverNative
    }

    /// What one takes, from its beginning to its end.
    private var each: Double { seconds * width / count }
    private var nativeEach: Double { nativeSeconds * width / count }
    private var eachCost: WorkCost { cost / count }

    /// The figure with as many trips for each as given, if the server needed no time at all and ext4's own work were done
    /// besides.
    package func limit(trips: Double) -> Double {
        let best = nativeEach + trips * tripSeconds
        return isTimeOverNative ? best / nativeEach : nativeEach / best
    }

    /// For people, three lines.
    package var lines: [String] {
        [
            "one \(unit): \(timeText(each)) here, \(timeText(nativeEach)) on ext4"
                + (width > 1 ? " (\(fixed(width, 0)) at a time)" : ""),
            requestsText,
            processorText + "; " + limitText,
        ]
    }

    private var requestsText: String {
        let (request, syncs) = (eachCost.request, eachCost.syncs)
        // Some of the kernel's own, for example when it forgets what it knew.
        guard request.count >= 0.01 else {
            return "no request reaches the site: all of it is the kernel's and the program's"
        }
        var text = "\(countText(request.count)) \(request.count >= 1.95 ? "requests" : "request") ("
        // What hardly ever comes says nothing.
        let told = eachCost.requests.filter { $0.value.count >= max(0.05, request.count / 50) }
            .sorted { ($1.value.count, $0.key) < ($0.value.count, $1.key) }.prefix(8)
        text += told.map { "\(countText($0.value.count)) \($0.key)" }.joined(separator: ", ")
        text += "): \(timeText(request.seconds)) in the site"
        if syncs.count >= 0.02 {
            let word = syncs.count >= 1.95 ? "syncs" : "sync"
            text += " (\(countText(syncs.count)) \(word) of the disk: \(timeText(syncs.seconds)))"
        }
        let rest = each - request.seconds
        // Read ahead or written behind: more is under way than is waited for.
        guard rest > 0 else { return text + ", much of it while nobody waited" }
        return text + ", \(timeText(rest)) in the kernel, its switches and the program"
    }

    private var processorText: String {
        let cost = eachCost
        var text = "processor: site \(timeText(cost.siteSeconds))"
        if cost.siteSeconds > 0 {
            text += " (\(fixed(cost.siteSystemSeconds / cost.siteSeconds * 100, 0)) % system)"
        }
        if let program = cost.programSeconds { text += ", program \(timeText(program))" }
        if cost.writtenByteCount >= 1 {
            text += "; written \(bytesText(UInt64(max(0, cost.writtenByteCount.rounded()))))"
        }
        return text
    }

    private var limitText: String {
        var parts: [String] = []
        let trips = eachCost.request.count
        let least = max(1, trips)
        if trips >= 0.5, nativeEach > 0, abs(1 - limit(trips: least)) < 0.05 {
            // Of large requests the bytes' way counts, which other file systems have as well.
            let trips = "\(countText(least)) of \(timeText(tripSeconds))"
            parts.append("not the round trips (\(fixed(limit(trips: least), 2)) with \(trips))")
        } else if trips >= 0.5, nativeEach > 0 {
            parts.append("\(fixed(limit(trips: 1), 2)) with one bare round trip of \(timeText(tripSeconds))")
            // Not where they are under way side by side.
            if trips >= 1.5, eachCost.request.seconds < each {
                parts.append("\(fixed(limit(trips: trips), 2)) with \(countText(trips))")
            }
        }
        parts += peers.map { "\($0.name) \(fixed($0.ratio, 2))" }
        return parts.isEmpty ? "limit: not known" : "limit: " + parts.joined(separator: ", ")
    }

    private func countText(_ count: Double) -> String {
        fixed(count, count < 0.095 ? 2 : count < 9.95 ? 1 : 0)
    }
}
