internal import TestBed

/// What happened when, counted from the moment the move was asked for.
struct Timeline {
    private let start: ContinuousClock.Instant
    private var table = TextTable(
        [("since the command", .right), ("", .left), ("bytes arrived at sydney", .right)])

    init(start: ContinuousClock.Instant) { self.start = start }

    /// - Returns: seconds since the start.
    @discardableResult
    mutating func note(_ what: String, arrived: UInt64?, of total: UInt64?) -> Double {
        let seconds = Self.seconds(ContinuousClock.now - start)
        var share = ""
        if let arrived, let total, total > 0 {
            share =
                "\(bytesText(arrived)) of \(bytesText(total)) (\(fixed(Double(arrived) * 100 / Double(total), 1)) %)"
        }
        table.add(timeText(seconds), what, share)
        return seconds
    }

    var text: String { table.text }

    static func seconds(_ duration: Duration) -> Double {
        Double(duration.components.seconds) + Double(duration.components.attoseconds) / 1e18
    }
}
